"""The mechanics of training: what must not change a result, and what must."""

from __future__ import annotations

import json
import math
import os
import signal
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from seq_ml.encoder.config import PRESETS, EncoderConfig, ModelConfig, TrainingConfig, load_config
from seq_ml.encoder.data.augment import MASKED, REORDERED, Augmenter
from seq_ml.encoder.data.batches import collate
from seq_ml.encoder.data.order import Order, split_windows
from seq_ml.encoder.data.prepare import Prepared, prepare
from seq_ml.encoder.model.behaviour import BehaviourModel
from seq_ml.encoder.scoring.encoder import Encoder
from seq_ml.encoder.training.optimizers import learning_rate, make_optimizer
from seq_ml.encoder.training.pretrain import Trainer, pretrain
from seq_ml.encoder.training.stopping import stop_on_signal
from seq_ml.tokens.shards import read_shards
from seq_ml.tokens.vocabulary import MASK, SPECIAL, Tokens, Vocabulary
from tests.data import AS_OF, journey

if TYPE_CHECKING:
    from pathlib import Path

CUT = AS_OF - timedelta(days=91)
TINY = PRESETS["tiny"]


def config(model: dict | None = None, **training) -> EncoderConfig:
    """The tiny preset on one thread, without dropout, with some values replaced."""
    model = {"dropout": 0.0, "context": 32} | (model or {})
    return replace(
        TINY,
        model=replace(TINY.model, **model),
        training=replace(TINY.training, **{"threads": 1, "steps": 6} | training),
    )


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Prepared:
    data, short = journey(), replace(TINY, max_events=256)
    return prepare(
        data["clean_events"].lazy(), data["items"], short, tmp_path_factory.mktemp("data"),
        as_of=CUT, origin="journey",
    )  # fmt: skip


@pytest.fixture(scope="module")
def vocabulary(prepared) -> Vocabulary:
    return prepared.vocabulary


@pytest.fixture(scope="module")
def shards(prepared) -> Path:
    return prepared.shards


@pytest.fixture(scope="module")
def tokens(shards) -> Tokens:
    return read_shards(shards)[1][0]


def trainer(vocabulary: Vocabulary, settings: EncoderConfig) -> Trainer:
    torch.manual_seed(0)
    model = BehaviourModel(settings.model, vocabulary)
    return Trainer(model, vocabulary, settings, until=int(CUT.timestamp()))


def weights_after(tokens, vocabulary, settings: EncoderConfig, steps: int = 3) -> dict:
    mine = trainer(vocabulary, settings)
    order = Order(split_windows([tokens], settings)[0], settings)
    for step in range(steps):
        mine.update(order.batch(step))
    return mine.model.state_dict()


TASKS = ["next_event", "next_basket", "masked_item", "masked_span"]


def only(task: str) -> dict[str, float]:
    return dict.fromkeys(TASKS, 0.0) | {task: 1.0}


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("loss", ["full", "sampled", "gbce"])
def test_accumulated_gradients_are_those_of_the_large_batch(tokens, vocabulary, task, loss):
    model = {"repeat_head": task == "next_basket" and loss != "gbce"}
    same = {"optimizer": "sgd", "learning_rate": 0.1, "loss": loss, "negatives": 64} | only(task)
    large = weights_after(tokens, vocabulary, config(model, windows=8, **same))
    parts = weights_after(tokens, vocabulary, config(model, windows=2, accumulate=4, **same))
    for name, weight in large.items():
        torch.testing.assert_close(parts[name], weight, rtol=1e-5, atol=1e-5, msg=name)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("loss", ["full", "sampled", "gbce"])
def test_in_half_precision_the_steps_are_nearly_the_same(tokens, vocabulary, task, loss):
    model = {"repeat_head": task == "next_basket" and loss != "gbce"}
    settings = config(model, loss=loss, negatives=64, **only(task))
    order = Order(split_windows([tokens], settings)[0], settings)
    whole, half = trainer(vocabulary, settings), trainer(vocabulary, settings)
    half.half = True  # as on a GPU: a CPU computes in bfloat16 too, only slowly
    losses = [[one.update(order.batch(step))["loss"] for step in range(3)] for one in (whole, half)]
    assert losses[0] != losses[1]
    assert losses[1] == pytest.approx(losses[0], rel=0.01)
    assert all(weight.dtype == torch.float32 for weight in half.model.state_dict().values()
               if weight.is_floating_point())  # fmt: skip


