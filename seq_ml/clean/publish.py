"""Publish clean days: staged events → checked → visible, in one atomic step per table.

A day becomes visible only after its expectations held; a day that fails stays as it was, and its
drops stay open in the ledger.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import polars as pl

from seq_ml.clean.clean import COUNTS, clean_events
from seq_ml.clean.expectations import validate_days
from seq_ml.ingest.canonical import STAGED_EXTRA
from seq_ml.ingest.ingest import staged_name
from seq_ml.ingest.ledger import Ledger
from seq_ml.schema import EVENTS, QUARANTINED
from seq_ml.storage.tables import conform

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from datetime import date
    from pathlib import Path

    from seq_ml.clean.expectations import DayResult
    from seq_ml.settings import Settings
    from seq_ml.storage.tables import TableStore

ROWS_AT_ONCE = 2_000_000


@dataclass(frozen=True)
class PublishedDays:
    """What one call published: a verdict and the row counts per day."""

    verdicts: dict[date, DayResult]
    counts: pl.DataFrame
    """event_date, rows_read, rows_kept, rows_duplicate, rows_quarantined; one row per day."""

    @property
    def failed(self) -> list[date]:
        """Days that were not published."""
        return sorted(day for day, result in self.verdicts.items() if not result.success)


def publish_days(
    tables: TableStore,
    settings: Settings,
    days: Sequence[date],
    docs_folder: Path,
    *,
    suites_folder: Path | None = None,
    on_progress: Callable[[str], None] = lambda _: None,
) -> PublishedDays:
    """Clean, check and publish the given UTC days; every other day stays untouched.

    docs_folder: a new folder for the Data Docs, one site below it for each part of the range.
    """
    ledger = Ledger(tables)
    read_at = ledger.clock()
    for table in (EVENTS, QUARANTINED):
        if not tables.exists(table.name):
            empty = pl.DataFrame(schema=table.polars_schema())
            tables.append(table.name, empty, partition_by=table.partition_by)
    verdicts: dict[date, DayResult] = {}
    counts = [pl.DataFrame(schema=COUNTS.polars_schema())]
    for number, part in enumerate(_chunks(tables, days), start=1):
        cleaned = clean_events(_staged(tables, part), first_day=settings.first_day)
        results = validate_days(
            cleaned, docs_folder / f"{number:03d}", suites_folder=suites_folder, min_rows=0
        )
        verdicts |= {result.day: result for result in results}
        good = [day for day in part if day not in verdicts or verdicts[day].success]
        chosen = pl.col("event_date").is_in(good)
        tables.overwrite_partitions(EVENTS, cleaned.events.filter(chosen), good)
        listed = ", ".join(f"'{day}'" for day in good)
        if good:
            tables.overwrite(
                QUARANTINED.name,
                conform(cleaned.quarantined.filter(chosen), QUARANTINED),
                predicate=f"event_date IN ({listed}) AND \"table\" = 'events'",
                partition_by="event_date",
            )
        by_file = cleaned.counts.filter(chosen).with_columns(
            partition=pl.col("event_date").cast(pl.String)
        )
        ledger.record_cleaning(
            "events", [day.isoformat() for day in good], by_file.drop("event_date"), read_at
        )
        counts.append(cleaned.counts)
        on_progress(f"published {len(good)} days up to {part[-1]}")
    per_day = (
        pl.concat(counts).group_by("event_date").agg(pl.col("^rows_.*$").sum()).sort("event_date")
    )
    return PublishedDays(verdicts, per_day)


def _staged(tables: TableStore, days: Sequence[date]) -> pl.LazyFrame:
    name = staged_name("events")
    if not tables.exists(name):  # nothing was ever dropped
        return pl.LazyFrame(schema={**EVENTS.polars_schema(), **STAGED_EXTRA})
    return tables.scan(name).filter(pl.col("event_date").is_in(list(days)))


def _chunks(tables: TableStore, days: Sequence[date]) -> Iterator[list[date]]:
    """Split the days into runs of at most about ROWS_AT_ONCE rows: memory stays bounded."""
    sizes = dict(_staged(tables, days).group_by("event_date").agg(pl.len()).collect().rows())
    part: list[date] = []
    held = 0
    for day in sorted(days):
        if part and held + sizes.get(day, 0) > ROWS_AT_ONCE:
            yield part
            part, held = [], 0
        part.append(day)
        held += sizes.get(day, 0)
    if part:
        yield part
