"""The numbers that judge forecasts of demand."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]


def pinball(actual: Array, quantile: Array, level: float) -> Array:
    """Pinball loss of each forecast quantile [n] (Koenker & Bassett 1978).

    >>> pinball(np.array([5.0, 1.0]), quantile=np.array([3.0, 3.0]), level=0.9).round(2).tolist()
    [1.8, 0.2]
    """
    gap = actual - quantile
    return np.maximum(level * gap, (level - 1) * gap)
