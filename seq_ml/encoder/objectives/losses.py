"""Losses over the catalogue: softmax over all items, over sampled ones, and gBCE.

A question (a row of states) has one or several right items. Each right item of a question weighs
the same, each question weighs the same. Items are numbered from SPECIAL on (token − SPECIAL).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn import functional

from seq_ml.tokens.vocabulary import SPECIAL

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from seq_ml.encoder.data.batches import Queries
    from seq_ml.encoder.model.behaviour import BehaviourModel

LOGITS_AT_ONCE = 1 << 25
"""Logits that one chunk of the full softmax holds (128 MiB)."""
PAIRS_AT_ONCE = 1 << 14
"""Pairs whose vectors are multiplied at once where no gradient is needed."""
POPULARITY_POWER = 0.75
"""Negatives are drawn in proportion to users ** power (word2vec, Mikolov et al. 2013)."""


@dataclass(frozen=True)
class Targets:
    """Right items: question i64 [targets], ascending, and item i64 [targets], distinct in each."""

    question: torch.Tensor
    item: torch.Tensor


def full_softmax(
    model: BehaviourModel, states: torch.Tensor, targets: Targets, queries: Queries | None
) -> torch.Tensor:
    """Cross-entropy (nats) against all items, averaged over questions.

    states: f32 [questions, dim].  queries: what the repeat head reads, None without it.
    """
    count, vectors = len(states), model.item_vectors()
    weight = _target_weights(targets, count)
    rows = max(1, LOGITS_AT_ONCE // len(vectors))
    total = states.new_zeros((), dtype=torch.float32)
    for start in range(0, count, rows):
        part, part_weight, own = targets, weight, queries
        if count > rows:
            chosen = (targets.question >= start) & (targets.question < start + rows)
            part = Targets(targets.question[chosen] - start, targets.item[chosen])
            part_weight = weight[chosen]
            own = None if queries is None else _rows(queries, start, start + rows)
        asked = states[start : start + rows]
        with torch.no_grad():
            logits = functional.linear(asked, vectors, model.bias).float()
        own_question = own_item = own_logits = None
        if own is not None and model.repeat is not None:
            own_question, own_item = own.repeat_query, own.repeat_item - SPECIAL
            own_logits = model.repeat_logits(logits[own_question, own_item], own)
        own_pairs = (own_logits, own_question, own_item)
        total = total + _Softmax.apply(  # type: ignore[no-untyped-call]
            asked, vectors, model.bias, *own_pairs, part, part_weight, logits
        )
    return total / max(count, 1)


class _Softmax(torch.autograd.Function):
    """Sum over questions of log-sum-exp minus the mean logit of the right items.

    The gradient (softmax − right items) is made in the place of the logits and multiplied out at
    once, so that a chunk's logits exist a single time and not until the backward pass (Wijmans et
    al. 2024, Cut Your Losses). Plain operations hold about five such arrays.
    """

    @staticmethod
    def forward(
        ctx: Any,
        states: torch.Tensor,
        vectors: torch.Tensor,
        bias: torch.Tensor,  # noqa: ARG004
        own_logits: torch.Tensor | None,
        own_question: torch.Tensor | None,
        own_item: torch.Tensor | None,
        targets: Targets,
        weight: torch.Tensor,
        logits: torch.Tensor,
    ) -> torch.Tensor:
        """logits: f32 [questions, items] of states and vectors, written over; own: replaced."""
        if own_logits is not None:
            logits[own_question, own_item] = own_logits.detach().to(logits.dtype)
        hits = (logits[targets.question, targets.item] * weight).sum()
        top = logits.amax(dim=1, keepdim=True)
        share = logits.sub_(top).exp_()
        number = share.sum(dim=1, keepdim=True)
        loss = (top + number.log()).sum() - hits
        if any(ctx.needs_input_grad):
            share.div_(number)
            share[targets.question, targets.item] -= weight
            of_own = None
            if own_logits is not None:
                of_own = share[own_question, own_item].to(own_logits.dtype)
                share[own_question, own_item] = 0.0
            gradients = (share @ vectors, share.T @ states, share.sum(0), of_own)
            ctx.save_for_backward(*gradients)
        return loss

    @staticmethod
    def backward(ctx: Any, scale: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Scale what the forward pass found."""
        gradients = (None if part is None else part * scale for part in ctx.saved_tensors)
        return (*gradients, None, None, None, None, None)


