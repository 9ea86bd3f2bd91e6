"""Validate cleaned days with Great Expectations: suites from the contracts, verdicts per day.

Cleaning decides about rows; this module lets a second, independent engine count what came out
and refuses the days that do not fit the contract. Great Expectations (GX) has no Polars engine: it
reads the Parquet files that cleaning wrote with DuckDB, through SQLAlchemy, in bounded memory.

A range of days is one GX run. The rows that break an expectation are then counted per day by the
query that GX itself hands back, so a year costs seconds whether one day fails or all of them do
(one GX run per day would cost a minute). What only makes sense for a day as a whole (a mean, a row
count, uniqueness) is run day by day; it occurs in users' own suites only, and costs about 25 ms
a day and suite.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import polars as pl

from seq_ml.clean.expectations.docs import ROWS, finish_docs, span
from seq_ml.clean.expectations.drift import drift_sentences, judge_days
from seq_ml.clean.expectations.gx import Run, Session
from seq_ml.clean.expectations.suites import (
    days_suite,
    drift_suite,
    events_suite,
    own_suites,
    suite_for,
)
from seq_ml.clean.expectations.verdicts import DayResult, find
from seq_ml.clean.expectations.views import WRITTEN, open_folder
from seq_ml.roles import STANDARD
from seq_ml.schema import EVENTS, QUARANTINED
from seq_ml.schema.stages import COUNTS, DAYS, DRIFT

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import date

# Keys of several columns are checked here and not by GX. Equal keys have equal hashes: millions of
# 8-byte hashes are grouped, and the keys themselves only where a hash occurs twice.
REPEATED_SQL = """
SELECT event_date, count(*)::BIGINT AS repeated_in_{table}
FROM (SELECT event_date, count(*) OVER (PARTITION BY {key}) AS times FROM {table}
      WHERE hash({key}) IN (SELECT hash({key}) AS h FROM {table} GROUP BY h HAVING count(*) > 1))
WHERE times > 1 GROUP BY event_date
"""

PARTS_SQL = (
    """SELECT event_date,
           sum(rows_read)::BIGINT AS rows_read,
           sum(rows_kept)::BIGINT AS rows_kept,
           sum(rows_duplicate)::BIGINT AS rows_duplicate,
           sum(rows_quarantined)::BIGINT AS rows_quarantined,
           sum(abs(rows_read - rows_kept - rows_duplicate - rows_quarantined))::BIGINT
               AS rows_unaccounted
       FROM clean_counts GROUP BY event_date""",
    """SELECT event_date,
           count(*) AS rows_in_clean_events,
           count(*) FILTER (event_time::DATE <> event_date) AS rows_of_another_day
       FROM clean_events GROUP BY event_date""",
    """SELECT event_date, count(*) AS rows_in_quarantine
       FROM quarantined_events GROUP BY event_date""",
    *(
        REPEATED_SQL.format(table=table.name, key=", ".join(table.key))
        for table in (EVENTS, QUARANTINED, COUNTS)
    ),
)

DAYS_SQL = f"""
CREATE TABLE clean_days AS
SELECT event_date, {", ".join(f"coalesce({n}, 0) AS {n}" for n in DAYS.names if n != "event_date")}
FROM (SELECT NULL::DATE AS event_date WHERE false)
{" ".join(f"FULL JOIN ({sql}) USING (event_date)" for sql in PARTS_SQL)}
ORDER BY event_date
"""  # noqa: S608


def validate_days(
    folder: Path,
    days: Sequence[date],
    docs_folder: Path,
    *,
    suites_folder: Path | None = None,
    history: pl.DataFrame | None = None,
    profile: pl.DataFrame | None = None,
    behaviours: Iterable[str] = STANDARD,
) -> list[DayResult]:
    """Validate the days of one cleaning call; return one result per day, sorted by day.

    folder: what cleaning wrote, as `clean_events/*.parquet`, `quarantined_events/*.parquet` and
    `clean_counts/*.parquet` (schemas EVENTS, QUARANTINED, COUNTS; any number of files, also none;
    without statistics, see `open_folder`). days: the days that were cleaned; one without a single
    row gets no result.
    docs_folder: a new or empty folder; a Data Docs site is built in it (index.html), with pages
    for the whole call and for the first failed days of a range. Nothing is written without a day.
    suites_folder: the user's own suites, see `own_suites`.
    profile: what `profile_days(folder)` returned; history: the same (schema DAY_PROFILES) of the
    four weeks before each of `days`. Drift is judged when both are given.
    behaviours: those that the business knows.

    What cannot be pinned to a day (a row without event_date, a missing column, an expectation that
    cannot be evaluated) fails every day of the call. Raises SuiteError for a suite that cannot be
    used, ValueError when the folder holds rows of another day. Takes about 2 s of CPU and 0.6 µs a
    row, and less than 1 GB of memory whatever the number of rows.
    """
    with TemporaryDirectory(prefix="validation-", dir=folder) as scratch:
        database = Path(scratch) / "days.duckdb"
        with open_folder(folder, database) as connection:
            connection.execute(DAYS_SQL)
            sql = f"SELECT event_date, {', '.join(ROWS)} FROM clean_days"  # noqa: S608
            rows = connection.execute(sql).fetchall()
            statistics = {day: dict(zip(ROWS, rest, strict=True)) for day, *rest in rows if day}
            if stray := sorted(set(statistics) - set(days)):
                raise ValueError(f"{folder} holds rows of {stray[0]}, which is not among its days.")
            if not statistics:
                return []
            judged = sorted(statistics)
            drift = pl.DataFrame(schema=DRIFT.polars_schema())
            if history is not None and profile is not None:
                # What was known of these days before gives way to their new profile.
                older = history.filter(~pl.col("event_date").is_in(judged))
                drift = judge_days(pl.concat([older.select(profile.columns), profile]), judged)
            connection.execute(f"CREATE TABLE {DRIFT.name} AS FROM drift")
        runs = [
            Run(EVENTS.name, events_suite(behaviours)),
            *(Run(table.name, suite_for(table)) for table in WRITTEN if table is not EVENTS),
            Run(DAYS.name, days_suite()),
            *(own_suites(suites_folder) if suites_folder else ()),
            *([Run(DRIFT.name, drift_suite())] if drift.height else ()),
        ]
        name = span(judged[0], judged[-1]).replace(" ", "_")
        with Session(database, docs_folder, name) as session:
            findings = find(session, runs, judged)
            session.build_docs()
    odd = drift_sentences(drift)
    expectations = sum(len(run.suite.expectations) for run in runs)
    results = [
        DayResult(
            day,
            not findings[day].failed,
            tuple(findings[day].failed),
            tuple(findings[day].warnings),
            {**statistics[day], "expectations": expectations},
            tuple(odd[day]),
            f"{docs_folder.name}/index.html",
        )
        for day in judged
    ]
    finish_docs(docs_folder, results)
    return results
