"""Readers: every format and packing gives the same rows; what is broken is refused by name."""

from __future__ import annotations

import io
import random
from contextlib import suppress

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seq_ml.ingest.files import readers, text_files
from seq_ml.ingest.files.readers import UnreadableFileError, read_batches
from seq_ml.ingest.mapping.source import MappingError
from tests.ingest.files.packed import ROWS, encoded, entry, packed, read_file, rows_of


@pytest.mark.parametrize("packing", ["", ".gz", ".zst"])
@pytest.mark.parametrize("ending", ["parquet", "csv", "tsv", "jsonl", "ndjson"])
def test_every_format_and_packing_gives_the_same_rows(ending, packing):
    body = packed(packing, encoded(ending))
    assert read_file(f"some.file.{ending}{packing}", body).equals(ROWS)
    assert read_file(f"SOME.{ending}{packing}".upper(), body).equals(ROWS)


@pytest.mark.parametrize("packing", ["", ".gz", ".zst"])
@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl"])
def test_files_without_rows(ending, packing):
    for body in (b"", b"\n", b"\xef\xbb\xbf"):
        assert read_file(f"a.{ending}{packing}", packed(packing, body)).shape == (0, 0)
    if ending != "jsonl":
        frame = read_file(f"a.{ending}{packing}", packed(packing, encoded(ending, ROWS.clear())))
        assert frame.shape == (0, 3)


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl"])
def test_a_byte_order_mark_is_no_part_of_the_first_column(ending):
    assert read_file(f"a.{ending}", b"\xef\xbb\xbf" + encoded(ending)).equals(ROWS)


def test_text_stays_text_until_the_mapping_types_it():
    frame = read_file("a.csv", b'id,n\r\n007,1e3\r\n"",x\r\n9,\r\nNA,null\r\n')
    assert frame.rows() == [("007", "1e3"), ("", "x"), ("9", None), ("NA", "null")]
    mixed = b'{"n": 1}\n{"n": "abc", "late": true}\n\n{"n": 2.5}\n'
    frame = read_file("a.jsonl", mixed)
    assert frame["n"].to_list() == ["1", "abc", "2.5"]
    assert frame["late"].to_list() == [None, True, None]


@pytest.mark.parametrize("name", ["a.xlsx", "a", "a.gz", "csv", "a.csv.bz2", "a.parquet.tmp"])
def test_an_unknown_ending_is_refused(name):
    with pytest.raises(UnreadableFileError, match=f"^{name} ends in none of .*: rename it.$"):
        read_file(name, b"id\n1\n")


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("a.parquet", b""),
        ("a.parquet", b"PAR1 no, not really PAR1"),
        ("a.parquet", encoded("csv")),
        ("a.csv.gz", encoded("csv")),
        ("a.csv.zst", encoded("csv")),
        ("a.csv.gz", packed(".gz", encoded("csv"))[:-9]),
        ("a.jsonl", encoded("jsonl")[:-5]),
    ],
    ids=str,
)
def test_a_file_that_is_not_what_it_says_is_refused(name, body):
    with pytest.raises(UnreadableFileError, match=f"^{name} is corrupt or truncated") as caught:
        read_file(name, body)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["a.parquet", "a.parquet.gz", "a.csv.gz", "a.csv.zst"])
