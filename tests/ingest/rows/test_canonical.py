"""Canonical records: rows that carry several, rows that nobody may keep, rows that are none."""

from __future__ import annotations

import hashlib
import hmac
import io
import json
from datetime import UTC, datetime

import polars as pl
import pytest
import yaml

from seq_ml.ingest.files.readers import read_batches
from seq_ml.ingest.mapping.source import MappingError, parse_mapping
from seq_ml.ingest.rows.canonical import to_canonical
from seq_ml.schema import EVENTS
from seq_ml.schema.staged import STAGED_EXTRA

SECRET = "5e" * 32
AT = "2024-05-01 10:00:00"
BASKET = {"user_id": "customer", "event_type": {"value": "purchase"}, "event_time": "at"}


def shop(entry: dict, **options):
    files = [{"match": "*", "table": "events", "columns": BASKET, **entry}]
    return parse_mapping(yaml.safe_dump({"name": "shop", "files": files, **options}), "shop.yaml")


def canonical(frame: pl.DataFrame, mapping, *, name: str = "a.jsonl", first_row: int = 1):
    result = to_canonical(
        frame,
        mapping,
        mapping.files[0],
        key=f"drops/shop/{name}",
        landed_at=datetime(2024, 7, 1, 8, tzinfo=UTC),
        currency="EUR",
        secret=SECRET,
        first_row=first_row,
    )
    assert dict(result.schema) == {**EVENTS.polars_schema(), **STAGED_EXTRA}
    return result


def records(rows: list[dict], entry: dict, **options) -> pl.DataFrame:
    """What becomes of JSON lines under an entry of the shop."""
    mapping = shop(entry, **options)
    file = io.BytesIO("\n".join(json.dumps(row) for row in rows).encode())
    (batch,) = read_batches("a.jsonl", file, entry=mapping.files[0], mapped_only=True)
    return canonical(batch, mapping)


def rules(result: pl.DataFrame) -> list[list[str]]:
    return [[error["rule"] for error in row] for row in result["errors"].to_list()]


# --- rows with several records -------------------------------------------------------------------

LINES = {"lines": "cart.items", "columns": {
    **BASKET, "session_id": "cart.id", "item_id": "cart.items.sku", "quantity": "cart.items.n",
}}  # fmt: skip


def basket(*items: object, customer: str | None = "anna") -> dict:
    return {"customer": customer, "at": AT, "cart": {"id": 7, "items": list(items)}}


def test_each_line_of_a_basket_is_an_event():
    tea, cup = {"sku": "tea", "n": 2}, {"sku": "cup", "n": "x"}
    rows = [
        basket(tea, cup, tea),
        basket(),
        basket(cup, customer="bob"),
        {"customer": "eve", "at": AT},
    ]
    result = records(rows, LINES)
    names = ["row_number", "part", "user_id", "session_id", "item_id", "quantity"]
    assert result.select(names).rows() == [
        (1, 0, "anna", "7", "tea", 2.0),
        (1, 1, "anna", "7", "cup", None),
        (1, 2, "anna", "7", "tea", 2.0),
        (2, 0, None, None, None, None),
        (3, 0, "bob", "7", "cup", None),
        (4, 0, None, None, None, None),
    ]
    assert rules(result) == [[], ["type:f64"], [], ["no_event"], ["type:f64"], ["no_event"]]
    ids = result["event_id"]
    assert ids[0] == ids[2] != ids[1]  # the clean stage numbers what is equal within a file


def test_lines_of_plain_values_and_of_parquet():
    entry = {"lines": "skus", "columns": {**BASKET, "item_id": "skus", "channel": "shop"}}
    frame = pl.DataFrame(
        {"customer": ["a", "b"], "at": [AT, AT], "skus": [[1, None], []], "shop": ["x", "y"]}
    )
    result = canonical(frame, shop(entry), name="a.parquet", first_row=11)
    assert result.select("row_number", "part", "item_id", "channel").rows() == [
        (11, 0, "1", "x"),
        (11, 1, None, "x"),
        (12, 0, None, None),
    ]
    with pytest.raises(MappingError, match=r"column 'shop' holds String, and `lines` needs a list"):
        canonical(frame, shop({**entry, "lines": "shop"}), name="a.parquet")
    with pytest.raises(MappingError, match=r"no column 'sku'; did you mean 'skus'\?"):
        canonical(frame, shop({**entry, "lines": "sku"}), name="a.parquet")


def test_a_batch_in_which_no_row_has_lines():
    frame = pl.DataFrame({"customer": ["a", "b"], "at": [AT, AT]})
    for lists in ({}, {"cart": [None, None]}, {"cart": [{"items": None}] * 2}):
        result = canonical(
            frame.with_columns(**{k: pl.Series(v) for k, v in lists.items()}), shop(LINES)
        )
        assert rules(result) == [["no_event"], ["no_event"]]


