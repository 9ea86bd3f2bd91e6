"""Use a trained encoder: user vectors and item scores at an instant.

`Encoder` is the `SequenceModel` that the tasks read (`seq_ml.tasks.task`).
"""

from __future__ import annotations

import json
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
import torch
from safetensors.torch import load_file

from seq_ml.encoder.config import EncoderConfig, objective_weights
from seq_ml.encoder.data.batches import collate, make_queries, mask_of, to_device
from seq_ml.encoder.data.moments import after_last, moments_at
from seq_ml.encoder.data.texts import ItemTexts
from seq_ml.encoder.data.windows import Window
from seq_ml.encoder.memory import return_freed_blocks
from seq_ml.encoder.model.behaviour import BehaviourModel
from seq_ml.encoder.model.forecast import Forecasts
from seq_ml.encoder.scoring.ann import ApproximateSearch
from seq_ml.encoder.scoring.catalogue import Catalogue, Own
from seq_ml.encoder.scoring.topk import TopItems, all_scores, best_items
from seq_ml.sequences.build import build_sequences
from seq_ml.tokens.shards import length_buckets
from seq_ml.tokens.vocabulary import EVENT_FIELDS, SPECIAL, Vocabulary

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from seq_ml.encoder.data.batches import Events, Queries
    from seq_ml.encoder.scoring.catalogue import ColdItems
    from seq_ml.tokens.vocabulary import Tokens

