"""The generated click log: its truth is what lies in the files, and what the pipeline finds."""

from __future__ import annotations

import io
from datetime import date
from typing import TYPE_CHECKING

import polars as pl
import pytest

from benchmarks.click_log import BAD_KINDS, FIRST_DAY, MAPPING, SOURCE, ClickLog, generate
from seq_ml.clean.publish import publish_days
from seq_ml.ingest.ingest import ingest
from seq_ml.ingest.ledger import Ledger
from seq_ml.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path

    from seq_ml.storage.objects import ObjectStore
    from seq_ml.storage.tables import TableStore

SMALL = ClickLog(20_000, days=6)
SETTINGS = Settings(pseudonym_key="5e" * 32, stable_seconds=0, first_day=FIRST_DAY)


def files_of(log: ClickLog) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    generate(log, files.__setitem__)
    return files


@pytest.fixture(scope="module")
def rows() -> pl.DataFrame:
    """Every event row of the small log with the path of its file."""
    return pl.concat(
        pl.read_parquet(io.BytesIO(body)).with_columns(path=pl.lit(path))
        for path, body in files_of(SMALL).items()
        if path.startswith("days/") and body
    )


def test_the_same_arguments_give_the_same_bytes() -> None:
    assert files_of(ClickLog(3_000, days=3)) == files_of(ClickLog(3_000, days=3))
    assert files_of(ClickLog(3_000, days=3)) != files_of(ClickLog(3_000, days=3, seed=8))


@pytest.mark.parametrize("log", [ClickLog(1_000, days=90), ClickLog(1_001, days=4), SMALL], ids=str)
def test_the_truth_adds_up(log: ClickLog) -> None:
    truth = generate(log, lambda _path, _body: None)
    assert truth.rows == log.events
    assert truth.rows == truth.kept + truth.duplicates + truth.quarantined


def test_the_truth_is_what_lies_in_the_files(rows: pl.DataFrame) -> None:
    truth = generate(SMALL, lambda _path, _body: None)
    assert rows.height == truth.rows
    assert rows.height - rows["event_id"].n_unique() == truth.duplicates
    # a row that is sent again is the same row, in a file of its own
    again = rows.filter(pl.col("path").str.ends_with("resent.parquet"))
    assert again.height == truth.duplicates
    assert again.drop("path").join(rows.drop("path"), on=rows.columns[:-1]).height >= again.height
    first = rows.filter(~pl.col("path").str.ends_with("resent.parquet"))
    assert first["event_id"].n_unique() == first.height
    bad = {
        "unknown type": pl.col("event_type") == "hover",
        "negative price": pl.col("price") < 0,
        "no user": pl.col("user_id").is_null(),
        "time of 1970": pl.col("event_time").dt.year() == 1970,
        "time of 2099": pl.col("event_time").dt.year() == 2099,
    }
    assert {name: rows.filter(bad[name]).height for name in BAD_KINDS} == truth.bad
    assert all(truth.bad.values())
    sound = first.filter(~pl.any_horizontal(p.fill_null(value=False) for p in bad.values()))
    people = sound.filter(pl.col("user_id") < 900_000_000)
    assert sound.height - people.height == truth.bots
    per_day = dict(people.group_by(pl.col("event_time").dt.date()).len().iter_rows())
    assert per_day == truth.kept_per_day
    drop_day = pl.col("path").str.split("/").list.get(1).str.to_date()
    delay = people.select(d=(drop_day - pl.col("event_time").dt.date()).dt.total_days())["d"]
    assert (delay > 0).sum() == truth.late
    assert delay.is_between(0, 3).all()


def test_bots_are_fast_and_people_are_not(rows: pl.DataFrame) -> None:
    pace = (
        rows.unique("event_id")
        .filter(pl.col("user_id").is_not_null(), pl.col("event_time").dt.year() == FIRST_DAY.year)
        .group_by("user_id", pl.col("event_time").dt.truncate("1m"))
        .len()
        .with_columns(bot=pl.col("user_id") >= 900_000_000)
    )
    assert pace.filter("bot")["len"].min() == 240
    assert pace.filter(~pl.col("bot"))["len"].max() < 60


def test_what_is_bought_was_viewed_before_in_the_same_visit(rows: pl.DataFrame) -> None:
    visit = ["user_session", "product_id"]
    viewed = rows.filter(event_type="view").group_by(visit).agg(first=pl.col("event_time").min())
    bought = rows.filter(pl.col("event_type") == "purchase", pl.col("event_time").dt.year() == 2025)
    seen = bought.unique("event_id").join(viewed, on=visit, how="left")
    share = seen.select((pl.col("first") < pl.col("event_time")).fill_null(value=False).mean())
    assert share.item() > 0.97  # the rest lost its view to a broken clock or type


@pytest.mark.slow
@pytest.mark.parametrize("given_ids", [True, False], ids=["given ids", "derived ids"])
def test_the_pipeline_finds_exactly_the_truth(
    objects: ObjectStore, tables: TableStore, tmp_path: Path, given_ids: bool
) -> None:
    mapping = MAPPING if given_ids else MAPPING.replace("      event_id: event_id\n", "")
    objects.put(f"sources/{SOURCE}.yaml", mapping.encode())
    truth = generate(SMALL, lambda path, body: objects.put(f"drops/{SOURCE}/{path}", body))
    assert ingest(objects, tables, SETTINGS).refused == []
    ledger = Ledger(tables)
    for day in range(2):  # again: what is clean stays closed
        days = [date.fromisoformat(d) for d in ledger.unclean_partitions("events")]
        if days:
            assert publish_days(tables, SETTINGS, days, tmp_path / str(day)).failed == []
    drops = ledger.current().filter(pl.col("table") == "events")
    assert drops["status"].unique().to_list() == ["clean"]
    counted = drops.select(pl.col("^rows_.*$").sum()).row(0, named=True)
    assert counted == {
        "rows_read": truth.rows,
        "rows_kept": truth.kept,
        "rows_duplicate": truth.duplicates,
        "rows_quarantined": truth.quarantined,
    }
    clean = tables.scan("clean_events").group_by("event_date").len().collect()
    assert dict(clean.iter_rows()) == truth.kept_per_day
    assert tables.scan("quarantined_events").select(pl.len()).collect().item() == truth.quarantined
