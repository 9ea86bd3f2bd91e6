"""The numbers that judge predictions: ranking, probabilities, top-k lists, forecasts.

Plain functions of arrays, and builders of `Metric` lists for the tasks. They are written out
because the bootstrap calls them thousands of times and scikit-learn spends a millisecond on checks
in each call; the tests compare them with those of scikit-learn and torchmetrics.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]


# --- binary labels --------------------------------------------------------------------------------


# --- top-k lists per user -------------------------------------------------------------------------


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
