"""The two pre-training tasks, both as full softmax over all items.

Only the queried and the hidden positions reach the softmax, so that the logits of a batch stay at
windows × queries (or × masked) rows, whatever the length of the windows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from seq_ml.tokens.vocabulary import SPECIAL

if TYPE_CHECKING:
    from seq_ml.encoder.batches import Events, Queries
    from seq_ml.encoder.model import BehaviourModel


def next_item_loss(model: BehaviourModel, events: Events, queries: Queries) -> torch.Tensor:
    """Cross-entropy (nats) against the set of items that came, averaged over queries.

    Each distinct item of a query's targets weighs the same, and each query weighs the same.
    """
    logits = model.query_logits(model.user_states(events, queries), queries)
    hits = logits[queries.target_query, queries.target_item - SPECIAL]
    per_query = torch.bincount(queries.target_query, minlength=len(logits)).float()
    expected = (hits / per_query[queries.target_query]).sum() / len(logits)
    return torch.logsumexp(logits, dim=1).mean() - expected


def masked_item_loss(
    model: BehaviourModel, events: Events, rows: torch.Tensor, positions: torch.Tensor
) -> torch.Tensor:
    """Cross-entropy (nats) of the hidden items, read from both sides, averaged over positions."""
    logits = model.masked_logits(events, rows, positions)
    return functional.cross_entropy(logits, events.item[rows, positions] - SPECIAL)
