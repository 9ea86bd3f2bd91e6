"""Run the suites on the days of a call, and say of each day which expectations it breaks.

A range of days is one GX run; what fails there is blamed on its days by the query for the broken
rows that GX hands back. What only makes sense for a whole day is run day by day.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from seq_ml.clean.expectations.suites import PRIVATE
from seq_ml.clean.expectations.wording import broken_rows, claim, what_was_found
from seq_ml.schema.stages import DAYS, DRIFT

if TYPE_CHECKING:
    from datetime import date

    from seq_ml.clean.expectations.gx import Run, Session

DOCS_DAYS = 5
"""So many failed days of a range get pages of their own in the Data Docs (a second each)."""

ROW_BY_ROW = frozenset(
    {
        "expect_column_pair_values_a_to_be_greater_than_b",
        "expect_column_pair_values_to_be_equal",
        "expect_column_pair_values_to_be_in_set",
        "expect_column_value_lengths_to_be_between",
        "expect_column_value_lengths_to_equal",
        "expect_column_values_to_be_between",
        "expect_column_values_to_be_in_set",
        "expect_column_values_to_be_null",
        "expect_column_values_to_match_like_pattern",
        "expect_column_values_to_match_like_pattern_list",
        "expect_column_values_to_match_regex",
        "expect_column_values_to_match_regex_list",
        "expect_column_values_to_not_be_in_set",
        "expect_column_values_to_not_be_null",
        "expect_column_values_to_not_match_like_pattern",
        "expect_column_values_to_not_match_like_pattern_list",
        "expect_column_values_to_not_match_regex",
        "expect_column_values_to_not_match_regex_list",
    }
)
"""A range of days breaks these in exactly the rows in which its days break them."""

OF_ALL_ROWS = frozenset({"expect_column_values_to_be_null", "expect_column_values_to_not_be_null"})
"""`mostly` is a share of all rows here, of the rows with a value elsewhere."""


@dataclass(frozen=True)
class Finding:
    """One failed expectation on one day."""

    sentence: str
    critical: bool


def find(session: Session, runs: list[Run], days: list[date]) -> defaultdict[date, list[Finding]]:
    """Run every suite; return what each day breaks. What fails about DRIFT is left to its table."""
    found: defaultdict[date, list[Finding]] = defaultdict(list)
    failed_runs: defaultdict[date, list[Run]] = defaultdict(list)
    together, by_day = _split(runs) if len(days) > 1 else (runs, [])
    span = str(days[0]) if len(days) == 1 else f"{days[0]}_to_{days[-1]}"

    def note(run: Run, result: Any, day: date, what: str) -> None:
        found[day].append(_finding(run, result, day, what))
        if run not in failed_runs[day]:
            failed_runs[day].append(run)

    for run, result in session.checkpoint(span, together):
        if run.table != DRIFT.name:
            for day, what in _blame(session, run, result, days).items():
                note(run, result, day, what)
    for run in by_day:
        for day in days:
            for result in session.validate(run.table, run.suite.expectations, day):
                note(run, result, day, what_was_found(result))
    if len(days) > 1:
        # Pages for the first failed days, and for the newest of what ran outside the checkpoint.
        shown = {
            (run.name, day): replace(run, day=day)
            for day in sorted(failed_runs)[:DOCS_DAYS]
            for run in failed_runs[day]
        } | {(run.name, days[-1]): replace(run, day=days[-1]) for run in by_day}
        if shown:
            list(session.checkpoint(f"{span}_single_days", list(shown.values())))
    return found


def _split(runs: list[Run]) -> tuple[list[Run], list[Run]]:
    """Part the suites into what is run for all days at once, and what is run day by day."""
    from great_expectations import ExpectationSuite

    together, by_day = [], []
    for run in runs:
        whole = [one for one in run.suite.expectations if not _is_row_by_row(one)]
        if not run.own or not whole:
            together.append(run)
            continue
        rows = [one for one in run.suite.expectations if _is_row_by_row(one)]
        if rows:
            together.append(replace(run, suite=ExpectationSuite(run.name, expectations=rows)))
        name = f"{run.name}_by_day"
        by_day.append(replace(run, suite=ExpectationSuite(name, expectations=whole)))
    return together, by_day


def _is_row_by_row(expectation: Any) -> bool:
    if expectation.expectation_type not in ROW_BY_ROW:
        return False
    return getattr(expectation, "mostly", 1) == 1 or (
        hasattr(expectation, "column") and expectation.row_condition is None
    )


def _blame(session: Session, run: Run, result: Any, days: list[date]) -> dict[date, str]:
    """Return the days that break an expectation, with what was found on each."""
    config = result.expectation_config
    mostly = config.kwargs.get("mostly", 1)
    if result.success and (mostly == 1 or not result.result.get("unexpected_count")):
        return {}
    if config.type in ROW_BY_ROW and result.result:
        broken = _broken_rows(session, result)
        counts = {day: count for day, (count, _) in broken.items()}
        if sum(counts.values()) == result.result["unexpected_count"]:
            if mostly != 1:
                broken = _above(session, run, config, broken, mostly)
            what = {day: _what(run, count, value) for day, (count, value) in broken.items()}
            return _spread(what, days)
    if result.success:
        return {}
    if len(days) == 1:
        return dict.fromkeys(days, what_was_found(result))
    kind = session.gx.expectations.registry.get_expectation_impl(config.type)
    kwargs = {key: value for key, value in config.kwargs.items() if key != "batch_id"}
    again = {day: session.validate(run.table, [kind(**kwargs)], day) for day in days}
    blamed = {day: what_was_found(results[0]) for day, results in again.items() if results}
    return blamed or dict.fromkeys(days, f"{what_was_found(result)} (across the days)")


def _broken_rows(session: Session, result: Any) -> dict[date | None, tuple[int, Any]]:
    """Count the broken rows of each day with GX's own query; add one value, if it may be shown."""
    query = result.result["unexpected_index_query"].rstrip().rstrip(";")
    kwargs = result.expectation_config.kwargs
    columns = [kwargs[key] for key in ("column", "column_A", "column_B") if key in kwargs]
    names = [f"value{n}" for n in range(len(columns))]
    shown = "NULL" if PRIVATE & set(columns) else f"min(concat_ws(' and ', {', '.join(names)}))"
    rows = session.query(
        f"SELECT day, count(*), nullif({shown}, '') "  # noqa: S608
        f"FROM ({query}) AS broken(day, {', '.join(names)}) GROUP BY day ORDER BY day"
    )
    return {day: (count, value) for day, count, value in rows}


