"""The head that foretells the next event: its behaviour, and how long it takes to come.

It has no use but to teach: what tells the next event apart is what order and rhythm mean.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional


class FollowingHead(nn.Module):
    """Logits of behaviour ids and gap buckets, from the vector of the event before."""

    def __init__(self, dim: int, behaviours: int, gaps: int) -> None:
        super().__init__()
        self.behaviour = nn.Linear(dim, behaviours)
        self.gap = nn.Linear(dim, gaps)
        self.scale = nn.Buffer(torch.zeros(1))
        """Loss (nats) of what is usual; 0 before anything was seen."""

    def loss(self, states: torch.Tensor, following: torch.Tensor) -> torch.Tensor:
        """Mean loss in units of `scale`; following: i64 [events, 2], behaviour and gap bucket."""
        losses = [
            functional.cross_entropy(part(states).float(), following[:, n])
            for n, part in enumerate((self.behaviour, self.gap))
        ]
        return torch.stack(losses).sum() / self.scale.clamp(min=LEAST_SCALE).squeeze()

    @torch.no_grad()
    def begin(self, following: torch.Tensor) -> None:
        """Begin as usual, where nothing was learnt yet."""
        if not len(following) or self.scale > 0:
            return
        for n, part in enumerate((self.behaviour, self.gap)):
            share = torch.bincount(following[:, n], minlength=len(part.bias)) + 0.5
            part.bias.copy_(torch.log(share / share.sum()))
            self.scale.sub_(part.bias[following[:, n]].mean())


LEAST_SCALE = 0.1
"""Nats that count as the scale at least: where all events are alike there is nothing to tell."""
