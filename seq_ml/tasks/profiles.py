"""User profiles: what each user did, which segment they belong to, what is unusual about them.

No label and so no backtest: every number is counted, or follows a rule that is written here.
Segments are fixed rules on recency and on the user's place among all users, so they are stable by
construction: nobody changes segment because a clustering came out differently.

`clv_*` is null: with one year of data no forecast of the next 365 days can be judged.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from seq_ml.schema import STAMP, USER_PROFILES
from seq_ml.tasks.features import (
    RECENCY,
    WINDOW_DAYS,
    Behaviour,
    behaviour_features,
    read_behaviour,
)

if TYPE_CHECKING:
    from datetime import datetime

    from seq_ml.tasks.task import TaskData

SPANS = (28, 91, 365)
UNUSUAL_SHARE = 0.01
"""Share of users whose anomaly is explained."""

ANOMALY_FEATURES = (
    "orders_91d",
    "spend_91d",
    "order_value",
    "order_value_std",
    "lines_per_order",
    "discount_share",
    "coupon_share",
    "stores_91d",
    "weekend_share",
    "evening_share",
    "gap_mean",
    "spend_trend",
)

SEGMENTS = {
    "lost": "no order in the last 91 days",
    "new": "first order within the last 28 days",
    "champions": "in the top fifth by spend and by orders of the last 91 days",
    "at_risk": "later than three usual intervals, and more than 14 days",
    "big_baskets": "in the top fifth by spend, fewer orders",
    "frequent_small": "in the top fifth by orders, less spend",
    "occasional": "at most three orders in the last 91 days",
    "regular": "everybody else",
}
"""Segments by the first rule that holds, in this order."""


def user_profiles(
    data: TaskData,
    as_of: datetime,
    previous: pl.DataFrame | None = None,
    embeddings: pl.DataFrame | None = None,
) -> pl.DataFrame:
    """Return one row per user with an event before `as_of`: USER_PROFILES without the stamp.

    previous: the rows of an earlier `as_of` (user_id, segment, segment_since); who stays in a
    segment keeps its `segment_since`, all others get the business day of `as_of`.
    embeddings: (user_id, embedding) at `as_of` where they are there already (the table
    `user_embeddings`); else `data.encoder` makes them.
    """
    behaviour = read_behaviour(data, as_of)
    users = (
        pl.concat([behaviour.visits.select("user_id"), behaviour.daily.select("user_id")])
        .to_series()
        .unique()
        .sort()
    )
    features = behaviour_features(behaviour, as_of, users)
    frame = pl.DataFrame({"user_id": users})
    for part in (
        _orders(behaviour.visits, as_of),
        _gaps(behaviour.visits),
        _activity(behaviour, as_of),
        features.drop("recency_days", "orders_28d", "orders_91d", "spend_28d", "spend_91d")
        .rename({"discount_share": "discount_share_91d"})
        .drop("active_days_91d"),
        _anomalies(features),
        _favourites(data, as_of),
    ):
        frame = frame.join(part, on="user_id", how="left", maintain_order="left")
    counts = [f"orders_{s}" for s in ("total", *(f"{d}d" for d in SPANS))]
    sums = [f"spend_{s}" for s in ("total", *(f"{d}d" for d in SPANS))]
    frame = frame.with_columns(
        pl.col(*counts, "active_days_91d", "coupons_used_91d").fill_null(0).cast(pl.Int64),
        pl.col(*sums).fill_null(0.0),
    ).with_columns(
        segment=_segment(),
        clv_expected=pl.lit(None, dtype=pl.Float64),
        clv_p10=pl.lit(None, dtype=pl.Float64),
        clv_p90=pl.lit(None, dtype=pl.Float64),
    )
    frame = _since(frame, previous, data.business.day_of(as_of))
    frame = _embedded(frame, data, as_of, embeddings).with_columns(tags=_tags())
    stamped = {column.name for column in STAMP}
    schema = USER_PROFILES.polars_schema()
    return frame.select(
        pl.col(name).cast(dtype) for name, dtype in schema.items() if name not in stamped
    )


def _orders(visits: pl.DataFrame, as_of: datetime) -> pl.DataFrame:
    """Recency, frequency, money over the whole history and over the newest spans."""
    days = {span: pl.col("at") >= as_of - timedelta(days=span) for span in SPANS}
    whole = pl.col("spend").sum() + pl.col("discount").sum()

    def since(instant: pl.Expr) -> pl.Expr:
        return (pl.lit(as_of) - instant).dt.total_seconds() / 86400.0

    return visits.group_by("user_id", maintain_order=True).agg(
        first_order_at=pl.col("at").min(),
        last_order_at=pl.col("at").max(),
        orders_total=pl.len(),
        spend_total=pl.col("spend").sum(),
        aov=pl.col("spend").mean(),
        recency_days=since(pl.col("at").max()),
        tenure_days=since(pl.col("at").min()),
        discount_share=pl.when(whole > 0).then(pl.col("discount").sum() / whole),
        **{f"orders_{span}d": recent.sum() for span, recent in days.items()},
        **{f"spend_{span}d": pl.col("spend").filter(recent).sum() for span, recent in days.items()},
    )


def _gaps(visits: pl.DataFrame) -> pl.DataFrame:
    gap = pl.col("day").diff().dt.total_days()
    return (
        visits.select("user_id", "day")
        .unique(maintain_order=True)
        .group_by("user_id", maintain_order=True)
        .agg(avg_days_between_orders=gap.mean(), std_days_between_orders=gap.std())
    )


def _activity(behaviour: Behaviour, as_of: datetime) -> pl.DataFrame:
    start = as_of - timedelta(days=WINDOW_DAYS)
    coupons = pl.when(pl.col("event_type") == "coupon_redeem").then(pl.col("events")).otherwise(0)
    both = [
        behaviour.visits.select("user_id", "at", "day", coupons=pl.lit(0, dtype=pl.Int64)),
        behaviour.daily.select("user_id", "at", "day", coupons=coupons.cast(pl.Int64)),
    ]
    return (
        pl.concat(both)
        .filter(pl.col("at") >= start)
        .group_by("user_id")
        .agg(active_days_91d=pl.col("day").n_unique(), coupons_used_91d=pl.col("coupons").sum())
    )


def _anomalies(features: pl.DataFrame) -> pl.DataFrame:
    """Isolation forest (Liu et al. 2008) on 12 features of the last 91 days.

    Score 0.5 is ordinary, near 1 is unusual; the most unusual 1 % get the feature that is farthest
    from the median, in robust standard deviations.
    """
    from sklearn.ensemble import IsolationForest

    x = features.select(
        pl.col(name).fill_null(pl.col(name).median()).fill_null(0.0) for name in ANOMALY_FEATURES
    ).to_numpy()
    x = np.sign(x) * np.log1p(np.abs(x))
    forest = IsolationForest(n_estimators=100, max_samples=min(256, len(x)), random_state=0)
    score = -forest.fit(x).score_samples(x)
    centre = np.median(x, axis=0)
    # The median deviation is 0 for what most users never do; the plain one then tells them apart.
    robust = 1.4826 * np.median(np.abs(x - centre), axis=0)
    spread = np.maximum(np.where(robust > 1e-9, robust, x.std(axis=0)), 1e-9)
    far = np.abs(x - centre) / spread
    most = far.argmax(axis=1)
    limit = np.quantile(score, 1 - UNUSUAL_SHARE)
    reasons = [
        f"{ANOMALY_FEATURES[column]} is {far[row, column]:.1f} deviations "
        f"{'above' if x[row, column] > centre[column] else 'below'} the median"
        if score[row] >= limit
        else None
        for row, column in enumerate(most)
    ]
    return features.select(
        "user_id",
        anomaly_score=pl.Series(score, dtype=pl.Float32),
        anomaly_reason=pl.Series(reasons, dtype=pl.String),
    )


def _favourites(data: TaskData, as_of: datetime) -> pl.DataFrame:
    """Find the department that got most of a user's spend in the last 91 days, and its share."""
    departments = data.items_known(as_of).select("item_id", "department").drop_nulls()
    spend = (pl.col("quantity") * pl.col("unit_price")).fill_null(0.0)
    return (
        data.events_before(as_of, days=WINDOW_DAYS)
        .filter(pl.col("event_type") == "purchase")
        .join(departments.lazy(), on="item_id", how="inner")
        .group_by("user_id", "department")
        .agg(spend=spend.sum().round(3))
        .collect()
        .sort("user_id", "spend", "department", descending=[False, True, False])
        .group_by("user_id", maintain_order=True)
        .agg(
            favourite=pl.col("department").first(),
            favourite_share=pl.col("spend").first() / pl.col("spend").sum(),
        )
    )


