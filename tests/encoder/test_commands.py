"""The encoder from plain files: what is read, what is refused, train, stop, go on, use."""

from __future__ import annotations

import json
import re
import shlex
import signal
from datetime import timedelta
from pathlib import Path

import polars as pl
import pytest
import yaml
from typer.testing import CliRunner

from seq_ml import schema
from seq_ml.encoder import commands
from seq_ml.encoder.config import PRESETS, load_config
from seq_ml.encoder.config_yaml import config_yaml
from seq_ml.encoder.data.plain_files import BadFileError, plain_events, plain_items
from seq_ml.encoder.training import logs
from seq_ml.sequences.build import build_sequences
from seq_ml.tokens.shards import read_shards
from seq_ml.tokens.vocabulary import Vocabulary
from tests import ROOT
from tests.data import AS_OF, journey

CUT = AS_OF - timedelta(days=91)
GUIDE = ROOT / "docs" / "encoder.md"
SHORT = """
preset: tiny
max_events: 4096  # seen is what a sequence holds
training: {steps: 6, evaluate_every: 3, checkpoint_every: 3, warmup_steps: 1, threads: 1}
"""


@pytest.fixture
def files(tmp_path, monkeypatch) -> Path:
    """The working directory: events.parquet, items.csv, mine.yaml."""
    data = journey(40)
    data["clean_events"].write_parquet(tmp_path / "events.parquet")
    data["items"].write_csv(tmp_path / "items.csv")
    (tmp_path / "mine.yaml").write_text(SHORT)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def call(line: str, *, code: int = 0) -> str:
    result = CliRunner().invoke(commands.model, shlex.split(line))
    assert result.exit_code == code, result.output
    return result.output


TRAIN = "train events.parquet items.csv --as-of 2017-10-02T05:00 --config mine.yaml --out model"


def test_train_stop_go_on_score_embed_report(files, monkeypatch):
    progress = logs.progress

    def stopping(say):
        shown = progress(say)

        def on_step(metrics):
            shown(metrics)
            if metrics["step"] == 4:
                signal.raise_signal(signal.SIGTERM)

        return on_step

    with monkeypatch.context() as patch:
        patch.setattr(logs, "progress", stopping)
        assert "saved at step 4; the same command goes on" in call(TRAIN, code=130)
    assert not (files / "model" / "training.json").exists()
    output = call(TRAIN)
    assert "step 3: loss" not in output  # goes on from step 4
    assert "done at step 6" in output

    call("score model events.parquet --as-of 2017-10-02 --top 3 --out scores.parquet")
    scores = pl.read_parquet("scores.parquet")
    assert scores.columns == ["user_id", "rank", "item_id", "score"]
    users = journey(40)["clean_events"].filter(pl.col("event_time") < CUT)["user_id"].unique()
    assert set(scores["user_id"]) == set(users)
    assert scores.group_by("user_id").len()["len"].unique().to_list() == [3]

    first = scores["item_id"][0]
    Path("deny.txt").write_text(f"{first}\n")
    call(
        "score model events.parquet items.csv --as-of 2017-10-02 --filter-seen --deny deny.txt "
        "--out new.parquet"
    )
    fresh = pl.read_parquet("new.parquet")
    assert first not in fresh["item_id"]
    seen = journey(40)["clean_events"].filter(
        pl.col("event_time") < pl.lit("2017-10-02").str.to_datetime(time_zone="UTC"),
        pl.col("event_type") == "purchase",
    )
    assert fresh.join(seen, on=["user_id", "item_id"], how="semi").is_empty()

    call("embed model events.parquet --as-of 2017-10-02 --out vectors")
    assert pl.read_parquet("vectors/users.parquet")["embedding"].list.len().unique().item() == 16
    assert pl.read_parquet("vectors/items.parquet").height > 0

    assert "| encoder |" in call("report model events.parquet")
    assert (files / "model" / "report" / "report.json").exists()


def test_a_training_continues_from_an_earlier_encoder(files):
    call(TRAIN)
    later = "train events.parquet items.csv --as-of 2017-11-06T05:00 --config mine.yaml"
    assert "1 steps" in call(f"{later} --start model --out later")
    old, new = (Vocabulary.from_bytes((files / name / "vocabulary.json").read_bytes())
                for name in ("model", "later"))  # fmt: skip
    assert len(new) > len(old)
    assert new.tokens[: len(old.tokens)] == old.tokens
    report = json.loads((files / "later" / "training.json").read_text())
    start = json.loads((files / "model" / "training.json").read_text())
    assert report["continued_from"] == start["training_id"]
    assert report["scratch_before"] == start["fitted_before"]

    earlier = later.replace("2017-11-06", "2017-09-04")
    output = call(f"{earlier} --start model --out earlier", code=1)
    assert "a later as-of and the same min_users are needed" in output
    (files / "empty").mkdir()
    assert "no finished encoder" in call(f"{later} --start empty --out other", code=1)


def test_the_data_is_that_of_the_pipeline(files):
    """Split into shards or not, the same sequences and vocabulary."""
    call(TRAIN)
    _, shards = read_shards(files / "model" / "data")
    words = Vocabulary.from_bytes((files / "model" / "data" / "vocabulary.json").read_bytes())
    data = journey(40)
    events = data["clean_events"].lazy()
    config = load_config("mine.yaml")
    assert words == Vocabulary.fit([events], data["items"], before=CUT, min_users=config.min_users)
    sequences = build_sequences(events, as_of=CUT, max_events=config.max_events, shards=1)
    tokens = words.encode(sequences)
    assert shards[0].user_ids == tokens.user_ids
    assert shards[0].item.tolist() == tokens.item.tolist()
    assert shards[0].time.tolist() == tokens.time.tolist()


