"""A day that does not fit into memory is cleaned by slices of its users, with the same result."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import TYPE_CHECKING

import polars as pl
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seq_ml.business import Business, Cleaning
from seq_ml.clean import parts, publish
from seq_ml.clean.parts import CleanPart, clean_part
from seq_ml.schema import EVENTS, QUARANTINED
from seq_ml.schema.stages import COUNTS
from seq_ml.storage.contracts import check_key, conform
from tests.shop import SETTINGS, Shop, day_of, event
from tests.staged import FIRST_DAY, LIMITS, rows, staged_rows

if TYPE_CHECKING:
    from pathlib import Path

BUSINESS = Business(cleaning=Cleaning(**LIMITS))


def cleaned(frame: pl.DataFrame, folder: Path) -> CleanPart:
    """The folder of all days of a frame."""
    sizes = dict(frame.group_by("event_date").len().rows())
    return clean_part(
        lambda days: frame.lazy().filter(pl.col("event_date").is_in(list(days))),
        sizes,
        folder,
        first_day=FIRST_DAY,
        business=BUSINESS,
    )


def content(part: CleanPart) -> list[pl.DataFrame]:
    """All rows of a part, table by table, each in the order of its key."""
    found = [part.counts, part.rules]
    for table in (EVENTS, QUARANTINED, COUNTS):
        files = sorted((part.folder / table.name).glob("*.parquet"))
        empty = pl.DataFrame(schema=table.polars_schema())
        frame = pl.concat([empty, *(pl.read_parquet(file) for file in files)]).sort(table.key)
        check_key(conform(frame, table), table)
        found.append(frame)
    return found


def assert_same(frame: pl.DataFrame, at_once: int, folder: Path) -> None:
    """Slices and steps of `at_once` rows give what one step gives."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parts, "ROWS_AT_ONCE", at_once)
        sliced = content(cleaned(frame, folder / "sliced"))
    whole = content(cleaned(frame, folder / "whole"))
    for one, other in zip(sliced, whole, strict=True):
        assert one.equals(other)


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(staged_rows(), st.sampled_from([1, 2, 5, 13]))
def test_slices_give_the_whole(tmp_path_factory, frame, at_once):
    assert_same(frame, at_once, tmp_path_factory.mktemp("slices"))


@pytest.mark.slow
def test_ids_that_users_share_are_decided_across_slices(tmp_path):
    shared = [
        {"event_id": f"s:{n % 5}", "user_id": f"u{n}", "row_number": 100 - n} for n in range(40)
    ]
    broken = [{"event_id": "s:0", "user_id": f"b{n}", "quantity": -1.0} for n in range(9)]
    repeats = [{"event_id": "ab", "user_id": "u1", "row_number": 200 + n} for n in range(3)]
    frame = rows(*shared, *({**b, "row_number": 300 + n} for n, b in enumerate(broken)), *repeats)
    for at_once in (1, 4, 17):
        assert_same(frame, at_once, tmp_path / str(at_once))
    events = content(cleaned(frame, tmp_path / "events"))[2]
    assert sorted(events["event_id"]) == [
        "ab", "ab-1", "ab-2", "s:0", "s:1", "s:2", "s:3", "s:4"
    ]  # fmt: skip


def test_a_file_holds_one_day_and_no_statistics(tmp_path):
    tomorrow = {"event_date": date(2017, 3, 5), "event_time": datetime(2017, 3, 5, tzinfo=UTC)}
    frame = rows({}, tomorrow, {"quantity": -1.0}, {"event_id": "own", **tomorrow})
    part = cleaned(frame, tmp_path / "part")
    assert part.days == [date(2017, 3, 4), date(2017, 3, 5)]
    for table in (EVENTS, QUARANTINED):
        files = part.files(table, part.days)
        for day, paths in files.items():
            for path in paths:
                assert pl.read_parquet(path)["event_date"].unique().to_list() == [day]
    assert [len(paths) for paths in part.files(QUARANTINED, part.days).values()] == [1, 0]
    group = pq.ParquetFile(part.files(EVENTS, part.days)[part.days[0]][0]).metadata.row_group(0)
    assert not any(group.column(n).is_stats_set for n in range(group.num_columns))


@pytest.mark.slow
@pytest.mark.parametrize("at_once", [2, 1_000])
def test_published_tables_do_not_depend_on_the_steps(objects, tmp_path, monkeypatch, at_once):
    shop = Shop(objects)
    users = [f"user{n}" for n in range(9)]
    shop.drop(
        "events/a.csv",
        *(event(1, customer=user) for user in users),
        *(event(day) for day in (1, 1, 2, 3)),
        "anna,buy,tea,2024-06-02,-3,1\n",
    )
    shop.drop("events/b.csv", *(event(1, customer=user) for user in users[:4]))
    shop.ingest()
    monkeypatch.setattr(parts, "ROWS_AT_ONCE", at_once)
    monkeypatch.setattr(publish, "ROWS_PER_PART", 2 * at_once)
    days = [day_of(1), day_of(2), day_of(3)]
    done = publish.publish_days(shop.tables, SETTINGS, days, tmp_path)
    assert done.failed == []
    assert done.counts.rows() == [
        (day_of(1), 16, 11, 4, 1),
        (day_of(2), 1, 1, 0, 0),
        (day_of(3), 1, 1, 0, 0),
    ]
    assert shop.published().equals(shop.cleaned().sort("event_time", "event_id"))
    assert shop.ledger.unclean_partitions("events") == []