def _segment() -> pl.Expr:
    """Return the first of SEGMENTS whose rule holds."""
    active = pl.col("orders_91d") > 0
    spends = active & (pl.col("spend_91d") >= pl.col("spend_91d").filter(active).quantile(0.8))
    orders = active & (pl.col("orders_91d") >= pl.col("orders_91d").filter(active).quantile(0.8))
    late = (pl.col(RECENCY) > 3 * pl.col("gap_mean")) & (pl.col(RECENCY) > 14)
    rules = {
        "lost": ~active,
        "new": pl.col("tenure_days") <= 28,
        "champions": spends & orders & ~late,
        "at_risk": late,
        "big_baskets": spends,
        "frequent_small": orders,
        "occasional": pl.col("orders_91d") <= 3,
        "regular": pl.lit(value=True),
    }
    return pl.coalesce(pl.when(rules[name]).then(pl.lit(name)) for name in SEGMENTS)


def _since(frame: pl.DataFrame, previous: pl.DataFrame | None, today: object) -> pl.DataFrame:
    fresh = pl.lit(today, dtype=pl.Date)
    if previous is None or not previous.height:
        return frame.with_columns(segment_since=fresh)
    earlier = previous.select("user_id", "segment", before="segment_since").unique(
        "user_id", keep="last", maintain_order=True
    )
    return frame.join(
        earlier, on=["user_id", "segment"], how="left", maintain_order="left"
    ).with_columns(segment_since=pl.coalesce("before", fresh))


