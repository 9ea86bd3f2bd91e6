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

from seq_ml.clean.expectations.docs import finish_docs
from seq_ml.clean.expectations.drift import judge_days, unusual
from seq_ml.clean.expectations.gx import Run, Session
from seq_ml.clean.expectations.profiles import profile_days
from seq_ml.clean.expectations.suites import days_suite, drift_suite, own_suites, suite_for
from seq_ml.clean.expectations.verdicts import DayResult, find
from seq_ml.clean.expectations.views import DUCKDB, WRITTEN, open_folder
from seq_ml.clean.expectations.wording import drift_sentence
from seq_ml.schema import EVENTS, QUARANTINED
from seq_ml.schema.stages import COUNTS, DAYS, DRIFT

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import date

    import polars as pl

# Keys of several columns are checked here and not by GX. Equal keys have equal hashes: millions of
# 8-byte hashes are grouped, and the keys themselves only where a hash occurs twice.
REPEATED_SQL = """
SELECT event_date, count(*)::BIGINT AS repeated_in_{table}
FROM (SELECT event_date, count(*) OVER (PARTITION BY {key}) AS times FROM {table}
      WHERE hash({key}) IN (SELECT hash({key}) AS h FROM {table} GROUP BY h HAVING count(*) > 1))
WHERE times > 1 GROUP BY event_date
"""

PARTS_SQL = {
    "clean_counts": """
        SELECT event_date,
               sum(rows_read)::BIGINT AS rows_read,
               sum(rows_kept)::BIGINT AS rows_kept,
               sum(rows_duplicate)::BIGINT AS rows_duplicate,
               sum(rows_quarantined)::BIGINT AS rows_quarantined,
               sum(abs(rows_read - rows_kept - rows_duplicate - rows_quarantined))::BIGINT
                   AS rows_unaccounted
        FROM clean_counts GROUP BY event_date""",
    "clean_events": """
        SELECT event_date,
               count(*) AS rows_in_clean_events,
               count(*) FILTER (event_time::DATE <> event_date) AS rows_of_another_day
        FROM clean_events GROUP BY event_date""",
    "quarantined_events": """
        SELECT event_date, count(*) AS rows_in_quarantine
        FROM quarantined_events GROUP BY event_date""",
    **{
        f"repeated {table.name}": REPEATED_SQL.format(table=table.name, key=", ".join(table.key))
        for table in (EVENTS, QUARANTINED, COUNTS)
    },
}

DAYS_SQL = f"""
CREATE TABLE clean_days AS
SELECT event_date, {", ".join(f"coalesce({n}, 0) AS {n}" for n in DAYS.names if n != "event_date")}
FROM (SELECT NULL::DATE AS event_date WHERE false)
{" ".join(f"FULL JOIN ({sql}) USING (event_date)" for sql in PARTS_SQL.values())}
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
    min_rows: int = 1,
    max_rows: int | None = None,
) -> list[DayResult]:
    """Validate the days of one cleaning call; return one result per day, sorted by day.

    folder: what cleaning wrote, as `clean_events/*.parquet`, `quarantined_events/*.parquet` and
    `clean_counts/*.parquet` (schemas EVENTS, QUARANTINED, COUNTS; any number of files, also none;
    without statistics, see `open_folder`). days: the days that were cleaned; one without a single
    row gets no result.
    docs_folder: a new or empty folder; a Data Docs site is built in it (index.html), with pages
    for the whole call and for the first failed days of a range. Nothing is written without a day.
    suites_folder: the user's own suites, see `own_suites`.
    history: schema DAY_PROFILES, of the four weeks before each of `days`; profiles of `days`
    themselves are replaced by the new ones. None: drift is not judged. profile: what
    `profile_days(folder)` returned, computed when None.
    min_rows, max_rows: how many published rows a day may have.

    What cannot be pinned to a day (a row without event_date, a missing column, an expectation that
    cannot be evaluated) fails every day of the call. Raises SuiteError for a suite that cannot be
    used, ValueError when the folder holds rows of another day. Takes about 2 s of CPU and 0.6 µs a
    row, and less than 1 GB of memory whatever the number of rows.
    """
    import duckdb

    with TemporaryDirectory(prefix="validation-", dir=folder) as scratch:
        database = Path(scratch) / "days.duckdb"
        statistics = _load(folder, database)
        if stray := sorted(set(statistics) - set(days)):
            raise ValueError(f"{folder} holds rows of {stray[0]}, which is not among its days.")
        if not statistics:
            return []
        judged = sorted(statistics)
        runs = [
            *(Run(table.name, suite_for(table)) for table in WRITTEN),
            Run(DAYS.name, days_suite(min_rows, max_rows)),
            *(own_suites(suites_folder) if suites_folder else ()),
        ]
        odd: dict[date, list[str]] = {}
        if history is not None:
            drift = _drift(folder, judged, history, profile)
            odd = _sentences(drift)
            if drift.height:
                with duckdb.connect(str(database), config=DUCKDB) as connection:
                    connection.execute(f"CREATE TABLE {DRIFT.name} AS FROM drift")
                runs.append(Run(DRIFT.name, drift_suite()))
        session = Session(database, docs_folder)
        try:
            findings = find(session, runs, judged)
            session.build_docs()
        finally:
            session.close()
    evaluated = sum(len(run.suite.expectations) for run in runs)
    results = []
    for day in judged:
        failed = tuple(one.sentence for one in findings[day] if one.critical)
        warnings = tuple(one.sentence for one in findings[day] if not one.critical)
        numbers = {
            **statistics[day],
            "expectations": evaluated,
            "expectations_failed": len(findings[day]),
        }
        drifted = tuple(odd.get(day, ()))
        page = f"{docs_folder.name}/index.html"
        results.append(DayResult(day, not failed, failed, warnings, numbers, drifted, page))
    finish_docs(docs_folder, results)
    return results


def _load(folder: Path, database: Path) -> dict[date, dict[str, int]]:
    """Show the files to DuckDB; return the counts of every day that occurs anywhere."""
    counts = ["rows_read", "rows_kept", "rows_duplicate", "rows_quarantined"]
    with open_folder(folder, database) as connection:
        connection.execute(DAYS_SQL)
        sql = f"SELECT event_date, {', '.join(counts)} FROM clean_days"  # noqa: S608
        days = connection.execute(sql).fetchall()
    return {day: dict(zip(counts, rest, strict=True)) for day, *rest in days if day is not None}


def _drift(
    folder: Path, days: list[date], history: pl.DataFrame, profile: pl.DataFrame | None
) -> pl.DataFrame:
    """Judge the days; what is known of them from before gives way to their new profile."""
    import polars as pl

    fresh = profile_days(folder) if profile is None else profile
    older = history.filter(~pl.col("event_date").is_in(days))
    return judge_days(pl.concat([older.select(fresh.columns), fresh]), days)


def _sentences(drift: pl.DataFrame) -> dict[date, list[str]]:
    sentences: dict[date, list[str]] = {}
    for row in unusual(drift).iter_rows(named=True):
        sentences.setdefault(row["event_date"], []).append(drift_sentence(row))
    return sentences
