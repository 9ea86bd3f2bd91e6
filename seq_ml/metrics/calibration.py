"""Turn scores into probabilities, and look at how well probabilities hold.

Platt scaling (Platt 1999) is a logistic curve of one score: two numbers, monotone, right for small
samples. Three numbers say how probabilities held (Van Calster et al. 2019, "Calibration: the
Achilles heel of predictive analytics"): the intercept is how far they are too low on average, the
slope how far they are too close together, and the error how far each bin is off. The labels of a
bin scatter, so a plain error is above 0 for perfect probabilities, and more so on a resample: the
square of that scatter is taken off (Bröcker 2012; Kumar et al. 2019, "Verified uncertainty
calibration").
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from seq_ml.metrics.estimate import Z, wilson

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from seq_ml.metrics.bootstrap import Drawn

    Array = NDArray[np.float64]
    Of = Callable[[Drawn], Array]

BINS = 10
"""Bins of equal size, over which a calibration error is taken."""
NEWTON_STEPS, FURTHEST_STEP, RIDGE = 25, 2.0, 1e-9
"""Steps that find slope and intercept, none longer than so much; what keeps them finite."""


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


def calibration_error(label: Array, probability: Array) -> float:
    """Root of the mean squared gap of observed and predicted share, ten bins, without their noise.

    The noise is that of independent rows; 0 where no more than it is seen, NaN for under two rows.

    >>> label = np.tile([0.0, 0.0, 0.0, 1.0], 1000)
    >>> [round(calibration_error(label, np.full(4000, p)), 2) for p in (0.5, 0.25)]
    [0.25, 0.0]
    """
    if len(label) < 2:
        return float("nan")
    square = 0.0
    for rows in _bins(probability):
        gap, rate = (label[rows] - probability[rows]).mean(), label[rows].mean()
        noise = rate * (1 - rate) / max(len(rows) - 1, 1)
        square += len(rows) / len(label) * (gap**2 - noise)
    return float(np.sqrt(max(square, 0.0)))


def gaps_of_bins(label: Array, probability: Array) -> Of:
    """Return what gives each bin's gap × √ its share on many resamples [draws, bins].

    The bins are those of all rows.
    """
    gap, bins = label - probability, _bins(probability)
    of_bin = np.zeros((len(bins), len(label)))
    for number, rows in enumerate(bins):
        of_bin[number, rows] = 1.0

    summed = _summed([*(of_bin * gap), *of_bin])

    def of(drawn: Drawn) -> Array:
        gaps, counts = np.split(summed(drawn), 2, axis=1)
        return np.asarray(
            gaps / np.sqrt(np.maximum(counts, 1.0) * counts.sum(axis=1, keepdims=True))
        )

    return of


def calibration_slope(label: Array, probability: Array) -> float:
    """Return the weight of the log-odds in a logistic regression of the label; 1 is best.

    Below 1 the probabilities are too far apart. NaN for one class, or equal probabilities.

    >>> label, p = np.tile([0.0, 0.0, 0.0, 1.0, 0.0, 1.0, 1.0, 1.0], 9), np.repeat([0.1, 0.9], 4)
    >>> round(calibration_slope(label, np.tile(p, 9)), 2)
    0.5
    """
    return float(_recalibration(label, logit(probability), slope=True)[0])


def calibration_intercept(label: Array, probability: Array) -> float:
    """Return what must be added to the log-odds for as many positives as predicted; 0 is best.

    >>> label, p = np.tile([0.0, 0.0, 0.0, 1.0], 9), np.full(36, 0.25)
    >>> bool(abs(calibration_intercept(label, p)) < 1e-9)
    True
    """
    return float(_recalibration(label, logit(probability), slope=False)[1])


def slopes(label: Array, probability: Array) -> Of:
    """Return what gives the slope on many resamples [draws]."""
    return _one_step(label, probability, slope=True)


def intercepts(label: Array, probability: Array) -> Of:
    """Return what gives the intercept on many resamples [draws]."""
    return _one_step(label, probability, slope=False)


def _bins(probability: Array) -> list[NDArray[np.int64]]:
    """Return the rows of each bin, lowest probabilities first."""
    order = np.argsort(probability, kind="stable")
    return np.array_split(order, min(BINS, len(order))) if len(order) else []


def _recalibration(label: Array, x: Array, *, slope: bool) -> tuple[float, float]:
    """Slope and intercept of log-odds `x` by maximum likelihood; the slope is 1 where not asked."""
    nothing = float("nan"), float("nan")
    if not len(label) or not 0 < label.sum() < len(label) or (slope and np.ptp(x) < RIDGE):
        return nothing
    weights = np.array([1.0, 0.0])
    for _ in range(NEWTON_STEPS):
        moments = np.array([[values.sum() for values in _moments(label, x, weights)]])
        step = _step(moments, slope=slope)[0]
        weights = weights + np.clip(step, -FURTHEST_STEP, FURTHEST_STEP)
        if np.abs(step).max() < RIDGE:
            return float(weights[0]), float(weights[1])
    return nothing


def _one_step(label: Array, probability: Array, *, slope: bool) -> Of:
    """One step of Newton from the weights of all rows: near enough (Moulton & Zeger 1991)."""
    x = logit(probability)
    weights = np.array(_recalibration(label, x, slope=slope))
    if np.isnan(weights).any():
        return lambda drawn: np.full(len(drawn.units), np.nan)
    summed = _summed(_moments(label, x, weights))

    def of(drawn: Drawn) -> Array:
        found = weights + _step(summed(drawn), slope=slope)
        return np.asarray(found[:, 0 if slope else 1])

    return of


def _summed(values: Sequence[Array]) -> Of:
    """Return what sums numbers of the examples over what was drawn [draws, values].

    Of each unit they are summed once: all draws are of the same units.
    """
    by_unit: list[Array] = []

    def of(drawn: Drawn) -> Array:
        if not by_unit:
            by_unit.append(np.stack([drawn.by_unit(each) for each in values], axis=1))
        return np.asarray(drawn.units @ by_unit[0])

    return of


def _moments(label: Array, x: Array, weights: Array) -> list[Array]:
    """Score and curvature of the likelihood of slope and intercept, example by example."""
    p = sigmoid(weights[0] * x + weights[1])
    v = p * (1 - p)
    return [label - p, v, (label - p) * x, v * x, v * x * x]


def _step(moments: Array, *, slope: bool) -> Array:
    """Newton's step of slope and intercept, from sums of `_moments` [draws, 5] → [draws, 2]."""
    score, curve, score_x, vx, vxx = moments.T
    curve, vxx = curve + RIDGE, vxx + RIDGE
    if not slope:
        return np.stack([np.zeros(len(score)), score / curve], axis=1)
    steps = [curve * score_x - vx * score, vxx * score - vx * score_x]
    return np.asarray(np.stack(steps, axis=1) / (curve * vxx - vx**2)[:, None])


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
