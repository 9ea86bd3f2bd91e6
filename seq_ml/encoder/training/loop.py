"""What every training loop does alike, whatever it trains and from whatever data.

`training.py` (pre-training) and `finetuning/training.py` say what a step's gradient and an
evaluation are. Here stand the rest: rates, clipping, the best weights, early stopping, and when
something is judged, told or saved.
"""

from __future__ import annotations

import contextlib
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from seq_ml.encoder.training.checkpoints import restore_checkpoint, save_checkpoint
from seq_ml.encoder.training.optimizers import make_optimizer, set_learning_rate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from seq_ml.encoder.config import Mechanics
    from seq_ml.encoder.training.checkpoints import Weights

Metrics = dict[str, float]


class DivergedError(ArithmeticError):
    """The loss is no number any more; the message names step and batch."""


class TrainingLoop:
    """What learns of a model, with all that decides its next update.

    Random numbers and the position in the data need no state: each step derives them from the seed
    and its own number.
    """

    def __init__(self, model: torch.nn.Module, mechanics: Mechanics, *, bf16: bool) -> None:
        """model: on its device.  bf16: compute in bfloat16 on a GPU."""
        self.mechanics = mechanics
        self.learning = [p for p in model.parameters() if p.requires_grad]
        self.device = self.learning[0].device
        self.half = bf16 and self.device.type == "cuda"
        self.optimizer = make_optimizer(model.named_parameters(), mechanics)
        self.best: Weights = {}
        self.state: dict[str, Any] = {
            "step": 0, "best_step": 0, "best_loss": math.inf, "worse": 0,
        }  # fmt: skip

    @property
    def step(self) -> int:
        """Updates done."""
        return int(self.state["step"])

    @property
    def finished(self) -> bool:
        """Whether all steps are done, or no evaluation was better for too long."""
        patience = self.mechanics.patience
        return self.step >= self.mechanics.steps or 0 < patience <= self.state["worse"]

    def run(
        self,
        update: Callable[[], Metrics],
        evaluate: Callable[[], Metrics],
        save: Callable[[], None],
        *,
        judge_start: bool,
        on_step: Callable[[Metrics], None] | None,
        should_stop: Callable[[], bool] | None,
    ) -> bool:
        """Do the steps that are left; return whether that is all, or it was asked to stop.

        update, evaluate: do it, and return what `on_step` is told.  judge_start: evaluate before
        the first step, whose weights may be the best.  should_stop is asked after each step.
        """
        mechanics, stopped = self.mechanics, False
        with deterministic(self.device):
            if judge_start and not self.step:
                evaluate()
            while not self.finished and not stopped:
                metrics = update()
                if self.step % mechanics.evaluate_every == 0 or self.step == mechanics.steps:
                    metrics |= evaluate()
                if on_step is not None:
                    on_step({"step": self.step} | metrics)
                stopped = should_stop is not None and should_stop()
                if stopped or self.finished or self.step % mechanics.checkpoint_every == 0:
                    save()
        return self.finished

    def begin(self) -> float:
        """Set the rate of the next update; return it."""
        return set_learning_rate(self.optimizer, self.mechanics, self.step + 1)

    def random(self) -> np.random.Generator:
        """Seed torch for the next update, and return numpy's numbers for it."""
        random = np.random.default_rng([self.mechanics.seed, 1, self.step])
        torch.manual_seed(int(random.integers(2**62)))
        return random

    def autocast(self) -> torch.autocast:
        """Compute in bfloat16 where the configuration says so: its range needs no loss scaling."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.half)

    def follow(self) -> None:
        """Follow the gradient that lies there, clipped."""
        torch.nn.utils.clip_grad_norm_(self.learning, self.mechanics.clip)
        self.optimizer.step()

    def judged(self, loss: float, weights: Callable[[], Weights], **facts: Any) -> None:
        """Take note of an evaluation; the best one's weights (a copy) and facts are kept."""
        if loss < self.state["best_loss"]:
            self.best = weights()
            self.state |= {"best_step": self.step, "best_loss": loss, "worse": 0} | facts
        else:
            self.state["worse"] += 1

    def checkpoint(self, folder: Path, **weights: Weights) -> None:
        """Write a checkpoint with these weights, each under its name, and the best ones."""
        save_checkpoint(
            folder, self.step, weights | {"best": self.best}, self.optimizer, self.state
        )

    def resume(self, folder: Path) -> dict[str, Weights] | None:
        """Go on from the newest complete checkpoint; return its weights, None without one."""
        checkpoint = restore_checkpoint(folder, self.optimizer)
        if checkpoint is None:
            return None
        weights, self.state = checkpoint
        self.best = weights["best"]
        return weights


@contextlib.contextmanager
def deterministic(device: torch.device) -> Iterator[None]:
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