STEPS = {
    "columns": {"user_id": "customer", "item_id": "sku"},
    "events": [
        {"columns": {"event_type": {"value": "view"}, "event_time": "seen"}},
        {
            "columns": {
                "event_type": {"value": "purchase"},
                "event_time": "bought",
                "quantity": "n",
            },
            "when": {"state": ["paid", "1"]},
        },
    ],
}


def test_a_row_with_several_times_is_several_events():
    day = {n: f"2024-05-0{n} 10:00:00" for n in range(1, 4)}
    rows = [
        {"customer": "a", "sku": 1, "seen": day[1], "bought": day[2], "state": "paid", "n": 3},
        {"customer": "a", "sku": 2, "seen": None, "bought": day[2], "state": 1},
        {"customer": "b", "sku": 3, "seen": day[3], "bought": day[3], "state": "open"},
        {"customer": "c", "sku": 4, "seen": "soon"},
        {"customer": "d", "sku": 5},
    ]
    result = records(rows, STEPS)
    found = result.select("row_number", "part", "item_id", "event_type", "quantity").rows()
    assert found == [
        (1, 0, "1", "view", None),
        (1, 1, "1", "purchase", 3.0),
        (2, 0, "2", "purchase", None),
        (3, 0, "3", "view", None),
        (4, 0, "4", "view", None),
        (5, 0, None, None, None),
    ]
    assert rules(result) == [[], [], [], [], ["type:datetime"], ["no_event"]]


def test_ids_that_belong_to_a_row_are_told_apart_by_the_place_in_it():
    rows = [basket({"sku": "a", "line": 5}, {"sku": "b", "line": 6}) | {"order": 1}]
    outer = {**LINES, "columns": {**LINES["columns"], "event_id": "order"}}
    assert records(rows, outer)["event_id"].to_list() == ["shop:1/0", "shop:1/1"]
    inner = {**LINES, "columns": {**LINES["columns"], "event_id": "cart.items.line"}}
    assert records(rows, inner)["event_id"].to_list() == ["shop:5", "shop:6"]
    steps = {**STEPS, "columns": {**STEPS["columns"], "event_id": "id"}}
    row = {"id": 9, "customer": "a", "bought": AT, "state": "paid"}
    # also when the first event of the row comes with a later version of it
    assert records([row], steps)["event_id"].to_list() == ["shop:9/1"]
    assert records([row | {"seen": AT}], steps)["event_id"].to_list() == ["shop:9/0", "shop:9/1"]
    some = {**STEPS, "events": [STEPS["events"][0], {**STEPS["events"][1]}]}
    some["events"][1]["columns"] = {**some["events"][1]["columns"], "event_id": "id"}
    derived, own = records([row | {"seen": AT}], some)["event_id"]
    assert (len(derived), own) == (32, "shop:9/1")


# --- ids -----------------------------------------------------------------------------------------


def test_a_derived_id_is_the_keyed_hash_of_the_content():
    result = records(
        [{"customer": "anna", "at": AT, "n": 2}], {"columns": {**BASKET, "quantity": "n"}}
    )
    micros = str(int(datetime(2024, 5, 1, 10, tzinfo=UTC).timestamp()) * 1_000_000)
    given = {"user_id": "anna", "event_type": "purchase", "event_time": micros, "quantity": "2.0"}
    content = "".join(
        {**given, "currency": "EUR"}.get(name, "\x00") + "\x1f"
        for name in EVENTS.names
        if name not in ("event_id", "event_date", "propensity")
    )
    digest = hmac.new(SECRET.encode(), content.encode(), hashlib.sha256).hexdigest()
    assert result["event_id"].to_list() == [digest[:32]]


def test_a_propensity_is_part_of_the_content_where_there_is_one():
    """A column that the contract gained later leaves the ids of older rows as they were."""
    rows = [{"customer": "anna", "at": AT, "p": p} for p in (None, 0.5, 0.25)]
    ids = records(rows, {"columns": {**BASKET, "propensity": "p"}})["event_id"]
    assert ids[0] == records(rows[:1], {"columns": BASKET})["event_id"][0]
    assert ids.n_unique() == 3


# --- rows that nobody may keep -------------------------------------------------------------------