@dataclass(frozen=True)
class Negatives:
    """Items drawn for a batch: item i64 [negatives]; log of the expected count of each."""

    item: torch.Tensor
    log_count: torch.Tensor


class Sampler:
    """Draws negatives: by popularity for the sampled softmax, evenly for gBCE."""

    def __init__(self, users: tuple[int, ...], number: int, *, even: bool) -> None:
        weight = np.ones(len(users)) if even else (np.array(users) + 0.5) ** POPULARITY_POWER
        self.share: NDArray[np.float64] = weight / weight.sum()
        behind = np.array(users, dtype=np.float64) + 0.5
        self.popularity: NDArray[np.float64] = behind / behind.sum()
        self.bounds = np.cumsum(self.share)
        self.number = number

    def draw(self, random: np.random.Generator, device: torch.device) -> Negatives:
        """Draw with replacement."""
        chosen = np.searchsorted(self.bounds[:-1], random.random(self.number), side="right")
        log_count = np.log(self.number * self.share[chosen]).astype(np.float32)
        return Negatives(
            torch.from_numpy(chosen).to(device), torch.from_numpy(log_count).to(device)
        )


def sampled_softmax(
    model: BehaviourModel,
    states: torch.Tensor,
    targets: Targets,
    queries: Queries | None,
    negatives: Negatives,
) -> torch.Tensor:
    """Cross-entropy (nats) against an estimate of the full sum, averaged over questions.

    The right items and the user's own items enter exactly; all others through the negatives, each
    divided by its expected count (log-Q correction; Bengio and Senécal 2008, Yi et al. 2019).
    """
    count, items = len(states), len(model.bias)
    # what is scored exactly: right items and own ones, with the repeat head's word on these
    exact = _exact_pairs(targets, queries, items)
    place = _places(exact, targets, items)
    if queries is None or model.repeat is None:
        logits = _pair_logits(model, states, exact)
    else:
        logits = _with_repeat_head(model, states, exact, queries)
    others = _negative_logits(model, states, exact, negatives) - negatives.log_count
    # the largest logit of a question is taken out of its sum, so that no exponential overflows
    top = torch.maximum(
        torch.full((count,), float("-inf"), device=states.device).scatter_reduce(
            0, exact.question, logits.detach(), "amax"
        ),
        others.detach().amax(dim=1),
    )
    total = torch.exp(others - top[:, None]).sum(1)
    total = total.index_add(0, exact.question, torch.exp(logits - top[exact.question]))
    hits = (logits[place] * _target_weights(targets, count)).sum()
    return ((top + torch.log(total)).sum() - hits) / max(count, 1)


def gbce(
    model: BehaviourModel,
    states: torch.Tensor,
    targets: Targets,
    negatives: Negatives,
    calibration: float,
) -> torch.Tensor:
    """Generalised binary cross-entropy (gSASRec, Petrov and Macdonald 2023), mean over questions.

    Right items count σ(s) ** β with β = α (t (1 − 1/α) + 1/α) and α the share of items that is
    sampled: t = 0 is plain BCE, t = 1 makes σ the probability that a softmax would learn.
    """
    count = len(states)
    alpha = min(1.0, len(negatives.item) / max(1, len(model.bias) - 1))
    beta = alpha * (calibration * (1 - 1 / alpha) + 1 / alpha)
    right = _pair_logits(model, states, targets)
    wrong = _negative_logits(model, states, targets, negatives)
    pull = (functional.logsigmoid(right) * _target_weights(targets, count)).sum()
    return (functional.softplus(wrong).sum() - beta * pull) / max(count, 1)


