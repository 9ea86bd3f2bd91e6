"""Point-in-time behaviour features of users, from the 91 days before an origin.

Events are reduced once to visits (one row per order) and to daily counts of the other behaviour
types; every origin then reads only these small frames. The window is the same at every origin, so
that a feature means the same in the first training window and on the day of serving: no feature
grows with the length of the history.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import polars as pl

from seq_ml.tasks.models import EMBEDDING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from seq_ml.tasks.task import TaskData

WINDOW_DAYS = 91
WINDOWS = (7, 14, 28, 56, 91)

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


@dataclass(frozen=True)
class Behaviour:
    """The reduced events, all strictly before the as_of they were made for.

    visits: one row per order: user_id, at (first event, UTC), day (business day), evening (bool),
    spend, discount, coupon_discount (currency units), lines (purchase events), store_id. An order
    that goes on after midnight is two: no row may reach over an origin.
    daily: user_id, at (first), day, event_type, events; behaviour other than purchases. A row holds
    a quarter of an hour: origins that lie whole days before a midnight lie an hour beside one where
    the clocks were changed between.
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
        .group_by(
            "user_id",
            "event_type",
            local.dt.date().alias("day"),
            pl.col("event_time").dt.truncate("15m").alias("quarter"),
        )
        .agg(at=pl.col("event_time").min(), events=pl.len().cast(pl.Int64))
        .drop("quarter")
        .collect()
        .sort("user_id", "at", "event_type")
    )
    return Behaviour(visits, daily)


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


def with_embeddings(
    examples: pl.DataFrame, data: TaskData, origins: Iterable[datetime]
) -> pl.DataFrame:
    """Add the encoder's vectors at the given origins as the column `embedding`, else null.

    Like the features, the vectors come from the last 91 days before the origin, and only users of
    `examples` are scored. Does nothing without an encoder. Raises ValueError when the encoder was
    fitted on events after the first test origin (without a split: after the first origin).
    """
    if data.encoder is None:
        return examples
    judged = examples.filter(split="test") if "split" in examples.columns else examples
    first: Any = judged["origin"].min()
    if first is not None and data.encoder.fitted_before > first:
        raise ValueError(
            f"The encoder {data.encoder.version} was fitted on events up to "
            f"{data.encoder.fitted_before}, after the test origin {first}: train it on an earlier "
            "cut-off."
        )
    parts = []
    for origin in sorted(set(origins)):
        wanted = examples.filter(origin=origin).select("user_id").unique()
        events = data.events_before(origin, days=WINDOW_DAYS).join(
            wanted.lazy(), on="user_id", how="semi"
        )
        users, vectors = data.encoder.user_embeddings(events, origin)
        parts.append(
            pl.DataFrame(
                {"user_id": users, EMBEDDING: vectors},
                schema={"user_id": pl.String, EMBEDDING: pl.Array(pl.Float32, vectors.shape[1])},
            ).with_columns(origin=pl.lit(origin, dtype=examples.schema["origin"]))
        )
    return examples.join(
        pl.concat(parts), on=["origin", "user_id"], how="left", maintain_order="left"
    )


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
    late = pl.col("at") >= origin - timedelta(days=28)
    advertising = pl.col("event_type").is_in(["ad_impression", "coupon_redeem"])
    return daily.group_by("user_id", maintain_order=True).agg(
        coupons_redeemed_91d=pl.col("events").filter(pl.col("event_type") == "coupon_redeem").sum(),
        ads_received_91d=pl.col("events").filter(pl.col("event_type") == "ad_impression").sum(),
        other_events_28d=pl.col("events").filter(late & ~advertising).sum(),
        other_events_91d=pl.col("events").filter(~advertising).sum(),
    )


def _share(part: str) -> pl.Expr:
    """`part` over the undiscounted value of the visits; null when they were free."""
    whole = pl.col("spend").sum() + pl.col("discount").sum()
    return pl.when(whole > 0).then(pl.col(part).sum() / whole)


def _trend(what: str) -> pl.Expr:
    late = pl.col(f"{what}_28d") / 28
    early = (pl.col(f"{what}_91d") - pl.col(f"{what}_28d")) / 63
    small = 0.02 if what == "orders" else 0.5
    return ((late + small) / (early + small)).log()
