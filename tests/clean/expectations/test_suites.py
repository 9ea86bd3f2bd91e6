"""Suites: generated from the contracts, and the user's own in a folder."""

from __future__ import annotations

import re

import polars as pl
import pytest

from seq_ml.clean.expectations.suites import SuiteError, suite_for
from seq_ml.schema import EVENTS, QUARANTINED, RECOMMENDATIONS
from seq_ml.schema.stages import COUNTS, DAYS
from tests import ROOT
from tests.clean.expectations.days import (
    BAD_DAYS,
    DAY,
    cleaned_of,
    expectation,
    failed,
    plant,
    validate_days,
    write,
)


def test_own_suites_run_too(ten_days, tmp_path):
    suites = write(
        tmp_path / "suites",
        "clean_events_rows.json",
        expectation(
            "expect_column_values_to_be_in_set", column="channel", value_set=["store", "mail"]
        ),
        expectation(
            "expect_column_values_to_be_between", column="quantity", max_value=2, severity="warning"
        ),
    )
    bad = plant(ten_days, [DAY], channel="fax")
    results = validate_days(bad, tmp_path / "docs", suites_folder=suites)
    claim = "clean_events: channel values must belong to this set: store mail"
    found = "3 rows break it, for example fax (suite own_clean_events_rows)"
    assert failed(results) == {DAY: (f"{DAY}: {claim}: {found}.",)}
    warned = {result.day for result in results if result.warnings}
    assert warned == set(bad.events.filter(pl.col("quantity") > 2)["event_date"])
    assert "own_clean_events_rows" in (tmp_path / "docs" / "index.html").read_text()


def test_the_documented_suite_runs(ten_days, tmp_path):
    docs = (ROOT / "docs" / "expectations.md").read_text()
    (suite,) = re.findall(r"```yaml\n(# suites/(\S+)\n.*?)```", docs, re.DOTALL)
    (tmp_path / suite[1]).write_text(suite[0])
    results = validate_days(ten_days, tmp_path / "docs", suites_folder=tmp_path)
    for result in results:
        assert len(result.failed) == 2  # neither such items nor so many rows
        assert "greater than or equal to 1000 rows: found" in result.failed[1]
        assert len(result.warnings) == 1


def test_own_expectations_about_a_whole_day_are_run_day_by_day(ten_days, tmp_path):
    suites = write(
        tmp_path / "suites",
        "clean_events.json",
        expectation("expect_column_max_to_be_between", column="quantity", max_value=500),
        expectation(
            "unexpected_rows_expectation",
            unexpected_rows_query=(
                "SELECT * FROM {batch} WHERE NOT regexp_matches(user_id, '^[0-9a-f]+$')"
            ),
        ),
    )
    bad = plant(plant(ten_days, BAD_DAYS[:1], quantity=501.0), BAD_DAYS[1:], user_id="Mr Smith")
    events = bad.events.filter((pl.col("quantity") <= 501) | pl.col("quantity").is_null())
    results = failed(validate_days(cleaned_of(events), tmp_path / "docs", suites_folder=suites))
    assert list(results) == BAD_DAYS
    assert "found 501.0" in results[BAD_DAYS[0]][0]
    assert "found 3" in results[BAD_DAYS[1]][0]


def test_an_expectation_that_cannot_be_evaluated_fails_the_days(one_day, tmp_path):
    suites = write(
        tmp_path / "suites",
        "clean_events.json",
        expectation("expect_column_values_to_match_regex", column="user_id", regex="^[0-9a-f"),
    )
    results = validate_days(one_day, tmp_path / "docs", suites_folder=suites)
    (sentence,) = failed(results)[DAY]
    assert "it cannot be evaluated" in sentence
    assert "missing ]" in sentence


@pytest.mark.parametrize(
    ("kind", "kwargs", "condition"),
    [
        ("match_regex", {"regex": "^[0-9a-f]+$"}, ~pl.col("user_id").str.contains("^[0-9a-f]+$")),
        ("match_regex", {"regex": "a%b:c'"}, ~pl.col("user_id").str.contains("a%b:c'")),
        ("match_regex", {"regex": r"^[\da-f]+$"}, ~pl.col("user_id").str.contains("^[0-9a-f]+$")),
        ("not_match_regex", {"regex": "^a"}, pl.col("user_id").str.contains("^a")),
        (
            "match_regex_list",
            {"regex_list": ["^a", "b$"], "match_on": "any"},
            ~pl.col("user_id").str.contains("^a|b$"),
        ),
        ("not_match_regex_list", {"regex_list": ["^a"]}, pl.col("user_id").str.contains("^a")),
        ("match_like_pattern", {"like_pattern": "%a"}, ~pl.col("user_id").str.ends_with("a")),
        ("not_match_like_pattern", {"like_pattern": "a%"}, pl.col("user_id").str.contains("^a")),
    ],
)
def test_patterns_work_on_duckdb(ten_days, tmp_path, kind, kwargs, condition):
    suites = write(
        tmp_path / "suites",
        "clean_events.json",
        expectation(f"expect_column_values_to_{kind}", column="user_id", **kwargs),
    )
    ours = plant(ten_days, [DAY], user_id="Mr a%b:c' Smith")
    results = validate_days(ours, tmp_path / "docs", suites_folder=suites)
    expected = dict(ours.events.filter(condition).group_by("event_date").len().rows())
    found = {
        day: int(re.search(r"(\d+) rows? break", one)[1]) for day, (one,) in failed(results).items()
    }
    assert found == expected
    pages = "".join(page.read_text() for page in (tmp_path / "docs").rglob("*.html"))
    assert "Smith" not in pages + str(results)  # whose row it was is nobody's business


