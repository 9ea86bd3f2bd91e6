"""The encoder: event embeddings, a backbone over them, and heads: items, own items, forecasts.

What comes next is asked causally, hidden items from both sides, with the same weights. A backbone
that only reads both ways is asked by the last tick of what it may see.
"""

from __future__ import annotations

from dataclasses import fields, replace
from typing import TYPE_CHECKING, cast

import torch
from torch import nn
from torch.nn import functional

from seq_ml.encoder.data.batches import Events, Queries, valid
from seq_ml.encoder.model.backbones import BackboneModule, Recurrent, Transformer
from seq_ml.encoder.model.following import FollowingHead
from seq_ml.encoder.model.forecast import ForecastHead
from seq_ml.encoder.model.repeat import RepeatHead
from seq_ml.tokens.vocabulary import MASK, SPECIAL, TICK, Vocabulary

if TYPE_CHECKING:
    from seq_ml.encoder.config import ModelConfig
    from seq_ml.encoder.data.texts import ItemTexts


NEARBY = 2
"""Events before each one that are mixed into it before the backbone reads."""


class BehaviourModel(nn.Module):
    """Scores of all items given a user's events.

    Item scores are tied to the input embeddings (item + category + text) and start from the
    logarithm of the number of users behind each item: before training, popularity ranks what is new
    to a user.

    Raises ValueError when the configuration reads texts and none are given.
    """

    def __init__(
        self, config: ModelConfig, vocabulary: Vocabulary, texts: ItemTexts | None = None
    ) -> None:
        super().__init__()
        dim = config.dim
        self.dim = dim
        self.id_dropout = config.id_dropout
        self.item = nn.Embedding(len(vocabulary), dim)
        sizes = {
            "category": len(vocabulary.categories) + 1,
            "behaviour": len(vocabulary.behaviours) + 1,
            "gap": len(vocabulary.gap_edges) + 2,
            "price": len(vocabulary.price_edges) + 2,
            "quantity": len(vocabulary.quantity_edges) + 2,
            "hour": 24,
            "weekday": 7,
        }
        self.fields = nn.ModuleDict(
            {name: nn.Embedding(sizes[name], dim) for name in config.fields}
        )
        self.text: nn.Linear | None = None
        if config.text:
            if texts is None:
                raise ValueError("The encoder reads item texts (model.text): give it the texts")
            self.text = nn.Linear(texts.vectors.shape[1], dim, bias=False)
            padded = functional.pad(torch.from_numpy(texts.vectors), (0, 0, SPECIAL, 0))
            self.text_vectors = nn.Buffer(padded, persistent=False)
        self.nearby = nn.Parameter(torch.zeros(NEARBY, dim))
        self.backbone: BackboneModule = _backbone(config, vocabulary, texts)
        self.query = nn.Sequential(nn.Linear(dim, dim), nn.GELU(), nn.Linear(dim, dim))
        self.unmask = nn.Linear(dim, dim)
        self.dropout = nn.Dropout(config.dropout)
        self.repeat = RepeatHead() if config.repeat_head else None
        self.forecast = ForecastHead(dim)
        self.following = FollowingHead(dim, sizes["behaviour"], sizes["gap"])
        for table in self.tables():
            nn.init.normal_(table.weight, std=0.02)
        with torch.no_grad():
            self.item.weight[TICK] = 0.0  # a tick is what it reads
        users = torch.tensor(vocabulary.users, dtype=torch.float32)
        popularity = torch.log((users + 0.5) / (users + 0.5).sum())
        self.bias = nn.Parameter(popularity.clone())
        self.popularity = nn.Buffer(popularity, persistent=False)
        category = torch.from_numpy(vocabulary.token_categories)
        self.item_category = nn.Buffer(category, persistent=False)
        described = category > 0
        if self.text is not None:
            described = described | self.text_vectors.any(dim=1)
        self.described = nn.Buffer(described, persistent=False)

    def tables(self) -> list[nn.Embedding]:
        """Embedding tables of what an event is made of."""
        return [self.item, *cast("list[nn.Embedding]", list(self.fields.values()))]

    def forward(self, events: Events, *, causal: bool) -> torch.Tensor:
        """Contextual vectors f32 [windows, events, dim]; those of padding mean nothing."""
        return self.backbone(events, self.embed(events), valid(events), causal=causal)

    def states_at(
        self, events: Events, rows: torch.Tensor, positions: torch.Tensor, *, causal: bool
    ) -> torch.Tensor:
        """Contextual vectors at some positions, f32 [positions, dim]."""
        states: torch.Tensor
        if isinstance(self.backbone, Transformer):
            states = self.backbone(
                events, self.embed(events), valid(events), causal=causal, asked=(rows, positions)
            )
        else:
            states = self(events, causal=causal)[rows, positions]
        return states

    def embed(self, events: Events) -> torch.Tensor:
        """Vectors of the events, f32 [windows, events, dim], before they meet each other."""
        embedded = self.item_vectors(events.item)
        happened = (events.item != TICK)[..., None]
        for name, table in self.fields.items():
            if name == "gap":  # all that a tick has
                embedded = embedded + table(events.gap)
            elif name != "category":  # is part of the item's vector
                embedded = embedded + table(getattr(events, name)) * happened
        near = [
            share * functional.pad(embedded, (0, 0, back, -back))
            for back, share in enumerate(self.nearby, start=1)
        ]
        return self.dropout((embedded + sum(near)) * self.dim**0.5)

    def user_states(self, events: Events, queries: Queries) -> torch.Tensor:
        """Vectors of the users at the instants of the queries, f32 [queries, dim]."""
        row, position = queries.row, queries.position
        if not self.backbone.causal:
            events, row = until_question(events, queries), torch.arange(len(row)).to(row.device)
        return self.answers(self.states_at(events, row, position, causal=self.backbone.causal))

    def answers(self, states: torch.Tensor) -> torch.Tensor:
        """Turn states [queries, dim] into user vectors."""
        return states + self.query(self.dropout(states))

    def item_vectors(self, tokens: torch.Tensor | None = None) -> torch.Tensor:
        """Vectors of item tokens (i64, any shape), f32 [..., dim]; of all from SPECIAL on without.

        In training, a share `id_dropout` of them is seen by category and text alone.
        """
        chosen = slice(SPECIAL, None) if tokens is None else tokens
        vectors = self.item.weight[SPECIAL:] if tokens is None else self.item(tokens)
        category = self.item_category[chosen]
        if self.training and self.id_dropout:
            chance = torch.rand(category.shape, device=category.device)
            hidden_id = self.described[chosen] & (chance < self.id_dropout)
            vectors = vectors.masked_fill(hidden_id[..., None], 0.0)
        if "category" in self.fields:
            vectors = vectors + self.fields["category"](category)
        if self.text is not None:
            vectors = vectors + self.text(self.text_vectors[chosen])
        return vectors

    def repeat_logits(self, own_logits: torch.Tensor, queries: Queries) -> torch.Tensor:
        """Logits of the repeat head for the own items, f32 [pairs], given the encoder's."""
        if self.repeat is None:
            return own_logits
        seen = torch.stack(
            [own_logits.detach(), self.popularity[queries.repeat_item - SPECIAL]], dim=1
        )
        return self.repeat(queries.repeat_features, seen)

    def masked_states(
        self, events: Events, rows: torch.Tensor, positions: torch.Tensor
    ) -> torch.Tensor:
        """Vectors at hidden positions (rows, positions), f32 [positions, dim], from both sides."""
        states = self.states_at(hidden(events, rows, positions), rows, positions, causal=False)
        return self.unmask(states)


