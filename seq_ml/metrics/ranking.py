"""The numbers that judge top-k lists, one value per user: NDCG, recall, hit rate, MRR, MAP."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from seq_ml.metrics.metric import Metric

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]


def ranking_metrics(*, k: int, unit: str, relevant: str | None = None) -> list[Metric]:
    """NDCG, recall, hit rate, MRR and MAP of the first k of each unit's list, one value per unit.

    relevant: as in `ndcg_per_unit`. Metrics: ndcg, recall, hit_rate, mrr, map, each with "_at_k".
    """
    return [
        Metric(
            f"{name}_at_{k}",
            True,
            partial(function, k=k, unit=unit, relevant=relevant),
            per_unit=True,
            description=description,
        )
        for name, function, description in (
            ("ndcg", ndcg_per_unit, f"Gain of the first {k}, discounted by place."),
            ("recall", recall_per_unit, f"Share of what was wanted that is in the first {k}."),
            ("hit_rate", hit_rate_per_unit, f"Lists with a hit in the first {k}."),
            ("mrr", mrr_per_unit, f"1 / place of the first hit; 0 beyond {k}."),
            ("map", map_per_unit, f"Mean precision at the hits of the first {k}."),
        )
    ]


def ndcg_per_unit(
    examples: pl.DataFrame, score: Array, *, k: int, unit: str, relevant: str | None = None
) -> pl.DataFrame:
    """NDCG@k of each unit's ranking of its rows, binary relevance (Järvelin & Kekäläinen 2002).

    relevant: column with the number of relevant items of the unit when not all of them are rows
    (the ideal ranking counts them all); else the positives among the rows. Units without any are
    left out. Ties are broken by the order of the rows. Returns (unit, value).
    """
    ideal = np.append(0.0, np.cumsum(1 / np.log2(np.arange(2, k + 2))))
    best = (
        pl.col("relevant")
        .clip(upper_bound=k)
        .replace_strict(range(k + 1), ideal, return_dtype=pl.Float64)
    )
    return _per_unit(
        _first(examples, score, k, unit, relevant),
        (pl.col("label") / (pl.col("place") + 1).log(2)).sum() / best.first(),
    )


def recall_per_unit(
    examples: pl.DataFrame, score: Array, *, k: int, unit: str, relevant: str | None = None
) -> pl.DataFrame:
    """Recall@k of each unit: relevant items among its first k, over all its relevant items.

    Arguments and result as in `ndcg_per_unit`.
    """
    hits = pl.col("label").sum()
    return _per_unit(_first(examples, score, k, unit, relevant), hits / pl.col("relevant").first())


def hit_rate_per_unit(
    examples: pl.DataFrame, score: Array, *, k: int, unit: str, relevant: str | None = None
) -> pl.DataFrame:
    """HR@k of each unit: 1 where any of its first k is relevant, else 0.

    Arguments and result as in `ndcg_per_unit`.
    """
    hit = pl.col("label").max()
    return _per_unit(_first(examples, score, k, unit, relevant), hit)


def mrr_per_unit(
    examples: pl.DataFrame, score: Array, *, k: int, unit: str, relevant: str | None = None
) -> pl.DataFrame:
    """Reciprocal rank of each unit's first relevant item, 0 where it is beyond k (Voorhees 1999).

    Arguments and result as in `ndcg_per_unit`.
    """
    first = (pl.col("label") / pl.col("place")).max()
    return _per_unit(_first(examples, score, k, unit, relevant), first)


def map_per_unit(
    examples: pl.DataFrame, score: Array, *, k: int, unit: str, relevant: str | None = None
) -> pl.DataFrame:
    """AP@k of each unit: Σ precision at each hit of the first k / min(k, relevant items).

    Arguments and result as in `ndcg_per_unit`.
    """
    precision_there = pl.col("label").cum_sum() / pl.col("place")
    return _per_unit(
        _first(examples, score, k, unit, relevant),
        (precision_there * pl.col("label")).sum() / pl.col("relevant").first().clip(upper_bound=k),
    )


def _first(
    examples: pl.DataFrame, score: Array, k: int, unit: str, relevant: str | None
) -> pl.DataFrame:
    """First k rows of each unit, best first: unit, label, relevant, place (from 1).

    Units without a relevant item are left out.
    """
    frame = examples.select(
        unit=pl.col(unit),
        label=pl.col("label").cast(pl.Float64),
        score=pl.Series(score),
        relevant=pl.col("label").sum().over(unit) if relevant is None else pl.col(relevant),
    ).filter(pl.col("relevant") > 0)
    return (
        frame.with_columns(pl.col("relevant").cast(pl.Int64))
        .filter(pl.col("score") >= pl.col("score").top_k(k).min().over("unit"))
        .sort("unit", "score", descending=[False, True], maintain_order=True)
        .with_columns(place=pl.int_range(1, pl.len() + 1).over("unit"))
        .filter(pl.col("place") <= k)
    )


def _per_unit(first: pl.DataFrame, value: pl.Expr) -> pl.DataFrame:
    return first.group_by("unit", maintain_order=True).agg(value=value.cast(pl.Float64))
