"""Fine-tuning: each method changes what it may and no more, and its artefact keeps all of it."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
import pytest
import torch

from seq_ml.encoder.config import PRESETS
from seq_ml.encoder.data.texts import make_item_texts
from seq_ml.encoder.finetuning.config import FineTuning, load_fine_tuning
from seq_ml.encoder.finetuning.examples import (
    BinaryExamples,
    binary_examples,
    item_examples,
    tokens_before,
)
from seq_ml.encoder.finetuning.training import Loop, Task, fine_tune
from seq_ml.encoder.finetuning.tuned import RECORD, WEIGHTS, FineTuned, learning
from seq_ml.encoder.model.behaviour import BehaviourModel
from seq_ml.encoder.scoring.encoder import Encoder
from seq_ml.encoder.training.pretrain import DivergedError, pretrain
from seq_ml.sequences.build import build_sequences
from seq_ml.tokens.shards import write_shards
from seq_ml.tokens.vocabulary import Vocabulary
from tests.data import AS_OF, journey
from tests.encoder.data.test_texts import small_model

if TYPE_CHECKING:
    from pathlib import Path

TEST = AS_OF - timedelta(days=42)
VALIDATION = TEST - timedelta(days=30)
FIT = [VALIDATION - timedelta(days=30 + 14 * n) for n in range(3)]
SETTINGS = {
    "full": FineTuning("full"),
    "frozen": FineTuning("frozen"),
    "partial": FineTuning("partial", layers=("backbone.blocks.0.feed_forward", "bias")),
    "lora": FineTuning("lora"),
    "adalora": FineTuning("adalora"),
    "adapter": FineTuning("adapter", bottleneck=4),
    "prefix": FineTuning("prefix", prefix=3),
}
SETTINGS = {
    name: replace(
        settings,
        steps=12,
        examples=16,
        evaluate_every=3,
        warmup_steps=1,
        learning_rate=1e-2,
        threads=1,
    )
    for name, settings in SETTINGS.items()
}
MAY = {
    "full": "",
    "frozen": "nothing",
    "partial": ("backbone.blocks.0.feed_forward", "bias"),
    "lora": "nothing",
    "adalora": "nothing",
    "adapter": "nothing",
    "prefix": "nothing",
}
"""Which of the encoder's own parameters a method may change, by the beginning of their names."""


def trained_encoder(folder: Path, backbone: str = "causal", *, repeat_head: bool = True) -> Encoder:
    config = PRESETS["tiny"]
    config = replace(
        config,
        model=replace(config.model, backbone=backbone, repeat_head=repeat_head),
        training=replace(config.training, steps=10, threads=1),
    )
    events, items = journey()["clean_events"].lazy(), journey()["items"]
    vocabulary = Vocabulary.fit([events], items, before=TEST, min_users=config.min_users)
    sequences = build_sequences(events, as_of=TEST, max_events=config.max_events, shards=1)
    write_shards([sequences], vocabulary, folder / "shards")
    pretrain(folder / "shards", vocabulary, config, folder)
    return Encoder.load(folder)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory) -> Encoder:
    return trained_encoder(tmp_path_factory.mktemp("encoder"))


@pytest.fixture(scope="module")
def lstm(tmp_path_factory) -> Encoder:
    return trained_encoder(tmp_path_factory.mktemp("lstm"), "lstm", repeat_head=False)


def labels(origins) -> pl.DataFrame:
    """Whether a household buys little in the 30 days after each origin."""
    events = journey()["clean_events"].filter(event_type="purchase")
    users = events.select(pl.col("user_id").unique().sort())
    frames = []
    for origin in origins:
        end = origin + timedelta(days=30)
        window = events.filter(pl.col("event_time") >= origin, pl.col("event_time") < end)
        counted = users.join(window.group_by("user_id").len(), on="user_id", how="left")
        frames.append(
            counted.select(
                "user_id",
                origin=pl.lit(origin),
                label_end=pl.lit(end),
                label=(pl.col("len").fill_null(0) < 40).cast(pl.Float64),
            )
        )
    return pl.concat(frames)


