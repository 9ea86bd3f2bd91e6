"""Segments of users: eight fixed rules on recency, orders and spend, and how stable they are.

Nobody changes segment because a clustering came out differently: only what a user does, or their
place among all users, moves them. Stability is the adjusted Rand index (Hubert & Arabie 1985)
between two snapshots: 1 = nobody moved, 0 = what shuffled labels would give.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from seq_ml.tasks.behaviour.features import RECENCY, RFM_FEATURES, behaviour_features

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from seq_ml.periods import Periods
    from seq_ml.tasks.behaviour.visits import Behaviour

SEGMENTS = {
    "lost": "no order in the last {window} days",
    "new": "first order within the last {recent} days",
    "champions": "in the top fifth by spend and by orders of the last {window} days",
    "at_risk": "later than three usual intervals, and more than {newer} days",
    "big_baskets": "in the top fifth by spend, fewer orders",
    "frequent_small": "in the top fifth by orders, less spend",
    "occasional": "at most three orders in the last {window} days",
    "regular": "everybody else",
}
"""Segments by the first rule that holds, in this order; days are `Periods.spans`."""


@dataclass(frozen=True)
class Step:
    """How far the segments of one snapshot are those of the next.

    users: known at the first of the two.  kept: share of them in the same segment.  rules,
    clusters: adjusted Rand index of the rules, and of k-means on recency, orders and spend fitted
    anew at each snapshot (what the rules must beat to be worth their simplicity).
    """

    first: datetime
    second: datetime
    users: int
    kept: float
    rules: float
    clusters: float


def top_fifth(features: pl.DataFrame) -> dict[str, Any]:
    """Return from where on active users are in the top fifth, by spend and by orders.

    features: of everybody, or of a sample; as `assign_segments` reads them. None without any.
    """
    active = features.filter(pl.col("orders_window") > 0)
    return {name: active[name].quantile(0.8) for name in ("spend_window", "orders_window")}


def assign_segments(features: pl.DataFrame, top: Mapping[str, Any], periods: Periods) -> pl.Series:
    """Return each user's segment.

    features: orders_window, spend_window, recency_days and gap_mean of the window, and tenure_days
    (null before the first order). top: of `top_fifth`. Without prices (spend null, or 0 for all)
    nobody is in a segment of the top fifth by spend.
    """
    active = pl.col("orders_window") > 0
    paid = active & (pl.col("spend_window") > 0)
    spends, orders = (
        who & (pl.col(name) >= pl.lit(top[name], dtype=pl.Float64))
        for who, name in ((paid, "spend_window"), (active, "orders_window"))
    )
    late = (pl.col(RECENCY) > 3 * pl.col("gap_mean")) & (pl.col(RECENCY) > periods.spans["newer"])
    rules = {
        "lost": ~active,
        "new": pl.col("tenure_days") <= periods.recent_days,
        "champions": spends & orders & ~late,
        "at_risk": late,
        "big_baskets": spends,
        "frequent_small": orders,
        "occasional": pl.col("orders_window") <= 3,
        "regular": pl.lit(value=True),
    }
    return features.select(
        segment=pl.coalesce(pl.when(rules[name]).then(pl.lit(name)) for name in SEGMENTS)
    ).to_series()


def stability(behaviour: Behaviour, as_of: datetime, *, days: int, steps: int) -> list[Step]:
    """Compare the snapshots every `days` days before `as_of`, the newest `steps`, oldest first.

    A step whose first snapshot has less than a window of orders before it is left out: segments of
    a window that has only begun to fill say nothing.
    """
    first: Any = behaviour.visits["at"].min()
    instants = [as_of - timedelta(days=days * n) for n in range(steps, -1, -1)]
    window = timedelta(days=behaviour.periods.window_days)
    instants = [i for i in instants if first is not None and i - window >= first]
    snapshots = [(i, _clustered(segments_at(behaviour, i), window.days)) for i in instants]
    return [_step(*before, *after) for before, after in pairwise(snapshots)]


def segments_at(behaviour: Behaviour, as_of: datetime) -> pl.DataFrame:
    """Return user_id, segment and behaviour features of everybody with an order before `as_of`."""
    known = behaviour.visits.filter(pl.col("at") < as_of)
    tenure = (pl.lit(as_of) - pl.col("at").min()).dt.total_seconds() / 86400.0
    users = known.group_by("user_id").agg(tenure_days=tenure).sort("user_id")
    features = behaviour_features(behaviour, as_of, users["user_id"])
    frame = features.join(users, on="user_id", how="left", maintain_order="left")
    segment = assign_segments(frame, top_fifth(frame), behaviour.periods)
    return frame.with_columns(segment=segment)


def _clustered(frame: pl.DataFrame, window_days: int) -> pl.DataFrame:
    """Add cluster (int)."""
    from sklearn.cluster import KMeans
    from sklearn.preprocessing import StandardScaler

    known = pl.col(RFM_FEATURES).fill_null(float(window_days)).clip(0)
    x = np.log1p(frame.select(known).to_numpy())
    count = min(len(SEGMENTS), len(np.unique(x, axis=0)))
    model = KMeans(count, n_init=3, random_state=0)
    found = model.fit_predict(StandardScaler().fit_transform(x))
    return frame.with_columns(cluster=pl.Series(found))


def _step(first: datetime, before: pl.DataFrame, second: datetime, after: pl.DataFrame) -> Step:
    from sklearn.metrics import adjusted_rand_score

    both = before.join(after, on="user_id", suffix="_after")
    return Step(
        first,
        second,
        both.height,
        float((both["segment"] == both["segment_after"]).mean() or 0.0),  # type: ignore[arg-type]
        float(adjusted_rand_score(both["segment"], both["segment_after"])),
        float(adjusted_rand_score(both["cluster"], both["cluster_after"])),
    )
