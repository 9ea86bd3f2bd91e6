"""Configuration of a fine-tuning: what of the encoder learns, and for how long."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Literal

from seq_ml.encoder.config import Mechanics, UnusableError

Method = Literal["full", "frozen", "partial", "lora", "adalora", "adapter", "prefix"]


@dataclass(frozen=True, kw_only=True)
class FineTuning(Mechanics):
    """How an encoder is fitted to its tasks; counted in steps, so the clock decides nothing."""

    method: Method = "lora"
    """What learns beside the heads: everything, nothing, some named layers, a low-rank change of
    the backbone's matrices, small networks between its layers, or keys and values to attend to."""
    layers: tuple[str, ...] = ()
    """partial: which modules or parameters learn, such as `backbone.blocks.1`."""
    rank: int = 2
    """lora: rank of every change. adalora: mean rank at the end; it begins with twice as many."""
    alpha: float = 8.0
    """lora, adalora: the change counts alpha ÷ rank (at its beginning)."""
    bottleneck: int = 8
    """adapter: inner width of the small networks."""
    prefix: int = 8
    """prefix: keys and values that each block learns."""
    examples: int = 64
    """Examples of each task in one step."""
    steps: int = 150
    warmup_steps: int = 10
    evaluate_every: int = 25

    def __post_init__(self) -> None:
        """Refuse what cannot work together; UnusableError says what to change."""
        if (self.method == "partial") != bool(self.layers):
            raise UnusableError(
                f"method '{self.method}' with layers {list(self.layers)}: name layers for the "
                "method 'partial', and only for it"
            )

    def to_bytes(self) -> bytes:
        """Serialise as JSON."""
        return (json.dumps(asdict(self), indent=1, sort_keys=True) + "\n").encode()
