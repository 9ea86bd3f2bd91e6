"""The bucket's mappings: a broken one stops only its own files, and is tried again when mended."""

from __future__ import annotations

import json

import pytest

from seq_ml.ingest.mapping.bucket import business_of, load_business, load_sources
from seq_ml.ingest.mapping.source import MappingError, parse_mapping
from tests.shop import HEADER, MAPPING, Shop, event

WEB = MAPPING.replace("name: shop", "name: web").replace(
    "business: {timezone: Europe/Berlin, currency: EUR}\n", ""
)


@pytest.fixture
def shop(objects) -> Shop:
    return Shop(objects)


def put_web(shop: Shop, mapping: str) -> None:
    shop.objects.put("sources/web.yaml", mapping.encode())
    shop.objects.put("drops/web/events/a.csv", (HEADER + event(2)).encode())


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        (WEB.replace("files:", "flies:"), "unknown key"),
        (WEB.replace("table: events", "table: clicks"), "table 'clicks' is not one of events"),
        ("name: web\n  files: [", "is not YAML"),
        (WEB.replace("name: web", "name: shop"), "both have the name 'shop'"),
    ],
    ids=["key", "table", "yaml", "name"],
)
def test_a_broken_mapping_stops_only_its_own_files(shop, broken, reason):
    shop.drop("events/a.csv", event(1))
    shop.ingest()
    put_web(shop, broken)
    shop.drop("items/a.csv", "tea,Tea,3\n", header="article,name,price\n")
    result = shop.ingest()
    refused = dict(result.refused)
    twice = "both" in reason
    assert result.rows == ({} if twice else {"items": 1})
    assert reason in refused["drops/shop/items/a.csv" if twice else "drops/web/events/a.csv"]
    assert shop.staged()["currency"].to_list() == ["EUR"]  # what was read before stays
    assert shop.ingest().files == 0  # and is tried again only when the mapping has changed
    put_web(shop, WEB)
    result = shop.ingest()
    assert result.refused == []
    assert result.rows == ({"events": 1, "items": 1} if twice else {"events": 1})
    assert sorted(shop.staged()["currency"]) == ["EUR", "EUR"]


def test_a_mapping_that_is_broken_elsewhere_still_tells_the_business(shop):
    put_web(shop, WEB)
    broken = MAPPING.replace("files:", "flies:")
    shop.objects.put("sources/shop.yaml", broken.encode())
    assert load_business(shop.objects).currency == "EUR"
    assert shop.ingest().refused == []
    assert shop.staged()["currency"].to_list() == ["EUR"]


def test_more_behaviours_than_can_be_told_apart_are_refused_in_one_sentence(shop):
    own = {f"page_{number}": "browse" for number in range(237)}
    text = MAPPING + f"\nbehaviours: {json.dumps(own)}"
    why = "251 behaviours are named, .* at most 250 .*: translate similar ones to one name"
    with pytest.raises(MappingError, match=why) as check:
        business_of(parse_mapping(text, "shop.yaml"))
    shop.objects.put("sources/shop.yaml", text.encode())
    with pytest.raises(MappingError) as run:
        load_business(shop.objects)
    assert str(run.value) == str(check.value)
    assert "\n" not in str(run.value)
    assert "Value error" not in str(run.value)
    shop.objects.put("sources/shop.yaml", text.replace('"page_0": "browse", ', "").encode())
    assert len(load_business(shop.objects).roles) == 250


def test_no_currency_is_guessed_while_the_business_cannot_be_read(shop):
    put_web(shop, WEB)
    shop.objects.put("drops/web/items/a.csv", b"article,name,price\ntea,Tea,3\n")
    shop.ingest()
    shop.objects.put("sources/shop.yaml", b"business: {currency: [")
    shop.objects.put("drops/web/events/b.csv", (HEADER + event(3)).encode())
    ((key, reason),) = shop.ingest().refused  # what was read before is not read again
    assert key == "drops/web/events/b.csv"
    assert "needs the currency of the business" in reason
    assert "described by shop" in reason
    with pytest.raises(MappingError, match="described by shop"):
        load_business(shop.objects)
    shop.objects.put("sources/shop.yaml", MAPPING.replace("EUR", "USD").encode())
    assert shop.ingest().files == 2  # the new file, and the one with the old currency
    assert shop.staged()["currency"].to_list() == ["USD", "USD"]


def test_versions_tell_entries_apart(shop):
    sources = load_sources(shop.objects)
    keys = ["drops/shop/events/a", "drops/shop/items/a", "drops/shop/x", "drops/other/a"]
    versions = [sources.version(key) for key in keys]
    assert len(set(versions)) == 4
    assert versions[2:] == ["", "none"]
    assert [sources.can_read(key) for key in keys] == [True, True, False, False]
    shop.objects.put("sources/shop.yaml", MAPPING.replace("name: name", "name: title").encode())
    shop.objects.put("sources/shop.yaml", MAPPING.replace("title: name", "title: label").encode())
    changed = [load_sources(shop.objects).version(key) for key in keys]
    assert [old == new for old, new in zip(versions, changed, strict=True)] == [
        True,
        False,
        True,
        True,
    ]
