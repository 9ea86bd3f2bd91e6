"""Judge what rules say in the user profiles: what segments and anomaly score are worth.

They have no label, so each is judged by what it promises: segments by whether they stay and by what
their users spent afterwards, the anomaly score by fraud that was planted. `page` makes a report of
it; the expected spend, which has a label, is judged as the task `spend`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

import polars as pl

from seq_ml.metrics.bootstrap import mean_estimate
from seq_ml.periods import RECENT_DAYS, Periods
from seq_ml.tasks.behaviour.spend import spent_between
from seq_ml.tasks.behaviour.visits import has_prices, read_behaviour
from seq_ml.tasks.profiles.features import sample
from seq_ml.tasks.profiles.fraud_kinds import Caught, find_invented
from seq_ml.tasks.profiles.planted_fraud import Found, find_planted
from seq_ml.tasks.profiles.rows import user_profiles
from seq_ml.tasks.profiles.segments import SEGMENTS, Step, segments_at, stability

if TYPE_CHECKING:
    from datetime import datetime

    from seq_ml.tasks.behaviour.visits import Behaviour
    from seq_ml.tasks.data import TaskData

WEEKS = ((7, 6), (RECENT_DAYS, 6))
"""Days between two snapshots, and how many steps are compared."""
SHOWN = 3
"""So many of the most unusual users are examples."""


@dataclass(frozen=True)
class ProfilesJudged:
    """What was measured.

    segments: one row each, of `_segments`. steps: by days between snapshots. planted: what was
    found of each pattern; invented: what was caught of kinds that no feature was made for. tags:
    users by tag. examples: (what, segment, evidence in words) of real profiles, without their
    users.
    """

    as_of: datetime
    users: int
    sampled: int
    segments: pl.DataFrame
    steps: dict[int, list[Step]]
    planted: list[Found]
    invented: list[Caught]
    tags: dict[str, int]
    examples: list[tuple[str, str, str]]
    currency: str
    periods: Periods


def judge_profiles(data: TaskData, as_of: datetime) -> ProfilesJudged:
    """Measure all parts of the profiles at `as_of`; nothing at or after it is read.

    Of more than some 20,000 users a sample is looked at.
    """
    everybody = data.events_before(as_of).select(pl.col("user_id").n_unique())
    users = everybody.collect(engine="streaming").item()
    data = sample(data)
    behaviour = read_behaviour(data, as_of)
    profiles = user_profiles(data, as_of)
    return ProfilesJudged(
        as_of,
        users,
        profiles.height,
        _segments(profiles, behaviour, data, as_of),
        {days: stability(behaviour, as_of, days=days, steps=steps) for days, steps in WEEKS},
        find_planted(data, as_of, seed=data.seed),
        find_invented(data, as_of, seed=data.seed),
        dict(profiles["tags"].explode().struct.field("tag").value_counts().rows()),
        _examples(profiles),
        data.business.currency,
        data.periods,
    )


def _segments(
    profiles: pl.DataFrame, behaviour: Behaviour, data: TaskData, as_of: datetime
) -> pl.DataFrame:
    """Size and money of each segment now, and what its users of value_days ago spent since.

    segment, users and their mean spend_91d now; then, after, low, high: users at the earlier
    instant and their mean spend in the days that followed, with its 95 % interval (NaN without
    prices).
    """
    now = profiles.group_by("segment").agg(users=pl.len(), spend_91d=pl.col("spend_91d").mean())
    before = as_of - timedelta(days=data.periods.value_days)
    spent = spent_between(behaviour.money, before, as_of)
    after = (
        segments_at(behaviour, before)
        .join(spent, on="user_id", how="left")
        .with_columns(pl.col("spent").fill_null(0.0))
        .sort("user_id")
    )
    priced = has_prices(data, as_of)
    rows = []
    for name in SEGMENTS:
        values = after.filter(segment=name)["spent"].to_numpy()
        estimate = mean_estimate(values if priced else values[:0], seed=data.seed)
        rows.append((name, len(values), estimate.value, estimate.low, estimate.high))
    realised = pl.DataFrame(rows, schema=["segment", "then", "after", "low", "high"], orient="row")
    return realised.join(now, on="segment", how="left", maintain_order="left").with_columns(
        pl.col("users").fill_null(0)
    )


def _examples(profiles: pl.DataFrame) -> list[tuple[str, str, str]]:
    """Return the reasons of the most unusual users, then one holder of each tag, as (what, …)."""
    unusual = (
        profiles.drop_nulls("anomaly_reason")
        .sort("anomaly_score", "user_id", descending=[True, False])
        .head(SHOWN)
        .with_columns(what=pl.format("anomaly_score {}", pl.col("anomaly_score").round(1)))
        .select("what", "segment", "anomaly_reason")
    )
    tags = (
        profiles.sort("user_id")
        .select("segment", "tags")
        .explode("tags")
        .unnest("tags")
        .drop_nulls("tag")
        .unique("tag", keep="first", maintain_order=True)
        .sort("tag")
        .select("tag", "segment", "evidence")
    )
    return [*unusual.rows(), *tags.rows()]
