"""Fine-tuning: each method changes what it may and no more, and its artefact keeps all of it."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta

import numpy as np
import polars as pl
import pytest
import torch
import yaml

from seq_ml.encoder.config import changed
from seq_ml.encoder.finetuning.config import FineTuning
from seq_ml.encoder.finetuning.examples import (
    BinaryExamples,
    binary_examples,
)
from seq_ml.encoder.finetuning.training import Loop, Task, fine_tune
from seq_ml.encoder.finetuning.tuned import RECORD, WEIGHTS, FineTuned, learning
from seq_ml.encoder.scoring.encoder import Encoder
from seq_ml.encoder.training.pretrain import DivergedError
from tests.data import journey
from tests.encoder.finetuning.tiny import SETTINGS, TEST, VALIDATION, labels


def predictions(tuned: FineTuned) -> np.ndarray:
    users, p = tuned.predict("quiet", journey()["clean_events"].lazy(), TEST)
    assert users == sorted(users)
    assert ((p > 0) & (p < 1)).all()
    return p


@pytest.mark.parametrize("method", SETTINGS)
def test_the_artefact_keeps_what_was_trained_and_no_more(encoder, tuned, method, tmp_path):
    tuned[method].save(tmp_path)
    again = FineTuned.load(tmp_path, encoder)
    assert again.result.best_step > 0
    np.testing.assert_array_equal(predictions(again), predictions(tuned[method]))
    assert again.result == tuned[method].result
    assert again.settings == SETTINGS[method]
    size = (tmp_path / WEIGHTS).stat().st_size
    assert 4 * again.trained < size < 4 * again.trained + 8_000
    whole = sum(p.numel() for p in encoder.model.parameters())
    assert (again.trained > whole) == (method == "full")


def test_another_encoder_is_refused(encoder, tuned, tmp_path):
    tuned["lora"].save(tmp_path)
    other = Encoder(
        tuned["full"].tuned.model,
        encoder.vocabulary,
        encoder.config,
        version=encoder.version,
        fitted_before=encoder.fitted_before,
    )
    with pytest.raises(ValueError, match="fine-tune again"):
        FineTuned.load(tmp_path, other)
    record = json.loads((tmp_path / RECORD).read_text())
    record["base"]["version"] = "0" * 16
    (tmp_path / RECORD).write_text(json.dumps(record))
    with pytest.raises(ValueError, match="0000"):
        FineTuned.load(tmp_path, encoder)


@pytest.mark.parametrize("method", ["lora", "adalora"])
def test_merged_weights_give_equal_logits(encoder, tuned, method, tmp_path):
    merged = tuned[method].merged()
    plain = {name for name, _ in encoder.model.named_parameters()}
    assert {name for name, _ in merged.encoder.model.named_parameters()} == plain
    events = journey()["clean_events"].lazy()
    users = journey()["clean_events"]["user_id"].unique().sort().to_list()
    logits = [one.encoder.item_scores(events, TEST, users)[1] for one in (tuned[method], merged)]
    np.testing.assert_allclose(logits[0], logits[1], rtol=0, atol=1e-5)
    vectors = [one.encoder.user_embeddings(events, TEST)[1] for one in (tuned[method], merged)]
    np.testing.assert_allclose(vectors[0], vectors[1], rtol=0, atol=1e-5)
    np.testing.assert_allclose(predictions(merged), predictions(tuned[method]), atol=1e-5)
    merged.save(tmp_path)
    again = FineTuned.load(tmp_path, encoder)
    np.testing.assert_array_equal(predictions(again), predictions(merged))
    with pytest.raises(ValueError, match="nothing to merge"):
        tuned["adapter"].merged()


def test_two_tasks_share_one_encoder(encoder, quiet, items, tuned):
    both = fine_tune(encoder, [quiet, replace(items, weight=0.5)], SETTINGS["lora"])
    assert both.result.tasks == {"quiet": "binary", "items": "items"}
    assert set(both.result.validation) == {"quiet", "items"}
    assert not np.array_equal(predictions(both), predictions(tuned["lora"]))
    repeat = sum(p.numel() for p in encoder.model.repeat.parameters())
    assert both.trained == tuned["lora"].trained + repeat
    events = journey()["clean_events"].lazy()
    users = journey()["clean_events"]["user_id"].unique().sort().to_list()
    ids, scores = both.encoder.item_scores(events, TEST, users)
    assert ids == encoder.item_scores(events, TEST, users)[0]
    assert not np.array_equal(scores, encoder.item_scores(events, TEST, users)[1])
    with pytest.raises(KeyError, match="no binary task"):
        both.predict("items", events, TEST)


@pytest.mark.parametrize("method", ["lora", "adalora"])
def test_a_stopped_fine_tuning_goes_on_bit_for_bit(encoder, quiet, items, method, tmp_path):
    settings, tasks = SETTINGS[method], [quiet, items]
    whole = fine_tune(encoder, tasks, settings)
    seen = []
    stopped = fine_tune(
        encoder,
        tasks,
        settings,
        checkpoints=tmp_path,
        on_step=lambda metrics: seen.append(metrics["step"]),
        should_stop=lambda: len(seen) == 5,
    )
    assert stopped is None
    torch.rand(100)
    resumed = fine_tune(
        encoder,
        tasks,
        settings,
        checkpoints=tmp_path,
        on_step=lambda metrics: seen.append(metrics["step"]),
    )
    assert seen == list(range(1, 13))
    assert resumed.result == replace(whole.result, seconds=resumed.result.seconds)
    for name, parameter in learning(resumed.tuned).items():
        assert torch.equal(parameter, learning(whole.tuned)[name]), name
    again = fine_tune(encoder, tasks, settings, checkpoints=tmp_path)
    assert again.result.validation == whole.result.validation


def test_the_best_weights_are_kept(encoder, quiet):
    losses = []
    tuned = fine_tune(
        encoder,
        [quiet],
        replace(SETTINGS["full"], learning_rate=0.1, schedule="constant", patience=2),
        on_step=lambda metrics: losses.append(metrics.get("validation/quiet")),
    )
    judged = [tuned.result.untuned["quiet"], *(loss for loss in losses if loss is not None)]
    assert tuned.result.validation["quiet"] == min(judged)
    loop = Loop(encoder, [quiet], SETTINGS["full"])
    loop.tuned = tuned.tuned
    assert loop.evaluate()["validation/quiet"] == pytest.approx(min(judged))


def test_predictions_do_not_depend_on_later_events(tuned):
    events = journey()["clean_events"]
    past = events.filter(pl.col("event_time") < TEST)
    for one in (tuned["lora"], tuned["prefix"]):
        p = one.predict("quiet", past.lazy(), TEST)[1]
        np.testing.assert_array_equal(p, predictions(one))
        assert one.result.fitted_before == TEST


def test_examples_end_before_their_origin(encoder, quiet, items):
    for task in (quiet, items):
        for examples in (task.fit, task.validation):
            for number in range(len(examples)):
                window = examples.window(number, encoder.config.model.context)
                assert window.stop > window.start
                assert window.tokens.time[window.stop - 1] < examples.instant[number]
    fit, tokens = items.fit, items.fit.tokens
    for number in range(len(fit)):
        user = slice(*tokens.offset[fit.row[number] : fit.row[number] + 2].tolist())
        after = tokens.time[user] - fit.instant[number]
        known = tokens.item[user] >= 4
        coming = np.unique(tokens.item[user][known & (after >= 0) & (after < 30 * 86_400)])
        found = fit.items[fit.item_offset[number] : fit.item_offset[number + 1]]
        np.testing.assert_array_equal(found, coming)


def test_examples_whose_answers_differ_have_another_version(items):
    fit = items.fit
    moved = fit.item_offset.copy()
    moved[1] += 1  # the first answer of the second user becomes the last of the first one
    assert replace(fit, item_offset=moved).version != fit.version
    assert replace(fit, items=fit.items[::-1]).version != fit.version
    assert replace(fit).version == fit.version


def test_answers_known_too_late_are_refused(encoder):
    tokens = encoder.tokens(journey()["clean_events"].lazy(), TEST)
    fit = binary_examples(tokens, labels([VALIDATION - timedelta(days=14)]))
    validation = binary_examples(tokens, labels([VALIDATION]))
    with pytest.raises(ValueError, match="embargo"):
        Task("quiet", fit, validation)
    one_sided = replace(validation, label=np.zeros_like(validation.label))
    assert isinstance(one_sided, BinaryExamples)
    with pytest.raises(ValueError, match="same label"):
        Task("quiet", one_sided, validation)


def test_divergence_names_the_task(encoder, quiet):
    settings = replace(SETTINGS["full"], learning_rate=float("inf"))
    with pytest.raises(DivergedError, match="quiet: loss is nan at step 2"):
        fine_tune(encoder, [quiet], settings)


def test_settings_come_from_yaml():
    def read(text: str) -> FineTuning:
        return changed(FineTuning(), yaml.safe_load(text), where="churn.yaml")

    settings = read("method: partial\nlayers: [backbone.norm]\nlearning_rate: 1\n")
    assert (settings.method, settings.layers) == ("partial", ("backbone.norm",))
    assert settings.learning_rate == 1.0
    for wrong, message in (
        ("methd: lora", "churn.yaml: unknown key 'methd'"),
        ("method: ia3", "found 'ia3'"),
        ("rank: two", "rank: expected a valid integer"),
        ("method: partial", "name layers"),
        ("layers: [query]", "name layers"),
    ):
        with pytest.raises(ValueError, match=message):
            read(wrong)
