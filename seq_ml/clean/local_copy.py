"""Local copies of the clean events, which tasks read many times, at many origins.

Days are copied together, once per state, into local files, and Polars scans these: opening a file
costs as much as reading some thousand events of it. Only what changed is copied anew. Of many
events each copy is cut by user: what is known of a few users is then read without touching the
others.
"""

from __future__ import annotations

import fcntl
import hashlib
import shutil
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

import polars as pl

from seq_ml import schema
from seq_ml.clean.days import clean_days
from seq_ml.storage.contracts import grown
from seq_ml.storage.portions import portions, shard_of, shards_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from seq_ml.clean.days import Day
    from seq_ml.storage.tables import TableStore

MANY_EVENTS = 8_000_000
"""More events are copied by user; of fewer a month is held at a time while it is copied."""
EVENTS_A_SHARD = 1_000_000
DAYS_TOGETHER = 3_000_000
"""Events that are cut by user at once."""
ORDER = ("event_date", "event_time", "event_id")


@dataclass(frozen=True)
class LocalEvents:
    """Clean events (schema EVENTS) in local files.

    everything: all of them. shards: the same by user, shard n of N those of `shard_of(N) == n`; one
    where there are few.
    """

    everything: pl.LazyFrame
    shards: tuple[pl.LazyFrame, ...]


def local_events(tables: TableStore, work: Path) -> LocalEvents:
    """Copy what changed of the clean events, and scan the copies.

    Of one shard they are sorted by event_date, event_time, event_id. A copy that was cut off leaves
    no half file; what is gone or changed loses its old file.
    """
    folder = work / "events"
    folder.mkdir(parents=True, exist_ok=True)
    with (work / "events.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # of two processes one copies
        files = _refresh(tables, folder)
    shards = tuple(_scan(paths) for paths in files)
    everything = shards[0] if len(shards) == 1 else _scan([path for of in files for path in of])
    return LocalEvents(everything, shards)


def _scan(paths: list[Path]) -> pl.LazyFrame:
    if not paths:
        return pl.LazyFrame(schema=schema.EVENTS.polars_schema())
    # a copy of an earlier release may lack a column
    return pl.scan_parquet(paths, schema=schema.EVENTS.polars_schema(), missing_columns="insert")


def _refresh(tables: TableStore, folder: Path) -> list[list[Path]]:
    """Copy what is missing or changed, remove what is stale; return the files of each shard."""
    version, days = clean_days(tables)
    if not days:
        return [[]]
    rows = grown(tables.scan(schema.EVENTS.name, version=version), schema.EVENTS.polars_schema())
    rows = rows.select(schema.EVENTS.names)
    states = list(days.values())
    total = sum(state.rows for state in states)
    count, runs = 1, _months(states)
    if total > MANY_EVENTS:
        count = shards_of(total, EVENTS_A_SHARD)
        runs = portions(states, lambda state: state.rows, DAYS_TOGETHER)
    copies = [_copied(rows, run, folder, count) for run in runs]
    for old in set(folder.iterdir()) - set(copies):
        shutil.rmtree(old) if old.is_dir() else old.unlink()
    return [[copy / _file(number) for copy in copies] for number in range(count)]


def _months(states: Sequence[Day]) -> Iterator[list[Day]]:
    """Cut days by the calendar: one that changes moves no other into another copy."""
    for _, days in groupby(states, lambda state: (state.day.year, state.day.month)):
        yield list(days)


def _copied(rows: pl.LazyFrame, run: Sequence[Day], folder: Path, count: int) -> Path:
    """Return the copy of these days, a folder with one file a shard, made where it is not there."""
    seen = hashlib.sha256("".join(f"{s.day} {s.fingerprint}" for s in run).encode())
    copy = folder / f"{run[0].day}-{seen.hexdigest()[:16]}-by-{count}"
    if copy.exists():
        return copy
    partial = copy.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    chosen = rows.filter(pl.col("event_date").is_in([state.day for state in run]))
    frame = chosen.with_columns(shard=shard_of(count)).collect()
    for number in range(count):
        of = frame.filter(pl.col("shard") == number).drop("shard").sort(ORDER)
        of.write_parquet(partial / _file(number))
    return partial.replace(copy)


def _file(number: int) -> str:
    return f"{number:04d}.parquet"
