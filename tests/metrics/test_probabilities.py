"""Metrics of probabilities against scikit-learn and torchmetrics, or by hand."""

from __future__ import annotations

import math

import numpy as np
import polars as pl
import pytest
import sklearn.metrics as reference
from hypothesis import assume, given
from hypothesis import strategies as st

from seq_ml.metrics.bootstrap import evaluate
from seq_ml.metrics.probabilities import (
    EPSILON,
    accuracy,
    binary_metrics,
    brier,
    f1,
    flagged,
    lift,
    log_loss,
    pr_auc,
    precision,
    recall,
    roc_auc,
)
from tests.metrics.drawn import few

labelled = st.lists(st.tuples(st.booleans(), st.integers(0, 10)), min_size=1, max_size=60)


def arrays(rows: list[tuple[bool, int]]) -> tuple[np.ndarray, np.ndarray]:
    """Labels, and probabilities with many ties, 0 and 1 among them."""
    return (
        np.array([float(positive) for positive, _ in rows]),
        np.array([score / 10 for _, score in rows]),
    )


@few
@given(labelled)
def test_ranking_of_probabilities_is_that_of_sklearn_also_with_ties(rows):
    label, p = arrays(rows)
    assume(0 < label.sum() < len(label))
    assert roc_auc(label, p) == pytest.approx(reference.roc_auc_score(label, p))
    assert pr_auc(label, p) == pytest.approx(reference.average_precision_score(label, p))


@few
@given(labelled)
def test_errors_of_probabilities_are_those_of_sklearn_also_for_one_class(rows):
    label, p = arrays(rows)
    assert brier(label, p) == pytest.approx(
        reference.brier_score_loss(label, p, pos_label=1, labels=[0, 1])
    )
    kept = np.clip(p, EPSILON, 1 - EPSILON)
    assert log_loss(label, p) == pytest.approx(reference.log_loss(label, kept, labels=[0, 1]))


@few
@given(labelled)
def test_the_four_of_a_threshold_are_those_of_sklearn(rows):
    label, p = arrays(rows)
    flag = flagged(p)
    assert (flag == (p > p.mean() + 1e-9)).all(), "above the mean, whatever the labels"
    want = {"zero_division": np.nan, "pos_label": 1.0}
    assert accuracy(label, p) == pytest.approx(reference.accuracy_score(label, flag))
    for ours, theirs in (
        (precision, reference.precision_score),
        (recall, reference.recall_score),
        (f1, reference.f1_score),
    ):
        expected = theirs(label, flag.astype(float), **want)
        assert ours(label, p) == pytest.approx(expected, nan_ok=True)


def test_equal_predictions_flag_nobody():
    assert not flagged(np.full(7, 0.1)).any()
    assert math.isnan(precision(np.ones(7), np.full(7, 0.1)))
    assert recall(np.ones(7), np.full(7, 0.1)) == 0
    assert math.isnan(f1(np.zeros(7), np.full(7, 0.1)))


def test_lift_by_hand():
    label = np.array([1.0, 1, 0, 0, 0, 0, 0, 0, 0, 0])
    assert lift(label, np.arange(10, 0, -1.0)) == pytest.approx(5.0)


def test_lift_is_the_precision_of_the_top_over_the_rate():
    rng = np.random.default_rng(3)
    label, p = (rng.random(500) < 0.2).astype(float), rng.random(500)
    top = p >= np.sort(p)[-50]
    theirs = reference.precision_score(label, top.astype(float)) / label.mean()
    assert lift(label, p) == pytest.approx(theirs)


def test_one_class_and_nothing_at_all_have_no_number():
    none, ones = np.zeros(0), np.ones(5)
    for one_class in (ones, np.zeros(5)):
        assert math.isnan(roc_auc(one_class, ones))
    assert math.isnan(pr_auc(np.zeros(5), ones))
    assert math.isnan(lift(np.zeros(5), ones))
    assert math.isnan(recall(np.zeros(5), ones))
    for metric in (
        roc_auc,
        pr_auc,
        brier,
        lift,
        accuracy,
        precision,
        f1,
    ):
        assert math.isnan(metric(none, none)), metric.__name__


def test_every_metric_of_a_probability_is_in_the_list():
    examples = pl.DataFrame({"label": [0, 1, 1, 0]})
    p = np.array([0.1, 0.8, 0.4, 0.5])
    found = {metric.name: evaluate(metric, examples, p) for metric in binary_metrics()}
    assert list(found) == [
        "roc_auc",
        "pr_auc",
        "brier",
        "log_loss",
        "calibration_slope",
        "calibration_intercept",
        "ece",
        "lift_at_10",
        "accuracy",
        "precision",
        "recall",
        "f1",
    ]
    assert (found["precision"], found["recall"], found["accuracy"]) == (0.5, 0.5, 0.5)
