"""Validate cleaned days with Great Expectations: suites from the contracts, verdicts per day.

Cleaning decides about rows; this module lets a second, independent engine count what came out
and refuses the days that do not fit the contract. Great Expectations (GX) has no Polars engine: the
frames are written to Parquet in a temporary folder and read by DuckDB through SQLAlchemy.

A range of days is one GX run. The rows that break an expectation are then counted per day by the
query that GX itself hands back, so a year costs seconds whether one day fails or all of them do
(one GX run per day would cost a minute). What only makes sense for a day as a whole (a mean, a row
count, `mostly`) is run day by day; it occurs in users' own suites only.
"""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from seq_ml.clean.clean import COUNTS
from seq_ml.clean.gx import DATABASE, DUCKDB, Run, Session, load_gx
from seq_ml.clean.wording import broken_rows, claim, what_was_found
from seq_ml.schema import EVENTS, QUARANTINED, Column, Table

if TYPE_CHECKING:
    from datetime import date

    from seq_ml.clean.clean import Cleaned

DAYS = Table(
    "clean_days",
    "What cleaning claims about each day, beside what DuckDB finds in the tables.",
    (
        Column("event_date", "date", "Day (UTC)."),
        Column("rows_read", "i64", "Staged rows.", minimum=0),
        Column("rows_kept", "i64", "Rows published.", minimum=0),
        Column("rows_duplicate", "i64", "Rows dropped as re-sent.", minimum=0),
        Column("rows_quarantined", "i64", "Rows set aside.", minimum=0),
        Column(
            "rows_unaccounted",
            "i64",
            "Σ over files |read − kept − duplicates − quarantined|.",
            minimum=0,
            maximum=0,
        ),
        Column("rows_in_clean_events", "i64", "Rows of the day in clean_events."),
        Column("rows_in_quarantine", "i64", "Rows of the day in quarantined_events."),
    ),
    key=("event_date",),
    partition_by="event_date",
)

TABLES = {table.name: table for table in (EVENTS, QUARANTINED, COUNTS, DAYS)}

DAYS_SQL = """
CREATE TABLE clean_days AS
SELECT event_date,
       coalesce(rows_read, 0) AS rows_read,
       coalesce(rows_kept, 0) AS rows_kept,
       coalesce(rows_duplicate, 0) AS rows_duplicate,
       coalesce(rows_quarantined, 0) AS rows_quarantined,
       coalesce(rows_unaccounted, 0) AS rows_unaccounted,
       coalesce(rows_in_clean_events, 0) AS rows_in_clean_events,
       coalesce(rows_in_quarantine, 0) AS rows_in_quarantine
FROM (SELECT event_date,
             sum(rows_read)::BIGINT AS rows_read,
             sum(rows_kept)::BIGINT AS rows_kept,
             sum(rows_duplicate)::BIGINT AS rows_duplicate,
             sum(rows_quarantined)::BIGINT AS rows_quarantined,
             sum(abs(rows_read - rows_kept - rows_duplicate - rows_quarantined))::BIGINT
                 AS rows_unaccounted
      FROM clean_counts GROUP BY event_date)
FULL JOIN (SELECT event_date, count(*) AS rows_in_clean_events
           FROM clean_events GROUP BY event_date) USING (event_date)
FULL JOIN (SELECT event_date, count(*) AS rows_in_quarantine
           FROM quarantined_events GROUP BY event_date) USING (event_date)
ORDER BY event_date
"""

DOCS_DAYS = 5
"""So many failed days of a range get pages of their own in the Data Docs (a second each)."""


class SuiteError(ValueError):
    """A suite of the user's folder cannot be used; the message names the file."""


@dataclass(frozen=True)
class DayResult:
    """The verdict on one day.

    failed and warnings hold one plain sentence per failed expectation; only expectations of
    severity "critical" (GX's default) make a day fail. statistics: rows_read, rows_kept,
    rows_duplicate, rows_quarantined, expectations, expectations_failed.
    """

    day: date
    success: bool
    failed: tuple[str, ...]
    warnings: tuple[str, ...]
    statistics: dict[str, int]


def suite_for(table: Table) -> Any:
    """Return the ExpectationSuite that a table's contract implies, named after the table.

    Columns and their order, not null, value sets, ranges, unique key.
    """
    return load_gx().ExpectationSuite(name=table.name, expectations=_from_contract(table))


