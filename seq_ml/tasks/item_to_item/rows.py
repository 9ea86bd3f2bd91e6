"""Items beside an item: what goes into the same basket, and what its buyers take instead of it.

Bought together: score = share of the item's baskets that hold the other one too (the confidence of
association rules, Agrawal et al. 1993), of pairs that meet clearly more often than by chance.
Alternatives: score = share of the item's buyers who also bought the other one, which is of the same
category. Confidence was chosen on an earlier month, by the checks below, over cosine, lift and
likeness of company: they find rarer pairs, but less of what people do next.

Both are judged behind an instant that they were counted before: do later baskets with the item hold
the others; and who turns to another item of a category, does he turn to an alternative?
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from scipy import sparse

from seq_ml.tasks.behaviour.assortment import best_variants

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from seq_ml.periods import Periods
    from seq_ml.tasks.behaviour.assortment import Assortment


COLUMNS = ("item_id", "kind", "rank", "other_item_id", "score", "both", "lift")
TOGETHER, ALTERNATIVE = "bought_together", "alternative"
TOP = 10
MIN_BASKETS = 20
"""An item in fewer baskets says nothing reliable about its company."""
MIN_BOTH = 3
MIN_LIFT = 1.5
MAX_ITEMS = 50_000
"""The most bought items that are looked at."""
MAX_BASKET = 200
"""Pairs grow with the square of a basket: of larger ones (a caterer's) none are counted."""
ITEMS_AT_ONCE = 1024
"""Items whose pairs are held at once; of a larger category the most bought ones."""


def rests_on(periods: Periods) -> pl.Expr:
    """Say what the rows rest on, as those of other tables do."""
    days = "history" if periods.history_days is None else f"{periods.history_days} days of history"
    return pl.lit(f"{days}, baskets and users counted, nothing predicted")


def lists_beside(
    purchases: Iterable[pl.DataFrame], sold: pl.DataFrame, range_: Assortment, stock: pl.DataFrame
) -> pl.DataFrame:
    """Return `item_to_item` of the range, for every item, without what is discontinued.

    purchases: of `merchandise_bought`, some users after another. sold: items of `Sales`. stock: of
    `shelves`. Products keep company: each variant of one has its list, which names of another
    product the variant in stock that sells best.
    """
    bought = (part.with_columns(range_.product) for part in purchases)
    listed = item_to_item(bought, range_.products, range_.hidden)
    if not range_.variants.height:
        return listed
    best = best_variants(sold, range_, stock).unique("product", keep="first", maintain_order=True)
    each = range_.variants.rename({"item_id": "variant", "product_id": "item_id"})
    return (
        listed.join(each, on="item_id", how="left")
        .with_columns(
            pl.coalesce("variant", "item_id").alias("item_id"),
            pl.col("other_item_id").replace(best["product"], best["variant"]),
        )
        .select(COLUMNS)
        .sort("item_id", "kind", "rank")
    )


def item_to_item(
    purchases: Iterable[pl.DataFrame], catalogue: pl.DataFrame, hidden: pl.Series | None = None
) -> pl.DataFrame:
    """Return the best `TOP` items of each kind beside each item.

    purchases: user_id, item_id, basket (str), a user in one part only. catalogue: item_id,
    category, an item once. hidden: ids of items that are not named beside others. Columns:
    item_id, kind, rank (i32), other_item_id, score (f64, comparable within an item and kind), both
    (i64: baskets or users with both items), lift (f64: `both` over what chance would give); sorted
    by item_id, kind and rank. An item without company has no rows.
    """
    rows, items = _coded(purchases)
    if not len(items):
        return _listed([], items)
    baskets = _having(rows, "basket", items)
    shown = np.ones(len(items), dtype=bool)
    if hidden is not None:
        shown = ~items.is_in(hidden.implode()).to_numpy()
    others = baskets.T.tocsr()
    parts = []
    for start in range(0, len(items), ITEMS_AT_ONCE):
        some = np.arange(start, min(start + ITEMS_AT_ONCE, len(items)))
        parts.append(_pairs(baskets, some, np.arange(len(items)), others, shown, TOGETHER))
    sizes = np.diff(baskets.indptr)
    del baskets, others
    buyers = _having(rows, "user", items)
    for members, category in _categories(items, catalogue, sizes):
        others = buyers[members].T.tocsr()
        parts.append(_pairs(buyers, members, members, others, shown, ALTERNATIVE, category))
    return _listed(parts, items)


def distinct(purchases: pl.DataFrame) -> pl.DataFrame:
    """Return user_id, item_id, basket once each, without the baskets that are too large."""
    rows = purchases.select("user_id", "item_id", "basket").drop_nulls().unique()
    return rows.filter(pl.len().over("basket") <= MAX_BASKET)


def told_of(items: pl.DataFrame) -> pl.DataFrame:
    """Return the items (item_id and others, n: baskets) whose company can be told."""
    enough = items.filter(pl.col("n") >= MIN_BASKETS)
    return enough.sort(["n", "item_id"], descending=[True, False]).head(MAX_ITEMS)


def _coded(parts: Iterable[pl.DataFrame]) -> tuple[pl.DataFrame, pl.Series]:
    """Return the purchases of items with enough baskets: item, basket, user (u32), and the items.

    Codes in the place of names: twelve bytes a purchase, of all users. item: position in the items,
    which are sorted.
    """
    names = pl.Series(dtype=pl.String)
    coded = [pl.DataFrame(schema=dict.fromkeys(("item", "basket", "user"), pl.UInt32))]
    first = {"basket": 0, "user": 0}
    for part in parts:
        rows = distinct(part)
        names = pl.concat([names, rows["item_id"].unique()]).unique(maintain_order=True)
        codes = {"item": positions(rows["item_id"], names)}
        for unit, column in (("basket", "basket"), ("user", "user_id")):
            units = rows[column].unique()
            codes[unit] = positions(rows[column], units) + first[unit]
            first[unit] += len(units)
        coded.append(pl.DataFrame(codes).cast(pl.UInt32))
    every = pl.concat(coded)
    sizes = every.group_by("item").len("n")
    known = told_of(sizes.with_columns(item_id=names.gather(sizes["item"]))).sort("item_id")
    place = np.full(len(names), -1)
    place[known["item"].to_numpy()] = np.arange(known.height)
    every = every.with_columns(item=pl.Series(place[every["item"].to_numpy()], dtype=pl.Int32))
    return every.filter(pl.col("item") >= 0), known["item_id"]


def _having(rows: pl.DataFrame, unit: str, items: pl.Series) -> Any:
    """Who (or which basket) has which item: CSR of 0 and 1, f32 [items, units that have any]."""
    item, code = (rows[name].to_numpy().astype(np.int32) for name in ("item", unit))
    has = np.zeros(code.max() + 1, dtype=bool)
    has[code] = True
    column = (np.cumsum(has, dtype=np.int32) - 1)[code]
    ones = np.ones(len(item), dtype=np.float32)
    having = sparse.csr_matrix((ones, (item, column)), shape=(len(items), has.sum()))
    having.data[:] = 1  # what is there twice was added up
    return having


def positions(ids: pl.Series, known: pl.Series | list[str]) -> NDArray[np.int64]:
    """Position of each id in distinct known ones."""
    return ids.cast(pl.Enum(known)).to_physical().to_numpy().astype(np.int64)


def _categories(
    items: pl.Series, catalogue: pl.DataFrame, sizes: NDArray[np.int32]
) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Positions of the items of some categories at a time, and the category of each (a number).

    Of a category the `ITEMS_AT_ONCE` most bought ones; fewer than twice as many at a time. sizes:
    baskets of each item.
    """
    members = (
        pl.DataFrame({"item_id": items, "size": sizes})
        .with_row_index("item")
        .join(catalogue.select("item_id", "category"), on="item_id")
        .drop_nulls("category")
        .sort("size", "item", descending=[True, False])
        .filter(pl.int_range(pl.len()).over("category") < ITEMS_AT_ONCE)
        .sort("category", "size", "item", descending=[False, True, False])
        .with_columns(pl.col("category").rank("dense"), row=pl.int_range(pl.len()))
        .with_columns(part=pl.col("row").min().over("category") // ITEMS_AT_ONCE)
    )
    return [
        (found["item"].to_numpy().astype(np.int64), found["category"].to_numpy())
        for found in members.partition_by("part", maintain_order=True)
    ]


def _pairs(
    having: Any,
    rows: NDArray[np.int64],
    columns: NDArray[np.int64],
    others: Any,
    shown: NDArray[np.bool_],
    kind: str,
    category: NDArray[np.int64] | None = None,
) -> pl.DataFrame:
    """Best other items (of `columns`) beside each item of `rows`.

    having: of `_having`; others: of `columns`, CSR [units, columns]. shown: whether each item may
    be named. category: that of each row, where only pairs of one category count; rows and columns
    are alike.
    """
    counts = np.diff(having.indptr).astype(np.float64)
    met = (having[rows] @ others).tocoo()
    often = met.data >= MIN_BOTH  # of all pairs few
    row, column, both = met.row[often], met.col[often], met.data[often].astype(np.float64)
    item, other = rows[row], columns[column]
    lift = both * having.shape[1] / (counts[item] * counts[other])
    kept = (item != other) & shown[other]
    if kind == TOGETHER:
        kept &= lift >= MIN_LIFT
    if category is not None:
        kept &= category[row] == category[column]
    values = {"item": item, "other": other, "both": both, "lift": lift}
    return (
        pl.DataFrame({name: value[kept] for name, value in values.items()})
        .with_columns(score=pl.col("both") / pl.Series(counts)[pl.Series(item[kept])])
        .sort(["item", "score", "lift", "other"], descending=[False, True, True, False])
        .with_columns(rank=pl.int_range(1, pl.len() + 1, dtype=pl.Int32).over("item"))
        .filter(pl.col("rank") <= TOP)
        .with_columns(kind=pl.lit(kind))
    )


def _listed(parts: list[pl.DataFrame], items: pl.Series) -> pl.DataFrame:
    if not parts:
        texts = dict.fromkeys(("item_id", "kind", "other_item_id"), pl.String)
        numbers = {"rank": pl.Int32, "score": pl.Float64, "both": pl.Int64, "lift": pl.Float64}
        return pl.DataFrame(schema={**texts, **numbers}).select(COLUMNS)
    found = pl.concat(parts)
    return (
        found.with_columns(item_id=items[found["item"]], other_item_id=items[found["other"]])
        .cast({"both": pl.Int64})
        .select(COLUMNS)
        .sort("item_id", "kind", "rank")
    )
