"""Optimizers and learning-rate schedules."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Iterable

    from seq_ml.encoder.config import Mechanics

LOWEST = 0.1
"""Share of the learning rate at which cosine and linear schedules end."""
PRETRAINED_SHARE = 0.01
"""Share of the learning rate for the weights of a pretrained language model, which a full one
would erase (discriminative rates, Howard and Ruder 2018)."""


def make_optimizer(
    named: Iterable[tuple[str, torch.nn.Parameter]], settings: Mechanics
) -> torch.optim.Optimizer:
    """AdamW, SGD (Nesterov, momentum 0.9) or Adafactor over the parameters that learn.

    Matrices of the backbone decay; embeddings, norms and biases do not. A group's `share` is to be
    multiplied with the learning rate.
    """
    members: dict[tuple[float, float], list[torch.nn.Parameter]] = {}
    for name, parameter in named:
        decay = settings.weight_decay if "backbone" in name and parameter.ndim > 1 else 0.0
        added = "lora" in name or ".adapter." in name  # by a fine-tuning
        share = PRETRAINED_SHARE if ".language." in name and not added else 1.0
        if parameter.requires_grad:
            members.setdefault((share, decay), []).append(parameter)
    groups = [
        {"params": members[share, decay], "weight_decay": decay, "share": share}
        for share, decay in sorted(members, reverse=True)
    ]
    rate = settings.learning_rate
    if settings.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=rate, momentum=0.9, nesterov=True)
    if settings.optimizer == "adafactor":
        return torch.optim.Adafactor(groups, lr=rate)
    return torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98), fused=True)


def set_learning_rate(optimizer: torch.optim.Optimizer, settings: Mechanics, step: int) -> float:
    """Give every group its rate for a step, counted from 1; return the rate of the schedule."""
    rate = learning_rate(settings, step)
    for group in optimizer.param_groups:
        group["lr"] = rate * group["share"]
    return rate


def learning_rate(settings: Mechanics, step: int) -> float:
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
