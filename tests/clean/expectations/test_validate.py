"""Validation of days: a good one passes, a bad one fails by name, GX counts what Polars counts."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, date, datetime

import polars as pl
import pytest

from seq_ml.clean.expectations.docs import history_page, record_validations
from seq_ml.clean.expectations.gx import load_gx
from seq_ml.clean.expectations.suites import TABLES
from seq_ml.clean.expectations.validate import validate_days as validate_folder
from seq_ml.clean.expectations.views import WRITTEN
from seq_ml.schema import EVENTS, QUARANTINED
from seq_ml.schema.stages import COUNTS, VALIDATIONS
from tests.clean.expectations.days import (
    BAD_DAYS,
    DAY,
    Cleaned,
    cleaned_of,
    days_of,
    expectation,
    failed,
    plant,
    validate_days,
    write,
    write_folder,
)


def test_good_days_pass_and_the_data_docs_show_them(ten_days, tmp_path):
    results = validate_days(ten_days, tmp_path / "docs")
    assert [result.day for result in results] == ten_days.counts["event_date"].to_list()
    assert all(result.success and not result.failed for result in results)
    for result, (rows,) in zip(results, ten_days.counts.select("rows_read").rows(), strict=True):
        assert result.statistics["rows_read"] == result.statistics["rows_kept"] == rows
        assert not result.warnings
        assert result.statistics["expectations"] > 40

    index = (tmp_path / "docs" / "index.html").read_text()
    for name in TABLES:
        (page,) = (tmp_path / "docs" / "validations" / name).rglob("*.html")
        assert f'href="{page.relative_to(tmp_path / "docs")}"' in index
        assert (tmp_path / "docs" / "expectations" / f"{name}.html").exists()
    assert "event_type" in next(tmp_path.rglob("clean-clean_events.html")).read_text()
    assert "failed" not in index


def test_pages_need_nothing_from_elsewhere(ten_days, tmp_path):
    """They load nothing and call nobody: every reference is to another page of the site."""
    validate_days(plant(ten_days, [DAY], quantity=-1.0), tmp_path)
    pages = list(tmp_path.rglob("*.html"))
    assert len(pages) == 1 + 2 * len(TABLES) + 1
    for page in pages:
        text = page.read_text()
        assert "<style>" in text
        assert not re.search(r"<script|<img|<link|url\(|@import|newsletter", text)
        for target in re.findall(r'(?:href|src)="([^"#]*)', text):
            assert not target.startswith(("http", "//"))
            if target and "all runs" not in text:
                assert (page.parent / target).exists(), target


def test_bad_days_fail_by_name_and_the_others_pass(ten_days, tmp_path):
    bad = plant(ten_days, BAD_DAYS, quantity=-1.5)
    results = failed(validate_days(bad, tmp_path))
    claim = (
        "clean_events: quantity values must be greater than or equal to 0.0 and less than or equal "
        "to 1000000.0"
    )
    found = "3 rows break it, for example -1.5"
    assert results == {day: (f"{day}: {claim}: {found}.",) for day in BAD_DAYS}
    index = (tmp_path / "index.html").read_text()
    assert index.count("failed</span>") == 2 * len(BAD_DAYS) + 1  # days, their pages, the range
    assert index.count(f"{claim}: {found}.") == len(BAD_DAYS)
    # The failed days have pages of their own.
    names = {page.stem for page in tmp_path.rglob("validations/**/*.html")}
    assert {f"clean-clean_events-{day}" for day in BAD_DAYS} <= names


def test_a_single_bad_day_fails(one_day, tmp_path):
    results = validate_days(plant(one_day, [DAY], event_type="buy"), tmp_path)
    (sentence,) = failed(results)[DAY]
    assert sentence.startswith(
        f"{DAY}: clean_events: event_type values must belong to this set: view "
    )
    assert sentence.endswith("3 rows break it, for example buy.")


def test_counts_agree_with_polars(ten_days, tmp_path):
    """GX's unexpected counts, day by day, are those of the same conditions in Polars."""
    events = ten_days.events.with_row_index("n").with_columns(
        quantity=pl.when(pl.col("n") % 7 == 0).then(-1.0).otherwise("quantity"),
        unit_price=pl.when(pl.col("n") % 11 == 0).then(float("nan")).otherwise("unit_price"),
        user_id=pl.when(pl.col("n") % 13 != 0).then("user_id"),
        event_type=pl.when(pl.col("n") % 17 == 0).then(pl.lit("x")).otherwise("event_type"),
        event_id=pl.when(pl.col("n").is_in([1, 2, 50])).then(pl.lit("x")).otherwise("event_id"),
    )
    results = validate_days(replace(ten_days, events=events.drop("n")), tmp_path)
    conditions = {
        "clean_events: quantity values must be greater": pl.col("quantity") < 0,
        "clean_events: unit_price values must": ~pl.col("unit_price").is_between(0, 1_000_000),
        "clean_events: user_id values must never be null": pl.col("user_id").is_null(),
        "clean_events: event_type values must belong": pl.col("event_type") == "x",
        "clean_days: repeated_in_clean_events values must be": (
            (pl.col("event_id") == "x") & pl.col("event_id").is_duplicated().over("event_date")
        ),
    }
    for claim, condition in conditions.items():
        expected = dict(events.filter(condition).group_by("event_date").len().rows())
        assert expected
        found = {
            result.day: int(re.search(r"(\d+)", sentence.rsplit(": ", 1)[1])[1])
            for result in results
            for sentence in result.failed
            if claim in sentence
        }
        assert found == expected, claim