def _embedded(
    frame: pl.DataFrame, data: TaskData, as_of: datetime, embeddings: pl.DataFrame | None
) -> pl.DataFrame:
    if embeddings is None and data.encoder is None:
        return frame.with_columns(embedding=pl.lit(None, dtype=pl.List(pl.Float32)))
    if embeddings is None and data.encoder is not None:
        users, vectors = data.encoder.user_embeddings(data.events, as_of)
        embeddings = pl.DataFrame(
            {"user_id": users, "embedding": vectors},
            schema={"user_id": pl.String, "embedding": pl.Array(pl.Float32, vectors.shape[1])},
        )
    assert embeddings is not None
    vector = pl.col("embedding").cast(pl.List(pl.Float32))
    return frame.join(
        embeddings.select("user_id", vector), on="user_id", how="left", maintain_order="left"
    )


def _tags() -> pl.Expr:
    """Tags of the last 91 days, each with the count behind it; only from four orders on."""
    enough = pl.col("orders_91d") >= 4

    def percent(share: str) -> pl.Expr:
        return (100 * pl.col(share)).round().cast(pl.Int64)

    tags = (
        (
            pl.col("coupons_used_91d") > 0,
            "coupon_user",
            pl.format("{} coupons redeemed", "coupons_used_91d"),
        ),
        (
            enough & (pl.col("discount_share_91d") >= 0.25),
            "bargain_hunter",
            pl.format("{} % of the value was discounted", percent("discount_share_91d")),
        ),
        (
            enough & (pl.col("weekend_share") >= 0.6),
            "weekend_shopper",
            pl.format("{} % of {} orders at weekends", percent("weekend_share"), "orders_91d"),
        ),
        (
            enough & (pl.col("evening_share") >= 0.6),
            "evening_shopper",
            pl.format("{} % of {} orders after 18:00", percent("evening_share"), "orders_91d"),
        ),
        (
            enough & (pl.col("spend_trend") <= -0.7),
            "spends_less",
            pl.format(
                "{} of {} spent in the last 28 days", _money("spend_28d"), _money("spend_91d")
            ),
        ),
        (
            enough & (pl.col("spend_trend") >= 0.7),
            "spends_more",
            pl.format(
                "{} of {} spent in the last 28 days", _money("spend_28d"), _money("spend_91d")
            ),
        ),
        (
            enough & (pl.col("stores_91d") >= 4),
            "many_stores",
            pl.format("{} stores", pl.col("stores_91d").cast(pl.Int64)),
        ),
        (
            enough & (pl.col("favourite_share") >= 0.6),
            "one_department",
            pl.format("{} % of spend on {}", percent("favourite_share"), "favourite"),
        ),
    )
    structs = [
        pl.when(holds).then(pl.struct(tag=pl.lit(name), evidence=evidence))
        for holds, name, evidence in tags
    ]
    return pl.concat_list(structs).list.drop_nulls()


def _money(column: str) -> pl.Expr:
    return pl.col(column).round(2)
