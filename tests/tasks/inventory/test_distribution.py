"""The negative binomial distribution of demand, against scipy."""

from __future__ import annotations

import numpy as np

from seq_ml.tasks.inventory.distribution import expected_excess, negative_binomial
from seq_ml.tasks.inventory.features import QUANTILES


def test_expected_excess_is_the_sum_over_the_tail():
    from scipy.stats import nbinom

    mean, variance = np.array([0.3, 4.0, 40.0]), np.array([0.6, 9.0, 400.0])
    stock = np.array([0.0, 6.5, 61.0])
    size, p = mean**2 / (variance - mean), mean / variance
    k = np.arange(5000)[:, None]
    brute = (np.maximum(k - stock, 0) * nbinom.pmf(k, size, p)).sum(axis=0)
    np.testing.assert_allclose(expected_excess(mean, variance, stock), brute, rtol=1e-6)


def test_quantiles_are_those_of_scipy():
    from scipy.stats import nbinom

    mean, ratio = (a.ravel() for a in np.meshgrid(np.geomspace(0.01, 300, 40), [1.02, 2, 20, 400]))
    size = mean / (ratio - 1)
    quantiles = negative_binomial(mean, ratio * mean, QUANTILES).T
    for level, found in zip(QUANTILES, quantiles, strict=True):
        np.testing.assert_array_equal(found, nbinom.ppf(level, size, 1 / ratio))
