"""The parts of an erasure: raw drops without one person's rows, the byte search, Delta history."""

from __future__ import annotations

import gzip
import io
import json
import zlib
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from seq_ml.erasure import drops
from seq_ml.erasure.forget import delete_user, forget_history, forget_versions
from seq_ml.erasure.search import Needle, count, search_bucket, search_file
from seq_ml.ingest.mapping.source import parse_mapping

if TYPE_CHECKING:
    from pathlib import Path

    from seq_ml.storage.objects import ObjectStore
    from seq_ml.storage.tables import TableStore

PERSON = "kundin-4711-zoe"
OTHER = f"{PERSON}x"
"""Somebody else, whose id begins with the person's."""

MAPPING = """
name: shop
timezone: UTC
files:
  - match: "*.csv*"
    table: events
    separator: ";"
    columns: &columns
      user_id: customer
      event_type: {column: action, values: {buy: purchase, look: view}}
      item_id: article
      event_time: at
      quantity: pieces
      text: note
  - {match: "*.tsv*", table: events, columns: *columns}
  - {match: "*.jsonl*", table: events, columns: *columns}
  - {match: "*.parquet", table: events, columns: *columns}
"""
COLUMNS = ("customer", "action", "article", "at", "pieces", "note")


def row(
    customer: str, day: int, hour: int = 9, pieces: str = "1", note: str = ""
) -> dict[str, str]:
    """One event of June 2024, as the files have it."""
    at = f"2024-06-{day:02d} {hour:02d}:00:00"
    values = (customer, "buy", f"tea-{hour % 3}", at, pieces, note)
    return dict(zip(COLUMNS, values, strict=True))


def packed(path: str, rows: list[dict[str, str]]) -> bytes:
    """Return the rows in the format and packing that the path's ending tells."""
    if ".parquet" in path:
        buffer = io.BytesIO()
        pl.DataFrame(rows).write_parquet(buffer)
        body = buffer.getvalue()
    elif ".jsonl" in path:
        body = "".join(json.dumps(one) + "\n" for one in rows).encode()
    else:
        mark = "\t" if ".tsv" in path else ";"
        body = pl.DataFrame(rows).write_csv(separator=mark).encode()
    if path.endswith(".gz"):
        return gzip.compress(body, mtime=0)
    if path.endswith(".zst"):
        return bytes(pa.compress(body, codec="zstd", asbytes=True))
    return body


def unpacked(path: str, body: bytes) -> bytes:
    """Return the bytes of a file without its packing."""
    if path.endswith(".gz"):
        return gzip.decompress(body)
    if path.endswith(".zst"):
        return pa.input_stream(io.BytesIO(body), compression="zstd").read()
    return body


MIXED = [
    row("anna", 3),
    row(PERSON, 3, note='says "hello;\nworld"'),
    row(OTHER, 3, note="two\nlines"),
    row(PERSON, 4, pieces="many"),
    row("anna", 5, note="ends"),
]


@pytest.mark.parametrize(
    "path",
    [
        "a.csv",
        "a.csv.gz",
        "a.csv.zst",
        "a.tsv",
        "a.jsonl",
        "a.jsonl.gz",
        "a.jsonl.zst",
        "a.parquet",
    ],
)
def test_a_drop_loses_the_persons_rows_and_nothing_else(path: str, tmp_path: Path) -> None:
    mappings = {"shop": parse_mapping(MAPPING, "shop.yaml")}
    person = drops.Person.of(PERSON)
    key, body = f"drops/shop/{path}", packed(path, MIXED)
    found = drops.look_for(person, key, io.BytesIO(body), mappings)
    assert found is not None
    assert found.rows is not None
    assert found.rows.tolist() == [1, 3]
    target = tmp_path / "new"
    drops.rewrite(key, io.BytesIO(body), target, found, mappings)
    new = target.read_bytes()
    drops.check(person, key, io.BytesIO(body), io.BytesIO(new), found, mappings)
    stay = [one for one in MIXED if one["customer"] != PERSON]
    if ".parquet" in path:
        assert pl.read_parquet(unpacked(path, new)).to_dicts() == stay
    else:  # byte by byte
        assert unpacked(path, new) == unpacked(path, packed(path, stay))


HEAD = ";".join(COLUMNS) + "\n"


def line(customer: str, note: str = "") -> str:
    return f"{customer};buy;tea;2024-06-03 10:00:00;1;{note}\n"


