"""The gate: what is asked, who passes, and what was seen before."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest

from seq_ml import schema
from seq_ml.encoder.evaluation.counting import counts
from seq_ml.encoder.evaluation.gate import gate_markdown, judge
from seq_ml.encoder.evaluation.labels import Moment, label_sets
from tests.encoder.evaluation.people import END, NAMES, SOLD, catalogue, log, rates, tastes


@dataclass
class Vectors:
    """What the gate asks of an encoder. noise: beside what decides the behaviour; None: alone."""

    version: str
    noise: float
    signal: float = 1.0
    fitted_before: datetime = END - timedelta(days=60)

    config = SimpleNamespace(model=SimpleNamespace(interest=("view", "purchase", "watch")))

    def user_embeddings(self, events, as_of):
        users = events.filter(pl.col("event_time") < as_of).select("user_id").unique().collect()
        names = users["user_id"].sort().to_list()
        truth = np.column_stack([np.log(rates()), np.eye(3)[tastes()]])
        seed = np.random.default_rng([int(as_of.timestamp()), int(100 * self.noise)])
        vectors = self.signal * truth + self.noise * seed.normal(size=truth.shape)
        rows = [NAMES.index(name) for name in names]
        return names, vectors[rows].astype(np.float32)


GOOD = Vectors("good", noise=0.1)
USELESS = Vectors("useless", noise=1.0, signal=0.0)


def judged(new, current, events=None, **changed):
    given = {"end": END, "conversions": ["purchase"]} | changed
    events = log() if events is None else events
    return judge(new, current, events.lazy(), catalogue(), **given)


def test_a_useless_encoder_stays_out_and_one_that_knows_replaces_it():
    gate = judged(USELESS, GOOD)
    assert not gate.passed
    assert {"mean", "churn", "category"} <= set(gate.worse)
    assert gate.mean.value < -0.1
    assert all(abs(each.new - 0.5) < 0.1 for each in gate.sets)
    assert "stays out: worse in" in gate_markdown(gate)
    back = judged(GOOD, USELESS)
    assert back.passed
    assert back.mean.value == pytest.approx(-gate.mean.value)
    assert back.mean.error == pytest.approx(gate.mean.error)
    churn = next(each for each in back.sets if each.name == "churn")
    assert churn.new > 0.75
    assert churn.counts > 0.7


def test_an_equal_one_passes_and_the_verdict_is_the_same_each_time():
    first, again = (judged(GOOD, Vectors("same", noise=0.1)) for _ in range(2))
    assert first == again
    assert first.passed
    assert (first.mean.value, first.mean.error) == (0.0, 0.0)
    assert {each.name for each in first.sets} >= {"churn", "category", "item", "price_band"}


def test_the_first_encoder_passes_beside_counts_alone():
    gate = judged(USELESS, None)
    assert gate.passed
    assert gate.mean is None
    assert all(each.current is None for each in gate.sets)
    assert "| churn | 1 | 0." in gate_markdown(gate)
    assert gate.as_json()["passed"]


def test_a_small_sample_is_the_same_users_every_time():
    gate = judged(GOOD, USELESS, users=200)
    assert gate.users == 200
    assert gate == judged(GOOD, USELESS, users=200)


@pytest.mark.parametrize(
    ("events", "missing"),
    [
        (log().with_columns(item_id=None, unit_price=None), {"category", "item", "price_band"}),
        (log().with_columns(unit_price=None), {"price_band"}),
        (log("watch"), set()),
    ],
    ids=["no items", "no prices", "no conversions"],
)
def test_only_what_the_log_can_answer_is_asked(events, missing):
    events = events.cast(schema.EVENTS.polars_schema())
    gate = judged(USELESS, GOOD, events)
    names = {each.name for each in gate.sets}
    assert "churn" in names
    assert not names & missing
    assert not gate.passed


def test_without_any_question_the_new_one_passes_and_it_is_said():
    gate = judged(USELESS, GOOD, log().head(30))
    assert gate.passed
    assert "no question" in gate_markdown(gate)


def test_an_encoder_that_has_seen_the_answers_is_not_judged_and_a_seen_lesson_is_told():
    late = Vectors("late", noise=1.0, signal=0.0, fitted_before=END - timedelta(days=6))
    for pair in ((late, GOOD), (GOOD, late)):
        gate = judged(*pair)
        assert gate.passed
        assert "encoder late was fitted before 2025-06-25" in gate_markdown(gate)
    late.fitted_before = END - timedelta(days=21)  # a young shop's
    gate = judged(late, GOOD)
    assert not gate.passed
    assert (gate.origin, gate.days) == (late.fitted_before, 21)
    assert gate.seen == ("late",)
    assert "Fitted beyond the origin of the lesson, which is against it: late." in gate_markdown(
        gate
    )


def test_labels_are_of_the_days_after_the_origin_and_features_of_those_before():
    origins = [END - timedelta(days=56), END - timedelta(days=28)]
    moments = [Moment(origin, NAMES) for origin in origins]
    asked = {"conversions": ["purchase"], "interest": ["view"]}
    sets = {each.name: each for each in label_sets(log(), catalogue(), *moments, **asked)}
    month = log().filter(pl.col("event_time") >= origins[1], pl.col("event_type") == "purchase")
    before = log().filter(
        pl.col("event_time").is_between(origins[1] - timedelta(days=91), origins[1], "left"),
        pl.col("event_type") == "purchase",
    )
    came, were = set(month["user_id"]), set(before["user_id"])
    churn = sets["churn"].judge[:, 0]
    assert {NAMES[row] for row in np.flatnonzero(~np.isnan(churn))} == were
    assert {NAMES[row] for row in np.flatnonzero(churn == 0)} == were & came
    bought = month.join(catalogue().select("item_id", "category"), on="item_id")
    assert sets["category"].judge.sum() == bought.select("user_id", "category").n_unique()
    had = log().filter(pl.col("event_time") < origins[1], pl.col("item_id").is_not_null())
    pairs, new = set(had.select("user_id", "item_id").unique().iter_rows()), sets["new_item"]
    asked = (~np.isnan(new.judge)).sum(axis=0)
    never = {sum((name, item) not in pairs for name in NAMES) for item in SOLD}
    assert len(asked)
    assert set(asked) <= never, "what a user had before is not new"
    past = log().filter(pl.col("event_time") < origins[1])
    whole, cut = (counts(events, catalogue(), *moments) for events in (log(), past))
    assert all((one == other).all() for one, other in zip(whole, cut, strict=True))
