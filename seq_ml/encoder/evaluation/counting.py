"""Simple counts of what users did: what user vectors have to beat."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from seq_ml.encoder.evaluation.labels import MOST_LABELS, WINDOW, known_items
from seq_ml.periods import RECENT_DAYS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from seq_ml.encoder.evaluation.labels import Moment

RECENT = timedelta(days=RECENT_DAYS)


def counts(
    events: pl.DataFrame, items: pl.DataFrame, fit: Moment, judge: Moment
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return log counts f32 [users, features] of the users of both moments.

    Of each behaviour: events in the `RECENT` days and in the `WINDOW` before the origin, and days
    since the last one.  Of the most common categories: events in the window.  events: schema
    EVENTS.  items: schema ITEMS.
    """
    time, begin = pl.col("event_time"), fit.origin - WINDOW
    lately = events.filter(time.is_between(begin, judge.origin, closed="left"))
    known = lately.join(known_items(items, fit.origin), on="item_id", how="left")
    earlier = known.filter(time < fit.origin)
    behaviours = earlier["event_type"].unique().sort().to_list()
    ranked = earlier.drop_nulls("category").group_by("category").len()
    categories = ranked.sort("len", "category", descending=[True, False])["category"]
    kinds = {"event_type": behaviours, "category": categories.head(MOST_LABELS).to_list()}
    of_fit, of_judge = (_of(known, moment, kinds) for moment in (fit, judge))
    return of_fit, of_judge


def _of(known: pl.DataFrame, moment: Moment, kinds: dict[str, list[str]]) -> NDArray[np.float32]:
    time, origin, longest = pl.col("event_time"), moment.origin, float(WINDOW.days)
    past = known.filter(time.is_between(origin - WINDOW, origin, closed="left"))
    age = (origin - time).dt.total_seconds() / 86_400
    told = []
    for name in kinds["event_type"]:
        is_it = pl.col("event_type") == name
        told += [
            is_it.sum().alias(f"{name} window"),
            (is_it & (time >= origin - RECENT)).sum().alias(f"{name} recent"),
            age.filter(is_it).min().fill_null(longest).alias(f"{name} age"),
        ]
    told += [(pl.col("category") == name).sum().alias(f"of {name}") for name in kinds["category"]]
    users = pl.DataFrame({"user_id": moment.users}, schema={"user_id": pl.String})
    rows = users.join(past.group_by("user_id").agg(told), on="user_id", how="left").sort("user_id")
    ages = pl.col("^.* age$").fill_null(longest)
    values = rows.drop("user_id").with_columns(ages).fill_null(0)
    return np.log1p(values.to_numpy().astype(np.float32))
