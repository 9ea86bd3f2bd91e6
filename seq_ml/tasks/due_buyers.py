"""Sequence signal of demand: how many of an item's buyers are due to come back for it.

Somebody who bought an item on several days has an interval; the days since the last one say how
much of it has passed. Added up over the buyers this is what their histories expect of the next
weeks, before it shows in the item's own sales.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from seq_ml.tasks.task import TaskData

DUE_FEATURES = ("due_units", "due_buyers", "lapsed_share")
ACTIVE_INTERVALS = 2.0
"""A buyer is active until so many of the own intervals have passed without a purchase."""


def due_buyers(
    data: TaskData, as_of: datetime, origins: Sequence[datetime], days: int
) -> pl.DataFrame:
    """Expect the purchases of `days` days after each origin, from purchases strictly before it.

    Returns origin, item_id, due_units (Σ over active buyers of days / interval × units a purchase),
    due_buyers (active buyers whose last purchase + interval falls into the window or before it),
    lapsed_share (of the repeated buyers, those no longer active); f32, one row per item with a
    repeated buyer. No rows without origins.
    """
    day = pl.col("event_time").dt.convert_time_zone(data.business.timezone).dt.date()
    pair = ["user_id", "item_id"]
    visits = (
        data.events_before(as_of)
        .filter(pl.col("event_type") == "purchase", pl.col("item_id").is_not_null())
        .group_by(*pair, day=day)
        .agg(units=pl.col("quantity").fill_null(1.0).sum())
        .sort(*pair, "day")
        .with_columns(
            number=pl.int_range(1, pl.len() + 1).over(pair),
            first=pl.col("day").first().over(pair),
            following=pl.col("day").shift(-1).over(pair),
            bought=pl.col("units").cum_sum().over(pair),
        )
        .filter(pl.col("number") > 1)
        .select(
            "item_id",
            "day",
            "following",
            interval=(pl.col("day") - pl.col("first")).dt.total_days() / (pl.col("number") - 1),
            rate=pl.col("bought") / pl.col("number"),
        )
        .collect()
    )
    parts = []
    for origin in origins:
        now = pl.lit(data.business.day_of(origin))
        since = (now - pl.col("day")).dt.total_days()
        active = since <= ACTIVE_INTERVALS * pl.col("interval")
        expected = days / pl.col("interval") * pl.col("rate")
        parts.append(
            visits.filter(pl.col("day") < now, pl.col("following").fill_null(now) >= now)
            .group_by("item_id")
            .agg(
                due_units=expected.filter(active).sum().cast(pl.Float32),
                due_buyers=(active & (pl.col("interval") - since <= days)).sum().cast(pl.Float32),
                lapsed_share=(~active).mean().cast(pl.Float32),
            )
            .sort("item_id")
            .with_columns(origin=pl.lit(origin))
        )
    if not parts:
        names = dict.fromkeys(DUE_FEATURES, pl.Float32)
        time = pl.Datetime("us", "UTC")
        return pl.DataFrame(schema={"item_id": pl.String, **names, "origin": time})
    return pl.concat(parts)


def with_due_buyers(
    examples: pl.DataFrame, data: TaskData, as_of: datetime, days: int
) -> pl.DataFrame:
    """Add `DUE_FEATURES` to the rows of level "item" (0 without a repeated buyer), null to others.

    examples: item_id, origin, level, scale. due_units and due_buyers are divided by scale.
    """
    origins = examples["origin"].unique().sort().to_list()
    due = due_buyers(data, as_of, origins, days).with_columns(level=pl.lit("item"))
    joined = examples.join(
        due, on=["item_id", "origin", "level"], how="left", maintain_order="left"
    )
    known = pl.col(DUE_FEATURES).fill_null(0.0)
    return joined.with_columns(pl.when(pl.col("level") == "item").then(known)).with_columns(
        pl.col("due_units", "due_buyers") / pl.col("scale")
    )
