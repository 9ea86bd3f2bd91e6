"""Keep `user_sequences` in step with clean events: one segment per user and UTC day.

A segment is a function of its day of clean events, and of what money was worth that day. So an
update rewrites only the days whose files or rates changed, what it costs follows the new data and
not the history, and its result is that of a full rebuild, which is the same call on an empty table.
Each row carries the fingerprint of what it was made from: there is no other state that could
disagree with the rows after a crash.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import polars as pl

from seq_ml.clean.currencies import factors_on, in_own_currency
from seq_ml.clean.days import Day, clean_days
from seq_ml.ingest.mapping.bucket import load_sources
from seq_ml.schema import EVENTS, EXCHANGE_RATES, USER_SEQUENCES
from seq_ml.sequences.build import LISTS
from seq_ml.storage.contracts import conform, grown
from seq_ml.storage.portions import portions, shard_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from datetime import date

    from seq_ml.settings import Settings
    from seq_ml.storage.tables import TableStore

ROWS_AT_ONCE = 2_000_000
"""Events held at a time while segments are built: bounds memory whatever a day's size."""
ROW_GROUP_ROWS = 8_192
"""Rows are sorted by shard: a reader of one shard skips the row groups of the others."""


@dataclass(frozen=True)
class Money:
    """The currency of the business and the rates to it (schema EXCHANGE_RATES)."""

    own: str
    rates: pl.DataFrame

    def of(self, events: pl.LazyFrame) -> pl.LazyFrame:
        """Return events with amounts in the own currency."""
        return in_own_currency(events, self.rates, self.own)

    def fingerprints(self, days: list[date]) -> dict[date, str]:
        """Return what decides the prices of each day (ascending): the currency, and its rates."""
        known = factors_on(pl.Series(days, dtype=pl.Date), self.rates, self.own)
        worth = known.group_by("event_date").agg(pl.struct("currency", "factor"))
        hashed = {
            day: f"{self.own}-{hashlib.sha256(str(factors).encode()).hexdigest()[:8]}"
            for day, factors in worth.iter_rows()
        }
        return dict.fromkeys(days, self.own) | hashed


@dataclass(frozen=True)
class SequenceUpdate:
    """What an update did: the days that were written anew, in order, and their events."""

    days: tuple[date, ...]
    events: int


def update_sequences(
    tables: TableStore, settings: Settings, *, on_progress: Callable[[str], None] = lambda _: None
) -> SequenceUpdate:
    """Bring `user_sequences` in step with `clean_events`; all of it when there is no table yet.

    Prices are in the business's currency, null where they have no rate to it: what the tasks read,
    too. Where the currency is not known (mappings that contradict each other), no price is.
    Each group of changed days is one commit: after a crash the same call does what is left.
    """
    version, clean = clean_days(tables)
    money = Money(
        load_sources(tables.objects).currency, tables.scan_or_empty(EXCHANGE_RATES).collect()
    )
    worth = money.fingerprints(list(clean))
    wanted = {
        day: f"{settings.shards}:{state.fingerprint}:{worth[day]}" for day, state in clean.items()
    }
    there = recorded_sources(tables)
    if there is None:
        # never written, or by a release that kept other columns: everything in it is derived
        tables.objects.delete_prefix(f"{tables.prefix}/{USER_SEQUENCES.name}/")
        empty = pl.DataFrame(schema=USER_SEQUENCES.polars_schema())
        tables.append(USER_SEQUENCES.name, empty, partition_by=USER_SEQUENCES.partition_by)
        there = {}
    stale = sorted(day for day in wanted.keys() | there.keys() if wanted.get(day) != there.get(day))
    work = [clean.get(day, Day(day, 0, "")) for day in stale]
    done = 0
    for part in portions(work, lambda day: day.rows, ROWS_AT_ONCE):
        frames = _segments(tables, version, part, wanted, settings.shards, money)
        days = [day.day for day in part]
        tables.overwrite_files(
            USER_SEQUENCES,
            frames,
            days,
            statistics=("shard", "source"),
            row_group_rows=ROW_GROUP_ROWS,
        )
        done += len(part)
        on_progress(f"sequences: {done} of {len(stale)} changed days, up to {days[-1]}")
    return SequenceUpdate(tuple(stale), sum(day.rows for day in work))


def recorded_sources(tables: TableStore) -> dict[date, str] | None:
    """Return what each day's segments were made from, "<shards>:<fingerprint>:<money>".

    None when there is no table of segments. A day whose files disagree gives "".
    """
    name = USER_SEQUENCES.name
    if not tables.exists(name):
        return None
    if tables.scan(name).collect_schema().names() != USER_SEQUENCES.names:
        return None
    files = tables.files(name)
    if files.is_empty():
        return {}
    per_day = files.group_by(f"partition.{USER_SEQUENCES.partition_by}").agg(
        pl.col("min.source").min(), pl.col("max.source").max()
    )
    return {day: low if low == high else "" for day, low, high in per_day.iter_rows()}


def build_segments(events: pl.DataFrame, *, shards: int) -> pl.DataFrame:
    """Return the segments of whole days, schema USER_SEQUENCES without `source`.

    events: schema EVENTS (the columns of a sequence, event_id and event_date), in any order.
    Sorted by (segment_date, shard, user_id).

    >>> from datetime import UTC, datetime
    >>> days = [datetime(2024, 5, day, tzinfo=UTC) for day in (1, 1, 2)]
    >>> events = pl.DataFrame({"event_id": [*"xyz"], "item_id": [*"abc"], "event_time": days})
    >>> same = {"user_id": pl.lit("0" * 32), "event_type": pl.lit("purchase")}
    >>> events = events.with_columns(**same, quantity=1.0, unit_price=2.0)
    >>> events = events.with_columns(event_date=pl.col("event_time").dt.date())
    >>> build_segments(events, shards=4)["item_ids"].to_list()
    [['a', 'b'], ['c']]
    """
    return (
        events.lazy()
        .sort("event_time", "event_id")
        .group_by(pl.col("event_date").alias("segment_date"), "user_id")  # keeps order within
        .agg(
            pl.len().cast(pl.Int64).alias("length"),
            *(pl.col(column).alias(name) for name, column in LISTS.items()),
        )
        .with_columns(shard=shard_of(shards))
        .sort("segment_date", "shard", "user_id")
        .collect()
    )


def _segments(
    tables: TableStore,
    version: int,
    days: list[Day],
    sources: dict[date, str],
    shards: int,
    money: Money,
) -> Iterator[pl.DataFrame]:
    """Yield the segments of some days, a range of shards at a time when they are many events."""
    days = [day for day in days if day.rows]
    if not days:
        return
    source = pl.DataFrame(
        {"segment_date": [day.day for day in days], "source": [sources[day.day] for day in days]}
    )
    events = grown(tables.scan(EVENTS.name, version=version), EVENTS.polars_schema())
    events = money.of(events.filter(pl.col("event_date").is_in([day.day for day in days])))
    events = events.select("user_id", "event_id", "event_date", *LISTS.values())
    slices = min(shards, -(-sum(day.rows for day in days) // ROWS_AT_ONCE))
    for number in range(slices):
        mine = events
        if slices > 1:
            mine = events.filter(shard_of(shards) * slices // shards == number)
        built = build_segments(mine.collect(engine="streaming"), shards=shards)
        if built.height:
            built = built.join(source, on="segment_date", maintain_order="left")
            yield from conform(built, USER_SEQUENCES).partition_by(
                "segment_date", maintain_order=True
            )
