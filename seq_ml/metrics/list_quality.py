"""What top-k lists are like, whether they hit or not: coverage, novelty, diversity, popularity.

A ranking that only repeats best-sellers may hit well and still be of no use; these numbers stand
beside the hits of `seq_ml.metrics.ranking`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from seq_ml.metrics.bootstrap import mean_estimate
from seq_ml.metrics.estimate import Estimate

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

TAIL = 0.2
"""The tail: the least bought items that together make this share of all purchases."""

LIST_QUALITY = {
    "coverage": "Share of the catalogue that is in at least one list.",
    "novelty": "Mean self-information of an item, −log2(share of users who chose it), bits.",
    "diversity": "Share of the pairs within a list whose categories differ.",
    "popularity": "Mean share of users who chose a recommended item: high is popularity bias.",
    "gini": "How unequally items are shown: 0 all equally often, 1 one item takes every place.",
    "tail_share": "Share of the places held by the tail: the items of the last 20 % of choices.",
}


def list_quality(
    lists: pl.DataFrame, catalogue: pl.DataFrame, *, users: int, seed: int
) -> dict[str, Estimate]:
    """Describe top-k lists beyond accuracy; names and meanings are those of `LIST_QUALITY`.

    lists: user_id, item_id; the rows of a user are the user's list (cut to k by the caller).
    catalogue: item_id, buyers (users who bought it before the lists were made), category (str?);
    every item that could have been recommended, those that nobody bought too. users: how many
    users there were then. Intervals resample lists; coverage and Gini, which speak of all lists
    together, have none (NaN: resampling lists would shrink them).

    Sources: novelty Zhou et al. 2010; intra-list diversity Ziegler et al. 2005; mean popularity
    Yin et al. 2012; tail Abdollahpouri et al. 2017. An item that nobody bought counts as bought by
    one user; pairs with an unknown category are left out. ValueError when a recommended item is
    not in the catalogue.

    >>> items = {"item_id": ["tea", "milk", "rusk"], "buyers": [4, 2, 0], "category": [*"abb"]}
    >>> lists = pl.DataFrame({"user_id": ["u", "u", "v"], "item_id": ["tea", "milk", "tea"]})
    >>> quality = list_quality(lists, pl.DataFrame(items), users=8, seed=7)
    >>> {name: round(quality[name].value, 2) for name in ("coverage", "novelty", "diversity")}
    {'coverage': 0.67, 'novelty': 1.25, 'diversity': 1.0}
    """
    items = catalogue.select(
        "item_id",
        "category",
        popularity=pl.col("buyers") / users,
        novelty=-(pl.col("buyers").clip(lower_bound=1) / users).log(2),
        tail=_in_tail(catalogue["buyers"]),
    )
    shown = lists.select("user_id", "item_id").join(items, on="item_id", how="left")
    strange = shown.filter(pl.col("tail").is_null())["item_id"].unique().sort()
    if len(strange):
        raise ValueError(
            f"{len(strange)} recommended items are not in the catalogue, the first: {strange[0]}"
        )
    of_list = shown.group_by("user_id").agg(
        pl.col("novelty", "popularity").mean(), tail_share=pl.col("tail").mean()
    )
    # n items of a category make n·(n − 1) ordered pairs that are alike: none need be formed.
    alike = (
        shown.drop_nulls("category")
        .group_by("user_id", "category")
        .len("n")
        .group_by("user_id")
        .agg(
            pairs=pl.col("n").sum() * (pl.col("n").sum() - 1),
            same=(pl.col("n") * (pl.col("n") - 1)).sum(),
        )
        .filter(pl.col("pairs") > 0)
        .select("user_id", diversity=1 - pl.col("same") / pl.col("pairs"))
    )
    of_list = of_list.join(alike, on="user_id", how="left").sort("user_id")
    # Of the whole catalogue: what no list shows is what coverage and Gini are about.
    places = items.join(shown.group_by("item_id").len("places"), on="item_id", how="left")
    counts = places["places"].fill_null(0).cast(pl.Float64).to_numpy()
    nan = float("nan")
    found = {
        "coverage": Estimate(float(np.mean(counts > 0)) if len(counts) else nan, nan, nan),
        "gini": Estimate(gini(counts), nan, nan),
    }
    for name in ("novelty", "diversity", "popularity", "tail_share"):
        found[name] = mean_estimate(of_list[name].drop_nulls().to_numpy(), seed=seed)
    return {name: found[name] for name in LIST_QUALITY}


def gini(counts: Array) -> float:
    """Gini coefficient of counts [n] ≥ 0: mean absolute difference / (2 × mean); NaN for none.

    >>> gini(np.array([5.0, 5.0])), gini(np.array([0.0, 10.0]))
    (0.0, 0.5)
    """
    total = float(counts.sum())
    if not total:
        return float("nan")
    n = len(counts)
    rank = np.arange(1, n + 1)
    return float((2 * rank - n - 1) @ np.sort(counts) / (n * total))


def _in_tail(buyers: pl.Series) -> pl.Series:
    """Whether an item is of the tail; items that are bought equally often go to the same side."""
    frame = pl.DataFrame({"buyers": buyers.cast(pl.Float64)}).with_row_index()
    by_count = (
        frame.group_by("buyers")
        .agg(bought=pl.col("buyers").sum())
        .sort("buyers")
        .with_columns(share=pl.col("bought").cum_sum() / pl.col("bought").sum())
    )
    share = frame.join(by_count, on="buyers", how="left").sort("index")["share"]
    return (share <= TAIL).fill_null(value=True) | (buyers == 0)