def test_running_out_of_memory_reads_the_batch_in_parts(tokens, vocabulary, monkeypatch, caplog):
    settings = config(windows=8, optimizer="sgd", learning_rate=0.1)
    expected = weights_after(tokens, vocabulary, settings)
    limit = 3
    whole = BehaviourModel.embed

    def embed(self, events):
        if len(events.item) > limit:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return whole(self, events)

    monkeypatch.setattr(BehaviourModel, "embed", embed)
    found = weights_after(tokens, vocabulary, settings)
    for name, weight in expected.items():
        torch.testing.assert_close(found[name], weight, rtol=1e-5, atol=1e-5, msg=name)
    assert [record.args[2] for record in caplog.records] == [2, 4]
    assert "Out of memory at step 1" in caplog.text


def test_other_errors_are_not_taken_for_a_lack_of_memory(tokens, vocabulary, monkeypatch):
    def broken(self, events):
        raise RuntimeError("shapes do not fit")

    monkeypatch.setattr(BehaviourModel, "embed", broken)
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        weights_after(tokens, vocabulary, config())


@pytest.mark.parametrize(
    ("model", "training"),
    [
        ({"backbone": "bidirectional"}, {}),
        ({"backbone": "lstm"}, {"next_event": 1.0, "masked_span": 1.0}),
        ({"backbone": "gru", "layers": 2, "dropout": 0.2}, {}),
        ({"dropout": 0.2}, {"average": 0.9, "next_event": 1.0}),
        ({"id_dropout": 0.3}, {"optimizer": "adafactor", "loss": "sampled", "negatives": 32}),
        ({}, {"optimizer": "sgd", "adversarial": 0.5, "schedule": "linear"}),
        ({}, {"augment": ("crop", "mask", "reorder"), "accumulate": 2}),
    ],
    ids=["bidirectional", "lstm", "gru", "average", "adafactor", "adversarial", "augment"],
)
def test_every_kind_of_training_resumes_bit_for_bit(shards, vocabulary, tmp_path, model, training):
    settings = config(model, evaluate_every=2, checkpoint_every=2, **training)
    losses: list[float] = []
    pretrain(
        shards, vocabulary, settings, tmp_path / "a", on_step=lambda m: losses.append(m["loss"])
    )
    assert all(math.isfinite(loss) for loss in losses)
    seen: list[float] = []
    for _ in range(2):
        pretrain(
            shards,
            vocabulary,
            settings,
            tmp_path / "b",
            on_step=lambda m: seen.append(m["loss"]),
            should_stop=lambda: len(seen) == 3,
        )
    assert seen == losses
    whole = load_file(tmp_path / "a" / "model.safetensors")
    for name, weight in load_file(tmp_path / "b" / "model.safetensors").items():
        assert torch.equal(weight, whole[name]), name


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_step_and_saves(shards, vocabulary, tmp_path, number):
    settings = config(steps=100)

    def ask(metrics):
        if metrics["step"] == 2:
            os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    with stop_on_signal() as should_stop:
        found = pretrain(
            shards, vocabulary, settings, tmp_path, on_step=ask, should_stop=should_stop
        )
    assert (found.completed, found.step) == (False, 2)
    assert signal.getsignal(number) == before
    assert [path.name for path in (tmp_path / "checkpoints").rglob("step-*")] == ["step-00000002"]


