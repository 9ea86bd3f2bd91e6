"""Which days of clean events there are, and whether one changed since somebody last looked.

Everything that is derived day by day (segments, local copies) keeps the fingerprint of the day it
was made from. The fingerprint covers the day's files as the Delta log lists them, so looking costs
no reading of data; files that were only compacted count as changed, which costs work but is right.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import polars as pl

from seq_ml.schema import EVENTS

if TYPE_CHECKING:
    from datetime import date

    from seq_ml.storage.tables import TableStore

BYTES_PER_ROW = 16
"""Least bytes of an event on disk: bounds the rows of a file whose writer did not count them."""


@dataclass(frozen=True)
class Day:
    """One UTC day of clean events: its rows, and a fingerprint of its files."""

    day: date
    rows: int
    fingerprint: str


def clean_days(tables: TableStore) -> tuple[int, dict[date, Day]]:
    """Return the version of clean_events that was looked at, and its days in order.

    Version 0 and no days when the table was never written.
    """
    try:
        version = tables.version(EVENTS.name)
    except KeyError:
        return 0, {}
    files = tables.files(EVENTS.name, version)
    if files.is_empty():
        return version, {}
    rows = pl.coalesce("num_records", pl.col("size_bytes") // BYTES_PER_ROW)
    per_day = (
        files.select("path", "size_bytes", rows=rows, day=f"partition.{EVENTS.partition_by}")
        .sort("day", "path")
        .group_by("day", maintain_order=True)
        .agg("path", "size_bytes", pl.col("rows").sum())
    )
    states = {}
    for day, paths, sizes, count in per_day.iter_rows():
        text = "\n".join(f"{path} {size}" for path, size in zip(paths, sizes, strict=True))
        states[day] = Day(day, count, hashlib.sha256(text.encode()).hexdigest()[:16])
    return version, states
