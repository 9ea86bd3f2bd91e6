"""Checkpoints of a training: complete or absent, without pickle.

A checkpoint is a folder `step-<n>` with the weights, the best and the averaged ones so far, the
optimizer's moments (safetensors) and the loop's state (JSON). It is written under another name and
renamed when everything is on disk.
"""

from __future__ import annotations

import json
import os
import shutil
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

FORMAT = 9
"""Raised when the code changes what a training computes: old checkpoints are not taken, and no
training continues from an encoder of before."""
KEEP = 2
"""Newest checkpoints that are kept."""

Weights = dict[str, torch.Tensor]


def save_checkpoint(
    folder: Path,
    step: int,
    weights: dict[str, Weights],
    optimizer: torch.optim.Optimizer,
    state: dict[str, Any],
) -> None:
    """Write `folder/step-<step>` in one atomic step and remove the oldest ones.

    weights: by name, each a file of its own; an empty one stays empty.
    """
    final = folder / f"step-{step:08d}"
    partial = folder / f"partial-{step:08d}"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    moments = {
        f"{parameter}.{name}": tensor
        for parameter, values in optimizer.state_dict()["state"].items()
        for name, tensor in values.items()
        if tensor is not None
    }
    for name, tensors in (weights | {"optimizer": moments}).items():
        save_file(tensors, partial / f"{name}.safetensors")
    (partial / "state.json").write_text(json.dumps(state, indent=1))
    for path in (*partial.iterdir(), partial):
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
    shutil.rmtree(final, ignore_errors=True)
    partial.rename(final)
    for old in sorted(folder.glob("step-*"))[:-KEEP]:
        shutil.rmtree(old)


def restore_checkpoint(
    folder: Path, optimizer: torch.optim.Optimizer
) -> tuple[dict[str, Weights], dict[str, Any]] | None:
    """Load the newest checkpoint into the optimizer; return weights by name and the state.

    None when there is no complete checkpoint yet.
    """
    complete = sorted(folder.glob("step-*"))
    if not complete:
        return None
    files = {path.stem: load_file(path) for path in complete[-1].glob("*.safetensors")}
    moments: dict[int, Weights] = {}
    for name, tensor in files.pop("optimizer").items():
        parameter, part = name.split(".")
        moments.setdefault(int(parameter), {})[part] = tensor
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": moments, "param_groups": groups})
    state: dict[str, Any] = json.loads((complete[-1] / "state.json").read_text())
    return files, state


def is_readable(folder: Path) -> bool:
    """Tell whether an encoder that lies in a folder was trained by this version of the code."""
    facts: dict[str, Any] = json.loads((folder / "training.json").read_text())
    return facts.get("format") == FORMAT


def copied(weights: Mapping[str, torch.Tensor]) -> Weights:
    """Return a copy of weights, such as a model's `state_dict`, on the CPU."""
    return {name: tensor.detach().cpu().clone().contiguous() for name, tensor in weights.items()}
