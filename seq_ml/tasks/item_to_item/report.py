"""Judge the lists beside an item on the purchases that came after they were made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import polars as pl

from seq_ml.metrics.bootstrap import mean_estimate
from seq_ml.tasks.item_to_item.rows import ALTERNATIVE, MAX_BASKET, TOGETHER, TOP, distinct, told_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from seq_ml.metrics.estimate import Estimate


@dataclass(frozen=True)
class Company:
    """Hit rates of the lists of one kind and of as long lists by popularity; means over users."""

    kind: str
    asked: int
    lists: Estimate
    popular: Estimate
    difference: Estimate


def judge_company(
    listed: pl.DataFrame,
    before: pl.DataFrame,
    after: pl.DataFrame,
    catalogue: pl.DataFrame,
    *,
    seed: int,
) -> list[Company]:
    """Judge lists made of `before` on the purchases `after`; columns as in `item_to_item`.

    bought_together: for each item of a later basket, does the list hold another item of it?
    alternative: who bought an item of a category for the first time and had others of it before,
    did the list of the one he had most often hold it? Popularity: as many of the most bought items
    (of the category) instead of the list. Questions without a list for the item are left out.
    """
    counted = distinct(before)
    counted = counted.join(told_of(counted.group_by("item_id").len("n")), on="item_id", how="semi")
    judged = []
    for kind in (TOGETHER, ALTERNATIVE):
        lists = listed.filter(pl.col("kind") == kind).select("item_id", "other_item_id")
        if kind == TOGETHER:  # of all items: as if none had a category
            popular = _popular(counted, lists, catalogue.clear())
            asked = _in_baskets(after, counted)
        else:
            popular = _popular(counted, lists, catalogue)
            asked = _turned_to(counted, after, catalogue)
        asked = asked.join(lists.select("item_id").unique(), on="item_id", how="semi")
        if not asked.height:
            continue
        ours, theirs = (_hit_rates(asked, lists) for lists in (lists, popular))
        estimates = (mean_estimate(x, seed=seed) for x in (ours, theirs, ours - theirs))
        judged.append(Company(kind, asked["question"].n_unique(), *estimates))
    return judged


def _popular(counted: pl.DataFrame, lists: pl.DataFrame, catalogue: pl.DataFrame) -> pl.DataFrame:
    """List as many of the most bought others (of the same category) beside each item."""
    items = lists.group_by("item_id").agg(length=pl.len())
    kind = catalogue.select("item_id", "category")
    best = (
        counted.group_by("item_id")
        .len("n")
        .join(kind, on="item_id", how="left")
        .sort(["n", "item_id"], descending=[True, False])
        .filter(pl.int_range(pl.len()).over("category") <= TOP)
        .select("category", "n", other_item_id="item_id")
    )
    return (
        items.join(kind, on="item_id", how="left")
        .join(best, on="category", nulls_equal=True)
        .filter(pl.col("item_id") != pl.col("other_item_id"))
        .sort(["item_id", "n", "other_item_id"], descending=[False, True, False])
        .filter(pl.int_range(pl.len()).over("item_id") < pl.col("length"))
        .select("item_id", "other_item_id")
    )


def _in_baskets(after: pl.DataFrame, counted: pl.DataFrame) -> pl.DataFrame:
    """Ask for every item of a later basket which others are in it."""
    rows = after.select("user_id", "item_id", "basket").drop_nulls().unique()
    rows = rows.join(counted.select("item_id").unique(), on="item_id", how="semi")
    rows = rows.filter(pl.len().over("basket").is_between(2, MAX_BASKET))
    return (
        rows.with_row_index("question")
        .join(rows.select("basket", other_item_id="item_id"), on="basket")
        .filter(pl.col("item_id") != pl.col("other_item_id"))
        .select("user_id", "item_id", "other_item_id", "question")
    )


def _turned_to(counted: pl.DataFrame, after: pl.DataFrame, catalogue: pl.DataFrame) -> pl.DataFrame:
    """Ask for every first purchase of an item in a category that the user knew."""
    kind = catalogue.select("item_id", "category")
    had = counted.group_by("user_id", "item_id").len("n").join(kind, on="item_id")
    usual = (
        had.drop_nulls("category")
        .sort(["n", "item_id"], descending=[True, False])
        .unique(["user_id", "category"], keep="first", maintain_order=True)
        .select("user_id", "category", "item_id")
    )
    new = (
        after.select("user_id", "item_id")
        .unique()
        .join(had, on=["user_id", "item_id"], how="anti")
        .join(counted.select("item_id").unique(), on="item_id", how="semi")
        .join(kind, on="item_id")
        .select("user_id", "category", other_item_id="item_id")
        .with_row_index("question")
    )
    return usual.join(new, on=["user_id", "category"]).select(
        "user_id", "item_id", "other_item_id", "question"
    )


def _hit_rates(asked: pl.DataFrame, lists: pl.DataFrame) -> NDArray[np.float64]:
    """Share of each user's questions that the lists hold a right answer to; users sorted."""
    pair = ["item_id", "other_item_id"]
    right = asked.join(lists, on=pair, how="semi").select("question").unique()
    return (
        asked.select("user_id", "question")
        .unique("question")
        .join(right.with_columns(hit=pl.lit(1.0)), on="question", how="left")
        .group_by("user_id")
        .agg(pl.col("hit").fill_null(0.0).mean())
        .sort("user_id")["hit"]
        .to_numpy()
    )
