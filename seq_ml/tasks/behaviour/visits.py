"""What an order is (a visit, a basket), and events reduced to orders and days of other behaviour.

An order is what one user bought (or whatever the business' conversion is) in one session on one
business day; without a session, on the day. One that goes on after midnight is two: origins are
business midnights, and no order may reach over an origin. All tasks take their orders from here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import polars as pl

from seq_ml.periods import GROCER, Periods
from seq_ml.roles import OTHER

if TYPE_CHECKING:
    from datetime import datetime

    from seq_ml.business import Business
    from seq_ml.tasks.data import TaskData

ORDER = ("user_id", "session", "day")
"""The columns that tell orders apart."""


@dataclass(frozen=True)
class Behaviour:
    """The reduced events, all strictly before the as_of they were made for.

    visits: one row per order: user_id, at (first event, UTC), day (business day), evening (bool),
    spend, discount, coupon_discount (currency units, as bought), lines (conversions), store_id;
    sorted by user and time.
    daily: user_id, at (first of the day), day, event_type, role, events; behaviour other than
    conversions and returns.
    returns: what was given back, see `read_returns`.
    periods: the windows that features count it in.
    """

    visits: pl.DataFrame
    daily: pl.DataFrame
    returns: pl.DataFrame
    periods: Periods = GROCER

    @property
    def money(self) -> pl.DataFrame:
        """Revenue net of returns: see `read_money`."""
        return _money(self.visits, self.returns)


def with_orders(events: pl.LazyFrame, business: Business) -> pl.LazyFrame:
    """Add `day` (business day) and `session` (never null): with the user they are `ORDER`."""
    return events.with_columns(
        day=pl.col("event_time").dt.convert_time_zone(business.timezone).dt.date(),
        session=pl.col("session_id").fill_null("the day"),
    )


def read_visits(events: pl.LazyFrame, business: Business) -> pl.DataFrame:
    """Reduce the conversions among `events` to orders: the `visits` of `Behaviour`."""
    visits = (
        with_orders(events.filter(business.of_role("conversion")), business)
        .with_columns(spend=pl.col("quantity") * pl.col("unit_price"))
        .group_by(ORDER)
        .agg(
            pl.col("event_time").min().alias("at"),
            pl.col("spend", "discount", "coupon_discount").sum(),
            pl.len().cast(pl.Int64).alias("lines"),
            pl.col("store_id").min(),
        )
        .collect()
        .sort("user_id", "at", "session")
    )
    visit_time = pl.col("at").dt.convert_time_zone(business.timezone)
    return visits.select(
        "user_id",
        "at",
        "day",
        (visit_time.dt.hour() >= 18).alias("evening"),
        # Floating point sums depend on the order of rows, which threads do not keep: a tenth of a
        # cent is beyond what money needs and makes the features the same on every run.
        pl.col("spend", "discount", "coupon_discount").round(3),
        "lines",
        "store_id",
    )


def read_returns(events: pl.LazyFrame, business: Business) -> pl.DataFrame:
    """Return user_id, at, day and spend (below 0) of the returns that gave money back.

    A return counts at its own instant, whenever it was that the goods were bought: at an origin
    before it, nobody knows of it.
    """
    spend = -(pl.col("quantity") * pl.col("unit_price")).round(3)
    return (
        with_orders(events.filter(business.of_role("return")), business)
        .select("user_id", "day", at="event_time", spend=spend)
        .filter(pl.col("spend") < 0)
        .collect()
        .sort("user_id", "at", "spend")
    )


def read_money(events: pl.LazyFrame, business: Business) -> pl.DataFrame:
    """Return user_id, at, day, spend and lines of orders and returns; a return has no lines.

    Whoever adds up spend adds up these, and may get less than nothing: a window may hold the return
    of what was bought before it.
    """
    return _money(read_visits(events, business), read_returns(events, business))


def _money(visits: pl.DataFrame, returns: pl.DataFrame) -> pl.DataFrame:
    orders = visits.select("user_id", "at", "day", "spend", "lines")
    given_back = returns.with_columns(lines=pl.lit(0, dtype=pl.Int64))
    return orders.vstack(given_back.select(orders.columns)) if returns.height else orders


def read_behaviour(data: TaskData, as_of: datetime, *, days: float | None = None) -> Behaviour:
    """Reduce the events strictly before `as_of`, on request only those of the last `days` days.

    Returns are no orders: they have a frame of their own.
    """
    events = data.events_before(as_of, days=days)
    # who was held back from a campaign did nothing
    theirs = pl.col("propensity").is_null() | data.business.of_role("exposure")
    daily = (
        with_orders(events, data.business)
        .filter(~data.business.of_role("conversion", "return"), theirs)
        .group_by("user_id", "event_type", "day")
        .agg(at=pl.col("event_time").min(), events=pl.len().cast(pl.Int64))
        .collect()
        .sort("user_id", "at", "event_type")
        .with_columns(
            role=pl.col("event_type").replace_strict(
                data.business.roles, default=OTHER, return_dtype=pl.String
            )
        )
    )
    visits, returns = (read(events, data.business) for read in (read_visits, read_returns))
    return Behaviour(visits, daily, returns, data.periods)


def merchandise_bought(data: TaskData, as_of: datetime) -> pl.DataFrame:
    """Conversions of merchandise before `as_of`, an item of a basket once or more.

    Columns: user_id, item_id, event_time, day (business day), basket (the name of the order).
    """
    other = data.items_known(as_of).filter(~pl.col("is_merchandise")).select("item_id")
    events = data.events_before(as_of).filter(
        data.business.of_role("conversion"), pl.col("item_id").is_not_null()
    )
    return (
        with_orders(events, data.business)
        .join(other.lazy(), on="item_id", how="anti")
        .select("user_id", "item_id", "event_time", "day", basket=pl.format("{} {} {}", *ORDER))
        .collect()
    )


def first_seen(data: TaskData, as_of: datetime) -> pl.DataFrame:
    """First event of each user: user_id, first_seen; sorted."""
    users = data.events_before(as_of).group_by("user_id")
    return users.agg(first_seen=pl.col("event_time").min()).sort("user_id").collect()
