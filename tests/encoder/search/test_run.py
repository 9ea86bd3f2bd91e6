"""The search: typed space, same trials whether cut off or not, one table."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import polars as pl
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from seq_ml.encoder.config import PRESETS, load_config
from seq_ml.encoder.data.prepare import Prepared, prepare
from seq_ml.encoder.search.run import search
from seq_ml.encoder.search.space import Search, load_search
from tests.data import AS_OF, journey

if TYPE_CHECKING:
    from pathlib import Path

TINY = PRESETS["tiny"]
CONFIG = replace(
    TINY,
    training=replace(
        TINY.training, steps=6, evaluate_every=2, checkpoint_every=2, warmup_steps=1, threads=1,
        masked_item=0.0,
    ),
)  # fmt: skip
SPACE = {
    "training.learning_rate": FloatDistribution(1e-4, 1e-1, log=True),
    "model.layers": IntDistribution(1, 2),
    "model.fields": CategoricalDistribution(['["category"]', '["category", "gap"]']),
}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Prepared:
    data = journey()
    return prepare(
        data["clean_events"].lazy(), data["items"], CONFIG, tmp_path_factory.mktemp("data"),
        as_of=AS_OF, origin="journey",
    )  # fmt: skip


@pytest.fixture(scope="module")
def whole(prepared, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("search")
    found = search(prepared, Search(CONFIG, SPACE, trials=3), folder)
    assert found.completed
    return folder


def test_the_table_and_the_best_configuration_agree(whole):
    table = pl.read_parquet(whole / "search.parquet")
    assert table["trial"].to_list() == [1, 2, 3]
    assert set(table.columns) == {"trial", "state", "loss", "step", "seconds", "why", *SPACE}
    best = table.sort("loss", nulls_last=True).row(0, named=True)
    config = load_config(str(whole / "best.yaml"))
    assert config.training.learning_rate == best["training.learning_rate"]
    assert config.model.layers == best["model.layers"]
    assert (whole / "search.md").read_text().count("\n| ") == 4
    kept = list((whole / "trials").glob("*/model.safetensors"))
    assert len(kept) == 1  # of the best


def test_a_search_that_was_cut_off_ends_like_an_undisturbed_one(prepared, whole, tmp_path):
    wanted = Search(CONFIG, SPACE, trials=3)
    steps = 0

    def stop() -> bool:
        nonlocal steps
        steps += 1
        return steps == 3  # within the first trial

    assert not search(prepared, wanted, tmp_path, should_stop=stop).completed

    def kill() -> bool:
        nonlocal steps
        steps += 1
        if steps == 12:  # within the second
            raise KeyboardInterrupt
        return False

    with pytest.raises(KeyboardInterrupt):
        search(prepared, wanted, tmp_path, should_stop=kill)
    found = search(prepared, wanted, tmp_path)
    undisturbed = pl.read_parquet(whole / "search.parquet")
    assert found.completed
    assert found.trials.drop("seconds").equals(undisturbed.drop("seconds"))
    said: list[str] = []
    again = search(prepared, wanted, tmp_path, on_trial=said.append)
    assert not said
    assert again.trials.equals(found.trials)
    more = search(prepared, replace(wanted, trials=4), tmp_path)
    assert more.trials.head(3).equals(found.trials)


def test_another_search_in_the_same_folder_is_refused(prepared, whole):
    with pytest.raises(ValueError, match="another space"):
        search(prepared, Search(CONFIG, SPACE, trials=3, seed=8), whole)


def test_choices_that_do_not_fit_together_end_a_trial_not_the_search(prepared, tmp_path):
    space = {"model.heads": CategoricalDistribution(["3", "1"])}  # 16 is no multiple of 3
    found = search(prepared, Search(CONFIG, space, trials=4, seed=1), tmp_path)
    assert {"pruned", "complete"} == set(found.trials["state"])
    assert "multiple of heads 3" in found.trials.drop_nulls("why")["why"][0]
    again = found.trials.filter(pl.col("state") == "complete")  # trained once
    assert again["seconds"].n_unique() == again["loss"].n_unique() == 1
    assert found.best is not None
    assert found.best.model.heads == 1


def test_without_held_out_users_there_is_nothing_to_compare(prepared, tmp_path):
    config = replace(CONFIG, training=replace(CONFIG.training, held_out_share=0.0))
    with pytest.raises(ValueError, match="held_out_share"):
        search(prepared, Search(config, SPACE, trials=1), tmp_path)


def test_a_search_file_is_read(tmp_path):
    path = tmp_path / "search.yaml"
    path.write_text(
        "config: tiny\ntrials: 4\nspace:\n"
        "  training.learning_rate: {low: 0.001, high: 0.1, log: true}\n"
        "  model.backbone: [causal, gru]\n"
    )
    wanted = load_search(path)
    assert wanted.config == TINY
    assert (wanted.trials, wanted.seed) == (4, 7)
    assert wanted.space["training.learning_rate"] == FloatDistribution(0.001, 0.1, log=True)
    assert wanted.space["model.backbone"] == CategoricalDistribution(['"causal"', '"gru"'])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("trials: 3", "expected a key 'space'"),
        ("spaces: {}", "unknown key 'spaces'"),
        ("trials: many\nspace: {model.dim: [8]}", "valid integer"),
        ("space: {model.lairs: [1]}", "unknown key 'lairs'"),
        ("space: {model.backbone: [causal, rnn]}", "found 'rnn'"),
        ("space: {model.layers: {low: 1.5, high: 2}}", "expected a valid integer"),
        ("space: {model.layers: {from: 1, to: 2}}", "low, high"),
        ("space: {model.dropout: {low: 0.5, high: 0.1}}", "low <= high"),
        ("space: {model.dim: []}", "one or more"),
        ("space: {model.context: [64, 128]}", "cannot be searched"),
        ("space: {training.next_event: [0, 1]}", "cannot be searched"),
        ("space: {min_users: [3, 5]}", "cannot be searched"),
    ],
)
def test_a_search_file_is_refused_in_one_sentence(tmp_path, text, message):
    path = tmp_path / "search.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=message) as refused:
        load_search(path)
    assert str(path) in str(refused.value)
    assert "\n" not in str(refused.value)
