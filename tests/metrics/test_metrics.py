"""Every metric against a reference library, or against what its definition gives by hand."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import polars as pl
import pytest
import sklearn.metrics as reference
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torchmetrics import retrieval
from torchmetrics.classification import BinaryCalibrationError

from seq_ml.metrics.bootstrap import Estimate, evaluate, mean_estimate
from seq_ml.metrics.forecasts import bias, coverage, pinball, wape, weighted_quantile_loss
from seq_ml.metrics.list_quality import LIST_QUALITY, gini, list_quality
from seq_ml.metrics.probabilities import (
    EPSILON,
    accuracy,
    binary_metrics,
    brier,
    ece,
    f1,
    flagged,
    lift,
    log_loss,
    pr_auc,
    precision,
    recall,
    roc_auc,
)
from seq_ml.metrics.ranking import (
    hit_rate_per_unit,
    map_per_unit,
    mrr_per_unit,
    ndcg_per_unit,
    ranking_metrics,
    recall_per_unit,
)

few = settings(max_examples=40, deadline=None)
labelled = st.lists(st.tuples(st.booleans(), st.integers(0, 10)), min_size=1, max_size=60)


def arrays(rows: list[tuple[bool, int]]) -> tuple[np.ndarray, np.ndarray]:
    """Labels, and probabilities with many ties, 0 and 1 among them."""
    return (
        np.array([float(positive) for positive, _ in rows]),
        np.array([score / 10 for _, score in rows]),
    )


# --- labels of 0 and 1 ----------------------------------------------------------------------------


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


def test_ece_is_that_of_torchmetrics_where_the_bins_are_the_same():
    rng = np.random.default_rng(0)
    p = (np.arange(1000) + 0.5) / 1000  # ten bins of equal size are ten bins of equal width
    label = (rng.random(1000) < p**2).astype(float)
    theirs = BinaryCalibrationError(n_bins=10, norm="l1")
    # torchmetrics scores the class that is predicted: give it the probability of class 1 alone
    theirs.update(torch.tensor(p), torch.tensor(label.astype(int)))
    conf, hit = torch.cat(theirs.confidences), torch.cat(theirs.accuracies)
    by_hand = sum(
        abs(float((hit[part] - conf[part]).mean())) * len(part) / 1000
        for part in np.array_split(np.argsort(conf.numpy(), kind="stable"), 10)
    )
    assert ece(hit.numpy().astype(float), conf.numpy().astype(float)) == pytest.approx(
        by_hand, abs=1e-6
    )
    assert float(theirs.compute()) == pytest.approx(by_hand, abs=1e-6)


@few
@given(labelled)
def test_ece_is_a_share_and_0_for_the_truth(rows):
    label, p = arrays(rows)
    assert 0 <= ece(label, p) <= 1
    assert ece(label, label) == 0


def test_lift_and_ece_by_hand():
    label = np.array([1.0, 1, 0, 0, 0, 0, 0, 0, 0, 0])
    assert lift(label, np.arange(10, 0, -1.0)) == pytest.approx(5.0)
    assert ece(label, np.full(10, 0.2), bins=1) == pytest.approx(0.0)
    assert ece(label, np.full(10, 0.5), bins=1) == pytest.approx(0.3)


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
        ece,
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
        "ece",
        "lift_at_10",
        "accuracy",
        "precision",
        "recall",
        "f1",
    ]
    assert (found["precision"], found["recall"], found["accuracy"]) == (0.5, 0.5, 0.5)


# --- lists ----------------------------------------------------------------------------------------


@st.composite
def lists(draw: st.DrawFn) -> tuple[pl.DataFrame, np.ndarray]:
    """Rows of some users with distinct scores each; users without anything relevant among them."""
    frames, scores = [], []
    for user in range(draw(st.integers(1, 5))):
        label = draw(st.lists(st.integers(0, 1), min_size=1, max_size=9))
        order = draw(st.permutations(range(len(label))))
        frames.append(pl.DataFrame({"user_id": [f"u{user}"] * len(label), "label": label}))
        scores += [1 / (1 + place) for place in order]
    return pl.concat(frames), np.array(scores)


@few
@given(lists(), st.integers(1, 10))
def test_list_metrics_are_those_of_torchmetrics(made, k):
    examples, score = made
    assume(examples["label"].sum() > 0)
    queries = examples["user_id"].rank("dense").cast(pl.Int64).to_numpy()
    target = torch.tensor(examples["label"].to_numpy())
    for ours, theirs in (
        (ndcg_per_unit, retrieval.RetrievalNormalizedDCG),
        (recall_per_unit, retrieval.RetrievalRecall),
        (hit_rate_per_unit, retrieval.RetrievalHitRate),
        (mrr_per_unit, retrieval.RetrievalMRR),
    ):
        wanted = theirs(empty_target_action="skip", top_k=k)
        wanted.update(torch.tensor(score), target, indexes=torch.tensor(queries))
        value = ours(examples, score, k=k, unit="user_id")["value"].mean()
        assert value == pytest.approx(float(wanted.compute()), abs=1e-5), ours.__name__
    wanted = retrieval.RetrievalMAP(empty_target_action="skip")  # the whole list: no cut differs
    wanted.update(torch.tensor(score), target, indexes=torch.tensor(queries))
    value = map_per_unit(examples, score, k=100, unit="user_id")["value"].mean()
    assert value == pytest.approx(float(wanted.compute()), abs=1e-5)


@few
@given(st.lists(st.integers(0, 1), min_size=1, max_size=12), st.integers(1, 12))
def test_average_precision_at_k_by_its_definition(label, k):
    assume(sum(label))
    examples = pl.DataFrame({"user_id": ["u"] * len(label), "label": label})
    score = -np.arange(len(label), dtype=float)
    hits = [i for i, hit in enumerate(label[:k], start=1) if hit]
    expected = sum((n + 1) / place for n, place in enumerate(hits)) / min(k, sum(label))
    value = map_per_unit(examples, score, k=k, unit="user_id")["value"].item()
    assert value == pytest.approx(expected)


def test_ndcg_is_that_of_sklearn():
    rng = np.random.default_rng(1)
    label, score = rng.integers(0, 2, size=(6, 12)).astype(float), rng.random((6, 12))
    label[:, 0] = 1
    users = np.repeat([f"u{i}" for i in range(6)], 12)
    examples = pl.DataFrame({"user_id": users, "label": label.ravel()})
    ndcg = ndcg_per_unit(examples, score.ravel(), k=5, unit="user_id")
    assert ndcg["value"].mean() == pytest.approx(reference.ndcg_score(label, score, k=5))


def test_what_is_no_row_counts_as_missed_and_ties_go_to_the_first_row():
    examples = pl.DataFrame(
        {"user_id": ["a", "a", "b", "b", "c"], "label": [1, 0, 1, 0, 0], "n": [4, 4, 1, 1, 0]}
    )
    score = np.array([0.9, 0.1, 0.5, 0.5, 0.3])
    found = {
        metric.name: metric.function(examples, score)
        for metric in ranking_metrics(k=1, unit="user_id", relevant="n")
    }
    assert found["recall_at_1"].rows() == [("a", 0.25), ("b", 1.0)], "c wanted nothing"
    assert found["map_at_1"].rows() == [("a", 1.0), ("b", 1.0)]
    assert found["ndcg_at_1"]["value"].to_list() == [1.0, 1.0]
    second = mrr_per_unit(examples.reverse(), score[::-1].copy(), k=2, unit="user_id")
    assert second.rows() == [("a", 1.0), ("b", 0.5)]
    assert hit_rate_per_unit(examples, -score, k=1, unit="user_id")["value"].to_list() == [
        0,
        1,
    ]
    nothing = examples.with_columns(label=pl.lit(0), n=pl.lit(0))
    assert ndcg_per_unit(nothing, score, k=3, unit="user_id", relevant="n").is_empty()


# --- what lists are like --------------------------------------------------------------------------

CATALOGUE = pl.DataFrame(
    {
        "item_id": ["milk", "bread", "tea", "caviar", "rusk"],
        "buyers": [8, 6, 4, 2, 0],
        "category": ["dairy", "bakery", "drinks", None, "bakery"],
    }
)
LISTS = pl.DataFrame(
    {
        "user_id": ["a", "a", "a", "b", "b", "c"],
        "item_id": ["milk", "bread", "rusk", "milk", "caviar", "milk"],
    }
)


def quality(lists: pl.DataFrame = LISTS) -> dict[str, Estimate]:
    return list_quality(lists, CATALOGUE, users=16, seed=1)


def test_lists_by_hand():
    found = quality()
    assert list(found) == list(LIST_QUALITY)
    value = {name: estimate.value for name, estimate in found.items()}
    assert value["coverage"] == pytest.approx(4 / 5)
    bits = {"milk": 1.0, "bread": math.log2(16 / 6), "caviar": 3.0, "rusk": 4.0}
    a, b, c = (bits["milk"] + bits["bread"] + 4) / 3, (1 + 3) / 2, 1.0
    assert value["novelty"] == pytest.approx((a + b + c) / 3)
    # bread and rusk are both bakery; the pair with caviar is unknown, one item has no pair
    assert value["diversity"] == pytest.approx(2 / 3)
    popularity = ((8 + 6 + 0) / 48, (8 + 2) / 32, 8 / 16)
    assert value["popularity"] == pytest.approx(sum(popularity) / 3)
    # of 20 purchases the last fifth is 4: caviar (2); tea would make 6
    assert value["tail_share"] == pytest.approx((1 / 3 + 1 / 2 + 0) / 3)
    assert math.isnan(found["coverage"].low)
    assert found["novelty"].low <= value["novelty"] <= found["novelty"].high


@few
@given(st.lists(st.integers(0, 20), min_size=1, max_size=12).filter(any))
def test_gini_by_its_definition(counts):
    pairs = [abs(a - b) for a, b in combinations(counts, 2)]
    expected = 2 * sum(pairs) / (2 * len(counts) ** 2 * np.mean(counts))
    assert gini(np.array(counts, dtype=float)) == pytest.approx(expected)


def test_gini_of_equals_and_of_one():
    assert gini(np.full(10, 3.0)) == pytest.approx(0)
    assert gini(np.array([0.0] * 9 + [5.0])) == pytest.approx(0.9)
    assert math.isnan(gini(np.zeros(4)))


def test_items_outside_the_catalogue_are_refused():
    with pytest.raises(ValueError, match=r"1 recommended items are not in the catalogue, .* beer"):
        quality(LISTS.with_columns(item_id=pl.lit("beer")))


def test_the_order_of_the_rows_changes_no_number():
    again = quality(LISTS.reverse())
    assert {k: str(v) for k, v in again.items()} == {k: str(v) for k, v in quality().items()}


def test_mean_estimate_is_the_standard_error_and_of_nothing_nothing():
    values = np.random.default_rng(0).normal(size=400)
    found = mean_estimate(values, seed=1)
    assert found.value == pytest.approx(values.mean())
    assert found.high - found.low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.15)
    assert math.isnan(mean_estimate(np.zeros(0), seed=1).value)


# --- forecasts ------------------------------------------------------------------------------------


@few
@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), min_size=1, max_size=40))
def test_pinball_is_that_of_sklearn(rows):
    actual, forecast = np.array(rows, dtype=float).T
    for level in (0.1, 0.5, 0.9):
        theirs = reference.mean_pinball_loss(actual, forecast, alpha=level)
        assert pinball(actual, forecast, level).mean() == pytest.approx(theirs)


def test_forecast_metrics_by_hand():
    actual, forecast = np.array([2.0, 0.0, 4.0]), np.array([1.0, 1.0, 4.0])
    assert wape(actual, forecast) == pytest.approx(2 / 6)
    assert bias(actual, forecast) == pytest.approx(0.0)
    assert coverage(actual, forecast) == pytest.approx(2 / 3)
    assert pinball(actual, forecast, 0.9).tolist() == pytest.approx([0.9, 0.1, 0.0])
    assert weighted_quantile_loss(actual, forecast, 0.9) == pytest.approx(2 / 6)
    assert math.isnan(wape(np.zeros(3), forecast))


# --- how a number is written ----------------------------------------------------------------------


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
