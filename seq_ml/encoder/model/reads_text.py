"""A pretrained language model as backbone: it reads the behaviour as text.

The newest events of a window become one token sequence, such as

    [CLS] 3 days later purchase: apple sauce, 50 oz, private, mid price; … 7 days later next: [SEP]

Behaviour and gap are said once for a run of events of one instant and kind. Mean hidden states of
an event's tokens, projected, are added to the event's own embedding (M6-Rec, Cui et al. 2022, and
Recformer, Li et al. 2023, read behaviour so). A window is put together by gathering numbers: every
phrase is tokenised once, when the model is made.

It reads from both sides and is asked by a tick at the end. The shipped model reads about 30
events in 256 tokens and costs about a hundred times the transformer of `small` (measured, one core:
0.07 s to read a window, 0.4 s to learn from it): give it few windows and queries, or a GPU.
"""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from seq_ml.language.text_model import load_language, load_tokenizer
from seq_ml.tokens.vocabulary import DAY, HOUR

if TYPE_CHECKING:
    from seq_ml.encoder.config import ModelConfig
    from seq_ml.encoder.data.batches import Events
    from seq_ml.encoder.data.texts import ItemTexts
    from seq_ml.tokens.vocabulary import Vocabulary

MOST_TOKENS = 256
"""Tokens of a window's text; its newest events are read, as many as fit."""
MOST_ITEM_TOKENS = 12
TOKENS_AT_ONCE = 4_096
"""Tokens that are read at a time; in training each part is read again in the backward pass."""
PRICES = ("very cheap", "cheap", "mid price", "expensive", "very expensive")


class Sentences(NamedTuple):
    """Texts of some windows as numbers, padded on the right.

    token, event: i64 [windows, tokens], event being the one that the token tells of, -1 for none.
    length: i64 [windows], tokens without padding.
    """

    token: torch.Tensor
    event: torch.Tensor
    length: torch.Tensor


