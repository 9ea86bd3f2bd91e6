"""Pre-train the encoder on token shards.

A training is identified by the hash of its configuration and data. Its checkpoints lie under that
id: the same call after a crash goes on from the newest complete one and ends bit for bit where an
undisturbed run ends (on CPU). A finished training called again returns at once.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import time
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import save_file

from seq_ml.encoder.batches import (
    Window,
    collate,
    interest_mask,
    make_queries,
    mask_items,
    sample_instants,
    to_device,
)
from seq_ml.encoder.checkpoints import copy_weights, restore_checkpoint, save_checkpoint
from seq_ml.encoder.memory import return_freed_blocks
from seq_ml.encoder.model import BehaviourModel
from seq_ml.encoder.objectives import masked_item_loss, next_item_loss
from seq_ml.encoder.order import Order, split_windows
from seq_ml.tokens.shards import read_shards

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from seq_ml.encoder.checkpoints import Weights
    from seq_ml.encoder.config import EncoderConfig
    from seq_ml.tokens.vocabulary import Vocabulary

FORMAT = 2
"""Raised when the code changes what a training computes, so that old checkpoints are not taken."""


class DivergedError(ArithmeticError):
    """The loss is no number any more; the message names step and batch."""


@dataclass(frozen=True)
class HeldOutLoss:
    """Mean losses, nats per query and per hidden item; NaN where nothing could be asked."""

    next_item: float
    masked_item: float


@dataclass(frozen=True)
class TrainingResult:
    """What a training found; `completed` is False when it was asked to stop before."""

    training_id: str
    fitted_before: datetime
    completed: bool
    step: int
    best_step: int
    held_out: HeldOutLoss
    seconds: float


def training_id(vocabulary: Vocabulary, config: EncoderConfig, data_version: str) -> str:
    """Return the hash of everything that decides the weights."""
    content = f"{FORMAT}:{vocabulary.version}:{data_version}:".encode() + config.to_bytes()
    return hashlib.sha256(content).hexdigest()[:16]


def pretrain(
    shards_dir: Path,
    vocabulary: Vocabulary,
    config: EncoderConfig,
    out_dir: Path,
    *,
    on_step: Callable[[dict[str, float]], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> TrainingResult:
    """Train, or go on with, the encoder of this configuration and data.

    shards_dir: what `write_shards` wrote with this vocabulary.  out_dir receives config.json,
    vocabulary.json, model.safetensors and training.json when complete, checkpoints and TensorBoard
    logs underneath.  on_step gets step, loss, learning_rate, and the held-out losses when they were
    computed.  should_stop is asked after each step; True saves a checkpoint and returns.

    Raises DivergedError when the loss is not finite, ValueError when the shards were made with
    another vocabulary or no user has two baskets.
    """
    from torch.utils.tensorboard import SummaryWriter

    began = time.monotonic()
    manifest, parts = read_shards(shards_dir)
    if manifest.vocabulary != vocabulary.version:
        raise ValueError(
            f"{shards_dir}: shards of vocabulary {manifest.vocabulary}, given {vocabulary.version}"
        )
    settings = config.training
    identity = training_id(vocabulary, config, manifest.version)
    checkpoints = out_dir / "checkpoints" / identity
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_num_threads(settings.threads)
    return_freed_blocks()

    torch.manual_seed(settings.seed)
    model = BehaviourModel(config.model, vocabulary).to(device)
    optimizer = _optimizer(model, config)
    train, held_out = split_windows(parts, config)
    if not len(train):
        raise ValueError(f"{shards_dir}: no user has two baskets to learn from")
    state: dict[str, Any] = {"best_step": 0, "best_loss": math.inf, "held_out": [math.nan] * 2}
    best, step = copy_weights(model), 0
    if restored := restore_checkpoint(checkpoints, model=model, optimizer=optimizer):
        state, best = restored
        step = state["step"]

    def checkpoint() -> None:
        save_checkpoint(checkpoints, step, model=model, best=best, optimizer=optimizer, state=state)

    stopped = False
    order = Order(train, config)
    logs = SummaryWriter(str(out_dir / "tensorboard" / identity), purge_step=step + 1)
    with logs as writer, _deterministic(device):
        while step < settings.steps and not stopped:
            loss = _step(model, optimizer, order.batch(step), vocabulary, config, step)
            step += 1
            metrics = {"step": step, "loss": loss, "learning_rate": _learning_rate(config, step)}
            if step % settings.evaluate_every == 0 or step == settings.steps:
                found = held_out_loss(model, vocabulary, config, held_out)
                metrics |= {f"held_out/{name}": value for name, value in asdict(found).items()}
                total = _weighted(found, config)
                if total < state["best_loss"]:
                    best = copy_weights(model)
                    state |= {"best_step": step, "best_loss": total}
                    state["held_out"] = [found.next_item, found.masked_item]
            for name, value in metrics.items():
                if name != "step":
                    writer.add_scalar(name, value, step)
            if on_step is not None:
                on_step(metrics)
            stopped = should_stop is not None and should_stop()
            if stopped or step % settings.checkpoint_every == 0 or step == settings.steps:
                checkpoint()
    completed = step >= settings.steps
    result = TrainingResult(
        training_id=identity,
        fitted_before=datetime.fromisoformat(manifest.as_of),
        completed=completed,
        step=step,
        best_step=state["best_step"],
        held_out=HeldOutLoss(*state["held_out"]),
        seconds=time.monotonic() - began,
    )
    if completed:
        # without any held-out user nothing was ever compared: the last weights are the result
        weights = best if state["best_step"] else copy_weights(model)
        _publish(out_dir, weights, vocabulary, config, result)
    return result


def held_out_loss(
    model: BehaviourModel,
    vocabulary: Vocabulary,
    config: EncoderConfig,
    windows: Sequence[Window],
    *,
    after: datetime | None = None,
) -> HeldOutLoss:
    """Return the losses on given windows, with fixed random numbers and without dropout.

    With `after`, next-item is asked at that instant only and masked items are hidden only at or
    after it: the loss on events that came after the cut-off of a training.
    """
    settings = config.training
    random = np.random.default_rng(settings.seed)
    interesting = interest_mask(vocabulary, config.model.interest)
    moment = None if after is None else int(after.timestamp())
    sums, counts = [0.0, 0.0], [0, 0]
    device, was_training = model.bias.device, model.training
    model.eval()
    with torch.inference_mode():
        for start in range(0, len(windows), settings.windows):
            part = windows[start : start + settings.windows]
            events = collate(part)
            if moment is None:
                instants = sample_instants(part, settings.queries, random)
                hideable = events
            else:
                instants = [
                    np.full(int(window.tokens.time[window.start] < moment), moment)
                    for window in part
                ]
                hideable = replace(events, item=_only_after(events.item, part, moment))
            queries = make_queries(
                part, instants, vocabulary, interesting, horizon_days=settings.horizon_days
            )
            rows, positions = mask_items(hideable, settings.masked, settings.mask_share, random)
            events, queries = to_device(events, device), to_device(queries, device)
            rows, positions = rows.to(device), positions.to(device)
            if len(queries.row):
                sums[0] += next_item_loss(model, events, queries).item() * len(queries.row)
            if len(rows):
                sums[1] += masked_item_loss(model, events, rows, positions).item() * len(rows)
            counts = [counts[0] + len(queries.row), counts[1] + len(rows)]
    model.train(was_training)
    return HeldOutLoss(*(s / n if n else math.nan for s, n in zip(sums, counts, strict=True)))


@contextmanager
def _deterministic(device: torch.device) -> Iterator[None]:
    """Let sums over gathered rows run in a fixed order; on two threads they do not by default."""
    before = torch.are_deterministic_algorithms_enabled()
    fill = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    torch.use_deterministic_algorithms(before or device.type == "cpu")
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
        torch.utils.deterministic.fill_uninitialized_memory = fill  # type: ignore[attr-defined]


def _step(
    model: BehaviourModel,
    optimizer: torch.optim.Optimizer,
    windows: list[Window],
    vocabulary: Vocabulary,
    config: EncoderConfig,
    step: int,
) -> float:
    """Do one update; each step is one of the two tasks, drawn by their weights."""
    settings = config.training
    random = np.random.default_rng([settings.seed, 1, step])
    torch.manual_seed(int(random.integers(2**62)))
    device = model.bias.device
    events = collate(windows)
    if random.random() * (settings.next_item + settings.masked_item) < settings.next_item:
        task = "next-item"
        queries = make_queries(
            windows,
            sample_instants(windows, settings.queries, random),
            vocabulary,
            interest_mask(vocabulary, config.model.interest),
            horizon_days=settings.horizon_days,
        )
        if not len(queries.row):
            return math.nan
        loss = next_item_loss(model, to_device(events, device), to_device(queries, device))
    else:
        task = "masked-item"
        hidden = mask_items(events, settings.masked, settings.mask_share, random)
        if not len(hidden[0]):
            return math.nan
        loss = masked_item_loss(model, to_device(events, device), *(h.to(device) for h in hidden))
    if not torch.isfinite(loss):
        users = sorted({window.tokens.user[window.row].tobytes().hex() for window in windows})
        raise DivergedError(
            f"{task} loss is {loss.item()} at step {step + 1}; lower the learning rate "
            f"({settings.learning_rate}) or look at the events of the users {', '.join(users)}"
        )
    for group in optimizer.param_groups:
        group["lr"] = _learning_rate(config, step + 1)
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(model.parameters(), settings.clip)
    optimizer.step()
    return loss.item()


def _learning_rate(config: EncoderConfig, step: int) -> float:
    """Linear warm-up, then half a cosine down to a tenth."""
    settings = config.training
    if step <= settings.warmup_steps:
        return settings.learning_rate * step / settings.warmup_steps
    left = (step - settings.warmup_steps) / max(1, settings.steps - settings.warmup_steps)
    return settings.learning_rate * (0.1 + 0.45 * (1 + math.cos(math.pi * left)))


def _optimizer(model: BehaviourModel, config: EncoderConfig) -> torch.optim.AdamW:
    """AdamW; weights of the blocks decay, embeddings, norms and biases do not."""
    decayed = [p for n, p in model.named_parameters() if "proj" in n and p.ndim > 1]
    known = {id(p) for p in decayed}
    others = [p for p in model.parameters() if id(p) not in known]
    groups = [
        {"params": decayed, "weight_decay": config.training.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.training.learning_rate, betas=(0.9, 0.98))


def _weighted(found: HeldOutLoss, config: EncoderConfig) -> float:
    """Mean of the two losses by their weights; a task without weight does not count."""
    pairs = (
        (config.training.next_item, found.next_item),
        (config.training.masked_item, found.masked_item),
    )
    return sum(weight * loss for weight, loss in pairs if weight)


def _only_after(item: torch.Tensor, windows: Sequence[Window], moment: int) -> torch.Tensor:
    """Items at or after an instant; the others become padding, which is never hidden."""
    kept = torch.zeros_like(item)
    for row, window in enumerate(windows):
        later = torch.from_numpy(window.tokens.time[window.start : window.stop] >= moment)
        kept[row, : len(later)] = torch.where(later, item[row, : len(later)], 0)
    return kept


def _publish(
    out_dir: Path,
    weights: Weights,
    vocabulary: Vocabulary,
    config: EncoderConfig,
    result: TrainingResult,
) -> None:
    """Write the finished encoder; training.json comes last and says that the rest is whole."""
    report = asdict(result) | {
        "fitted_before": result.fitted_before.isoformat(),
        "vocabulary": vocabulary.version,
        "preset": config.name,
    }
    for other in (out_dir / "checkpoints").iterdir():
        if other.name != result.training_id:
            shutil.rmtree(other)  # of older data or another configuration
    (out_dir / "training.json").unlink(missing_ok=True)
    save_file(weights, out_dir / "model.safetensors")
    (out_dir / "config.json").write_bytes(config.to_bytes())
    (out_dir / "vocabulary.json").write_bytes(vocabulary.to_bytes())
    (out_dir / "training.json").write_text(json.dumps(report, indent=1) + "\n")