def test_a_second_signal_is_not_caught():
    with stop_on_signal() as should_stop:
        signal.raise_signal(signal.SIGINT)
        assert should_stop()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_early_stopping_restores_the_best_weights(shards, vocabulary, tmp_path):
    settings = config(steps=40, evaluate_every=2, learning_rate=0.2, warmup_steps=1, patience=2)
    found = pretrain(shards, vocabulary, settings, tmp_path)
    assert found.completed
    assert found.step == found.best_step + 4
    assert found.step < 40
    shorter = replace(settings, training=replace(settings.training, steps=found.best_step))
    assert json.loads((tmp_path / "training.json").read_text())["best_step"] == found.best_step
    # the schedule of a constant rate does not know the number of steps
    flat = replace(settings.training, schedule="constant")
    long = replace(settings, training=flat)
    first = pretrain(shards, vocabulary, long, tmp_path / "long")
    shorter = replace(long, training=replace(flat, steps=first.best_step))
    pretrain(shards, vocabulary, shorter, tmp_path / "short")
    best = load_file(tmp_path / "long" / "model.safetensors")
    for name, weight in load_file(tmp_path / "short" / "model.safetensors").items():
        assert torch.equal(weight, best[name]), name


def test_an_encoder_computes_on_as_many_threads_as_its_training(shards, vocabulary, tmp_path):
    pretrain(shards, vocabulary, config(steps=1), tmp_path)
    torch.set_num_threads(2)
    Encoder.load(tmp_path)  # sums depend on the number of threads, so scores would too
    assert torch.get_num_threads() == 1


def test_the_average_is_what_is_kept(shards, vocabulary, tmp_path):
    still = config(average=0.999_999, held_out_share=0.0, learning_rate=0.1)
    pretrain(shards, vocabulary, still, tmp_path / "average")
    pretrain(shards, vocabulary, config(held_out_share=0.0, learning_rate=0.1), tmp_path / "last")
    torch.manual_seed(still.training.seed)
    begin = BehaviourModel(still.model, vocabulary).state_dict()["item.weight"]
    moved = {
        name: (load_file(tmp_path / name / "model.safetensors")["item.weight"] - begin).norm()
        for name in ("average", "last")
    }
    assert 0 < moved["average"] < moved["last"]


def test_adversarial_steps_see_the_worst_embeddings_nearby_and_leave_them(tokens, vocabulary):
    settings = config(optimizer="sgd", learning_rate=0.1, adversarial=1.0)
    plain = replace(settings, training=replace(settings.training, adversarial=0.0))
    changed, usual = (weights_after(tokens, vocabulary, s, steps=1) for s in (settings, plain))
    begin = trainer(vocabulary, plain).model.state_dict()
    steps = [(after["item.weight"] - begin["item.weight"]) for after in (changed, usual)]
    assert not torch.equal(*steps)
    assert steps[0].norm() < 1.0  # the perturbation of size 1 itself is gone


def test_learning_rates():
    for schedule, middle in (("cosine", 0.55), ("linear", 0.55), ("constant", 1.0)):
        settings = TrainingConfig(steps=110, warmup_steps=10, learning_rate=1.0, schedule=schedule)
        rates = [learning_rate(settings, step) for step in range(1, 111)]
        assert rates[:10] == pytest.approx(np.linspace(0.1, 1.0, 10))
        assert rates[59] == pytest.approx(middle)
        assert rates[-1] == pytest.approx(1.0 if schedule == "constant" else 0.1)


def test_only_matrices_of_the_backbone_decay(vocabulary):
    model = BehaviourModel(TINY.model, vocabulary)
    for parameter in model.repeat.parameters():
        parameter.requires_grad_(False)
    groups = make_optimizer(model.named_parameters(), TINY.training).param_groups
    decays = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    for name, parameter in model.named_parameters():
        if name.startswith("repeat"):
            assert id(parameter) not in decays
        else:
            matrix = name.startswith("backbone.blocks") and "norm" not in name
            assert (decays[id(parameter)] > 0) == matrix, name


def windows_and_events(tokens):
    windows = split_windows([tokens], config())[0]
    chosen = [windows.window(i) for i in range(12)]
    return chosen, collate(chosen)


def test_cropped_windows_are_runs_of_the_window(tokens):
    windows, _ = windows_and_events(tokens)
    settings = TrainingConfig(augment=("crop",), augment_share=1.0)
    for old, new in zip(
        windows, Augmenter(settings, windows, np.random.default_rng(0)).crop(windows), strict=True
    ):
        assert old.start <= new.start < new.stop <= old.stop
        assert new.stop - new.start == max(1, round(0.6 * (old.stop - old.start)))


