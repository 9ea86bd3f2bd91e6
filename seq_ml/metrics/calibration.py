"""Turn scores into probabilities, and look at how well probabilities hold.

Platt scaling (Platt 1999) is a logistic curve of one score: two numbers, monotone, right for small
samples.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from seq_ml.metrics.bootstrap import Z, wilson

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

"""Half the width of a 95 % interval in standard errors."""


def sigmoid(x: Array) -> Array:
    """Return 1 / (1 + e^−x), without overflow.

    >>> sigmoid(np.array([-1000.0, 0.0, 1000.0])).tolist()
    [0.0, 0.5, 1.0]
    """
    return np.asarray(np.exp(-np.logaddexp(0.0, -x)), dtype=np.float64)


def logit(p: Array) -> Array:
    """Return log(p / (1 − p)), p kept off 0 and 1.

    >>> logit(np.array([0.0, 0.5, 0.9])).round(2).tolist()
    [-13.82, 0.0, 2.2]
    """
    p = np.clip(p, 1e-6, 1 - 1e-6)
    return np.asarray(np.log(p) - np.log1p(-p), dtype=np.float64)


@dataclass
class Platt:
    """p = sigmoid(slope × score + intercept).

    >>> curve = Platt()
    >>> curve.fit(score=np.array([1.0, 2.0, 3.0, 4.0]), label=np.array([0.0, 0.0, 1.0, 1.0]))
    >>> curve.predict(np.array([1.0, 2.5, 4.0])).round(2).tolist()
    [0.2, 0.5, 0.8]
    """

    slope: float = 1.0
    intercept: float = 0.0

    def fit(self, score: Array, label: Array) -> None:
        """Fit by maximum likelihood on the targets of Platt, which keep p off 0 and 1."""
        from scipy.optimize import minimize

        centre, scale = float(score.mean()), float(score.std()) or 1.0
        z = (score - centre) / scale
        positives, negatives = float(label.sum()), float(len(label) - label.sum())
        target = np.where(label > 0, (positives + 1) / (positives + 2), 1 / (negatives + 2))

        def loss(theta: Array) -> tuple[float, Array]:
            linear = theta[0] * z + theta[1]
            residual = sigmoid(linear) - target
            value = np.mean(np.logaddexp(0.0, linear) - target * linear)
            return float(value), np.array([np.mean(residual * z), np.mean(residual)])

        start = np.array([0.0, np.log((positives + 1) / (negatives + 1))])
        slope, intercept = minimize(loss, start, jac=True, method="L-BFGS-B").x
        self.slope = float(slope / scale)
        self.intercept = float(intercept - slope * centre / scale)

    def predict(self, score: Array) -> Array:
        """Return probabilities [n]."""
        return sigmoid(self.slope * score + self.intercept)

    def state(self) -> dict[str, Any]:
        """Return slope and intercept."""
        return {"slope": self.slope, "intercept": self.intercept}


@dataclass(frozen=True)
class Reliability:
    """One bin of the reliability curve: mean prediction, mean of the labels, examples.

    low, high: 95 % interval of the mean label; Wilson's (1927) for labels of 0 and 1, else normal.
    """

    predicted: float
    observed: float
    examples: int
    low: float
    high: float


def reliability(label: Array, probability: Array, bins: int = 10) -> list[Reliability]:
    """Return the reliability curve over bins of equal size, lowest predictions first.

    >>> label, probability = np.array([0.0, 1, 1, 1]), np.array([0.2, 0.3, 0.7, 0.8])
    >>> [(bin.predicted, bin.observed) for bin in reliability(label, probability, bins=2)]
    [(0.25, 0.5), (0.75, 1.0)]
    """
    order = np.argsort(probability, kind="stable")
    parts = np.array_split(order, min(bins, len(order))) if len(order) else []
    binary = bool(np.isin(label, (0, 1)).all())
    return [
        Reliability(
            float(probability[part].mean()),
            float(label[part].mean()),
            len(part),
            *(wilson(float(label[part].mean()), len(part)) if binary else _normal(label[part])),
        )
        for part in parts
    ]


def _normal(label: Array) -> tuple[float, float]:
    mean = float(label.mean())
    half = Z * float(label.std(ddof=1)) / np.sqrt(len(label)) if len(label) > 1 else float("nan")
    return mean - half, mean + half
