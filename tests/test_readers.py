"""Readers: every format and packing gives the same rows; what is broken is refused by name."""

from __future__ import annotations

import gzip
import io
import random
from contextlib import suppress

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seq_ml.ingest.readers import UnreadableFileError, read_file

ROWS = pl.DataFrame({"id": ["a", "b", "ü;\t,\n"], "n": ["1", None, "3"], "time": ["x"] * 3})


def encoded(ending: str, frame: pl.DataFrame = ROWS) -> bytes:
    buffer = io.BytesIO()
    match ending:
        case "parquet":
            frame.write_parquet(buffer)
        case "csv":
            frame.write_csv(buffer)
        case "tsv":
            frame.write_csv(buffer, separator="\t")
        case _:
            frame.write_ndjson(buffer)
    return buffer.getvalue()


def packed(packing: str, body: bytes) -> bytes:
    if packing == ".gz":
        return gzip.compress(body, mtime=0)
    if packing == ".zst":
        return bytes(pa.compress(body, "zstd", asbytes=True))
    return body


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
    frame = read_file("a.csv", b'id,n\r\n007,1e3\r\n"",x\r\n9\r\n')
    assert frame.rows() == [("007", "1e3"), ("", "x"), ("9", None)]
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
        ("a.jsonl", b'[{"id": 1}]'),
        ("a.csv", b"id,n\n1,2,3\n"),
        ("a.csv", b"id\n\xff\xfe\n"),
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
