"""Local copies of the clean days, which tasks read many times, at many origins.

Each day is copied once per state into a local file, and Polars scans the files. Only days that
changed are copied anew.
"""

from __future__ import annotations

import fcntl
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import polars as pl

from seq_ml import schema
from seq_ml.clean.days import clean_days
from seq_ml.storage.contracts import grown
from seq_ml.storage.portions import portions

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import date
    from pathlib import Path

    from seq_ml.clean.days import Day
    from seq_ml.storage.tables import TableStore

ROWS_AT_ONCE = 1_000_000
"""Events held at a time while days are copied: bounds memory whatever the table's size."""
ORDER = ("event_date", "event_time", "event_id")


def local_events(tables: TableStore, work: Path) -> pl.LazyFrame:
    """Scan clean events (schema EVENTS) from local copies of the days as they are now.

    Sorted by event_date, event_time, event_id. A copy that was cut off leaves no half file; days
    that are gone or changed lose their old file.
    """
    folder = work / "events"
    folder.mkdir(parents=True, exist_ok=True)
    with (work / "events.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # of two processes one copies
        paths = _refresh(tables, folder)
    if not paths:
        return pl.LazyFrame(schema=schema.EVENTS.polars_schema())
    # a copy of an earlier release may lack a column
    return pl.scan_parquet(paths, schema=schema.EVENTS.polars_schema(), missing_columns="insert")


def _refresh(tables: TableStore, folder: Path) -> list[Path]:
    """Copy the days that are missing or changed, remove what is stale; return the files."""
    version, days = clean_days(tables)
    columns = schema.EVENTS.polars_schema()
    wanted = {day: _files(folder, state) for day, state in days.items()}
    missing = [days[day] for day, paths in wanted.items() if not all(p.exists() for p in paths)]
    for part in portions(missing, lambda state: state.rows, ROWS_AT_ONCE):
        rows = grown(tables.scan(schema.EVENTS.name, version=version), columns)
        rows = rows.select(schema.EVENTS.names)
        chosen = rows.filter(pl.col("event_date").is_in([state.day for state in part]))
        if len(part) == 1:
            _copy_day(chosen, part[0].day, wanted[part[0].day])
            continue
        frame = chosen.sort(ORDER).collect()
        for state in part:
            _write(frame.filter(pl.col("event_date") == state.day), wanted[state.day][0])
    paths = [path for of_day in wanted.values() for path in of_day]
    for old in set(folder.iterdir()) - set(paths):
        old.unlink()
    return paths


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