def test_lost_rows_fail_the_day(ten_days, tmp_path):
    lossy = ten_days.counts.with_columns(
        rows_kept=pl.when(pl.col("event_date") == DAY)
        .then(pl.col("rows_kept") - 1)
        .otherwise("rows_kept")
    )
    results = failed(validate_days(replace(ten_days, counts=lossy), tmp_path))
    assert list(results) == [DAY]
    for claim, what in (
        ("rows_unaccounted values must be greater than or equal to 0.0", "found 1"),
        ("Values in rows_kept and rows_in_clean_events must always be equal", "found 70 and 71"),
    ):
        (sentence,) = [one for one in results[DAY] if claim in one]
        assert sentence.endswith(f": {what}.")


def test_a_day_of_which_nothing_was_published_fails_where_a_suite_asks_for_rows(one_day, tmp_path):
    n = one_day.events.height
    quarantined = pl.DataFrame(
        {
            "table": "events",
            "source_file": one_day.counts["source_file"][0],
            "row_number": range(1, n + 1),
            "part": 0,
            "rule": "future",
            "column": "event_time",
            "value": "2999-01-01",
            "event_date": DAY,
        },
        schema=QUARANTINED.polars_schema(),
    )
    counts = one_day.counts.with_columns(rows_kept=0, rows_quarantined="rows_read")
    rejected = Cleaned(one_day.events.clear(), quarantined, counts.cast(COUNTS.polars_schema()))
    suites = write(
        tmp_path / "suites",
        "clean_days.json",
        expectation(
            "expect_column_values_to_be_between", column="rows_in_clean_events", min_value=1
        ),
    )
    assert not failed(validate_days(rejected, tmp_path / "a"))  # no file of events
    (sentence,) = failed(validate_days(rejected, tmp_path / "b", suites_folder=suites))[DAY]
    assert "rows_in_clean_events values must be greater than or equal to 1.0: found 0" in sentence


def test_what_cannot_be_pinned_to_a_day_fails_all_days(ten_days, tmp_path):
    events = ten_days.events
    dayless = events.with_columns(event_date=pl.when(pl.int_range(pl.len()) > 0).then("event_date"))
    days = ten_days.counts["event_date"].to_list()
    for name, broken in (("dayless", dayless), ("column", events.rename({"text": "words"}))):
        assert (
            list(failed(validate_days(replace(ten_days, events=broken), tmp_path / name))) == days
        )


def test_no_days_no_docs(one_day, tmp_path):
    nothing = Cleaned(one_day.events.clear(), one_day.quarantined, one_day.counts.clear())
    assert validate_days(nothing, tmp_path / "docs") == []
    assert not (tmp_path / "docs").exists()


def test_rows_of_a_day_that_was_not_cleaned_are_refused(ten_days, tmp_path):
    folder = write_folder(ten_days, tmp_path / "folder")
    days = [day for day in ten_days.counts["event_date"] if day != DAY]
    with pytest.raises(ValueError, match=f"holds rows of {DAY}, which is not among its days"):
        validate_folder(folder, days, tmp_path / "docs")
    assert {one.name for one in folder.iterdir()} == {table.name for table in WRITTEN}


