"""Rates of few examples, drawn to the rate of all."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]


def drawn(ones: Any, n: Any, pooled: Any, prior: float) -> Any:
    """Return ones ÷ n drawn to the pooled rate by so many examples; numbers, arrays or columns.

    >>> drawn(ones=1, n=1, pooled=0.1, prior=9)
    0.19
    """
    return (ones + prior * pooled) / (n + prior)


def shrunken(ones: Array, n: Array, pooled: float) -> Array:
    """Return the rates of groups [groups], `drawn` by as many examples as their spread says.

    Their rates come from one beta distribution, whose width is estimated from how much they differ
    beyond chance (beta-binomial by moments, Kleinman 1973); where they differ no more than by
    chance, all have the pooled one. ones, n [groups]: 1s and examples of each, pooled: inside 0..1.

    >>> shrunken(np.array([0.0, 3.0]), np.array([5.0, 5.0]), 0.3).round(2)
    array([0.01, 0.59])
    """
    total, chance = n.sum(), len(n) - 1
    spread = (n * (ones / n - pooled) ** 2).sum() / (pooled * (1 - pooled))
    room = total - (n**2).sum() / total - chance if len(n) else 0.0
    alike = min((spread - chance) / room, 0.99) if room > 0 else 0.0  # correlation within a group
    if alike <= 0:
        return np.full(len(n), pooled)
    return np.asarray(drawn(ones, n, pooled, (1 - alike) / alike))