def validate_days(
    cleaned: Cleaned,
    docs_folder: Path,
    *,
    suites_folder: Path | None = None,
    min_rows: int = 1,
    max_rows: int | None = None,
) -> list[DayResult]:
    """Validate every day of a cleaning call; return one result per day, sorted by day.

    docs_folder: a new or empty folder; a Data Docs site is built in it (index.html), with pages
    for the whole call and for the first failed days of a range. Nothing is written without a day.
    suites_folder: the user's own suites, `<table>*.json` in GX's format, for tables of `TABLES`.
    min_rows, max_rows: how many published rows a day may have.

    What cannot be pinned to a day (a row without event_date, a missing column, an expectation that
    cannot be evaluated, a key repeated across days) fails every day of the call. Raises SuiteError
    for a suite that cannot be used.
    """
    with TemporaryDirectory(prefix="seqline-validation-") as folder:
        statistics = _load(cleaned, Path(folder))
        if not statistics:
            return []
        runs = [
            *(Run(table.name, suite_for(table)) for table in (EVENTS, QUARANTINED, COUNTS)),
            Run(DAYS.name, _days_suite(min_rows, max_rows)),
            *(_own_suites(suites_folder) if suites_folder else ()),
        ]
        session = Session(Path(folder), docs_folder)
        try:
            findings = _findings(session, runs, sorted(statistics))
            session.build_docs()
        finally:
            session.close()
    evaluated = sum(len(run.suite.expectations) for run in runs)
    return [
        _verdict(day, findings[day], {**statistics[day], "expectations": evaluated})
        for day in sorted(statistics)
    ]


# --- suites ---------------------------------------------------------------------------------------


def _from_contract(table: Table) -> list[Any]:
    expect = load_gx().expectations
    found = [expect.ExpectTableColumnsToMatchOrderedList(column_list=table.names)]
    for column in table.columns:
        name, low, high = column.name, column.minimum, column.maximum
        if not column.nullable:
            found.append(expect.ExpectColumnValuesToNotBeNull(column=name))
        if column.allowed:
            options = list(column.allowed)
            found.append(expect.ExpectColumnValuesToBeInSet(column=name, value_set=options))
        if low is not None or high is not None:
            found.append(
                expect.ExpectColumnValuesToBeBetween(column=name, min_value=low, max_value=high)
            )
    if len(table.key) == 1:
        found.append(expect.ExpectColumnValuesToBeUnique(column=table.key[0]))
    else:
        found.append(expect.ExpectCompoundColumnsToBeUnique(column_list=list(table.key)))
    return found


def _days_suite(min_rows: int, max_rows: int | None) -> Any:
    gx = load_gx()
    expect = gx.expectations
    return gx.ExpectationSuite(
        name=DAYS.name,
        expectations=[
            *_from_contract(DAYS),
            expect.ExpectColumnValuesToBeBetween(
                column="rows_in_clean_events", min_value=min_rows, max_value=max_rows
            ),
            expect.ExpectColumnPairValuesToBeEqual(
                column_A="rows_kept", column_B="rows_in_clean_events"
            ),
            expect.ExpectColumnPairValuesToBeEqual(
                column_A="rows_quarantined", column_B="rows_in_quarantine"
            ),
        ],
    )


def _own_suites(folder: Path) -> list[Run]:
    """Read `<table>*.json`; a suite's name in the Data Docs is its file's name."""
    if not folder.is_dir():
        raise SuiteError(f"The folder of suites {folder} does not exist.")
    gx = load_gx()
    runs = []
    for file in sorted(folder.glob("*.json")):
        table = next((name for name in TABLES if file.name.startswith(name)), None)
        if table is None:
            near = get_close_matches(file.stem, TABLES, n=1, cutoff=0.5) or sorted(TABLES)
            raise SuiteError(
                f"{file}: a suite's file name begins with its table, like {near[0]}_mine.json; "
                f"there are {', '.join(TABLES)}."
            )
        try:
            content = json.loads(file.read_text())
            suite = gx.ExpectationSuite(**{**content, "name": f"own_{file.stem}", "id": None})
        except (ValueError, TypeError, gx.exceptions.GreatExpectationsError) as error:
            raise SuiteError(f"{file} is no suite in GX's format: {error}") from error
        # GX only logs what it does not know, and would let the day pass without it.
        if len(suite.expectations) != len(content.get("expectations", [])):
            known = {one.expectation_type for one in suite.expectations}
            lost = sorted({one["type"] for one in content["expectations"]} - known)
            raise SuiteError(f"{file}: GX has no expectation of type {', '.join(lost)}.")
        runs.append(Run(table, suite, own=True))
    return runs


# --- data -----------------------------------------------------------------------------------------


def _load(cleaned: Cleaned, folder: Path) -> dict[date, dict[str, int]]:
    """Lay the frames out for DuckDB; return the counts of every day that occurs anywhere."""
    import duckdb
    from polars import selectors

    # DuckDB shows an instant with a zone in the zone of the machine: give up the zone, it is UTC.
    instants = selectors.datetime(time_zone="UTC").dt.replace_time_zone(None)
    with duckdb.connect(str(folder / DATABASE), config=DUCKDB) as database:
        for table, frame in (
            (EVENTS, cleaned.events),
            (QUARANTINED, cleaned.quarantined),
            (COUNTS, cleaned.counts),
        ):
            file = folder / f"{table.name}.parquet"
            # No statistics: they leave NaN out, and DuckDB would conclude that all values are fine.
            frame.with_columns(instants).write_parquet(file, compression="lz4", statistics=False)
            database.read_parquet(str(file)).create_view(table.name)
        database.execute(DAYS_SQL)
        columns = ["rows_read", "rows_kept", "rows_duplicate", "rows_quarantined"]
        sql = f"SELECT event_date, {', '.join(columns)} FROM clean_days"  # noqa: S608
        rows = database.execute(sql).fetchall()
    return {day: dict(zip(columns, rest, strict=True)) for day, *rest in rows if day is not None}


