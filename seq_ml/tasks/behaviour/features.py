"""Point-in-time behaviour features of users, from the 91 days before an origin.

Events are reduced once to visits (one row per order) and to daily counts of the other behaviour
types; every origin then reads only these small frames. The window is the same at every origin, so
that a feature means the same in the first training window and on the day of serving: no feature
grows with the length of the history.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import polars as pl

from seq_ml.periods import RECENT_DAYS, WINDOW_DAYS, WINDOWS
from seq_ml.roles import COUPON

if TYPE_CHECKING:
    from datetime import datetime

    from seq_ml.tasks.behaviour.visits import Behaviour

RECENCY = "recency_days"
RFM_FEATURES = (RECENCY, "orders_91d", "spend_91d")
BEHAVIOUR_FEATURES = (
    RECENCY,
    *(f"orders_{days}d" for days in WINDOWS),
    *(f"spend_{days}d" for days in WINDOWS),
    "orders_trend",
    "spend_trend",
    "gap_mean",
    "gap_std",
    "gap_max",
    "gap_overdue",
    "first_order_days",
    "active_days_91d",
    "active_weeks_91d",
    "lines_per_order",
    "order_value",
    "order_value_std",
    "last_order_value",
    "discount_share",
    "coupon_share",
    "coupon_orders_91d",
    "coupon_discount_91d",
    "stores_91d",
    "weekend_share",
    "evening_share",
    "coupons_redeemed_91d",
    "ads_received_91d",
    "other_events_28d",
    "other_events_91d",
)
"""Days, orders, currency units or shares; trends are log ratios of the last 28 days to the rest."""

FILLED_WITH_ZERO = tuple(
    name for name in BEHAVIOUR_FEATURES if name.endswith("d") and name.split("_")[-1][:-1].isdigit()
)


def behaviour_features(
    behaviour: Behaviour, origin: datetime, users: pl.Series | None = None
) -> pl.DataFrame:
    """Return user_id and BEHAVIOUR_FEATURES from the 91 days strictly before `origin`.

    One row per user of `users` (in sorted order), or per user with a visit in the window. Counts
    and sums of absent behaviour are 0; what has no meaning without it (gaps, shares, recency) is
    null.
    """
    start = origin - timedelta(days=WINDOW_DAYS)
    visits = _between(behaviour.visits, start, origin)
    daily = _between(behaviour.daily, start, origin)
    if users is None:
        frame = visits.select(pl.col("user_id").unique().sort())
    else:
        frame = pl.DataFrame({"user_id": users.unique().sort()})
        wanted = pl.col("user_id").is_in(frame["user_id"].implode())
        visits, daily = visits.filter(wanted), daily.filter(wanted)
    for part in (_of_visits(visits, origin), _of_gaps(visits), _of_events(daily, origin)):
        frame = frame.join(part, on="user_id", how="left", maintain_order="left")
    frame = frame.with_columns(
        pl.col(name).fill_null(0).cast(pl.Float64) for name in FILLED_WITH_ZERO
    )
    frame = frame.with_columns(
        gap_overdue=pl.col(RECENCY) / pl.col("gap_mean").clip(lower_bound=0.5),
        orders_trend=_trend("orders"),
        spend_trend=_trend("spend"),
    )
    return frame.select("user_id", *(pl.col(name).cast(pl.Float64) for name in BEHAVIOUR_FEATURES))


def _between(frame: pl.DataFrame, start: datetime, end: datetime) -> pl.DataFrame:
    return frame.filter((pl.col("at") >= start) & (pl.col("at") < end))


def _of_visits(visits: pl.DataFrame, origin: datetime) -> pl.DataFrame:
    age = (pl.lit(origin) - pl.col("at")).dt.total_seconds() / 86400.0
    coupon = pl.col("coupon_discount") > 0
    return (
        visits.with_columns(age=age)
        .group_by("user_id", maintain_order=True)
        .agg(
            pl.col("age").min().alias(RECENCY),
            pl.col("age").max().alias("first_order_days"),
            *((pl.col("age") <= days).sum().alias(f"orders_{days}d") for days in WINDOWS),
            *(
                pl.col("spend").filter(pl.col("age") <= days).sum().alias(f"spend_{days}d")
                for days in WINDOWS
            ),
            active_days_91d=pl.col("day").n_unique(),
            active_weeks_91d=(pl.col("age") // 7).n_unique(),
            lines_per_order=pl.col("lines").mean(),
            order_value=pl.col("spend").mean(),
            order_value_std=pl.col("spend").std(),
            last_order_value=pl.col("spend").last(),
            discount_share=_share("discount"),
            coupon_share=_share("coupon_discount"),
            coupon_orders_91d=coupon.sum(),
            coupon_discount_91d=pl.col("coupon_discount").sum(),
            stores_91d=pl.col("store_id").n_unique(),
            weekend_share=(pl.col("day").dt.weekday() >= 6).mean(),
            evening_share=pl.col("evening").mean(),
        )
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


def _of_events(daily: pl.DataFrame, origin: datetime) -> pl.DataFrame:
    late = pl.col("at") >= origin - timedelta(days=RECENT_DAYS)
    coupon, contact = pl.col("event_type") == COUPON, pl.col("role") == "exposure"
    other = ~(coupon | contact)
    return daily.group_by("user_id", maintain_order=True).agg(
        coupons_redeemed_91d=pl.col("events").filter(coupon).sum(),
        ads_received_91d=pl.col("events").filter(contact).sum(),
        other_events_28d=pl.col("events").filter(late & other).sum(),
        other_events_91d=pl.col("events").filter(other).sum(),
    )


def _share(part: str) -> pl.Expr:
    """`part` over the undiscounted value of the visits; null when they were free."""
    whole = pl.col("spend").sum() + pl.col("discount").sum()
    return pl.when(whole > 0).then(pl.col(part).sum() / whole)


def _trend(what: str) -> pl.Expr:
    late = pl.col(f"{what}_28d") / RECENT_DAYS
    early = (pl.col(f"{what}_91d") - pl.col(f"{what}_28d")) / (WINDOW_DAYS - RECENT_DAYS)
    small = 0.02 if what == "orders" else 0.5
    return ((late + small) / (early + small)).log()
