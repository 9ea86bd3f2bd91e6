"""Build user behaviour sequences straight from clean events.

Users are split into shards by their pseudonym; some shards at a time bound the memory, and the
result does not depend on their number. The pipeline keeps daily segments instead
(`seq_ml.sequences.segments`) and reads the same sequences from them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from seq_ml.schema import SEQUENCE_SNAPSHOT
from seq_ml.storage.contracts import conform
from seq_ml.storage.portions import shard_of

if TYPE_CHECKING:
    from datetime import datetime

LISTS = {
    "item_ids": "item_id",
    "event_types": "event_type",
    "event_times": "event_time",
    "quantities": "quantity",
    "unit_prices": "unit_price",
}
"""The lists of a sequence, and the column of an event that each of them holds."""
ROWS_AT_ONCE = 2_500_000
"""Events held at a time, if there are enough shards to split them so far."""


def build_sequences(
    events: pl.LazyFrame, *, as_of: datetime, max_events: int, shards: int
) -> pl.DataFrame:
    """Newest `max_events` events of each user strictly before `as_of`, oldest first.

    events: schema EVENTS.  Returns schema SEQUENCE_SNAPSHOT, one row per user, sorted by user_id.
    Ties in event_time keep the order of event_id, so that the shards agree with the whole.

    >>> from datetime import UTC, datetime
    >>> days = [datetime(2024, 5, day, tzinfo=UTC) for day in (1, 2, 3)]
    >>> events = pl.LazyFrame({"event_id": [*"xyz"], "item_id": [*"abc"], "event_time": days})
    >>> same = {"user_id": pl.lit("0" * 32), "event_type": pl.lit("purchase")}
    >>> events = events.with_columns(**same, quantity=1.0, unit_price=2.0)
    >>> build_sequences(events, as_of=days[2], max_events=500, shards=1)["item_ids"].to_list()
    [['a', 'b']]
    """
    past = events.filter(pl.col("event_time") < as_of)
    past = past.select("user_id", "event_id", *LISTS.values())
    rows = past.select(pl.len()).collect(engine="streaming").item() if shards > 1 else 0
    slices = max(1, min(shards, -(-rows // ROWS_AT_ONCE)))
    parts = []
    for number in range(slices):
        mine = past
        if slices > 1:
            mine = past.filter(shard_of(shards) * slices // shards == number)
        built = (
            mine.collect(engine="streaming")
            .lazy()
            .sort("event_time", "event_id")
            .group_by("user_id")  # keeps the order within each user
            .agg(
                *(pl.col(column).tail(max_events).alias(name) for name, column in LISTS.items()),
                pl.len().cast(pl.Int64).alias("total_events"),
            )
            .collect()
        )
        parts.append(built)
    sequences = pl.concat(parts).with_columns(
        shard_of(shards).alias("shard"),
        pl.lit(as_of).alias("as_of"),
        pl.col("item_ids").list.len().cast(pl.Int64).alias("length"),
    )
    return conform(sequences.sort("user_id"), SEQUENCE_SNAPSHOT)
