"""Read user sequences from their daily segments: any instant, one shard at a time.

The segments of a shard lie together in every day's file, so a shard is read without the bytes of
the others. A snapshot is made when it is asked for; none is stored.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from datetime import UTC
from typing import TYPE_CHECKING

import polars as pl

from seq_ml.schema import SEQUENCE_SNAPSHOT, USER_SEQUENCES
from seq_ml.sequences.build import LISTS
from seq_ml.sequences.segments import recorded_sources
from seq_ml.storage.contracts import conform

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import date, datetime

    from seq_ml.storage.tables import TableStore

BYTES_AT_ONCE = 32_000_000
"""Compressed bytes of segments held at a time: some 3M events."""


@dataclass(frozen=True)
class Part:
    """Some users: of these shards, with a pseudonym from `first` on and before `after`."""

    shards: range
    first: str = ""
    after: str = "g"  # beyond every hex digit


def read_sequences(
    tables: TableStore,
    *,
    as_of: datetime,
    max_events: int,
    part: Part | None = None,
    version: int | None = None,
) -> pl.DataFrame:
    """Newest `max_events` events of each user strictly before `as_of`, oldest first.

    part: only these users; None reads all, which does not bound the memory.  version: of the table
    of segments.  Returns schema SEQUENCE_SNAPSHOT, one row per user, sorted by user_id; equal to
    `build_sequences` on the same clean events. Raises KeyError when there are no segments.
    """
    last = as_of.astimezone(UTC).date()
    rows = (
        _segments(tables, as_of, part, version)
        .select("user_id", "shard", "segment_date", "length", *LISTS)
        .collect(engine="streaming")
    )
    # Segments of a day are in order already, so their lists only have to be strung together.
    sequences = (
        pl.concat([rows.filter(pl.col("segment_date") < last), _begun(rows, last, as_of)])
        .lazy()
        .sort("user_id", "segment_date")
        .group_by("user_id", maintain_order=True)
        .agg(
            pl.col("shard").first(),
            *(pl.col(name).explode().tail(max_events) for name in LISTS),
            pl.col("length").sum().alias("total_events"),
        )
        .with_columns(
            pl.lit(as_of).alias("as_of"),
            pl.col("item_ids").list.len().cast(pl.Int64).alias("length"),
        )
        .collect()
    )
    return conform(sequences, SEQUENCE_SNAPSHOT)


def read_by_shard(
    tables: TableStore, *, as_of: datetime, max_events: int
) -> Iterator[pl.DataFrame]:
    """Yield `read_sequences` of each shard that has users, all of one table version.

    A large shard comes in pieces; the order is that of (shard, user_id).
    Raises KeyError when there are no segments, ValueError when they are only partly written.
    """
    version = tables.version(USER_SEQUENCES.name)
    for part in _parts(tables):
        found = read_sequences(
            tables, as_of=as_of, max_events=max_events, part=part, version=version
        )
        for shard in part.shards:
            mine = found.filter(pl.col("shard") == shard)
            if mine.height:
                yield mine


def events_by_shard(tables: TableStore, *, before: datetime) -> Iterator[pl.LazyFrame]:
    """Yield the events before an instant; all events of a user are in the same part.

    Columns user_id, item_id, event_type, event_time, quantity, unit_price; the order means nothing.
    Raises like `read_by_shard`.
    """
    version = tables.version(USER_SEQUENCES.name)
    for part in _parts(tables):
        yield (
            _segments(tables, before, part, version)
            .select("user_id", *(pl.col(name).alias(column) for name, column in LISTS.items()))
            .explode(*LISTS.values())
            .filter(pl.col("event_time") < before)
        )


def _segments(
    tables: TableStore, as_of: datetime, part: Part | None, version: int | None
) -> pl.LazyFrame:
    """Scan the segments that can hold events before `as_of`; row groups of others are skipped."""
    scan = tables.scan(USER_SEQUENCES.name, version=version)
    scan = scan.filter(pl.col("segment_date") <= as_of.astimezone(UTC).date())
    if part is None:
        return scan
    return scan.filter(
        pl.col("shard").is_between(part.shards.start, part.shards.stop - 1),
        pl.col("user_id") >= part.first,
        pl.col("user_id") < part.after,
    )


def _parts(tables: TableStore) -> Iterator[Part]:
    """Cut the users into parts of about BYTES_AT_ONCE: shards together, or a shard in pieces.

    Every part opens every day's file, so there are no more of them than memory asks for.
    """
    sources = recorded_sources(tables) or {}
    counts = {source.split(":")[0] for source in sources.values()}
    if len(counts) > 1 or "" in counts:
        raise ValueError(
            "The user sequences were written with several shard counts: materialize user_sequences "
            "again (a run that was cut off goes on where it stopped)."
        )
    shards = int(counts.pop()) if counts else 0
    reads = -(-tables.size(USER_SEQUENCES.name) // BYTES_AT_ONCE)
    groups = min(shards, reads)
    pieces = min(256, -(-reads // shards)) if shards else 0
    cuts = [f"{256 * piece // pieces:02x}" for piece in range(pieces)] + ["g"]
    for group in range(groups):
        mine = range(group * shards // groups, (group + 1) * shards // groups)
        for first, after in itertools.pairwise(cuts):
            yield Part(mine, first, after)


def _begun(rows: pl.DataFrame, day: date, as_of: datetime) -> pl.DataFrame:
    """Cut the segments of the day in which `as_of` lies to the events before it."""
    past = pl.col("event_times").list.eval(pl.element() < as_of).list.sum().cast(pl.Int64)
    return (
        rows.filter(pl.col("segment_date") == day)
        .with_columns(length=past)
        .filter(pl.col("length") > 0)
        .with_columns(pl.col(name).list.head(pl.col("length")) for name in LISTS)
    )
