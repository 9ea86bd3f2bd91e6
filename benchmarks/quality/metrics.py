"""HR, NDCG and Recall at 10 of every user, and differences between models paired by user.

Two questions are asked of a model: `repeats` (any item of the catalogue may be right) and `novel`
(only items that the user never had count, and only such items are recommended). A user without a
truth of the kind does not count. Several seeds of a model are averaged user by user first: the
interval is then one over users, for the mean of the seeds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import polars as pl

from seq_ml.metrics.bootstrap import mean_estimate
from seq_ml.metrics.ranking import hit_rate, list_hits, ndcg, recall

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

    from benchmarks.quality.splits import Split

K = 10
MODES = ("repeats", "novel")
METRICS = ("hr", "ndcg", "recall")
RESAMPLES = 10_000


def per_user(lists: pl.DataFrame, split: Split) -> pl.DataFrame:
    """Return user and the columns `MODE_METRIC`, one row per scored user, sorted; null: no truth.

    lists: user and a list of ten items per mode, best first; a mode may be missing or null.
    """
    outcome = pl.DataFrame({"user": split.users}, schema={"user": pl.Int32})
    if not lists["user"].sort().equals(outcome["user"]):
        raise ValueError(
            f"{split.name}: the lists are for {lists['user'].n_unique()} users, "
            f"{outcome.height} are asked for; write one row for each user of truth.parquet"
        )
    for mode in MODES:
        if mode not in lists.columns or lists[mode].null_count() == lists.height:
            continue
        truth = split.truth.filter("novel") if mode == "novel" else split.truth
        listed = lists.select(unit="user", items=pl.col(mode).cast(pl.List(pl.Int32)))
        for user, items in listed.filter(pl.col("items").list.n_unique() != K).head(1).rows():
            raise ValueError(f"{split.name}: user {user} needs {K} different items, has {items}")
        pairs = truth.select(unit="user", item="item").unique(maintain_order=True)
        users, *judged = list_hits(listed, pairs, k=K)
        values = {
            f"{mode}_{name}": measure(*judged)
            for name, measure in zip(METRICS, (hit_rate, ndcg, recall), strict=True)
        }
        found = pl.DataFrame({"user": users, **values}).cast(dict.fromkeys(values, pl.Float32))
        outcome = outcome.join(found, on="user", how="left")
    return outcome.sort("user")


def over_seeds(outcomes: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """Average every user's values over the seeds of one model."""
    columns = [name for name in outcomes[0].columns if name != "user"]
    stacked = pl.concat([outcome.select("user", *columns) for outcome in outcomes])
    return stacked.group_by("user").agg(pl.col(columns).mean()).sort("user")


@dataclass(frozen=True)
class Interval:
    """A mean with its 95 % bootstrap interval over users."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.4f} [{self.low:.4f}, {self.high:.4f}]"


def interval(values: np.ndarray, *, seed: int = 0) -> Interval:
    """Resample users 10,000 times; for a paired difference give the differences of the users."""
    found = mean_estimate(values, seed=seed, resamples=RESAMPLES)
    return Interval(found.value, found.low, found.high)


def mean(outcome: pl.DataFrame, column: str) -> Interval:
    """Mean of one column over the users who have a value."""
    return interval(outcome[column].drop_nulls().to_numpy().astype(float))


def difference(ours: pl.DataFrame, theirs: pl.DataFrame, column: str) -> Interval:
    """Mean difference, ours minus theirs, paired by user."""
    both = ours.select("user", column).join(
        theirs.select("user", other=column), on="user", how="inner"
    )
    both = both.drop_nulls()
    if both.height != ours[column].drop_nulls().len():
        raise ValueError(f"{column}: the two models were not judged on the same users")
    return interval((both[column] - both["other"]).to_numpy().astype(float))
