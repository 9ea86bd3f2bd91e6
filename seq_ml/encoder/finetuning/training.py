"""Fit an encoder to one task, or to several that share it.

Each step reads one batch of every task and follows the gradient of the weighted sum of their
losses. The weights are judged on later origins than those they were fitted to, and the best are
kept. A fine-tuning goes on from its newest checkpoint and ends bit for bit where an undisturbed one
ends (on CPU): each step derives its random numbers from the seed and its own number.
"""

from __future__ import annotations

import hashlib
import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from seq_ml.encoder.checkpoints import restore_checkpoint, save_checkpoint
from seq_ml.encoder.finetuning.examples import BinaryExamples, Examples
from seq_ml.encoder.finetuning.heads import Asker, Batch, kind_of
from seq_ml.encoder.finetuning.methods import allocate, orthogonality, settled_from
from seq_ml.encoder.finetuning.tuned import (
    FORMAT,
    FineTuned,
    Found,
    build,
    lay,
    learning,
    weights_hash,
    weights_of,
)
from seq_ml.encoder.memory import return_freed_blocks
from seq_ml.encoder.optimizers import make_optimizer, set_learning_rate
from seq_ml.encoder.training import DivergedError, deterministic

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from seq_ml.encoder.checkpoints import Weights
    from seq_ml.encoder.finetuning.config import FineTuning
    from seq_ml.encoder.scoring import Encoder

JUDGED = 1_000
"""Most validation examples of a task."""


@dataclass(frozen=True)
class Task:
    """What an encoder is fitted to.

    fit, validation: examples of the same kind; those of validation have later origins, and every
    answer of `fit` was known by then.  weight: of its loss in the sum over tasks.
    """

    name: str
    fit: Examples
    validation: Examples
    weight: float = 1.0

    def __post_init__(self) -> None:
        """Refuse examples that would flatter: ValueError."""
        for part, examples in (("fit", self.fit), ("validation", self.validation)):
            if not len(examples):
                raise ValueError(f"{self.name}: no {part} examples")
            if isinstance(examples, BinaryExamples) and not 0 < examples.label.mean() < 1:
                raise ValueError(f"{self.name}: all {part} examples have the same label")
        first = int(self.validation.instant.min())
        if self.fit.known_at.timestamp() > first:
            raise ValueError(
                f"{self.name}: answers of the fit examples are known at {self.fit.known_at}, after "
                "the first origin of validation: leave an embargo between them"
            )


