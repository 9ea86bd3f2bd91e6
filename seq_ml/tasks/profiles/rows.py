"""User profiles: what each user did, which segment they belong to, what is unusual about them.

Counts, and four parts with modules of their own beside this one: segments by fixed rules
(`segments`), tags with the events behind them (`tags`), the anomaly score with its reason
(`anomalies`), and the spend expected of the next 91 days (`task`). What each of them is worth is
measured in the report (`report`).
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import polars as pl

from seq_ml.periods import HORIZON_DAYS, SPANS, WINDOW_DAYS
from seq_ml.schema import STAMP, USER_PROFILES
from seq_ml.tasks.behaviour.features import behaviour_features
from seq_ml.tasks.behaviour.visits import Behaviour, read_behaviour
from seq_ml.tasks.profiles.anomalies import anomalies, anomaly_features
from seq_ml.tasks.profiles.segments import assign_segments
from seq_ml.tasks.profiles.tags import with_tags
from seq_ml.tasks.profiles.task import SpendForecast, forecast_spend
from seq_ml.tasks.task import NotEnoughHistoryError

if TYPE_CHECKING:
    from datetime import datetime

    from seq_ml.tasks.data import TaskData


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
    clv_* is null while the history is too short for a forecast that can be judged.
    """
    behaviour = read_behaviour(data, as_of)
    users = data.events_before(as_of).select("user_id").unique().collect().to_series().sort()
    features = behaviour_features(behaviour, as_of, users)
    unusual = anomaly_features(behaviour.visits, data.events, data.items_known(as_of), as_of)
    try:
        forecast = forecast_spend(behaviour.visits, data.business, as_of, seed=data.seed)
    except NotEnoughHistoryError:
        forecast = None
    frame = pl.DataFrame({"user_id": users})
    for part in (
        _orders(behaviour.visits, as_of),
        _gaps(behaviour.visits),
        _activity(behaviour, as_of),
        features.drop("recency_days", "orders_28d", "orders_91d", "spend_28d", "spend_91d")
        .rename({"discount_share": "discount_share_91d"})
        .drop("active_days_91d"),
        anomalies(unusual),
        _value(forecast),
    ):
        frame = frame.join(part, on="user_id", how="left", maintain_order="left")
    counts = [f"orders_{s}" for s in ("total", *(f"{d}d" for d in SPANS))]
    sums = [f"spend_{s}" for s in ("total", *(f"{d}d" for d in SPANS))]
    frame = frame.with_columns(
        pl.col(*counts, "active_days_91d", "coupons_used_91d").fill_null(0).cast(pl.Int64),
        pl.col(*sums).fill_null(0.0),
        pl.col("anomaly_score").fill_null(0.0),
        clv_horizon_days=pl.lit(HORIZON_DAYS),
    )
    if behaviour.visits.height and not behaviour.visits["spend"].sum():  # no prices: unknown, not 0
        frame = frame.with_columns(pl.lit(None, pl.Float64).alias(name) for name in (*sums, "aov"))
    # the frame with its counts of whole orders, not the features' own
    frame = frame.with_columns(segment=assign_segments(frame))
    frame = _since(frame, previous, data.business.day_of(as_of))
    frame = with_tags(_embedded(frame, data, as_of, embeddings), data, as_of)
    stamped = {column.name for column in STAMP}
    schema = USER_PROFILES.polars_schema()
    return frame.select(
        pl.col(name).cast(dtype) for name, dtype in schema.items() if name not in stamped
    )


def _value(forecast: SpendForecast | None) -> pl.DataFrame:
    """clv_* and clv_source of everybody who ordered; no rows without a forecast."""
    if forecast is None:
        names = ("clv_expected", "clv_p10", "clv_p90")
        schema = {"user_id": pl.String, **dict.fromkeys(names, pl.Float64), "clv_source": pl.String}
        return pl.DataFrame(schema=schema)
    return forecast.rows.with_columns(clv_source=pl.lit(forecast.published))


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
