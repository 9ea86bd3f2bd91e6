"""Versions, the champion pointer, promotion and rollback, on a real S3 server."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from functools import partial

import numpy as np
import polars as pl
import pytest

from seq_ml.business import Business
from seq_ml.evaluation.backtest import backtest
from seq_ml.registry.meeting import meet
from seq_ml.registry.versions import (
    NoChampionError,
    champion_version,
    load_champion,
    load_model,
    promote,
    rollback,
    save_model,
)
from seq_ml.schema import CAMPAIGN_ITEMS, CAMPAIGNS, EVENTS, ITEMS, PROMOTIONS
from seq_ml.storage.artifacts import forbid
from seq_ml.tasks.data import TaskData
from seq_ml.tasks.models.binary import ColumnScore, LogisticModel
from tests.evaluation.test_backtest import AS_OF, WEEK, Toy, toy_examples

NOW = datetime(2024, 3, 1, tzinfo=UTC)


def no_data(**more):
    """Data of a round whose examples are made elsewhere."""
    events, items, campaigns, of_them, plan = (
        pl.LazyFrame(schema=table.polars_schema())
        for table in (EVENTS, ITEMS, CAMPAIGNS, CAMPAIGN_ITEMS, PROMOTIONS)
    )
    given = (events, items.collect(), campaigns.collect(), of_them.collect(), plan)
    return TaskData(*given, Business(), **more)


def NO_ENCODER(version):  # noqa: N802
    raise KeyError(version)


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


def met(objects, task, examples, as_of=AS_OF, given=None, encoders=NO_ENCODER, trainer=None):
    """Train a challenger and let it meet the champion; nothing is promoted yet."""
    result = backtest(trainer or task, examples, as_of=as_of, seed=1)
    version = save_model(objects, task, result, {"data": "d1"}).name
    load = partial(load_champion, objects, task)
    meeting = meet(objects, task, version, result, given or no_data(), encoders, load)
    return version, meeting


def night(objects, task, examples, as_of=AS_OF, **given):
    """Train a challenger, let it meet the champion, and decide."""
    version, meeting = met(objects, task, examples, as_of, **given)
    return promote(objects, task, version, meeting, at=NOW)


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
    assert met(objects, task, examples)[0] == version
    assert met(objects, task, toy_examples(seed=1))[0] != version
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
    first = night(objects, task, examples)
    assert first.promoted
    etag = objects.get_with_etag("models/toy/champion.json")[1]
    again = night(objects, task, examples)
    assert (again.promoted, again.reason) == (False, "already the champion")
    assert objects.get_with_etag("models/toy/champion.json")[1] == etag
    assert load_champion(objects, task).version == first.champion


def test_a_champion_that_other_code_saved_is_none(objects):
    task = Toy()
    version = night(objects, task, toy_examples()).champion
    objects.put(f"models/toy/{version}/model.json", b"{}")
    with pytest.raises(NoChampionError, match=f"{version} cannot be read"):
        load_champion(objects, task)


def test_a_better_challenger_wins_and_a_worse_one_does_not(objects):
    examples = toy_examples()
    assert night(objects, Toy(), trainer=NoiseOnly(), examples=examples).promoted
    decision = night(objects, Toy(), examples)
    assert decision.promoted
    assert decision.improvement is not None
    assert decision.improvement.low > 0
    worse = night(
        objects,
        Toy(),
        trainer=NoiseOnly(),
        examples=later(toy_examples(seed=2)),
        as_of=AS_OF + WEEK,
    )
    assert not worse.promoted, "newer data do not excuse a worse model"
    assert champion_version(objects, Toy()) == decision.champion


def test_of_two_that_cannot_be_told_apart_the_champion_stays(objects):
    task, examples, newer = Toy(), toy_examples(), later(toy_examples(seed=2))
    old = night(objects, task, examples).champion
    decision = night(objects, task, newer, AS_OF + WEEK)
    assert (decision.promoted, decision.champion, decision.compared) == (False, old, True)
    assert "beyond chance" in decision.reason


def test_a_champion_of_later_data_stays_and_is_not_compared(objects):
    newer = later(toy_examples(seed=2))
    assert night(objects, Toy(), trainer=NoiseOnly(), examples=newer, as_of=AS_OF + WEEK).promoted
    decision = night(objects, Toy(), toy_examples())
    assert (decision.promoted, decision.compared) == (False, False)
    assert "later data" in decision.reason


def test_each_look_at_a_champion_may_err_less_and_the_same_one_is_no_other_look(objects):
    task = Toy()
    night(objects, task, toy_examples())
    looks = []
    for seed in (2, 3, 3, 4):
        newer = later(toy_examples(seed=seed), weeks=seed)
        looks.append(met(objects, task, newer, AS_OF + seed * WEEK)[1].look)
        night(objects, task, newer, AS_OF + seed * WEEK)
    assert looks == [1, 2, 2, 3]


def test_a_champion_whose_code_is_gone_is_replaced_and_it_is_said(objects):
    examples, newer = toy_examples(), later(toy_examples(seed=2))
    night(objects, Toy(), examples)
    assert load_champion(objects, Toy()).model.name != "newer_logistic"
    decision = night(objects, Renamed(), newer, AS_OF + WEEK)
    assert (decision.promoted, decision.compared) == (True, False)
    assert "no candidate" in decision.reason
    assert "beats the best baseline on its own" in decision.reason


def test_a_champion_that_can_no_longer_read_the_rows_is_replaced_and_it_is_said(objects):
    night(objects, Toy(), toy_examples())
    newer = later(toy_examples(seed=2)).drop("x").with_columns(z=pl.lit(1.0))
    decision = night(objects, Toy(), trainer=NoiseOnly(), examples=newer, as_of=AS_OF + WEEK)
    assert (decision.promoted, decision.compared) == (True, False)
    assert "can no longer predict" in decision.reason
    assert "it is a baseline" in decision.reason


def test_a_champion_that_knew_an_erased_person_is_replaced_and_it_is_said(objects):
    task = Toy()
    forbid(objects, "models/toy", night(objects, task, toy_examples()).champion)
    decision = night(objects, task, later(toy_examples(seed=2)), AS_OF + WEEK)
    assert (decision.promoted, decision.compared) == (True, False)
    assert "a person was erased" in decision.reason


def test_a_test_window_without_positives_promotes_nobody(objects):
    task = Toy()
    old = night(objects, task, toy_examples()).champion
    none = pl.when(split="test").then(0.0).otherwise("label")
    newer = later(toy_examples(seed=2)).with_columns(label=none)
    decision = night(objects, task, newer, AS_OF + WEEK)
    assert (decision.promoted, decision.champion) == (False, old)
    assert "cannot tell them apart" in decision.reason


def test_rollback_restores_the_version_before_and_keeps_the_bad_one_out(objects):
    examples = toy_examples()
    first = night(objects, Toy(), trainer=NoiseOnly(), examples=examples).champion
    with pytest.raises(NoChampionError, match="no version before"):
        rollback(objects, Toy())
    assert night(objects, Toy(), examples).promoted
    assert rollback(objects, Toy()) == first
    assert champion_version(objects, Toy()) == first
    assert night(objects, Toy(), examples).reason == "was rolled back"
    assert champion_version(objects, Toy()) == first


def test_of_two_promotions_at_once_one_comes_first_and_the_other_says_so(objects):
    examples = toy_examples()
    night(objects, Toy(), trainer=NoiseOnly(), examples=examples)
    (one, first), (two, second) = (met(objects, Toy(), toy_examples(seed=seed)) for seed in (0, 1))
    assert promote(objects, Toy(), one, first, at=NOW).promoted
    decision = promote(objects, Toy(), two, second, at=NOW)
    assert (decision.promoted, decision.champion) == (False, one)
    assert "somebody else changed the champion" in decision.reason


@pytest.mark.parametrize("champion", [True, False], ids=["a champion", "none yet"])
def test_of_two_writers_at_the_same_moment_one_loses_and_says_so(objects, monkeypatch, champion):
    if champion:
        night(objects, Toy(), trainer=NoiseOnly(), examples=toy_examples())
    version, meeting = met(objects, Toy(), toy_examples())
    put = objects.put

    def somebody_is_faster(key, body, **condition):
        monkeypatch.setattr(objects, "put", put)
        put(key, body + b"\n")
        return put(key, body, **condition)

    monkeypatch.setattr(objects, "put", somebody_is_faster)
    decision = promote(objects, Toy(), version, meeting, at=NOW)
    assert not decision.promoted
    assert "somebody else changed the champion" in decision.reason


def test_a_state_that_is_no_json_is_refused(objects):
    task = Toy()
    result = backtest(task, toy_examples(), as_of=AS_OF, seed=1)
    result.published.state = lambda: {"x": np.nan}  # type: ignore[method-assign]
    with pytest.raises(ValueError, match="JSON"):
        save_model(objects, task, result)