BATCH_TOKENS = {"cpu": 4096, "cuda": 65_536}
"""Events that are read at once: on a CPU so few that they stay in its cache."""
BATCH_USERS = 256
USERS_AT_ONCE = 1024
"""Users whose best items are found at once: the catalogue is gone through once for them."""
EVENTS_AT_ONCE = 4_000_000
"""Events whose sequences are built at once."""
PAIRS_AT_ONCE = 1 << 14
"""Pairs of users and own items whose vectors are multiplied at once."""


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
        # a model that only ever asked for the next event knows no ticks
        self._knows_ticks = "next_basket" in objective_weights(config.training)
        self._interesting = mask_of(vocabulary, config.model.interest)
        self._item_tokens = np.array(
            [i for i, (kind, _) in enumerate(vocabulary.tokens) if kind == "item"], dtype=np.int64
        )
        self._item_ids = [vocabulary.tokens[i][1] for i in self._item_tokens]

    @classmethod
    def load(cls, folder: Path) -> Encoder:
        """Load what `pretrain` wrote; FileNotFoundError when the training is not complete.

        From here on the process computes on as many threads as the training did; `item_scores`
        alone on one.
        """
        return_freed_blocks()
        training = json.loads((folder / "training.json").read_text())
        config = EncoderConfig.from_bytes((folder / "config.json").read_bytes())
        torch.set_num_threads(config.training.threads)
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
        parts = [self.embed(part, as_of) for part in self.sequences(events, as_of)]
        empty = np.empty((0, self.config.model.dim), dtype=np.float32)
        return (
            [user for users, _ in parts for user in users],
            np.concatenate([empty, *(vectors for _, vectors in parts)]),
        )

    def embed(
        self, sequences: pl.DataFrame | Tokens, as_of: datetime
    ) -> tuple[list[str], NDArray[np.float32]]:
        """Ids of users with an event before `as_of`, in order, and vectors f32 [users, dim].

        sequences: schema USER_SEQUENCES, or token arrays of this vocabulary.
        """
        tokens, users = self._active(sequences, as_of)
        vectors = np.empty((len(users), self.config.model.dim), dtype=np.float32)
        for rows, states, _ in self._states(tokens, as_of, users):
            vectors[np.searchsorted(users, rows)] = states.cpu().numpy()
        return _pseudonyms(tokens, users), vectors

    def forecasts(self, sequences: pl.DataFrame | Tokens, as_of: datetime) -> Forecasts | None:
        """Foresee what each user with an event before `as_of` does from then on.

        sequences: as in `embed`, users in the same order.  None where the encoder learnt from no
        conversion.
        """
        wait, counts, spend = (self.model.forecast.scale > 0).tolist()
        if not (wait and counts):
            return None
        users, vectors = self.embed(sequences, as_of)
        states = torch.from_numpy(vectors).to(self.model.bias.device)
        with torch.inference_mode():
            return Forecasts.of(users, self.model.forecast(states), prices=spend)

    def item_scores(
        self, events: pl.LazyFrame, as_of: datetime, user_ids: Sequence[str]
    ) -> tuple[list[str], NDArray[np.float32]]:
        """Item ids and logits f32 [users, items]; zeros for a user without events.

        The whole matrix is held: for many users or items ask for `top_items`.
        """
        row_of = {user: row for row, user in enumerate(user_ids)}
        catalogue = self.catalogue()
        scores = np.zeros((len(user_ids), len(self._item_ids)), dtype=np.float32)
        tokens = self.tokens(events.filter(pl.col("user_id").is_in(list(user_ids))), as_of)
        with _one_thread():
            for users, states, own in self.read_users([tokens], as_of, catalogue):
                scores[[row_of[user] for user in users]] = all_scores(catalogue, states, own)
        return self._item_ids, scores

    def top_items(
        self,
        parts: Iterable[pl.DataFrame | Tokens],
        as_of: datetime,
        *,
        k: int,
        filter_seen: bool = False,
        deny: Sequence[str] = (),
        cold: ColdItems | None = None,
        approximate: bool = False,
    ) -> Iterator[TopItems]:
        """Yield the k best items of the whole catalogue for each user, some users at a time.

        parts: sequences (schema USER_SEQUENCES) such as `read_by_shard` yields, or token arrays of
        this vocabulary such as `read_shards` returns; events at or after `as_of` are not read.
        Users come in the order of the parts; one without events does not come: the caller falls
        back.  filter_seen: leave out the items that the user showed interest in before.  deny: ids
        of items that nobody gets.  cold: items without a token that compete with the others.
        approximate: search with an index where it finds 99 % of the exact lists (`ann`), which
        pays from about a million items on; ImportError without faiss.

        What is held depends on neither the number of users nor that of items, beside the
        catalogue's vectors. Equal scores are ranked by the order of the vocabulary, then of `cold`.
        """
        catalogue = self.catalogue()
        if cold is not None:
            catalogue = catalogue.with_more(cold.item_ids, cold.vectors, cold.bias)
        catalogue = catalogue.without(deny)
        search = ApproximateSearch(catalogue) if approximate else best_items
        for users, states, own in self.read_users(parts, as_of, catalogue):
            pairs = own.never() if filter_seen else own
            if cold is not None:
                pairs = Own.concat([pairs, cold.copies(states, own, catalogue)])
            places, scores = search(catalogue, states, pairs, k)
            yield TopItems(users, places, scores, catalogue)

    def read_users(
        self, parts: Iterable[pl.DataFrame | Tokens], as_of: datetime, catalogue: Catalogue
    ) -> Iterator[tuple[list[str], torch.Tensor, Own]]:
        """Yield ids, vectors f32 [users, dim] and own items of some users at a time.

        parts: as in `top_items`.
        """
        for part in parts:
            tokens, active = self._active(part, as_of)
            for start in range(0, len(active), USERS_AT_ONCE):
                users = active[start : start + USERS_AT_ONCE]
                states = torch.empty((len(users), self.config.model.dim))
                states = states.to(self.model.bias.device)
                owns = []
                for rows, vectors, queries in self._states(tokens, as_of, users):
                    place = torch.from_numpy(np.searchsorted(users, rows)).to(states.device)
                    states[place] = vectors
                    own = self._own(catalogue, vectors, queries)
                    owns.append(replace(own, user=place[own.user]))
                yield _pseudonyms(tokens, users), states, Own.concat(owns)

    def catalogue(self) -> Catalogue:
        """Return the items with a token of their own; the vectors are made anew in each call."""
        device = self.model.bias.device
        tokens = torch.from_numpy(self._item_tokens).to(device)
        place_of_token = torch.full((len(self.vocabulary),), -1, device=device)
        place_of_token[tokens + SPECIAL] = torch.arange(len(tokens), device=device)
        with torch.inference_mode():
            vectors = self.model.item_vectors(tokens + SPECIAL)
            bias = self.model.bias[tokens]
        return Catalogue(self._item_ids, vectors, bias, place_of_token)

    def item_embeddings(self) -> tuple[list[str], NDArray[np.float32]]:
        """Ids of the items with a token of their own and their vectors f32 [items, dim]."""
        return self._item_ids, self.catalogue().vectors.cpu().numpy()

    def tokens(self, events: pl.LazyFrame, as_of: datetime) -> Tokens:
        """Events (schema EVENTS) of all users before `as_of`, in the encoder's vocabulary."""
        return self.vocabulary.encode(self._sequences(events, as_of))

    def sequences(self, events: pl.LazyFrame, as_of: datetime) -> Iterator[pl.DataFrame]:
        """Build the sequences of some users at a time, in the order of their pseudonyms."""
        number = events.filter(pl.col("event_time") < as_of).select(pl.len()).collect().item()
        parts = min(256, -(-number // EVENTS_AT_ONCE))
        cuts = [f"{256 * part // parts:02x}" for part in range(parts)] + ["g"]
        for first, after in pairwise(cuts):
            mine = pl.col("user_id").is_between(pl.lit(first), pl.lit(after), closed="left")
            some = events.filter(mine) if parts > 1 else events
            yield self._sequences(some, as_of)

    def _sequences(self, events: pl.LazyFrame, as_of: datetime) -> pl.DataFrame:
        return build_sequences(events, as_of=as_of, max_events=self.config.max_events, shards=1)

    def ask(self, windows: Sequence[Window], instants: NDArray[np.int64]) -> tuple[Events, Queries]:
        """Read windows and ask what comes after an instant of each, seconds i64 [windows]."""
        if self._knows_ticks:
            ticks, moments = moments_at(windows, instants, most=self.config.model.context)
        else:
            ticks, moments = None, after_last(windows, instants)
        return collate(windows, ticks), make_queries(windows, moments, self._interesting)

    def _active(
        self, part: pl.DataFrame | Tokens, as_of: datetime
    ) -> tuple[Tokens, NDArray[np.int64]]:
        """Events before `as_of`, and the rows of the users who have some."""
        tokens = self.vocabulary.encode(part) if isinstance(part, pl.DataFrame) else part
        tokens = _before(tokens, as_of)
        return tokens, np.flatnonzero(tokens.lengths)

    @torch.inference_mode()
    def _own(self, catalogue: Catalogue, states: torch.Tensor, queries: Queries) -> Own:
        """Score what the users touched before as the repeat head does."""
        place = catalogue.place_of_token[queries.repeat_item]
        kept = place >= 0
        place, user, item = place[kept], queries.repeat_query[kept], queries.repeat_item[kept]
        if self.model.repeat is None:
            return Own(user, place, None)
        logits = self.model.bias[item - SPECIAL].clone()
        for start in range(0, len(place), PAIRS_AT_ONCE):
            pairs = slice(start, start + PAIRS_AT_ONCE)
            logits[pairs] += (states[user[pairs]] * catalogue.vectors[place[pairs]]).sum(1)
        features = queries.repeat_features[kept]
        queries = replace(queries, repeat_query=user, repeat_item=item, repeat_features=features)
        denied = torch.isneginf(catalogue.bias[place])
        scores = self.model.repeat_logits(logits, queries).masked_fill(denied, -torch.inf)
        return Own(user, place, scores)

    def _states(
        self, tokens: Tokens, as_of: datetime, users: NDArray[np.int64]
    ) -> Iterator[tuple[NDArray[np.int64], torch.Tensor, Queries]]:
        """Yield rows of `users`, their vectors and queries, in batches of similar length."""
        ends = tokens.offset[users + 1]
        lengths = np.minimum(ends - tokens.offset[users], self.config.model.context)
        device = self.model.bias.device
        for chosen in length_buckets(
            lengths, max_tokens=BATCH_TOKENS[device.type], max_rows=BATCH_USERS
        ):
            bounds = zip(users[chosen], ends[chosen] - lengths[chosen], ends[chosen], strict=True)
            windows = [
                Window(tokens, int(row), int(start), int(stop)) for row, start, stop in bounds
            ]
            events, queries = self.ask(windows, np.full(len(windows), _instant(as_of)))
            queries = to_device(queries, device)
            with torch.inference_mode():
                states = self.model.user_states(to_device(events, device), queries)
            yield users[chosen], states, queries


@contextmanager
def _one_thread() -> Iterator[None]:
    """Compute on one thread: two that share little work spend three times its seconds waiting."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _instant(as_of: datetime) -> int:
    """Return the second: an event in the last one before `as_of` counts as before it."""
    return int(np.ceil(as_of.timestamp()))


def _pseudonyms(tokens: Tokens, rows: NDArray[np.int64]) -> list[str]:
    return [tokens.user[row].tobytes().hex() for row in rows]


def _before(tokens: Tokens, as_of: datetime) -> Tokens:
    """Return the events before `as_of` alone."""
    instant = _instant(as_of)
    if tokens.time.max(initial=instant - 1) < instant:
        return tokens
    kept = np.append(0, np.cumsum(tokens.time < instant))
    chosen = tokens.time < instant
    values = {name: getattr(tokens, name)[chosen] for name in EVENT_FIELDS}
    return replace(tokens, offset=kept[tokens.offset], **values)
