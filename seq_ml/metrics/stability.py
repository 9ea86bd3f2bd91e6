"""Whether two models say the same of the same people: the population stability index.

The usual reading (Siddiqi 2006, "Credit Risk Scorecards"): below 0.1 no change to speak of, above
0.25 another population.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

BINS = 10
LEAST_SHARE = 1e-3
"""Share that an empty bin counts as: what keeps the index finite."""


def stability_index(before: Array, now: Array) -> float:
    """Return Σ (share now − share before) · log(share now ÷ share before) over tenths of `before`.

    >>> before = np.arange(1000) / 1000
    >>> [round(stability_index(before, now), 2) for now in (before, before + 0.02, before**2)]
    [0.0, 0.01, 0.38]
    """
    edges = np.unique(np.quantile(before, np.linspace(0, 1, BINS + 1)[1:-1]))
    one, other = (
        np.bincount(np.searchsorted(edges, values, side="right"), minlength=len(edges) + 1)
        for values in (before, now)
    )
    shares = [np.maximum(counts / max(counts.sum(), 1), LEAST_SHARE) for counts in (one, other)]
    return float(((shares[1] - shares[0]) * np.log(shares[1] / shares[0])).sum())
