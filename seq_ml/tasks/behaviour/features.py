"""Point-in-time behaviour features of users, from the window before an origin.

Events are reduced once to visits (one row per order) and to daily counts of the other behaviour
types; every origin then reads only these small frames. The window is the same at every origin, so
that a feature means the same in the first training window and on the day of serving: no feature
grows with the length of the history. The end of a name says which of the business's spans it counts
(`Periods.spans`): a grocer's `_window` is 91 days, `_recent` 28.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import polars as pl

from seq_ml.roles import COUPON

if TYPE_CHECKING:
    from datetime import datetime

    from seq_ml.periods import Periods
    from seq_ml.tasks.behaviour.visits import Behaviour

COUNTED = ("newest", "newer", "recent", "late", "window")
"""Spans over which orders and spend are counted."""
RECENCY = "recency_days"
RFM_FEATURES = (RECENCY, "orders_window", "spend_window")
BEHAVIOUR_FEATURES = (
    RECENCY,
    *(f"orders_{span}" for span in COUNTED),
    *(f"spend_{span}" for span in COUNTED),
    "orders_trend",
    "spend_trend",
    "gap_mean",
    "gap_std",
    "gap_max",
    "gap_overdue",
    "first_order_days",
    "active_days_window",
    "active_weeks_window",
    "lines_per_order",
    "order_value",
    "order_value_std",
    "last_order_value",
    "discount_share",
    "coupon_share",
    "coupon_orders_window",
    "coupon_discount_window",
    "stores_window",
    "weekend_share",
    "evening_share",
    "coupons_redeemed_window",
    "ads_received_window",
    "other_events_recent",
    "other_events_window",
)
"""Days, orders, currency units or shares; trends are log ratios of the recent days to the rest.

spend_*: net of returns. order_value and shares: of the orders as they were bought.
"""

FILLED_WITH_ZERO = tuple(name for name in BEHAVIOUR_FEATURES if name.rpartition("_")[2] in COUNTED)


def behaviour_features(
    behaviour: Behaviour, origin: datetime, users: pl.Series | None = None
) -> pl.DataFrame:
    """Return user_id and BEHAVIOUR_FEATURES from the window strictly before `origin`.

    One row per user of `users` (in sorted order), or per user with a visit in the window. Counts
    and sums of absent behaviour are 0; what has no meaning without it (gaps, shares, recency) is
    null.
    """
    periods = behaviour.periods
    start = origin - timedelta(days=periods.window_days)
    visits = _between(behaviour.visits, start, origin)
    money = _between(behaviour.money, start, origin)
    daily = _between(behaviour.daily, start, origin)
    if users is None:
        frame = visits.select(pl.col("user_id").unique().sort())
    else:
        frame = pl.DataFrame({"user_id": users.unique().sort()})
        wanted = pl.col("user_id").is_in(frame["user_id"].implode())
        visits, daily, money = (part.filter(wanted) for part in (visits, daily, money))
    for part in (
        _of_visits(visits, periods),
        _of_money(money, periods),
        _of_gaps(visits),
        _of_events(daily, origin, periods),
    ):
        frame = frame.join(part, on="user_id", how="left", maintain_order="left")
    frame = frame.with_columns(
        pl.col(name).fill_null(0).cast(pl.Float64) for name in FILLED_WITH_ZERO
    )
    frame = frame.with_columns(
        gap_overdue=pl.col(RECENCY) / pl.col("gap_mean").clip(lower_bound=0.5),
        orders_trend=_trend("orders", periods),
        spend_trend=_trend("spend", periods),
    )
    return frame.select("user_id", *(pl.col(name).cast(pl.Float64) for name in BEHAVIOUR_FEATURES))


def _between(frame: pl.DataFrame, start: datetime, end: datetime) -> pl.DataFrame:
    """Rows of [start, end) and their age (days before the end)."""
    age = (pl.lit(end) - pl.col("at")).dt.total_seconds() / 86400.0
    return frame.filter((pl.col("at") >= start) & (pl.col("at") < end)).with_columns(age=age)


def _of_visits(visits: pl.DataFrame, periods: Periods) -> pl.DataFrame:
    coupon = pl.col("coupon_discount") > 0
    return visits.group_by("user_id", maintain_order=True).agg(
        pl.col("age").min().alias(RECENCY),
        pl.col("age").max().alias("first_order_days"),
        *((pl.col("age") <= periods.spans[s]).sum().alias(f"orders_{s}") for s in COUNTED),
        active_days_window=pl.col("day").n_unique(),
        active_weeks_window=(pl.col("age") // 7).n_unique(),
        lines_per_order=pl.col("lines").mean(),
        order_value=pl.col("spend").mean(),
        order_value_std=pl.col("spend").std(),
        last_order_value=pl.col("spend").last(),
        discount_share=_share("discount"),
        coupon_share=_share("coupon_discount"),
        coupon_orders_window=coupon.sum(),
        coupon_discount_window=pl.col("coupon_discount").sum(),
        stores_window=pl.col("store_id").n_unique(),
        weekend_share=(pl.col("day").dt.weekday() >= 6).mean(),
        evening_share=pl.col("evening").mean(),
    )


def _of_money(money: pl.DataFrame, periods: Periods) -> pl.DataFrame:
    """Spend net of returns, which may be below 0."""
    return money.group_by("user_id", maintain_order=True).agg(
        pl.col("spend").filter(pl.col("age") <= periods.spans[span]).sum().alias(f"spend_{span}")
        for span in COUNTED
    )


def _of_gaps(visits: pl.DataFrame) -> pl.DataFrame:
    """Days between consecutive order days; visits: sorted by user and time."""
    first = pl.col("user_id").ne_missing(pl.col("user_id").shift())
    gap = pl.when(~first).then(pl.col("day").diff().dt.total_days())
    return (
        visits.select("user_id", gap=gap)
        .filter(pl.col("gap").is_null() | (pl.col("gap") > 0))
        .group_by("user_id", maintain_order=True)
        .agg(
            gap_mean=pl.col("gap").mean(),
            gap_std=pl.col("gap").std(),
            gap_max=pl.col("gap").max(),
        )
    )


def _of_events(daily: pl.DataFrame, origin: datetime, periods: Periods) -> pl.DataFrame:
    late = pl.col("at") >= origin - timedelta(days=periods.recent_days)
    coupon, contact = pl.col("event_type") == COUPON, pl.col("role") == "exposure"
    other = ~(coupon | contact)
    return daily.group_by("user_id", maintain_order=True).agg(
        coupons_redeemed_window=pl.col("events").filter(coupon).sum(),
        ads_received_window=pl.col("events").filter(contact).sum(),
        other_events_recent=pl.col("events").filter(late & other).sum(),
        other_events_window=pl.col("events").filter(other).sum(),
    )


def _share(part: str) -> pl.Expr:
    """`part` over the undiscounted value of the visits; null when they were free."""
    whole = pl.col("spend").sum() + pl.col("discount").sum()
    return pl.when(whole > 0).then(pl.col(part).sum() / whole)


def _trend(what: str, periods: Periods) -> pl.Expr:
    recent, window = pl.col(f"{what}_recent"), pl.col(f"{what}_window")
    late = recent / periods.recent_days
    early = (window - recent) / max(periods.window_days - periods.recent_days, 1)
    small = 0.02 if what == "orders" else 0.5
    # more given back than spent counts as nothing spent
    return ((late.clip(0) + small) / (early.clip(0) + small)).log()
