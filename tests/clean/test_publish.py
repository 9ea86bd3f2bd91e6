"""Publishing: days and reference tables appear whole, checked, and as the source's files say."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime

import polars as pl
import pytest

from seq_ml import schema
from seq_ml.clean.publish import publish_days
from seq_ml.clean.reference import ReferenceResult, publish_reference
from seq_ml.ingest.ingest import ingest
from seq_ml.ingest.ledger import Ledger
from seq_ml.privacy.pseudonyms import Pseudonyms
from seq_ml.sources import completejourney
from seq_ml.storage.contracts import check_key
from seq_ml.storage.tables import TableStore
from tests.data import _pseudonym, busiest_stores, journey, raw
from tests.shop import SETTINGS, PowerCutError, Shop, cut_power, day_of, event, numbers

ITEMS = "article,name,price\n"
PROMOTIONS = "article,shop,week,place\n"


@pytest.fixture
def shop(objects) -> Shop:
    return Shop(objects)


def publish(shop: Shop, folder, **options):
    """Publish every day that waits."""
    days = [date.fromisoformat(day) for day in shop.ledger.unclean_partitions("events")]
    return publish_days(shop.tables, SETTINGS, days, folder, **options)


def table(shop: Shop, name: str, *order: str) -> pl.DataFrame:
    return shop.tables.scan(name).sort(*order).collect()


# --- days -----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_days_are_published_and_late_events_touch_only_their_own(shop, tmp_path):
    nothing = publish_days(shop.tables, SETTINGS, [day_of(1)], tmp_path / "0")  # nothing dropped
    assert nothing.counts.is_empty()
    assert shop.published().is_empty()

    shop.drop("events/a.csv", event(1), event(1), event(2), "anna,buy,tea,2024-06-02,-3,1\n")
    shop.drop("events/b.csv", event(1), event(3))
    shop.ingest()
    done = publish(shop, tmp_path / "1")
    assert done.failed == []
    assert list(done.verdicts) == [day_of(1), day_of(2), day_of(3)]
    assert done.counts.rows() == [
        (day_of(1), 4, 2, 1, 1),
        (day_of(2), 1, 1, 0, 0),
        (day_of(3), 1, 1, 0, 0),
    ]
    assert numbers(shop.drops()["events/a.csv"]) == ("clean", 4, 3, 0, 1)
    assert numbers(shop.drops()["events/b.csv"]) == ("clean", 2, 1, 1, 0)
    quarantined = table(shop, "quarantined_events", "row_number")
    assert quarantined.select("source_file", "row_number", "rule", "column", "value").rows() == [
        ("drops/shop/events/a.csv", 4, "minimum", "quantity", "-3.0")
    ]
    assert (tmp_path / "1" / "001" / "index.html").exists()
    before = shop.published()
    assert before["event_date"].to_list() == [day_of(1), day_of(1), day_of(2), day_of(3)]

    # A file sent twice adds nothing, and a late event makes only its own day written again.
    shop.drop("events/b-again.csv", event(3))
    shop.drop("events/late.csv", event(3, hour=20))
    shop.ingest()
    files = set(shop.tables.delta("clean_events").file_uris())
    publish(shop, tmp_path / "2")
    after = shop.published()
    assert after.filter(pl.col("event_id").is_in(before["event_id"].implode())).equals(before)
    assert after.height == before.height + 1
    assert numbers(shop.drops()["events/b-again.csv"]) == ("clean", 1, 0, 1, 0)
    assert numbers(shop.drops()["events/late.csv"]) == ("clean", 1, 1, 0, 0)
    untouched = files & set(shop.tables.delta("clean_events").file_uris())
    assert {uri for uri in files if "event_date=2024-06-03" not in uri} == untouched


@pytest.mark.slow
def test_a_day_that_fails_its_expectations_stays_as_it_was(shop, tmp_path):
    suites = tmp_path / "suites"
    suites.mkdir()
    expectation = {
        "type": "expect_column_values_to_not_be_in_set",
        "kwargs": {"column": "item_id", "value_set": ["poison"]},
    }
    suite = {"name": "mine", "expectations": [expectation]}
    (suites / "clean_events_mine.json").write_text(json.dumps(suite))
    shop.drop("events/a.csv", event(1), event(2))
    shop.ingest()
    publish(shop, tmp_path / "1", suites_folder=suites)
    before = shop.published()
    assert before.height == 2

    shop.drop("events/b.csv", event(2, article="poison"), event(2, hour=15))
    shop.ingest()
    failing = publish(shop, tmp_path / "2", suites_folder=suites)  # not one day to publish
    assert failing.failed == [day_of(2)]
    assert "poison" in failing.verdicts[day_of(2)].failed[0]
    assert shop.published().equals(before)
    assert shop.drops()["events/b.csv"]["status"] == "ingested"

    shop.drop("events/c.csv", event(2, hour=16), event(3))
    shop.ingest()
    mixed = publish(shop, tmp_path / "3", suites_folder=suites)
    assert mixed.failed == [day_of(2)]
    assert shop.published().height == 3
    assert shop.drops()["events/c.csv"]["status"] == "ingested"
    assert shop.ledger.unclean_partitions("events") == ["2024-06-02"]  # and not the third

    shop.drop("events/b.csv", event(2, hour=15))
    shop.ingest()
    assert publish(shop, tmp_path / "4", suites_folder=suites).failed == []
    assert shop.published().height == 5
    assert {numbers(row) for row in shop.drops().values()} == {
        ("clean", 2, 2, 0, 0),
        ("clean", 1, 1, 0, 0),
    }


@pytest.mark.slow
def test_publishing_that_was_cut_off_anywhere_ends_like_an_undisturbed_one(
    shop, tmp_path, monkeypatch
):
    shop.drop("events/a.csv", event(1), event(1), "anna,buy,tea,2024-06-01 09:00:00,-3,1\n")
    shop.drop("events/b.csv", event(1), event(2))
    shop.ingest()
    step, finished = 0, False
    while not finished:
        with monkeypatch.context() as patch:
            cut_power(patch, step)
            try:
                publish(shop, tmp_path / str(step))
                finished = True
            except PowerCutError:
                step += 1
                # The drops stay open until everything is written.
                assert shop.ledger.unclean_partitions("events") == ["2024-06-01", "2024-06-02"]
    # verdicts, events, quarantine, profiles, counts, ledger; the empty tables are there
    assert step == 6
    assert shop.published()["event_date"].to_list() == [day_of(1), day_of(1), day_of(2)]
    assert table(shop, "quarantined_events", "row_number").height == 1
    assert numbers(shop.drops()["events/a.csv"]) == ("clean", 3, 2, 0, 1)
    assert numbers(shop.drops()["events/b.csv"]) == ("clean", 2, 1, 1, 0)
    assert shop.ledger.unclean_partitions("events") == []


# --- reference tables -----------------------------------------------------------------------------


@pytest.mark.slow
def test_the_newest_row_of_an_item_counts(shop):
    assert publish_reference(shop.tables, "items") == ReferenceResult(0, 0, 0, 0)
    assert table(shop, "items", "item_id").is_empty()
    shop.drop("items/1.csv", "tea,Tea,3\ncup,Cup,5\ncup,Mug,6\n,None,1\npot,Pot,x\n", header=ITEMS)
    shop.ingest()
    assert publish_reference(shop.tables, "items") == ReferenceResult(1, 2, 1, 2)
    shop.drop("items/2.csv", "tea,Green tea,4\njar,Jar,-1\n", header=ITEMS)
    shop.ingest()
    assert publish_reference(shop.tables, "items") == ReferenceResult(1, 2, 2, 3)
    items = table(shop, "items", "item_id")
    check_key(items, schema.ITEMS)
    assert items.select("item_id", "title", "price").rows() == [
        ("cup", "Mug", 6.0),
        ("tea", "Green tea", 4.0),
    ]
    assert numbers(shop.drops()["items/1.csv"]) == ("clean", 5, 1, 2, 2)
    assert numbers(shop.drops()["items/2.csv"]) == ("clean", 2, 1, 0, 1)
    rejected = table(shop, "quarantined_events", "source_file", "row_number")
    assert rejected.select("table", "row_number", "rule", "column", "value").rows() == [
        ("items", 4, "required", "item_id", None),
        ("items", 5, "type:f64", "price", "x"),
        ("items", 2, "minimum", "price", "-1.0"),
    ]
    version = shop.tables.version("items")
    assert publish_reference(shop.tables, "items") == ReferenceResult(0, 0, 0, 0)
    assert shop.tables.version("items") == version
    # A correction takes the bad rows out of the quarantine, too.
    shop.drop("items/1.csv", "tea,Tea,3\npot,Pot,7\n", header=ITEMS)
    shop.ingest()
    publish_reference(shop.tables, "items")
    assert table(shop, "items", "item_id")["item_id"].to_list() == ["pot", "tea"]
    assert table(shop, "quarantined_events", "row_number").height == 1


def test_promotions_are_published_week_by_week(shop):
    first = "tea,s1,2024-06-03,front\ntea,s1,2024-06-10,\n,s1,2024-06-10,x\ntea,s1,soon,x\n"
    shop.drop("promotions/1.csv", first, header=PROMOTIONS)
    shop.ingest()
    assert publish_reference(shop.tables, "promotions") == ReferenceResult(3, 2, 0, 2)
    files = set(shop.tables.delta("promotions").file_uris())
    second = "tea,s1,2024-06-10,rear\ntea,s2,2024-06-10,rear\ntea,s1,2024-06-17,front\n"
    shop.drop("promotions/2.csv", second, header=PROMOTIONS)
    shop.ingest()
    assert publish_reference(shop.tables, "promotions") == ReferenceResult(2, 3, 1, 1)
    kept = table(shop, "promotions", "week_start", "store_id")
    check_key(kept, schema.PROMOTIONS)
    assert kept.select("week_start", "store_id", "display").rows() == [
        (day_of(3), "s1", "front"),
        (day_of(10), "s1", "rear"),
        (day_of(10), "s2", "rear"),
        (day_of(17), "s1", "front"),
    ]
    untouched = files & set(shop.tables.delta("promotions").file_uris())
    assert len(untouched) == 1
    assert numbers(shop.drops()["promotions/1.csv"]) == ("clean", 4, 1, 1, 2)
    assert numbers(shop.drops()["promotions/2.csv"]) == ("clean", 3, 3, 0, 0)
    rejected = table(shop, "quarantined_events", "row_number")
    assert rejected.select("row_number", "rule", "column", "value").rows() == [
        (3, "required", "item_id", None),
        (4, "type:date", "week_start", "soon"),
    ]


def test_a_reference_publication_that_was_cut_off_ends_like_an_undisturbed_one(shop, monkeypatch):
    shop.drop("items/1.csv", "tea,Tea,3\n,None,1\n", header=ITEMS)
    shop.drop("items/2.csv", "tea,Green tea,3\n", header=ITEMS)
    shop.ingest()
    step, finished = 0, False
    while not finished:
        with monkeypatch.context() as patch:
            cut_power(patch, step)
            try:
                publish_reference(shop.tables, "items")
                finished = True
            except PowerCutError:
                step += 1
    assert step == 4  # items, quarantine, counts, ledger; the empty table is there by then
    assert table(shop, "items", "item_id")["title"].to_list() == ["Green tea"]
    assert table(shop, "quarantined_events", "row_number").height == 1
    assert numbers(shop.drops()["items/1.csv"]) == ("clean", 2, 0, 1, 1)
    assert numbers(shop.drops()["items/2.csv"]) == ("clean", 1, 1, 0, 0)


# --- the shipped source ---------------------------------------------------------------------------


@pytest.mark.slow
def test_the_shipped_mapping_gives_the_canonical_frames(objects, tmp_path):
    """Complete Journey through files and mapping = the frames that `tests.data` makes directly."""
    frames = journey(5)
    households = raw("transactions").select(pl.col("household_id").unique().sort()).collect()
    chosen = households["household_id"].head(5).to_list()
    bought = frames["clean_events"]["item_id"].drop_nulls().unique().cast(int).to_list()
    stores = [int(store) for store in busiest_stores(frames["clean_events"])]
    objects.put("sources/completejourney.yaml", completejourney.mapping_text().encode())
    daily: dict[str, list[bytes]] = {}
    for day, path, content in completejourney.write_days(chosen):
        assert path.startswith(f"days/{day}/")
        daily.setdefault(path.rsplit("/", 1)[1], []).append(content)
        objects.put(f"drops/completejourney/{path}", content)
    assert set(daily) == {"transactions.parquet", "coupon_redemptions.csv", "mailings.csv"}
    for path, content in completejourney.write_reference(bought, stores):
        objects.put(f"drops/completejourney/{path}", content)

    tables = TableStore(objects)
    result = ingest(objects, tables, SETTINGS)
    assert result.refused == []
    ledger = Ledger(tables)
    days = [date.fromisoformat(day) for day in ledger.unclean_partitions("events")]
    done = publish_days(tables, SETTINGS, days, tmp_path)
    assert done.failed == []
    for name in ("items", "campaigns", "campaign_items", "promotions"):
        publish_reference(tables, name)

    way_back = Pseudonyms(objects, SETTINGS).source_ids()
    assert sorted(way_back["source_user_id"].cast(int)) == chosen
    events = tables.scan("clean_events").collect().join(way_back, on="user_id")
    events = events.with_columns(user_id="source_user_id").select(schema.EVENTS.names)
    expected = frames["clean_events"].with_columns(user_id=_households(frames, chosen))
    assert set(expected["event_type"]) == {"purchase", "coupon_redeem", "ad_impression"}
    _assert_equal_rows(events.drop("event_id"), expected.drop("event_id"))
    for name in ("items", "campaigns", "campaign_items", "promotions"):
        _assert_equal_rows(tables.scan(name).collect(), frames[name])
    rows = ledger.current()
    assert rows["status"].unique().to_list() == ["clean"]
    assert rows.filter(
        pl.col("rows_read")
        != pl.col("rows_kept") + pl.col("rows_duplicate") + pl.col("rows_quarantined")
    ).is_empty()
    kept = rows.filter(pl.col("table") == "events")["rows_kept"].sum()
    assert kept == events.height == expected.height
    assert events["event_time"].max() < datetime(2018, 1, 1, 5, tzinfo=UTC)


def _households(frames: dict[str, pl.DataFrame], chosen: list[int]) -> pl.Expr:
    """Turn the pseudonyms of `tests.data` back into household numbers."""
    names = {_pseudonym(household): str(household) for household in chosen}
    return pl.col("user_id").replace_strict(names)


def _assert_equal_rows(found: pl.DataFrame, expected: pl.DataFrame) -> None:
    """Compare all rows, in any order; equal rows count as often as they occur."""
    assert found.schema == expected.schema
    assert found.height == expected.height
    left, right = (frame.sort(pl.all(), nulls_last=True) for frame in (found, expected))
    for name in found.columns:
        differing = left.filter(left[name].ne_missing(right[name]))
        assert differing.is_empty(), f"{name}: {differing.head(3).to_dicts()}"
