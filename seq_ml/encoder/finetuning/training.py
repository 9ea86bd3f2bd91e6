"""Fit an encoder to one task, or to several that share it.

Each step reads one batch of every task and follows the gradient of the weighted sum of their
losses. The weights are judged on other users or later origins than those they were fitted to, and
the best are kept. A fine-tuning goes on from its newest checkpoint and ends bit for bit where an
undisturbed one ends (on CPU): each step derives its random numbers from the seed and its own
number.
"""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from seq_ml.encoder.data.batches import to_device
from seq_ml.encoder.finetuning.examples import BinaryExamples, Examples
from seq_ml.encoder.finetuning.heads import Asker, Batch, kind_of
from seq_ml.encoder.finetuning.methods import allocate, orthogonality, settled_from
from seq_ml.encoder.finetuning.tuned import (
    FORMAT,
    FineTuned,
    TuningResult,
    build,
    lay,
    learning,
    weights_hash,
)
from seq_ml.encoder.memory import return_freed_blocks
from seq_ml.encoder.training.checkpoints import copied
from seq_ml.encoder.training.loop import DivergedError, TrainingLoop

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from seq_ml.encoder.finetuning.config import FineTuning
    from seq_ml.encoder.scoring.encoder import Encoder

JUDGED = 1_000
"""Most validation examples of a task."""


@dataclass(frozen=True)
class Task:
    """What an encoder is fitted to.

    fit, validation: examples of the same kind; those of validation are of other users, or have
    later origins by which every answer of `fit` was known.  weight: of its loss in the sum over
    tasks.
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
        if not self.fit.users() & self.validation.users():
            return
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
    if folder is not None:
        loop.restore(folder)
    finished = loop.run(
        loop.update,
        loop.evaluate,
        lambda: None if folder is None else loop.save(folder),
        judge_start=True,
        on_step=on_step,
        should_stop=should_stop,
    )
    if not finished:
        return None
    lay(loop.tuned, loop.best)
    known_at = [examples.known_at for task in tasks for examples in (task.fit, task.validation)]
    result = TuningResult(
        version=version,
        tasks={task.name: kind_of(task.fit) for task in tasks},
        fitted_before=max(encoder.fitted_before, *known_at),
        steps=loop.step,
        best_step=loop.state["best_step"],
        validation=loop.state["validation"],
        untuned=loop.state["untuned"],
        seconds=time.monotonic() - began,
    )
    return FineTuned(encoder, loop.tuned, loop.tuner, settings, result)


class Loop(TrainingLoop):
    """Fine-tunes; `save` and `restore` leave nothing out that decides its next update."""

    def __init__(self, encoder: Encoder, tasks: Sequence[Task], settings: FineTuning) -> None:
        self.tasks = tasks
        self.settings = settings
        self.asker = Asker(encoder)
        binary = {t.name: t.fit for t in tasks if isinstance(t.fit, BinaryExamples)}
        rates = {name: float(examples.label.mean()) for name, examples in binary.items()}
        self.tuned, self.tuner = build(encoder, settings, rates, items=len(binary) < len(tasks))
        super().__init__(self.tuned, settings, bf16=encoder.config.training.bf16)
        self.validation = {task.name: self._judged(task.validation) for task in tasks}
        self.best = copied(learning(self.tuned))
        self.state |= {"validation": {}, "untuned": {}, "rank_pattern": None}

    def update(self) -> dict[str, float]:
        """Do one step on a batch of every task; return the weighted loss and the rate."""
        rate, random = self.begin(), self.random()
        self.tuned.train()
        self.optimizer.zero_grad()
        total = 0.0
        for task in self.tasks:
            batch = to_device(self.asker.ask(task.fit, self._chosen(task.fit)), self.device)
            with self.autocast():
                loss = task.weight * self.asker.loss(self.tuned, task.name, batch, random)
            if not torch.isfinite(loss):
                raise DivergedError(
                    f"{task.name}: loss is {loss.item()} at step {self.step + 1} of the "
                    f"fine-tuning; lower the learning rate ({self.settings.learning_rate})"
                )
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.item()
        if self.settings.method == "adalora":
            orthogonality(self.tuner).backward()  # type: ignore[no-untyped-call]
        self.follow()
        self.state["step"] += 1
        if self.settings.method == "adalora":
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
                    loss = self.asker.loss(self.tuned, task.name, to_device(batch, self.device))
                    total, count = total + loss.item() * len(batch), count + len(batch)
                losses[task.name] = total / count
        if not self.step:
            self.state["untuned"] = losses
        untuned = self.state["untuned"]
        total = sum(task.weight * losses[task.name] / untuned[task.name] for task in self.tasks)
        if self.step >= settled_from(self.settings):
            self.judged(total, lambda: copied(learning(self.tuned)), validation=losses)
        return {f"validation/{name}": loss for name, loss in losses.items()}

    def save(self, folder: Path) -> None:
        """Write a checkpoint."""
        weights = {"learning": copied(learning(self.tuned))}
        if self.settings.method == "adalora":
            allocator = self.tuner.rankallocator
            weights |= {name: dict(getattr(allocator, name)) for name in ALLOCATOR}
            self.state["rank_pattern"] = self._peft_config().rank_pattern
        self.checkpoint(folder, **weights)

    def restore(self, folder: Path) -> None:
        """Go on from the newest complete checkpoint, if there is one."""
        weights = self.resume(folder)
        if weights is None:
            return
        lay(self.tuned, weights["learning"])
        if self.settings.method == "adalora":
            for name in ALLOCATOR:
                moved = {key: tensor.to(self.device) for key, tensor in weights[name].items()}
                setattr(self.tuner.rankallocator, name, moved)
            self._peft_config().rank_pattern = self.state["rank_pattern"]

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
