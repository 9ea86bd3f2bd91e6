"""`seqline model finetune`: churn and own labels, stop and go on, what is refused and given."""

from __future__ import annotations

import json
import shlex
import signal
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from seq_assets.cli.app import app
from seq_ml.clean.local_copy import LocalEvents
from seq_ml.encoder.config import PRESETS
from seq_ml.encoder.finetuning.tuned import FineTuned
from seq_ml.encoder.ladder.retraining import FILES
from seq_ml.encoder.scoring.encoder import Encoder
from seq_ml.encoder.training import logs
from seq_ml.encoder.training.pretrain import pretrain
from seq_ml.privacy.pseudonyms import Pseudonyms
from seq_ml.sequences.build import build_sequences
from seq_ml.sequences.cutoffs import CutOffs, record
from seq_ml.settings import load_settings
from seq_ml.storage.artifacts import publish_folder
from seq_ml.storage.tables import TableStore
from seq_ml.tokens.shards import write_shards
from seq_ml.tokens.vocabulary import Vocabulary
from tests.encoder.evaluation.people import END, NAMES, catalogue, log

if TYPE_CHECKING:
    from pathlib import Path

    from seq_ml.storage.objects import ObjectStore

CUT = END - timedelta(days=80)
TINY = PRESETS["tiny"]
BRIEF = (
    "{steps: 12, examples: 32, evaluate_every: 4, checkpoint_every: 4, warmup_steps: 1, threads: 1}"
)
PLAIN = "model finetune --encoder model --events events.parquet --settings brief.yaml --out tuned"


def own(user: str) -> str:
    """The id that the shop itself gives a user."""
    return f"customer {NAMES.index(user)}"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    config = replace(TINY, training=replace(TINY.training, steps=20, threads=1))
    words = Vocabulary.fit([log().lazy()], catalogue(), before=CUT, min_users=TINY.min_users)
    sequences = build_sequences(log().lazy(), as_of=CUT, max_events=512, shards=1)
    write_shards([sequences], words, folder / "shards")
    assert pretrain(folder / "shards", words, config, folder).completed
    return folder


