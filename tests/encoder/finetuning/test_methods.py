"""Methods: each changes what it may and no more, and is refused where it cannot be."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from seq_ml.encoder.config import PRESETS
from seq_ml.encoder.data.texts import make_item_texts
from seq_ml.encoder.finetuning.training import Loop, fine_tune
from seq_ml.encoder.finetuning.tuned import learning
from seq_ml.encoder.model.behaviour import BehaviourModel
from seq_ml.encoder.scoring.encoder import Encoder
from seq_ml.tokens.vocabulary import Vocabulary
from tests.data import journey
from tests.encoder.data.test_texts import small_model
from tests.encoder.finetuning.tiny import SETTINGS, TEST, trained_encoder

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


@pytest.fixture(scope="module")
def lstm(tmp_path_factory) -> Encoder:
    return trained_encoder(tmp_path_factory.mktemp("lstm"), "lstm", repeat_head=False)


def own(name: str) -> str:
    """The name that a parameter had before a method was built in."""
    return name.removeprefix("model.").replace(".base_layer", "")


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
    assert tuned.result.best_step >= 8  # never weights of before the ranks were settled


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
    found = fine_tune(lstm, [quiet], settings).result
    assert found.steps == 2
    with pytest.raises(ValueError, match=r"no layer 'backbone\.blocks'.*backbone\.cells"):
        fine_tune(lstm, [quiet], replace(settings, layers=("backbone.blocks",)))
