"""The numbers that judge top-k lists, one value per list: NDCG, recall, hit rate, MRR, MAP.

The five functions are of arrays, whoever made the lists. `hits`: bool [lists, k], best place first,
whether something relevant stands there (an empty place is no hit). `relevant`: how many relevant
things there were to find, i64 [lists], at least 1. Each returns f64 [lists].
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from seq_ml.metrics.metric import Metric

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Array = NDArray[np.float64]
    Hits = NDArray[np.bool_]
    Counts = NDArray[np.int64]


def ndcg(hits: Hits, relevant: Counts) -> Array:
    """Gain of the hits, discounted by place, over that of the ideal list (Järvelin & Kekäläinen).

    Binary relevance; the ideal list counts all that is relevant, also what is no candidate.

    >>> hits = np.array([[True, False, True], [False, False, False]])
    >>> ndcg(hits, relevant=np.array([2, 1])).round(3).tolist()
    [0.92, 0.0]
    """
    k = hits.shape[1]
    discount = 1 / np.log2(np.arange(2, k + 2))
    ideal = np.cumsum(discount)[np.minimum(relevant, k) - 1]
    # Added place by place, as the ideal is: the full list has 1, whatever lists stand beside it.
    return np.asarray(np.cumsum(hits * discount, axis=1)[:, -1] / ideal)


def recall(hits: Hits, relevant: Counts) -> Array:
    """Share of what is relevant that is in the list.

    >>> hits = np.array([[True, False, True], [False, False, False]])
    >>> recall(hits, relevant=np.array([4, 1])).tolist()
    [0.5, 0.0]
    """
    return np.asarray(hits.sum(axis=1) / relevant, dtype=np.float64)


def hit_rate(hits: Hits, _: Counts) -> Array:
    """1 where anything in the list is relevant, else 0.

    >>> hits = np.array([[True, False, True], [False, False, False]])
    >>> hit_rate(hits, np.array([2, 1])).tolist()
    [1.0, 0.0]
    """
    return np.asarray(hits.any(axis=1), dtype=np.float64)


def mrr(hits: Hits, _: Counts) -> Array:
    """1 / place of the first hit, 0 without a hit (Voorhees 1999).

    >>> mrr(np.array([[False, True, True]]), np.array([2])).tolist()
    [0.5]
    """
    return np.asarray(hits.any(axis=1) / (1 + hits.argmax(axis=1)))


def average_precision(hits: Hits, relevant: Counts) -> Array:
    """Σ precision at each hit / min(k, relevant).

    >>> hits = np.array([[True, False, True], [False, False, False]])
    >>> average_precision(hits, relevant=np.array([2, 1])).round(3).tolist()
    [0.833, 0.0]
    """
    k = hits.shape[1]
    precision = np.cumsum(hits, axis=1) / np.arange(1, k + 1)
    return np.asarray((precision * hits).sum(axis=1) / np.minimum(relevant, k))


def ranking_metrics(*, k: int, unit: str, relevant: str | None = None) -> list[Metric]:
    """NDCG, recall, hit rate, MRR and MAP of the first k of each unit's list, one value per unit.

    relevant: as in `per_unit`. Metrics: ndcg, recall, hit_rate, mrr, map, each with "_at_k".

    >>> [metric.name for metric in ranking_metrics(k=10, unit="user_id")]
    ['ndcg_at_10', 'recall_at_10', 'hit_rate_at_10', 'mrr_at_10', 'map_at_10']
    """
    return [
        Metric(
            f"{name}_at_{k}",
            True,
            partial(per_unit, measure, k=k, unit=unit, relevant=relevant),
            per_unit=True,
            description=description,
        )
        for name, measure, description in (
            ("ndcg", ndcg, f"Gain of the first {k}, discounted by place."),
            ("recall", recall, f"Share of what was wanted that is in the first {k}."),
            ("hit_rate", hit_rate, f"Lists with a hit in the first {k}."),
            ("mrr", mrr, f"1 / place of the first hit; 0 beyond {k}."),
            ("map", average_precision, f"Mean precision at the hits of the first {k}."),
        )
    ]


def per_unit(
    measure: Callable[[Hits, Counts], Array],
    examples: pl.DataFrame,
    score: Array,
    *,
    k: int,
    unit: str,
    relevant: str | None = None,
) -> pl.DataFrame:
    """Measure the first k rows of each unit, highest score first; returns (unit, value).

    relevant: column with the number of relevant items of the unit when not all of them are rows;
    else the positives among the rows. Units without any are left out. Ties are broken by the order
    of the rows.

    >>> examples = pl.DataFrame({"user_id": ["a", "a", "a", "b"], "label": [0, 1, 0, 1]})
    >>> score = np.array([0.3, 0.2, 0.1, 0.4])
    >>> per_unit(mrr, examples, score, k=10, unit="user_id").rows()
    [('a', 0.5), ('b', 1.0)]
    """
    first = (
        examples.select(
            unit=pl.col(unit),
            label=pl.col("label"),
            score=pl.Series(score),
            relevant=pl.col("label").sum().over(unit) if relevant is None else pl.col(relevant),
        )
        .filter(pl.col("relevant") > 0)
        # What is below the unit's k-th score need not be sorted; ties with it do.
        .filter(pl.col("score") >= pl.col("score").top_k(k).min().over("unit"))
        .sort("unit", "score", descending=[False, True], maintain_order=True)
        .with_columns(place=pl.int_range(pl.len()).over("unit"))
        .filter(pl.col("place") < k)
        .with_columns(row=pl.col("unit").rle_id())
    )
    lists = first.filter(pl.col("place") == 0)
    hits = np.zeros((lists.height, k), dtype=np.bool_)
    hits[first["row"], first["place"]] = first["label"] > 0
    values = measure(hits, lists["relevant"].cast(pl.Int64).to_numpy())
    return lists.select("unit", value=pl.Series(values, dtype=pl.Float64))


def list_hits(
    lists: pl.DataFrame, truth: pl.DataFrame, *, k: int
) -> tuple[pl.Series, Hits, Counts]:
    """Return the units of `truth` in order, their hits and what is relevant to them.

    lists: unit, items (list, best first, none twice); a unit without a list has no hit. truth:
    distinct pairs unit, item; other units are left out.

    >>> lists = pl.DataFrame({"unit": ["a"], "items": [["milk", "tea"]]})
    >>> truth = pl.DataFrame({"unit": ["a", "a", "b"], "item": ["tea", "rusk", "tea"]})
    >>> users, hits, relevant = list_hits(lists, truth, k=2)
    >>> hits.tolist(), relevant.tolist()
    ([[False, True], [False, False]], [2, 1])
    """
    units = truth.group_by("unit", maintain_order=True).len("relevant").with_row_index("row")
    right = (
        lists.select("unit", item=pl.col("items").list.head(k))
        .with_columns(place=pl.int_ranges(pl.col("item").list.len()))
        .explode("item", "place")
        .join(truth, on=["unit", "item"], how="semi")
        .join(units, on="unit")
    )
    hits = np.zeros((units.height, k), dtype=np.bool_)
    hits[right["row"], right["place"]] = True
    return units["unit"], hits, units["relevant"].cast(pl.Int64).to_numpy()
