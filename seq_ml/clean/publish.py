"""Publish clean days: staged events → checked → visible, in one atomic step per table.

A day becomes visible only after its expectations held; a day that fails stays as it was, and its
drops stay open in the ledger.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

import polars as pl

from seq_ml.clean.expectations.docs import record_validations
from seq_ml.clean.expectations.profiles import profile_days
from seq_ml.clean.expectations.validate import validate_days
from seq_ml.clean.parts import clean_part, write_file
from seq_ml.clean.rules.row_rules import MISFILED
from seq_ml.ingest.ledger import Ledger
from seq_ml.ingest.mapping.bucket import load_business
from seq_ml.ingest.spool import work_folder
from seq_ml.periods import RECENT_DAYS
from seq_ml.schema import DAY_PROFILES, EVENTS, QUARANTINED
from seq_ml.schema.stages import COUNTS, RULE_COUNTS
from seq_ml.settings import home
from seq_ml.storage.layout import DOCS_PREFIX
from seq_ml.storage.portions import portions

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import date
    from pathlib import Path

    from seq_ml.business import Business
    from seq_ml.clean.expectations.verdicts import DayResult
    from seq_ml.clean.parts import CleanPart
    from seq_ml.settings import Settings
    from seq_ml.storage.tables import TableStore

ROWS_PER_PART = 10_000_000
"""Rows that are validated and published together: one run of Great Expectations, one commit.

They wait on local disk (about 40 bytes a row), not in memory.
"""


@dataclass(frozen=True)
class PublishedDays:
    """What one call published: a verdict, the row counts and the rules' counts per day."""

    verdicts: dict[date, DayResult]
    counts: pl.DataFrame
    """event_date, rows_read, rows_kept, rows_duplicate, rows_quarantined; one row per day."""
    rules: pl.DataFrame
    """Schema RULE_COUNTS: event_date, rule, column, rows."""

    @property
    def failed(self) -> list[date]:
        """Days that were not published."""
        return sorted(day for day, result in self.verdicts.items() if not result.success)

    @property
    def by_rule(self) -> pl.DataFrame:
        """Rows per rule and column over all days, most rows first."""
        per_rule = self.rules.group_by("rule", "column").agg(pl.col("rows").sum())
        return per_rule.sort("rows", "rule", "column", descending=[True, False, False])


def publish_days(
    tables: TableStore,
    settings: Settings,
    days: Sequence[date],
    docs_folder: Path,
    *,
    business: Business | None = None,
    suites_folder: Path | None = None,
    on_progress: Callable[[str], None] = lambda _: None,
) -> PublishedDays:
    """Clean, check and publish the given UTC days; every other day stays untouched.

    docs_folder: a new folder for the Data Docs, one site below it for each part of the range; what
    is written there goes to the bucket, too. suites_folder: the user's own suites; those in
    `home()/suites` when it is None.
    business: what the mappings in the bucket say when it is None.
    """
    business = business or load_business(tables.objects)
    own_suites = suites_folder or home() / "suites"
    ledger = Ledger(tables)
    read_at = ledger.clock()
    for table in (EVENTS, QUARANTINED):
        tables.prepare(table.name, table.polars_schema(), partition_by=table.partition_by)
    verdicts: dict[date, DayResult] = {}
    counts = [pl.DataFrame(schema=COUNTS.polars_schema())]
    rules = [pl.DataFrame(schema=RULE_COUNTS.polars_schema())]
    # One version of the staged rows for all steps: what arrives meanwhile keeps its days open.
    staged = tables.scan_staged("events")
    sizes = _sizes(staged, days)
    with work_folder(tables.objects.bucket, "clean") as work:
        parts = portions(sorted(sizes), sizes.__getitem__, ROWS_PER_PART)
        for number, part_days in enumerate(parts, start=1):
            part = clean_part(
                lambda step: staged.filter(pl.col("event_date").is_in(list(step))),
                {day: sizes[day] for day in part_days},
                work / f"{number:03d}",
                first_day=settings.first_day,
                business=business,
            )
            # before anything is visible: the verdicts, which also stay when a day fails
            profile = profile_days(part.folder)
            results = validate_days(
                part.folder,
                part_days,
                docs_folder / f"{number:03d}",
                suites_folder=own_suites if own_suites.is_dir() else None,
                history=_history(tables, part_days),
                profile=profile,
                behaviours=business.roles,
            )
            record_validations(tables, docs_folder, results)
            verdicts |= {result.day: result for result in results}
            good = [day for day in part_days if day not in verdicts or verdicts[day].success]
            _publish(tables, part, good, profile)
            # after it is visible: a crash in between only cleans these days once more
            by_file = part.counts.filter(pl.col("event_date").is_in(good)).with_columns(
                partition=pl.col("event_date").cast(pl.String)
            )
            ledger.read_again(_misfiled(part, good))
            ledger.record_cleaning(
                "events",
                [day.isoformat() for day in good],
                by_file.drop("event_date"),
                read_at,
                version=business.cleaning_version(settings.first_day),
            )
            counts.append(part.counts)
            rules.append(part.rules)
            shutil.rmtree(part.folder, ignore_errors=True)
            filled = [day for day in good if sizes[day]]
            on_progress(f"published {len(filled)} days with rows up to {part_days[-1]}")
    tables.objects.upload(docs_folder, f"{DOCS_PREFIX}/{docs_folder.name}")
    per_day = (
        pl.concat(counts).group_by("event_date").agg(pl.col("^rows_.*$").sum()).sort("event_date")
    )
    return PublishedDays(verdicts, per_day, pl.concat(rules))


def _publish(tables: TableStore, part: CleanPart, days: list[date], profile: pl.DataFrame) -> None:
    """Show the given days of a part: each table in one atomic step."""
    if not days:
        return
    tables.overwrite_from_files(EVENTS, part.files(EVENTS, days))
    # A day of the quarantine also holds rows of other tables, by their day of arrival.
    version = tables.version(QUARANTINED.name)
    others = (
        tables.scan(QUARANTINED.name, version=version)
        .filter(pl.col("event_date").is_in(days), pl.col("table") != "events")
        .collect()
    )
    for (day,), rows in others.partition_by("event_date", as_dict=True).items():
        write_file(rows, part.folder / QUARANTINED.name / f"{day}-others.parquet")
    tables.overwrite_from_files(QUARANTINED, part.files(QUARANTINED, days), version=version)
    tables.overwrite_partitions(
        DAY_PROFILES, profile.filter(pl.col("event_date").is_in(days)), days
    )


def _misfiled(part: CleanPart, days: list[date]) -> list[str]:
    """Return the files with rows that belong to another day than the one they were filed under."""
    files = [path for paths in part.files(QUARANTINED, days).values() for path in paths]
    if not files or part.rules.filter(rule=MISFILED).is_empty():
        return []
    rows = pl.scan_parquet(files).filter(rule=MISFILED).select("source_file").unique()
    return rows.collect().to_series().to_list()


def _history(tables: TableStore, days: Sequence[date]) -> pl.DataFrame:
    """Return the profiles of the days that `days` (sorted) are compared with."""
    first = days[0] - timedelta(days=RECENT_DAYS)
    profiles = tables.scan_or_empty(DAY_PROFILES)
    return profiles.filter(pl.col("event_date").is_between(first, days[-1])).collect()


def _sizes(staged: pl.LazyFrame, days: Sequence[date]) -> dict[date, int]:
    rows = staged.filter(pl.col("event_date").is_in(list(days))).group_by("event_date").len()
    return dict.fromkeys(days, 0) | dict(rows.collect(engine="streaming").rows())
