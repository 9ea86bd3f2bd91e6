"""Local copies of the clean events, which tasks read many times, at many origins.

Each day is copied once per state into a local file, and Polars scans the files; only what changed
is copied anew. Of many events days are copied together, and each copy is cut by user: what is known
of a few users is then read without touching the others.
"""

from __future__ import annotations

import fcntl
import hashlib
import shutil
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import polars as pl

from seq_ml import schema
from seq_ml.clean.days import clean_days
from seq_ml.storage.contracts import grown
from seq_ml.storage.portions import portions, shard_of, shards_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import date
    from pathlib import Path

    from seq_ml.clean.days import Day
    from seq_ml.storage.tables import TableStore

ROWS_AT_ONCE = 1_000_000
"""Events held at a time while days are copied: bounds memory whatever the table's size."""
MANY_EVENTS = 8_000_000
"""More events are copied by user."""
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
    if total > MANY_EVENTS:
        files = _by_user(rows, states, folder, shards_of(total, EVENTS_A_SHARD))
    else:
        files = [_by_day(rows, states, folder)]
    kept = {path if path.parent == folder else path.parent for of in files for path in of}
    for old in set(folder.iterdir()) - kept:
        shutil.rmtree(old) if old.is_dir() else old.unlink()
    return files


# --- by user --------------------------------------------------------------------------------------


def _by_user(
    rows: pl.LazyFrame, states: Sequence[Day], folder: Path, count: int
) -> list[list[Path]]:
    """Copy runs of days, each a folder with one file a shard."""
    shards: list[list[Path]] = [[] for _ in range(count)]
    for part in portions(states, lambda state: state.rows, DAYS_TOGETHER):
        seen = hashlib.sha256("".join(f"{s.day} {s.fingerprint}" for s in part).encode())
        run = folder / f"{part[0].day}-{seen.hexdigest()[:16]}-by-{count}"
        if not run.exists():
            _cut(rows.filter(pl.col("event_date").is_in([s.day for s in part])), run, count)
        for number, paths in enumerate(shards):
            paths.append(run / f"{number:04d}.parquet")
    return shards


def _cut(rows: pl.LazyFrame, run: Path, count: int) -> None:
    partial = run.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    frame = rows.with_columns(shard=shard_of(count)).collect()
    for number in range(count):
        of = frame.filter(pl.col("shard") == number).drop("shard").sort(ORDER)
        of.write_parquet(partial / f"{number:04d}.parquet")
    partial.replace(run)


# --- by day ---------------------------------------------------------------------------------------


def _by_day(rows: pl.LazyFrame, states: Sequence[Day], folder: Path) -> list[Path]:
    """Copy each day, into one file or several."""
    wanted = {state.day: _files(folder, state) for state in states}
    missing = [s for s in states if not all(path.exists() for path in wanted[s.day])]
    for part in portions(missing, lambda state: state.rows, ROWS_AT_ONCE):
        chosen = rows.filter(pl.col("event_date").is_in([state.day for state in part]))
        if len(part) == 1:
            _copy_day(chosen, part[0].day, wanted[part[0].day])
            continue
        frame = chosen.sort(ORDER).collect()
        for state in part:
            _write(frame.filter(pl.col("event_date") == state.day), wanted[state.day][0])
    return [path for of_day in wanted.values() for path in of_day]


def _files(folder: Path, state: Day) -> list[Path]:
    """Name the files of a day in order of time: one, or one an hour when it is large."""
    name = f"{state.day}-{state.fingerprint}"
    if state.rows <= ROWS_AT_ONCE:
        return [folder / f"{name}.parquet"]
    return [folder / f"{name}-{hour:02d}.parquet" for hour in range(24)]


def _copy_day(rows: pl.LazyFrame, day: date, paths: Sequence[Path]) -> None:
    midnight = datetime(day.year, day.month, day.day, tzinfo=UTC)
    length = timedelta(hours=24 / len(paths))
    for number, path in enumerate(paths):
        begin = midnight + number * length
        at = pl.col("event_time")
        part = rows.filter(at >= begin, at < begin + length) if len(paths) > 1 else rows
        _write(part.sort(ORDER).collect(engine="streaming"), path)


def _write(frame: pl.DataFrame, path: Path) -> None:
    partial = path.with_suffix(".partial")
    frame.write_parquet(partial)
    partial.replace(path)
