"""Build user behaviour sequences from clean events.

Third stage, after cleaning. Users are split into shards by their pseudonym; one shard at a time
bounds the memory, and the result does not depend on the number of shards.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from seq_ml.schema import USER_SEQUENCES
from seq_ml.storage.tables import conform

if TYPE_CHECKING:
    from datetime import datetime


def shard_of(shards: int) -> pl.Expr:
    """Shard of `user_id`, i32 in [0, shards).

    A pseudonym is a keyed hash, 32 uniform hex digits: its first 32 bits modulo the shard count are
    balanced, and the same in every version of every library.
    """
    bits = pl.col("user_id").str.slice(0, 8).str.to_integer(base=16, dtype=pl.Int64)
    return (bits % shards).cast(pl.Int32)


def build_sequences(
    events: pl.LazyFrame, *, as_of: datetime, max_events: int, shards: int
) -> pl.DataFrame:
    """Newest `max_events` events of each user strictly before `as_of`, oldest first.

    events: schema EVENTS.  Returns schema USER_SEQUENCES, one row per user, sorted by user_id.
    Ties in event_time keep the order of event_id, so that the shards agree with the whole.
    """
    parts = [
        build_shard(events, as_of=as_of, max_events=max_events, shard=shard, shards=shards)
        for shard in range(shards)
    ]
    return pl.concat(parts).sort("user_id")


def build_shard(
    events: pl.LazyFrame, *, as_of: datetime, max_events: int, shard: int, shards: int
) -> pl.DataFrame:
    """Sequences of the users of one shard, as `build_sequences` makes them."""
    newest = {
        "item_ids": "item_id",
        "event_types": "event_type",
        "event_times": "event_time",
        "quantities": "quantity",
        "unit_prices": "unit_price",
    }
    mine = events.filter(pl.col("event_time") < as_of)
    if shards > 1:
        mine = mine.filter(shard_of(shards) == shard)
    sequences = (
        mine.select("user_id", "event_id", *newest.values())
        .sort("user_id", "event_time", "event_id")
        .group_by("user_id", maintain_order=True)
        .agg(
            *(pl.col(column).tail(max_events).alias(name) for name, column in newest.items()),
            pl.len().cast(pl.Int64).alias("total_events"),
        )
        .with_columns(
            shard_of(shards).alias("shard"),
            pl.lit(as_of).alias("as_of"),
            pl.col("item_ids").list.len().cast(pl.Int64).alias("length"),
        )
        .collect(engine="streaming")
    )
    return conform(sequences, USER_SEQUENCES)
