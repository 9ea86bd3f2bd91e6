"""Readers: every format and packing gives the same rows; what is broken is refused by name."""

from __future__ import annotations

import csv
import gzip
import io
import json
import random
from contextlib import suppress

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from seq_ml.ingest.files import readers, text_files
from seq_ml.ingest.files.readers import ROW_ERROR, UnreadableFileError, read_batches
from seq_ml.ingest.mapping.source import FileMapping, MappingError

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


def read_file(name: str, body: bytes, **options) -> pl.DataFrame:
    frames = list(read_batches(name, io.BytesIO(body), **options))
    return pl.concat(frames, how="diagonal_relaxed") if frames else pl.DataFrame()


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


# --- rows that cannot be taken apart --------------------------------------------------------------


def rows_of(name: str, body: bytes, **options) -> list[tuple]:
    """The rows as tuples; (row_error's rule and value) for those that are none."""
    found = []
    for row in read_file(name, body, **options).to_dicts():
        error = row.pop(ROW_ERROR, None)
        found.append((error["rule"], error["value"]) if error else tuple(row.values()))
    return found


@pytest.mark.parametrize("block", [16, 1 << 20])
@pytest.mark.parametrize("rows", [1, 3, 1000])
def test_a_ragged_row_is_one_row_wherever_it_stands(monkeypatch, block, rows):
    monkeypatch.setattr(readers, "BLOCK", block)
    lines = ["1,a", "2", "3,c,c", '"4","d\n\nd"', "", "5,e", "6,f,,"]
    short, long = ("ragged", "1 fields instead of 2"), ("ragged", "3 fields instead of 2")
    expected = [
        ("1", "a"),
        short,
        long,
        ("4", "d\n\nd"),
        ("5", "e"),
        ("ragged", "4 fields instead of 2"),
    ]
    body = "\n".join(["id,n", *lines]).encode()
    for end in (b"", b"\n", b"\n\n"):
        assert rows_of("a.csv", body + end, rows=rows) == expected
    assert rows_of("a.csv", b"id,n\n1\n1,2,3\n", rows=rows) == [short, long]


def test_quotes_inside_a_field_are_text_and_line_breaks_inside_quotes_too():
    body = b'id,n\n5" pipe,6"\n"say ""hi""","a,\r\nb"\n'
    assert rows_of("a.csv", body) == [('5" pipe', '6"'), ('say "hi"', "a,\r\nb")]


def test_headers_in_quotes_twice_after_blank_lines_and_with_the_line_ends_of_old_macs():
    frame = read_file("a.csv", b'\n\r\n"a,\nb",n,n\r1,2,3\r4,5,6')
    assert frame.columns == ["a,\nb", "n", "n_duplicated_0"]
    assert frame.rows() == [("1", "2", "3"), ("4", "5", "6")]


@pytest.mark.parametrize(
    "body", [b'id,n\n1,2\n3,"x\n4,5\n', b'id,n\n1,2\n"x\n4,5\n', b'id\n1\n"x\n2']
)
def test_a_quote_that_is_never_closed_is_told_by_its_row(body):
    with pytest.raises(UnreadableFileError, match=r"^a.csv, row 2: a quote is opened there"):
        read_file("a.csv", body)


def test_a_line_that_is_no_json_object_is_one_row():
    lines = [
        '{"id": 1.0, "tags": [1], "user": {"id": 7, "vip": true}}',
        "{id: 2}",
        "[3]",
        "NaN",
        '{"id": 12345678901234567890, "tags": ["x"], "user": {"id": "8"}}',
        '{"id": true, "tags": "y"}',
        '{"id": 2.5, "tags": null, "user": null}',
    ]
    rows = read_file("a.jsonl", "\n".join([*lines, ""]).encode()).to_dicts()
    errors = [row.pop(ROW_ERROR) for row in rows]
    assert [e and (e["rule"], e["value"]) for e in errors] == [
        None,
        ("not_json", "Expecting property name enclosed in double quotes at character 2"),
        ("not_json", "list instead of an object"),
        ("not_json", "NaN is no JSON"),
        None,
        ("not_json", "'tags' holds a plain value, and a list in other rows"),
        None,
    ]
    assert rows[0] == {"id": "1", "tags": ["1"], "user": {"id": "7", "vip": "true"}}
    assert rows[4]["id"] == "12345678901234567890"
    assert rows[6] == {"id": "2.5", "tags": None, "user": None}


def test_a_nested_column_is_not_lost_because_one_row_holds_a_text():
    body = b'{"user": {"id": 1}, "at": 1}\n{"user": "anna", "at": 1}\n'
    frame = read_file("a.jsonl", body, entry=entry("user.id"), mapped_only=True)
    assert frame["user"].to_list() == [{"id": "1"}, None]
    assert frame[ROW_ERROR][1]["rule"] == "not_json"


# --- whole files that are refused -----------------------------------------------------------------


def entry(column: str = "user", **options):
    columns = {
        "user_id": column,
        "event_type": {"value": "view"},
        "event_time": "at",
        "text": "note",
    }
    return FileMapping.model_validate(
        {"match": "*", "table": "events", "columns": columns, **options}
    )