@pytest.fixture(scope="module")
def quiet(encoder) -> Task:
    tokens = tokens_before(encoder, journey()["clean_events"].lazy(), TEST)
    parts = (binary_examples(tokens, labels(origins)) for origins in (FIT, [VALIDATION]))
    return Task("quiet", *parts)


@pytest.fixture(scope="module")
def items(encoder) -> Task:
    tokens = tokens_before(encoder, journey()["clean_events"].lazy(), TEST)
    bought = 1 + encoder.vocabulary.behaviours.index("purchase")
    parts = (
        item_examples(tokens, origins, days=30, behaviour=bought) for origins in (FIT, [VALIDATION])
    )
    return Task("items", *parts)


@pytest.fixture(scope="module")
def tuned(encoder, quiet) -> dict[str, FineTuned]:
    return {name: fine_tune(encoder, [quiet], given) for name, given in SETTINGS.items()}


def own(name: str) -> str:
    """The name that a parameter had before a method was built in."""
    return name.removeprefix("model.").replace(".base_layer", "")


def predictions(tuned: FineTuned) -> np.ndarray:
    users, p = tuned.predict("quiet", journey()["clean_events"].lazy(), TEST)
    assert users == sorted(users)
    assert ((p > 0) & (p < 1)).all()
    return p


@pytest.mark.parametrize("method", SETTINGS)
def test_a_method_changes_only_what_it_may(encoder, quiet, method):
    before = {name: p.clone() for name, p in encoder.model.named_parameters()}
    loop = Loop(encoder, [quiet], SETTINGS[method])
    for _ in range(3):
        loop.update()
    after = {own(name): p for name, p in loop.tuned.named_parameters()}
    for name, parameter in encoder.model.named_parameters():
        assert torch.equal(parameter, before[name])  # the encoder that was given stays
        if not name.startswith(MAY[method]):
            assert torch.equal(after[name], before[name]), name
    changed = {name for name in before if not torch.equal(after[name], before[name])}
    if method == "partial":
        assert {name.rpartition(".")[0] for name in changed} == {
            f"backbone.blocks.0.feed_forward.{part}" for part in ("gate", "up", "down")
        }  # the bias of the items is not asked by this task
    assert bool(changed) == (method in ("full", "partial"))
    learnt = learning(loop.tuned)
    assert any(name.startswith("heads.quiet") for name in learnt)
    assert (len(learnt) > 2) == (method != "frozen")


@pytest.mark.parametrize("method", SETTINGS)
def test_what_was_learnt_is_heard_when_scoring(encoder, quiet, method):
    loop = Loop(encoder, [quiet], SETTINGS[method])
    for _ in range(4):
        loop.update()
    asked = loop.validation["quiet"][0].question
    with torch.no_grad():
        states = loop.tuned.eval().model.user_states(asked.events, asked.queries)
        untouched = encoder.model.user_states(asked.events, asked.queries)
    assert torch.equal(states, untouched) == (method == "frozen")


