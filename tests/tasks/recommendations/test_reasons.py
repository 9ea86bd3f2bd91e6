"""Reasons of the recommendations: exact shares of EASE, and the deletion test that judges them."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import polars as pl
import pytest

from seq_ml.business import Business
from seq_ml.tasks.behaviour.visits import merchandise_bought
from seq_ml.tasks.recommendations.candidates import (
    FEATURES,
    Setting,
    candidate_features,
    features_of_others,
    fit,
)
from seq_ml.tasks.recommendations.models import BoostedRanker
from seq_ml.tasks.recommendations.reasons import deletion_test, evidence, sentences
from tests.data import AS_OF, journey
from tests.tasks.recommendations.test_task import task_data

HORIZON = timedelta(days=30)
FIT_AT, ORIGIN = AS_OF - 2 * HORIZON, AS_OF - HORIZON
SETTING = Setting(repeats=True, popular=30, seed=7)


@pytest.fixture(scope="module")
def bought() -> pl.DataFrame:
    return merchandise_bought(task_data(), AS_OF)


@pytest.fixture(scope="module")
def users() -> list[str]:
    return journey(households=60)["clean_events"]["user_id"].unique().sort().to_list()


@pytest.fixture(scope="module")
def fitted(bought, users):
    return fit(bought, users, journey(households=60)["items"], ORIGIN, SETTING)


@pytest.fixture(scope="module")
def candidates(bought, fitted) -> pl.DataFrame:
    return candidate_features(fitted, bought, None)


@pytest.fixture(scope="module")
def ranker(bought, users) -> BoostedRanker:
    items = journey(households=60)["items"]
    asked = candidate_features(fit(bought, users, items, FIT_AT, SETTING), bought, None)
    inside = pl.col("event_time").is_between(FIT_AT, ORIGIN, closed="left")
    pair = ["user_id", "item_id"]
    right = bought.filter(inside).select(pair).unique().with_columns(label=pl.lit(1))
    model = BoostedRanker("ranker", FEATURES, rounds=60)
    model.fit(asked.join(right, on=pair, how="left").with_columns(pl.col("label").fill_null(0)))
    return model


def best(candidates: pl.DataFrame, ranker: BoostedRanker, kind: pl.Expr) -> pl.DataFrame:
    scored = candidates.with_columns(score=pl.Series(ranker.predict(candidates))).filter(kind)
    ordered = scored.sort(["user_id", "score", "item_id"], descending=[False, True, False])
    return ordered.group_by("user_id", maintain_order=True).head(3)


def test_evidence_is_the_largest_share_of_the_score(fitted, candidates):
    new = candidates.filter(pl.col("own_count") == 0, pl.col("ease").is_not_null())
    some = new.gather_every(new.height // 20).select("user_id", "item_id")
    found = evidence(fitted.history, fitted.ease, some)
    assert found.select("user_id", "item_id").equals(some)
    history = fitted.history
    for user, item, named in found.rows():
        row = history.users.index(user)
        column = history.column[history.items.index(item)]
        own = history.decayed[row].log1p().toarray().ravel()
        share = own * fitted.ease.weights(np.array([column])).ravel()
        positions = [history.column[history.items.index(i)] for i in named]
        assert share[positions].tolist() == sorted(share, reverse=True)[: len(named)]
        score = fitted.ease.scores(history.decayed[[row]])[0, column]
        assert share.sum() == pytest.approx(score, abs=1e-4)


def test_people_whom_nothing_was_fitted_to_get_the_same_features(fitted, candidates, bought):
    """A twin with the same history is scored like the user, by the long way."""
    chosen = candidates["user_id"].unique().sort().head(3).to_list()
    twins = {user[::-1]: user for user in chosen}
    theirs = bought.filter(pl.col("user_id").is_in(chosen)).with_columns(
        pl.col("user_id").str.reverse()
    )
    wanted = pl.DataFrame(schema={"user_id": pl.String, "item_id": pl.String})
    found = features_of_others(fitted, theirs, twins, wanted, None)
    back = found.with_columns(pl.col("user_id").str.reverse()).sort("user_id", "item_id")
    same = candidates.filter(pl.col("user_id").is_in(chosen)).sort("user_id", "item_id")
    assert back.select("user_id", "item_id").equals(same.select("user_id", "item_id"))
    for name in FEATURES:
        one, other = (f[name].fill_null(-9).to_numpy() for f in (back, same))
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=2e-3, err_msg=name)


def test_an_item_that_is_asked_for_is_a_candidate(fitted, bought, candidates):
    user = candidates["user_id"][0]
    had = candidates.filter(pl.col("user_id") == user)["item_id"]
    item = next(item for item in fitted.history.items if item not in set(had))
    theirs = bought.filter(pl.col("user_id") == user).with_columns(user_id=pl.lit("twin"))
    wanted = pl.DataFrame({"user_id": ["twin"], "item_id": [item]})
    found = features_of_others(fitted, theirs, {"twin": user}, wanted, None)
    assert item in found["item_id"]


@pytest.mark.parametrize("kind", ["again", "new"])
def test_without_its_reason_the_score_falls_further_than_without_other_items(
    kind, fitted, candidates, bought, ranker
):
    rows = best(candidates, ranker, (pl.col("own_count") > 0) == (kind == "again"))
    if kind == "again":
        rows = rows.with_columns(reason_items=pl.concat_list("item_id"))
    else:
        named = evidence(fitted.history, fitted.ease, rows.select("user_id", "item_id"))
        rows = rows.with_columns(reason_items=named["evidence"])
    past = bought.filter(pl.col("event_time") < ORIGIN)
    found = deletion_test(fitted, past, rows, ranker, None, seed=1)
    assert found is not None
    assert found.users >= 40
    assert found.difference.low > 0
    assert abs(found.without_others.value) < found.without_reason.value / 4


def test_reasons_drawn_at_random_do_not_pass_the_deletion_test(fitted, candidates, bought, ranker):
    past = bought.filter(pl.col("event_time") < ORIGIN)
    rows = best(candidates, ranker, pl.col("own_count") == 0)
    rows = rows.join(past, on="user_id", how="semi", maintain_order="left")
    rng = np.random.default_rng(5)
    owned = dict(past.group_by("user_id").agg(pl.col("item_id").unique().sort()).iter_rows())
    drawn = [rng.choice(owned[user], 2, replace=False).tolist() for user in rows["user_id"]]
    found = deletion_test(
        fitted, past, rows.with_columns(reason_items=pl.Series(drawn)), ranker, None, seed=1
    )
    assert found is not None
    assert found.difference.low < 0


def test_nothing_to_delete_is_no_test(fitted, candidates, bought, ranker):
    rows = best(candidates, ranker, pl.col("own_count") == 0).with_columns(
        reason_items=pl.lit([], dtype=pl.List(pl.String))
    )
    assert deletion_test(fitted, bought, rows, ranker, None, seed=1) is None


def test_sentences_read_well_for_none_and_for_one():
    row = {
        "own_count": 0.0,
        "own_last_days": None,
        "own_interval": None,
        "item_age_days": 90.0,
        "item_buyers_28": 0.0,
        "dimension": None,
        "segment": None,
        "buyers": None,
        "evidence_titles": None,
    }
    cases = [
        ("buy_again", {"own_count": 1.0, "own_last_days": 1.2}, "Bought once, 1 day ago."),
        (
            "buy_again",
            {"own_count": 3.0, "own_last_days": 0.2, "own_interval": 0.6},
            "Bought on 3 days, last less than a day ago; usually every 1 day.",
        ),
        (
            "fallback",
            {"dimension": "store_id", "segment": "s1", "buyers": 1},
            "Popular in store s1: 1 person bought it in the last 28 days.",
        ),
        (
            "fallback",
            {"dimension": "all", "segment": "all", "buyers": 0},
            "Popular among all, though not in the last 28 days.",
        ),
        ("new", {"item_age_days": 3.0}, "New in the range: first sold 3 days ago."),
        ("bought_together", {"evidence_titles": ["tea"]}, "People who buy tea often buy it."),
        ("for_you", {}, "Bought by nobody in the last 28 days."),
    ]
    frame = pl.DataFrame(
        [row | change | {"rec_type": kind} for kind, change, _ in cases],
        schema_overrides={"buyers": pl.UInt32, "evidence_titles": pl.List(pl.String)},
        infer_schema_length=None,
    )
    said = frame.select(sentences(pl.col("rec_type"), Business())).to_series().to_list()
    assert said == [expected for *_, expected in cases]
