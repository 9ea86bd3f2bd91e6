"""Where the numbers of a training go: lines, TensorBoard, Weights & Biases when a key is set."""

from __future__ import annotations

import logging
import os
import time
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from seq_ml.encoder.config import EncoderConfig

log = logging.getLogger(__name__)

SAID_EVERY = 25
"""Steps after which a line is said; every evaluation has one."""


def progress(say: Callable[[str], None]) -> Callable[[Mapping[str, float]], None]:
    """Return what says a line with the numbers of some steps, for `pretrain(on_step=…)`."""
    began, steps = time.monotonic(), 0

    def on_step(metrics: Mapping[str, float]) -> None:
        nonlocal steps
        steps += 1
        numbers = dict(metrics)
        step = int(numbers.pop("step"))
        if step % SAID_EVERY == 0 or any(name.startswith("held_out/") for name in numbers):
            shown = ", ".join(f"{name} {value:.4g}" for name, value in numbers.items())
            say(f"step {step}: {shown}, {steps / (time.monotonic() - began):.2g} steps/s")

    return on_step


class TrainingLog:
    """Writes each step's numbers; a training that goes on writes behind what is there."""

    def __init__(self, folder: Path, identity: str, config: EncoderConfig, *, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.board = SummaryWriter(str(folder / identity), purge_step=step + 1)
        self.run = _wandb_run(folder, identity, config)

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """Close what was opened."""
        self.board.close()
        if self.run is not None:
            self.run.finish()

    def write(self, metrics: Mapping[str, float]) -> None:
        """Write the numbers of one step, which is among them."""
        numbers = dict(metrics)
        step = int(numbers.pop("step"))
        for name, value in numbers.items():
            self.board.add_scalar(name, value, step)
        if self.run is not None:
            self.run.log(numbers, step=step)


def _wandb_run(folder: Path, identity: str, config: EncoderConfig) -> Any:
    """Open, or go on with, the run of this training; None without WANDB_API_KEY."""
    if not os.environ.get("WANDB_API_KEY"):
        return None
    try:
        import wandb
    except ImportError:
        log.warning("WANDB_API_KEY is set, but wandb is not installed: pip install wandb")
        return None
    from dataclasses import asdict

    folder.mkdir(parents=True, exist_ok=True)
    project = os.environ.get("WANDB_PROJECT", "seqline")
    return wandb.init(
        project=project, id=identity, resume="allow", dir=str(folder), config=asdict(config)
    )
