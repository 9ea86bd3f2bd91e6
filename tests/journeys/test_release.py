"""The way out of the quarantine: mend the mapping, let the files be read again, rows move over."""

from __future__ import annotations

from datetime import date

import pytest
from typer.testing import CliRunner

from seq_assets.cli import app as cli
from seq_ml.clean.publish import publish_days
from seq_ml.clean.quarantine import quarantine_by_file, quarantine_by_rule
from seq_ml.clean.reference import publish_reference
from seq_ml.ingest.mapping.bucket import load_business
from tests.shop import MAPPING, SETTINGS, Shop, day_of, event, numbers

ITEMS = "article,name,price\n"
ODD = (
    "anna,wish,tea,2024-06-01 12:00:00,1,4.5\n",  # a value that the mapping does not know
    "anna,buy,tea,01.06.2024,1,4.5\n",  # a time that it cannot read: filed under its arrival
)


@pytest.fixture
def shop(objects) -> Shop:
    return Shop(objects)


def carry_on(shop: Shop, folder) -> list[date]:
    """What the sensors would do: read what is new or mapped anew, publish every open day."""
    shop.ingest()
    version = load_business(shop.objects).cleaning_version()
    open_days = shop.ledger.unclean_partitions("events", version=version)
    days = [date.fromisoformat(day) for day in open_days]
    if days:
        assert publish_days(shop.tables, SETTINGS, days, folder).failed == []
    publish_reference(shop.tables, "items")
    return days


def held(shop: Shop) -> list[tuple]:
    rows = shop.tables.scan("quarantined_events").sort("table", "source_file", "row_number")
    return rows.select("table", "row_number", "rule", "column", "value").collect().rows()


def landing_day(shop: Shop, path: str) -> date:
    return shop.drops()[path]["landed_at"].date()


def test_rows_leave_the_quarantine_when_the_mapping_is_mended(shop, tmp_path):
    shop.drop("events/a.csv", event(1), *ODD, event(2))
    shop.drop("items/1.csv", 'tea,Tea,"3,50"\ncup,Cup,5\n', header=ITEMS)
    carry_on(shop, tmp_path / "1")
    landed = landing_day(shop, "events/a.csv")
    assert held(shop) == [
        ("events", 2, "behaviour", "event_type", "wish"),
        ("events", 3, "type:datetime", "event_time", "01.06.2024"),
        ("items", 1, "type:f64", "price", "3,50"),
    ]
    assert shop.published().height == 2
    assert numbers(shop.drops()["events/a.csv"]) == ("clean", 4, 2, 0, 2)

    # One entry each is mended; the rows of the items wait in the same days as the events'.
    mended = MAPPING.replace("look: view}", "look: view, wish: wishlist}")
    shop.objects.put("sources/shop.yaml", mended.encode())
    assert carry_on(shop, tmp_path / "2") == [day_of(1), day_of(2), landed]
    assert [row[:3] for row in held(shop)] == [
        ("events", 3, "type:datetime"),
        ("items", 1, "type:f64"),
    ]
    assert sorted(shop.published()["event_type"]) == ["purchase", "purchase", "wishlist"]
    assert numbers(shop.drops()["events/a.csv"]) == ("clean", 4, 3, 0, 1)

    mended = mended.replace("price: price", "price: {column: price, decimal_comma: true}")
    shop.objects.put("sources/shop.yaml", mended.encode())
    assert carry_on(shop, tmp_path / "3") == []
    assert [row[:2] for row in held(shop)] == [("events", 3)]
    items = shop.tables.scan("items").sort("item_id").collect()
    assert items.select("item_id", "price").rows() == [("cup", 5.0), ("tea", 3.5)]

    shop.drop("events/a.csv", event(1), ODD[0], event(1, hour=13), event(2))
    assert carry_on(shop, tmp_path / "4") == [day_of(1), day_of(2), landed]
    assert held(shop) == []
    assert numbers(shop.drops()["events/a.csv"]) == ("clean", 4, 4, 0, 0)
    assert carry_on(shop, tmp_path / "5") == []


def test_another_limit_releases_rows_without_reading_a_file_again(shop, tmp_path):
    shop.drop("events/a.csv", event(1), "anna,buy,tea,2024-06-01 12:00:00,20000,9.0\n", event(2))
    carry_on(shop, tmp_path / "1")
    assert held(shop) == [("events", 2, "absurd", "quantity", "20000.0")]
    staged = shop.tables.version("staged_events")

    wider = MAPPING.replace("currency: EUR}", "currency: EUR, cleaning: {max_quantity: 20000}}")
    shop.objects.put("sources/shop.yaml", wider.encode())
    assert carry_on(shop, tmp_path / "2") == [day_of(1), day_of(2)]
    assert held(shop) == []
    assert shop.published().height == 3
    assert numbers(shop.drops()["events/a.csv"]) == ("clean", 3, 3, 0, 0)
    assert shop.tables.version("staged_events") == staged
    assert carry_on(shop, tmp_path / "3") == []


def test_the_quarantine_is_counted_by_rule_and_file(shop, tmp_path, monkeypatch):
    monkeypatch.setattr("seq_assets.cli.terminal.connect", lambda: shop.objects)
    ask = CliRunner().invoke
    assert "Nothing is in quarantine." in ask(cli.app, ["quarantine"]).output
    bad = "anna,buy,tea,2024-06-01 12:00:00,{},1\n"
    shop.drop("events/a.csv", *(bad.format(n) for n in (-1, -2, "x")), ODD[1])
    shop.drop("events/b.csv", event(1), bad.format(-3))
    shop.drop("items/1.csv", ",None,5\n", header=ITEMS)
    carry_on(shop, tmp_path)

    found = quarantine_by_rule(shop.tables)
    assert found.select("table", "rule", "column", "rows", "files").rows() == [
        ("events", "minimum", "quantity", 3, 2),
        ("events", "type:datetime", "event_time", 1, 1),
        ("events", "type:f64", "quantity", 1, 1),
        ("items", "required", "item_id", 1, 1),
    ]
    assert quarantine_by_rule(shop.tables, table="items")["rows"].to_list() == [1]
    assert quarantine_by_rule(shop.tables, rule="type")["rows"].to_list() == [1, 1]
    files = quarantine_by_file(shop.tables, rule="minimum")
    assert files.select("source_file", "rows", "row_number", "value").rows() == [
        ("drops/shop/events/a.csv", 2, 1, "-1.0"),
        ("drops/shop/events/b.csv", 1, 2, "-3.0"),
    ]
    assert quarantine_by_file(shop.tables, rule="minimum", limit=1).height == 1

    shown = ask(cli.app, ["quarantine", "--table", "events"])
    assert shown.exit_code == 0
    assert "drops/shop/events/b.csv" in shown.output
    assert "type: A value is there but cannot be read" in " ".join(shown.output.split())
    assert "item_id" not in shown.output
    assert "Nothing is in quarantine there." in ask(cli.app, ["quarantine", "--rule", "no"]).output