def hidden(events: Events, rows: torch.Tensor, positions: torch.Tensor) -> Events:
    """Return events whose items at (rows, positions) are hidden; the price would betray them."""
    item, price = events.item.clone(), events.price.clone()
    item[rows, positions] = MASK
    price[rows, positions] = 0
    return replace(events, item=item, price=price)


def until_question(events: Events, queries: Queries) -> Events:
    """One row per query: what comes up to the position that asks."""
    place = torch.arange(int(queries.position.max()) + 1, device=queries.row.device)
    last = queries.position[:, None]
    taken, seen = torch.minimum(place[None, :], last), place <= last
    columns = {}
    for entry in fields(events):
        values = getattr(events, entry.name)[queries.row[:, None], taken]
        columns[entry.name] = torch.where(seen, values, 0)
    return Events(**columns)


def _backbone(
    config: ModelConfig, vocabulary: Vocabulary, texts: ItemTexts | None
) -> BackboneModule:
    if config.backbone in ("lstm", "gru"):
        return Recurrent(config)
    if config.backbone == "language":
        from seq_ml.encoder.model.reads_text import LanguageBackbone

        if texts is None:
            raise ValueError("The language backbone reads item texts: give it the texts")
        return LanguageBackbone(config, vocabulary, texts)
    return Transformer(config, causal=config.backbone == "causal")
