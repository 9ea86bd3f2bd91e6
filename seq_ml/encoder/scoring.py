"""Use a trained encoder: user vectors and item scores at an instant.

`Encoder` is the `SequenceModel` that the tasks read (`seq_ml.tasks.task`).
"""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
import torch
from safetensors.torch import load_file

from seq_ml.encoder.batches import (
    Window,
    collate,
    interest_mask,
    make_queries,
    to_device,
)
from seq_ml.encoder.config import EncoderConfig, objective_weights
from seq_ml.encoder.memory import return_freed_blocks
from seq_ml.encoder.model import BehaviourModel
from seq_ml.encoder.texts import ItemTexts
from seq_ml.sequences.build import build_sequences
from seq_ml.tokens.shards import length_buckets
from seq_ml.tokens.vocabulary import Vocabulary

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from seq_ml.encoder.batches import Queries
    from seq_ml.tokens.vocabulary import Tokens

BATCH_TOKENS = 16_384
BATCH_USERS = 256


class Encoder:
    """A trained encoder. It never sees an event at or after the `as_of` it is asked about."""

    def __init__(
        self,
        model: BehaviourModel,
        vocabulary: Vocabulary,
        config: EncoderConfig,
        *,
        version: str,
        fitted_before: datetime,
    ) -> None:
        self.model = model.eval()
        self.vocabulary = vocabulary
        self.config = config
        self.version = version
        self.fitted_before = fitted_before
        # a model that only ever asked for the next event knows no time of the question
        self._knows_time = "next_basket" in objective_weights(config.training)
        self._item_tokens = np.array(
            [i for i, (kind, _) in enumerate(vocabulary.tokens) if kind == "item"], dtype=np.int64
        )
        self._item_ids = [vocabulary.tokens[i][1] for i in self._item_tokens]

    @classmethod
    def load(cls, folder: Path) -> Encoder:
        """Load what `pretrain` wrote; FileNotFoundError when the training is not complete."""
        return_freed_blocks()
        training = json.loads((folder / "training.json").read_text())
        config = EncoderConfig.from_bytes((folder / "config.json").read_bytes())
        vocabulary = Vocabulary.from_bytes((folder / "vocabulary.json").read_bytes())
        model = BehaviourModel(config.model, vocabulary, ItemTexts.load(folder))
        model.load_state_dict(load_file(folder / "model.safetensors"))
        return cls(
            model.to("cuda" if torch.cuda.is_available() else "cpu"),
            vocabulary,
            config,
            version=training["training_id"],
            fitted_before=datetime.fromisoformat(training["fitted_before"]),
        )

    def user_embeddings(
        self, events: pl.LazyFrame, as_of: datetime
    ) -> tuple[list[str], NDArray[np.float32]]:
        """Ids of all users with an event before `as_of`, sorted, and vectors f32 [users, dim]."""
        sequences = build_sequences(
            events, as_of=as_of, max_events=self.config.max_events, shards=1
        )
        return self.embed(sequences, as_of)

    def embed(
        self, sequences: pl.DataFrame, as_of: datetime
    ) -> tuple[list[str], NDArray[np.float32]]:
        """Ids and vectors f32 [users, dim] of users whose sequences end before `as_of`."""
        tokens = self.vocabulary.encode(sequences)
        vectors = np.zeros((len(tokens.user), self.config.model.dim), dtype=np.float32)
        for rows, states, _ in self._states(tokens, as_of):
            vectors[rows] = states.cpu().numpy()
        return tokens.user_ids, vectors

    def item_scores(
        self, events: pl.LazyFrame, as_of: datetime, user_ids: Sequence[str]
    ) -> tuple[list[str], NDArray[np.float32]]:
        """Item ids and logits f32 [users, items]; zeros for a user without events."""
        wanted = events.filter(pl.col("user_id").is_in(list(user_ids)))
        sequences = build_sequences(
            wanted, as_of=as_of, max_events=self.config.max_events, shards=1
        )
        tokens = self.vocabulary.encode(sequences)
        row_of = {user: row for row, user in enumerate(user_ids)}
        place = np.array([row_of[user] for user in tokens.user_ids], dtype=np.int64)
        scores = np.zeros((len(user_ids), len(self._item_ids)), dtype=np.float32)
        chosen = torch.from_numpy(self._item_tokens).to(self.model.bias.device)
        for rows, states, queries in self._states(tokens, as_of):
            with torch.inference_mode():
                logits = self.model.query_logits(states, queries)
            scores[place[rows]] = logits[:, chosen].cpu().numpy()
        return self._item_ids, scores

    def item_embeddings(self) -> tuple[list[str], NDArray[np.float32]]:
        """Ids of the items with a token of their own and their vectors f32 [items, dim]."""
        with torch.inference_mode():
            vectors = self.model.item_vectors().cpu().numpy()
        return self._item_ids, vectors[self._item_tokens]

    def _states(
        self, tokens: Tokens, as_of: datetime
    ) -> Iterator[tuple[NDArray[np.int64], torch.Tensor, Queries]]:
        """Yield rows, user states at `as_of` and queries, in batches of similar length."""
        interesting = interest_mask(self.vocabulary, self.config.model.interest)
        lengths = np.minimum(tokens.lengths, self.config.model.context)
        # an event in the last second before as_of counts as before it, whatever its fraction
        instant = np.array([int(np.ceil(as_of.timestamp()))])
        for rows in length_buckets(lengths, max_tokens=BATCH_TOKENS, max_rows=BATCH_USERS):
            windows = [
                Window(tokens, row, int(tokens.offset[row + 1] - lengths[row]),
                       int(tokens.offset[row + 1]))
                for row in rows.tolist()
            ]  # fmt: skip
            queries = make_queries(windows, [instant] * len(windows), self.vocabulary, interesting)
            if not self._knows_time:
                queries = replace(queries, gap=torch.zeros_like(queries.gap))
            device = self.model.bias.device
            queries = to_device(queries, device)
            with torch.inference_mode():
                states = self.model.user_states(to_device(collate(windows), device), queries)
            yield rows, states, queries
