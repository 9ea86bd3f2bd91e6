"""Series beside the items: the large items in the large stores, and whole categories."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from seq_ml.periods import MEMORY_WEEKS
from seq_ml.tasks.inventory.panel import (
    MIN_WEEKS,
    Panel,
    build_panel,
    weekly_purchases,
)
from seq_ml.tasks.inventory.stock import ALL_STORES

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime

    from numpy.typing import NDArray

    from seq_ml.tasks.data import TaskData

CATEGORY = "category:"
"""Begins the `item_id` of a series that is a whole category."""
LARGE_ITEMS, LARGE_STORES = 100, 20
"""Items × stores that get series of their own: those with the most units."""


def panels_of_levels(
    data: TaskData, as_of: datetime, items: Panel, origins: dict[int, datetime]
) -> Iterator[tuple[int, datetime, dict[str, Panel]]]:
    """Yield week, origin and the panel of each level for the origins (by number of known weeks).

    items: panel of the items as of `as_of`. What belongs together (categories, groups) and which
    series are large is what was known at the origin; what is merchandise, what is known at `as_of`.
    Categories are series of their own only where at least two were sold.
    """
    large = large_pairs(data, as_of, items, list(origins))
    pairs = None
    if wanted := [of for of in large.values() if of.height]:
        horizon = len(items.weeks) - items.n_weeks
        pairs = build_panel(data, as_of, horizon, pairs=pl.concat(wanted).unique())
    same, categories = None, None
    for week, origin in origins.items():
        # The catalogue only ever grows: as many rows are the same rows.
        now = int((data.items["valid_from"] < origin).sum()), min(week, MIN_WEEKS)
        if now != same:
            same, catalogue = now, data.items_known(origin)
            items = items.listed(catalogue)
            pairs = None if pairs is None else pairs.listed(catalogue)
            categories = category_panel(items, now[1])
        panels = {"item": items}
        if pairs is not None and large[week].height:
            panels["item_store"] = _among(pairs, large[week])
        sold = items.category[(items.units[:, :week] > 0).any(axis=1)]
        if categories is not None and len(np.unique(sold[sold >= 0])) > 1:
            panels["category"] = categories
        yield week, origin, panels


def large_pairs(
    data: TaskData, as_of: datetime, items: Panel, weeks: Sequence[int]
) -> dict[int, pl.DataFrame]:
    """Return item_id, store_id by week: items × stores with the most units in the memory before it.

    No rows where fewer than two stores are known: there the whole business is the store.
    """
    purchases, _, _ = weekly_purchases(data, as_of)
    of_stores = (
        purchases.drop_nulls("store_id")
        .group_by("store_id", "week")
        .agg(pl.col("units").sum())
        .collect(engine="streaming")
    )
    by_week = {}
    for week in weeks:
        first = max(0, week - MEMORY_WEEKS)
        sold = items.units[:, first:week].sum(axis=1, dtype=np.float64)
        largest = np.sort(np.argsort(-sold, kind="stable")[:LARGE_ITEMS])
        stores = (
            of_stores.filter(pl.col("week").is_between(first, week - 1))
            .group_by("store_id")
            .agg(pl.col("units").sum())
            .sort("units", "store_id", descending=[True, False])
            .head(LARGE_STORES)
            .select("store_id")
        )
        enough = stores.height > 1
        pairs = items.keys.select("item_id")[largest].join(stores, how="cross")
        by_week[week] = pairs if enough else pairs.clear()
    return by_week


def _among(panel: Panel, pairs: pl.DataFrame) -> Panel:
    """Return the series of a panel that are among the pairs of item_id and store_id."""
    wanted = panel.keys.join(
        pairs.with_columns(wanted=True), on=pairs.columns, how="left", maintain_order="left"
    )
    return panel.only(wanted["wanted"].fill_null(value=False).to_numpy())


def category_panel(panel: Panel, weeks: int = MIN_WEEKS) -> Panel:
    """Add up the items of each category; promotions are means over its items.

    The means weigh an item by its units in the first `weeks` weeks, which lie before the origin.
    """
    listed, n = panel.category >= 0, len(panel.categories)
    items, codes = panel.only(listed), panel.category[listed]
    weight = items.units[:, :weeks].sum(axis=1, keepdims=True, dtype=np.float32)
    return Panel(
        pl.DataFrame(
            {"item_id": [f"{CATEGORY}{name}" for name in panel.categories], "store_id": ALL_STORES},
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
        panel.categories,
    )


def _sums(array: NDArray[np.float32], codes: NDArray[np.int64], n: int) -> NDArray[np.float32]:
    """Add up the rows of each code in f64; returns [n, weeks]."""
    from scipy.sparse import csr_array

    rows = len(codes)
    of_code = csr_array((np.ones(rows), (codes, np.arange(rows))), shape=(n, rows))
    return np.asarray(of_code @ array, dtype=np.float32)


def _means(
    array: NDArray[np.float32], weight: NDArray[np.float32], codes: NDArray[np.int64], n: int
) -> NDArray[np.float32]:
    """Average the rows of each code, 0 where none has a weight; returns [n, weeks]."""
    whole = np.maximum(_sums(weight, codes, n), 1e-9)
    return np.asarray(_sums(array * weight, codes, n) / whole, dtype=np.float32)