def test_masked_inputs_leave_the_questions_alone(tokens):
    windows, events = windows_and_events(tokens)
    settings = TrainingConfig(augment=("mask",), augment_share=1.0)
    read = Augmenter(settings, windows, np.random.default_rng(0)).mask(events)
    hidden = read.item == MASK
    assert torch.equal(read.item[~hidden], events.item[~hidden])
    assert hidden.sum() / (events.item >= SPECIAL).sum() == pytest.approx(MASKED, abs=0.1)
    assert torch.equal(read.gap, events.gap)


def test_reordering_moves_events_inside_a_run_and_no_times(tokens):
    windows, events = windows_and_events(tokens)
    settings = TrainingConfig(augment=("reorder",), augment_share=1.0)
    moved = Augmenter(settings, windows, np.random.default_rng(0)).reorder(events)
    assert torch.equal(moved.step, events.step)
    assert torch.equal(moved.gap, events.gap)
    for row, window in enumerate(windows):
        length = window.stop - window.start
        changed = torch.nonzero(moved.item[row] != events.item[row]).ravel()
        if len(changed):
            assert changed.max() - changed.min() < round(REORDERED * length)
        pairs = [
            sorted(zip(e.item[row].tolist(), e.behaviour[row].tolist(), strict=True))
            for e in (events, moved)
        ]
        assert pairs[0] == pairs[1]


def test_ties_are_shuffled_inside_their_instant_only(tokens):
    windows, events = windows_and_events(tokens)
    settings = TrainingConfig(augment=("ties",), augment_share=1.0)
    moved = Augmenter(settings, windows, np.random.default_rng(0)).reorder(events)
    assert not torch.equal(moved.item, events.item)
    assert torch.equal(moved.gap, events.gap)
    for row in range(len(windows)):
        pairs = [
            sorted(zip(e.step[row].tolist(), e.item[row].tolist(), strict=True))
            for e in (events, moved)
        ]
        assert pairs[0] == pairs[1]


def test_a_file_changes_a_preset_and_refuses_what_it_does_not_know(tmp_path):
    file = tmp_path / "gru.yaml"
    file.write_text(
        "preset: tiny\nmodel: {backbone: gru, dropout: 0}\ntraining: {augment: [crop]}\n"
    )
    found = load_config(str(file))
    assert found.name == "gru"
    assert found.model == replace(TINY.model, backbone="gru", dropout=0.0)
    assert found.training == replace(TINY.training, augment=("crop",))
    assert EncoderConfig.from_bytes(found.to_bytes()) == found
    for text, message in (
        ("preset: huge", "'huge' is not one of tiny, small"),
        ("modell: {}", "unknown key 'modell'"),
        ("model: {backbone: cnn}", "expected 'causal', 'bidirectional'.* found 'cnn'"),
        ("model: {dim: wide}", "expected a valid integer, found 'wide'"),
        ("training: {augment: [flip]}", "expected 'crop'.* found 'flip'"),
        ("training: {next_basket: 0, masked_item: 0}", "every pre-training task has weight 0"),
        ("model: {dim: 30, heads: 4}", "even multiple of heads"),
    ):
        file.write_text(text)
        with pytest.raises(ValueError, match=message):
            load_config(str(file))
    with pytest.raises(ValueError, match=r"no preset .* and no file"):
        load_config("nothing.yaml")


def test_what_cannot_work_together_is_refused():
    with pytest.raises(ValueError, match="reads later events too"):
        EncoderConfig(
            "x",
            model=ModelConfig(backbone="bidirectional"),
            training=TrainingConfig(next_event=1.0),
        )
    with pytest.raises(ValueError, match="repeat head learns only from next_basket"):
        EncoderConfig("x", training=TrainingConfig(next_event=1.0, next_basket=0.0))
    with pytest.raises(ValueError, match="gbce does not train the repeat head"):
        EncoderConfig("x", training=TrainingConfig(loss="gbce"))
