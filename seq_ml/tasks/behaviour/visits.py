"""What an order is (a visit, a basket), and events reduced to orders and days of other behaviour.

An order is what one user bought (or whatever the business' conversion is) in one session on one
business day; without a session, on the day. One that goes on after midnight is two: origins are
business midnights, and no order may reach over an origin. All tasks take their orders from here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import polars as pl

from seq_ml.roles import OTHER

if TYPE_CHECKING:
    from datetime import datetime

    from seq_ml.business import Business
    from seq_ml.periods import Periods
    from seq_ml.tasks.data import TaskData

ORDER = ("user_id", "session", "day")
"""The columns that tell orders apart."""


@dataclass(frozen=True)
class Behaviour:
    """The reduced events, all strictly before the as_of they were made for.

    visits: one row per order: user_id, at (first event, UTC), day (business day), evening (bool),
    spend, discount, coupon_discount (currency units, as bought), lines (conversions), store_id;
    sorted by user and time.
    money: revenue net of returns, see `read_money`.
    daily: user_id, at (first of the day), day, event_type, role, events; behaviour other than
    conversions and returns.
    periods: the windows that features count it in.
    """

    visits: pl.DataFrame
    money: pl.DataFrame
    daily: pl.DataFrame
    periods: Periods


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


def read_money(
    events: pl.LazyFrame, business: Business, visits: pl.DataFrame | None = None
) -> pl.DataFrame:
    """Return user_id, at, day, spend and lines of orders, and of returns: below 0, and no lines.

    visits: the orders among `events`, where they are read already. A return counts at its own
    instant, whenever it was that the goods were bought: at an origin before it, nobody knows of it.
    Whoever adds up spend adds up these, and may get less than nothing.
    """
    orders = read_visits(events, business) if visits is None else visits
    returns = (
        with_orders(events.filter(business.of_role("return")), business)
        .select(
            "user_id",
            "day",
            at="event_time",
            spend=-(pl.col("quantity") * pl.col("unit_price")).round(3),
            lines=pl.lit(0, dtype=pl.Int64),
        )
        .filter(pl.col("spend") < 0)
        .collect()
        .sort("user_id", "at", "spend")
    )
    columns = ["user_id", "at", "day", "spend", "lines"]
    return pl.concat([orders.select(columns), returns.select(columns)])


def read_behaviour(data: TaskData, as_of: datetime, *, days: float | None = None) -> Behaviour:
    """Reduce the events strictly before `as_of`, on request only those of the last `days` days.

    Returns are no orders: they count in `money` alone. The data keep it for who asks again.
    """
    behaviour: Behaviour = data.keep(
        ("behaviour", as_of, days), lambda data: _behaviour(data, as_of, days)
    )
    return behaviour


def _behaviour(data: TaskData, as_of: datetime, days: float | None) -> Behaviour:
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
    visits = read_visits(events, data.business)
    return Behaviour(visits, read_money(events, data.business, visits), daily, data.periods)


def has_prices(data: TaskData, as_of: datetime) -> bool:
    """Tell whether anybody paid for anything before `as_of`: else amounts are unknown, not 0."""
    paid = pl.col("unit_price") > 0
    return bool(data.once(("prices", as_of), lambda whole: _converted(whole, as_of, paid)))


def has_orders(data: TaskData, as_of: datetime) -> bool:
    """Tell whether anybody ordered before `as_of`."""
    return bool(data.once(("orders", as_of), lambda whole: _converted(whole, as_of)))


def _converted(data: TaskData, as_of: datetime, *how: pl.Expr) -> bool:
    conversions = data.events_before(as_of).filter(data.business.of_role("conversion"), *how)
    return conversions.head(1).collect().height > 0


def merchandise(events: pl.LazyFrame, data: TaskData, as_of: datetime) -> pl.LazyFrame:
    """Conversions of merchandise among `events`, by the catalogue as known before `as_of`."""
    other = data.items_known(as_of).filter(~pl.col("is_merchandise")).select("item_id")
    bought = events.filter(data.business.of_role("conversion"), pl.col("item_id").is_not_null())
    return bought.join(other.lazy(), on="item_id", how="anti")


def merchandise_lines(data: TaskData, as_of: datetime) -> pl.LazyFrame:
    """Conversions of merchandise before `as_of`, an item of a basket once or more.

    Columns: user_id, item_id, event_time, day (business day), basket (the name of the order).
    """
    return with_orders(merchandise(data.events_before(as_of), data, as_of), data.business).select(
        "user_id", "item_id", "event_time", "day", basket=pl.format("{} {} {}", *ORDER)
    )


def merchandise_bought(data: TaskData, as_of: datetime) -> pl.DataFrame:
    """Read `merchandise_lines`: of some users at a time where there are many."""
    return merchandise_lines(data, as_of).collect()


def first_seen(data: TaskData, as_of: datetime) -> pl.DataFrame:
    """First event of each user: user_id, first_seen; sorted."""
    users = data.events_before(as_of).group_by("user_id")
    return users.agg(first_seen=pl.col("event_time").min()).sort("user_id").collect()
