"""The losses over the catalogue: their values against plain formulas, their sums in parts."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch.nn import functional

from seq_ml.encoder.data.batches import Queries
from seq_ml.encoder.data.history import REPEAT_FEATURES
from seq_ml.encoder.model.repeat import RepeatHead
from seq_ml.encoder.objectives import losses
from seq_ml.encoder.objectives.losses import (
    Negatives,
    Sampler,
    Targets,
    full_softmax,
    gbce,
    sampled_softmax,
)
from seq_ml.tokens.vocabulary import SPECIAL

ITEMS, DIM, QUESTIONS = 50, 8, 6
USERS = tuple(n**3 for n in range(1, ITEMS + 1))


class Catalogue(torch.nn.Module):
    """What the losses need of a model: item vectors, a bias, perhaps a repeat head."""

    def __init__(self, repeat: RepeatHead | None = None) -> None:
        super().__init__()
        self.table = torch.nn.Parameter(torch.randn(ITEMS, DIM))
        self.bias = torch.nn.Parameter(torch.randn(ITEMS))
        self.repeat = repeat
        self.popularity = torch.randn(ITEMS)

    def item_vectors(self, tokens=None):
        return self.table if tokens is None else self.table[tokens - SPECIAL]

    def repeat_logits(self, own_logits, queries):
        seen = torch.stack(
            [own_logits.detach(), self.popularity[queries.repeat_item - SPECIAL]], dim=1
        )
        return self.repeat(queries.repeat_features, seen)


@dataclass
class Batch:
    model: Catalogue
    states: torch.Tensor
    targets: Targets
    queries: Queries | None

    def logits(self) -> torch.Tensor:
        logits = self.states @ self.model.table.T + self.model.bias
        if self.queries is not None:
            own = (self.queries.repeat_query, self.queries.repeat_item - SPECIAL)
            logits = logits.index_put(own, self.model.repeat_logits(logits[own], self.queries))
        return logits


@pytest.fixture(params=[False, True], ids=["plain", "repeat head"])
def batch(request) -> Batch:
    torch.manual_seed(0)
    model = Catalogue(RepeatHead() if request.param else None)
    torch.nn.init.normal_(model.bias)
    states = torch.randn(QUESTIONS, DIM, requires_grad=True)
    targets = Targets(
        torch.tensor([0, 0, 1, 2, 3, 4, 4, 5]), torch.tensor([3, 7, 7, 0, 49, 1, 2, 9])
    )
    queries = None
    if request.param:
        nothing = torch.zeros(QUESTIONS, dtype=torch.long)
        queries = Queries(
            nothing,
            nothing,
            nothing,
            repeat_query=torch.tensor([0, 0, 2, 5]),
            repeat_item=torch.tensor([7, 9, 11, 9]) + SPECIAL,
            repeat_features=torch.randn(4, REPEAT_FEATURES),
            target_query=targets.question,
            target_item=targets.item + SPECIAL,
        )
    return Batch(model, states, targets, queries)


def by_hand(batch: Batch) -> torch.Tensor:
    """Mean over questions of the mean cross-entropy over its right items."""
    chances = functional.log_softmax(batch.logits(), dim=1)
    each = []
    for question in range(QUESTIONS):
        right = batch.targets.item[batch.targets.question == question]
        each.append(-chances[question, right].mean())
    return torch.stack(each).mean()


def gradients(batch: Batch, loss: torch.Tensor) -> list[torch.Tensor]:
    return list(torch.autograd.grad(loss, [batch.states, batch.model.table, batch.model.bias]))


def test_full_softmax_is_the_cross_entropy(batch):
    loss = full_softmax(batch.model, batch.states, batch.targets, batch.queries)
    torch.testing.assert_close(loss, by_hand(batch))


def test_chunks_change_neither_loss_nor_gradient(batch, monkeypatch):
    whole = full_softmax(batch.model, batch.states, batch.targets, batch.queries)
    expected = gradients(batch, whole)
    monkeypatch.setattr(losses, "LOGITS_AT_ONCE", 2 * ITEMS)
    chunked = full_softmax(batch.model, batch.states, batch.targets, batch.queries)
    torch.testing.assert_close(chunked, whole)
    for one, other in zip(gradients(batch, chunked), expected, strict=True):
        torch.testing.assert_close(one, other)


def test_the_log_q_correction_estimates_the_full_sum(batch):
    """With many negatives the estimate of the sum, and so the loss, is the full one."""
    sampler = Sampler(USERS, 200_000, even=False)
    negatives = sampler.draw(np.random.default_rng(1), torch.device("cpu"))
    found = sampled_softmax(batch.model, batch.states, batch.targets, batch.queries, negatives)
    torch.testing.assert_close(found, by_hand(batch), rtol=0.01, atol=0.0)
    evenly = replace(negatives, log_count=torch.full((200_000,), math.log(200_000 / ITEMS)))
    wrong = sampled_softmax(batch.model, batch.states, batch.targets, batch.queries, evenly)
    assert abs(wrong - by_hand(batch)) > 0.05


def test_negatives_come_by_popularity_or_evenly():
    random = np.random.default_rng(0)
    popular = Sampler(USERS, 50_000, even=False).draw(random, torch.device("cpu")).item
    even = Sampler(USERS, 50_000, even=True).draw(random, torch.device("cpu")).item
    expected = (np.array(USERS) + 0.5) ** losses.POPULARITY_POWER
    seen = np.bincount(popular.numpy(), minlength=ITEMS) / 50_000
    np.testing.assert_allclose(seen, expected / expected.sum(), atol=0.004)
    np.testing.assert_allclose(
        np.bincount(even.numpy(), minlength=ITEMS) / 50_000, 0.02, atol=0.004
    )


def test_gbce_is_binary_cross_entropy_at_zero_and_softer_above(batch):
    sampler = Sampler(USERS, 16, even=True)
    negatives = sampler.draw(np.random.default_rng(3), torch.device("cpu"))
    plain = gbce(batch.model, batch.states, batch.targets, negatives, 0.0)
    scores = batch.states @ batch.model.table.T + batch.model.bias
    expected = []
    for question in range(QUESTIONS):
        right = batch.targets.item[batch.targets.question == question]
        wrong = [i for i in negatives.item.tolist() if i not in right.tolist()]
        pull = -functional.logsigmoid(scores[question, right]).mean()
        expected.append(pull - functional.logsigmoid(-scores[question, wrong]).sum())
    torch.testing.assert_close(plain, torch.stack(expected).mean())
    assert gbce(batch.model, batch.states, batch.targets, negatives, 0.9) < plain


def test_the_sampled_softmax_learns_what_the_full_one_learns(batch):
    """With every item a negative the sum is the full one: equal gradients, but for the chance."""
    negatives = Negatives(torch.arange(ITEMS), torch.zeros(ITEMS))
    found = sampled_softmax(batch.model, batch.states, batch.targets, batch.queries, negatives)
    whole = full_softmax(batch.model, batch.states, batch.targets, batch.queries)
    torch.testing.assert_close(found, whole)
    for one, other in zip(gradients(batch, found), gradients(batch, whole), strict=True):
        torch.testing.assert_close(one, other)