@pytest.mark.parametrize(
    ("name", "body", "message"),
    [
        ("a.csv", b"id;n\n1;2\n", "one column, 'id;n', .* write `separator: ';'`"),
        ("a.csv", b"id\tn\n1\t2\n", r'write `separator: "\\t"`'),
        ("a.tsv", b"id,n\n1,2\n", "write `separator: ','`"),
        ("a.csv", b"id|n\n1|2\n", r"write `separator: '\|'`"),
        ("a.csv", "id,n\n1,2\n3,M\u00fcller\n".encode("cp1252"), "line 3: byte 0xfc is no UTF-8"),
        (
            "a.jsonl",
            '{"n": 1}\n{"n": "\u20ac"}\n'.encode("cp1252"),
            "line 2: byte 0x80 is no UTF-8",
        ),
        ("a.csv", "id,n\n1,2\n".encode("utf-16"), "is UTF-16: write `encoding: utf-16`"),
        ("a.csv", "id,n\n1,2\n".encode("utf-16-le"), "write `encoding: utf-16-le`"),
        ("a.csv", packed(".gz", encoded("csv")), "is gzip data: add .gz to its name"),
        ("a.jsonl", packed(".zst", encoded("csv")), "is zstd data: add .zst to its name"),
        ("a.csv", encoded("parquet"), "is a Parquet file: rename it"),
        ("a.csv", b"PK\x03\x04etc", "a zip archive or a spreadsheet"),
        ("a.jsonl", b'[{"id": 1}]', "holds a JSON array: write one object per line"),
        ("a.jsonl", encoded("csv"), "holds no JSON"),
        ("a.csv", b"x" * 1_100_000, "the first line is longer than 1,000,000 bytes"),
    ],
    ids=lambda value: None if isinstance(value, bytes) else value,
)
def test_what_is_wrong_with_a_file_is_told_with_the_mend(name, body, message):
    with pytest.raises(UnreadableFileError, match=message) as caught:
        read_file(name, body)
    assert str(caught.value).startswith(name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "encoding", ["latin-1", "cp1252", "utf-16", "utf-16-le", "shift_jis", "utf-8"]
)
@pytest.mark.parametrize("packing", ["", ".gz"])
def test_a_declared_encoding_is_read(encoding, packing):
    word = "\u30c6\u30b9\u30c8" if encoding == "shift_jis" else "M\u00fcller"
    body = packed(packing, f"user,at\n{word},1\n".encode(encoding))
    assert rows_of(f"a.csv{packing}", body, entry=entry(encoding=encoding)) == [(word, "1")]
    body = packed(packing, f'{{"user": "{word}", "at": "1"}}\n'.encode(encoding))
    assert rows_of(f"a.jsonl{packing}", body, entry=entry(encoding=encoding)) == [(word, "1")]


def test_a_wrong_declared_encoding_is_told():
    with pytest.raises(UnreadableFileError, match=r"line 2.* names the wrong encoding"):
        read_file("a.csv", b"user,at\n\x81,1\n", entry=entry(encoding="cp1252"))


def test_a_declared_separator_is_used():
    assert rows_of("a.csv", b"user;at\nx,y;1\n", entry=entry(separator=";")) == [("x,y", "1")]


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


# --- size -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_a_huge_field_is_read_and_a_huger_record_is_refused(ending):
    frame = pl.DataFrame({"id": ["1", "2", "3"], "n": ["a", "x" * 10_000_000, "c"]})
    assert read_file(f"a.{ending}", encoded(ending, frame)).equals(frame)
    if ending != "parquet":
        longer = pl.DataFrame({"id": ["1", "2"], "n": ["a", "x" * 35_000_000]})
        with pytest.raises(UnreadableFileError, match=r", row 2 is longer than 16,000,000 bytes"):
            read_file(f"a.{ending}", encoded(ending, longer))


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


# --- only what is mapped --------------------------------------------------------------------------


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


# --- any table ------------------------------------------------------------------------------------

FIELD = st.text('a"\n\r,;ü 1', max_size=6)


@settings(max_examples=150, deadline=None)
@example(table=[["", "1", "1\r\n"]], block=8, rows=1, packing="", last="")
@given(
    table=st.integers(1, 3).flatmap(
        lambda width: st.lists(st.lists(FIELD, min_size=width, max_size=width), max_size=12)
    ),
    block=st.sampled_from([8, 40, 1000]),
    rows=st.sampled_from([1, 5, 1000]),
    packing=st.sampled_from(["", ".gz"]),
    last=st.sampled_from(["", "\n", "\r\n"]),
)
def test_any_table_is_read_as_it_was_written_whatever_the_blocks(table, block, rows, packing, last):
    width = len(table[0]) if table else 2
    written = io.StringIO(newline="")
    csv.writer(written, lineterminator="\r\n").writerows([[f"c{n}" for n in range(width)], *table])
    body = packed(packing, (written.getvalue().removesuffix("\r\n") + last).encode())
    batches = read_batches(f"a.csv{packing}", io.BytesIO(body), rows=rows)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(readers, "BLOCK", block)
        found = [list(row) for batch in batches for row in batch.rows()]
    assert [[value or "" for value in row] for row in found] == table


@settings(max_examples=60, deadline=None)
@given(
    lines=st.lists(
        st.dictionaries(
            st.sampled_from("abc"),
            st.none() | st.booleans() | st.integers(-(2**70), 2**70) | FIELD,
            min_size=1,
        )
    ),
    block=st.sampled_from([8, 40, 1000]),
)
def test_any_json_lines_are_read_as_texts_say(lines, block):
    body = "\n".join(json.dumps(line, ensure_ascii=False) for line in lines).encode()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text_files, "BLOCK", block)
        found = [
            row for batch in read_batches("a.jsonl", io.BytesIO(body)) for row in batch.to_dicts()
        ]
    assert len(found) == len(lines)
    for row, line in zip(found, lines, strict=True):
        texts = {name: str(value).lower() for name, value in row.items() if value is not None}
        assert texts == {name: str(v).lower() for name, v in line.items() if v is not None}
