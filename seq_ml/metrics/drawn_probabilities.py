"""The numbers of `seq_ml.metrics.probabilities` on many resamples: sorted once, drawn often."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from seq_ml.metrics.bootstrap import ratio_of_sums

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from seq_ml.metrics.bootstrap import Drawn

    Array = NDArray[np.float64]
    Of = Callable[[Drawn], Array]

EPSILON = 1e-6
"""Probabilities are kept so far from 0 and 1 before a logarithm is taken."""
TOP = 0.1
"""Share of the scores whose lift is told."""


class Ranking:
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

    def roc_aucs(self, drawn: Drawn) -> Array:
        """Return the ROC-AUC of each draw [draws]."""
        before, after, began, ended = self.steps(drawn)
        size, positives = self.total(drawn)
        negatives = size - positives
        below = negatives[:, None] - (began - before + ended - after) / 2
        area = ((after - before) * below).sum(axis=1)
        return np.asarray(area / (positives * negatives))

    def pr_aucs(self, drawn: Drawn) -> Array:
        """Return the average precision of each draw [draws]."""
        before, after, _, ended = self.steps(drawn)
        precision = after / np.maximum(ended, 1e-9)
        return np.asarray(((after - before) * precision).sum(axis=1) / self.total(drawn)[1])

    def lifts(self, drawn: Drawn) -> Array:
        """Return the lift of the top `TOP` of each draw [draws]."""
        size, positives = self.total(drawn)
        top, found = self.top(drawn, TOP)
        return np.asarray((found / top) / (positives / size))

    def accuracies(self, drawn: Drawn) -> Array:
        """Return the share of each draw that is rightly sorted [draws]."""
        size, positives, flags, hits = self.flagged(drawn)
        return (size - positives - flags + 2 * hits) / size

    def precisions(self, drawn: Drawn) -> Array:
        """Return the share of positives among the flagged of each draw [draws]."""
        _, _, flags, hits = self.flagged(drawn)
        return hits / flags

    def recalls(self, drawn: Drawn) -> Array:
        """Return the share of the positives that are flagged, of each draw [draws]."""
        _, positives, _, hits = self.flagged(drawn)
        return hits / positives

    def f1s(self, drawn: Drawn) -> Array:
        """Return the harmonic mean of precision and recall of each draw [draws]."""
        _, positives, flags, hits = self.flagged(drawn)
        return 2 * hits / (flags + positives)


def of_ranking(told: Callable[[Ranking, Drawn], Array]) -> Callable[[Array, Array], Of]:
    """Return `Metric.weighted` of a number that a ranking tells."""

    def weighted(label: Array, score: Array) -> Of:
        ranking = Ranking(label, score)

        def of(drawn: Drawn) -> Array:
            with np.errstate(invalid="ignore", divide="ignore"):  # 0 / 0: one class was drawn
                return np.asarray(told(ranking, drawn), dtype=np.float64)

        return of

    return weighted


def mean_of(error: Callable[[Array, Array], Array]) -> Callable[[Array, Array], Of]:
    """Return `Metric.weighted` of the mean of an error (label, prediction → [rows])."""

    def weighted(label: Array, p: Array) -> Of:
        many = ratio_of_sums(lambda *_: (error(label, p), np.ones(len(p))))
        of: Of = many(None, p)
        return of

    return weighted


def nats(label: Array, probability: Array) -> Array:
    """Return the negative log-likelihood of each label [n].

    >>> nats(np.array([1.0, 0.0]), np.array([0.5, 0.5])).round(3).tolist()
    [0.693, 0.693]
    """
    p = np.clip(probability, EPSILON, 1 - EPSILON)
    return np.asarray(-(label * np.log(p) + (1 - label) * np.log1p(-p)))