def test_events_of_several_files_and_kinds_are_the_same_events(tmp_path):
    events = journey(10)["clean_events"].sort("event_time", "event_id")
    day = tmp_path / "events" / "day=1"
    day.mkdir(parents=True)
    events[:1000].write_parquet(day / "one.parquet")
    plain = events[1000:].select("user_id", "event_id", "item_id", "event_type", "event_time")
    plain.with_columns(pl.col("event_time").dt.replace_time_zone(None)).write_csv(
        tmp_path / "events" / "two.csv"
    )
    found = plain_events(tmp_path / "events").frame.collect()
    assert found.schema == schema.EVENTS.polars_schema()
    columns = ["user_id", "event_id", "item_id", "event_type", "event_time", "event_date"]
    assert found.select(columns).equals(events.select(columns))


def test_own_user_ids_come_back(files):
    events = journey(40)["clean_events"]
    named = {user: f"customer {n}" for n, user in enumerate(events["user_id"].unique().sort())}
    events.with_columns(pl.col("user_id").replace(named)).drop("event_id").write_parquet(
        "events.parquet"
    )
    call(TRAIN)
    call("score model events.parquet --as-of 2017-10-02 --out scores.parquet")
    assert set(pl.read_parquet("scores.parquet")["user_id"]) <= set(named.values())


EVENT = {"user_id": ["u"], "event_type": ["view"], "event_time": ["2017-01-01 10:00:00"]}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"itemid": ["1"]}, "unknown column 'itemid'; did you mean 'item_id'"),
        ({"user_id": None}, "column 'user_id' is missing"),
        ({"user_id": [None]}, "row 1: user_id is missing"),
        ({"event_time": ["31.12.2017"]}, "row 1: event_time '31.12.2017' is not datetime"),
        ({"event_time": [1483264800]}, "row 1: event_time '1483264800' is not datetime"),
        ({"quantity": ["two"]}, "row 1: quantity 'two' is not f64"),
    ],
    ids=["unknown", "no column", "no value", "no time", "epoch", "no number"],
)
def test_a_wrong_file_is_refused_in_one_sentence(tmp_path, changes, message):
    columns = {name: values for name, values in (EVENT | changes).items() if values is not None}
    path = tmp_path / "events.parquet"
    pl.DataFrame(columns).write_parquet(path)
    with pytest.raises(BadFileError, match=re.escape(message)) as refused:
        plain_events(path)
    assert str(refused.value).startswith(str(path))
    assert "\n" not in str(refused.value)


def test_what_is_no_file_of_events(tmp_path):
    with pytest.raises(BadFileError, match="expected a file, or a folder of files"):
        plain_events(tmp_path)
    broken = tmp_path / "events.parquet"
    broken.write_bytes(b"not parquet")
    with pytest.raises(BadFileError, match="cannot be read"):
        plain_events(broken)


def test_a_catalogue_may_be_small(tmp_path):
    path = tmp_path / "items.csv"
    path.write_text("item_id,title,is_merchandise\n007,Tea,false\n008,,\n")
    items = plain_items(path)
    assert items.schema == schema.ITEMS.polars_schema()
    assert items["item_id"].to_list() == ["007", "008"]
    assert items["is_merchandise"].to_list() == [False, True]
    assert plain_items(None).is_empty()


@pytest.mark.parametrize("preset", PRESETS)
def test_a_printed_configuration_is_read_back_as_it_is(tmp_path, preset):
    text = call(f"config {preset}")
    assert text == config_yaml(PRESETS[preset])
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    assert load_config(str(path)) == PRESETS[preset]
    assert "# Newest events that the backbone reads" in text


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (TRAIN.replace("mine.yaml", "huge"), "'huge' is no preset"),
        (TRAIN.replace("2017-10-02T05:00", "yesterday"), "expected a day or time"),
        (TRAIN.replace("2017-10-02T05:00", "2001-01-01"), "at least one user"),
        ("report model events.parquet", "holds no finished encoder"),
        (
            "score model events.parquet --as-of 2017-10-02 --out x.parquet",
            "holds no finished encoder",
        ),
    ],
    ids=["preset", "date", "early", "no report", "no scores"],
)
def test_what_cannot_be_done_is_one_sentence(files, line, message):
    (files / "model").mkdir()
    output = call(line, code=1)
    assert message in output
    assert "Traceback" not in output


def test_the_guide_works(files):
    """Every command of docs/encoder.md, in order, on the tiny data."""
    blocks = re.findall(r"```(\w+)(?: (\S+))?\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    for kind, _, text in blocks:
        if kind == "yaml":
            values = yaml.safe_load(text)
            if "space" in values:
                values |= {"config": "mine.yaml", "trials": 1}
                Path("search.yaml").write_text(yaml.safe_dump(values))
            else:
                Path("mine.yaml").write_text(text)
                load_config("mine.yaml")
                Path("mine.yaml").write_text(SHORT)
            continue
        for line in text.replace("\\\n", " ").splitlines():
            command = line.split("#")[0].removeprefix("python -m seq_ml.encoder ").strip()
            if command == line.split("#")[0].strip() or ">" in command:
                continue  # not a command of this module, or one that writes mine.yaml
            call(command)
