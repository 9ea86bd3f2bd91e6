"""Slope, intercept and calibration error: by hand, against scikit-learn, and their intervals."""

from __future__ import annotations

import math

import numpy as np
import polars as pl
import pytest
from sklearn.linear_model import LogisticRegression

from seq_ml.metrics.bootstrap import bootstrap
from seq_ml.metrics.calibration import (
    calibration_error,
    calibration_intercept,
    calibration_slope,
    logit,
    sigmoid,
)
from seq_ml.metrics.metric import Metric
from seq_ml.metrics.probabilities import calibration_metrics


def drawn(rng: np.random.Generator, rows: int = 1000, too_sure: float = 1.0, shift: float = 0.0):
    """Labels, and what says that the log-odds are so many times as far apart, and so much off."""
    truth = rng.normal(-2, 1, rows)
    label = (rng.random(rows) < sigmoid(truth)).astype(float)
    return label, sigmoid(too_sure * truth + shift)


def test_slope_is_that_of_a_logistic_regression():
    label, p = drawn(np.random.default_rng(0), too_sure=1.5)
    theirs = LogisticRegression(C=np.inf, tol=1e-10).fit(logit(p)[:, None], label)
    assert calibration_slope(label, p) == pytest.approx(theirs.coef_[0, 0], rel=1e-4)
    assert calibration_slope(label, p) < 0.8


def test_with_the_intercept_as_many_are_predicted_as_there_are():
    label, p = drawn(np.random.default_rng(1), shift=0.7)
    intercept = calibration_intercept(label, p)
    assert sigmoid(logit(p) + intercept).mean() == pytest.approx(label.mean())
    assert intercept == pytest.approx(-0.7, abs=0.2)


def test_the_error_of_perfect_probabilities_is_no_more_than_chance():
    """A plain error over ten bins of 100 rows is 0.03 on average, whatever is predicted."""
    rng = np.random.default_rng(2)
    found = [calibration_error(*drawn(rng)) for _ in range(200)]
    assert np.median(found) < 0.01
    off = [calibration_error(*drawn(rng, shift=0.5)) for _ in range(50)]
    wrong = sigmoid(np.random.default_rng(3).normal(-1.5, 1, 100_000))
    truth = sigmoid(logit(wrong) - 0.5)
    bins = np.array_split(np.argsort(wrong), 10)
    by_hand = np.sqrt(np.mean([(truth[part] - wrong[part]).mean() ** 2 for part in bins]))
    assert np.mean(off) == pytest.approx(by_hand, rel=0.1)


@pytest.mark.parametrize(("shift", "least"), [(0.0, 0.93), (0.5, 0.9)])
def test_the_interval_of_the_error_holds_it(shift, least):
    """Also where a person's rows are alike; and it never leaves out the number that it is of."""
    rng = np.random.default_rng(4)
    held, runs = 0, 40
    for seed in range(runs):
        label, p = (np.repeat(of, 3) for of in drawn(rng, 400, shift=shift))
        examples = pl.DataFrame({"label": label, "user_id": np.repeat(np.arange(400), 3)})
        made = bootstrap(
            calibration_metrics(), examples, {"m": p}, unit="user_id", seed=seed, resamples=200
        )["m"]["ece"].estimate()
        bins = np.array_split(np.argsort(p, kind="stable"), 10)
        gaps = [(sigmoid(logit(p[part]) - shift) - p[part]).mean() for part in bins]
        held += made.low - 1e-9 <= np.sqrt(np.mean(np.square(gaps))) <= made.high
        assert made.low <= made.value <= made.high
    assert held / runs >= least


def test_on_resamples_slope_and_intercept_are_nearly_those_fitted_anew():
    label, p = drawn(np.random.default_rng(5))
    examples = pl.DataFrame({"label": label, "user_id": np.arange(len(label))})
    quick = calibration_metrics()[:2]
    slow = [Metric(m.name, m.higher_is_better, m.function) for m in quick]
    one, other = (
        bootstrap(metrics, examples, {"m": p}, unit="user_id", seed=1, resamples=40)["m"]
        for metrics in (quick, slow)
    )
    for metric in quick:
        np.testing.assert_allclose(
            one[metric.name].resampled, other[metric.name].resampled, atol=0.03
        )


def test_of_one_class_and_of_nothing_there_is_no_number():
    none, half = np.zeros(0), np.full(5, 0.5)
    for metric in (calibration_slope, calibration_intercept, calibration_error):
        assert math.isnan(metric(none, none))
    for one_class in (np.ones(5), np.zeros(5)):
        assert math.isnan(calibration_slope(one_class, np.arange(1, 6) / 6))
        assert math.isnan(calibration_intercept(one_class, half))
    assert math.isnan(calibration_slope(np.array([0.0, 1, 0, 1, 1]), half))
    apart = calibration_slope(np.array([0.0, 0, 1, 1]), np.array([0.1, 0.2, 0.8, 0.9]))
    assert math.isnan(apart), "classes that no threshold mixes have no finite slope"
