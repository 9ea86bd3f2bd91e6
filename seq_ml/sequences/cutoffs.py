"""The two instants of a pipeline run: `as_of`, and the training cut-off before it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING

import polars as pl

from seq_ml.clean.days import clean_days
from seq_ml.clean.losses import why_nothing_is_clean
from seq_ml.periods import TEST_DAYS
from seq_ml.schema import EVENTS
from seq_ml.storage.layout import CUTOFFS_KEY

if TYPE_CHECKING:
    from seq_ml.business import Business
    from seq_ml.storage.tables import TableStore


@dataclass(frozen=True)
class CutOffs:
    """Features of published tables end before `as_of`, training of the encoder before `cutoff`."""

    as_of: datetime
    cutoff: datetime


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
    return CutOffs(instant, business.midnight(day - timedelta(days=TEST_DAYS)))


def record(tables: TableStore, chosen: CutOffs) -> None:
    """Keep the cut-offs: all later stages go by them. One write, so they never disagree."""
    content = {"as_of": chosen.as_of.isoformat(), "cutoff": chosen.cutoff.isoformat()}
    tables.objects.put(CUTOFFS_KEY, (json.dumps(content, indent=1) + "\n").encode())


def recorded(tables: TableStore) -> CutOffs:
    """Return the cut-offs that were recorded last; KeyError when there are none."""
    content = json.loads(tables.objects.get(CUTOFFS_KEY))
    return CutOffs(
        datetime.fromisoformat(content["as_of"]).astimezone(UTC),
        datetime.fromisoformat(content["cutoff"]).astimezone(UTC),
    )
