"""Optimizers and learning-rate schedules."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Iterable

    from seq_ml.encoder.config import TrainingConfig

LOWEST = 0.1
"""Share of the learning rate at which cosine and linear schedules end."""


def make_optimizer(
    named: Iterable[tuple[str, torch.nn.Parameter]], settings: TrainingConfig
) -> torch.optim.Optimizer:
    """AdamW, SGD (Nesterov, momentum 0.9) or Adafactor over the parameters that learn.

    Matrices of the backbone decay; embeddings, norms and biases do not.
    """
    learning = [(name, p) for name, p in named if p.requires_grad]
    decayed = [p for name, p in learning if "backbone" in name and p.ndim > 1]
    known = {id(p) for p in decayed}
    groups = [
        {"params": decayed, "weight_decay": settings.weight_decay},
        {"params": [p for _, p in learning if id(p) not in known], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    rate = settings.learning_rate
    if settings.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=rate, momentum=0.9, nesterov=True)
    if settings.optimizer == "adafactor":
        return torch.optim.Adafactor(groups, lr=rate)
    return torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98), fused=True)


def learning_rate(settings: TrainingConfig, step: int) -> float:
    """Linear warm-up, then half a cosine or a line down to a tenth, or a constant.

    step: counted from 1.
    """
    if step <= settings.warmup_steps:
        return settings.learning_rate * step / settings.warmup_steps
    if settings.schedule == "constant":
        return settings.learning_rate
    left = (step - settings.warmup_steps) / max(1, settings.steps - settings.warmup_steps)
    fallen = left if settings.schedule == "linear" else 0.5 * (1 - math.cos(math.pi * left))
    return settings.learning_rate * (1 - (1 - LOWEST) * fallen)