@pytest.mark.parametrize("method", ["lora", "adalora", "adapter", "prefix"])
def test_an_untrained_addition_changes_nothing(encoder, quiet, method):
    loop = Loop(encoder, [quiet], SETTINGS[method])
    asked = loop.validation["quiet"][0].question
    with torch.no_grad():
        states = loop.tuned.eval().model.user_states(asked.events, asked.queries)
        untouched = encoder.model.user_states(asked.events, asked.queries)
    torch.testing.assert_close(states, untouched, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("method", SETTINGS)
def test_the_artefact_keeps_what_was_trained_and_no_more(encoder, tuned, method, tmp_path):
    tuned[method].save(tmp_path)
    again = FineTuned.load(tmp_path, encoder)
    assert again.found.best_step > 0
    np.testing.assert_array_equal(predictions(again), predictions(tuned[method]))
    assert again.found == tuned[method].found
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
def test_merged_weights_give_equal_logits(encoder, tuned, items, method, tmp_path):
    merged = tuned[method].merged()
    plain = {name for name, _ in encoder.model.named_parameters()}
    assert {name for name, _ in merged.encoder.model.named_parameters()} == plain
    asked = Loop(encoder, [items], SETTINGS["full"]).validation["items"][0].question
    logits, states = [], []
    for one in (tuned[method], merged):
        model = one.encoder.model
        with torch.no_grad():
            states.append(model.user_states(asked.events, asked.queries))
            logits.append(model.query_logits(states[-1], asked.queries))
    torch.testing.assert_close(logits[0], logits[1], rtol=0, atol=1e-5)
    torch.testing.assert_close(states[0], states[1], rtol=0, atol=1e-5)
    np.testing.assert_allclose(predictions(merged), predictions(tuned[method]), atol=1e-5)
    merged.save(tmp_path)
    again = FineTuned.load(tmp_path, encoder)
    np.testing.assert_array_equal(predictions(again), predictions(merged))
    with pytest.raises(ValueError, match="nothing to merge"):
        tuned["adapter"].merged()


def test_adalora_moves_its_ranks(encoder, quiet):
    settings = SETTINGS["adalora"]
    loop = Loop(encoder, [quiet], settings)
    ranks, patterns = [], []
    while not loop.finished:
        loop.update()
        pattern = next(iter(loop.tuner.peft_config.values())).rank_pattern or {}
        patterns.append(sum(map(sum, pattern.values())))
        kept = [
            int((p != 0).sum()) for name, p in loop.tuned.named_parameters() if "lora_E" in name
        ]
        ranks.append(sum(kept))
    layers = len(kept)
    assert max(ranks) > 2 * layers  # it begins with twice the rank
    assert patterns[1:] == sorted(patterns[1:], reverse=True)
    assert patterns[-1] == ranks[-1] == 2 * layers  # the budget at the end
    assert len(set(kept)) > 1  # which matrices have it is learned
    tuned = fine_tune(encoder, [quiet], settings)
    assert tuned.found.best_step >= 8  # never weights of before the ranks were settled


def test_two_tasks_share_one_encoder(encoder, quiet, items, tuned):
    both = fine_tune(encoder, [quiet, replace(items, weight=0.5)], SETTINGS["lora"])
    assert both.found.tasks == {"quiet": "binary", "items": "items"}
    assert set(both.found.validation) == {"quiet", "items"}
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
    assert resumed.found == replace(whole.found, seconds=resumed.found.seconds)
    for name, parameter in learning(resumed.tuned).items():
        assert torch.equal(parameter, learning(whole.tuned)[name]), name
    again = fine_tune(encoder, tasks, settings, checkpoints=tmp_path)
    assert again.found.validation == whole.found.validation


def test_the_best_weights_are_kept(encoder, quiet):
    losses = []
    tuned = fine_tune(
        encoder,
        [quiet],
        replace(SETTINGS["full"], learning_rate=0.1, schedule="constant", patience=2),
        on_step=lambda metrics: losses.append(metrics.get("validation/quiet")),
    )
    judged = [tuned.found.untuned["quiet"], *(loss for loss in losses if loss is not None)]
    assert tuned.found.validation["quiet"] == min(judged)
    loop = Loop(encoder, [quiet], SETTINGS["full"])
    loop.tuned = tuned.tuned
    assert loop.evaluate()["validation/quiet"] == pytest.approx(min(judged))


def test_predictions_do_not_depend_on_later_events(tuned):
    events = journey()["clean_events"]
    past = events.filter(pl.col("event_time") < TEST)
    for one in (tuned["lora"], tuned["prefix"]):
        p = one.predict("quiet", past.lazy(), TEST)[1]
        np.testing.assert_array_equal(p, predictions(one))
        assert one.found.fitted_before == TEST


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


def test_answers_known_too_late_are_refused(encoder):
    tokens = tokens_before(encoder, journey()["clean_events"].lazy(), TEST)
    fit = binary_examples(tokens, labels([VALIDATION - timedelta(days=14)]))
    validation = binary_examples(tokens, labels([VALIDATION]))
    with pytest.raises(ValueError, match="embargo"):
        Task("quiet", fit, validation)
    one_sided = replace(validation, label=np.zeros_like(validation.label))
    assert isinstance(one_sided, BinaryExamples)
    with pytest.raises(ValueError, match="same label"):
        Task("quiet", one_sided, validation)


@pytest.mark.parametrize("method", ["lora", "adalora", "adapter", "prefix"])
def test_what_a_backbone_cannot_have_is_refused(lstm, quiet, method):
    with pytest.raises(ValueError, match=f"'{method}' needs .* full, frozen or partial"):
        fine_tune(lstm, [quiet], SETTINGS[method])


@pytest.fixture(scope="module")
def reader(tmp_path_factory) -> Encoder:
    """An encoder around a small language model, not trained."""
    model = small_model(tmp_path_factory.mktemp("pretrained"))
    tiny = PRESETS["tiny"]
    config = replace(
        tiny, model=replace(tiny.model, backbone="language", pretrained=model, context=24)
    )
    events, items = journey()["clean_events"].lazy(), journey()["items"]
    vocabulary = Vocabulary.fit([events], items, before=TEST, min_users=config.min_users)
    texts = make_item_texts(vocabulary, items, before=TEST, pretrained=model)
    torch.manual_seed(0)
    return Encoder(
        BehaviourModel(config.model, vocabulary, texts),
        vocabulary,
        config,
        version="not trained",
        fitted_before=TEST,
    )


@pytest.mark.parametrize("method", ["lora", "adapter"])
def test_a_language_model_is_tuned_in_its_own_layers(reader, quiet, method):
    loop = Loop(reader, [quiet], replace(SETTINGS[method], examples=4))
    asked = loop.asker.ask(quiet.validation, np.arange(4)).question
    for _ in range(3):
        loop.update()
    learnt = learning(loop.tuned)
    assert any(".language." in name for name in learnt)
    assert sum(p.numel() for p in learnt.values()) < 0.05 * sum(
        p.numel() for p in reader.model.parameters()
    )
    after = {own(name): p for name, p in loop.tuned.named_parameters()}
    for name, parameter in reader.model.named_parameters():
        assert torch.equal(after[name], parameter), name
    with torch.no_grad():
        tuned = loop.tuned.eval().model.user_states(asked.events, asked.queries)
        untouched = reader.model.user_states(asked.events, asked.queries)
    assert not torch.equal(tuned, untouched)
    with pytest.raises(ValueError, match="'prefix' needs attention of our own"):
        Loop(reader, [quiet], SETTINGS["prefix"])


def test_nothing_to_learn_is_refused(lstm, items):
    with pytest.raises(ValueError, match="nothing to learn"):
        fine_tune(lstm, [items], SETTINGS["frozen"])


def test_an_lstm_is_tuned_where_it_can_be(lstm, quiet):
    settings = replace(SETTINGS["partial"], layers=("backbone.cells",), steps=2)
    found = fine_tune(lstm, [quiet], settings).found
    assert found.steps == 2
    with pytest.raises(ValueError, match=r"no layer 'backbone\.blocks'.*backbone\.cells"):
        fine_tune(lstm, [quiet], replace(settings, layers=("backbone.blocks",)))


def test_divergence_names_the_task(encoder, quiet):
    settings = replace(SETTINGS["full"], learning_rate=float("inf"))
    with pytest.raises(DivergedError, match="quiet: loss is nan at step 2"):
        fine_tune(encoder, [quiet], settings)


def test_settings_come_from_yaml(tmp_path):
    path = tmp_path / "churn.yaml"
    path.write_text("method: partial\nlayers: [backbone.norm]\nlearning_rate: 1\n")
    settings = load_fine_tuning(path)
    assert (settings.method, settings.layers) == ("partial", ("backbone.norm",))
    assert settings.learning_rate == 1.0
    for wrong, message in (
        ("methd: lora", "unknown key 'methd'"),
        ("method: ia3", "'ia3' is not one of"),
        ("rank: two", "expected int"),
        ("method: partial", "name layers"),
        ("layers: [query]", "name layers"),
    ):
        path.write_text(wrong)
        with pytest.raises(ValueError, match=message):
            load_fine_tuning(path)
