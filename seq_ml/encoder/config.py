"""Configuration of the encoder: what is read, how the model is built, how it is trained.

Three presets: `tiny` (tests, seconds), `small` (two CPU cores, minutes), `base` (one GPU).
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class ModelConfig:
    """Shape of the transformer and of the heads on it."""

    dim: int = 64
    """Width of all embeddings and of the user vector."""
    layers: int = 2
    heads: int = 2
    feed_forward: int = 192
    """Inner width of the feed-forward blocks."""
    dropout: float = 0.2
    context: int = 128
    """Newest events that the transformer reads; the repeat head reads the whole sequence."""
    repeat_head: bool = True
    """Add a learned score to the items of the user's own history (recency, frequency, rhythm)."""
    interest: tuple[str, ...] = (
        "view", "click", "add_to_cart", "wishlist", "purchase", "ad_click", "rate", "review",
    )  # fmt: skip
    """Behaviour types whose items are predicted and copied; the others are only read."""


@dataclass(frozen=True)
class TrainingConfig:
    """How pre-training goes; counted in steps, so that the clock never decides a result."""

    steps: int = 250
    windows: int = 32
    """Windows of one user's events in a batch."""
    queries: int = 12
    """Instants drawn from each window, at which the items of the coming days are predicted."""
    masked: int = 16
    """Most items masked in a window."""
    mask_share: float = 0.2
    next_item: float = 0.75
    masked_item: float = 0.25
    """Weights of the two tasks: the share of steps that each of them gets."""
    horizon_days: int = 30
    """Items of strictly later baskets within so many days are the targets of next-item."""
    learning_rate: float = 3e-3
    warmup_steps: int = 40
    weight_decay: float = 0.01
    clip: float = 1.0
    """Largest norm of the gradient."""
    held_out_share: float = 0.05
    """Share of users that training never sees; their loss picks the best weights."""
    evaluate_every: int = 50
    checkpoint_every: int = 50
    threads: int = 2
    """CPU threads; part of the configuration because sums depend on it."""
    seed: int = 7


@dataclass(frozen=True)
class EncoderConfig:
    """Everything that decides the encoder, given the data."""

    name: str
    min_users: int = 5
    """Distinct users that give an item a token of its own."""
    max_events: int = 4096
    """Newest events of a user that are kept in a sequence."""
    model: ModelConfig = field(default_factory=ModelConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)

    def to_bytes(self) -> bytes:
        """Serialise as JSON."""
        return (json.dumps(asdict(self), indent=1, sort_keys=True) + "\n").encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> EncoderConfig:
        """Read what `to_bytes` wrote; TypeError names an unknown key."""
        values: dict[str, Any] = json.loads(data)
        model = values.pop("model")
        model["interest"] = tuple(model["interest"])
        training = TrainingConfig(**values.pop("training"))
        return cls(**values, model=ModelConfig(**model), training=training)


PRESETS = {
    "tiny": EncoderConfig(
        "tiny",
        min_users=3,
        max_events=512,
        model=ModelConfig(dim=16, layers=1, heads=1, feed_forward=32, context=64),
        training=TrainingConfig(
            steps=60,
            windows=8,
            warmup_steps=5,
            learning_rate=1e-2,
            held_out_share=0.1,
            evaluate_every=20,
            checkpoint_every=20,
        ),
    ),
    "small": EncoderConfig("small"),
    "base": EncoderConfig(
        "base",
        max_events=16_384,
        model=ModelConfig(dim=256, layers=4, heads=4, feed_forward=768, context=1024),
        training=TrainingConfig(
            steps=10_000,
            windows=64,
            queries=16,
            masked=32,
            learning_rate=1e-3,
            warmup_steps=500,
            evaluate_every=500,
            checkpoint_every=500,
        ),
    ),
}
