"""Validation of days: a good one passes, a bad one fails by name, GX counts what Polars counts."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import polars as pl
import pytest

from seq_ml.clean.expectations.gx import load_gx
from seq_ml.clean.expectations.runs import history_page, record_validations
from seq_ml.clean.expectations.suites import TABLES, SuiteError, suite_for
from seq_ml.clean.expectations.validate import validate_days as validate_folder
from seq_ml.clean.expectations.views import WRITTEN
from seq_ml.schema import EVENTS, QUARANTINED, RECOMMENDATIONS
from seq_ml.schema.stages import COUNTS, DAYS, VALIDATIONS
from tests import ROOT
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
        return validate_folder(folder, sorted(days - {None}), docs_folder, **options)


def days_of(first: date, last: date) -> Cleaned:
    events = journey()["clean_events"].filter(pl.col("event_date").is_between(first, last))
    assert events.height > 20
    return cleaned_of(events)


@pytest.fixture(scope="module")
def one_day() -> Cleaned:
    return days_of(DAY, DAY)


@pytest.fixture(scope="module")
def ten_days() -> Cleaned:
    return days_of(date(2017, 3, 1), date(2017, 3, 10))


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


def test_good_days_pass_and_the_data_docs_show_them(ten_days, tmp_path):
    results = validate_days(ten_days, tmp_path / "docs")
    assert [result.day for result in results] == ten_days.counts["event_date"].to_list()
    assert all(result.success and not result.failed for result in results)
    for result, (rows,) in zip(results, ten_days.counts.select("rows_read").rows(), strict=True):
        assert result.statistics["rows_read"] == result.statistics["rows_kept"] == rows
        assert result.statistics["expectations_failed"] == 0
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
    claim = "clean_events.quantity must be at least 0 and at most 1000000.0"
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
    assert sentence.startswith(f"{DAY}: clean_events.event_type must be one of view, search")
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
        "clean_events.quantity must be at least": pl.col("quantity") < 0,
        "clean_events.unit_price must be at least": ~pl.col("unit_price").is_between(0, 1_000_000),
        "clean_events.user_id must not be null": pl.col("user_id").is_null(),
        "clean_events.event_type must be one of": pl.col("event_type") == "x",
        "clean_days.repeated_in_clean_events must be exactly 0": (
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
    for claim in (
        "clean_days.rows_unaccounted must be exactly 0: found 1",
        "clean_days must have rows_kept equal to rows_in_clean_events: found 70 and 71",
    ):
        assert any(claim in sentence for sentence in results[DAY])


def test_a_day_has_between_min_and_max_rows(ten_days, tmp_path):
    rows = dict(ten_days.counts.select("event_date", "rows_kept").rows())
    low, high = min(rows.values()) + 1, max(rows.values()) - 1
    results = failed(validate_days(ten_days, tmp_path, min_rows=low, max_rows=high))
    assert set(results) == {day for day, count in rows.items() if not low <= count <= high}


def test_a_day_of_which_nothing_was_published_fails(one_day, tmp_path):
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
    (sentence,) = failed(validate_days(rejected, tmp_path / "a"))[DAY]  # no file of events
    assert "rows_in_clean_events must be at least 1: found 0" in sentence
    assert not failed(validate_days(rejected, tmp_path / "b", min_rows=0))


def test_what_cannot_be_pinned_to_a_day_fails_all_days(ten_days, tmp_path):
    events = ten_days.events
    dayless = events.with_columns(event_date=pl.when(pl.int_range(pl.len()) > 0).then("event_date"))
    days = ten_days.counts["event_date"].to_list()
    for name, broken in (("dayless", dayless), ("column", events.rename({"text": "words"}))):
        assert (
            list(failed(validate_days(replace(ten_days, events=broken), tmp_path / name))) == days
        )


def write(folder, name, *expectations):
    folder.mkdir(exist_ok=True)
    suite = {"name": "mine", "expectations": list(expectations), "meta": {}}
    (folder / name).write_text(json.dumps(suite))
    return folder


def expectation(kind, severity="critical", **kwargs):
    return {"type": kind, "kwargs": kwargs, "meta": {}, "severity": severity}


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
    claim = "clean_events.channel must be one of store, mail"
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
        assert "row count" in result.failed[1]
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
        ("item_id must not be null in 97% of the rows", pl.col("named") < 0.97),
        ("quantity must be at most 1 in 80% of the rows", pl.col("single") < 0.8),
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
            "exists for pandas only",
        ),
        (
            "clean_events.yaml",
            "expectations: [{type: expect_column_max_to_be_between, kwargs: {column: text}}]",
            "would list values of text",
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
    claim = "clean_days.repeated_in_clean_counts must be exactly 0: found 2"
    assert any(claim in sentence for sentence in results[day])


def test_an_event_under_another_day_fails_it(ten_days, tmp_path):
    moved = ten_days.events.with_columns(
        event_time=pl.when(pl.int_range(pl.len()) == 0)
        .then(pl.col("event_time") - pl.duration(days=1))
        .otherwise("event_time")
    )
    (sentence,) = failed(validate_days(replace(ten_days, events=moved), tmp_path))[date(2017, 3, 1)]
    assert "clean_days.rows_of_another_day must be exactly 0: found 1" in sentence


def test_every_verdict_is_kept_and_shown(tables, ten_days, tmp_path):
    bad = plant(ten_days, [DAY], channel="<fax>", quantity=-1.0)
    for run, cleaned in (("first", bad), ("second", days_of(DAY, DAY))):
        results = validate_days(cleaned, tmp_path / run / "001")
        record_validations(tables, tmp_path / run, results)
    kept = tables.scan(VALIDATIONS.name).collect()
    assert kept.columns == VALIDATIONS.names
    assert kept.group_by("run_id").len().sort("run_id").rows() == [("first", 10), ("second", 1)]
    (why,) = kept.filter(~pl.col("success"))["failed"].to_list()
    assert "quantity must be at least 0" in why[0]
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
