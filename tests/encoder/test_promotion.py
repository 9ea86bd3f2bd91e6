"""Which encoder is current: what passes, what stays out, and what goes on then."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import dagster as dg
import pytest
from safetensors.torch import load_file, save_file

from seq_assets.encoder import item_embeddings
from seq_assets.gate import encoder_gate
from seq_assets.resources import Storage, load_encoder
from seq_ml.clean.local_copy import LocalEvents
from seq_ml.encoder.config import PRESETS
from seq_ml.encoder.ladder.retraining import FILES
from seq_ml.encoder.promotion import promote
from seq_ml.encoder.training.pretrain import pretrain
from seq_ml.sequences.build import build_sequences
from seq_ml.sequences.cutoffs import CutOffs, record
from seq_ml.storage.artifacts import CANDIDATE, current, forbid, publish_folder
from seq_ml.storage.tables import TableStore
from seq_ml.tokens.shards import write_shards
from seq_ml.tokens.vocabulary import Vocabulary
from tests.encoder.evaluation.people import END, catalogue, log

if TYPE_CHECKING:
    from pathlib import Path

    from seq_ml.encoder.evaluation.gate import Gate
    from seq_ml.storage.objects import ObjectStore

CUT = END - timedelta(days=60)
PREFIX = "models/encoder"
TINY = PRESETS["tiny"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    config = replace(TINY, training=replace(TINY.training, steps=20, threads=1))
    words = Vocabulary.fit([log().lazy()], catalogue(), before=CUT, min_users=TINY.min_users)
    sequences = build_sequences(log().lazy(), as_of=CUT, max_events=512, shards=1)
    write_shards([sequences], words, folder / "shards")
    assert pretrain(folder / "shards", words, config, folder).completed
    return folder


def changed(folder: Path, out: Path, name: str, factor: float = 1.0) -> Path:
    """The same training under another name, its weights multiplied."""
    out.mkdir()
    for file in FILES:
        (out / file).write_bytes((folder / file).read_bytes())
    weights = load_file(folder / "model.safetensors")
    save_file({key: factor * w for key, w in weights.items()}, out / "model.safetensors")
    facts = json.loads((folder / "training.json").read_text())
    (out / "training.json").write_text(json.dumps(facts | {"training_id": name}))
    return out


def offered(objects: ObjectStore, folder: Path) -> str:
    facts = json.loads((folder / "training.json").read_text())
    publish_folder(
        objects, PREFIX, facts["training_id"], folder, files=FILES, pointer=CANDIDATE,
        fitted_before=facts["fitted_before"],
    )  # fmt: skip
    return str(facts["training_id"])


def gate(objects: ObjectStore, work: Path) -> Gate:
    given = {"end": END, "conversions": ["purchase"], "work": work}
    found = promote(objects, PREFIX, log().lazy(), catalogue(), **given)
    assert found is not None
    return found


def now(objects: ObjectStore) -> dict[str, Any]:
    return current(objects, PREFIX) or {}


def test_the_candidate_becomes_current_unless_it_is_worse(objects, trained, tmp_path):
    assert promote(objects, PREFIX, log().lazy(), catalogue(), end=END, conversions=[],
                   work=tmp_path) is None  # fmt: skip
    first = offered(objects, trained)
    assert gate(objects, tmp_path).passed
    assert now(objects)["version"] == first
    assert now(objects)["gate"]["sets"], "what was found stands beside what it was found of"
    assert "the current one already" in gate(objects, tmp_path).why

    empty = changed(trained, tmp_path / "empty", "empty", 0.0)
    offered(objects, empty)
    stopped = gate(objects, tmp_path)
    assert (stopped.new, stopped.current, stopped.passed) == ("empty", first, False)
    assert now(objects)["version"] == first

    same = offered(objects, changed(trained, tmp_path / "same", "same"))
    assert gate(objects, tmp_path).passed
    assert now(objects)["version"] == same

    forbid(objects, PREFIX, same)
    offered(objects, empty)
    assert gate(objects, tmp_path).passed, "an erased person outweighs a better encoder"
    assert now(objects)["version"] == "empty"


def test_an_encoder_of_an_earlier_release_neither_stays_nor_stops_the_new_one(
    objects, trained, tmp_path, monkeypatch
):
    monkeypatch.setenv("SEQLINE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("seq_ml.storage.connect", lambda *_, **__: objects)
    record(TableStore(objects), CutOffs(END, CUT))
    old = changed(trained, tmp_path / "old", "old")
    facts = json.loads((old / "training.json").read_text())
    (old / "training.json").write_text(json.dumps(facts | {"format": 1}))
    (old / "model.safetensors").write_bytes(b"other weights")
    given = {"files": FILES, "fitted_before": facts["fitted_before"]}
    publish_folder(objects, PREFIX, "old", old, **given)
    assert load_encoder(Storage()) is None, "vectors and tasks go on without one"
    empty = offered(objects, changed(trained, tmp_path / "empty", "empty", 0.0))
    assert gate(objects, tmp_path).passed
    assert now(objects)["version"] == empty
    assert load_encoder(Storage()).version == empty


def test_a_gate_that_fails_is_told_and_everything_goes_on_with_the_encoder_before(
    objects, trained, tmp_path, monkeypatch
):
    said = []
    monkeypatch.setenv("SEQLINE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("seq_assets.checks.tell", lambda _, content: said.append(content["error"]))
    monkeypatch.setattr("seq_ml.storage.connect", lambda *_, **__: objects)
    events = LocalEvents(log().lazy(), ())
    monkeypatch.setattr("seq_ml.clean.local_copy.local_events", lambda *_: events)
    record(TableStore(objects), CutOffs(END, CUT))
    TableStore(objects).overwrite("items", catalogue())
    first = offered(objects, trained)

    def night() -> dg.ExecuteInProcessResult:
        return dg.materialize(
            [encoder_gate, item_embeddings],
            resources={"storage": Storage()},
            instance=dg.DagsterInstance.ephemeral(),
        )

    (check,) = night().get_asset_check_evaluations()
    assert check.passed
    assert not said
    offered(objects, changed(trained, tmp_path / "empty", "empty", 0.0))
    result = night()
    assert result.success
    (check,) = result.get_asset_check_evaluations()
    assert (check.passed, check.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert "mean" in check.metadata["worse"].value
    assert len(said) == 1
    assert "The new encoder empty stays out, worse in" in said[0]
    assert f"{first} goes on" in said[0]
    versions = TableStore(objects).scan("item_embeddings").collect()["model_version"]
    assert versions.unique().to_list() == [first]
