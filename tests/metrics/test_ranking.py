"""Metrics of lists against torchmetrics and scikit-learn, or by their definition."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import sklearn.metrics as reference
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torchmetrics import retrieval

from seq_ml.metrics.ranking import (
    average_precision,
    hit_rate,
    list_hits,
    mrr,
    ndcg,
    per_unit,
    ranking_metrics,
    recall,
)
from tests.metrics.drawn import few, lists


@few
@given(lists(), st.integers(1, 10))
def test_list_metrics_are_those_of_torchmetrics(made, k):
    examples, score = made
    assume(examples["label"].sum() > 0)
    queries = examples["user_id"].rank("dense").cast(pl.Int64).to_numpy()
    target = torch.tensor(examples["label"].to_numpy())
    for ours, theirs in (
        (ndcg, retrieval.RetrievalNormalizedDCG),
        (recall, retrieval.RetrievalRecall),
        (hit_rate, retrieval.RetrievalHitRate),
        (mrr, retrieval.RetrievalMRR),
    ):
        wanted = theirs(empty_target_action="skip", top_k=k)
        wanted.update(torch.tensor(score), target, indexes=torch.tensor(queries))
        value = per_unit(ours, examples, score, k=k, unit="user_id")["value"].mean()
        assert value == pytest.approx(float(wanted.compute()), abs=1e-5), ours.__name__
    wanted = retrieval.RetrievalMAP(empty_target_action="skip")  # the whole list: no cut differs
    wanted.update(torch.tensor(score), target, indexes=torch.tensor(queries))
    value = per_unit(average_precision, examples, score, k=100, unit="user_id")["value"].mean()
    assert value == pytest.approx(float(wanted.compute()), abs=1e-5)


@few
@given(st.lists(st.integers(0, 1), min_size=1, max_size=12), st.integers(1, 12))
def test_average_precision_at_k_by_its_definition(label, k):
    assume(sum(label))
    examples = pl.DataFrame({"user_id": ["u"] * len(label), "label": label})
    score = -np.arange(len(label), dtype=float)
    hits = [i for i, hit in enumerate(label[:k], start=1) if hit]
    expected = sum((n + 1) / place for n, place in enumerate(hits)) / min(k, sum(label))
    value = per_unit(average_precision, examples, score, k=k, unit="user_id")["value"].item()
    assert value == pytest.approx(expected)


def test_ndcg_is_that_of_sklearn():
    rng = np.random.default_rng(1)
    label, score = rng.integers(0, 2, size=(6, 12)).astype(float), rng.random((6, 12))
    label[:, 0] = 1
    users = np.repeat([f"u{i}" for i in range(6)], 12)
    examples = pl.DataFrame({"user_id": users, "label": label.ravel()})
    found = per_unit(ndcg, examples, score.ravel(), k=5, unit="user_id")
    assert found["value"].mean() == pytest.approx(reference.ndcg_score(label, score, k=5))


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
    second = per_unit(mrr, examples.reverse(), score[::-1].copy(), k=2, unit="user_id")
    assert second.rows() == [("a", 1.0), ("b", 0.5)]
    assert per_unit(hit_rate, examples, -score, k=1, unit="user_id")["value"].to_list() == [
        0,
        1,
    ]
    nothing = examples.with_columns(label=pl.lit(0), n=pl.lit(0))
    assert per_unit(ndcg, nothing, score, k=3, unit="user_id", relevant="n").is_empty()


def test_lists_and_a_truth_beside_them_give_hits():
    lists = pl.DataFrame({"unit": ["b", "a", "x"], "items": [["q", "p", "s"], ["p"], ["p"]]})
    truth = pl.DataFrame({"unit": ["a", "b", "b", "c"], "item": ["q", "p", "s", "p"]})
    units, hits, relevant = list_hits(lists, truth, k=2)
    assert units.to_list() == ["a", "b", "c"], "c has no list, x wanted nothing"
    assert hits.tolist() == [[False, False], [False, True], [False, False]]
    assert relevant.tolist() == [1, 2, 1]
    second = 1 / np.log2(3)
    assert ndcg(hits, relevant).tolist() == pytest.approx([0, second / (1 + second), 0])


def test_a_full_list_has_an_ndcg_of_one_to_the_last_digit():
    for k in range(1, 30):
        assert (ndcg(np.ones((3, k), dtype=bool), np.array([k, k + 1, 99])) == 1).all()