def test_suites_in_yaml_and_shares_of_a_day(ten_days, tmp_path):
    """`mostly` is judged day by day, in one run for all days."""
    (tmp_path / "clean_events_shares.yml").write_text(
        """
        expectations:
          - type: expect_column_values_to_not_be_null
            kwargs: {column: item_id, mostly: 0.97}
            severity: warning
          - type: expect_column_values_to_be_between
            kwargs: {column: quantity, max_value: 1, mostly: 0.8}
            severity: warning
        """
    )
    results = validate_days(ten_days, tmp_path / "docs", suites_folder=tmp_path)
    quantity = pl.col("quantity")
    shares = ten_days.events.group_by("event_date").agg(
        named=1 - pl.col("item_id").null_count() / pl.len(),
        single=(quantity <= 1).sum() / quantity.count(),
    )
    for part, condition in (
        ("item_id values must not be null, at least 97 % of the time", pl.col("named") < 0.97),
        (
            "quantity values must be less than or equal to 1.0, at least 80 %",
            pl.col("single") < 0.8,
        ),
    ):
        expected = set(shares.filter(condition)["event_date"])
        assert 0 < len(expected) < 10
        assert {one.day for one in results if any(part in w for w in one.warnings)} == expected
    assert all(result.success for result in results)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("clean_event.json", "{}", "clean_events_mine.json"),
        ("clean_events.json", "{", "no suite in GX's format"),
        ("clean_events.json", "[]", "no suite in GX's format"),
        ("clean_events.yaml", "{", "no suite in GX's format"),
        (
            "clean_events.yaml",
            "expectations: [{type: expect_column_to_exist, kwargs: {column: chanel}}]",
            "no column chanel; did you mean channel",
        ),
        (
            "clean_events.yaml",
            "expectations: [{type: expect_column_values_to_be_increasing, kwargs: {column: text}}]",
            "cannot run expect_column_values_to_be_increasing on DuckDB",
        ),
        (
            "clean_events.yaml",
            "expectations: [{type: expect_column_max_to_be_between, kwargs: {column: text}}]",
            "would list values of text",
        ),
        (
            "clean_events.yaml",
            """
            expectations:
              - type: expect_column_quantile_values_to_be_between
                kwargs: {column: rating, quantile_ranges: {quantiles: [0], value_ranges: [[5, 6]]}}
            """,
            "cannot run expect_column_quantile_values_to_be_between",
        ),
        (
            "clean_events.json",
            '{"expectations": [{"type": "expect_wonders", "kwargs": {}}]}',
            "no expectation of type expect_wonders",
        ),
        (
            "clean_events.json",
            '{"expectations": [{"type": "expect_column_to_exist", "kwargs": {"colum": "a"}}]}',
            "colum",
        ),
    ],
)
def test_a_suite_that_cannot_be_used_is_named(one_day, tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(SuiteError, match=message):
        validate_days(one_day, tmp_path / "docs", suites_folder=tmp_path)


def test_a_missing_folder_of_suites_is_named(one_day, tmp_path):
    with pytest.raises(SuiteError, match="does not exist"):
        validate_days(one_day, tmp_path / "docs", suites_folder=tmp_path / "nowhere")


@pytest.mark.parametrize("table", [EVENTS, QUARANTINED, COUNTS, DAYS, RECOMMENDATIONS])
def test_suites_follow_the_contracts(table):
    suite = suite_for(table)
    by_kind: dict[str, list[object]] = {}
    for one in suite.expectations:
        by_kind.setdefault(one.expectation_type, []).append(one)
    assert suite.name == table.name
    (columns,) = by_kind["expect_table_columns_to_match_ordered_list"]
    assert columns.column_list == table.names
    required = {column.name for column in table.columns if not column.nullable}
    assert {one.column for one in by_kind["expect_column_values_to_not_be_null"]} == required
    limited = {c.name for c in table.columns if c.minimum is not None or c.maximum is not None}
    ranges = by_kind.get("expect_column_values_to_be_between", [])
    assert {one.column for one in ranges} == limited
    sets = by_kind.get("expect_column_values_to_be_in_set", [])
    assert {one.column for one in sets} == {c.name for c in table.columns if c.allowed}
    # A key of several columns is checked by `clean_days`.
    alone = table.key if len(table.key) == 1 else ()
    unique = by_kind.get("expect_column_values_to_be_unique", [])
    assert tuple(one.column for one in unique) == alone
