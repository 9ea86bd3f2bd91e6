"""The ladder as the pipeline climbs it: nights, a kill, a divergence, and what it foresees."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import dagster as dg
import polars as pl
import pytest

from seq_assets.checks import REFUSED
from seq_assets.encoder import encoder_ladder, sequence_predictions
from seq_assets.resources import Storage
from seq_assets.tokens import token_shards, vocabulary
from seq_ml.encoder.ladder import climbing
from seq_ml.encoder.ladder.rungs import read_ladder
from seq_ml.encoder.training.loop import DivergedError
from seq_ml.erasure.search import Needle, search_folder
from seq_ml.schema import EVENTS, ITEMS, SEQUENCE_PREDICTIONS
from seq_ml.sequences import cutoffs
from seq_ml.sequences.segments import update_sequences
from seq_ml.settings import load_settings
from seq_ml.storage.artifacts import CANDIDATE, current, forbid
from seq_ml.storage.layout import ENCODER_PREFIX
from seq_ml.storage.tables import TableStore
from tests.data import journey

if TYPE_CHECKING:
    from pathlib import Path

    from seq_ml.storage.objects import ObjectStore

DAY = timedelta(days=1)
AS_OF = datetime(2017, 11, 22, tzinfo=UTC)
FIRST = AS_OF - 120 * DAY
TRAINING = "steps: 4, warm_steps: 0.5, evaluate_every: 2, checkpoint_every: 1, threads: 1"


class Shop:
    """A bucket with the events of some months, and the steps of the encoder on it."""

    def __init__(self, objects: ObjectStore, folder: Path) -> None:
        self.objects, self.folder = objects, folder
        self.tables = TableStore(objects)

    def fill(self, events: pl.DataFrame | None = None, *, since: datetime = FIRST) -> None:
        if events is None:
            kept = pl.col("event_time").is_between(since, AS_OF + 3 * DAY)
            kept &= pl.col("event_date").dt.ordinal_day() % 4 == 0  # fewer partitions to write
            events = journey()["clean_events"].filter(kept)
        dates = events["event_date"].unique().sort().to_list()
        self.tables.overwrite_partitions(EVENTS, events, dates)
        self.tables.overwrite(ITEMS.name, journey()["items"])
        update_sequences(self.tables, load_settings())

    def night(self, as_of: datetime = AS_OF, *, predict: bool = False) -> dg.ExecuteInProcessResult:
        """Go through the steps as of an instant."""
        cutoffs.record(self.tables, cutoffs.CutOffs(as_of, as_of - 45 * DAY, 7.0, 150))
        steps = [vocabulary, token_shards, encoder_ladder]
        return dg.materialize(
            [*steps, sequence_predictions] if predict else steps,
            resources={"storage": Storage()},
            instance=dg.DagsterInstance.ephemeral(),
            raise_on_error=False,
        )

    def weights(self) -> dict[str, bytes]:
        """Bytes of the weights of each rung."""
        return {
            rung.version: self.objects.get(f"{ENCODER_PREFIX}/{rung.version}/model.safetensors")
            for rung in read_ladder(self.objects)
        }


def made(result: dg.ExecuteInProcessResult, asset: str) -> dict[str, Any]:
    (event,) = result.asset_materializations_for_node(asset)
    return {name: value.value for name, value in event.metadata.items()}


@pytest.fixture
def shop(objects, server, tmp_path, monkeypatch) -> Shop:
    preset = tmp_path / "short.yaml"
    preset.write_text(f"preset: tiny\ntraining: {{{TRAINING}}}\n")
    for name, value in {
        "SEQLINE_BUCKET": objects.bucket,
        "SEQLINE_PRESET": str(preset),
        "SEQLINE_HOME": str(tmp_path / "home"),
        "SEQLINE_SHARDS": "2",
        "SEQLINE_RUNGS": "3",
        "AWS_ACCESS_KEY_ID": server.access_key,
        "AWS_SECRET_ACCESS_KEY": server.secret_key,
        "AWS_ENDPOINT_URL": str(server.endpoint),
    }.items():
        monkeypatch.setenv(name, value)
    return Shop(objects, tmp_path)


def test_rungs_stay_and_the_newest_goes_on_from_night_to_night(shop):
    shop.fill()
    first = shop.night(predict=True)
    assert first.success
    rungs = read_ladder(shop.objects)
    assert [rung.cut for rung in rungs] == [AS_OF - 56 * DAY, AS_OF - 28 * DAY, AS_OF]
    assert all(rung.fixed for rung in rungs)
    said = made(first, "encoder_ladder")
    assert [line.partition(": ")[2][:12] for line in said["trained"]] == [
        "from scratch", "continued fr", "continued fr"
    ]  # fmt: skip
    assert said["candidate"] == rungs[0].version, "it saw nothing after the training cut-off"
    assert current(shop.objects, ENCODER_PREFIX, CANDIDATE)["version"] == rungs[0].version
    anybody = journey()["clean_events"]["user_id"].unique().to_list()
    kept = shop.folder / "home" / "work" / "encoder"
    assert search_folder(kept, Needle.of(*anybody)) == {}, "an erasure keeps this folder"
    words = [shop.objects.get(f"{ENCODER_PREFIX}/{r.version}/vocabulary.json") for r in rungs]
    assert len({*words}) == 3
    check_predictions(shop)

    before = shop.weights()
    again = shop.night()
    assert made(again, "encoder_ladder")["trained"] == [], "what stays is not trained again"
    tonight = shop.night(AS_OF + DAY, predict=True)
    assert tonight.success
    newest = read_ladder(shop.objects)
    assert newest[:3] == rungs
    assert (newest[3].cut, newest[3].fixed) == (AS_OF + DAY, False)
    after = shop.weights()
    assert {version: after[version] for version in before} == before
    check_predictions(shop)
    shop.night(AS_OF + 2 * DAY)
    third = read_ladder(shop.objects)
    assert third[:3] == rungs
    assert [rung.cut for rung in third[3:]] == [AS_OF + 2 * DAY], "the newest gives way"


def check_predictions(shop: Shop) -> None:
    rows = shop.tables.scan(SEQUENCE_PREDICTIONS.name).collect()
    assert rows.height
    assert rows.filter(pl.col("rung_cut") > pl.col("origin")).is_empty()
    assert not rows.select("origin", "user_id").is_duplicated().any()
    there = {rung.version: rung for rung in read_ladder(shop.objects)}
    for version, cut in rows.select("rung", "rung_cut").unique().rows():
        assert there[version].cut == cut
    assert rows["p_silence"].is_between(0, 1).all()


def test_a_climb_that_was_killed_goes_on_and_ends_where_an_undisturbed_one_does(
    shop, monkeypatch, tmp_path
):
    shop.fill()
    assert shop.night().success
    whole, rungs = shop.weights(), read_ladder(shop.objects)
    for key in ("models", "tokens"):
        shop.objects.delete_prefix(key)
    monkeypatch.setenv("SEQLINE_HOME", str(tmp_path / "another"))

    train, calls = climbing.retrain, []

    def killed(*arguments, **more):
        calls.append(1)
        return train(*arguments, **{**more, "should_stop": lambda: len(calls) == 2})

    monkeypatch.setattr(climbing, "retrain", killed)
    stopped = shop.night()
    assert not stopped.success
    assert read_ladder(shop.objects) == rungs[:1], "whole encoders alone are rungs"
    monkeypatch.setattr(climbing, "retrain", train)
    assert shop.night().success
    assert read_ladder(shop.objects) == rungs
    assert shop.weights() == whole


def test_a_training_that_diverges_leaves_what_there_is(shop, monkeypatch):
    shop.fill()
    assert shop.night().success
    rungs = read_ladder(shop.objects)

    def diverges(*_, **__):
        raise DivergedError("next_basket loss is nan at step 1")

    monkeypatch.setattr(climbing, "retrain", diverges)
    result = shop.night(AS_OF + DAY)
    (failure,) = [e for e in result.all_events if e.is_step_failure]
    assert "loss is nan at step 1" in failure.step_failure_data.error.message
    assert read_ladder(shop.objects) == rungs


def test_where_nothing_can_be_learnt_it_refuses_and_nothing_is_foreseen(shop):
    once = journey()["clean_events"].filter(pl.col("event_time").is_between(FIRST, AS_OF - DAY))
    shop.fill(once.unique("user_id", keep="first"))
    result = shop.night(predict=True)
    assert result.success
    (refused, _) = observed(result)
    assert "after their first event" in refused
    assert read_ladder(shop.objects) == ()
    assert shop.tables.scan(SEQUENCE_PREDICTIONS.name).collect().is_empty()


def observed(result: dg.ExecuteInProcessResult) -> list[str]:
    seen = [e for e in result.all_events if e.event_type_value == "ASSET_OBSERVATION"]
    return [e.asset_observation_data.asset_observation.metadata[REFUSED].value for e in seen]


def test_a_short_history_has_fewer_rungs_and_one_before_the_test_windows(shop):
    shop.fill(since=AS_OF - 70 * DAY)
    assert shop.night().success
    cutoff = AS_OF - 45 * DAY
    cuts = [rung.cut for rung in read_ladder(shop.objects)]
    assert cuts == [cutoff, cutoff + 28 * DAY, AS_OF]


def test_rungs_that_knew_an_erased_person_are_climbed_again(shop):
    shop.fill()
    assert shop.night().success
    rungs = read_ladder(shop.objects)
    forbid(shop.objects, ENCODER_PREFIX, rungs[1].version)
    events = shop.tables.scan(EVENTS.name).collect()
    shop.fill(events.filter(pl.col("user_id") != events["user_id"].max()))
    assert shop.night(AS_OF + DAY).success
    again = read_ladder(shop.objects)
    assert again[0] == rungs[0]
    assert [rung.cut for rung in again[1:]] == [AS_OF - 28 * DAY, AS_OF, AS_OF + DAY]
    assert not {rung.version for rung in again[1:]} & {rung.version for rung in rungs}