ODD = {
    "blank_lines": "\n" + HEAD + line("anna") + "\n" + line(PERSON) + "\n\n" + line("ben"),
    "spaces": HEAD + "   \n" + line(PERSON) + line("ben"),
    "too_many_fields": HEAD + line("anna", "a;b") + line(PERSON, "a;b") + line("ben"),
    "too_few_fields": HEAD + "anna;buy\n" + f"{PERSON};buy\n" + line("ben"),
    "crlf": (HEAD + line("anna") + line(PERSON) + line("ben")).replace("\n", "\r\n"),
    "cr": (HEAD + line("anna") + line(PERSON) + line("ben")).replace("\n", "\r"),
    "bom": "\ufeff" + HEAD + line(PERSON) + line("ben"),
    "no_last_line_end": (HEAD + line("anna") + line(PERSON)).rstrip("\n"),
    "quote_inside_a_field": HEAD + line("anna", '5" pipe') + line(PERSON, '6" pipe') + line("ben"),
    "quote_never_closed": HEAD + line(PERSON) + line("ben", '"open'),
    "quoted_everywhere": HEAD + line(f'"{PERSON}"', '"a\n\n"";"" b"') + line('"ben"', '"x""\n"'),
    "nobody_else": HEAD + line(PERSON) + line(PERSON),
}


@pytest.mark.parametrize("case", list(ODD))
def test_odd_files_lose_the_persons_rows_too(case: str, tmp_path: Path) -> None:
    mappings = {"shop": parse_mapping(MAPPING, "shop.yaml")}
    person, key, body = drops.Person.of(PERSON), "drops/shop/a.csv", ODD[case].encode()
    found = drops.look_for(person, key, io.BytesIO(body), mappings)
    assert found is not None
    drops.rewrite(key, io.BytesIO(body), tmp_path / "new", found, mappings)
    new = (tmp_path / "new").read_bytes()
    drops.check(person, key, io.BytesIO(body), io.BytesIO(new), found, mappings)
    assert PERSON.encode() not in new
    assert new.count(b"ben") == body.count(b"ben")
    assert new.count(b"anna") == body.count(b"anna")


def test_a_wrong_encoding_costs_only_the_persons_lines(tmp_path: Path) -> None:
    mappings = {"shop": parse_mapping(MAPPING, "shop.yaml")}
    person, key = drops.Person.of(PERSON), "drops/shop/a.csv"
    body = (HEAD + line("anna", "grün") + line(PERSON) + line("ben")).encode("latin-1")
    found = drops.look_for(person, key, io.BytesIO(body), mappings)
    assert found is not None
    assert found.lines
    drops.rewrite(key, io.BytesIO(body), tmp_path / "new", found, mappings)
    rest = (HEAD + line("anna", "grün") + line("ben")).encode("latin-1")
    assert (tmp_path / "new").read_bytes() == rest


def test_a_short_id_is_looked_for_in_user_columns_only() -> None:
    mappings = {"shop": parse_mapping(MAPPING, "shop.yaml")}
    person, body = drops.Person.of("17"), packed("a.csv", [row("17", 3), row("anna", 3, 17, "17")])
    found = drops.look_for(person, "drops/shop/a.csv", io.BytesIO(body), mappings)
    assert found is not None
    assert found.rows is not None
    assert found.rows.tolist() == [0]
    assert drops.look_for(person, "drops/nobody/a.csv", io.BytesIO(body), mappings) is None


def test_a_rewritten_drop_that_differs_is_refused(tmp_path: Path) -> None:
    mappings = {"shop": parse_mapping(MAPPING, "shop.yaml")}
    person = drops.Person.of(PERSON)
    body = packed("a.csv", MIXED)
    found = drops.Found(np.array([1, 3]))
    wrong = packed("a.csv", [MIXED[0], MIXED[2]])
    with pytest.raises(drops.RewriteError, match="by hand"):
        drops.check(
            person, "drops/shop/a.csv", io.BytesIO(body), io.BytesIO(wrong), found, mappings
        )


def test_utf16_keeps_its_encoding(tmp_path: Path) -> None:
    text = MAPPING.replace('separator: ";"', 'separator: ";"\n    encoding: utf-16')
    mappings = {"shop": parse_mapping(text, "shop.yaml")}
    person = drops.Person.of(PERSON)
    body = packed("a.csv", MIXED).decode().encode("utf-16")
    found = drops.Found(np.array([1, 3]))
    target = tmp_path / "new"
    drops.rewrite("drops/shop/a.csv", io.BytesIO(body), target, found, mappings)
    assert count(io.BytesIO(body), person.needle) == 2
    stay = [one for one in MIXED if one["customer"] != PERSON]
    assert target.read_bytes().decode("utf-16") == packed("a.csv", stay).decode()
    assert count(io.BytesIO(target.read_bytes()), person.needle) == 0


def test_a_file_that_no_mapping_reads_loses_the_rows_that_hold_the_id() -> None:
    person = drops.Person.of(PERSON)
    body = packed("a.jsonl", [row("anna", 3), row("ben", 3, note=PERSON), row(OTHER, 3)])
    found = drops.look_for(person, "drops/nobody/a.jsonl", io.BytesIO(body), {})
    assert found is not None
    assert found.rows is not None
    assert found.rows.tolist() == [1]


