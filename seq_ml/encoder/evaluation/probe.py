"""The fixed probe: what a small network makes of user vectors, the same for whatever made them.

Three inverted bottlenecks after the RecSys Challenge 2025 (Bachmann et al. 2023), AdamW at 1e-3,
batches of 128, three epochs, of which the best counts. Each column of the vectors is standardised
on those that the probe is fitted to.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

BLOCKS, EPOCHS, BATCH, RATE = 3, 3, 128, 1e-3


@dataclass(frozen=True)
class Width:
    """Width of the probe between its blocks, and inside them."""

    thin: int = 256
    wide: int = 512


CPU = Width()
CHALLENGE = Width(2048, 4096)
"""That of the challenge, for a GPU."""


class Probe(nn.Module):
    """Logits of labels from a vector."""

    def __init__(self, inputs: int, labels: int, width: Width) -> None:
        super().__init__()
        thin, wide = width.thin, width.wide
        self.first = nn.Sequential(nn.Linear(inputs, thin), nn.LayerNorm(thin))
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.LayerNorm(thin), nn.Linear(thin, wide), nn.GELU(), nn.Linear(wide, thin)
            )
            for _ in range(BLOCKS)
        )
        self.last = nn.Sequential(nn.LayerNorm(thin), nn.Linear(thin, labels))

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        """Return logits f32 [users, labels] of vectors f32 [users, inputs]."""
        state = self.first(vectors)
        for block in self.blocks:
            state = state + block(state)
        return self.last(state)


def probed(
    fit: NDArray[np.float32],
    labels: NDArray[np.float32],
    judge: NDArray[np.float32],
    *,
    width: Width = CPU,
    seed: int = 0,
) -> Iterator[NDArray[np.float32]]:
    """Yield logits f32 [users to judge, labels] after each epoch.

    fit: vectors f32 [users, dim].  labels: f32 [users, labels], NaN: not asked.  judge: vectors of
    the users to judge.  The same inputs and seed give the same logits on a CPU.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    mean, scale = fit.mean(axis=0), fit.std(axis=0)
    scale = np.where(scale > 0, scale, 1.0)
    inputs, judged = (
        torch.from_numpy(((part - mean) / scale).astype(np.float32)).to(device)
        for part in (fit, judge)
    )
    asked = torch.from_numpy(~np.isnan(labels)).to(device, torch.float32)
    answers = torch.from_numpy(np.nan_to_num(labels)).to(device)
    order = np.random.default_rng(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        probe = Probe(fit.shape[1], labels.shape[1], width).to(device)
    optimizer = torch.optim.AdamW(probe.parameters(), lr=RATE)
    for _ in range(EPOCHS):
        users = torch.from_numpy(order.permutation(len(fit))).to(device)
        for batch in torch.split(users, BATCH):
            losses = functional.binary_cross_entropy_with_logits(
                probe(inputs[batch]), answers[batch], asked[batch], reduction="sum"
            )
            optimizer.zero_grad()
            (losses / asked[batch].sum().clamp(min=1)).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        with torch.inference_mode():
            yield probe(judged).cpu().numpy()
