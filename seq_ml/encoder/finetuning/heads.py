"""What a task asks of the encoder: a yes or no from the user vector, or the items that come.

Items need no head of their own: they are scored by the encoder's tied scores, and its repeat head
learns with the task.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from seq_ml.encoder.finetuning.examples import BinaryExamples, Examples, ItemExamples
from seq_ml.encoder.objectives.losses import Targets
from seq_ml.encoder.objectives.questions import Objectives, Question
from seq_ml.tokens.vocabulary import SPECIAL

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from seq_ml.encoder.model.behaviour import BehaviourModel
    from seq_ml.encoder.scoring.encoder import Encoder

GAIN = 8.0
"""Factor of what a head reads: it starts from nothing and must learn faster than the encoder below
it (equalised learning rate, Karras et al. 2018)."""


class BinaryHead(nn.Module):
    """Logit of a yes, from the user vector; starts at the base rate."""

    def __init__(self, dim: int, base_rate: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim, elementwise_affine=False)
        self.linear = nn.Linear(dim, 1)
        nn.init.zeros_(self.linear.weight)
        nn.init.constant_(self.linear.bias, float(np.log(base_rate / (1 - base_rate))))

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """Return logits f32 [users] of user vectors [users, dim]."""
        return self.linear(GAIN * self.norm(states)).squeeze(-1)


class TunedModel(nn.Module):
    """An encoder's model with the heads of its tasks."""

    def __init__(self, model: BehaviourModel, heads: dict[str, BinaryHead]) -> None:
        super().__init__()
        self.model = model
        self.heads = nn.ModuleDict(heads)


@dataclass(frozen=True)
class Batch:
    """What is asked at the origins of some examples, and the labels f32 of a yes or no."""

    question: Question
    label: torch.Tensor | None

    def __len__(self) -> int:
        """Return the number of examples."""
        return len(self.question.rows)


class Asker:
    """Turns examples into batches, and batches into losses."""

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder
        self.objectives = Objectives(encoder.config, encoder.vocabulary)

    def ask(self, examples: Examples, chosen: NDArray[np.int64]) -> Batch:
        """Read some of the examples."""
        context = self.encoder.config.model.context
        windows = [examples.window(number, context) for number in chosen.tolist()]
        events, queries = self.encoder.ask(windows, examples.instant[chosen])
        targets = _targets(examples, chosen)
        question = Question("next_basket", events, queries.row, queries.position, targets, queries)
        label = None
        if isinstance(examples, BinaryExamples):
            label = torch.from_numpy(examples.label[chosen])
        return Batch(question, label)

    def loss(
        self,
        tuned: TunedModel,
        name: str,
        batch: Batch,
        random: np.random.Generator | None = None,
    ) -> torch.Tensor:
        """Mean loss (nats) of a task over a batch; without `random` that of items is exact."""
        states = self.objectives.states(tuned.model, batch.question)
        if batch.label is None:
            return self.objectives.of_items(tuned.model, states, batch.question, random)
        logits = tuned.heads[name](states)
        return functional.binary_cross_entropy_with_logits(logits, batch.label)


def kind_of(examples: Examples) -> str:
    """Return "binary" or "items"."""
    return "items" if isinstance(examples, ItemExamples) else "binary"


def _targets(examples: Examples, chosen: NDArray[np.int64]) -> Targets:
    """Return the items that came after some examples; none where they were not asked for."""
    if not isinstance(examples, ItemExamples):
        return Targets(*torch.empty((2, 0), dtype=torch.int64))
    begin, end = examples.item_offset[chosen], examples.item_offset[chosen + 1]
    items = [examples.items[first:last] for first, last in zip(begin, end, strict=True)]
    question = torch.from_numpy(np.repeat(np.arange(len(chosen)), end - begin))
    return Targets(question, torch.from_numpy(np.concatenate(items)) - SPECIAL)