def test_a_truncated_file_goes_as_a_whole_if_it_holds_the_id() -> None:
    many = [row(f"user-{zlib.crc32(bytes([n % 256, n // 256]))}", 3) for n in range(5_000)]
    for rows, held in (([row(PERSON, 3), *many], True), (many, False)):
        body = packed("a.csv.gz", rows)[:-400]
        person = drops.Person.of(PERSON)
        found = drops.look_for(person, "drops/shop/a.csv.gz", io.BytesIO(body), {})
        assert (found is not None) == held
        assert found is None or found.rows is None


# --- the search -----------------------------------------------------------------------------------


@pytest.mark.parametrize("before", [0, 5, (1 << 20) - 7, (1 << 20) - 600, 1 << 20, (1 << 21) - 3])
def test_the_search_finds_a_word_wherever_it_lies(before: int) -> None:
    needle = Needle.of(PERSON)
    body = b"-" * before + PERSON.encode() + b"," + b"-" * 700_000 + PERSON.encode()
    assert count(io.BytesIO(body), needle) == 2
    assert count(io.BytesIO(body.replace(b",", b"x")), needle) == 1


@pytest.mark.parametrize(
    "path", ["a.csv", "a.csv.gz", "a.csv.zst", "a.jsonl.gz", "a.parquet", "a.parquet.zst"]
)
def test_the_search_looks_into_packed_files(path: str) -> None:
    needle = Needle.of(PERSON)
    assert search_file(path, io.BytesIO(packed(path, MIXED)), needle) >= 2
    stay = [one for one in MIXED if one["customer"] != PERSON]
    assert search_file(path, io.BytesIO(packed(path, stay)), needle) == 0


def test_the_search_looks_into_nested_columns_and_other_spellings() -> None:
    needle = Needle.of("zoë & co 4711", "ab" * 16)
    frame = pl.DataFrame(
        {"tags": [[{"who": "zoë & co 4711"}], []], "raw": [b"", bytes.fromhex("ab" * 16)]}
    )
    buffer = io.BytesIO()
    frame.write_parquet(buffer, statistics=False)
    assert search_file("a.parquet", buffer, needle) >= 2
    for body in (b'{"who": "zo\\u00eb & co 4711"}', "<b>zoë &amp; co 4711</b>".encode()):
        assert count(io.BytesIO(body), needle) == 1


# --- history --------------------------------------------------------------------------------------


def test_history_is_forgotten_with_its_statistics(tables: TableStore, tmp_path: Path) -> None:
    user = "0f" * 16  # the smallest value of the column: the log names it
    rows = pl.DataFrame({"user_id": [user, "77" * 16, "77" * 16], "day": ["a", "a", "b"]})
    tables.append("events", rows, partition_by="day")
    tables.append("events", rows, partition_by="day")
    needle = Needle.of(user)
    assert search_bucket(tables.objects, needle, tmp_path)
    assert delete_user(tables, "events", "user_id", user) == 2
    assert delete_user(tables, "events", "user_id", user) == 0
    forget_history(tables, "events")
    assert search_bucket(tables.objects, needle, tmp_path) == {}
    kept = tables.scan("events").sort("day").collect()
    assert kept.rows() == [("77" * 16, "a")] * 2 + [("77" * 16, "b")] * 2
    tables.append("events", rows.tail(1), partition_by="day")
    tables.overwrite("events", rows.tail(1), predicate="day = 'b'", partition_by="day")
    assert tables.scan("events").collect().height == 3
    forget_history(tables, "events")
    assert tables.scan("events").collect().height == 3


def test_versions_that_the_bucket_kept_are_forgotten(objects: ObjectStore) -> None:
    assert forget_versions(objects, ["tables/"]) == 0
    objects.client.put_bucket_versioning(
        Bucket=objects.bucket, VersioningConfiguration={"Status": "Enabled"}
    )
    for body in (b"one", b"two", b"three"):
        objects.put("tables/a", body)
        objects.put("drops/a", body)
    objects.put("tables/gone", b"one")
    objects.delete(["tables/gone"])
    assert forget_versions(objects, ["tables/"]) == 3
    assert forget_versions(objects, ["drops/a"]) == 2
    assert objects.get("tables/a") == objects.get("drops/a") == b"three"
    for kind in ("Versions", "DeleteMarkers"):  # or the bucket cannot be deleted
        listed = objects.client.list_object_versions(Bucket=objects.bucket).get(kind, [])
        for one in listed:
            objects.client.delete_object(
                Bucket=objects.bucket, Key=one["Key"], VersionId=one["VersionId"]
            )