def _pair_logits(model: BehaviourModel, states: torch.Tensor, pairs: Targets) -> torch.Tensor:
    """Logits f32 [pairs]."""
    vectors = model.item_vectors(pairs.item + SPECIAL)
    return (states[pairs.question] * vectors).sum(1) + model.bias[pairs.item]


def _with_repeat_head(
    model: BehaviourModel, states: torch.Tensor, pairs: Targets, queries: Queries
) -> torch.Tensor:
    """Logits f32 [pairs], those of own items by the repeat head; pairs: sorted, all own among them.

    The repeat head only reads the encoder's score: own pairs, nearly all there are, have no
    gradient there, and none is prepared.
    """
    own = Targets(queries.repeat_query, queries.repeat_item - SPECIAL)
    mine = _places(pairs, own, len(model.bias))
    others = torch.ones(len(pairs.item), dtype=torch.bool, device=states.device)
    others[mine] = False
    learning = Targets(pairs.question[others], pairs.item[others])
    read = torch.empty(len(own.item), device=states.device)
    with torch.no_grad():
        for start in range(0, len(read), PAIRS_AT_ONCE):
            part = slice(start, start + PAIRS_AT_ONCE)
            read[part] = _pair_logits(model, states, Targets(own.question[part], own.item[part]))
    logits = torch.empty(len(pairs.item), device=states.device)
    logits = logits.index_put((others,), _pair_logits(model, states, learning))
    return logits.index_put((mine,), model.repeat_logits(read, queries))


def _negative_logits(
    model: BehaviourModel, states: torch.Tensor, exact: Targets, negatives: Negatives
) -> torch.Tensor:
    """Logits f32 [questions, negatives], −inf where a negative is scored exactly already."""
    vectors = model.item_vectors(negatives.item + SPECIAL)
    logits = functional.linear(states, vectors, model.bias[negatives.item])
    return logits.masked_fill(_accidental(exact, negatives, len(states)), float("-inf"))


def _target_weights(targets: Targets, count: int) -> torch.Tensor:
    """One over the number of right items of the question, f32 [targets]."""
    number = torch.bincount(targets.question, minlength=count).float()
    return 1.0 / number[targets.question]


def _rows(queries: Queries, start: int, stop: int) -> Queries:
    """Return what the repeat head reads of the questions start … stop."""
    mine = (queries.repeat_query >= start) & (queries.repeat_query < stop)
    return replace(
        queries,
        repeat_query=queries.repeat_query[mine] - start,
        repeat_item=queries.repeat_item[mine],
        repeat_features=queries.repeat_features[mine],
    )


def _exact_pairs(targets: Targets, queries: Queries | None, items: int) -> Targets:
    """Distinct (question, item) pairs that are scored exactly, sorted."""
    keys = targets.question * items + targets.item
    if queries is not None:
        own = queries.repeat_query * items + (queries.repeat_item - SPECIAL)
        keys = torch.cat([keys, own])
    keys = torch.unique(keys)
    return Targets(keys // items, keys % items)


def _places(pairs: Targets, wanted: Targets, items: int) -> torch.Tensor:
    """Place of each wanted pair in sorted `pairs`."""
    return torch.searchsorted(
        pairs.question * items + pairs.item, wanted.question * items + wanted.item
    )


def _accidental(pairs: Targets, negatives: Negatives, count: int) -> torch.Tensor:
    """Which negatives are scored exactly already, bool [questions, negatives]."""
    order = torch.argsort(negatives.item, stable=True)
    ranked = negatives.item[order]
    first = torch.searchsorted(ranked, pairs.item, side="left")
    number = torch.searchsorted(ranked, pairs.item, side="right") - first
    question = torch.repeat_interleave(pairs.question, number)
    begin = torch.repeat_interleave(first - (torch.cumsum(number, 0) - number), number)
    place = begin + torch.arange(len(question), device=question.device)
    scored = torch.zeros(count, len(ranked), dtype=torch.bool, device=question.device)
    scored[question, order[place]] = True
    return scored