def _above(
    session: Session,
    run: Run,
    config: Any,
    broken: dict[date | None, tuple[int, Any]],
    mostly: float,
) -> dict[date | None, tuple[int, Any]]:
    """Keep the days of which a larger share is broken than `mostly` allows."""
    counted = "*" if config.type in OF_ALL_ROWS else f'"{config.kwargs["column"]}"'
    sql = f"SELECT event_date, count({counted}) FROM {run.table} GROUP BY event_date"  # noqa: S608
    rows = dict(session.query(sql))
    return {
        day: (count, value)
        for day, (count, value) in broken.items()
        if (rows[day] - count) / rows[day] < mostly
    }


def _what(run: Run, count: int, value: Any) -> str:
    if run.table == DAYS.name and value is not None:  # one row is the day
        return f"found {value}"
    return broken_rows(count, value)


def _spread(found: dict[date | None, str], days: list[date]) -> dict[date, str]:
    """Let rows without a day count against every day."""
    if (dayless := found.pop(None, None)) is None:
        return {day: found[day] for day in days if day in found}
    return {day: found.get(day, f"{dayless} (without a day)") for day in days}


def _finding(run: Run, result: Any, day: date, what: str) -> Finding:
    config = result.expectation_config
    source = f" (suite {run.name.removesuffix('_by_day')})" if run.own else ""
    sentence = f"{day}: {claim(run.table, config.type, config.kwargs)}: {what}{source}."
    mild = getattr(config.severity, "value", config.severity) in {"warning", "info"}
    return Finding(sentence, critical=not mild)


@dataclass(frozen=True)
class DayResult:
    """The verdict on one day.

    failed and warnings hold one plain sentence per failed expectation; only expectations of
    severity "critical" (GX's default) make a day fail. drift: what is unusual about the day,
    beside the four weeks before it; it never makes a day fail. statistics: rows_read, rows_kept,
    rows_duplicate, rows_quarantined, expectations, expectations_failed. page: index of the day's
    Data Docs, relative to the parent of `docs_folder`.
    """

    day: date
    success: bool
    failed: tuple[str, ...]
    warnings: tuple[str, ...]
    statistics: dict[str, int]
    drift: tuple[str, ...] = ()
    page: str = ""
