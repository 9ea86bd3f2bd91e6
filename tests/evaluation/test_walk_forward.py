"""Walk-forward: earlier folds are the whole protocol, as if it had been run on their day."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
import pytest

from seq_ml.evaluation import walk_forward as module
from seq_ml.evaluation.backtest import backtest
from seq_ml.evaluation.leakage import known_before
from seq_ml.evaluation.walk_forward import walk_forward
from seq_ml.tasks.behaviour.features import RECENCY
from seq_ml.tasks.churn.task import SilenceTask
from seq_ml.tasks.inventory.models import BOOSTED, BOOSTED_PLAN
from seq_ml.tasks.models.binary import ColumnScore
from seq_ml.tasks.registered import load_tasks
from tests.data import AS_OF
from tests.evaluation.test_leakage import data, data_for

if TYPE_CHECKING:
    from seq_ml.tasks.judged import Backtest

SEED = 7
EVENT = pl.col("event_time")
NAMES = ("churn_silence", "recommendations", "inventory")


class NoEncoder:
    """Cannot be asked: it was fitted on events after the earlier windows."""

    version = "newest"
    fitted_before = AS_OF - timedelta(days=91)

    def user_embeddings(self, events, as_of):
        raise AssertionError("the encoder of today was asked about an earlier window")

    item_scores = user_embeddings


@pytest.fixture(autouse=True)
def everything_competes(monkeypatch):
    """Sixty households are too few for models of features; here the protocol is looked at."""
    monkeypatch.setattr("seq_ml.evaluation.backtest.enough", lambda *_: None)


@cache
def walked(name: str) -> Backtest:
    task, given = load_tasks()[name], data_for(name)
    examples = task.examples(given, AS_OF)
    newest = backtest(task, examples, as_of=AS_OF, seed=SEED)
    return walk_forward(task, replace(given, encoder=NoEncoder()), newest, examples, seed=SEED)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_test_windows_follow_each_other_without_overlap(name):
    result, task = walked(name), load_tasks()[name]
    assert len(result.walk_forward) == 2
    begins = result.windows["test"].first_origin
    for fold in result.walk_forward:
        assert fold.as_of <= begins
        assert fold.as_of == data().business.midnight(data().business.day_of(fold.as_of))
        begins = task.examples(data_for(name), fold.as_of).filter(split="test")["origin"].min()
    assert all(a.as_of > b.as_of for a, b in pairwise(result.walk_forward))


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_fold_is_what_the_protocol_says_on_that_day(name):
    task, fold = load_tasks()[name], walked(name).walk_forward[-1]
    then = known_before(data_for(name), fold.as_of, AS_OF)
    alone = backtest(task, task.examples(then, fold.as_of), as_of=fold.as_of, seed=SEED)
    assert (fold.model, fold.baseline) == (alone.model, alone.baseline)
    assert fold.published == alone.published.name
    assert fold.examples == alone.windows["test"].examples
    assert fold.improvement is not None
    assert alone.improvement is not None
    assert fold.improvement.value == pytest.approx(alone.improvement.value)
    assert fold.improvement.low == pytest.approx(alone.improvement.low, abs=1e-9)
    judged = {c.name: c.test[task.primary_metric] for c in alone.candidates if c.test}
    assert fold.model_value.value == pytest.approx(judged[fold.model].value)
    wide = judged[fold.baseline].high - judged[fold.baseline].low  # by fewer draws
    assert fold.baseline_value.high == pytest.approx(judged[fold.baseline].high, abs=0.2 * wide)


@pytest.mark.parametrize("name", NAMES)
def test_the_pooled_improvement_is_the_mean_of_all_windows(name):
    result = walked(name)
    values = [result.improvement, *(fold.improvement for fold in result.walk_forward)]
    assert result.pooled is not None
    mean = np.mean([value.value for value in values if value is not None])
    assert result.pooled.value == pytest.approx(mean)
    assert result.pooled.low < result.pooled.value < result.pooled.high
    widths = [value.high - value.low for value in values if value is not None]
    assert result.pooled.high - result.pooled.low < max(widths)


@pytest.mark.slow
def test_what_predicts_some_rows_beside_the_model_is_judged_over_all_windows_too(monkeypatch):
    task, data, other = load_tasks()["inventory"], data_for("inventory"), BOOSTED_PLAN
    assert task.predicts_beside(BOOSTED_PLAN) == (BOOSTED,)
    monkeypatch.setattr(type(task), "predicts_beside", lambda *_: (other,))
    monkeypatch.setattr(module, "EARLIER_FOLDS", 1)
    examples = task.examples(data, AS_OF)
    newest = backtest(task, examples, as_of=AS_OF, seed=SEED)
    result = walk_forward(task, data, newest, examples, seed=SEED)
    then = result.walk_forward[0].as_of
    earlier = task.examples(known_before(data, then, AS_OF), then)
    rounds = [newest, backtest(task, earlier, as_of=then, seed=SEED)]
    gains = [next(c.gain.value for c in one.candidates if c.name == other) for one in rounds]
    pooled = {c.name: c.pooled for c in result.candidates if c.pooled is not None}
    assert pooled.keys() == {other}
    assert pooled[other].value == pytest.approx(np.mean(gains))
    assert pooled[other].low < pooled[other].value < pooled[other].high


def test_the_findings_say_all_of_it_and_that_the_encoder_was_left_out():
    result = walked("recommendations")
    found = json.loads(json.dumps(result.metrics_json(), allow_nan=False))
    assert [f["as_of"] for f in found["walk_forward"]] == [
        fold.as_of.isoformat() for fold in result.walk_forward
    ]
    assert all("without encoder" in f["note"] for f in found["walk_forward"])
    assert set(found["pooled_improvement"]) == {"value", "low", "high"}
    assert found["verdict"] == result.verdict


@pytest.mark.slow
def test_nothing_of_later_reaches_an_earlier_fold():
    task = SilenceTask()
    newest = replace(walked(task.name), walk_forward=(), pooled=None)
    first = walked(task.name).walk_forward[0].as_of
    later = pl.col("event_time") >= first
    other = data().events.with_columns(
        quantity=pl.when(later).then(pl.col("quantity") * 9).otherwise("quantity"),
        user_id=pl.when(later).then(pl.lit("somebody else")).otherwise("user_id"),
    )
    changed = replace(data(), events=other)
    again = walk_forward(task, changed, newest, task.examples(changed, AS_OF), seed=SEED)
    one, two = (
        [replace(fold, note="") for fold in found.walk_forward]
        for found in (walked(task.name), again)
    )
    assert one == two
    assert again.walk_forward[0].note == "", "no encoder, nothing to say"


def test_folds_end_where_the_history_does():
    task = load_tasks()["recommendations"]  # 30 days each: two to learn from, one to judge

    def folds(days: int) -> list[int]:
        short = replace(data(), events=data().events.filter(EVENT.ge(AS_OF - timedelta(days=days))))
        examples = task.examples(short, AS_OF)
        newest = backtest(task, examples, as_of=AS_OF, seed=SEED)
        found = walk_forward(task, short, newest, examples, seed=SEED)
        assert (found.pooled is None) == (not found.walk_forward)
        return [(AS_OF - fold.as_of).days for fold in found.walk_forward]

    assert folds(95) == [30]
    assert folds(65) == []


class BaselineOnly(SilenceTask):
    """Nothing that could be better."""

    def candidates(self):
        return [ColumnScore("recency", RECENCY)]


def test_without_a_model_the_baseline_is_judged_alone(monkeypatch):
    task = BaselineOnly()
    monkeypatch.setattr("seq_ml.evaluation.backtest.SMALLEST_SLICE", 10)
    examples = task.examples(data(), AS_OF)
    newest = backtest(task, examples, as_of=AS_OF, seed=SEED)
    assert newest.slices
    for part in newest.slices:
        assert part.improvement is None
        assert part.model.as_json() == part.baseline.as_json()
    found = walk_forward(task, data(), newest, examples, seed=SEED)
    assert found.pooled is None
    for fold in found.walk_forward:
        assert (fold.model, fold.published, fold.improvement) == (None, "recency", None)
        assert np.isnan(fold.model_value.value)
        assert fold.baseline_value.value > 0.5
    assert json.dumps(found.metrics_json(), allow_nan=False)


def test_slices_have_intervals_and_a_paired_difference():
    slices = walked("recommendations").slices
    assert slices
    for part in slices:
        assert part.improvement is not None
        for estimate in (part.model, part.baseline, part.improvement):
            assert estimate.low <= estimate.value <= estimate.high
        difference = part.model.value - part.baseline.value
        assert part.improvement.value == pytest.approx(difference)


def test_a_round_of_very_many_examples_goes_back_once(monkeypatch):
    task = SilenceTask()
    monkeypatch.setattr(module, "MANY_EXAMPLES", 100)
    newest = walked(task.name)
    found = walk_forward(task, data(), newest, newest.test, seed=SEED)
    assert [fold.as_of for fold in found.walk_forward] == [walked(task.name).walk_forward[0].as_of]