@pytest.fixture
def files(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory: model, events.parquet, brief.yaml, labels.csv under own ids."""
    (tmp_path / "model").symlink_to(trained)
    named = {user: own(user) for user in NAMES}
    events = log().with_columns(pl.col("user_id").replace(named)).drop("event_id", "event_date")
    events.write_parquet(tmp_path / "events.parquet")
    (tmp_path / "brief.yaml").write_text(BRIEF)
    labels(CUT).write_csv(tmp_path / "labels.csv")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def labels(origin) -> pl.DataFrame:
    """Who bought tea or bread in the 28 days from the origin on."""
    time = pl.col("event_time")
    window = log().filter(time.is_between(origin, origin + timedelta(days=28), closed="left"))
    came = set(window.filter(pl.col("item_id").is_in(["tea", "bread"]))["user_id"])
    return pl.DataFrame(
        {
            "user_id": [own(user) for user in NAMES],
            "origin": f"{origin:%Y-%m-%d}",
            "label": [int(user in came) for user in NAMES],
        }
    )


def call(line: str, *, code: int = 0) -> str:
    result = CliRunner().invoke(app, shlex.split(line))
    assert result.exit_code == code, result.output
    return result.output


def test_churn_from_files_with_a_report_a_card_and_everybodys_probability(files):
    output = call(f"{PLAIN} --task silence")
    assert "silence: " in output
    found = json.loads((files / "tuned" / "report.json").read_text())
    assert found["task"] == "silence"
    assert found["method"] == "lora"
    assert found["loss"].keys() == {"lora", "frozen", "share"}
    assert found["gain"]["low"] <= found["gain"]["value"] <= found["gain"]["high"]
    gained = found["loss"]["frozen"] - found["loss"]["lora"]
    assert found["gain"]["value"] == pytest.approx(gained)
    assert found["origins"] == [(END - timedelta(days=n)).isoformat() for n in (70, 56)]
    assert sum(found["people"].values()) <= len(NAMES)
    assert found["verdict"] in (files / "tuned" / "report.md").read_text()
    card = (files / "tuned" / "card.md").read_text()
    assert "Model card: silence" in card
    assert f"fitted to events before\n  {CUT:%Y-%m-%d %H:%M} UTC" in card

    encoder = Encoder.load(files / "model")
    tuned = FineTuned.load(files / "tuned", encoder)
    users, p = tuned.predict("silence", log().lazy(), END)
    told = pl.read_parquet(files / "tuned" / "predictions.parquet")
    expected = {own(user): value for user, value in zip(users, p.tolist(), strict=True)}
    assert dict(told.select("user_id", "p").iter_rows()).keys() == expected.keys()
    assert told["as_of"].unique().to_list() == [END]


def test_it_goes_on_where_it_was_stopped_and_ends_as_one_that_was_not(files, monkeypatch):
    progress = logs.progress

    def stopping(say):
        shown = progress(say)

        def on_step(metrics):
            shown(metrics)
            if metrics["step"] == 6:
                signal.raise_signal(signal.SIGTERM)

        return on_step

    line = f"{PLAIN} --labels labels.csv --method full"
    with monkeypatch.context() as patch:
        patch.setattr(logs, "progress", stopping)
        assert "the same command goes on from here" in call(line, code=130)
    assert not (files / "tuned" / "finetuned.json").exists()
    call(line)
    call(line.replace("--out tuned", "--out undisturbed"))
    weights = [(files / name / "finetuned.safetensors").read_bytes()
               for name in ("tuned", "undisturbed")]  # fmt: skip
    assert weights[0] == weights[1]
    found = json.loads((files / "tuned" / "report.json").read_text())
    assert found["task"] == "labels"
    assert sum(found["labels"].values()) <= len(NAMES)


def test_the_probe_alone_says_what_it_is(files):
    assert "this is the probe itself" in call(f"{PLAIN} --labels labels.csv --method frozen")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "expected either --task or --labels"),
        ("--task silence --labels labels.csv", "expected either --task or --labels"),
        ("--task loyalty", "expected one of silence, decline"),
        ("--task silence --method lore", "brief.yaml and --method: method: expected"),
        ("--task silence --method partial", "name layers"),
        ("--labels early.csv", "the cut-off of encoder"),
        ("--labels wrong.csv", "row 1: label 'maybe' is not f64"),
        ("--labels high.csv", "expected 0 or 1"),
        ("--labels twice.csv", "has several labels at"),
        ("--labels strangers.csv", "nobody is left to judge by"),
        ("--labels same.csv", "have the same label"),
        ("--task silence --encoder other", "trained by another release"),
        ("--task silence --encoder late", "take an encoder trained with --as-of"),
    ],
)
def test_what_cannot_be_fitted_gets_one_sentence(files, trained, line, message):
    good = labels(CUT)
    early = pl.concat([good, labels(CUT - timedelta(days=28))])
    early.write_csv("early.csv")
    good.with_columns(label=pl.lit("maybe")).write_csv("wrong.csv")
    good.with_columns(label=pl.lit(2)).write_csv("high.csv")
    pl.concat([good, good]).write_csv("twice.csv")
    good.with_columns(user_id="x" + pl.col("user_id")).write_csv("strangers.csv")
    good.with_columns(label=pl.lit(1)).write_csv("same.csv")
    late = files / "late"
    late.mkdir()
    for name in FILES:
        (late / name).write_bytes((trained / name).read_bytes())
    facts = json.loads((late / "training.json").read_text())
    (files / "other").mkdir()
    (files / "other" / "training.json").write_text(json.dumps(facts | {"format": 1}))
    after = {"fitted_before": (END - timedelta(days=50)).isoformat()}
    (late / "training.json").write_text(json.dumps(facts | after))
    output = call(f"{PLAIN} {line}", code=1)
    assert message in " ".join(output.split())
    assert "Traceback" not in output


def test_the_pipelines_encoder_and_own_ids(objects: ObjectStore, trained, files, monkeypatch):
    monkeypatch.setenv("SEQLINE_HOME", str(files / "home"))
    monkeypatch.setattr("seq_ml.storage.connect", lambda *_, **__: objects)
    line = "model finetune --labels labels.csv --settings brief.yaml --out tuned"
    assert "there is no encoder yet" in call(line, code=1)
    pseudonyms = Pseudonyms(objects, load_settings())
    pseudonyms.claim("shop")
    named = {user: own(user) for user in NAMES}
    events = pseudonyms.apply(log().with_columns(pl.col("user_id").replace(named)))
    pseudonyms.remember()
    monkeypatch.setattr("seq_ml.tasks.data.local_events",
                        lambda *_: LocalEvents(events.lazy(), ()))  # fmt: skip
    record(TableStore(objects), CutOffs(END, CUT))
    facts = json.loads((trained / "training.json").read_text())
    publish_folder(objects, "models/encoder", facts["training_id"], trained, files=FILES,
                   fitted_before=facts["fitted_before"])  # fmt: skip
    call(line)
    told = pl.read_parquet(files / "tuned" / "predictions.parquet")
    assert set(told["user_id"]) == set(named.values())
    assert np.isfinite(told["p"].to_numpy()).all()
