"""The spool: bounded parts on local disk, whole files only, and a full disk in one sentence."""

from __future__ import annotations

import gzip
import resource
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

import polars as pl
import pytest

import seq_ml.ingest.ingest
import seq_ml.ingest.spool
from seq_ml.ingest.files.readers import read_batches
from seq_ml.ingest.spool import Spool, work_folder
from seq_ml.settings import home
from seq_ml.storage.objects import StorageError
from tests.shop import HEADER, Shop, day_of, event, numbers

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def shop(objects) -> Shop:
    return Shop(objects)


@pytest.fixture
def small_parts(monkeypatch):
    """Every limit so low that a file of some rows meets it."""
    monkeypatch.setattr(seq_ml.ingest.spool, "PART_ROWS", 2)
    monkeypatch.setattr(seq_ml.ingest.ingest, "LARGE_BYTES", 100)
    monkeypatch.setattr(seq_ml.ingest.ingest, "read_batches", partial(read_batches, rows=3))


def rows_of(*days: int | None) -> pl.DataFrame:
    weeks = [None if day is None else day_of(day) for day in days]
    return pl.DataFrame(
        {"week_start": weeks, "row": range(len(days))}, schema_overrides={"week_start": pl.Date}
    )


@pytest.mark.parametrize("part_rows", [1, 2, 3, 100])
def test_frames_hold_one_partition_in_order_and_every_row_once(tmp_path, monkeypatch, part_rows):
    monkeypatch.setattr(seq_ml.ingest.spool, "PART_ROWS", part_rows)
    spool = Spool(tmp_path)
    files = [rows_of(3, 1, None), rows_of(1), rows_of(), rows_of(2, 2, 1, 3), rows_of(None)]
    for number, rows in enumerate(files):
        with spool.file("promotions") as add:
            add(rows.with_columns(file=pl.lit(number)))
    spool.seal()
    frames = list(spool.frames("promotions"))
    assert all(frame["week_start"].n_unique() == 1 for frame in frames)
    weeks = [frame["week_start"][0] for frame in frames]
    assert weeks == sorted(weeks, key=lambda week: (week is None, week or day_of(1)))
    found = pl.concat(frames).select("week_start", "file", "row").rows()
    assert found == [
        *[(day_of(1), 0, 1), (day_of(1), 1, 0), (day_of(1), 3, 2)],
        *[(day_of(2), 3, 0), (day_of(2), 3, 1)],
        *[(day_of(3), 0, 0), (day_of(3), 3, 3)],
        *[(None, 0, 2), (None, 4, 0)],
    ]
    assert max(frame.height for frame in frames) <= max(2 * part_rows, 4)
    spool.clear()
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_fails_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(seq_ml.ingest.spool, "PART_ROWS", 2)
    spool = Spool(tmp_path)
    with spool.file("promotions") as add:
        add(rows_of(1))

    def break_off() -> None:
        with spool.file("promotions") as add:
            add(rows_of(2, 2, 2))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        break_off()
    spool.seal()
    assert [frame["week_start"].to_list() for frame in spool.frames("promotions")] == [[day_of(1)]]
    assert len(list(tmp_path.iterdir())) == 1


def test_large_files_in_many_parts_are_staged_like_small_ones_at_once(shop, small_parts):
    lines = [event(1 + n % 3, hour=n, customer=f"c{n % 4}") for n in range(11)]
    shop.drop("events/a.csv", *lines)
    shop.drop("events/b.csv", event(2), event(9))
    shop.drop("items/a.csv", *(f"i{n},I,1\n" for n in range(5)), header="article,name,price\n")
    result = shop.ingest()
    assert (result.files, result.rows) == (3, {"events": 13, "items": 5})
    staged, items = shop.staged(), shop.staged("items")
    with pytest.MonkeyPatch.context() as plain:
        plain.setattr(seq_ml.ingest.spool, "PART_ROWS", 500_000)
        plain.setattr(seq_ml.ingest.ingest, "LARGE_BYTES", 64_000_000)
        plain.setattr(seq_ml.ingest.ingest, "read_batches", read_batches)
        shop.objects.delete_prefix("tables/")
        shop.ingest()
    order = ["source_file", "row_number"]
    assert staged.sort(order).equals(shop.staged().sort(order))
    assert items.sort(order).equals(shop.staged("items").sort(order))
    assert not (home() / "work" / "ingest" / shop.objects.bucket).exists()


def test_a_file_that_breaks_off_late_shows_none_of_its_rows(shop, small_parts):
    """Its first batches were good, and nothing tells before the end that it has none."""
    body = gzip.compress((HEADER + "".join(event(1, hour=n) for n in range(20))).encode(), 0)
    shop.objects.put("drops/shop/events/a.csv.gz", body[:-60])
    shop.drop("events/b.csv", event(2))
    result = shop.ingest()
    assert [key for key, _ in result.refused] == ["drops/shop/events/a.csv.gz"]
    assert shop.staged()["source_file"].to_list() == ["drops/shop/events/b.csv"]
    assert numbers(shop.drops()["events/a.csv.gz"]) == ("refused", 0, None, None, None)
    shop.objects.put("drops/shop/events/a.csv.gz", body)
    shop.ingest()
    assert shop.staged().height == 21


@contextmanager
def small_disk(size: int) -> Iterator[None]:
    """Let no file of this process grow beyond `size` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("size", [100, 1000], ids=["download", "part"])
def test_a_full_disk_is_one_sentence_and_half_of_nothing(shop, small_parts, size):
    shop.drop("events/a.csv", *(event(1, hour=n) for n in range(5)))
    where = home() / "work" / "ingest" / shop.objects.bucket
    with (
        pytest.raises(StorageError, match=rf"no room left in {where}.*SEQLINE_HOME"),
        small_disk(size),
    ):
        shop.ingest()
    assert shop.ledger.current().is_empty()
    assert shop.staged().is_empty()
    assert not where.exists()
    shop.ingest()
    assert shop.staged().height == 5


def test_what_a_killed_ingest_left_on_disk_is_removed():
    left = home() / "work" / "ingest" / "bucket-x"
    left.mkdir(parents=True)
    (left / "7.parquet").write_bytes(b"half")
    with work_folder("bucket-x") as folder:
        assert folder == left
        assert list(folder.iterdir()) == []
    assert not left.exists()
