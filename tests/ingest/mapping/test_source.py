"""Mappings: every way to name a value's origin, every form of time, and mistakes told by name."""

from __future__ import annotations

import pytest

from seq_ml.ingest.mapping.bucket import load_business, load_sources
from seq_ml.ingest.mapping.source import MappingError, parse_mapping
from seq_ml.schema import EVENTS, INPUT_TABLES
from seq_ml.sources import completejourney
from tests.ingest.mapping.mapped import values


def test_a_missing_column_of_the_file_names_the_nearest():
    with pytest.raises(
        MappingError,
        match=r"^drops/shop/a.csv has no column 'artikel'; did you mean 'article'\? "
        r"\(mapping 'shop', files matching \*\)$",
    ):
        values({"article": ["1"]}, "artikel")


VALID = """
name: shop
files:
  - match: "*.csv"
    table: events
    columns:
      user_id: customer
      event_type: {value: view}
      event_time: at
"""


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "user_id",
            "usr_id",
            r"files.0: 'usr_id' is no column of events; did you mean 'user_id'\?",
        ),
        ("event_time: at", "", r"files.0: events needs the column 'event_time'"),
        ("table: events", "table: event", r"table 'event' is not one of events, items"),
        ("columns:", "colums:", r"files.0.colums: unknown key; did you mean 'columns'\?"),
        ("name: shop", "name: shop\ntimezon: UTC", r"timezon: unknown key.*'timezone'"),
        ("name: shop", "name: The Shop", "name: String should match"),
        ("name: shop", "name: shop\ntimezone: Berlin", "'Berlin' is no.* time zone"),
        ("at\n", "{column: at, tiem: iso}\n", r"event_time.tiem: unknown key.*'time'"),
        ("at\n", "{column: at, time: epoch}\n", r"'epoch' is no form of time: .*epoch_s"),
        ("at\n", "{column: at, value: 3}\n", r"exactly one of .*\(found: column, value\)"),
        ("at\n", "{time: iso}\n", r"exactly one of .*\(found: none\)"),
        ("at\n", "{divide: [a]}\n", "event_time.divide"),
        ("at\n", "at\n    separator: tab\n", "separator: String should have at most 1"),
        ("at\n", "at\n    encoding: ansi-1\n", "'ansi-1' is no encoding; write one like latin-1"),
        ("at\n", "at\n    events: [{columns: {usr: a}}]\n", "'usr' is no column of events"),
        ("at\n", "at\n    events: [{column: {}}]\n", "unknown key; did you mean 'columns'"),
        ("at\n", "at\n    consent: yes\n", "consent: write the name of a column"),
        (
            VALID.partition("files:")[2],
            "\n  - {match: a, table: items, columns: {item_id: i}, consent: ok}\n",
            "`events` and `consent` are for events, not for items",
        ),
        ("{value: view}", "{column: a, values: {view: [a, b], a: click}}", "lists 'a' twice"),
        ("{value: view}", "{column: a, values: {view: [1]}}", "write it in quotes"),
        ("{value: view}", "{column: a, nulls: [0]}", "nulls.0: .*write it in quotes"),
        ("{value: view}", "{column: a, values: {1: view}}", "write it in quotes"),
        ("files:", "files: []\nf:", "unknown key"),
        (VALID, "name: shop\nfiles: []\n", "files: .*at least 1"),
        (VALID, "files: [", "is not YAML"),
        (VALID, "- a\n", "holds no mapping"),
    ],
)
def test_mistakes_in_a_mapping_are_told_by_place_and_name(old, new, message):
    assert parse_mapping(VALID, "sources/shop.yaml").file_for("a.csv")
    with pytest.raises(MappingError, match=message) as caught:
        parse_mapping(VALID.replace(old, new), "sources/shop.yaml")
    assert str(caught.value).startswith("sources/shop.yaml")
    assert "\n" not in str(caught.value)


def test_the_first_pattern_that_fits_wins():
    text = VALID.replace('match: "*.csv"', 'match: "days/*/e?.csv"')
    source = parse_mapping(text, "x")
    assert source.file_for("days/2024/e1.csv") is source.files[0]
    for path in ("days/e1.csv", "days/2024/e10.csv", "DAYS/2024/e1.csv", "x/days/2024/e1.csv"):
        assert source.file_for(path) is None
    assert source.version != parse_mapping(VALID, "x").version


def test_the_version_of_an_entry_follows_what_decides_how_a_file_is_read():
    def version(text: str = VALID, path: str = "a.csv") -> str:
        return parse_mapping(text, "x").entry_version(path)

    first = version()
    assert version(path="a.parquet") == ""
    reordered = VALID.replace("      user_id: customer\n", "").replace(
        "event_time: at\n", "event_time: {column: at}  # a comment\n      user_id: customer\n"
    )
    other_entry = VALID + '  - {match: "x", table: items, columns: {item_id: i}}\n'
    business = "business: {currency: EUR}\n" + VALID  # where the currency matters, ingest adds it
    for same in (VALID + "# a\n", reordered, "description: x\n" + VALID, other_entry, business):
        assert version(same) == first
    for other in (
        VALID.replace("customer", "user"),
        VALID.replace("name: shop", "name: web"),
        VALID.replace("event_time: at", "event_time: {column: at, time: epoch_s}"),
        VALID + "    separator: ';'\n",
        "timezone: Europe/Berlin\n" + VALID,
        "test_users: [test*]\n" + VALID,
    ):
        assert version(other) not in ("", first)


def test_sources_agree_on_the_business(objects):
    assert load_business(objects).timezone == "UTC"
    business = "business: {timezone: Europe/Berlin, currency: EUR}\n"
    objects.put("sources/shop.yaml", (VALID + business).encode())
    objects.put("sources/web.yaml", VALID.replace("name: shop", "name: web").encode())
    objects.put("sources/README.md", b"not a mapping")
    assert set(load_sources(objects).usable) == {"shop", "web"}
    assert load_business(objects).currency == "EUR"
    same = VALID.replace("name: shop", "name: app") + business
    objects.put("sources/app.yml", same.encode())
    assert load_business(objects).timezone == "Europe/Berlin"
    objects.put("sources/app.yml", same.replace("EUR", "USD").encode())
    with pytest.raises(MappingError, match="app, shop describe the business differently"):
        load_business(objects)


def test_the_shipped_mapping_is_valid():
    source = parse_mapping(completejourney.mapping_text(), "completejourney.yaml")
    assert source.business is not None
    without = {"stock", "subscriptions", "exchange_rates"}  # the package holds no such files
    assert {entry.table for entry in source.files} == set(INPUT_TABLES) - without
    assert set(source.files[0].columns) <= set(EVENTS.names)
