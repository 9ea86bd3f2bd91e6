"""The encoder: event embeddings, a transformer over them, tied item scores, a repeat head.

The transformer is a Llama of `transformers` (pre-norm, rotary positions, SDPA attention) that reads
embeddings instead of token ids. Positions count baskets, not events, because the order inside a
basket is arbitrary. The same weights read causally (next item) or both ways (masked item).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional
from transformers import LlamaConfig, LlamaModel

from seq_ml.encoder.batches import REPEAT_FEATURES, SLOW_COUNT, Events, Queries, valid
from seq_ml.tokens.vocabulary import MASK, SPECIAL, Vocabulary

if TYPE_CHECKING:
    from seq_ml.encoder.config import ModelConfig


class BehaviourModel(nn.Module):
    """Scores of all items given a user's events.

    Item scores are tied to the input embeddings (item + category) and start from the logarithm of
    the number of users behind each item: before training, popularity ranks what is new to a user.
    """

    def __init__(self, config: ModelConfig, vocabulary: Vocabulary) -> None:
        super().__init__()
        dim = config.dim
        self.dim = dim
        self.item = nn.Embedding(len(vocabulary), dim)
        self.category = nn.Embedding(len(vocabulary.categories) + 1, dim)
        self.behaviour = nn.Embedding(len(vocabulary.behaviours) + 1, dim)
        self.gap = nn.Embedding(len(vocabulary.gap_edges) + 2, dim)
        self.price = nn.Embedding(len(vocabulary.price_edges) + 2, dim)
        self.quantity = nn.Embedding(len(vocabulary.quantity_edges) + 2, dim)
        self.hour = nn.Embedding(24, dim)
        self.weekday = nn.Embedding(7, dim)
        self.backbone = LlamaModel(
            LlamaConfig(
                vocab_size=1,
                hidden_size=dim,
                intermediate_size=config.feed_forward,
                num_hidden_layers=config.layers,
                num_attention_heads=config.heads,
                use_cache=False,
                bos_token_id=None,  # the defaults 1 and 2 are item tokens here
                eos_token_id=None,
                pad_token_id=None,
                attn_implementation="sdpa",
            )
        )
        self.backbone.embed_tokens = None  # events are embedded here
        self.query_gap = nn.Embedding(len(vocabulary.gap_edges) + 2, dim)
        self.query = nn.Sequential(nn.Linear(dim, dim), nn.GELU(), nn.Linear(dim, dim))
        self.unmask = nn.Linear(dim, dim)
        self.dropout = nn.Dropout(config.dropout)
        self.repeat = RepeatHead() if config.repeat_head else None
        for module in (*self.children(), *self.query):
            if isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
        users = torch.tensor(vocabulary.users, dtype=torch.float32)
        popularity = torch.log((users + 0.5) / (users + 0.5).sum())
        self.bias = nn.Parameter(popularity.clone())
        self.popularity: torch.Tensor
        self.register_buffer("popularity", popularity, persistent=False)
        self.item_category: torch.Tensor
        self.register_buffer(
            "item_category", torch.from_numpy(vocabulary.token_categories), persistent=False
        )

    def forward(self, events: Events, *, causal: bool) -> torch.Tensor:
        """Contextual vectors f32 [windows, events, dim]; those of padding mean nothing."""
        embedded = (
            self.item(events.item)
            + self.category(self.item_category[events.item])
            + self.behaviour(events.behaviour)
            + self.gap(events.gap)
            + self.price(events.price)
            + self.quantity(events.quantity)
            + self.hour(events.hour)
            + self.weekday(events.weekday)
        ) * self.dim**0.5
        output: torch.Tensor = self.backbone(
            inputs_embeds=self.dropout(embedded),
            attention_mask=attention_mask(valid(events), causal=causal),
            position_ids=events.step,
        ).last_hidden_state
        return output

    def user_states(self, events: Events, queries: Queries) -> torch.Tensor:
        """Vectors of the users at the instants of the queries, f32 [queries, dim]."""
        states = self(events, causal=True)[queries.row, queries.position]
        states = states + self.query_gap(queries.gap) * self.dim**0.5
        answers: torch.Tensor = states + self.query(self.dropout(states))
        return answers

    def item_vectors(self) -> torch.Tensor:
        """Vectors of the tokens from SPECIAL on, f32 [tokens, dim]."""
        categories: torch.Tensor = self.category(self.item_category[SPECIAL:])
        return self.item.weight[SPECIAL:] + categories

    def query_logits(self, states: torch.Tensor, queries: Queries) -> torch.Tensor:
        """Logits that a token from SPECIAL on comes next, f32 [queries, tokens]."""
        vectors = self.item_vectors()
        logits = functional.linear(states, vectors, self.bias)
        if self.repeat is not None:
            own = (queries.repeat_query, queries.repeat_item - SPECIAL)
            seen = torch.stack([logits[own].detach(), self.popularity[own[1]]], dim=1)
            logits = logits.index_put(own, self.repeat(queries.repeat_features, seen))
        return logits

    def masked_logits(
        self, events: Events, rows: torch.Tensor, positions: torch.Tensor
    ) -> torch.Tensor:
        """Logits of the items hidden at (rows, positions), f32 [positions, tokens].

        Price, which would betray the item, is hidden with it.
        """
        item, price = events.item.clone(), events.price.clone()
        item[rows, positions] = MASK
        price[rows, positions] = 0
        hidden = replace(events, item=item, price=price)
        states = self.unmask(self(hidden, causal=False)[rows, positions])
        return functional.linear(states, self.item_vectors(), self.bias)


class RepeatHead(nn.Module):
    """The score of the items in a user's own history: people buy again what they bought.

    A small network over decayed counts, recency and rhythm of the item, its popularity and the
    transformer's score. It starts as the slowly decayed count, the strongest simple baseline. The
    transformer's score is only read, never trained from here: vectors that may learn who buys what
    again learn it by heart (measured on an earlier month: NDCG@10 0.413 so, 0.432 as it is).
    """

    def __init__(self, inner: int = 32) -> None:
        super().__init__()
        self.direct = nn.Linear(REPEAT_FEATURES + 2, 1)
        self.inner = nn.Linear(REPEAT_FEATURES + 2, inner)
        self.outer = nn.Linear(inner, 1, bias=False)
        nn.init.zeros_(self.outer.weight)
        nn.init.zeros_(self.direct.weight)
        nn.init.constant_(self.direct.weight[0, SLOW_COUNT], 1.0)
        nn.init.constant_(self.direct.bias, -5.0)  # about the logarithm of one item's probability

    def forward(self, features: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
        """Return logits f32 [pairs]; features [pairs, REPEAT_FEATURES], seen [pairs, 2]."""
        read = torch.cat([features, seen], dim=1)
        learnt = self.outer(functional.gelu(self.inner(read)))
        score: torch.Tensor = (self.direct(read) + learnt).squeeze(1)
        return score


def attention_mask(valid: torch.Tensor, *, causal: bool) -> torch.Tensor:
    """Who may look at whom, bool [windows, 1, events, events]; nobody looks at padding.

    A padding position looks at itself, because a softmax over nothing is NaN.
    """
    length = valid.shape[1]
    itself = torch.eye(length, dtype=torch.bool, device=valid.device)
    allowed = valid[:, None, :].expand(-1, length, -1)
    if causal:
        allowed = allowed & torch.ones_like(itself).tril()
    return (allowed | itself)[:, None]
