"""Events reduced to visits: orders of a session on a business day, and days of other behaviour."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import polars as pl

if TYPE_CHECKING:
    from datetime import datetime

    from seq_ml.tasks.data import TaskData


@dataclass(frozen=True)
class Behaviour:
    """The reduced events, all strictly before the as_of they were made for.

    visits: one row per order: user_id, at (first event, UTC), day (business day), evening (bool),
    spend, discount, coupon_discount (currency units), lines (purchase events), store_id. An order
    that goes on after midnight is two: no row may reach over an origin, and origins are business
    midnights.
    daily: user_id, at (first of the day), day, event_type, events; behaviour other than purchases.
    """

    visits: pl.DataFrame
    daily: pl.DataFrame


def read_behaviour(data: TaskData, as_of: datetime, *, days: float | None = None) -> Behaviour:
    """Reduce the events strictly before `as_of`, on request only those of the last `days` days.

    A purchase without a session counts to the visit of its business day. Refunds are left out.
    """
    zone = data.business.timezone
    events = data.events_before(as_of, days=days)
    local = pl.col("event_time").dt.convert_time_zone(zone)
    visits = (
        events.filter(pl.col("event_type") == "purchase")
        .select(
            "user_id",
            "event_time",
            "store_id",
            day=local.dt.date(),
            session=pl.coalesce("session_id", local.dt.to_string("day %Y-%m-%d")),
            spend=(pl.col("quantity") * pl.col("unit_price")).fill_null(0.0),
            discount=pl.col("discount").fill_null(0.0),
            coupon_discount=pl.col("coupon_discount").fill_null(0.0),
        )
        .group_by("user_id", "session", "day")
        .agg(
            at=pl.col("event_time").min(),
            spend=pl.col("spend").sum(),
            discount=pl.col("discount").sum(),
            coupon_discount=pl.col("coupon_discount").sum(),
            lines=pl.len().cast(pl.Int64),
            store_id=pl.col("store_id").min(),
        )
        .collect()
        .sort("user_id", "at", "session")
    )
    visit_time = pl.col("at").dt.convert_time_zone(zone)
    visits = visits.select(
        "user_id",
        "at",
        "day",
        (visit_time.dt.hour() >= 18).alias("evening"),
        # Floating point sums depend on the order of rows, which threads do not keep: a tenth of a
        # cent is beyond what money needs and makes the features the same on every run.
        pl.col("spend").round(3),
        pl.col("discount").round(3),
        pl.col("coupon_discount").round(3),
        "lines",
        "store_id",
    )
    daily = (
        events.filter(~pl.col("event_type").is_in(["purchase", "refund"]))
        .group_by("user_id", "event_type", local.dt.date().alias("day"))
        .agg(at=pl.col("event_time").min(), events=pl.len().cast(pl.Int64))
        .collect()
        .sort("user_id", "at", "event_type")
    )
    return Behaviour(visits, daily)


def merchandise_bought(data: TaskData, as_of: datetime) -> pl.DataFrame:
    """Purchases of merchandise before `as_of`, an item of a basket once or more.

    Columns: user_id, item_id, event_time, day (business day), basket (the order or visit; the
    user's day where the source names none).
    """
    goods = data.items_known(as_of).filter(~pl.col("is_merchandise")).select("item_id")
    zone = data.business.timezone
    return (
        data.events_before(as_of)
        .filter(pl.col("event_type") == "purchase", pl.col("item_id").is_not_null())
        .select(
            "user_id",
            "item_id",
            "event_time",
            day=pl.col("event_time").dt.convert_time_zone(zone).dt.date(),
            session="session_id",
        )
        .with_columns(basket=pl.coalesce("session", pl.format("{} {}", "user_id", "day")))
        .drop("session")
        .join(goods.lazy(), on="item_id", how="anti")
        .collect()
    )


def _first_seen(data: TaskData, as_of: datetime) -> pl.DataFrame:
    """First event of each user: user_id, first_seen; sorted."""
    users = data.events_before(as_of).group_by("user_id")
    return users.agg(first_seen=pl.col("event_time").min()).sort("user_id").collect()
