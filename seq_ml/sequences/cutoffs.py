"""What a pipeline run goes by: `as_of`, the training cut-off before it, the business's rhythm."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING

import polars as pl

from seq_ml.clean.days import clean_days
from seq_ml.clean.losses import why_nothing_is_clean
from seq_ml.periods import choose_periods
from seq_ml.schema import EVENTS
from seq_ml.storage.layout import CUTOFFS_KEY
from seq_ml.storage.portions import shard_of

if TYPE_CHECKING:
    from seq_ml.business import Business
    from seq_ml.periods import Periods
    from seq_ml.storage.tables import TableStore


FEWEST_RETURNING = 10
"""Users who came back from which a rhythm is taken: the median of fewer is chance."""
MOST_ROWS = 20_000_000
"""Of more events every n-th user is measured: bounds memory, and a median needs no more."""
CLEARLY = 0.2
"""Share by which a rhythm has to change until the windows follow: the median of 40 users whose gaps
differ by a factor of e has a standard error of a fifth."""


@dataclass(frozen=True)
class CutOffs:
    """Features of published tables end before `as_of`, training of the encoder before `cutoff`.

    rhythm_days: usual days between two conversions of a user, None where few came back.
    history_days: from the first conversion to `as_of`. Both None where an older release chose.
    """

    as_of: datetime
    cutoff: datetime
    rhythm_days: float | None = None
    history_days: int | None = None

    def periods(self, business: Business) -> Periods:
        """Return the windows that follow: the same for every stage of the run."""
        return choose_periods(business, self.rhythm_days, self.history_days)


def choose(tables: TableStore, business: Business, as_of: date | None = None) -> CutOffs:
    """Return the cut-offs: the business day `as_of` begins, or the newest day that is complete.

    Without `as_of` it is the midnight after the last day with an event, but never later than the
    midnight that began today. Raises ValueError when there is no event before it.
    """
    days = [day for day in clean_days(tables)[1].values() if day.rows]
    if not days:
        raise ValueError(why_nothing_is_clean(tables))
    first, last = (
        tables.scan(EVENTS.name)
        .filter(pl.col("event_date").is_in([days[0].day, days[-1].day]))
        .select(first=pl.col("event_time").min(), last=pl.col("event_time").max())
        .collect()
        .row(0)
    )
    today = business.day_of(datetime.now(UTC))
    day = as_of or min(business.day_of(last) + timedelta(days=1), today)
    instant = business.midnight(day)
    if first >= instant:
        raise ValueError(
            f"There is no event before {day}: the first one is of {business.day_of(first)}."
        )
    rows = sum(state.rows for state in days)
    rhythm, history = measure(tables.scan(EVENTS.name), business, instant, rows=rows)
    rhythm = steady(tables, rhythm, instant)
    periods = choose_periods(business, rhythm, history)
    cutoff = business.midnight(day - timedelta(days=periods.test_days))
    return CutOffs(instant, cutoff, rhythm, history)


def steady(tables: TableStore, rhythm: float | None, as_of: datetime) -> float | None:
    """Return the rhythm of the run before, where that measured now is not clearly another one.

    It moves a little each night, of a young shop's few users more than a little; with each step of
    a window all models would have to be learnt anew.
    """
    try:
        before = recorded(tables)
    except KeyError:
        return rhythm
    if rhythm is None or before.rhythm_days is None or before.as_of > as_of:
        return rhythm
    clearly = abs(rhythm - before.rhythm_days) > CLEARLY * before.rhythm_days
    return rhythm if clearly else before.rhythm_days


def measure(
    events: pl.LazyFrame, business: Business, as_of: datetime, *, rows: int = 0
) -> tuple[float | None, int | None]:
    """Return the rhythm and the history in days before `as_of`; None where unknown.

    The rhythm is the median over the users with two conversion days or more of the mean days
    between them: every user counts once, so that the few who come daily do not speak for all.
    rows: about how many events there are.
    """
    local = pl.col("event_time").dt.convert_time_zone(business.timezone)
    conversions = events.filter(business.of_role("conversion"), pl.col("event_time") < as_of)
    first = conversions.select(pl.col("event_time").min()).collect(engine="streaming").item()
    if first is None:
        return None, None
    history = (business.day_of(as_of) - business.day_of(first)).days
    step = -(-rows // MOST_ROWS)
    if step > 1:
        conversions = conversions.filter(shard_of(step) == 0)
    users = (
        conversions.select("user_id", day=local.dt.date())
        .group_by("user_id")
        .agg(first=pl.col("day").min(), last=pl.col("day").max(), days=pl.col("day").n_unique())
        .collect(engine="streaming")
    )
    gaps = users.filter(pl.col("days") > 1).select(
        (pl.col("last") - pl.col("first")).dt.total_days() / (pl.col("days") - 1)
    )
    rhythm: float | None = None
    if gaps.height >= FEWEST_RETURNING:
        rhythm = round(float(gaps.to_series().median()), 2)  # type: ignore[arg-type]
    return rhythm, history


def record(tables: TableStore, chosen: CutOffs) -> None:
    """Keep the cut-offs: all later stages go by them. One write, so they never disagree."""
    instants = {"as_of": chosen.as_of.isoformat(), "cutoff": chosen.cutoff.isoformat()}
    content = {**asdict(chosen), **instants}
    tables.objects.put(CUTOFFS_KEY, (json.dumps(content, indent=1) + "\n").encode())


def recorded(tables: TableStore) -> CutOffs:
    """Return the cut-offs that were recorded last; KeyError when there are none."""
    content = json.loads(tables.objects.get(CUTOFFS_KEY))
    return CutOffs(
        datetime.fromisoformat(content["as_of"]).astimezone(UTC),
        datetime.fromisoformat(content["cutoff"]).astimezone(UTC),
        content.get("rhythm_days"),
        content.get("history_days"),
    )
