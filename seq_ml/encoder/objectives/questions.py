"""The pre-training tasks: what is asked of a batch of windows, and what the right answer is.

- next_event: at every event, the item of the very next one (SASRec, Kang and McAuley 2018). For
  logs whose order means something.
- next_basket: at some instants, the set of items of the coming days. For shops where people buy
  several things at once.
- masked_item: single hidden items, read from both sides (BERT4Rec, Sun et al. 2019).
- masked_span: a hidden run of events, read from both sides: the context around a visit tells it.

Each step draws one of them by its weight. Only the asked positions reach the softmax.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from seq_ml.encoder.config import objective_weights
from seq_ml.encoder.data.batches import (
    Events,
    Queries,
    Window,
    interest_mask,
    make_queries,
    mask_items,
    mask_span,
    next_targets,
    sample_instants,
)
from seq_ml.encoder.objectives.losses import Sampler, Targets, full_softmax, gbce, sampled_softmax
from seq_ml.tokens.vocabulary import SPECIAL

if TYPE_CHECKING:
    from collections.abc import Sequence

    from seq_ml.encoder.config import EncoderConfig
    from seq_ml.encoder.model.behaviour import BehaviourModel
    from seq_ml.tokens.vocabulary import Tokens, Vocabulary


class NothingToLearnError(ValueError):
    """Nothing could ever be asked of these events; the message says what they lack."""


def check_answers(parts: Sequence[Tokens], config: EncoderConfig, vocabulary: Vocabulary) -> None:
    """Raise NothingToLearnError where no event of any user could answer a question.

    parts: of all users.  One look at every event, before minutes of training are spent.
    """
    wanted = interest_mask(vocabulary, config.model.interest)
    named = masked = False
    for tokens in parts:
        known = tokens.item >= SPECIAL
        first = np.repeat(tokens.time[tokens.offset[:-1]], tokens.lengths)
        named |= bool((known & wanted[tokens.behaviour] & (tokens.time > first)).any())
        masked |= bool(known.any())
    foreseeing = objective_weights(config.training).keys() - MASKS.keys()
    if named if foreseeing else masked:
        return
    if not masked:
        raise NothingToLearnError(
            f"No event names an item that {config.min_users} users had to do with: the encoder "
            "learns from items."
        )
    raise NothingToLearnError(
        "No item is named by something that users did after their first event and that counts as "
        f"interest ({', '.join(config.model.interest)}): the encoder learns to foresee these items."
    )


@dataclass(frozen=True)
class Question:
    """One task's questions to a batch of windows.

    rows, positions: i64 [questions], where they are asked (hidden events for the masked tasks).
    targets: the right items.  queries: only of next_basket.
    """

    task: str
    events: Events
    rows: torch.Tensor
    positions: torch.Tensor
    targets: Targets
    queries: Queries | None = None

    def __len__(self) -> int:
        """Return the number of questions."""
        return len(self.rows)


class Objectives:
    """Asks and judges, as the configuration says."""

    def __init__(self, config: EncoderConfig, vocabulary: Vocabulary) -> None:
        self.config = config
        self.settings = config.training
        self.vocabulary = vocabulary
        self.interesting = interest_mask(vocabulary, config.model.interest)
        self.weights = objective_weights(config.training)
        self.sampler = Sampler(
            vocabulary.users, config.training.negatives, even=config.training.loss == "gbce"
        )

    def draw(self, random: np.random.Generator) -> str:
        """Draw a task by its weight."""
        share = np.array(list(self.weights.values()))
        return str(random.choice(list(self.weights), p=share / share.sum()))

    def ask(
        self, task: str, windows: Sequence[Window], events: Events, random: np.random.Generator
    ) -> Question:
        """Ask one task about some windows; a question may be empty."""
        if task == "next_basket":
            instants = sample_instants(windows, self.settings.queries, random)
            return self.ask_at(windows, events, instants)
        if task == "next_event":
            rows, positions = next_targets(events, self.interesting)
            items = events.item[rows, positions + 1]
        else:
            settings = self.settings
            hide = MASKS[task]
            rows, positions = hide(events, settings.masked, settings.mask_share, random)
            items = events.item[rows, positions]
        targets = Targets(torch.arange(len(rows)), items - SPECIAL)
        return Question(task, events, rows, positions, targets)

    def ask_at(
        self, windows: Sequence[Window], events: Events, instants: Sequence[np.ndarray]
    ) -> Question:
        """Ask for the items of the days after given instants (seconds) of each window."""
        queries = make_queries(
            windows,
            instants,
            self.vocabulary,
            self.interesting,
            horizon_days=self.settings.horizon_days,
        )
        targets = Targets(queries.target_query, queries.target_item - SPECIAL)
        return Question("next_basket", events, queries.row, queries.position, targets, queries)

    def states(self, model: BehaviourModel, question: Question) -> torch.Tensor:
        """Vectors at the questions, f32 [questions, dim]."""
        if question.queries is not None:
            return model.user_states(question.events, question.queries)
        if question.task == "next_event":
            states = model.states_at(
                question.events, question.rows, question.positions, causal=True
            )
            return model.answers(states, torch.zeros_like(question.rows))
        return model.masked_states(question.events, question.rows, question.positions)

    def loss(
        self,
        model: BehaviourModel,
        question: Question,
        random: np.random.Generator | None = None,
    ) -> torch.Tensor:
        """Mean loss (nats) over the questions; without `random` the exact one, over all items."""
        states = self.states(model, question)
        if random is None or self.settings.loss == "full":
            return full_softmax(model, states, question.targets, question.queries)
        negatives = self.sampler.draw(random, states.device)
        if self.settings.loss == "sampled":
            return sampled_softmax(model, states, question.targets, question.queries, negatives)
        return gbce(model, states, question.targets, negatives, self.settings.gbce_t)


MASKS = {"masked_item": mask_items, "masked_span": mask_span}
