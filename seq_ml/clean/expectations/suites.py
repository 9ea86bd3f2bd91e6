"""The suites of expectations: from the contracts, for a day's sums, for drift, and the user's own.

A user's suite is a file in Great Expectations' own format, JSON or YAML, whose name begins with its
table: `clean_events_prices.yaml`. What such a suite cannot do here is refused when it is read.
"""

from __future__ import annotations

import json
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

import yaml

from seq_ml.clean.expectations.gx import Run, is_row_by_row, load_gx
from seq_ml.schema import EVENTS, QUARANTINED, Table
from seq_ml.schema.stages import COUNTS, DAYS, DRIFT

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path


TABLES = {table.name: table for table in (EVENTS, QUARANTINED, COUNTS, DAYS)}
"""Tables that can have suites of the user's own."""

PRIVATE = frozenset({"event_id", "user_id", "session_id", "query", "text", "value"})
"""Columns whose values belong in no report: identifiers, and words that people wrote."""

# Their results list values of the column.
_LISTING = ("distinct_values", "most_common", "column_max_", "column_min_", "_kl_")

# Types that GX 1.24 evaluates in pandas only, and one whose result it cannot write down.
_NOT_HERE = ("creasing", "_parseable", "_json_schema", "_strftime_format", "_quantile_values_")


class SuiteError(ValueError):
    """A suite of the user's folder cannot be used; the message names the file."""


def suite_for(table: Table, *more: Any) -> Any:
    """Return the ExpectationSuite that a table's contract implies, named after the table.

    Columns and their order, not null, value sets, ranges, unique key; then `more`. A key of several
    columns is left to `clean_days`: GX 1.24 would join the table with its groups, and again for the
    rows.
    """
    gx = load_gx()
    expect = gx.expectations
    wanted = [expect.ExpectTableColumnsToMatchOrderedList(column_list=table.names)]
    for column in table.columns:
        name, low, high = column.name, column.minimum, column.maximum
        if not column.nullable:
            wanted.append(expect.ExpectColumnValuesToNotBeNull(column=name))
        if column.allowed:
            options = list(column.allowed)
            wanted.append(expect.ExpectColumnValuesToBeInSet(column=name, value_set=options))
        if low is not None or high is not None:
            wanted.append(
                expect.ExpectColumnValuesToBeBetween(column=name, min_value=low, max_value=high)
            )
    if len(table.key) == 1:
        wanted.append(expect.ExpectColumnValuesToBeUnique(column=table.key[0]))
    return gx.ExpectationSuite(name=table.name, expectations=[*wanted, *more])


def events_suite(behaviours: Iterable[str]) -> Any:
    """Return the suite for EVENTS: its contract, and no other behaviour than these."""
    known = load_gx().expectations.ExpectColumnValuesToBeInSet
    return suite_for(EVENTS, known(column="event_type", value_set=list(behaviours)))


def days_suite() -> Any:
    """Return the suite for the table DAYS: nothing is lost, doubled or filed under a wrong day."""
    expect = load_gx().expectations
    return suite_for(
        DAYS,
        expect.ExpectColumnPairValuesToBeEqual(
            column_A="rows_kept", column_B="rows_in_clean_events"
        ),
        expect.ExpectColumnPairValuesToBeEqual(
            column_A="rows_quarantined", column_B="rows_in_quarantine"
        ),
    )


def drift_suite() -> Any:
    """Return the suite for the table DRIFT: what was measured lies within what is usual."""
    gx = load_gx()
    between = gx.expectations.ExpectColumnPairValuesAToBeGreaterThanB
    ends = (("found", "usual_low"), ("usual_high", "found"))
    return gx.ExpectationSuite(
        name=DRIFT.name,
        expectations=[
            between(column_A=high, column_B=low, or_equal=True, severity="warning")
            for high, low in ends
        ],
    )


# --- the user's own -------------------------------------------------------------------------------


def own_suites(folder: Path) -> list[Run]:
    """Read `<table>*.json`, `.yaml` and `.yml`; a suite is named `own_<file's name>`.

    What a file says about whole days is a suite of its own, `own_<file's name>_by_day`.
    Raises SuiteError for a file that is no suite, or one that cannot be evaluated here.
    """
    if not folder.is_dir():
        raise SuiteError(f"The folder of suites {folder} does not exist.")
    files = [one for one in sorted(folder.iterdir()) if one.suffix in {".json", ".yaml", ".yml"}]
    return [run for file in files for run in _own_suite(file)]


def _own_suite(file: Path) -> list[Run]:
    name = max((name for name in TABLES if file.name.startswith(name)), key=len, default=None)
    if name is None:
        near = get_close_matches(file.stem, TABLES, n=1, cutoff=0.5) or sorted(TABLES)
        raise SuiteError(
            f"{file}: a suite's file name begins with its table, like {near[0]}_mine.json; "
            f"there are {', '.join(TABLES)}."
        )
    gx = load_gx()
    try:
        text = file.read_text()
        content = json.loads(text) if file.suffix == ".json" else yaml.safe_load(text)
        suite = gx.ExpectationSuite(**{**content, "name": f"own_{file.stem}", "id": None})
    except (ValueError, TypeError, yaml.YAMLError, gx.exceptions.GreatExpectationsError) as error:
        raise SuiteError(f"{file} is no suite in GX's format: {error}") from error
    # GX only logs what it does not know, and would let the day pass without it.
    if len(suite.expectations) != len(content.get("expectations", [])):
        read = {one.expectation_type for one in suite.expectations}
        lost = sorted({one["type"] for one in content["expectations"]} - read)
        raise SuiteError(f"{file}: GX has no expectation of type {', '.join(lost)}.")
    for expectation in suite.expectations:
        _check(file, TABLES[name], expectation)
    parts: dict[str, list[Any]] = {"": [], "_by_day": []}
    for one in suite.expectations:
        parts["" if is_row_by_row(one) else "_by_day"].append(one)
    return [
        Run(name, gx.ExpectationSuite(f"{suite.name}{end}", part), own=True, by_day=bool(end))
        for end, part in parts.items()
        if part
    ]


def _check(file: Path, table: Table, expectation: Any) -> None:
    kind = expectation.expectation_type
    if any(part in kind for part in _NOT_HERE):
        raise SuiteError(
            f"{file}: GX cannot run {kind} on DuckDB, by which days are validated; say it as a "
            "regular expression, or in SQL with unexpected_rows_expectation."
        )
    columns = [getattr(expectation, key, None) for key in ("column", "column_A", "column_B")]
    if kind != "expect_table_columns_to_match_ordered_list":
        columns += getattr(expectation, "column_list", None) or ()
    for column in filter(None, columns):
        if column not in table.names:
            near = get_close_matches(column, table.names, n=1) or table.names
            raise SuiteError(
                f"{file}: {table.name} has no column {column}; did you mean {near[0]}?"
            )
        if column in PRIVATE and any(part in kind for part in _LISTING):
            raise SuiteError(
                f"{file}: {kind} would list values of {column} in the reports, where ids and texts "
                "of people do not belong; ask for a count, a length or a pattern instead."
            )
