"""Examples: users at origins, and what came after. Features end strictly before the origin.

The events stay one array per field (`Tokens`); an example is a row and an instant in it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, cast

import numpy as np
import polars as pl

from seq_ml.encoder.data.windows import Window
from seq_ml.tokens.vocabulary import DAY, SPECIAL

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from numpy.typing import NDArray

    from seq_ml.tokens.vocabulary import Tokens


@dataclass(frozen=True)
class Examples:
    """Users at instants.

    tokens: their events, also later ones.  row, instant: i64 [examples], the user's place in
    `tokens` and the origin (seconds since 1970).  known_at: when the last answer was known.
    """

    tokens: Tokens
    row: NDArray[np.int64]
    instant: NDArray[np.int64]
    known_at: datetime

    def __len__(self) -> int:
        """Return the number of examples."""
        return len(self.row)

    def window(self, number: int, context: int) -> Window:
        """Return the newest `context` events before the origin of one example."""
        row, tokens = int(self.row[number]), self.tokens
        begin, end = int(tokens.offset[row]), int(tokens.offset[row + 1])
        stop = begin + int(np.searchsorted(tokens.time[begin:end], self.instant[number]))
        return Window(tokens, row, max(begin, stop - context), stop)

    def users(self) -> set[bytes]:
        """Return whom the examples are of."""
        return {self.tokens.user[row].tobytes() for row in np.unique(self.row)}

    @property
    def version(self) -> str:
        """Hash of events, origins and answers."""
        digest = hashlib.sha256()
        for value in (*vars(self.tokens).values(), *vars(self).values()):
            if isinstance(value, np.ndarray):
                digest.update(np.ascontiguousarray(value).data)
        return digest.hexdigest()[:16]


@dataclass(frozen=True)
class BinaryExamples(Examples):
    """Examples with a yes or no.  label: f32 [examples], 0 or 1."""

    label: NDArray[np.float32]


@dataclass(frozen=True)
class ItemExamples(Examples):
    """Examples with the set of items that came.

    items: i64 [answers], distinct tokens of each example, one after another; item_offset: i64
    [examples + 1] into it.
    """

    items: NDArray[np.int64]
    item_offset: NDArray[np.int64]


def binary_examples(tokens: Tokens, labels: pl.DataFrame) -> BinaryExamples:
    """Examples of labelled users at origins; who has no event before the origin is left out.

    labels: user_id, origin and label_end (UTC; the label is known from then on), label (0 or 1).
    """
    place = {user: row for row, user in enumerate(tokens.user_ids)}
    labels = labels.filter(pl.col("user_id").is_in(list(place))).sort("origin", "user_id")
    row = np.array([place[user] for user in labels["user_id"]], dtype=np.int64)
    micros = labels["origin"].dt.epoch("us").to_numpy().astype(np.int64)
    instant = -(-micros // 1_000_000)  # rounded up as the encoder does: a fraction is of the past
    readable = tokens.time[tokens.offset[row]] < instant
    return BinaryExamples(
        tokens,
        row[readable],
        instant[readable],
        cast("datetime", labels["label_end"].max()),
        labels["label"].to_numpy().astype(np.float32)[readable],
    )


def item_examples(
    tokens: Tokens,
    origins: Sequence[datetime],
    *,
    days: int,
    behaviour: int,
) -> ItemExamples:
    """Every user at every origin with a known item in the `days` after it and an event before it.

    behaviour: id of the behaviour type that counts, such as that of a purchase.
    """
    rows, instants, answers = [], [], []
    counts = (tokens.behaviour == behaviour) & (tokens.item >= SPECIAL)
    for origin in sorted(origins):
        moment = int(np.ceil(origin.timestamp()))
        for row in range(len(tokens.user)):
            begin, end = int(tokens.offset[row]), int(tokens.offset[row + 1])
            time = tokens.time[begin:end]
            first, last = begin + np.searchsorted(time, [moment, moment + days * DAY])
            items = np.unique(tokens.item[first:last][counts[first:last]])
            if first > begin and len(items):
                rows.append(row)
                instants.append(moment)
                answers.append(items.astype(np.int64))
    return ItemExamples(
        tokens,
        np.array(rows, dtype=np.int64),
        np.array(instants, dtype=np.int64),
        max(origins) + timedelta(days=days),
        np.concatenate([np.empty(0, np.int64), *answers]),
        np.cumsum([0, *map(len, answers)]),
    )