def test_keys_are_unique_within_their_day(ten_days, tmp_path):
    """The same id on two days is two events; a file counted twice on a day is not."""
    events = ten_days.events
    again = events.filter(event_date=DAY).head(2)
    day = BAD_DAYS[1]
    other = again.with_columns(event_date=pl.lit(day), event_time=pl.lit(datetime(2017, 3, 7, 12)))
    both = pl.concat([events, other.cast(EVENTS.polars_schema())])
    assert not failed(validate_days(cleaned_of(both.sort("event_date")), tmp_path / "a"))

    counts = pl.concat([ten_days.counts, ten_days.counts.filter(event_date=day).clear()])
    twice = replace(ten_days, counts=pl.concat([counts, counts.filter(event_date=day)]))
    results = failed(validate_days(twice, tmp_path / "b"))
    assert list(results) == [day]
    claim = "clean_days: repeated_in_clean_counts values must be greater than or equal to 0.0"
    assert any(claim in sentence for sentence in results[day])


def test_an_event_under_another_day_fails_it(ten_days, tmp_path):
    moved = ten_days.events.with_columns(
        event_time=pl.when(pl.int_range(pl.len()) == 0)
        .then(pl.col("event_time") - pl.duration(days=1))
        .otherwise("event_time")
    )
    (sentence,) = failed(validate_days(replace(ten_days, events=moved), tmp_path))[date(2017, 3, 1)]
    assert "clean_days: rows_of_another_day values must be" in sentence
    assert sentence.endswith(": found 1.")


def test_every_verdict_is_kept_and_shown(tables, ten_days, tmp_path):
    bad = plant(ten_days, [DAY], channel="<fax>", quantity=-1.0)
    for run, cleaned in (("first", bad), ("second", days_of(DAY, DAY))):
        results = validate_days(cleaned, tmp_path / run / "001")
        record_validations(tables, tmp_path / run, results)
    kept = tables.scan(VALIDATIONS.name).collect()
    assert kept.columns == VALIDATIONS.names
    assert kept.group_by("run_id").len().sort("run_id").rows() == [("first", 10), ("second", 1)]
    (why,) = kept.filter(~pl.col("success"))["failed"].to_list()
    assert "quantity values must be greater than or equal to 0.0" in why[0]
    page = (tmp_path / "index.html").read_text()
    assert tables.objects.get("site/data_docs/index.html").decode() == page
    assert page.index(">second</a>") < page.index(">first</a>")  # the newest first
    assert "1 of 10" in page
    for target in re.findall(r'href="([^"]*)"', page):
        assert (tmp_path / target).exists()
    # As they stand: the day was mended by the second run.
    assert page.count("failed</span>") == 1
    assert f'<a href="second/001/index.html">{DAY}</a>' in page

    # A run that is recorded again after a crash counts once.
    record_validations(tables, tmp_path / "second", results)
    assert history_page(tables.scan(VALIDATIONS.name)).count(">second</a>") == 1


def test_instants_are_utc_whatever_the_machine_says(one_day, tmp_path, monkeypatch):
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    times = one_day.events["event_time"]
    suites = write(
        tmp_path / "suites",
        "clean_events.json",
        expectation(
            "expect_column_values_to_be_between",
            column="event_time",
            min_value=times.min().replace(tzinfo=None).isoformat(),
            max_value=times.max().replace(tzinfo=None).isoformat(),
        ),
    )
    assert times.max() > datetime(2017, 3, 4, 1, tzinfo=UTC)
    assert not failed(validate_days(one_day, tmp_path / "docs", suites_folder=suites))


def test_great_expectations_keeps_one_connection_to_duckdb():
    """The private name behind the work-around is still there, and is extended once."""
    gx = load_gx()
    load_gx()
    from great_expectations.execution_engine import sqlalchemy_execution_engine as engine

    known = [dialect.value for dialect in engine._PERSISTED_CONNECTION_DIALECTS]
    assert known.count("duckdb") == 1
    assert "sqlite" in known
    assert gx.__version__ == "1.24.1"


def test_importing_the_stage_imports_no_great_expectations():
    code = (
        "import sys, seq_ml.clean.expectations.validate, seq_ml.clean.expectations.profiles\n"
        "assert not {'great_expectations', 'duckdb', 'pandas'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