def test_a_truncated_file_is_refused_wherever_it_ends(name):
    ending, _, packing = name[2:].partition(".")
    many = pl.concat([ROWS] * 50)
    body = packed(f".{packing}" if packing else "", encoded(ending, many))
    for length in range(1, len(body), max(1, len(body) // 40)):
        with pytest.raises(UnreadableFileError):
            read_file(name, body[:length])


@settings(max_examples=60, deadline=None)
@given(name=st.sampled_from(["a.parquet", "a.csv.gz", "a.csv.zst", "a.jsonl"]), seed=st.integers())
def test_damage_never_does_more_than_refuse_the_file(name, seed):
    """A few bytes are wrong: the file is refused, or its rows differ; nothing else happens."""
    ending, _, packing = name[2:].partition(".")
    frame = pl.DataFrame({"n": range(300), "text": [f"item {n % 7}" for n in range(300)]})
    body = bytearray(packed(f".{packing}" if packing else "", encoded(ending, frame)))
    chance = random.Random(seed)
    for _ in range(chance.choice([1, 2, 5])):
        body[chance.randrange(len(body))] = chance.randrange(256)
    with suppress(UnreadableFileError):
        read_file(name, bytes(body))


@pytest.mark.parametrize("name", ["bomb.csv.gz", "bomb.jsonl.zst", "bomb.parquet.gz"])
def test_a_zip_bomb_is_refused_after_bounded_work(monkeypatch, name):
    monkeypatch.setattr(readers, "HARMLESS_BYTES", 1_000_000)
    line = b"1,2\n" if ".csv" in name else b'{"n": 1}\n'
    packing = "." + name.rsplit(".", 1)[1]
    batches = read_batches(name, io.BytesIO(packed(packing, line * 2_000_000)))
    heights = []
    with pytest.raises(UnreadableFileError, match=f"^{name} unpacks to more than 300 times its "):
        heights.extend(batch.height for batch in batches)
    assert sum(heights) < 1_000_000
    assert read_file(name.replace("parquet", "csv"), packed(packing, line * 1000)).height >= 999


def test_a_parquet_file_that_claims_too_many_rows_is_refused():
    buffer = io.BytesIO()
    nothing = pa.table({"id": pa.nulls(70_000_000, pa.int8())})
    pq.write_table(nothing, buffer)
    with pytest.raises(UnreadableFileError, match="unpacks to more than 300 times its size"):
        next(read_batches("a.parquet", buffer))


@pytest.mark.parametrize("packing", ["", ".gz", ".zst"])
@pytest.mark.parametrize("ending", ["parquet", "csv", "jsonl"])
def test_batches_are_small_in_order_and_whole(monkeypatch, ending, packing):
    monkeypatch.setattr(readers, "BLOCK", 1000)
    monkeypatch.setattr(text_files, "BLOCK", 1000)
    many = pl.DataFrame({"id": [str(n) for n in range(1000)], "n": ['"x",\n'] * 1000})
    file = io.BytesIO(packed(packing, encoded(ending, many)))
    batches = list(read_batches(f"a.{ending}{packing}", file, rows=64))
    assert max(batch.height for batch in batches) <= 64
    assert pl.concat(batches).equals(many)
    assert not file.closed


@pytest.mark.parametrize("packing", [".gz", ".zst"])
def test_several_packed_parts_in_one_file_are_read_one_after_another(packing):
    body = packed(packing, b"id,n\n1,2\n") + packed(packing, b"3,4\n")
    assert rows_of(f"a.csv{packing}", body) == [("1", "2"), ("3", "4")]


def test_a_reader_that_is_left_early_leaves_the_file_alone(monkeypatch):
    monkeypatch.setattr(readers, "BLOCK", 1000)
    file = io.BytesIO(b"id,n\n" + b"1,2\n" * 2_000_000)
    batches = read_batches("a.csv", file)
    next(batches)
    batches.close()
    place = file.tell()
    file.close()
    assert place < 4_000_000


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_columns_that_nobody_maps_are_left_out(ending):
    frame = pl.DataFrame({"user": ["u"], "secret": ["s"], "at": ["1"], "note": ["n"]})
    body = encoded(ending, frame)
    found = read_file(f"a.{ending}", body, entry=entry(), mapped_only=True)
    assert found.columns == ["user", "at", "note"]
    assert read_file(f"a.{ending}", body, entry=entry()).equals(frame)


def test_json_lines_may_leave_out_what_is_null_but_not_what_is_needed():
    def read(*lines: str) -> None:
        body = "\n".join(lines).encode()
        for _ in read_batches(
            "a.jsonl", io.BytesIO(body), entry=entry("user.id"), mapped_only=True
        ):
            pass

    read('{"at": 1}', '{"user": {"id": 1}, "at": 2}')
    with pytest.raises(
        MappingError, match=r"a.jsonl has no column 'at' in any of its 1 lines; there"
    ):
        read('{"user": {"id": 1}, "extra": 2}')
    with pytest.raises(MappingError, match=r"no column 'user.id' in any of its 2 lines"):
        read('{"user": {"name": 1}, "at": 2}', '{"at": 2}')
    with pytest.raises(MappingError, match=r"no column 'note' .*did you mean 'notes'"):
        read('{"user": {"id": 1}, "at": 2, "notes": "x"}')
    read("")
