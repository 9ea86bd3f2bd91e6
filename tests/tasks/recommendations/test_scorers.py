"""Scorers against their definition: EASE, neighbours, counts that decay."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import polars as pl
import pytest
from scipy import sparse

from seq_ml.tasks.recommendations import scorers as recommenders
from seq_ml.tasks.recommendations.candidates import (
    Setting,
    candidate_features,
    fit,
)
from seq_ml.tasks.recommendations.scorers import Ease, SparseEase, UserKnn, build_history
from tests.tasks.recommendations.test_task import ORIGIN, catalogue, purchases


def test_ease_in_dual_form_equals_the_closed_form_of_the_paper():
    rng = np.random.default_rng(3)
    decayed = sparse.random(30, 12, 0.3, format="csr", dtype=np.float32, random_state=rng)
    X = np.log1p(decayed.toarray().astype(np.float64))
    P = np.linalg.inv(X.T @ X + 5 * np.eye(12))
    B = -P / np.diag(P)
    np.fill_diagonal(B, 0)
    ease = Ease(decayed, regularisation=5)
    np.testing.assert_allclose(ease.scores(decayed), X @ B, atol=1e-5)
    rows = np.array([4, 11, 5])  # as rows of the fitted matrix, by the short way
    np.testing.assert_allclose(ease.scores(decayed[rows], rows), (X @ B)[rows], atol=1e-5)
    chosen = np.array([7, 2])
    np.testing.assert_allclose(ease.weights(chosen), B[:, chosen], atol=1e-5)


def test_sparse_ease_keeps_the_largest_weights_of_each_item(monkeypatch):
    decayed = sparse.random(30, 12, 0.3, format="csr", dtype=np.float32, random_state=4)
    ease = Ease(decayed, regularisation=5)
    full = ease.weights(np.arange(12))
    np.testing.assert_allclose(SparseEase(ease).scores(decayed), ease.scores(decayed), atol=1e-5)
    monkeypatch.setattr(recommenders, "WEIGHTS_KEPT", 3)
    monkeypatch.setattr(recommenders, "ITEMS_AT_ONCE", 5)
    few = SparseEase(ease)
    kept = few.weights(np.arange(12))
    largest = np.sort(np.abs(full), axis=1)[:, -3:]
    np.testing.assert_allclose(np.sort(np.abs(kept), axis=1)[:, -3:], largest, atol=1e-6)
    assert (kept != 0).sum(axis=1).tolist() == [3] * 12
    np.testing.assert_allclose(few.scores(decayed), decayed.log1p() @ kept, atol=1e-6)


def test_ease_fitted_on_a_sample_scores_everybody(monkeypatch):
    monkeypatch.setattr(recommenders, "MAX_FIT_USERS", 10)
    decayed = sparse.random(30, 12, 0.3, format="csr", dtype=np.float32, random_state=0)
    ease = Ease(decayed, seed=1)
    assert ease.X.shape == (10, 12)
    assert np.isfinite(ease.scores(decayed)).all()


def test_neighbours_are_other_users_with_the_same_items():
    decayed = sparse.csr_matrix(
        np.array([[1, 1, 0, 0], [1, 1, 1, 0], [0, 0, 0, 1]], dtype=np.float32)
    )
    scores = UserKnn(decayed).scores(decayed, np.arange(3))
    assert scores[0, 2] > 0  # the twin's third item
    assert scores[0, 3] == 0
    assert not scores[2].any()  # nobody shares anything with the third user
    strangers = UserKnn(decayed).scores(decayed, np.full(3, -1))
    assert strangers[2, 3] > 0, "whom the neighbours do not know masks nobody"


def test_history_counts_a_day_once_and_knows_the_usual_interval():
    days = (10, 30, 30, 50)  # two purchases of one day are one
    rows = [("u", "a", ORIGIN - timedelta(days=d)) for d in days]
    frame = purchases(*rows).with_columns(day=pl.col("event_time").dt.date())
    pair = build_history(frame, ["u"], ORIGIN).pairs.row(0, named=True)
    assert pair["own_count"] == 3
    assert pair["own_last_days"] == 10
    assert pair["own_interval"] == 20
    assert pair["own_decayed_120"] == pytest.approx(sum(0.5 ** (d / 120) for d in (10, 30, 50)))
    slow = build_history(frame, ["u"], ORIGIN, pace=6.0).pairs.row(0, named=True)
    expected = sum(0.5 ** (d / 720) for d in (10, 30, 50))
    assert slow["own_decayed_120"] == pytest.approx(expected), "where people come twice a year"


def test_an_item_of_long_ago_counts_in_full_for_ease_ever(monkeypatch):
    monkeypatch.setattr(recommenders, "CORE_BUYERS", 2)
    near = [("u", "a", 1), ("u", "b", 1), ("v", "a", 1), ("v", "b", 1), ("w", "a", 1)]
    scores = []
    for days in (1, 300):
        rows = [*near[:-1], ("w", "a", days), ("w", "c", 1), ("x", "c", 1)]
        frame = purchases(*((u, i, ORIGIN - timedelta(days=d)) for u, i, d in rows))
        frame = frame.with_columns(day=pl.col("event_time").dt.date())
        setting = Setting(repeats=True, popular=5, seed=0)
        users = ["u", "v", "w", "x"]
        fitted = fit(frame, users, catalogue(*"abc"), ORIGIN, setting)
        found = candidate_features(fitted, frame, None)
        (row,) = found.filter(pl.col("user_id") == "w", pl.col("item_id") == "b").to_dicts()
        scores.append((row["ease"], row["ease_ever"]))
    assert scores[1][0] < scores[0][0]
    assert scores[1][1] == pytest.approx(scores[0][1])


def test_twice_as_many_users_of_the_same_taste_change_nothing_for_ease_ever(monkeypatch):
    monkeypatch.setattr(recommenders, "CORE_BUYERS", 2)
    bought = {"u": "ab", "v": "abc", "w": "ac", "x": "bc"}
    scores = []
    for copies in (1, 2):
        users = [f"{user}{copy}" for user in bought for copy in range(copies)]
        rows = (
            (user, item, ORIGIN - timedelta(days=9)) for user in users for item in bought[user[0]]
        )
        frame = purchases(*rows).with_columns(day=pl.col("event_time").dt.date())
        setting = Setting(repeats=True, popular=5, seed=0)
        found = candidate_features(
            fit(frame, users, catalogue(*"abc"), ORIGIN, setting), frame, None
        )
        (row,) = found.filter(pl.col("user_id") == "u0", pl.col("item_id") == "c").to_dicts()
        scores.append(row["ease_ever"])
    assert scores[1] == pytest.approx(scores[0])


def test_the_best_columns_of_each_row_are_ascending_and_of_ties_the_first():
    scores = np.array([[3, 1, 2, 5], [0, 0, 0, 0], [-np.inf, 4, -np.inf, 4]], dtype=np.float32)
    assert recommenders.top_columns(scores, 2).tolist() == [[0, 3], [0, 1], [1, 3]]
    assert recommenders.top_columns(scores, 3).tolist() == [[0, 2, 3], [0, 1, 2], [0, 1, 3]]
    assert recommenders.top_columns(scores, 9).tolist() == [[0, 1, 2, 3]] * 3