def fine_tune(
    encoder: Encoder,
    tasks: Sequence[Task],
    settings: FineTuning,
    *,
    checkpoints: Path | None = None,
    on_step: Callable[[dict[str, float]], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> FineTuned | None:
    """Fit, or go on fitting, an encoder to tasks; the encoder itself stays as it is.

    checkpoints: folder to go on from.  on_step gets step, loss, learning_rate, and validation
    losses when they were computed.  should_stop is asked after each step; True saves a checkpoint
    and returns None.

    Raises DivergedError when the loss is not finite, ValueError when the method does not fit the
    encoder.
    """
    began = time.monotonic()
    torch.set_num_threads(settings.threads)
    return_freed_blocks()
    version = _version(encoder, tasks, settings)
    folder = None if checkpoints is None else checkpoints / version
    loop = Loop(encoder, tasks, settings)
    with deterministic(loop.device):
        if folder is None or not loop.restore(folder):
            loop.evaluate()
        while not loop.finished:
            metrics = loop.update()
            if loop.step % settings.evaluate_every == 0 or loop.step == settings.steps:
                metrics |= loop.evaluate()
            if on_step is not None:
                on_step({"step": loop.step} | metrics)
            stopped = should_stop is not None and should_stop()
            due = stopped or loop.finished or loop.step % settings.checkpoint_every == 0
            if folder is not None and due:
                loop.save(folder)
            if stopped and not loop.finished:
                return None
    state = loop.state
    lay(loop.tuned, loop.best)
    known = [examples.known_at for task in tasks for examples in (task.fit, task.validation)]
    found = Found(
        version=version,
        tasks={task.name: kind_of(task.fit) for task in tasks},
        fitted_before=max(encoder.fitted_before, *known),
        steps=loop.step,
        best_step=state["best_step"],
        validation=state["validation"],
        untuned=state["untuned"],
        seconds=time.monotonic() - began,
    )
    return FineTuned(encoder, loop.tuned, loop.tuner, settings, found)


class Loop:
    """A model with all that decides its next update; `save` and `restore` leave nothing out."""

    def __init__(self, encoder: Encoder, tasks: Sequence[Task], settings: FineTuning) -> None:
        self.tasks = tasks
        self.settings = settings
        self.asker = Asker(encoder)
        binary = {t.name: t.fit for t in tasks if isinstance(t.fit, BinaryExamples)}
        rates = {name: float(examples.label.mean()) for name, examples in binary.items()}
        self.tuned, self.tuner = build(encoder, settings, rates, items=len(binary) < len(tasks))
        self.device = self.tuned.model.bias.device
        self.half = encoder.config.training.bf16 and self.device.type == "cuda"
        self.optimizer = make_optimizer(self.tuned.named_parameters(), settings.mechanics)
        self.validation = {task.name: self._judged(task.validation) for task in tasks}
        self.best: Weights = weights_of(self.tuned)
        self.state: dict[str, Any] = {
            "step": 0, "best_step": 0, "best_loss": math.inf, "worse": 0, "validation": {},
            "untuned": {}, "rank_pattern": None,
        }  # fmt: skip

    @property
    def step(self) -> int:
        """Updates done."""
        return int(self.state["step"])

    @property
    def finished(self) -> bool:
        """Whether all steps are done, or validation has not improved for too long."""
        patience = self.settings.patience
        return self.step >= self.settings.steps or 0 < patience <= self.state["worse"]

    def update(self) -> dict[str, float]:
        """Do one step on a batch of every task; return the weighted loss and the rate."""
        settings, step = self.settings, self.step
        rate = set_learning_rate(self.optimizer, settings.mechanics, step + 1)
        random = np.random.default_rng([settings.seed, 1, step])
        torch.manual_seed(int(random.integers(2**62)))
        self.tuned.train()
        self.optimizer.zero_grad()
        total = 0.0
        for task in self.tasks:
            batch = self.asker.ask(task.fit, self._chosen(task.fit)).to(self.device)
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.half):
                loss = task.weight * self.asker.loss(self.tuned, task.name, batch, random)
            if not torch.isfinite(loss):
                raise DivergedError(
                    f"{task.name}: loss is {loss.item()} at step {step + 1} of the fine-tuning; "
                    f"lower the learning rate ({settings.learning_rate})"
                )
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.item()
        if settings.method == "adalora":
            orthogonality(self.tuner).backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(learning(self.tuned).values(), settings.clip)
        self.optimizer.step()
        self.state["step"] += 1
        if settings.method == "adalora":
            allocate(self.tuner, self.step)
        return {"loss": total, "learning_rate": rate}

    def evaluate(self) -> dict[str, float]:
        """Judge on the validation examples, exactly and without dropout; remember the best weights.

        Several tasks count by their loss relative to that before the first step.
        """
        self.tuned.eval()
        losses: dict[str, float] = {}
        with torch.inference_mode():
            for task in self.tasks:
                total, count = 0.0, 0
                for batch in self.validation[task.name]:
                    loss = self.asker.loss(self.tuned, task.name, batch.to(self.device))
                    total, count = total + loss.item() * len(batch), count + len(batch)
                losses[task.name] = total / count
        state = self.state
        if not self.step:
            state["untuned"] = losses
        total = sum(task.weight * losses[task.name] / state["untuned"][task.name]
                    for task in self.tasks)  # fmt: skip
        settled = self.step >= settled_from(self.settings)
        if settled and total < state["best_loss"]:
            self.best = weights_of(self.tuned)
            state |= {"best_step": self.step, "best_loss": total, "validation": losses, "worse": 0}
        else:
            state["worse"] += int(settled)
        return {f"validation/{name}": loss for name, loss in losses.items()}

    def save(self, folder: Path) -> None:
        """Write a checkpoint."""
        weights = {"learning": weights_of(self.tuned), "best": self.best}
        if self.settings.method == "adalora":
            allocator = self.tuner.rankallocator
            weights |= {name: dict(getattr(allocator, name)) for name in ALLOCATOR}
            self.state["rank_pattern"] = self._peft_config().rank_pattern
        save_checkpoint(folder, self.step, weights, self.optimizer, self.state)

    def restore(self, folder: Path) -> bool:
        """Go on from the newest complete checkpoint; False when there is none."""
        found = restore_checkpoint(folder, self.optimizer)
        if found is None:
            return False
        weights, self.state = found
        lay(self.tuned, weights["learning"])
        self.best = weights["best"]
        if self.settings.method == "adalora":
            for name in ALLOCATOR:
                moved = {key: tensor.to(self.device) for key, tensor in weights[name].items()}
                setattr(self.tuner.rankallocator, name, moved)
            self._peft_config().rank_pattern = self.state["rank_pattern"]
        return True

    def _peft_config(self) -> Any:
        return next(iter(self.tuner.peft_config.values()))

    def _chosen(self, examples: Examples) -> np.ndarray:
        """Return the examples of the next step: shuffled anew each time all have been read."""
        size = min(self.settings.examples, len(examples))
        epoch, place = divmod(self.step, len(examples) // size)
        order = np.random.default_rng([self.settings.seed, 2, epoch]).permutation(len(examples))
        return order[place * size : (place + 1) * size]

    def _judged(self, examples: Examples) -> list[Batch]:
        number = min(len(examples), JUDGED)
        chosen = np.linspace(0, len(examples) - 1, number).astype(np.int64)
        size = self.settings.examples
        parts = (chosen[start : start + size] for start in range(0, number, size))
        return [self.asker.ask(examples, part) for part in parts]


ALLOCATOR = ("ipt", "exp_avg_ipt", "exp_avg_unc")
"""What peft's rank allocator remembers of earlier steps."""


def _version(encoder: Encoder, tasks: Sequence[Task], settings: FineTuning) -> str:
    """Hash of everything that decides the weights."""
    parts = [str(FORMAT), encoder.version, weights_hash(encoder), settings.to_bytes().decode()]
    for task in tasks:
        parts += [task.name, str(task.weight), task.fit.version, task.validation.version]
    return hashlib.sha256(":".join(parts).encode()).hexdigest()[:16]
