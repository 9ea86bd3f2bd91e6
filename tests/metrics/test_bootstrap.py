"""The bootstrap: standard errors, units kept together, numbers written as people do."""

from __future__ import annotations

import math

import numpy as np
import polars as pl
import pytest

from seq_ml.metrics.bootstrap import bootstrap, mean_estimate
from seq_ml.metrics.estimate import Draws, Estimate
from seq_ml.metrics.metric import Metric
from seq_ml.metrics.probabilities import binary_metrics, calibration_metrics


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


def drawn_examples(rows: int = 300) -> tuple[pl.DataFrame, np.ndarray]:
    """Rows of 100 users and 6 campaigns, with many equal predictions."""
    rng = np.random.default_rng(2)
    p = rng.integers(0, 20, rows) / 20
    label = (rng.random(rows) < p).astype(float)
    user, campaign = rng.integers(0, 100, rows), rng.integers(0, 6, rows)
    return pl.DataFrame({"user_id": user, "campaign_id": campaign, "label": label}), p


@pytest.mark.parametrize("rows", [300, 9])
@pytest.mark.parametrize("cluster", [None, "campaign_id"])
def test_many_resamples_at_once_are_the_resamples_one_by_one(cluster, rows):
    examples, p = drawn_examples(rows)
    near = {metric.name for metric in calibration_metrics()}  # have tests of their own
    fast = [metric for metric in binary_metrics() if metric.name not in near]
    slow = [Metric(m.name, m.higher_is_better, m.function) for m in fast]
    of = None if cluster is None else examples[cluster]
    one, other = (
        bootstrap(metrics, examples, {"p": p}, unit="user_id", seed=1, resamples=40, cluster=of)
        for metrics in (fast, slow)
    )
    for name, draws in one["p"].items():
        np.testing.assert_allclose(draws.resampled, other["p"][name].resampled, err_msg=name)
        assert (draws.value, draws.units) == (other["p"][name].value, other["p"][name].units)


def test_what_a_campaign_shares_widens_the_interval_and_one_campaign_has_none():
    rng = np.random.default_rng(5)
    campaign = np.repeat(np.arange(30), 40)
    values = rng.normal(size=30)[campaign] + rng.normal(size=1200)
    frame = pl.DataFrame({"user_id": np.tile(np.arange(40), 30), "campaign_id": campaign})
    mean = Metric("mean", True, lambda _, p: float(p.mean()))
    found = {
        number: bootstrap(
            [mean],
            frame.filter(pl.col("campaign_id") < number),
            {"p": values[campaign < number]},
            unit="user_id",
            seed=1,
            cluster=frame.filter(pl.col("campaign_id") < number)["campaign_id"],
        )["p"]["mean"].estimate()
        for number in (1, 30)
    }
    truth = 2 * 1.96 * np.sqrt(1 / 30 + 1 / 1200)
    assert found[30].high - found[30].low == pytest.approx(truth, rel=0.35)
    assert math.isnan(found[1].low)


def test_a_tail_that_the_draws_do_not_resolve_is_drawn_out():
    draws = Draws(0.0, np.random.default_rng(0).normal(size=5000), difference=True)
    lows = [draws.estimate(tail).low for tail in (0.025, 1e-3, 1e-5, 1e-8)]
    assert lows == pytest.approx([-1.96, -3.09, -4.26, -5.61], rel=0.1)
