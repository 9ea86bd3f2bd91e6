"""The numbers that judge predictions: ranking, probabilities, top-k lists, forecasts.

Plain functions of arrays, and builders of `Metric` lists for the tasks. They are written out
because the bootstrap calls them thousands of times and scikit-learn spends a millisecond on checks
in each call; the tests compare them with those of scikit-learn and torchmetrics.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from seq_ml.tasks.task import Metric

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Array = NDArray[np.float64]

EPSILON = 1e-6
"""Probabilities are kept so far from 0 and 1 before a logarithm is taken."""


# --- binary labels --------------------------------------------------------------------------------


def roc_auc(label: Array, score: Array) -> float:
    """Return P(a positive ranks above a negative), ties count half; NaN for one class."""
    positives = float(label.sum())
    negatives = len(label) - positives
    if positives == 0 or negatives == 0:
        return float("nan")
    hits, false_alarms = _curve(label, score)
    return float(np.trapezoid(hits, false_alarms) / (positives * negatives))


def pr_auc(label: Array, score: Array) -> float:
    """Average precision: Σ (recall step × precision), ties as one step; NaN without a positive."""
    positives = float(label.sum())
    if positives == 0:
        return float("nan")
    hits, false_alarms = _curve(label, score)
    precision = hits[1:] / (hits[1:] + false_alarms[1:])
    return float(np.diff(hits) @ precision / positives)


def brier(label: Array, probability: Array) -> float:
    """Mean squared error of a probability (Brier 1950)."""
    return float(np.mean((label - probability) ** 2)) if len(label) else float("nan")


def log_loss(label: Array, probability: Array) -> float:
    """Mean negative log-likelihood, nats."""
    p = np.clip(probability, EPSILON, 1 - EPSILON)
    return float(-np.mean(label * np.log(p) + (1 - label) * np.log1p(-p)))


def ece(label: Array, probability: Array, bins: int = 10) -> float:
    """Return the expected calibration error, equal-size bins: Σ share × |mean label − mean p|."""
    if not len(label):
        return float("nan")
    order = np.argsort(probability, kind="stable")
    edges = np.linspace(0, len(label), min(bins, len(label)) + 1).astype(np.int64)
    gap = np.add.reduceat(label[order] - probability[order], edges[:-1])
    return float(np.abs(gap).sum() / len(label))


def lift(label: Array, score: Array, share: float = 0.1) -> float:
    """Rate among the top `share` of the scores over the rate among all; NaN without a positive."""
    if not label.sum():
        return float("nan")
    top = max(1, round(share * len(label)))
    order = np.argsort(-score, kind="stable")[:top]
    return float(label[order].mean() / label.mean())


def flagged(probability: Array) -> NDArray[np.bool_]:
    """Return who is above the mean prediction: the threshold of the four metrics below.

    It is what a probability says without a cost being known: likelier than the average. No label
    is looked at, and it moves with the base rate (at 0.5 nobody is flagged where few respond).
    """
    if not len(probability):
        return np.zeros(0, dtype=np.bool_)
    mean = probability.mean() * (1 + 1e-9)  # equal predictions differ from their mean by rounding
    return np.asarray(probability > mean, dtype=np.bool_)


def accuracy(label: Array, probability: Array) -> float:
    """Share of examples that were rightly flagged or rightly not; NaN without any."""
    return float(np.mean((label > 0) == flagged(probability))) if len(label) else float("nan")


def precision(label: Array, probability: Array) -> float:
    """Share of positives among the flagged; NaN when nobody is flagged."""
    chosen = flagged(probability)
    return float(label[chosen].mean()) if chosen.any() else float("nan")


def recall(label: Array, probability: Array) -> float:
    """Share of the positives that are flagged; NaN without a positive."""
    total = float(label.sum())
    return float(label[flagged(probability)].sum()) / total if total else float("nan")


def f1(label: Array, probability: Array) -> float:
    """Harmonic mean of precision and recall; NaN without a positive or a flag."""
    chosen = flagged(probability)
    both = float(chosen.sum() + label.sum())
    return 2 * float(label[chosen].sum()) / both if both else float("nan")


def binary_metrics() -> list[Metric]:
    """Metrics of a task whose label is 0/1 and whose prediction is a probability [n].

    accuracy, precision, recall and f1 flag whoever is predicted above the mean (see `flagged`).
    """
    above = "flagged = predicted above the mean"
    why = "That threshold needs no cost and no label, and moves with the base rate."
    return [
        _binary(
            "roc_auc",
            roc_auc,
            higher=True,
            description="Chance that a positive ranks above a negative; by chance 0.5.",
        ),
        _binary(
            "pr_auc",
            pr_auc,
            higher=True,
            description="Average precision; by chance the share of positives.",
        ),
        _binary("brier", brier, higher=False, description="Mean squared error of the probability."),
        _binary("log_loss", log_loss, higher=False, description="Negative log-likelihood, nats."),
        _binary(
            "ece",
            ece,
            higher=False,
            description="Mean gap of predicted and observed share, ten equal bins.",
        ),
        _binary(
            "lift_at_10",
            lift,
            higher=True,
            description="Positives in the top 10 %, against the average.",
        ),
        _binary("accuracy", accuracy, higher=True, description=f"Rightly sorted; {above}. {why}"),
        _binary("precision", precision, higher=True, description=f"Positives of flagged; {above}."),
        _binary("recall", recall, higher=True, description=f"Positives found; {above}."),
        _binary("f1", f1, higher=True, description=f"Of precision and recall; {above}."),
    ]


def _binary(
    name: str, function: Callable[[Array, Array], float], *, higher: bool, description: str
) -> Metric:
    return Metric(
        name, higher, lambda examples, p: function(labels(examples), p), description=description
    )


def labels(examples: pl.DataFrame) -> Array:
    """Return the column `label` as f64 [n]."""
    return examples["label"].cast(pl.Float64).to_numpy()


def _curve(label: Array, score: Array) -> tuple[Array, Array]:
    """Cumulated positives and negatives down the ranking, one point per distinct score, from 0."""
    order = np.argsort(-score, kind="stable")
    ranked = score[order]
    ends = np.append(np.flatnonzero(np.diff(ranked)), len(ranked) - 1)
    hits = np.cumsum(label[order])[ends]
    return np.append(0.0, hits), np.append(0.0, ends + 1 - hits)


# --- top-k lists per user -------------------------------------------------------------------------


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


# --- forecasts ------------------------------------------------------------------------------------


def pinball(actual: Array, quantile: Array, level: float) -> Array:
    """Pinball loss of each forecast quantile [n] (Koenker & Bassett 1978)."""
    gap = actual - quantile
    return np.maximum(level * gap, (level - 1) * gap)


def weighted_quantile_loss(actual: Array, quantile: Array, level: float) -> float:
    """WQL = 2 Σ pinball / Σ actual; NaN when nothing was sold."""
    return _ratio(2 * float(pinball(actual, quantile, level).sum()), actual)


def wape(actual: Array, forecast: Array) -> float:
    """WAPE = Σ |error| / Σ actual; NaN when nothing was sold."""
    return _ratio(float(np.abs(forecast - actual).sum()), actual)


def bias(actual: Array, forecast: Array) -> float:
    """Σ (forecast − actual) / Σ actual: positive when too much is forecast."""
    return _ratio(float((forecast - actual).sum()), actual)


def coverage(actual: Array, quantile: Array) -> float:
    """Share of actuals at or below the forecast quantile."""
    return float(np.mean(actual <= quantile)) if len(actual) else float("nan")


def _ratio(numerator: float, actual: Array) -> float:
    total = float(actual.sum())
    return numerator / total if total else float("nan")
