"""Sequence signal of demand: how many of an item's buyers are due to come back for it.

Somebody who bought an item on several days has an interval; the days since the last one say how
much of it has passed. Added up over the buyers this is what their histories expect of the next
weeks, before it shows in the item's own sales.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from seq_ml.tasks.behaviour.visits import with_orders

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from seq_ml.tasks.data import TaskData

DUE_FEATURES = ("due_units", "due_buyers", "lapsed_share")
ACTIVE_INTERVALS = 2.0
"""A buyer is active until so many of the own intervals have passed without a purchase."""


def due_buyers(
    data: TaskData, as_of: datetime, origins: Sequence[datetime], days: int, items: pl.Series
) -> pl.DataFrame:
    """Expect the purchases of `days` days after each origin, from purchases strictly before it.

    items: ids of the wanted items.

    Returns origin, item_id, due_units (Σ over active buyers of days / interval × units a purchase),
    due_buyers (active buyers whose last purchase + interval falls into the window or before it),
    lapsed_share (of the repeated buyers, those no longer active); f32, one row per item with a
    repeated buyer. No rows without origins.
    """
    visits = _repeated_visits(data, as_of, items)
    schema = {"item_id": pl.String, **dict.fromkeys(DUE_FEATURES, pl.Float32)}
    parts = [pl.DataFrame(schema={**schema, "origin": pl.Datetime("us", "UTC")})]
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
    return pl.concat(parts)


def _repeated_visits(data: TaskData, as_of: datetime, items: pl.Series) -> pl.DataFrame:
    """Every day but the first on which somebody bought an item again, in order of user, item, day.

    Columns: item_id, day, following (the next such day), interval (mean days between the days so
    far), rate (mean units a day so far).
    """
    pair = ["user_id", "item_id"]
    bought = (
        with_orders(data.events_before(as_of), data.business)
        .filter(data.business.of_role("conversion"))
        .join(items.unique().to_frame("item_id").lazy(), on="item_id", how="semi")
        .select(*pair, "day", units=pl.col("quantity").fill_null(1.0))
        .collect()
    )
    # Numbers in the order of the names are grouped and sorted several times as fast as the names.
    codes = [pl.col(name).cast(pl.Enum(bought[name].unique().sort())) for name in pair]
    days = (
        bought.lazy()
        .with_columns(codes)
        .group_by(*pair, "day")
        .agg(pl.col("units").sum())
        .sort(*pair, "day")
    )

    def same(rows: int) -> pl.Expr:
        of = [pl.col(name) == pl.col(name).shift(rows) for name in pair]
        return pl.all_horizontal(of).fill_null(value=False)

    def at_first(value: pl.Expr) -> pl.Expr:
        return pl.when(~same(1)).then(value).forward_fill()

    row, total = pl.int_range(pl.len()), pl.col("units").cum_sum()
    number = row - at_first(row) + 1
    return (
        days.select(
            pl.col("item_id").cast(pl.String),
            "day",
            number=number,
            following=pl.when(same(-1)).then(pl.col("day").shift(-1)),
            interval=(pl.col("day") - at_first(pl.col("day"))).dt.total_days() / (number - 1),
            rate=(total - at_first(total - pl.col("units"))) / number,
        )
        .filter(pl.col("number") > 1)
        .drop("number")
        .collect()
    )


def with_due_buyers(
    examples: pl.DataFrame, data: TaskData, as_of: datetime, days: int
) -> pl.DataFrame:
    """Add `DUE_FEATURES` to the rows of level "item" (0 without a repeated buyer), null to others.

    examples: item_id, origin, level, scale. due_units and due_buyers are divided by scale.
    """
    origins = examples["origin"].unique().sort().to_list()
    items = examples.filter(pl.col("level") == "item")["item_id"]
    due = due_buyers(data, as_of, origins, days, items).with_columns(level=pl.lit("item"))
    joined = examples.join(
        due, on=["item_id", "origin", "level"], how="left", maintain_order="left"
    )
    filled = pl.col(DUE_FEATURES).fill_null(0.0)
    return joined.with_columns(pl.when(pl.col("level") == "item").then(filled)).with_columns(
        pl.col("due_units", "due_buyers") / pl.col("scale")
    )