class LanguageBackbone(nn.Module):
    """A `BackboneModule` around a Hugging Face model (`language`), which is trained along.

    texts: of the vocabulary's items; their `source` names the model. Events that do not fit into
    the text keep their own embedding alone.  Raises ValueError when the model cannot be loaded.
    """

    causal = False

    def __init__(self, config: ModelConfig, vocabulary: Vocabulary, texts: ItemTexts) -> None:
        super().__init__()
        if not texts.source:
            raise ValueError(
                "The item texts name no language model to start from: make them with "
                "make_item_texts, or set `source`"
            )
        self.language: Any = load_language(texts.source)
        if getattr(self.language, "pooler", None) is not None:
            self.language.pooler = None  # reads the first token for a task of its own
        shape = self.language.config
        self.most_tokens = min(
            MOST_TOKENS, getattr(shape, "max_position_embeddings", None) or MOST_TOKENS
        )
        tokenizer = load_tokenizer(texts.source)
        items = ["", tokenizer.mask_token or "?", "something", "", "", *texts.texts]
        end = [] if "price" in config.fields else _tokens(tokenizer, ";")
        tables = {
            "gap": [_tokens(tokenizer, words) for words in _gaps(vocabulary)],
            "behaviour": [_tokens(tokenizer, words) for words in _behaviours(vocabulary)],
            "item": [_tokens(tokenizer, text)[:MOST_ITEM_TOKENS] + end for text in items],
            "price": [_tokens(tokenizer, words) for words in _prices(vocabulary)],
        }
        self.parts = [name for name in tables if name == "item" or name in config.fields]
        self.first = {}
        phrases: list[list[int]] = [[]]  # phrase 0 says nothing
        for name in self.parts:
            self.first[name] = len(phrases)
            phrases += tables[name]
        length = torch.tensor([len(phrase) for phrase in phrases])
        self.length = nn.Buffer(length, persistent=False)
        self.begin = nn.Buffer(length.cumsum(0) - length, persistent=False)
        self.words = nn.Buffer(torch.tensor(list(chain(*phrases))), persistent=False)
        self.open = [n for n in (tokenizer.cls_token_id,) if n is not None]
        self.close = [n for n in (tokenizer.sep_token_id,) if n is not None]
        self.padding = tokenizer.pad_token_id or 0
        self.project = nn.Linear(shape.hidden_size, config.dim)
        self.norm = nn.RMSNorm(config.dim)

    def forward(
        self,
        events: Events,
        embedded: torch.Tensor,
        valid: torch.Tensor,
        *,
        causal: bool,  # noqa: ARG002
    ) -> torch.Tensor:
        """See `BackboneModule`; the language model reads both ways, whatever `causal` says."""
        sentences = self.sentences(events, valid)
        rows = max(1, TOKENS_AT_ONCE // sentences.token.shape[1])
        parts = []
        for start in range(0, len(valid), rows):
            part = Sentences(*(tensor[start : start + rows] for tensor in sentences))
            if torch.is_grad_enabled() and rows < len(valid):
                read = checkpoint(self._read, part, valid.shape[1], use_reentrant=False)
            else:
                read = self._read(part, valid.shape[1])
            parts.append(read)
        return self.norm(embedded + torch.cat(parts))

    def sentences(self, events: Events, valid: torch.Tensor) -> Sentences:
        """Put the phrases of each window's newest events together."""
        windows, longest = valid.shape
        device = valid.device
        # behaviour and gap are said where they change, item and price of every event
        told = torch.ones_like(valid)
        told[:, 1:] = events.step.diff(dim=1) != 0
        told[:, 1:] |= events.behaviour.diff(dim=1) != 0
        columns = []
        for name in self.parts:
            phrase = getattr(events, name) + self.first[name]
            columns.append(phrase if name in ("item", "price") else torch.where(told, phrase, 0))
        # the newest events whose phrases fit together into the text
        phrases = torch.stack(columns, dim=2)
        length = torch.where(valid[..., None], self.length[phrases], 0)
        size = length.sum(2)
        room = self.most_tokens - len(self.open) - len(self.close)
        fits = size.flip(1).cumsum(1).flip(1) <= room
        length = torch.where(fits[..., None], length, 0).flatten(1)
        count = length.sum(1)

        # for each word: its window, its column there, its phrase and its place in that
        row = torch.repeat_interleave(torch.arange(windows, device=device), count)
        place = torch.arange(len(row), device=device)
        column = place - torch.repeat_interleave(count.cumsum(0) - count, count) + len(self.open)
        length = length.flatten()
        number = torch.repeat_interleave(torch.arange(len(length), device=device), length)
        within = place - (length.cumsum(0) - length)[number]
        word = self.words[self.begin[phrases.flatten()[number]] + within]

        width = int(count.max()) + len(self.open) + len(self.close)
        token = torch.full((windows, width), self.padding, device=device)
        event = torch.full((windows, width), -1, device=device)
        token[row, column] = word
        event[row, column] = number // len(self.parts) % longest
        for at, mark in enumerate(self.open):
            token[:, at] = mark
        for at, mark in enumerate(self.close):
            token[torch.arange(windows, device=device), count + len(self.open) + at] = mark
        return Sentences(token, event, count + len(self.open) + len(self.close))

    def _read(self, sentences: Sentences, events: int) -> torch.Tensor:
        """Projected mean hidden states of each event's tokens, f32 [windows, events, dim]."""
        token, event, total = sentences
        place = torch.arange(token.shape[1], device=token.device)
        mask = (place < total[:, None]).long()
        states = self.language(input_ids=token, attention_mask=mask).last_hidden_state
        belongs = event[:, None, :] == torch.arange(events, device=token.device)[None, :, None]
        share = belongs / belongs.sum(2, keepdim=True).clamp(min=1)
        pooled = torch.bmm(share.to(states.dtype), states)
        projected: torch.Tensor = self.project(pooled)
        return projected * belongs.any(2, keepdim=True)


def _tokens(tokenizer: Any, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"] if text else []


def _behaviours(vocabulary: Vocabulary) -> list[str]:
    """Words of the behaviour ids; 0 is that of the tick that asks."""
    return ["next:", *(f"{name.replace('_', ' ')}:" for name in vocabulary.behaviours)]


def _gaps(vocabulary: Vocabulary) -> list[str]:
    """Words of the gap buckets; nothing for an unknown one."""
    words = ["", "at once"]
    for edge in vocabulary.gap_edges:
        for size, name in ((DAY, "day"), (HOUR, "hour"), (60, "minute"), (1, "second")):
            if edge >= size:
                number = edge // size
                words.append(f"{number} {name}{'s' if number > 1 else ''} later")
                break
    return words


def _prices(vocabulary: Vocabulary) -> list[str]:
    """Words of the price bands, in five levels, none for an unknown one; they end an event."""
    bands = len(vocabulary.price_edges) + 1
    return [";", *(f", {PRICES[len(PRICES) * band // bands]};" for band in range(bands))]
