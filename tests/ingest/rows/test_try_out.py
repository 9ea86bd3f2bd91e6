"""`seqline sources`: what a mapping understands of a file; the schema and the docs hold true."""

from __future__ import annotations

import io
import json
import re
from typing import TYPE_CHECKING

import jsonschema
import polars as pl
import pytest
import yaml
from typer.testing import CliRunner

from seq_assets.cli.app import app
from seq_ml.ingest.mapping.source import MappingError, mapping_schema, parse_mapping
from seq_ml.ingest.rows.try_out import choose_entry, understand
from seq_ml.sources import completejourney
from tests import ROOT

if TYPE_CHECKING:
    from pathlib import Path

DOCS = ROOT / "docs"
SHOP = """
name: shop
timezone: Europe/Berlin
business: {timezone: Europe/Berlin, currency: EUR}
files:
  - match: "orders/*.csv"
    table: events
    separator: ";"
    columns:
      user_id: customer
      event_type: {value: purchase}
      event_time: {column: day, time: "%d.%m.%Y %H:%M"}
      item_id: article
      quantity: {column: pieces, decimal_comma: true}
  - match: "web/*.jsonl"
    table: events
    columns: {user_id: user.id, event_type: action, event_time: at, session_id: visit, text: note}
  - match: "items/*.csv"
    table: items
    columns: {item_id: article, price: price}
"""
ORDERS = """customer;day;article;pieces;secret
anna;01.05.2024 10:00;tea;1,5;x
anna;01.05.2024 10:00;tea;-1;x
anna;1.5. 10:00;tea;1;x
bob;01.05.2024 10:00;tea
bob;01.05.2024 10:00;mail bob@example.com;1;x
"""


@pytest.fixture
def shop(tmp_path, monkeypatch) -> Path:
    """A mapping on disk, and no storage anywhere."""
    monkeypatch.setenv("SEQLINE_HOME", str(tmp_path / "home"))
    path = tmp_path / "shop.yaml"
    path.write_text(SHOP)
    return path


def run(*arguments: object) -> str:
    result = CliRunner().invoke(app, ["sources", *map(str, arguments)])
    assert result.exit_code == 0, result.output
    return result.output


