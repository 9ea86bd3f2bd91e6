"""Who behaves unlike everybody else, and in what: a score and the feature that stands out.

Eleven features of the window that fraud bends upwards: bulk buys, coupon and refund abuse,
bursts of orders, card testing with tiny amounts. Each is measured from the median in units of how
far the 98th percentile lies; the score is the largest. So the score names its own reason. An
isolation forest over the same features (Liu, Ting & Zhou 2008) finds less of the fraud that
`seq_ml.tasks.profiles.planted_fraud` plants; the percentile was chosen on plantings of October
2017.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from seq_ml.roles import COUPON

if TYPE_CHECKING:
    from datetime import datetime

    from numpy.typing import NDArray

    from seq_ml.periods import Periods
    from seq_ml.tasks.data import TaskData

    Floats = NDArray[np.float64]

UNUSUAL_SHARE = 0.01
"""Share of users whose anomaly is explained."""
QUICK_MINUTES = 10
"""An order that follows the one before within so many minutes is a quick one."""
TAIL = 0.98
"""Percentile whose distance from the median is the unit of the score."""

MEANINGS = {
    "orders_window": "orders",
    "spend_window": "spend, currency units",
    "order_value_max": "value of the largest order, currency units",
    "units_max": "most units of one line of an order",
    "orders_per_day_max": "most orders on one day",
    "quick_orders_window": f"orders within {QUICK_MINUTES} minutes of the one before",
    "coupon_share": "share of the value that coupons paid",
    "coupons_redeemed_window": "coupons redeemed",
    "refund_share": "share of the value that was refunded",
    "refunds_window": "refunds",
    "stores_window": "stores",
}
ANOMALY_FEATURES = tuple(MEANINGS)


def anomaly_features(visits: pl.DataFrame, data: TaskData, as_of: datetime) -> pl.DataFrame:
    """Return user_id and ANOMALY_FEATURES of the window before `as_of`; absent behaviour is 0.

    One row per user with an event in the window, sorted. visits: orders (`Behaviour.visits`) of at
    least the window. What is no merchandise (fuel is sold in thousandths) counts as one unit.
    """
    business, start = data.business, as_of - timedelta(days=data.periods.window_days)
    orders = visits.filter((pl.col("at") >= start) & (pl.col("at") < as_of))
    quick = pl.col("at").diff().over("user_id") <= timedelta(minutes=QUICK_MINUTES)
    whole = pl.col("spend").sum() + pl.col("discount").sum()
    of_orders = (
        orders.with_columns(
            quick=quick.fill_null(value=False), same=pl.len().over("user_id", "day")
        )
        .group_by("user_id", maintain_order=True)
        .agg(
            orders_window=pl.len(),
            spend_window=pl.col("spend").sum(),
            order_value_max=pl.col("spend").max(),
            orders_per_day_max=pl.col("same").max(),
            quick_orders_window=pl.col("quick").sum(),
            coupon_share=pl.when(whole > 0).then(pl.col("coupon_discount").sum() / whole),
            stores_window=pl.col("store_id").n_unique(),
        )
    )
    bought, refund = business.of_role("conversion"), business.of_role("return")
    other = data.once(("no merchandise", as_of), lambda whole: _no_merchandise(whole, as_of))
    units = pl.when("other").then(1.0).otherwise(pl.col("quantity"))
    value = (pl.col("quantity") * pl.col("unit_price")).fill_null(0.0)
    of_events = (
        data.events_between(start, as_of)
        .join(other.lazy(), on="item_id", how="left")
        .group_by("user_id")
        .agg(
            units_max=units.filter(bought).max(),
            refunds_window=refund.sum(),
            coupons_redeemed_window=(pl.col("event_type") == COUPON).sum(),
            refunded=value.filter(refund).sum().round(3),
        )
        .collect()
        .sort("user_id")
    )
    frame = of_events.join(of_orders, on="user_id", how="left", maintain_order="left")
    both = pl.col("refunded") + pl.col("spend_window").fill_null(0.0)
    frame = frame.with_columns(refund_share=pl.when(both > 0).then(pl.col("refunded") / both))
    return frame.select(
        "user_id", *(pl.col(name).cast(pl.Float64).fill_null(0.0) for name in ANOMALY_FEATURES)
    )


def _no_merchandise(data: TaskData, as_of: datetime) -> pl.DataFrame:
    return data.items_known(as_of).filter(~pl.col("is_merchandise")).select("item_id", other=True)


@dataclass(frozen=True)
class Usual:
    """What is usual among users, as numbers of each feature [k].

    median, high: the latter is exceeded by the rest of TAIL. unit: what a distance from the median
    is counted in. limit: the score that UNUSUAL_SHARE of the users reach.
    """

    median: Floats
    high: Floats
    unit: Floats
    limit: float = 0.0

    @classmethod
    def of(cls, features: pl.DataFrame) -> Usual:
        """Look at users, one row each: everybody, or a sample of them."""
        x = features.select(ANOMALY_FEATURES).to_numpy()
        if not len(x):
            none = np.zeros(x.shape[1])
            return cls(none, none, none + 1)
        median = np.median(x, axis=0)
        above = x - median
        unit = np.quantile(above, TAIL, axis=0)
        unit = np.where(unit > 0, unit, above.std(axis=0))
        usual = cls(median, np.quantile(x, TAIL, axis=0), np.where(unit > 0, unit, 1.0))
        score = usual.deviations(features).max(axis=1)
        return replace(usual, limit=float(np.quantile(score, 1 - UNUSUAL_SHARE)))

    def deviations(self, features: pl.DataFrame) -> Floats:
        """How far above the median each feature lies, in distances of its 98th percentile [n, k].

        Below the median is 0: little of anything is no fraud. Where more than 98 % of the users
        have the median itself (no refund at all), the standard deviation is the unit.
        """
        x = features.select(ANOMALY_FEATURES).to_numpy()
        return np.asarray(np.clip(x - self.median, 0.0, None) / self.unit)


def anomalies(features: pl.DataFrame, usual: Usual, periods: Periods) -> pl.DataFrame:
    """Return user_id, anomaly_score and anomaly_reason (of the most unusual 1 %, else null).

    features: of `anomaly_features`, one row per user.
    """
    x = features.select(ANOMALY_FEATURES).to_numpy()
    far = usual.deviations(features)
    score, most = far.max(axis=1, initial=0.0), far.argmax(axis=1)
    reasons: list[str | None] = [None] * len(score)
    for row in np.flatnonzero((score >= usual.limit) & (score > 0)):
        column = most[row]
        reasons[row] = (
            f"{periods.named(ANOMALY_FEATURES[column])} is {x[row, column]:.4g}, where half of the "
            f"users have at most {usual.median[column]:.3g} and {100 * TAIL:.0f} % at most "
            f"{usual.high[column]:.3g} ({MEANINGS[ANOMALY_FEATURES[column]]}, last "
            f"{periods.window_days} days)"
        )
    return features.select(
        "user_id",
        anomaly_score=pl.Series(score, dtype=pl.Float32),
        anomaly_reason=pl.Series(reasons, dtype=pl.String),
    )
