"""User profiles: what each user did, which segment they belong to, what is unusual about them.

Counts, and four parts with modules of their own: segments (`segments`, fixed rules), tags with the
events behind them (`tags`), the anomaly score with its reason (`anomalies`), and the spend expected
of the next weeks, which the champion of the task forecasts (`task`). What the others are worth is
measured in the report (`seq_ml.tasks.profiles.report`). What is usual among users, and where the
top fifth begins, is that of a sample of them where there are many.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

import polars as pl

from seq_ml.periods import SPANS, WINDOW_DAYS
from seq_ml.roles import COUPON
from seq_ml.schema import STAMP, USER_PROFILES
from seq_ml.storage.by_user import ByUser
from seq_ml.tasks.behaviour.features import behaviour_features
from seq_ml.tasks.behaviour.margins import with_margin
from seq_ml.tasks.behaviour.visits import has_orders, has_prices, read_behaviour
from seq_ml.tasks.profiles.anomalies import Usual, anomalies, anomaly_features
from seq_ml.tasks.profiles.features import sample
from seq_ml.tasks.profiles.segments import assign_segments, top_fifth
from seq_ml.tasks.profiles.tags import with_tags

if TYPE_CHECKING:
    from datetime import datetime

    from seq_ml.tasks.behaviour.visits import Behaviour
    from seq_ml.tasks.data import TaskData

NO_FORECAST = pl.DataFrame(schema=USER_PROFILES.polars_schema()).select(
    "user_id", "clv_expected", "clv_p10", "clv_p90", "clv_source", "rests_on"
)


@dataclass(frozen=True)
class Measured:
    """What users with an event before an instant did in the window before it.

    features: of behaviour, of all of them. bent: those that fraud bends.
    """

    users: pl.Series
    features: pl.DataFrame
    bent: pl.DataFrame


def measured(data: TaskData, as_of: datetime) -> Measured:
    """Read what the users of the data did before `as_of`; the data keep it."""

    def read(data: TaskData) -> Measured:
        behaviour = read_behaviour(data, as_of)
        users = data.events_before(as_of).select("user_id").unique().collect().to_series().sort()
        return Measured(
            users,
            behaviour_features(behaviour, as_of, users),
            anomaly_features(behaviour.visits, data, as_of),
        )

    found: Measured = data.keep(("measured", as_of), read)
    return found


def user_profiles(
    data: TaskData, as_of: datetime, forecast: pl.DataFrame = NO_FORECAST
) -> pl.DataFrame:
    """Return one row per user with an event before `as_of`: USER_PROFILES, of the stamp `source`.

    forecast: user_id, clv_expected, clv_p10, clv_p90, clv_source and rests_on of everybody who
    ordered; else null. Who stays in the segment of the newest earlier snapshot keeps its
    `segment_since`, all others get the business day of `as_of`.
    """
    ours, others = measured(data, as_of), measured(sample(data), as_of)
    behaviour, periods = read_behaviour(data, as_of), data.periods
    frame = pl.DataFrame({"user_id": ours.users})
    for part in (
        _orders(behaviour.visits, as_of),
        _spent(behaviour.money, as_of),
        _gaps(behaviour.visits),
        _activity(behaviour, as_of),
        ours.features.drop("recency_days").rename({"discount_share": "discount_share_window"}),
        anomalies(ours.bent, Usual.of(others.bent), periods),
        forecast,
        _vectors(data, as_of, ours.users),
    ):
        frame = frame.join(part, on="user_id", how="left", maintain_order="left")
    counts = [f"orders_{s}" for s in ("total", *(f"{d}d" for d in SPANS))]
    sums = [f"spend_{s}" for s in ("total", *(f"{d}d" for d in SPANS))]
    frame = with_margin(frame, data, as_of).with_columns(
        pl.col(*counts, "active_days_91d", "coupons_used_91d").fill_null(0).cast(pl.Int64),
        pl.col(*sums).fill_null(0.0),
        pl.col("anomaly_score").fill_null(0.0),
        clv_margin=pl.col("clv_expected") * pl.col("margin_share"),
        clv_horizon_days=pl.lit(periods.value_days),
    )
    if has_orders(data, as_of) and not has_prices(data, as_of):
        frame = frame.with_columns(pl.lit(None, pl.Float64).alias(name) for name in (*sums, "aov"))
    segments = assign_segments(frame, top_fifth(others.features), periods)
    frame = _since(frame.with_columns(segment=segments), data, as_of)
    frame = with_tags(frame, data, as_of).with_columns(source=pl.lit("rules"))
    stamped = {column.name for column in STAMP} - {"source"}
    schema = USER_PROFILES.polars_schema()
    return frame.select(
        pl.col(name).cast(dtype) for name, dtype in schema.items() if name not in stamped
    )


def _orders(visits: pl.DataFrame, as_of: datetime) -> pl.DataFrame:
    """Recency, frequency and value of orders, over the whole history and over the newest spans."""
    days = {span: pl.col("at") >= as_of - timedelta(days=span) for span in SPANS}
    whole = pl.col("spend").sum() + pl.col("discount").sum()

    def since(instant: pl.Expr) -> pl.Expr:
        return (pl.lit(as_of) - instant).dt.total_seconds() / 86400.0

    return visits.group_by("user_id", maintain_order=True).agg(
        first_order_at=pl.col("at").min(),
        last_order_at=pl.col("at").max(),
        orders_total=pl.len(),
        aov=pl.col("spend").mean(),
        recency_days=since(pl.col("at").max()),
        tenure_days=since(pl.col("at").min()),
        discount_share=pl.when(whole > 0).then(pl.col("discount").sum() / whole),
        **{f"orders_{span}d": recent.sum() for span, recent in days.items()},
    )


def _spent(money: pl.DataFrame, as_of: datetime) -> pl.DataFrame:
    """Spend net of returns over the whole history and over the newest spans; may be below 0."""
    days = {span: pl.col("at") >= as_of - timedelta(days=span) for span in SPANS}
    return money.group_by("user_id", maintain_order=True).agg(
        spend_total=pl.col("spend").sum(),
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
    coupons = pl.when(pl.col("event_type") == COUPON).then(pl.col("events")).otherwise(0)
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


def _since(frame: pl.DataFrame, data: TaskData, as_of: datetime) -> pl.DataFrame:
    """Add segment_since: of the newest earlier snapshot, where the segment is still the same."""

    def newest(whole: TaskData) -> pl.DataFrame:
        older = whole.profiles.filter(pl.col("as_of") < as_of)
        at = older.select(pl.col("as_of").max()).collect().item()
        of_then = older.filter(pl.col("as_of") == pl.lit(at, pl.Datetime("us", "UTC")))
        return of_then.select("user_id", "segment", since="segment_since").collect()

    before = data.once(("segments", as_of), newest)
    joined = frame.join(before, on=["user_id", "segment"], how="left", maintain_order="left")
    today = pl.lit(data.business.day_of(as_of))
    return joined.with_columns(segment_since=pl.coalesce("since", today))


def _vectors(data: TaskData, as_of: datetime, users: pl.Series) -> pl.DataFrame:
    """Return user_id and embedding; of some users at a time the table is cut once for all parts."""
    vectors = data.embeddings.filter(pl.col("as_of") == as_of).select("user_id", "embedding")
    if data.whole is None:
        return vectors.join(users.to_frame().lazy(), on="user_id", how="semi").collect()
    cut: ByUser = data.once(("vectors", as_of), lambda whole: ByUser(vectors, whole.shard_count))
    return cut.of(users).collect()
