"""Configuration of a fine-tuning: what of the encoder learns, and for how long.

A YAML file changes single values: `load_fine_tuning`. A key that is unknown is an error.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, Literal

from seq_ml.encoder.config import TrainingConfig, replaced

if TYPE_CHECKING:
    from pathlib import Path

Method = Literal["full", "frozen", "partial", "lora", "adalora", "adapter", "prefix"]


@dataclass(frozen=True)
class FineTuning:
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
    steps: int = 150
    examples: int = 64
    """Examples of each task in one step."""
    optimizer: Literal["adamw", "sgd", "adafactor"] = "adamw"
    learning_rate: float = 3e-3
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup_steps: int = 10
    weight_decay: float = 0.01
    clip: float = 1.0
    """Largest norm of the gradient."""
    evaluate_every: int = 25
    patience: int = 0
    """Evaluations without improvement after which training stops early; 0: never. The best weights
    are restored in any case."""
    checkpoint_every: int = 50
    threads: int = 2
    """CPU threads; part of the configuration because sums depend on it."""
    seed: int = 7

    def __post_init__(self) -> None:
        """Refuse what cannot work together; ValueError says what to change."""
        if (self.method == "partial") != bool(self.layers):
            raise ValueError(
                f"method '{self.method}' with layers {list(self.layers)}: name layers for the "
                "method 'partial', and only for it"
            )

    @property
    def mechanics(self) -> TrainingConfig:
        """Return what the loop reads: what of it is called as in pre-training."""
        shared = {entry.name for entry in fields(TrainingConfig)} & asdict(self).keys()
        return TrainingConfig(**{name: getattr(self, name) for name in shared})

    def to_bytes(self) -> bytes:
        """Serialise as JSON."""
        return (json.dumps(asdict(self), indent=1, sort_keys=True) + "\n").encode()

    @classmethod
    def from_values(cls, values: dict[str, Any], *, where: str) -> FineTuning:
        """Change single values of the default; ValueError names an unknown key or value."""
        return replaced(cls(), values, where)


def load_fine_tuning(path: Path) -> FineTuning:
    """Read a YAML file; ValueError names an unknown key or value."""
    import yaml

    return FineTuning.from_values(yaml.safe_load(path.read_text()) or {}, where=str(path))
