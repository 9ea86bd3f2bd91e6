"""Series beside the items: the large items in the large stores, and whole categories."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from seq_ml.tasks.demand import ALL_STORES, MEMORY_WEEKS, MIN_WEEKS, Panel, weekly_purchases

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from numpy.typing import NDArray

    from seq_ml.tasks.task import TaskData

CATEGORY = "category:"
"""Begins the `item_id` of a series that is a whole category."""
LARGE_ITEMS, LARGE_STORES = 100, 20
"""Items × stores that get series of their own: those with the most units."""


def large_pairs(data: TaskData, as_of: datetime) -> pl.DataFrame:
    """Return item_id, store_id: items × stores with the most units in the memory before `as_of`.

    No rows where fewer than two stores are known: there the whole business is the store.
    """
    purchases, _, n_weeks = weekly_purchases(data, as_of)
    recent = (
        purchases.filter(pl.col("week") >= n_weeks - MEMORY_WEEKS)
        .group_by("item_id", "store_id")
        .agg(pl.col("units").sum())
        .collect()
    )
    if recent["store_id"].drop_nulls().n_unique() < 2:
        return pl.DataFrame(schema={"item_id": pl.String, "store_id": pl.String})
    pairs = recent.drop_nulls()
    for column, count in (("item_id", LARGE_ITEMS), ("store_id", LARGE_STORES)):
        sizes = recent.drop_nulls(column).group_by(column).agg(pl.col("units").sum())
        top = sizes.sort("units", column, descending=[True, False]).head(count)
        pairs = pairs.join(top, on=column, how="semi")
    return pairs.select("item_id", "store_id").sort("item_id", "store_id")


def category_panel(panel: Panel, names: Sequence[str]) -> Panel:
    """Add up the items of each category (names[code]); promotions are means over its items.

    The means weigh an item by its units in the first `MIN_WEEKS` weeks, which lie before every
    origin.
    """
    known = panel.category >= 0
    items, codes, n = panel.only(known), panel.category[known], len(names)
    weight = items.units[:, :MIN_WEEKS].sum(axis=1, keepdims=True, dtype=np.float32)
    return Panel(
        pl.DataFrame(
            {"item_id": [f"{CATEGORY}{name}" for name in names], "store_id": ALL_STORES},
            schema={"item_id": pl.String, "store_id": pl.String},
        ),
        panel.weeks,
        _sums(items.units, codes, n),
        _sums(items.spend, codes, n),
        _sums(items.discount, codes, n),
        _means(items.display, weight, codes, n),
        _means(items.mailer, weight, codes, n),
        panel.planned,
        np.arange(n),
        np.arange(n),
    )


def _sums(array: NDArray[np.float32], codes: NDArray[np.int64], n: int) -> NDArray[np.float32]:
    """Add up the rows of each code in f64; returns [n, weeks]."""
    columns = [np.bincount(codes, weights=array[:, w], minlength=n) for w in range(array.shape[1])]
    stacked = np.stack(columns, axis=1) if columns else np.zeros((n, 0))
    return np.asarray(stacked, dtype=np.float32)


def _means(
    array: NDArray[np.float32], weight: NDArray[np.float32], codes: NDArray[np.int64], n: int
) -> NDArray[np.float32]:
    """Average the rows of each code, 0 where none has a weight; returns [n, weeks]."""
    whole = np.maximum(_sums(weight, codes, n), 1e-9)
    return np.asarray(_sums(array * weight, codes, n) / whole, dtype=np.float32)
