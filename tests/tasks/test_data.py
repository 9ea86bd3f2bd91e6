"""Stock counts: from a dropped file to what the inventory task reads."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import polars as pl
import pytest
import yaml

from seq_ml import schema
from seq_ml.business import Business
from seq_ml.clean.reference import ReferenceResult, publish_reference
from seq_ml.ingest.mapping.source import MappingError, parse_mapping
from seq_ml.storage.contracts import check_key
from seq_ml.storage.portions import shard_of
from seq_ml.tasks.data import Loaded, TaskData, load_task_data
from tests.data import journey
from tests.shop import MAPPING, Shop, numbers
from tests.tasks.cut import cut_by

HEADER = "article,shop,at,units,ordered,days,pack\n"
ENTRY = {
    "match": "stock/*",
    "table": "stock",
    "columns": {
        "item_id": "article",
        "store_id": "shop",
        "counted_at": "at",
        "on_hand": "units",
        "on_order": "ordered",
        "lead_time_days": "days",
        "pack_size": "pack",
    },
}


@pytest.fixture
def shop(objects) -> Shop:
    shop = Shop(objects)
    mapping = yaml.safe_load(MAPPING)
    mapping["files"].append(ENTRY)
    objects.put("sources/shop.yaml", yaml.safe_dump(mapping).encode())
    return shop


def test_a_dropped_count_arrives_at_the_task(shop, tmp_path):
    shop.drop(
        "stock/1.csv",
        "tea,,2024-06-01 08:00,17,24,5,12\n",  # the whole business
        "tea,s1,2024-06-01 08:00,3,,,\n",  # nothing under way, terms unknown
        "tea,s1,2024-06-02 08:00,2,6,,\n",
        "tea,s2,2024-06-02 08:00,2,some,,\n",  # unreadable: not 0 units under way
        "pot,,2024-06-02 08:00,-1,,,\n",
        "cup,,2024-06-02 08:00,,5,,\n",
        header=HEADER,
    )
    assert shop.ingest().refused == []
    assert publish_reference(shop.tables, "stock") == ReferenceResult(1, 3, 0, 3)
    assert numbers(shop.drops()["stock/1.csv"]) == ("clean", 6, 3, 0, 3)
    rejected = shop.tables.scan("quarantined_events").sort("row_number").collect()
    assert rejected.select("row_number", "rule", "column", "value").rows() == [
        (4, "type:f64", "on_order", "some"),
        (5, "minimum", "on_hand", "-1.0"),
        (6, "required", "on_hand", None),
    ]

    data = load_task_data(shop.tables, Business(), tmp_path, encoder=None, seed=7)
    check_key(data.stock, schema.STOCK)
    known = data.stock_known(datetime(2024, 6, 2, tzinfo=UTC)).sort("store_id")
    # the shop's clock is two hours ahead of UTC
    at = datetime(2024, 6, 1, 6, tzinfo=UTC)
    assert known.rows() == [
        ("tea", "ALL", at, 17.0, 24.0, 5.0, 12.0, *[None] * 4),
        ("tea", "s1", at, 3.0, 0.0, *[None] * 6),
    ]
    later = data.stock_known(datetime(2024, 6, 3, tzinfo=UTC)).sort("store_id")
    assert later["on_hand"].to_list() == [17.0, 2.0]


def test_a_mapping_need_not_name_what_is_filled():
    entry = {**ENTRY, "columns": {"item_id": "sku", "counted_at": "at", "on_hand": "units"}}
    text = yaml.safe_dump({"name": "shop", "files": [entry]})
    assert parse_mapping(text, "shop.yaml").files[0].table == "stock"
    del entry["columns"]["on_hand"]
    with pytest.raises(MappingError, match="stock needs the column 'on_hand'"):
        parse_mapping(yaml.safe_dump({"name": "shop", "files": [entry]}), "shop.yaml")


def load_users(count: int) -> TaskData:
    """Two events of each user, whose pseudonyms are as even as hashes."""
    users = [f"{(number * 2_654_435_761) % 2**32:08x}{'0' * 24}" for number in range(count)]
    return TaskData(
        events=pl.LazyFrame({"user_id": users * 2}),
        items=pl.DataFrame(),
        campaigns=pl.DataFrame(),
        campaign_items=pl.DataFrame(),
        promotions=pl.LazyFrame(),
        business=Business(),
    )


@pytest.mark.parametrize("files", [1, 4])
def test_shards_hold_every_user_once_and_a_sample_is_of_whole_shards(files, monkeypatch):
    cut_by(10, monkeypatch)
    data = load_users(100)
    users = data.events.collect()["user_id"].unique().to_list()
    if files > 1:
        few = tuple(data.events.filter(shard_of(files) == number) for number in range(files))
        data = replace(data, files=few)
    shards = [shard.events.collect()["user_id"].to_list() for shard in data.shards()]
    assert len(shards) > 8
    assert max(len(set(shard)) for shard in shards) < 20
    assert sorted(user for shard in shards for user in shard) == sorted(users * 2)
    some = data.some(25).events.collect()["user_id"].unique().sort().to_list()
    assert some == sorted({user for shard in shards[:3] for user in shard})
    assert data.some(1000) is data
    others = data.others(25).events.collect()["user_id"].unique().sort().to_list()
    assert others == sorted({user for shard in shards[-3:] for user in shard})
    assert data.others(1000) is data
    shard = next(data.shards())
    assert [shard.once("all", lambda d: d.events.collect().height) for _ in range(2)] == [200, 200]
    one = data.where(pl.col("user_id") == users[0])
    assert [d.events.collect().height for d in one.shards()].count(2) == 1
    assert [d.events.collect().height for d in one.shards()].index(2) == [
        users[0] in shard for shard in shards
    ].index(True), "users stay in their shards"


def test_a_sample_is_the_same_from_wherever_it_is_asked_for(monkeypatch):
    cut_by(10, monkeypatch)
    data = load_users(100)
    some = data.some(25)
    assert some is data.some(25)
    assert some.some(25) is some
    assert next(data.shards()).some(25) is some
    users = some.events.collect()["user_id"].unique().sort()
    few = data.of(users.head(3))
    assert few.events.collect()["user_id"].unique().sort().to_list() == users.head(3).to_list()
    assert few.whole is data
    files = tuple(data.events.filter(shard_of(4) == number) for number in range(4))
    by_user = replace(data, files=files).of(users.head(3)).events
    assert by_user.sort("user_id").collect().equals(few.events.sort("user_id").collect())
    assert few.some(25) is some


def test_the_steps_of_a_run_read_once_until_a_table_changes(tables, tmp_path):
    loaded = Loaded()

    def load() -> TaskData:
        return loaded.load(tables, Business(), tmp_path, encoder=None, seed=7)

    grocer = journey(3)
    tables.append(schema.EVENTS.name, grocer["clean_events"].head(50), partition_by="event_date")
    first = load()
    first.keep(("behaviour", 1), lambda _: "small")
    first.keep(("past", 1), lambda _: "large")
    again = load()
    assert again is first
    assert again.keep(("behaviour", 1), lambda _: "read again") == "small"
    assert again.keep(("past", 1), lambda _: "read again") == "read again"
    tables.append(schema.ITEMS.name, grocer["items"].head(2))
    other = load()
    assert other.items.height == 2
    assert other.keep(("behaviour", 1), lambda _: "read again") == "read again"
