"""The numbers that judge predictions: ranking, probabilities, top-k lists, forecasts.

Plain functions of arrays, and builders of `Metric` lists for the tasks. The two areas under curves
are written out because the bootstrap calls them thousands of times and scikit-learn spends a
millisecond on checks in each call; the tests compare them with scikit-learn's.
"""

from __future__ import annotations

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


def binary_metrics() -> list[Metric]:
    """Metrics of a task whose label is 0/1 and whose prediction is a probability [n]."""
    return [
        _binary("roc_auc", roc_auc, higher=True, description="A positive ranks above a negative."),
        _binary("pr_auc", pr_auc, higher=True, description="Average precision."),
        _binary("brier", brier, higher=False, description="Mean squared error."),
        _binary("log_loss", log_loss, higher=False, description="Negative log-likelihood, nats."),
        _binary("ece", ece, higher=False, description="Calibration error, 10 equal-size bins."),
        _binary("lift_at_10", lift, higher=True, description="Rate in the top 10 % / rate in all."),
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


def ndcg_per_unit(
    examples: pl.DataFrame, score: Array, *, k: int, unit: str, relevant: str | None = None
) -> pl.DataFrame:
    """NDCG@k of each unit's ranking of its rows, binary relevance (Järvelin & Kekäläinen 2002).

    relevant: column with the number of relevant items of the unit when not all of them are rows
    (the ideal ranking counts them all); else the positives among the rows. Units without any are
    left out. Ties are broken by the order of the rows. Returns (unit, value).
    """
    ideal = np.append(0.0, np.cumsum(1 / np.log2(np.arange(2, k + 2))))
    return (
        _ranked(examples, score, unit, relevant)
        .group_by("unit")
        .agg(
            (
                pl.col("label").filter(pl.col("place") < k)
                / (pl.col("place").filter(pl.col("place") < k) + 2).log(2)
            ).sum(),
            pl.col("relevant").first(),
        )
        .filter(pl.col("relevant") > 0)
        .sort("unit")
        .select(
            "unit",
            value=pl.col("label")
            / pl.col("relevant")
            .clip(upper_bound=k)
            .replace_strict(range(k + 1), ideal, return_dtype=pl.Float64),
        )
    )


def recall_per_unit(
    examples: pl.DataFrame, score: Array, *, k: int, unit: str, relevant: str | None = None
) -> pl.DataFrame:
    """Recall@k of each unit: relevant items among its first k, over all its relevant items.

    Arguments and result as in `ndcg_per_unit`.
    """
    return (
        _ranked(examples, score, unit, relevant)
        .group_by("unit")
        .agg(
            pl.col("label").filter(pl.col("place") < k).sum(),
            pl.col("relevant").first(),
        )
        .filter(pl.col("relevant") > 0)
        .sort("unit")
        .select("unit", value=pl.col("label") / pl.col("relevant"))
    )


def _ranked(examples: pl.DataFrame, score: Array, unit: str, relevant: str | None) -> pl.DataFrame:
    frame = examples.select(
        unit=pl.col(unit),
        label=pl.col("label").cast(pl.Float64),
        score=pl.Series(score),
        relevant=pl.lit(None) if relevant is None else pl.col(relevant),
    ).with_columns(
        place=pl.col("score").rank("ordinal", descending=True).over("unit").cast(pl.Int64) - 1
    )
    if relevant is None:
        frame = frame.with_columns(relevant=pl.col("label").sum().over("unit"))
    return frame.with_columns(pl.col("relevant").cast(pl.Int64))


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