# --- verdicts -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Finding:
    """One failed expectation on one day."""

    sentence: str
    critical: bool


def _findings(
    session: Session, runs: list[Run], days: list[date]
) -> defaultdict[date, list[_Finding]]:
    found: defaultdict[date, list[_Finding]] = defaultdict(list)
    by_day = [run for run in runs if run.own and len(days) > 1 and not _holds_row_by_row(run.suite)]
    at_once = [run for run in runs if run not in by_day]
    span = str(days[0]) if len(days) == 1 else f"{days[0]}_to_{days[-1]}"
    failed_runs: defaultdict[date, list[Run]] = defaultdict(list)
    for run, result in session.checkpoint(span, at_once):
        for day, what in _blame(session, run, result, days).items():
            found[day].append(_finding(run, result, day, what))
            failed_runs[day].append(run)
    for run in by_day:
        for day in days:
            for result in session.validate(run.table, run.suite.expectations, day):
                found[day].append(_finding(run, result, day, what_was_found(result)))
                failed_runs[day].append(run)
    if len(days) > 1:
        # Pages for the first failed days, and for the newest of what ran outside the checkpoint.
        shown = {
            (run.suite.name, day): Run(run.table, run.suite, run.own, day)
            for day in sorted(failed_runs)[:DOCS_DAYS]
            for run in failed_runs[day]
        } | {
            (run.suite.name, days[-1]): Run(run.table, run.suite, run.own, days[-1])
            for run in by_day
        }
        if shown:
            list(session.checkpoint(f"{span}_single_days", list(shown.values())))
    return found


def _holds_row_by_row(suite: Any) -> bool:
    """Tell whether a suite holds for a range exactly when it holds for each of its days."""
    from great_expectations.expectations import expectation as kinds

    rows = (
        kinds.ColumnMapExpectation,
        kinds.ColumnPairMapExpectation,
        kinds.MulticolumnMapExpectation,
    )
    return all(
        isinstance(one, rows)
        and getattr(one, "mostly", 1) == 1
        and "unique" not in one.expectation_type
        for one in suite.expectations
    )


def _blame(session: Session, run: Run, result: Any, days: list[date]) -> dict[date, str]:
    """Return the days on which a result of the whole call fails, with what was found on each."""
    if len(days) == 1 or not result.result:
        return dict.fromkeys(days, what_was_found(result))
    config = result.expectation_config
    kind = session.gx.expectations.registry.get_expectation_impl(config.type)
    if _counts_rows(kind):
        query = result.result["unexpected_index_query"].rstrip().rstrip(";")
        rows = session.query(
            "SELECT day, count(*), min(CAST(value AS VARCHAR)) "  # noqa: S608
            f"FROM ({query}) AS broken(day, value) GROUP BY day"
        )
        if sum(count for _, count, _ in rows) == result.result["unexpected_count"]:
            return _spread({day: broken_rows(count, value) for day, count, value in rows}, days)
    kwargs = {key: value for key, value in config.kwargs.items() if key != "batch_id"}
    again = {day: session.validate(run.table, [kind(**kwargs)], day) for day in days}
    blamed = {day: what_was_found(results[0]) for day, results in again.items() if results}
    return blamed or dict.fromkeys(days, f"{what_was_found(result)} (across the days)")


def _counts_rows(kind: type) -> bool:
    """Tell whether GX's query for the broken rows of this kind returns (day, value, …) per row.

    Not for compound keys: their query (GX 1.24) is a cross join.
    """
    from great_expectations.expectations import expectation as kinds

    return issubclass(kind, (kinds.ColumnMapExpectation, kinds.ColumnPairMapExpectation))


def _spread(found: dict[date | None, str], days: list[date]) -> dict[date, str]:
    """Let rows without a day count against every day."""
    if (dayless := found.pop(None, None)) is None:
        return {day: found[day] for day in days if day in found}
    return {day: found.get(day, f"{dayless} (without a day)") for day in days}


def _verdict(day: date, findings: list[_Finding], statistics: dict[str, int]) -> DayResult:
    failed = tuple(one.sentence for one in findings if one.critical)
    warnings = tuple(one.sentence for one in findings if not one.critical)
    counts = {**statistics, "expectations_failed": len(findings)}
    return DayResult(day, not failed, failed, warnings, counts)


def _finding(run: Run, result: Any, day: date, what: str) -> _Finding:
    config = result.expectation_config
    source = f" (suite {run.suite.name})" if run.own else ""
    sentence = f"{day}: {claim(run.table, config.type, config.kwargs)}: {what}{source}."
    mild = getattr(config.severity, "value", config.severity) in {"warning", "info"}
    return _Finding(sentence, critical=not mild)
