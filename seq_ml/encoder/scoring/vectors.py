"""The encoder's vectors as rows of tables: of all items, and of all users some at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from seq_ml.schema import ITEM_EMBEDDINGS, USER_EMBEDDINGS
from seq_ml.storage.contracts import conform

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from datetime import datetime

    from seq_ml.encoder.scoring.encoder import Encoder

USERS_AT_ONCE = 20_000
"""Users of a frame at least, but for the last one: 20 MB of vectors at a width of 256."""


def item_rows(encoder: Encoder) -> pl.DataFrame:
    """Return schema ITEM_EMBEDDINGS: every item with a token of its own."""
    ids, vectors = encoder.item_embeddings()
    frame = pl.DataFrame({"item_id": ids, "embedding": vectors})
    return conform(frame.with_columns(model_version=pl.lit(encoder.version)), ITEM_EMBEDDINGS)


def user_rows(
    encoder: Encoder, parts: Iterable[pl.DataFrame], as_of: datetime
) -> Iterator[pl.DataFrame]:
    """Yield schema USER_EMBEDDINGS: every user with an event before `as_of`, some at a time.

    parts: sequences such as `read_by_shard` yields; a few of them become a frame, which is sorted
    by user_id.
    """
    held: list[pl.DataFrame] = []
    for part in parts:
        users, vectors = encoder.embed(part, as_of)
        frame = pl.DataFrame({"user_id": users, "embedding": vectors})
        constants = {"as_of": pl.lit(as_of), "model_version": pl.lit(encoder.version)}
        held.append(conform(frame.with_columns(**constants), USER_EMBEDDINGS))
        if sum(map(len, held)) >= USERS_AT_ONCE:
            yield pl.concat(held).sort("user_id")
            held = []
    if held:
        yield pl.concat(held).sort("user_id")