def test_without_consent_only_the_time_is_kept():
    rows = [
        {"customer": "anna", "at": AT, "ok": ok, "note": "anna@example.com", "n": "zwei"}
        for ok in (True, False, "yes", "no", None, "perhaps", 1)
    ]
    columns = {**BASKET, "text": "note", "quantity": "n"}
    result = records(rows, {"columns": columns, "consent": "ok"})
    withheld = [False, True, False, True, True, True, False]
    assert [row == ["no_consent"] for row in rules(result)] == withheld
    kept = result.filter(pl.Series(withheld)).drop(*STAGED_EXTRA, "event_id", "event_time")
    assert kept.null_count().sum_horizontal().item() == kept.height * kept.width
    assert result["event_time"].null_count() == 0
    assert "anna" not in str(result.filter(pl.Series(withheld)).to_dicts())
    opted = {"column": "ok", "values": {"perhaps": True}}
    assert rules(records(rows, {"columns": columns, "consent": opted}))[5] == ["type:f64"]


def test_test_accounts_are_set_aside_by_pattern():
    users = ["test-1", "atest-1", "qa?", "qa1", "QA1", "anna", None, "a.b+c", "axb+c"]
    rows = [{"customer": user, "at": AT} for user in users]
    result = records(rows, {}, test_users=["test-*", "qa?", "a.b+*"])
    hit = ["test-1", "qa?", "qa1", "a.b+c"]
    assert [row == ["test_account"] for row in rules(result)] == [u in hit for u in users]
    assert result.filter(pl.col("user_id").is_in(hit)).height == 0


# --- personal data -------------------------------------------------------------------------------


def test_personal_data_stops_in_text_and_in_labels():
    columns = {**BASKET, "text": "note", "item_id": "sku", "quantity": "n"}
    rows = [
        {"note": "write to eve@example.com", "sku": "tea", "n": 1},
        {"note": "x", "sku": "mail bob@example.org now", "n": 1},
        {"note": "x", "sku": "4111 1111 1111 1111", "n": "mail bob@example.org"},
        {"note": "x", "sku": "tea", "n": "anna"},
        {"note": None, "sku": "tea@home", "n": "x" * 500},
    ]
    result = records([{"customer": "anna", "at": AT} | row for row in rows], {"columns": columns})
    assert result["text"].to_list() == ["write to [email]", "x", "x", "x", None]
    assert result["item_id"].to_list() == ["tea", None, None, "tea", "tea@home"]
    errors = [[tuple(e.values()) for e in row] for row in result["errors"].to_list()]
    assert errors == [
        [],
        [("personal_data", "item_id", "mail [email] now")],
        [("type:f64", "quantity", "mail [email]"), ("personal_data", "item_id", "[card]")],
        [("type:f64", "quantity", None)],  # the user's own id, in the wrong place
        [("type:f64", "quantity", "x" * 200)],
    ]


def test_a_user_id_may_be_an_address_and_stands_in_no_error():
    rows = [{"customer": "anna@example.com" * n, "at": AT, "n": "x"} for n in (1, 100_000)]
    result = records(rows, {"columns": {**BASKET, "quantity": "n"}})
    assert result["user_id"].to_list() == ["anna@example.com", None]
    assert result["errors"].to_list()[1] == [
        {"rule": "type:f64", "column": "quantity", "value": "x"},
        {"rule": "too_long", "column": "user_id", "value": None},
    ]


def test_a_value_of_more_than_a_megabyte_is_an_error_and_cut():
    rows = [{"customer": "a", "at": AT, "note": "ab " * n} for n in (1, 400_000)]
    result = records(rows, {"columns": {**BASKET, "text": "note"}})
    assert result["text"].to_list() == ["ab ", None]
    assert result["errors"].to_list() == [
        [],
        [{"rule": "too_long", "column": "text", "value": ("ab " * 100)[:200]}],
    ]


# --- rows that are none --------------------------------------------------------------------------


def test_rows_that_could_not_be_taken_apart_keep_their_number():
    mapping = shop({})
    file = io.BytesIO(f"customer,at\nanna,{AT}\nbob\neve,{AT},x\nmax,{AT}\n".encode())
    (batch,) = read_batches("a.csv", file, entry=mapping.files[0], mapped_only=True)
    result = canonical(batch, mapping, name="a.csv", first_row=101)
    assert result.select("row_number", "part", "user_id").rows() == [
        (101, 0, "anna"),
        (102, 0, None),
        (103, 0, None),
        (104, 0, "max"),
    ]
    assert result["errors"].to_list()[2] == [
        {"rule": "ragged", "column": None, "value": "3 fields instead of 2"}
    ]


def test_json_lines_need_not_have_every_column_of_every_batch():
    columns = {**BASKET, "text": "note", "session_id": "visit.id"}
    frame = pl.DataFrame({"customer": ["a"], "at": [AT]})
    result = canonical(frame, shop({"columns": columns}))
    assert result.select("text", "session_id").row(0) == (None, None)
    with pytest.raises(MappingError, match="no column 'note'"):
        canonical(frame, shop({"columns": columns}), name="a.csv")