def sample(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_check_shows_what_is_understood_and_what_is_not(shop):
    output = run(
        "check", shop, "--sample", sample(shop.parent, "a.csv", ORDERS), "--path", "orders/a.csv"
    )
    lines = [" ".join(line.split()) for line in output.splitlines()]
    assert lines[0] == "a.csv is read by the entry orders/*.csv of 'shop' as events"
    assert lines[1] == "5 rows → 5 records: 1 sound, 4 rejected"
    assert sorted(lines[2:6]) == ["1 minimum", "1 personal_data", "1 ragged", "1 type:datetime"]
    assert re.fullmatch(r"1 [0-9a-f]{8} purchase tea 2024-05-01 08:00:00\+0000 1.5 EUR", lines[7])
    assert lines[8:13] == [
        "row rule column value",
        "2 minimum quantity -1.0",
        "3 type:datetime event_time 1.5. 10:00",
        "4 ragged 3 fields instead of 5",
        "5 personal_data item_id mail [email]",
    ]
    assert lines[13] == "unmapped: secret"
    assert "anna" not in output
    assert "bob" not in output
    assert not (shop.parent / "home").exists()
    short = run(
        "check", shop, "--sample", shop.parent / "a.csv", "--path", "orders/a.csv", "--rows", 1
    )
    assert "4 rejected" in short
    assert "ragged  " not in short


def test_check_tells_a_mapping_that_loses_nearly_all_rows(shop):
    head, lines = "customer;day;article;pieces\n", "anna;01.05.1974 10:00;tea;1\n" * 25
    output = run(
        "check",
        shop,
        "--sample",
        sample(shop.parent, "a.csv", head + lines),
        "--path",
        "orders/a.csv",
    )
    said = " ".join(output.split())
    assert "a.csv: 25 of 25 rows (100%) break the rule before_first_day" in said
    assert "SEQLINE_FIRST_DAY" in said


def test_check_of_json_lines_names_what_no_line_has(shop):
    rows = [{"user": {"id": 1, "name": "x"}, "action": "view", "at": "2024-05-01"}] * 2
    body = "\n".join(json.dumps(row) for row in rows)
    output = run("check", shop, "--sample", sample(shop.parent, "a.jsonl", body))
    assert "2 rows → 2 records: 2 sound, 0 rejected" in output
    assert "not in any line: note; there are: user.name, visit; there are: user.name" in output
    assert "unmapped: user.name" in output


def test_check_of_a_reference_table(shop):
    text = "article,price\ntea,3\n,4\ncup,-1\ntea,5\n"
    output = run(
        "check", shop, "--sample", sample(shop.parent, "b.csv", text), "--path", "items/b.csv"
    )
    assert "4 rows → 4 records: 1 sound, 1 duplicates, 2 rejected" in output


@pytest.mark.parametrize(
    ("name", "text", "options", "message"),
    [
        ("a.csv", ORDERS.replace("customer", "kustomer"), ["--path", "orders/a.csv"],
         "no column 'customer'; did you mean 'kustomer'"),
        ("a.csv", ORDERS, [], "fits several entries of 'shop' (orders/*.csv, items/*.csv): say"),
        ("a.csv", ORDERS, ["--path", "other/a.csv"], "other/a.csv fits no entry of 'shop'"),
        ("a.txt", ORDERS, [], "a.txt fits no entry of 'shop'"),
        ("a.csv", "a,b\n1,2\n", ["--path", "orders/a.csv"], "like several: write `separator: ','`"),
    ],
    ids=["misspelt", "several", "elsewhere", "none", "separator"],
)  # fmt: skip
def test_check_refuses_in_one_sentence(shop, name, text, options, message):
    path = sample(shop.parent, name, text)
    result = CliRunner().invoke(
        app, ["sources", "check", str(shop), "--sample", str(path), *options]
    )
    assert result.exit_code == 1
    assert message in " ".join(result.output.split())


def test_a_long_sample_is_read_in_part():
    mapping = parse_mapping(SHOP, "shop.yaml")
    entry = choose_entry(mapping, "a.csv", "items/a.csv")
    file = io.BytesIO(b"article,price\n" + b"tea,3\n" * 1000)
    found = understand(mapping, entry, "a.csv", file, limit=10)
    assert (found.rows, found.whole, found.records.height) == (10, False, 10)


def test_list_tells_what_became_of_the_drops(objects, monkeypatch):
    monkeypatch.setattr("seq_assets.cli.terminal.connect", lambda: objects)
    assert "no sources yet" in run("list")
    objects.put("sources/shop.yaml", SHOP.encode())
    objects.put("sources/web.yaml", b"name: web\n")
    output = " ".join(run("list").split())
    assert "shop orders/*.csv, web/*.jsonl, items/*.csv" in output
    assert "web sources/web.yaml, at files" in output


# --- schema and docs ------------------------------------------------------------------------------


def test_the_published_schema_is_current():
    """Renew with `seqline sources schema > docs/source-mapping.schema.json`."""
    published = (DOCS / "source-mapping.schema.json").read_text()
    assert json.loads(published) == mapping_schema()
    assert run("schema") == published


def examples() -> dict[str, tuple[str, str, str]]:
    """(mapping, format, sample) of each example of docs/sources.md; the shipped mapping too."""
    text = (DOCS / "sources.md").read_text()
    pairs = re.findall(r"```yaml\n# (.*?)\n(.*?)```\n\n```(\w+)\n(.*?)```", text, flags=re.DOTALL)
    found = {title: (mapping, kind, rows) for title, mapping, kind, rows in pairs}
    last = text.rpartition("```csv\n")[2].partition("```")[0]
    return {**found, "complete journey": (completejourney.mapping_text(), "csv", last)}


EXAMPLES = examples()


@pytest.mark.parametrize("title", EXAMPLES)
def test_mappings_of_the_docs_are_valid_for_editors_too(title):
    content = yaml.safe_load(EXAMPLES[title][0])
    validator = jsonschema.Draft202012Validator(mapping_schema())
    assert list(validator.iter_errors(content)) == []
    entry = content["files"][0]
    for broken in (
        {**content, "file": []},
        {**content, "files": [{**entry, "table": "event"}]},
        {**content, "files": [{**entry, "columns": {"usr": "a"}}]},
        {**content, "files": [{**entry, "columns": {"user_id": {"colum": "a"}}}]},
        {**content, "files": [{**entry, "columns": {"user_id": 3}}]},
    ):
        assert list(validator.iter_errors(broken))


def outcome(title: str) -> pl.DataFrame:
    """The records that an example of the docs gives."""
    text, kind, rows = EXAMPLES[title]
    mapping = parse_mapping(text, title)
    entry, body = mapping.files[0], rows.encode(mapping.files[0].encoding)
    if title == "complete journey":
        kind, buffer = "parquet", io.BytesIO()
        pl.read_csv(io.BytesIO(body), try_parse_dates=True).write_parquet(buffer)
        body = buffer.getvalue()
    return understand(mapping, entry, f"a.{kind}", io.BytesIO(body)).records


def seen(title: str, *columns: str) -> list[tuple]:
    time = pl.col("event_time").dt.strftime("%Y-%m-%d %H:%M:%S")
    records = outcome(title).with_columns(
        event_time=time, rule=pl.col("errors").list.first().struct.field("rule")
    )
    return records.select("row_number", "part", "event_type", "event_time", *columns, "rule").rows()


def test_the_examples_of_the_docs_give_what_the_docs_say():
    assert seen("baskets", "session_id", "item_id", "quantity", "unit_price") == [
        (1, 0, "purchase", "2024-05-01 10:00:00", "7", "tea", 2.0, 3.5, None),
        (1, 1, "purchase", "2024-05-01 10:00:00", "7", "cup", 1.0, 8.99, None),
    ]
    assert seen("steps", "item_id", "unit_price") == [
        (1, 0, "view", "2024-05-01 10:00:00", "tea", None, None),
        (1, 1, "purchase", "2024-05-01 10:05:00", "tea", 3.5, None),
        (2, 0, "view", "2024-05-01 11:00:00", "cup", None, None),
    ]
    assert seen("click-stream", "item_id", "unit_price") == [
        (1, 0, "view", "2019-10-01 00:00:00", "44600062", 35.79, None),
        (2, 0, "add_to_cart", "2019-10-01 00:00:09", "5100816", 29.51, None),
        (3, 0, "purchase", "2019-10-01 00:02:14", "1004856", 130.76, None),
    ]
    columns = ("item_id", "quantity", "unit_price", "discount", "text")
    assert seen("order lines", *columns) == [
        (1, 0, "purchase", "2024-12-24 17:05:00", "Füller", 2.0, 1234.5, 15.0, None, None),
        (2, 0, "purchase", "2024-12-24 17:05:00", "Tinte", 0.5, 7.9, 0.0,
         "bitte Rückruf: [phone]", None),
        (3, 0, "refund", "2024-12-24 17:09:00", "Tinte", 1.0, 7.9, 0.0, None, None),
        (4, 0, None, "2024-12-24 17:10:00", *[None] * 5, "no_consent"),
        (5, 0, None, "2024-12-24 17:11:00", *[None] * 5, "test_account"),
        (6, 0, "purchase", None, "Tinte", 1.0, 7.9, 0.0, None, "type:datetime"),
    ]  # fmt: skip
    assert seen("complete journey", "item_id", "quantity", "unit_price", "discount") == [
        (1, 0, "purchase", "2017-01-01 11:53:26", "1095275", 1.0, 0.5, 0.0, None),
        (2, 0, "purchase", "2017-01-01 14:07:20", "1041796", 2.0, 1.99, 1.35, None),
        (3, 0, "purchase", "2017-01-01 17:30:27", "9878513", 0.0, None, 0.0, None),
    ]


def test_every_option_stands_in_the_docs_once():
    text = (DOCS / "sources.md").read_text()
    schema = mapping_schema()
    for name in (None, "FileMapping", "EventMapping", "Origin"):
        part = schema["$defs"][name] if name else schema
        for option in part["properties"]:
            assert re.search(rf"[`{{]{option}[`:]", text), option


def test_a_refusal_of_choose_entry_names_the_patterns():
    mapping = parse_mapping(SHOP, "shop.yaml")
    with pytest.raises(MappingError, match=r"patterns: orders/\*.csv, web/\*.jsonl, items/\*.csv"):
        choose_entry(mapping, "a.parquet", None)
    assert choose_entry(mapping, "a.jsonl", None).match == "web/*.jsonl"
