"""The pre-training tasks: what is asked of a batch of windows, and what the right answer is.

- next_basket: at ticks and after baskets, the set of items of the coming days; and at ticks when
  the user converts next, how often and for how much. One causal pass, all answers at once.
- next_event: at every event, the item of the very next one (SASRec, Kang and McAuley 2018). For
  logs whose order means something.
- masked_item: single hidden items, read from both sides (BERT4Rec, Sun et al. 2019).
- masked_span: a hidden run of events, read from both sides: the context around a visit tells it.

Each step draws one of them by its weight. Only the asked positions reach the losses.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from seq_ml.encoder.config import objective_weights
from seq_ml.encoder.data.batches import (
    Events,
    Queries,
    collate,
    conversions_of,
    following_events,
    make_queries,
    mask_items,
    mask_of,
    mask_span,
    next_targets,
)
from seq_ml.encoder.data.moments import (
    Moments,
    moments_at,
    training_moments,
)
from seq_ml.encoder.objectives.losses import Sampler, Targets, full_softmax, gbce, sampled_softmax
from seq_ml.tokens.vocabulary import SPECIAL

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from seq_ml.encoder.config import EncoderConfig
    from seq_ml.encoder.data.outcomes import Outcomes
    from seq_ml.encoder.data.windows import Window
    from seq_ml.encoder.model.behaviour import BehaviourModel
    from seq_ml.tokens.vocabulary import Tokens, Vocabulary


class NothingToLearnError(ValueError):
    """Nothing could ever be asked of these events; the message says what they lack."""


def check_answers(parts: Sequence[Tokens], config: EncoderConfig, vocabulary: Vocabulary) -> None:
    """Raise NothingToLearnError where no event of any user could answer a question.

    parts: of all users.  One look at every event, before minutes of training are spent.
    """
    wanted = mask_of(vocabulary, config.model.interest)
    converts = mask_of(vocabulary, config.model.conversions)
    named = masked = converted = False
    for tokens in parts:
        known = tokens.item >= SPECIAL
        first = np.repeat(tokens.time[tokens.offset[:-1]], tokens.lengths)
        named |= bool((known & wanted[tokens.behaviour] & (tokens.time > first)).any())
        masked |= bool(known.any())
        converted |= bool((converts[tokens.behaviour] & (tokens.time > first)).any())
    tasks = objective_weights(config.training).keys()
    foreseeing = tasks - MASKS.keys()
    if (named if foreseeing else masked) or (converted and "next_basket" in tasks):
        return
    if not masked:
        raise NothingToLearnError(
            f"No event names an item that {config.min_users} users had to do with, and nobody "
            f"came back for a {config.model.conversions[0]}: the encoder learns from these."
        )
    raise NothingToLearnError(
        "No item is named by something that users did after their first event and that counts as "
        f"interest ({', '.join(config.model.interest)}): the encoder learns to foresee these items."
    )


@dataclass(frozen=True)
class Foreseen:
    """What came, to be foreseen beside the items.

    query: i64 [ticks], the queries that are ticks; outcomes: of these.  row, position: i64
    [baskets], events; following: i64 [baskets, 2], behaviour and gap of the next one.
    """

    query: torch.Tensor
    outcomes: Outcomes
    row: torch.Tensor
    position: torch.Tensor
    following: torch.Tensor


@dataclass(frozen=True)
class Question:
    """One task's questions to a batch of windows.

    rows, positions: i64 [questions], where they are asked (hidden events for the masked tasks).
    targets: the right items.  Only of next_basket: queries, whose `answered` the targets are of,
    and what is foreseen.
    """

    task: str
    events: Events
    rows: torch.Tensor
    positions: torch.Tensor
    targets: Targets
    queries: Queries | None = None
    foreseen: Foreseen | None = None

    @property
    def counts(self) -> dict[str, int]:
        """How many answers each loss of the task is the mean of."""
        asked = len(self.rows) if self.queries is None else len(self.queries.answered)
        counts = {self.task: asked}
        if self.foreseen is not None:
            closed = int(self.foreseen.outcomes.closed.sum())
            waits = int((self.foreseen.outcomes.seen > 0).sum())
            baskets = len(self.foreseen.row)
            counts |= {"wait": waits, "counts": closed, "spend": closed, "following": baskets}
        return {name: count for name, count in counts.items() if count}


class Objectives:
    """Asks and judges, as the configuration says."""

    def __init__(
        self, config: EncoderConfig, vocabulary: Vocabulary, *, until: int | None = None
    ) -> None:
        """until: the cut-off (seconds) of the events, where what users did is asked, too."""
        self.config = config
        self.settings = config.training
        self.interesting = mask_of(vocabulary, config.model.interest)
        self.converts = mask_of(vocabulary, config.model.conversions)
        self.weights = objective_weights(config.training)
        self.until = until
        self.sampler = Sampler(
            vocabulary.users, config.training.negatives, even=config.training.loss == "gbce"
        )
        # a forecast counts beside the items as if both were told in units of a constant's loss
        surprise = -float((self.sampler.popularity * np.log(self.sampler.popularity)).sum())
        foreseen = self.weights.get("next_basket", 0.0) * max(surprise, 1.0)
        self.shares = self.weights | {
            part: foreseen * getattr(config.training, part)
            for part in ("wait", "counts", "spend", "following")
        }
        """Weight of each loss."""

    def draw(self, random: np.random.Generator) -> str:
        """Draw a task by its weight."""
        share = np.array(list(self.weights.values()))
        return str(random.choice(list(self.weights), p=share / share.sum()))

    def ask(
        self,
        task: str,
        windows: Sequence[Window],
        random: np.random.Generator,
        change: Callable[[Events], Events] = lambda events: events,
    ) -> Question:
        """Ask one task about some windows; a question may be empty.

        change: what is done to the events before they are asked about.
        """
        settings = self.settings
        if task == "next_basket":
            assert self.until is not None, "without a cut-off ask at an instant: ask_at"
            ticks, moments = training_moments(
                windows,
                self.until,
                context=self.config.model.context,
                items=settings.queries,
                causal=self.config.model.backbone in CAUSAL,
                random=random,
            )
            return self._foresee(windows, change(collate(windows, ticks)), moments)
        events = change(collate(windows))
        if task == "next_event":
            rows, positions = next_targets(events, self.interesting)
            items = events.item[rows, positions + 1]
        else:
            rows, positions = MASKS[task](events, settings.masked, settings.mask_share, random)
            items = events.item[rows, positions]
        targets = Targets(torch.arange(len(rows)), items - SPECIAL)
        return Question(task, events, rows, positions, targets)

    def ask_at(self, windows: Sequence[Window], instant: int) -> Question:
        """Ask for the items of the days after an instant (seconds).

        Every window has an event before it and none from it on.
        """
        instants = np.full(len(windows), instant)
        ticks, moments = moments_at(windows, instants, most=self.config.model.context)
        return self._foresee(windows, collate(windows, ticks), moments)

    def outcomes(self, windows: Sequence[Window], moments: Moments, until: int) -> Outcomes:
        """Tell what the users of windows did after moments, as far as it was known at `until`."""
        conversions = conversions_of(windows, self.converts)
        return conversions.outcomes(moments.row, moments.instant, until)

    def _foresee(self, windows: Sequence[Window], events: Events, moments: Moments) -> Question:
        queries = make_queries(
            windows, moments, self.interesting, horizon_days=self.settings.horizon_days
        )
        targets = Targets(queries.target_query, queries.target_item - SPECIAL)
        question = Question("next_basket", events, queries.row, queries.position, targets, queries)
        if self.until is None:
            return question
        row, position, following = following_events(events)
        if self.config.model.backbone not in CAUSAL:  # it would read what follows
            row, position, following = row[:0], position[:0], following[:0]
        ticks = torch.from_numpy(np.flatnonzero(moments.tick))
        outcomes = self.outcomes(windows, moments.of(moments.tick), self.until)
        return replace(question, foreseen=Foreseen(ticks, outcomes, row, position, following))

    def states(self, model: BehaviourModel, question: Question) -> torch.Tensor:
        """Vectors at the questions, f32 [questions, dim]."""
        if question.queries is not None:
            return model.user_states(question.events, question.queries)
        if question.task == "next_event":
            return model.answers(
                model.states_at(question.events, question.rows, question.positions, causal=True)
            )
        return model.masked_states(question.events, question.rows, question.positions)

    def losses(
        self,
        model: BehaviourModel,
        question: Question,
        random: np.random.Generator | None = None,
    ) -> dict[str, torch.Tensor]:
        """Mean loss of each of `question.counts`; of items exact, over all, without `random`.

        Those of items are in nats, those of forecasts in units of what is true of everybody.
        """
        losses, counts, foreseen = {}, question.counts, question.foreseen
        if foreseen is not None and "following" in counts:
            asked = [question.rows, foreseen.row], [question.positions, foreseen.position]
            read = model.states_at(question.events, *map(torch.cat, asked), causal=True)
            states, before = model.answers(read[: len(question.rows)]), read[len(question.rows) :]
            losses["following"] = model.following.loss(before, foreseen.following)
        else:
            states = self.states(model, question)
        if question.task in counts:
            chosen = states if question.queries is None else states[question.queries.answered]
            losses[question.task] = self.of_items(model, chosen, question, random)
        if foreseen is not None and "wait" in counts:
            told = model.forecast.losses(states[foreseen.query], foreseen.outcomes)
            losses |= {part: loss for part, loss in told.items() if part in counts}
        return losses

    def of_items(
        self,
        model: BehaviourModel,
        states: torch.Tensor,
        question: Question,
        random: np.random.Generator | None = None,
    ) -> torch.Tensor:
        """Mean loss (nats) of the right items, given the states f32 [answered, dim]."""
        if random is None or self.settings.loss == "full":
            return full_softmax(model, states, question.targets, question.queries)
        negatives = self.sampler.draw(random, states.device)
        if self.settings.loss == "sampled":
            return sampled_softmax(model, states, question.targets, question.queries, negatives)
        return gbce(model, states, question.targets, negatives, self.settings.gbce_t)


MASKS = {"masked_item": mask_items, "masked_span": mask_span}
CAUSAL = ("causal", "lstm", "gru")
"""Backbones that read causally: all moments of a window in one pass."""
