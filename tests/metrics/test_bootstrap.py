"""The bootstrap: standard errors, units kept together, numbers written as people do."""

from __future__ import annotations

import math

import numpy as np
import pytest

from seq_ml.metrics.bootstrap import Estimate, mean_estimate


def test_mean_estimate_is_the_standard_error_and_of_nothing_nothing():
    values = np.random.default_rng(0).normal(size=400)
    found = mean_estimate(values, seed=1)
    assert found.value == pytest.approx(values.mean())
    assert found.high - found.low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.15)
    assert math.isnan(mean_estimate(np.zeros(0), seed=1).value)


@pytest.mark.parametrize(
    ("estimate", "text"),
    [
        (Estimate(0.84583, 0.8162, 0.8758), "0.846 [0.816, 0.876]"),
        (Estimate(1234.5, 1200.0, 1270.0), "1,234 [1,200, 1,270]"),
        (Estimate(0.5, 0.5, 0.5), "0.5000 [0.5000, 0.5000]"),
        (Estimate(0.25, float("nan"), float("nan")), "0.25"),
        (Estimate(float("nan"), float("nan"), float("nan")), "–"),
    ],
    ids=["share", "amount", "certain", "without", "nothing"],
)
def test_an_estimate_has_the_digits_its_interval_leaves(estimate, text):
    assert str(estimate) == text


def test_a_difference_has_its_sign():
    assert Estimate(0.01, -0.002, 0.022).signed() == "+0.010 [-0.002, +0.022]"
