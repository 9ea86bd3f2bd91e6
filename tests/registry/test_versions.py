"""Versions, the champion pointer, promotion and rollback, on a real S3 server."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import numpy as np
import polars as pl
import pytest

from seq_ml.evaluation.backtest import backtest
from seq_ml.registry.versions import (
    NoChampionError,
    champion_version,
    load_champion,
    load_model,
    promote,
    rollback,
    save_model,
)
from seq_ml.storage.objects import ObjectChangedError
from seq_ml.tasks.models.binary import ColumnScore, LogisticModel
from tests.evaluation.test_backtest import AS_OF, WEEK, Toy, toy_examples

NOW = datetime(2024, 3, 1, tzinfo=UTC)


class NoiseOnly(Toy):
    """The same task with a candidate that cannot be good."""

    def candidates(self):
        return [ColumnScore("by_noise", "noise")]


class Renamed(Toy):
    """Code that no longer has the champion's candidate."""

    def candidates(self):
        return [ColumnScore("by_noise", "noise"), LogisticModel("newer_logistic", ["x"])]


def later(examples: pl.DataFrame, weeks: int = 1) -> pl.DataFrame:
    return examples.with_columns(pl.col("origin", "label_end") + weeks * WEEK)


def trained(objects, task, examples, as_of=AS_OF):
    result = backtest(task, examples, as_of=as_of, seed=1)
    return save_model(objects, task, result, {"data": "d1"}).name


def judge(objects, task, version, examples):
    return promote(objects, task, version, examples, at=NOW, seed=1)


def test_a_version_is_whole_readable_and_the_same_for_the_same_content(objects):
    task, examples = Toy(), toy_examples()
    result = backtest(task, examples, as_of=AS_OF, seed=1)
    version = save_model(objects, task, result, {"data": "d1"}).name
    files = {info.key.rsplit("/", 1)[1] for info in objects.list(f"models/toy/{version}/")}
    assert files == {"model.json", "metrics.json", "config.json", "report.html", "model_card.md"}
    card = objects.get(f"models/toy/{version}/model_card.md").decode()
    assert result.verdict in card
    assert "| data | d1 |" in card
    config = json.loads(objects.get(f"models/toy/{version}/config.json"))
    assert config["lineage"]["data"] == "d1"
    assert trained(objects, task, examples) == version
    assert trained(objects, task, toy_examples(seed=1)) != version
    champion = load_model(objects, task, version)
    test = examples.filter(pl.col("split") == "test")
    assert champion.model.predict(test).tobytes() == result.published.predict(test).tobytes()
    assert champion.report["verdict"] == result.verdict
    with pytest.raises(KeyError):
        load_model(objects, task, "none")


def test_first_version_is_promoted_and_again_is_nothing(objects):
    task, examples = Toy(), toy_examples()
    with pytest.raises(NoChampionError):
        load_champion(objects, task)
    version = trained(objects, task, examples)
    assert judge(objects, task, version, examples).promoted
    etag = objects.get_with_etag("models/toy/champion.json")[1]
    again = judge(objects, task, version, examples)
    assert (again.promoted, again.reason) == (False, "already the champion")
    assert objects.get_with_etag("models/toy/champion.json")[1] == etag
    assert load_champion(objects, task).version == version


def test_a_champion_that_other_code_saved_is_none(objects):
    task, examples = Toy(), toy_examples()
    version = trained(objects, task, examples)
    assert judge(objects, task, version, examples).promoted
    objects.put(f"models/toy/{version}/model.json", b"{}")
    with pytest.raises(NoChampionError, match=f"{version} cannot be read"):
        load_champion(objects, task)


def test_a_better_challenger_wins_and_a_worse_one_does_not(objects):
    examples = toy_examples()
    worse, better = trained(objects, NoiseOnly(), examples), trained(objects, Toy(), examples)
    assert judge(objects, Toy(), worse, examples).promoted
    decision = judge(objects, Toy(), better, examples)
    assert decision.promoted
    assert decision.improvement is not None
    assert decision.improvement.low > 0
    newer = later(toy_examples(seed=2))
    worse = trained(objects, NoiseOnly(), newer, AS_OF + WEEK)
    decision = judge(objects, Toy(), worse, newer)
    assert not decision.promoted, "newer data do not excuse a worse model"
    assert champion_version(objects, Toy()) == better


def test_of_two_that_cannot_be_told_apart_the_fresher_serves(objects):
    task, examples, newer = Toy(), toy_examples(), later(toy_examples(seed=2))
    old, fresh = trained(objects, task, examples), trained(objects, task, newer, AS_OF + WEEK)
    assert judge(objects, task, old, examples).promoted
    decision = judge(objects, task, fresh, newer)
    assert decision.promoted
    assert "newer data" in decision.reason
    back = judge(objects, task, old, examples)
    assert not back.promoted
    assert "later data" in back.reason


def test_a_champion_that_cannot_predict_any_more_is_replaced(objects):
    examples, newer = toy_examples(), later(toy_examples(seed=2))
    judge(objects, Toy(), trained(objects, Toy(), examples), examples)
    assert load_champion(objects, Toy()).model.name != "newer_logistic"
    decision = judge(objects, Renamed(), trained(objects, Renamed(), newer, AS_OF + WEEK), newer)
    assert decision.promoted
    assert "can no longer predict" in decision.reason


def test_rollback_restores_the_version_before_and_keeps_the_bad_one_out(objects):
    examples = toy_examples()
    first, second = trained(objects, NoiseOnly(), examples), trained(objects, Toy(), examples)
    judge(objects, Toy(), first, examples)
    with pytest.raises(NoChampionError, match="no version before"):
        rollback(objects, Toy())
    judge(objects, Toy(), second, examples)
    assert rollback(objects, Toy()) == first
    assert champion_version(objects, Toy()) == first
    assert judge(objects, Toy(), second, examples).reason == "was rolled back"
    assert champion_version(objects, Toy()) == first


def test_of_two_writers_one_loses(objects, monkeypatch):
    examples = toy_examples()
    first, second = trained(objects, NoiseOnly(), examples), trained(objects, Toy(), examples)
    judge(objects, Toy(), first, examples)
    read = objects.get_with_etag

    def somebody_was_faster(key):
        body, etag = read(key)
        objects.put(key, body + b"\n")
        return body, etag

    monkeypatch.setattr(objects, "get_with_etag", somebody_was_faster)
    with pytest.raises(ObjectChangedError):
        judge(objects, Toy(), second, examples)


def test_a_state_that_is_no_json_is_refused(objects):
    task = Toy()
    result = backtest(task, toy_examples(), as_of=AS_OF, seed=1)
    result.published.state = lambda: {"x": np.nan}  # type: ignore[method-assign]
    with pytest.raises(ValueError, match="JSON"):
        save_model(objects, task, result)


def test_a_champion_that_reads_another_encoder_is_not_compared_but_replaced(objects):
    task, examples = Toy(), toy_examples()
    first = trained(objects, NoiseOnly(), examples)
    judge(objects, task, first, examples)
    second = trained(objects, task, examples)
    decision = promote(objects, task, second, examples, at=NOW, seed=1, comparable=False)
    assert decision.promoted
    assert "another encoder" in decision.reason
    assert decision.improvement is None
    assert champion_version(objects, task) == second
