"""Whom and what a published table must speak of: counted again, apart from the tasks' own code.

Each function takes the rows of one task, the data and as_of, and returns how many users, items or
campaigns are lacking, by name of what it is. A task names its function in
`seq_ml.tasks.registered`.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import polars as pl

from seq_ml.periods import MEMORY_WEEKS

if TYPE_CHECKING:
    from datetime import datetime

    from seq_ml.tasks.data import TaskData


def users(rows: pl.LazyFrame, data: TaskData, as_of: datetime) -> dict[str, int]:
    """Everybody with any event."""
    return {"users": _lacking(data.events_before(as_of), rows, "user_id")}


def buyers(rows: pl.LazyFrame, data: TaskData, as_of: datetime) -> dict[str, int]:
    """Everybody who ever converted."""
    bought = data.events_before(as_of).filter(data.business.of_role("conversion"))
    return {"users": _lacking(bought, rows, "user_id")}


def subscribers(rows: pl.LazyFrame, data: TaskData, as_of: datetime) -> dict[str, int]:
    """Everybody who ever had a subscription."""
    return {"users": _lacking(data.terms_known(as_of).lazy(), rows, "user_id")}


def items_sold(rows: pl.LazyFrame, data: TaskData, as_of: datetime) -> dict[str, int]:
    """Every item of merchandise that sold in the last complete weeks, which end with `as_of`."""
    goods = data.items_known(as_of).lazy().filter("is_merchandise").select("item_id")
    end = data.business.day_of(as_of)
    begin = end - timedelta(weeks=MEMORY_WEEKS)
    conversions = data.events_before(as_of).filter(data.business.of_role("conversion"))
    first = conversions.select(pl.col("event_time").min()).collect().item()
    if first is not None:  # what a young shop sold before its first complete week
        begin = max(begin, end - timedelta(weeks=(end - data.business.day_of(first)).days // 7))
    window = data.events_between(data.business.midnight(begin), data.business.midnight(end))
    sold = window.filter(data.business.of_role("conversion"), pl.col("quantity") > 0)
    return {"items": _lacking(sold.join(goods, on="item_id", how="semi"), rows, "item_id")}


def open_campaigns(rows: pl.LazyFrame, data: TaskData, as_of: datetime) -> dict[str, int]:
    """Every campaign that has not ended."""
    running = data.campaigns.lazy().filter(pl.col("end_at") > as_of)
    return {"campaigns": _lacking(running, rows, "campaign_id")}


def _lacking(wanted: pl.LazyFrame, rows: pl.LazyFrame, column: str) -> int:
    ids, there = (of.select(column).unique() for of in (wanted, rows))
    lacking = ids.join(there, on=column, how="anti").select(pl.len())
    return int(lacking.collect(engine="streaming").item())
