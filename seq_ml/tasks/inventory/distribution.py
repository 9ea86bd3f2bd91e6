"""The distribution of demand that forecasters predict: moments, quantiles, what exceeds a stock.

Predictions are [n, 2 + quantiles]: mean, variance and the quantiles `QUANTILES` of the units over
the horizon. The quantiles are of the sum over the horizon, never sums of weekly quantiles.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from seq_ml.tasks.inventory.features import QUANTILES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Array = NDArray[np.float64]

MEAN, VARIANCE = 0, 1
QUANTILE_COLUMN = {q: 2 + i for i, q in enumerate(QUANTILES)}
SUMMED_MEAN = 50.0
"""Expected units up to which quantiles are found by adding up; beyond it P(0) gets too small."""
FALLEN = 0.5
"""Share of its mean of 26 weeks below which a series spreads less than it did in them."""


def own_variance(examples: pl.DataFrame, mean: Array) -> Array:
    """Variance of the last 26 weeks, over the horizon [n], of series expected to sell `mean`.

    Sales that fell far (a season is over) do not spread any more as they did: below `FALLEN` of the
    usual level the spread falls with the mean. Else nearly all of a small mean would be the chance
    of a huge sale, and the quantiles be 0.
    """
    variance, weeks, usual, scale = (
        examples[name].cast(pl.Float64).to_numpy()
        for name in ("variance_26", "horizon_weeks", "ma_26", "scale")
    )
    left = mean / np.maximum(FALLEN * usual * scale, 1e-9)
    return np.asarray(variance * weeks * np.minimum(left, 1) ** 2)


def negative_binomial(mean: Array, variance: Array, levels: Sequence[float] | Array) -> Array:
    """Quantiles [n, levels] of negative binomials with these moments (variance > mean).

    levels: the same of all, or of each [n, levels]. Up to `SUMMED_MEAN` the probabilities are added
    up, which is exact and ten times as fast as searching for the quantile.
    """
    from scipy.stats import nbinom

    size, p = _parameters(mean, variance)
    few = mean <= SUMMED_MEAN
    levels = np.broadcast_to(levels, (len(mean), np.shape(levels)[-1]))
    found = np.empty(levels.shape)
    found[few] = _summed_quantiles(size[few], p[few], levels[few])
    found[~few] = nbinom.ppf(levels[~few], size[~few, None], p[~few, None])
    return found


def _summed_quantiles(size: Array, p: Array, levels: Array) -> Array:
    """Smallest k with P(D ≤ k) ≥ level; P(k + 1) = P(k) · (1 − p) (size + k) / (k + 1)."""
    found = np.zeros(levels.shape)
    row, k = np.arange(len(size)), 0
    at_k = p**size
    up_to_k = at_k.copy()
    while len(row):
        found[row] += up_to_k[:, None] < levels
        at_k = at_k * (1 - p) * (size + k) / (k + 1)
        # Where nothing is left to add, rounding has kept the sum below the level.
        going = (up_to_k < levels.max(axis=1)) & (up_to_k + at_k > up_to_k)
        row, size, p, at_k, levels = (of[going] for of in (row, size, p, at_k, levels))
        up_to_k = up_to_k[going] + at_k
        k += 1
    return found


def expected_excess(mean: Array, variance: Array, stock: Array) -> Array:
    """E[(D − stock)+] of negative binomial demand D: units lost when nothing is back-ordered.

    From k·P(D = k) = mean · P(D' = k − 1), D' the same distribution with size + 1.
    """
    from scipy.stats import nbinom

    size, p = _parameters(mean, variance)
    whole = np.floor(stock)
    above = mean * nbinom.sf(whole - 1, size + 1, p) - stock * nbinom.sf(whole, size, p)
    return np.asarray(np.maximum(above, 0.0))


def probability_above(mean: Array, variance: Array, stock: Array) -> Array:
    """P(D > stock) of negative binomial demand D [n]."""
    from scipy.stats import nbinom

    size, p = _parameters(mean, variance)
    return np.asarray(nbinom.sf(np.floor(stock), size, p))


def _parameters(mean: Array, variance: Array) -> tuple[Array, Array]:
    mean = np.maximum(mean, 0.01)
    variance = np.maximum(variance, 1.02 * mean)
    size = mean**2 / (variance - mean)
    return size, size / (size + mean)
