"""Whom and what a published table must speak of: counted again, apart from the tasks' own code."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import polars as pl

if TYPE_CHECKING:
    from datetime import datetime

    from seq_ml.tasks.task import TaskData

ITEM_WEEKS = 26
"""An item that sold within so many weeks is still in the range."""


def missing_from(rows: pl.DataFrame, table: str, data: TaskData, as_of: datetime) -> dict[str, int]:
    """Return how many users, items or campaigns the table lacks, by name of what is lacking."""
    events = data.events.filter(pl.col("event_time") < as_of)
    users = events.select("user_id").unique()
    if table == "inventory_predictions":
        goods = data.items.lazy().filter("is_merchandise").select("item_id").unique()
        since = as_of - timedelta(weeks=ITEM_WEEKS - 1)
        sold = events.filter(
            (pl.col("event_type") == "purchase")
            & (pl.col("event_time") >= since)
            & (pl.col("quantity") > 0)
        )
        wanted = sold.select("item_id").unique().join(goods, on="item_id", how="semi")
        return {"items": _lacking(wanted, rows, "item_id")}
    if table == "ad_predictions":
        open_campaigns = data.campaigns.lazy().filter(pl.col("end_at") > as_of)
        return {"campaigns": _lacking(open_campaigns.select("campaign_id"), rows, "campaign_id")}
    if table == "churn_predictions":
        buyers = events.filter(pl.col("event_type") == "purchase").select("user_id").unique()
        return {
            f"users_{kind}": _lacking(buyers, rows.filter(pl.col("label_def") == kind), "user_id")
            for kind in ("silence", "decline")
        }
    return {"users": _lacking(users, rows, "user_id")}


def _lacking(wanted: pl.LazyFrame, rows: pl.DataFrame, column: str) -> int:
    lacking = wanted.join(rows.lazy().select(column), on=column, how="anti")
    return int(lacking.select(pl.len()).collect().item())
