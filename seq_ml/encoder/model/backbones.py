"""What reads a window of events: transformers, LSTM and GRU behind one interface.

The transformer is pre-norm (RMSNorm) with rotary positions, SwiGLU and torch's fused attention
(Llama: Touvron et al. 2023; RoPE: Su et al. 2021). Positions count baskets, not events, because the
order inside a basket is arbitrary; half of each head's pairs turn with days, because people come
back by the calendar and not by the visit. Windows are padded on the right, so that a causal reader
never meets padding and needs no mask at all.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Protocol

import torch
from torch import nn
from torch.nn import functional

if TYPE_CHECKING:
    from seq_ml.encoder.config import ModelConfig
    from seq_ml.encoder.data.batches import Events


PERIODS = (2.0, 730.0)
"""Shortest and longest period of the pairs that turn with days."""


class BackboneModule(Protocol):
    """What every backbone offers; modules are called like functions."""

    causal: bool
    """Whether it can read causally. If not, it reads what may be seen once for each question."""

    def __call__(
        self, events: Events, embedded: torch.Tensor, valid: torch.Tensor, *, causal: bool
    ) -> torch.Tensor:
        """Return contextual vectors f32 [windows, events, dim]; those of padding mean nothing.

        embedded: f32 [windows, events, dim].  valid: bool [windows, events], True where an event
        is; the first is always valid.  causal: an event sees itself and earlier ones only.
        """
        ...


class Transformer(nn.Module):
    """Blocks of attention and feed-forward; reads causally or, with the same weights, both ways."""

    def __init__(self, config: ModelConfig, *, causal: bool) -> None:
        super().__init__()
        self.causal = causal
        self.positions = config.positions
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = nn.RMSNorm(config.dim)
        half = config.dim // config.heads // 2
        calendar = half // 2 if config.positions == "calendar" else 0
        frequency = 10_000.0 ** (-torch.arange(half - calendar).float() / (half - calendar))
        self.frequency = nn.Buffer(frequency, persistent=False)
        spread = torch.linspace(0.0, 1.0, calendar)
        period = PERIODS[0] * (PERIODS[1] / PERIODS[0]) ** spread
        self.daily = nn.Buffer(2 * math.pi / period, persistent=False)

    def forward(
        self,
        events: Events,
        embedded: torch.Tensor,
        valid: torch.Tensor,
        *,
        causal: bool,
        asked: tuple[torch.Tensor, torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """See `BackboneModule`.

        asked: i64 (rows, positions); only their vectors are returned, f32 [asked, dim], and the
        feed-forward of the last block, a third of all work, is done for them alone.
        """
        if self.positions == "events":
            place = torch.arange(events.item.shape[1], device=events.item.device)[None]
        else:
            place = events.step
        angle = place[..., None] * self.frequency
        if self.positions == "calendar":
            angle = torch.cat([angle, events.day[..., None] * self.daily], dim=-1)
        turn = (angle.cos()[:, None], angle.sin()[:, None])
        mask = None if causal else valid[:, None, None, :]
        states = embedded
        for block in self.blocks[:-1]:
            states = block(states, turn, mask)
        states = self.blocks[-1](states, turn, mask, asked)
        return self.norm(states)


class Block(nn.Module):
    """Attention, then SwiGLU, each on the norm of its input and added to it."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.norm_attention = nn.RMSNorm(config.dim)
        self.attention = Attention(config)
        self.norm_feed_forward = nn.RMSNorm(config.dim)
        self.feed_forward = FeedForward(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self,
        states: torch.Tensor,
        turn: tuple[torch.Tensor, torch.Tensor],
        mask: torch.Tensor | None,
        asked: tuple[torch.Tensor, torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """Return states [windows, events, dim], [asked, dim] with `asked`; mask None: causal."""
        normed = self.norm_attention(states)
        if asked is not None and mask is None and len(asked[0]) == len(states):
            mixed = self.attention.of_one(normed, turn, *asked)
            states = states[asked]
        else:
            mixed = self.attention(normed, turn, mask)
            if asked is not None:
                states, mixed = states[asked], mixed[asked]
        states = states + self.dropout(mixed)
        return states + self.dropout(self.feed_forward(self.norm_feed_forward(states)))


class Attention(nn.Module):
    """Multi-head attention with rotary positions through torch's fused kernel."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.query = nn.Linear(config.dim, config.dim, bias=False)
        self.key = nn.Linear(config.dim, config.dim, bias=False)
        self.value = nn.Linear(config.dim, config.dim, bias=False)
        self.output = nn.Linear(config.dim, config.dim, bias=False)
        self.prefix: nn.Module | None = None  # a fine-tuning may add one

    def forward(
        self,
        states: torch.Tensor,
        turn: tuple[torch.Tensor, torch.Tensor],
        mask: torch.Tensor | None,
    ) -> torch.Tensor:
        """Return [windows, events, dim]; mask None means causal."""
        shape = (*states.shape[:2], self.heads, -1)
        query, key, value = (
            part(states).view(shape).transpose(1, 2) for part in (self.query, self.key, self.value)
        )
        mixed = functional.scaled_dot_product_attention(
            _turned(query, turn), _turned(key, turn), value, attn_mask=mask, is_causal=mask is None
        )
        if self.prefix is not None:
            mixed = mixed + self.prefix(query)
        return self.output(mixed.transpose(1, 2).flatten(2))

    def of_one(
        self,
        states: torch.Tensor,
        turn: tuple[torch.Tensor, torch.Tensor],
        rows: torch.Tensor,
        positions: torch.Tensor,
    ) -> torch.Tensor:
        """Causal attention of few positions, f32 [asked, dim]: as if all had been asked.

        For scoring, which asks one position of each window: the others need no queries.
        """
        shape = (*states.shape[:2], self.heads, -1)
        key, value = (
            part(states).view(shape).transpose(1, 2)[rows] for part in (self.key, self.value)
        )
        query = self.query(states[rows, positions]).view(len(rows), 1, self.heads, -1)
        query = query.transpose(1, 2)
        cos, sin = (part.expand(len(states), -1, -1, -1)[rows] for part in turn)
        place = positions[:, None, None, None]
        here = (cos.take_along_dim(place, dim=2), sin.take_along_dim(place, dim=2))
        earlier = torch.arange(states.shape[1], device=rows.device) <= positions[:, None]
        mixed = functional.scaled_dot_product_attention(
            _turned(query, here), _turned(key, (cos, sin)), value, attn_mask=earlier[:, None, None]
        )
        if self.prefix is not None:
            mixed = mixed + self.prefix(query)
        return self.output(mixed.transpose(1, 2).flatten(1))


class FeedForward(nn.Module):
    """SwiGLU (Shazeer 2020)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gate = nn.Linear(config.dim, config.feed_forward, bias=False)
        self.up = nn.Linear(config.dim, config.feed_forward, bias=False)
        self.down = nn.Linear(config.feed_forward, config.dim, bias=False)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """Return [windows, events, dim]."""
        return self.down(functional.silu(self.gate(states)) * self.up(states))


class Recurrent(nn.Module):
    """LSTM or GRU; from both sides it is read twice, the second time backwards, and added up."""

    causal = True

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        kind = nn.LSTM if config.backbone == "lstm" else nn.GRU
        self.cells = kind(
            config.dim,
            config.dim,
            config.layers,
            batch_first=True,
            dropout=config.dropout if config.layers > 1 else 0.0,
        )
        self.norm = nn.RMSNorm(config.dim)

    def forward(
        self,
        events: Events,  # noqa: ARG002
        embedded: torch.Tensor,
        valid: torch.Tensor,
        *,
        causal: bool,
    ) -> torch.Tensor:
        """See `BackboneModule`."""
        states = self.cells(embedded)[0]
        if not causal:
            place = torch.arange(valid.shape[1], device=valid.device).expand_as(valid)
            back = torch.where(valid, valid.sum(1, keepdim=True) - 1 - place, place)[..., None]
            turned = torch.take_along_dim(embedded, back, dim=1)
            states = states + torch.take_along_dim(self.cells(turned)[0], back, dim=1)
        return self.norm(states)


def _turned(vectors: torch.Tensor, turn: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """Rotate the pairs (i, i + half) of query or key vectors [windows, heads, events, width]."""
    cos, sin = turn
    first, second = vectors.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)
