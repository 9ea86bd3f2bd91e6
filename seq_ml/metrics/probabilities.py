"""The numbers that judge probabilities of a 0/1 label.

They are written out because the bootstrap calls them thousands of times and scikit-learn spends a
millisecond on checks in each call; the tests compare them with those of scikit-learn and
torchmetrics.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from seq_ml.metrics.calibration import (
    calibration_error,
    calibration_intercept,
    calibration_slope,
    gaps_of_bins,
    intercepts,
    slopes,
)
from seq_ml.metrics.drawn_probabilities import EPSILON, TOP, Ranking, mean_of, nats, of_ranking
from seq_ml.metrics.metric import Metric

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from seq_ml.metrics.bootstrap import Drawn

    Array = NDArray[np.float64]
    Of = Callable[[Drawn], Array]

ECE, LEVEL, SLOPE = "ece", "calibration_intercept", "calibration_slope"
"""The metrics that tell whether a probability holds: in each bin, and on average. Their intervals
hold 0 where it may."""


def roc_auc(label: Array, score: Array) -> float:
    """Return P(a positive ranks above a negative), ties count half; NaN for one class.

    >>> label, probability = np.array([0.0, 1, 0, 1]), np.array([0.1, 0.8, 0.4, 0.3])
    >>> roc_auc(label, probability)
    0.75
    """
    positives = float(label.sum())
    negatives = len(label) - positives
    if positives == 0 or negatives == 0:
        return float("nan")
    hits, false_alarms = _curve(label, score)
    return float(np.trapezoid(hits, false_alarms) / (positives * negatives))


def roc_auc_parts(label: Array, score: Array) -> tuple[float, Array]:
    """Return the ROC-AUC, and the part [n] of each row in its error.

    Squares of the parts add up to the variance; those of two scores of the same rows may be
    subtracted before: the paired variance (DeLong, DeLong & Clarke-Pearson 1988).

    >>> value, parts = roc_auc_parts(np.array([0.0, 1, 0, 1]), np.array([0.1, 0.8, 0.4, 0.3]))
    >>> value, parts.tolist()
    (0.75, [0.125, 0.125, -0.125, -0.125])
    """
    positive = label > 0
    hits, misses = np.sort(score[positive]), np.sort(score[~positive])
    below = np.empty(len(score))  # share of the other class below, ties count half
    for rows, others in ((positive, misses), (~positive, hits)):
        both = [np.searchsorted(others, score[rows], side) for side in ("left", "right")]
        below[rows] = (both[0] + both[1]) / (2 * len(others))
    value = float(below[positive].mean())
    below[~positive] = 1 - below[~positive]
    return value, (below - value) / np.where(positive, len(hits), len(misses))


def pr_auc(label: Array, score: Array) -> float:
    """Average precision: Σ (recall step × precision), ties as one step; NaN without a positive.

    >>> label, probability = np.array([0.0, 1, 0, 1]), np.array([0.1, 0.8, 0.4, 0.3])
    >>> round(pr_auc(label, probability), 3)
    0.833
    """
    positives = float(label.sum())
    if positives == 0:
        return float("nan")
    hits, false_alarms = _curve(label, score)
    precision = hits[1:] / (hits[1:] + false_alarms[1:])
    return float(np.diff(hits) @ precision / positives)


def brier(label: Array, probability: Array) -> float:
    """Mean squared error of a probability (Brier 1950).

    >>> brier(label=np.array([0.0, 1]), probability=np.array([0.5, 1.0]))
    0.125
    """
    return float(np.mean((label - probability) ** 2)) if len(label) else float("nan")


def log_loss(label: Array, probability: Array) -> float:
    """Mean negative log-likelihood, nats.

    >>> round(log_loss(label=np.array([0.0, 1]), probability=np.array([0.5, 0.5])), 3)
    0.693
    """
    p = np.clip(probability, EPSILON, 1 - EPSILON)
    return float(-np.mean(label * np.log(p) + (1 - label) * np.log1p(-p)))


def lift(label: Array, score: Array, share: float = TOP) -> float:
    """Rate among the top `share` of the scores over the rate among all; NaN without a positive.

    >>> lift(label=np.array([0.0, 0, 0, 1]), score=np.array([1.0, 2.0, 3.0, 4.0]), share=0.25)
    4.0
    """
    if not label.sum():
        return float("nan")
    top = max(1, round(share * len(label)))
    order = np.argsort(-score, kind="stable")[:top]
    return float(label[order].mean() / label.mean())


def flagged(probability: Array) -> NDArray[np.bool_]:
    """Return who is above the mean prediction: the threshold of the four metrics below.

    It is what a probability says without a cost being known: likelier than the average. No label
    is looked at, and it moves with the base rate (at 0.5 nobody is flagged where few respond).

    >>> flagged(np.array([0.1, 0.1, 0.1, 0.3])).tolist()
    [False, False, False, True]
    """
    if not len(probability):
        return np.zeros(0, dtype=np.bool_)
    mean = probability.mean() * (1 + 1e-9)  # equal predictions differ from their mean by rounding
    return np.asarray(probability > mean, dtype=np.bool_)


def accuracy(label: Array, probability: Array) -> float:
    """Share of examples that were rightly flagged or rightly not; NaN without any.

    >>> label, probability = np.array([0.0, 1, 0, 1]), np.array([0.1, 0.8, 0.4, 0.3])
    >>> accuracy(label, probability)
    0.75
    """
    return float(np.mean((label > 0) == flagged(probability))) if len(label) else float("nan")


def precision(label: Array, probability: Array) -> float:
    """Share of positives among the flagged; NaN when nobody is flagged.

    >>> label, probability = np.array([0.0, 1, 0, 1]), np.array([0.1, 0.8, 0.4, 0.3])
    >>> precision(label, probability)
    1.0
    """
    chosen = flagged(probability)
    return float(label[chosen].mean()) if chosen.any() else float("nan")


def recall(label: Array, probability: Array) -> float:
    """Share of the positives that are flagged; NaN without a positive.

    >>> label, probability = np.array([0.0, 1, 0, 1]), np.array([0.1, 0.8, 0.4, 0.3])
    >>> recall(label, probability)
    0.5
    """
    total = float(label.sum())
    return float(label[flagged(probability)].sum()) / total if total else float("nan")


def f1(label: Array, probability: Array) -> float:
    """Harmonic mean of precision and recall; NaN without a positive or a flag.

    >>> label, probability = np.array([0.0, 1, 0, 1]), np.array([0.1, 0.8, 0.4, 0.3])
    >>> round(f1(label, probability), 3)
    0.667
    """
    chosen = flagged(probability)
    both = float(chosen.sum() + label.sum())
    return 2 * float(label[chosen].sum()) / both if both else float("nan")


def binary_metrics() -> list[Metric]:
    """Metrics of a task whose label is 0/1 and whose prediction is a probability [n].

    accuracy, precision, recall and f1 flag whoever is predicted above the mean (see `flagged`).

    >>> [metric.name for metric in binary_metrics() if not metric.higher_is_better]
    ['brier', 'log_loss', 'ece']
    """
    above = "flagged = predicted above the mean"
    why = "That threshold needs no cost and no label, and moves with the base rate."
    return [
        _binary(
            "roc_auc",
            roc_auc,
            of_ranking(Ranking.roc_aucs),
            higher=True,
            description="Chance that a positive ranks above a negative; by chance 0.5.",
        ),
        _binary(
            "pr_auc",
            pr_auc,
            of_ranking(Ranking.pr_aucs),
            higher=True,
            description="Average precision; by chance the share of positives.",
        ),
        _binary(
            "brier",
            brier,
            mean_of(lambda label, p: (label - p) ** 2),
            description="Mean squared error of the probability.",
        ),
        _binary("log_loss", log_loss, mean_of(nats), description="Negative log-likelihood, nats."),
        *calibration_metrics(),
        _binary(
            "lift_at_10",
            lift,
            of_ranking(Ranking.lifts),
            higher=True,
            description="Positives in the top 10 %, against the average.",
        ),
        _binary(
            "accuracy",
            accuracy,
            of_ranking(Ranking.accuracies),
            higher=True,
            description=f"Rightly sorted; {above}. {why}",
        ),
        _binary(
            "precision",
            precision,
            of_ranking(Ranking.precisions),
            higher=True,
            description=f"Positives of flagged; {above}.",
        ),
        _binary(
            "recall",
            recall,
            of_ranking(Ranking.recalls),
            higher=True,
            description=f"Positives found; {above}.",
        ),
        _binary(
            "f1",
            f1,
            of_ranking(Ranking.f1s),
            higher=True,
            description=f"Of precision and recall; {above}.",
        ),
    ]


def calibration_metrics() -> list[Metric]:
    """Return how far a probability [n] of a 0/1 label is off: on average, in spread, in each bin.

    >>> [metric.name for metric in calibration_metrics()]
    ['calibration_slope', 'calibration_intercept', 'ece']
    """
    return [
        _binary(
            SLOPE,
            calibration_slope,
            slopes,
            higher=True,
            description="Of the log-odds; 1 is best, below it predictions are too far apart.",
        ),
        _binary(
            LEVEL,
            calibration_intercept,
            intercepts,
            higher=True,
            description="Log-odds that are missing on average; 0 is best, below it they are too "
            "high.",
        ),
        _binary(
            ECE,
            calibration_error,
            gaps_of_bins,
            gaps=True,
            description="Root mean squared gap of predicted and observed share, ten equal bins, "
            "without the noise of the labels.",
        ),
    ]


def _binary(
    name: str,
    function: Callable[[Array, Array], float],
    weighted: Callable[[Array, Array], Of],
    *,
    description: str,
    higher: bool = False,
    gaps: bool = False,
) -> Metric:
    return Metric(
        name,
        higher,
        lambda examples, p: function(labels(examples), p),
        description=description,
        weighted=lambda examples, p: weighted(labels(examples), p),
        gaps=gaps,
    )


def labels(examples: pl.DataFrame) -> Array:
    """Return the column `label` as f64 [n].

    >>> labels(pl.DataFrame({"label": [True, False]})).tolist()
    [1.0, 0.0]
    """
    return examples["label"].cast(pl.Float64).to_numpy()


def _curve(label: Array, score: Array) -> tuple[Array, Array]:
    """Cumulated positives and negatives down the ranking, one point per distinct score, from 0."""
    order = np.argsort(-score, kind="stable")
    ranked = score[order]
    ends = np.append(np.flatnonzero(np.diff(ranked)), len(ranked) - 1)
    hits = np.cumsum(label[order])[ends]
    return np.append(0.0, hits), np.append(0.0, ends + 1 - hits)
