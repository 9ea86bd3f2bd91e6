"""Checkpoints of a training: complete or absent, without pickle.

A checkpoint is a folder `step-<n>` with the weights, the best weights so far, the optimizer's
moments (safetensors) and the loop's state (JSON). It is written under another name and renamed when
everything is on disk. Random numbers and the position in the data need no state: each step derives
them from the seed and its own number.
"""

from __future__ import annotations

import json
import os
import shutil
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file

if TYPE_CHECKING:
    from pathlib import Path

KEEP = 2
"""Newest checkpoints that are kept."""

Weights = dict[str, torch.Tensor]


def save_checkpoint(
    folder: Path,
    step: int,
    *,
    model: torch.nn.Module,
    best: Weights,
    optimizer: torch.optim.Optimizer,
    state: dict[str, Any],
) -> None:
    """Write `folder/step-<step>` in one atomic step and remove the oldest ones."""
    final = folder / f"step-{step:08d}"
    partial = folder / f"partial-{step:08d}"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    moments = {
        f"{parameter}.{name}": tensor
        for parameter, values in optimizer.state_dict()["state"].items()
        for name, tensor in values.items()
    }
    save_file(copy_weights(model), partial / "model.safetensors")
    save_file(best, partial / "best.safetensors")
    save_file(moments, partial / "optimizer.safetensors")
    (partial / "state.json").write_text(json.dumps(state | {"step": step}, indent=1))
    for path in (*partial.iterdir(), partial):
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
    shutil.rmtree(final, ignore_errors=True)
    partial.rename(final)
    for old in sorted(folder.glob("step-*"))[:-KEEP]:
        shutil.rmtree(old)


def restore_checkpoint(
    folder: Path, *, model: torch.nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[dict[str, Any], Weights] | None:
    """Load the newest checkpoint into model and optimizer; return its state and best weights.

    None when there is no complete checkpoint yet.
    """
    complete = sorted(folder.glob("step-*"))
    if not complete:
        return None
    newest = complete[-1]
    model.load_state_dict(load_file(newest / "model.safetensors"))
    moments: dict[int, Weights] = {}
    for name, tensor in load_file(newest / "optimizer.safetensors").items():
        parameter, part = name.split(".")
        moments.setdefault(int(parameter), {})[part] = tensor
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": moments, "param_groups": groups})
    state: dict[str, Any] = json.loads((newest / "state.json").read_text())
    return state, load_file(newest / "best.safetensors")


def copy_weights(model: torch.nn.Module) -> Weights:
    """Return a copy of the model's weights on the CPU."""
    return {
        name: tensor.detach().cpu().clone().contiguous()
        for name, tensor in model.state_dict().items()
    }
