"""The numbers that judge probabilities of a 0/1 label.

They are written out because the bootstrap calls them thousands of times and scikit-learn spends a
millisecond on checks in each call; the tests compare them with those of scikit-learn and
torchmetrics.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from seq_ml.metrics.bootstrap import ratio_of_sums
from seq_ml.metrics.calibration import (
    calibration_error,
    calibration_intercept,
    calibration_slope,
    gaps_of_bins,
    intercepts,
    slopes,
)
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
EPSILON = 1e-6
"""Probabilities are kept so far from 0 and 1 before a logarithm is taken."""
TOP = 0.1
"""Share of the scores whose lift is told."""


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
            _of_ranking(_roc_aucs),
            higher=True,
            description="Chance that a positive ranks above a negative; by chance 0.5.",
        ),
        _binary(
            "pr_auc",
            pr_auc,
            _of_ranking(_pr_aucs),
            higher=True,
            description="Average precision; by chance the share of positives.",
        ),
        _binary(
            "brier",
            brier,
            _mean_of(lambda label, p: (label - p) ** 2),
            description="Mean squared error of the probability.",
        ),
        _binary(
            "log_loss", log_loss, _mean_of(_nats), description="Negative log-likelihood, nats."
        ),
        *calibration_metrics(),
        _binary(
            "lift_at_10",
            lift,
            _of_ranking(_lifts),
            higher=True,
            description="Positives in the top 10 %, against the average.",
        ),
        _binary(
            "accuracy",
            accuracy,
            _of_ranking(_accuracies),
            higher=True,
            description=f"Rightly sorted; {above}. {why}",
        ),
        _binary(
            "precision",
            precision,
            _of_ranking(_precisions),
            higher=True,
            description=f"Positives of flagged; {above}.",
        ),
        _binary(
            "recall",
            recall,
            _of_ranking(_recalls),
            higher=True,
            description=f"Positives found; {above}.",
        ),
        _binary(
            "f1",
            f1,
            _of_ranking(_f1s),
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


# --- the same on many resamples at once -----------------------------------------------------------


class _Ranking:
    """A ranking by score, sorted once, and what it reaches on many resamples."""

    def __init__(self, label: Array, score: Array) -> None:
        self.score = score
        order = np.argsort(-score, kind="stable")
        self.order, self.ranked, self.positive = order, score[order], label[order] > 0
        self.hits_to = np.cumsum(self.positive)  # positive rows down to each row, as they are
        new = np.append(True, self.ranked[1:] != self.ranked[:-1])
        points = np.unique(np.cumsum(new)[self.positive]) - 1  # distinct scores of positives
        self.first = np.flatnonzero(new)[points]
        self.last = np.append(np.flatnonzero(new)[1:], len(order))[points] - 1

    def reached(self, drawn: Drawn) -> tuple[Array, Array, Array]:
        """Tell how often each row was drawn, down the ranking, and cumulate, for all metrics once.

        Rows [draws, rows], the same cumulated, and positives cumulated from 0
        [draws, positive rows + 1].
        """
        key = id(self.score)
        if key not in drawn.kept:
            counts = drawn.units.take(drawn.unit_of[self.order], axis=1)
            hits = np.zeros((len(counts), np.count_nonzero(self.positive) + 1))
            counts[:, self.positive].cumsum(axis=1, out=hits[:, 1:])
            drawn.kept[key] = counts, counts.cumsum(axis=1), hits
        found: tuple[Array, Array, Array] = drawn.kept[key]
        return found

    def steps(self, drawn: Drawn) -> tuple[Array, Array, Array, Array]:
        """Positives and examples before and after each distinct score of a positive.

        The curves rise there alone. Each [draws, points].
        """
        counts, every, hits = self.reached(drawn)
        after = hits.take(self.hits_to[self.last], axis=1)
        before = np.hstack([hits[:, :1], after[:, :-1]]) if after.size else after
        began = every.take(self.first, axis=1) - counts.take(self.first, axis=1)
        return before, after, began, every.take(self.last, axis=1)

    def total(self, drawn: Drawn) -> tuple[Array, Array]:
        """Examples and positives, each [draws]."""
        _, every, hits = self.reached(drawn)
        return every[:, -1], hits[:, -1]

    def flagged(self, drawn: Drawn) -> tuple[Array, Array, Array, Array]:
        """As `flagged`: examples and positives, of all and of the flagged ones, each [draws]."""
        _, every, hits = self.reached(drawn)
        size, positives = self.total(drawn)
        with np.errstate(invalid="ignore"):
            mean = drawn.units @ drawn.by_unit(self.score) / size * (1 + 1e-9)
        above = np.searchsorted(-self.ranked, -mean)
        row, last = np.arange(len(every)), np.maximum(above - 1, 0)
        return (
            size,
            positives,
            np.where(above > 0, every[row, last], 0.0),
            np.where(above > 0, hits[row, self.hits_to[last]], 0.0),
        )

    def top(self, drawn: Drawn, share: float) -> tuple[Array, Array]:
        """As `lift`: how many are the top `share`, and the positives among them, each [draws]."""
        _, every, hits = self.reached(drawn)
        wanted = np.maximum(np.rint(share * every[:, -1]), 1)
        last = np.minimum((every < wanted[:, None]).sum(axis=1), len(self.order) - 1)
        row, positive = np.arange(len(every)), self.positive[last]
        over = every[row, last] - wanted  # of the last row not all copies are among them
        return wanted, hits[row, self.hits_to[last]] - np.where(positive, over, 0.0)


def _of_ranking(told: Callable[[_Ranking, Drawn], Array]) -> Callable[[Array, Array], Of]:
    def weighted(label: Array, score: Array) -> Of:
        ranking = _Ranking(label, score)

        def of(drawn: Drawn) -> Array:
            with np.errstate(invalid="ignore", divide="ignore"):  # 0 / 0: one class was drawn
                return np.asarray(told(ranking, drawn), dtype=np.float64)

        return of

    return weighted


def _roc_aucs(ranking: _Ranking, drawn: Drawn) -> Array:
    before, after, began, ended = ranking.steps(drawn)
    size, positives = ranking.total(drawn)
    negatives = size - positives
    below = negatives[:, None] - (began - before + ended - after) / 2
    area = ((after - before) * below).sum(axis=1)
    return np.asarray(area / (positives * negatives))


def _pr_aucs(ranking: _Ranking, drawn: Drawn) -> Array:
    before, after, _, ended = ranking.steps(drawn)
    precision = after / np.maximum(ended, 1e-9)
    return np.asarray(((after - before) * precision).sum(axis=1) / ranking.total(drawn)[1])


def _lifts(ranking: _Ranking, drawn: Drawn) -> Array:
    size, positives = ranking.total(drawn)
    top, found = ranking.top(drawn, TOP)
    return np.asarray((found / top) / (positives / size))


def _accuracies(ranking: _Ranking, drawn: Drawn) -> Array:
    size, positives, flags, hits = ranking.flagged(drawn)
    return (size - positives - flags + 2 * hits) / size


def _precisions(ranking: _Ranking, drawn: Drawn) -> Array:
    _, _, flags, hits = ranking.flagged(drawn)
    return hits / flags


def _recalls(ranking: _Ranking, drawn: Drawn) -> Array:
    _, positives, _, hits = ranking.flagged(drawn)
    return hits / positives


def _f1s(ranking: _Ranking, drawn: Drawn) -> Array:
    _, positives, flags, hits = ranking.flagged(drawn)
    return 2 * hits / (flags + positives)


def _mean_of(error: Callable[[Array, Array], Array]) -> Callable[[Array, Array], Of]:
    def weighted(label: Array, p: Array) -> Of:
        many = ratio_of_sums(lambda *_: (error(label, p), np.ones(len(p))))
        of: Of = many(None, p)
        return of

    return weighted


def _nats(label: Array, probability: Array) -> Array:
    p = np.clip(probability, EPSILON, 1 - EPSILON)
    return np.asarray(-(label * np.log(p) + (1 - label) * np.log1p(-p)))


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
