"""Cleaned days of Complete Journey, with faults planted, and their validation."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory

import polars as pl

from seq_ml.clean.expectations.profiles import profile_days
from seq_ml.clean.expectations.validate import validate_days as validate_folder
from seq_ml.clean.expectations.views import WRITTEN
from seq_ml.schema import QUARANTINED
from seq_ml.schema.stages import COUNTS
from tests.data import journey

DAY = date(2017, 3, 4)
BAD_DAYS = [date(2017, 3, 4), date(2017, 3, 7)]


@dataclass(frozen=True)
class Cleaned:
    """What the clean stage writes to a folder."""

    events: pl.DataFrame
    quarantined: pl.DataFrame
    counts: pl.DataFrame


def cleaned_of(events: pl.DataFrame) -> Cleaned:
    """What the clean stage would write for sound events."""
    kept = pl.len().cast(pl.Int64)
    counts = events.group_by("event_date").agg(rows_read=kept, rows_kept=kept).sort("event_date")
    counts = counts.with_columns(
        source_file=pl.format("drops/{}.csv", "event_date"),
        rows_duplicate=pl.lit(0, pl.Int64),
        rows_quarantined=pl.lit(0, pl.Int64),
    )
    return Cleaned(
        events, pl.DataFrame(schema=QUARANTINED.polars_schema()), counts.select(COUNTS.names)
    )


def write_folder(cleaned: Cleaned, folder: Path, files: int = 1) -> Path:
    frames = (cleaned.events, cleaned.quarantined, cleaned.counts)
    for table, frame in zip(WRITTEN, frames, strict=True):
        (folder / table.name).mkdir(parents=True)
        size = -(-frame.height // files)
        for n in range(files if frame.height else 0):
            part = frame.slice(n * size, size)
            part.write_parquet(folder / table.name / f"{n}.parquet", statistics=False)
    return folder


def validate_days(cleaned: Cleaned, docs_folder, **options):
    """Write a folder like the clean stage, in several files, and validate it."""
    with TemporaryDirectory() as name:
        folder = write_folder(cleaned, Path(name), files=2)
        days = {day for frame in (cleaned.events, cleaned.counts) for day in frame["event_date"]}
        if "history" in options:
            options["profile"] = profile_days(folder)
        return validate_folder(folder, sorted(days - {None}), docs_folder, **options)


def days_of(first: date, last: date) -> Cleaned:
    events = journey()["clean_events"].filter(pl.col("event_date").is_between(first, last))
    assert events.height > 20
    return cleaned_of(events)


def plant(cleaned: Cleaned, days: list[date], **values: object) -> Cleaned:
    """Put values into the first three rows of each day."""
    hit = pl.col("event_date").is_in(days) & (pl.int_range(pl.len()).over("event_date") < 3)
    events = cleaned.events.with_columns(
        pl.when(hit).then(pl.lit(value)).otherwise(name).alias(name)
        for name, value in values.items()
    )
    return replace(cleaned, events=events)


def failed(results):
    """Sentences of each failed day."""
    return {result.day: result.failed for result in results if not result.success}


def write(folder, name, *expectations):
    folder.mkdir(exist_ok=True)
    suite = {"name": "mine", "expectations": list(expectations), "meta": {}}
    (folder / name).write_text(json.dumps(suite))
    return folder


def expectation(kind, severity="critical", **kwargs):
    return {"type": kind, "kwargs": kwargs, "meta": {}, "severity": severity}
