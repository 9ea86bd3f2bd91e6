"""Text files: ragged rows, quotes, headers and encodings; what is broken is told by its row."""

from __future__ import annotations

import csv
import io
import json

import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from seq_ml.ingest.files import readers, text_files
from seq_ml.ingest.files.readers import ROW_ERROR, UnreadableFileError, read_batches
from tests.ingest.files.packed import encoded, entry, packed, read_file, rows_of


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


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_a_huge_field_is_read_and_a_huger_record_is_refused(ending):
    frame = pl.DataFrame({"id": ["1", "2", "3"], "n": ["a", "x" * 10_000_000, "c"]})
    assert read_file(f"a.{ending}", encoded(ending, frame)).equals(frame)
    if ending != "parquet":
        longer = pl.DataFrame({"id": ["1", "2"], "n": ["a", "x" * 35_000_000]})
        with pytest.raises(UnreadableFileError, match=r", row 2 is longer than 16,000,000 bytes"):
            read_file(f"a.{ending}", encoded(ending, longer))


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
