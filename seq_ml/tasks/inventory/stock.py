"""What counts of stock say of a series: what lies there, and the terms that it is ordered on."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import polars as pl

from seq_ml.periods import MEMORY_WEEKS

if TYPE_CHECKING:
    from datetime import datetime

    from seq_ml.tasks.data import TaskData

ALL_STORES = "ALL"
OF_STORES = {
    "on_hand": pl.col("on_hand").sum(),
    "on_order": pl.col("on_order").sum(),
    "lead_time_days": pl.col("lead_time_days").max(),
    "lead_time_sd_days": pl.col("lead_time_sd_days").max(),
    "pack_size": pl.col("pack_size").max(),
    "min_order_qty": pl.col("min_order_qty").max(),
    "shelf_life_days": pl.col("shelf_life_days").min(),
    "shortage_cost_ratio": pl.col("shortage_cost_ratio").max(),
    "is_censored": pl.col("is_censored").any(),
}
"""What an item is ordered on of which only stores were counted: units add up, and of terms the one
that asks for most caution counts."""


def stock_terms(data: TaskData, as_of: datetime) -> pl.DataFrame:
    """Return item_id, store_id and the columns of `OF_STORES` as known before `as_of`.

    Store "ALL": the count of the whole business; of an item without one, that of its counted stores
    together. is_censored: a count of the memory found nothing on hand.
    """
    since = as_of - timedelta(weeks=MEMORY_WEEKS)
    counts = data.stock.filter(pl.col("counted_at") < as_of, pl.col("counted_at") >= since)
    empty = counts.group_by("item_id", "store_id").agg(is_censored=(pl.col("on_hand") <= 0).any())
    newest = (
        data.stock_known(as_of)
        .join(empty, on=["item_id", "store_id"], how="left")
        .select("item_id", "store_id", *OF_STORES)
    )
    whole = newest.filter(pl.col("store_id") == ALL_STORES)
    summed = (
        newest.filter(pl.col("store_id") != ALL_STORES)
        .join(whole, on="item_id", how="anti")
        .group_by("item_id")
        .agg(**OF_STORES)
        .with_columns(store_id=pl.lit(ALL_STORES))
    )
    return pl.concat([newest, summed], how="diagonal")


def days_covered(data: TaskData, as_of: datetime) -> pl.DataFrame:
    """Return item_id, store_id, lead, days: whole days, where a count names a lead time.

    lead: until what is ordered arrives; days: that and the review period, what an order must last.
    """
    lead = pl.col("lead_time_days").ceil()
    return (
        stock_terms(data, as_of)
        .drop_nulls("lead_time_days")
        .select(
            "item_id",
            "store_id",
            lead=lead,
            days=lead + data.business.inventory.review_period_days,
        )
    )
