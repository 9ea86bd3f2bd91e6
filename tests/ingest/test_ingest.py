"""Ingest: each drop once and whole, whatever the order, the corrections and the crashes."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import polars as pl
import pytest

from seq_ml.ingest.drops import find_pending
from seq_ml.ingest.ingest import ingest
from seq_ml.ingest.landing import land_folder
from seq_ml.ingest.mapping.bucket import load_sources
from seq_ml.ingest.mapping.source import MappingError
from seq_ml.ingest.rows.canonical import file_by_day
from seq_ml.privacy.pseudonyms import Pseudonyms
from seq_ml.schema import INPUT_TABLES
from seq_ml.storage.objects import ObjectStore
from tests.shop import MAPPING, SETTINGS, Shop, day_of, event, numbers


@pytest.fixture
def shop(objects) -> Shop:
    return Shop(objects)


# --- one drop -------------------------------------------------------------------------------------


def test_a_drop_becomes_staged_events_and_a_ledger_row(shop):
    shop.drop("events/a.csv", event(1), event(1, hour=1), event(2, customer="bob"))
    result = shop.ingest()
    assert (result.files, result.rows, result.refused) == (1, {"events": 3}, [])
    row = shop.drops()["events/a.csv"]
    assert numbers(row) == ("ingested", 3, None, None, None)
    assert (row["source"], row["table"]) == ("shop", "events")
    # One o'clock in Berlin still is the day before in UTC.
    assert row["partitions"] == ["2024-05-31", "2024-06-01", "2024-06-02"]
    assert shop.ledger.unclean_partitions("events") == row["partitions"]
    staged = shop.staged().sort("row_number")
    assert staged["event_type"].unique().to_list() == ["purchase"]
    assert staged["event_time"][0] == datetime(2024, 6, 1, 10, tzinfo=UTC)
    assert staged["unit_price"].unique().to_list() == [4.5]
    assert staged["currency"].unique().to_list() == ["EUR"]

    shop.clean()
    assert numbers(shop.drops()["events/a.csv"]) == ("clean", 3, 3, 0, 0)
    assert shop.ledger.unclean_partitions("events") == []


def test_a_bad_row_is_set_aside_and_a_bad_file_is_refused_while_the_rest_goes_on(shop):
    shop.drop("events/a.csv", event(1), "anna,buy,tea,someday,2,9.0\n", ',buy,"",2024-06-01,x,\n')
    shop.drop("events/b.csv", event(2))
    broken = {
        "events/broken.parquet": (b"PAR1 broken PAR1", "corrupt or truncated"),
        "events/half.csv.gz": (b"\x1f\x8b\x08\x00", "corrupt or truncated"),
        "events/notes.txt": (b"hello", "ends in none of"),
        "events/other.csv": (b"custommer,action,article,at,pieces,paid\n,,,,,\n", "no column"),
        "surveys/a.csv": (b"a\n1\n", "fits no entry of source 'shop'"),
    }
    for path, (body, _) in broken.items():
        shop.objects.put(f"drops/shop/{path}", body)
    shop.objects.put("drops/stranger/a.csv", b"a\n1\n")
    result = shop.ingest()
    assert result.files == 8
    assert len(result.refused) == 6
    shop.clean()
    drops = shop.drops()
    assert numbers(drops["events/a.csv"]) == ("clean", 3, 1, 0, 2)
    assert numbers(drops["events/b.csv"]) == ("clean", 1, 1, 0, 0)
    for path, (_, reason) in broken.items():
        assert drops[path]["status"] == "refused"
        assert reason in drops[path]["reason"]
        assert path in drops[path]["reason"] or path.split("/")[1] in drops[path]["reason"]
    stranger = drops["drops/stranger/a.csv"]
    assert "there is no sources/stranger.yaml" in stranger["reason"]
    assert "'customer'; did you mean 'custommer'?" in drops["events/other.csv"]["reason"]
    assert shop.ingest().files == 0


def test_every_reason_is_kept_however_many_files_there_are(shop):
    for n in range(110):
        shop.objects.put(f"drops/shop/events/{n:03d}.csv", b"")
    shop.objects.put("drops/shop/events/x.csv", b"strange\n1\n")
    shop.ingest()
    drops = shop.drops()
    assert len(drops) == 111
    assert "no column" in drops["events/x.csv"]["reason"]
    assert drops["events/109.csv"]["table"] == "events"


def test_a_refused_file_is_tried_again_when_its_mapping_changes(shop):
    shop.drop("orders/a.csv", event(1))
    shop.objects.put("drops/web/a.csv", b"x\n1\n")
    assert len(shop.ingest().refused) == 2
    assert shop.ingest().files == 0
    shop.objects.put("sources/shop.yaml", MAPPING.replace("events/*", "orders/*").encode())
    result = shop.ingest()
    assert (result.files, result.refused) == (1, [])
    web = MAPPING.replace("name: shop", "name: web").replace("events/*", "*")
    shop.objects.put("sources/web.yaml", web.encode())
    ((key, reason),) = shop.ingest().refused
    assert key == "drops/web/a.csv"
    assert "no column" in reason
    assert shop.ingest().files == 0


def test_files_without_rows_are_done_at_once(shop):
    shop.drop("events/empty.csv")
    shop.objects.put("drops/shop/events/nothing.jsonl", b"")
    shop.ingest()
    for path in ("events/empty.csv", "events/nothing.jsonl"):
        assert numbers(shop.drops()[path]) == ("clean", 0, 0, 0, 0)
    assert shop.ledger.unclean_partitions("events") == []


def test_events_are_filed_by_their_day_or_by_their_arrival():
    landed = datetime(2024, 7, 1, 8, tzinfo=UTC)
    times = [
        datetime(2024, 6, 1, 23, tzinfo=UTC),
        datetime(2010, 1, 1, tzinfo=UTC),
        landed + timedelta(hours=30),
        None,
    ]
    events = pl.DataFrame({"event_time": times}, schema={"event_time": pl.Datetime("us", "UTC")})
    events = events.with_columns(landed_at=pl.lit(landed))
    filed = file_by_day(events, date(2015, 1, 1))["event_date"].to_list()
    assert filed == [date(2024, 6, 1), *[landed.date()] * 3]


# --- which drops are ready ------------------------------------------------------------------------


def test_a_folder_waits_for_its_marker_or_until_it_is_quiet(shop):
    key = shop.drop("events/a.csv", event(1))
    shop.objects.put("drops/shop/events/_temporary/b.csv", b"half")
    shop.objects.put("drops/shop/events/.c.csv", b"half")
    shop.objects.put("drops/shop/events/folder/", b"")
    sources = load_sources(shop.objects)

    def pending(**options):
        return find_pending(
            shop.objects, shop.ledger.current(), sources, **{"stable_seconds": 600, **options}
        )

    young = pending()
    assert (young.ready, young.unfinished) == ((), 1)
    assert shop.ingest(SETTINGS.model_copy(update={"stable_seconds": 600})).unfinished == 1
    later = datetime.now(UTC) + timedelta(seconds=601)
    assert [info.key for info in pending(now=later).ready] == [key]
    shop.objects.put("drops/shop/_SUCCESS", b"")  # of another folder
    assert pending().unfinished == 1
    shop.objects.put("drops/shop/events/_SUCCESS", b"")
    ready = pending()
    assert [info.key for info in ready.ready] == [key]
    assert ready.digest == pending(now=later).digest
    shop.ingest()
    assert pending(now=later).ready == ()
    shop.drop("events/a.csv", event(2))
    corrected = pending()
    assert [info.key for info in corrected.ready] == [key]
    assert corrected.digest != ready.digest


def test_a_file_that_vanishes_between_listing_and_reading_is_taken_when_it_returns(
    shop, monkeypatch
):
    kept, gone = shop.drop("events/a.csv", event(1)), shop.drop("events/b.csv", event(2))
    swapped = shop.drop("events/c.csv", event(3))
    listing = list(shop.objects.list("drops/"))
    shop.objects.delete_prefix(gone)
    shop.drop("events/c.csv", event(4))
    with monkeypatch.context() as patch:
        patch.setattr(ObjectStore, "list", _listing(listing))
        shop.ingest()
    statuses = {key: row["status"] for key, row in shop.drops().items()}
    assert statuses == {
        "events/a.csv": "ingested",
        "events/b.csv": "deleted",
        "events/c.csv": "deleted",
    }
    assert shop.staged()["source_file"].to_list() == [kept]
    shop.drop("events/b.csv", event(2))  # the same content, so the same etag
    assert shop.ingest().files == 2
    assert sorted(shop.staged()["source_file"]) == [kept, gone, swapped]
    assert shop.ledger.unclean_partitions("events") == ["2024-06-01", "2024-06-02", "2024-06-04"]


def _listing(frozen: list):
    """Replace `ObjectStore.list` for drops/ by an earlier listing."""
    real = ObjectStore.list

    def listed(self, prefix, **options):
        return iter(frozen) if prefix == "drops/" else real(self, prefix, **options)

    return listed


# --- again, corrected, late -----------------------------------------------------------------------


def test_the_same_drop_twice_changes_nothing(shop):
    lines = [event(1), event(1), event(2, customer="bob")]
    shop.drop("events/a.csv", *lines)
    shop.ingest()
    shop.clean()
    before = shop.cleaned()
    assert before.height == 3  # two equal rows in one file are two events
    shop.drop("events/a.csv", *lines)
    assert shop.ingest().files == 0
    shop.drop("events/sent-again.csv", *lines, event(2, hour=20))
    shop.ingest()
    shop.clean()
    after = shop.cleaned()
    assert after.filter(pl.col("event_id").is_in(before["event_id"])).equals(before)
    assert after.height == 4
    assert numbers(shop.drops()["events/a.csv"]) == ("clean", 3, 3, 0, 0)
    assert numbers(shop.drops()["events/sent-again.csv"]) == ("clean", 4, 1, 3, 0)


def test_a_correction_replaces_its_rows_and_opens_the_old_and_the_new_days(shop):
    shop.drop("events/a.csv", event(1), event(2))
    shop.drop("events/b.csv", event(3))
    shop.ingest()
    shop.clean()
    shop.drop("events/a.csv", event(2), event(5))
    shop.ingest()
    assert shop.ledger.unclean_partitions("events") == ["2024-06-01", "2024-06-02", "2024-06-05"]
    shop.clean()
    assert shop.cleaned()["event_date"].to_list() == [day_of(2), day_of(3), day_of(5)]
    assert numbers(shop.drops()["events/a.csv"]) == ("clean", 2, 2, 0, 0)
    assert shop.ledger.unclean_partitions("events") == []
    shop.drop("events/a.csv")  # corrected to nothing
    shop.ingest()
    shop.clean()
    assert shop.cleaned()["event_date"].to_list() == [day_of(3)]
    assert numbers(shop.drops()["events/a.csv"]) == ("clean", 0, 0, 0, 0)


def test_a_correction_that_cannot_be_read_takes_nothing_away(shop):
    key = shop.drop("events/a.csv", event(1))
    shop.ingest()
    shop.clean()
    before = shop.cleaned()
    shop.objects.put(key, b"customer,action\nanna\n")
    assert len(shop.ingest().refused) == 1
    shop.clean()
    assert shop.cleaned().equals(before)
    assert numbers(shop.drops()["events/a.csv"]) == ("refused", 1, 1, 0, 0)
    assert shop.ledger.unclean_partitions("events") == []
    shop.drop("events/a.csv", event(2))
    shop.ingest()
    assert shop.ledger.unclean_partitions("events") == ["2024-06-01", "2024-06-02"]
    shop.clean()
    assert shop.cleaned()["event_date"].to_list() == [day_of(2)]


def test_late_events_open_only_their_own_days(shop):
    shop.drop("events/a.csv", event(1), event(2), event(3))
    shop.ingest()
    shop.clean()
    shop.drop("events/late.csv", event(2, hour=15), event(28))
    shop.ingest()
    assert shop.ledger.unclean_partitions("events") == ["2024-06-02", "2024-06-28"]


def test_an_ingest_during_a_cleaning_stays_open(shop):
    """What was staged after the days were read is not closed by that cleaning."""
    shop.drop("events/a.csv", event(1))
    shop.ingest()
    read_at = shop.ledger.clock()
    shop.drop("events/b.csv", event(1, hour=18), event(2))
    shop.ingest()
    counts = pl.DataFrame(
        {
            "partition": ["2024-06-01"],
            "source_file": ["drops/shop/events/a.csv"],
            "rows_read": [1],
            "rows_kept": [1],
            "rows_duplicate": [0],
            "rows_quarantined": [0],
        }
    )
    shop.ledger.record_cleaning("events", ["2024-06-01"], counts, read_at)
    assert shop.drops()["events/a.csv"]["status"] == "clean"
    assert shop.drops()["events/b.csv"]["status"] == "ingested"
    assert shop.ledger.unclean_partitions("events") == ["2024-06-01", "2024-06-02"]


# --- people ---------------------------------------------------------------------------------------


def test_users_are_pseudonyms_everywhere_but_in_their_own_table(shop):
    shop.drop("events/a.csv", event(1, customer="anna@example.org"), event(2, customer="bob"))
    shop.ingest()
    shop.drop("events/b.csv", event(3, customer="anna@example.org"), ",buy,tea,2024-06-01,1,1\n")
    shop.drop("events/c.csv", '"",buy,tea,2024-06-01,1,1\n')
    shop.ingest()
    shop.clean()
    staged = shop.staged().sort("event_time", "source_file")
    assert staged["user_id"].drop_nulls().str.contains("^[0-9a-f]{32}$").all()
    assert staged["user_id"].null_count() == 2
    assert staged["user_id"].n_unique() == 3
    pairs = Pseudonyms(shop.objects, SETTINGS).source_ids()
    way_back = dict(pairs.select("user_id", "source_user_id").rows())
    assert sorted(way_back.values()) == ["anna@example.org", "bob"]
    back = staged.drop_nulls("user_id").join(pairs, on="user_id")
    assert back.sort("event_time")["source_user_id"].to_list() == [
        "anna@example.org",
        "bob",
        "anna@example.org",
    ]
    for info in shop.objects.list(""):
        body = shop.objects.get(info.key)
        holds = b"anna@example.org" in body or _in_parquet(shop.objects, info.key)
        assert holds == info.key.startswith(("drops/", "identities/")) or not holds
    identities = [i.key for i in shop.objects.list("identities/") if i.key.endswith(".parquet")]
    assert any(_in_parquet(shop.objects, key) for key in identities)


def _in_parquet(objects: ObjectStore, key: str) -> bool:
    if not key.endswith(".parquet"):
        return False
    return "anna@example.org" in str(pl.read_parquet(objects.get(key)).to_dicts())


def test_pseudonyms_and_event_ids_depend_on_the_key(shop, objects):
    shop.drop("events/a.csv", event(1))
    shop.ingest()
    first = shop.staged()
    again = Pseudonyms(objects, SETTINGS).apply(pl.DataFrame({"user_id": ["anna"]}))
    assert again["user_id"][0] == first["user_id"][0]
    for table in ("staged_events", "drop_ledger"):
        objects.delete_prefix(f"tables/{table}/")
    other = SETTINGS.model_copy(update={"pseudonym_key": type(SETTINGS.pseudonym_key)("1f" * 32)})
    ingest(objects, shop.tables, other)
    second = shop.staged()
    # Without the key nobody can try out which user stands behind a row.
    assert second["user_id"][0] != first["user_id"][0]
    assert second["event_id"][0] != first["event_id"][0]


# --- landing --------------------------------------------------------------------------------------


def test_a_folder_of_files_is_landed_once_and_again_when_it_changes(shop, tmp_path):
    said: list[str] = []
    (tmp_path / "events").mkdir()
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "config.csv").write_text("x")
    with pytest.raises(MappingError, match=r"None of the 0 files below .* fits a pattern"):
        land_folder(shop.objects, tmp_path, MAPPING, "shop.yaml", said.append)
    (tmp_path / "events" / "a.csv").write_text(
        "customer,action,article,at,pieces,paid\n" + event(1)
    )
    (tmp_path / "readme.txt").write_text("not a drop")

    def land() -> int:
        return land_folder(shop.objects, tmp_path, MAPPING, "shop.yaml", said.append)

    assert land() == 2
    keys = {info.key for info in shop.objects.list("drops/")}
    assert keys == {
        "drops/shop/_SUCCESS",
        "drops/shop/readme.txt",
        "drops/shop/events/_SUCCESS",
        "drops/shop/events/a.csv",
    }
    assert land() == 0
    with (tmp_path / "events" / "a.csv").open("a") as file:
        file.write(event(2))
    assert land() == 1
    result = shop.ingest(SETTINGS.model_copy(update={"stable_seconds": 3600}))
    assert result.rows == {"events": 2}
    assert [key for key, _ in result.refused] == ["drops/shop/readme.txt"]
    assert said[-1] == "  2 files, 1 new or changed"


def test_reference_files_are_staged_by_their_own_partitions(shop):
    shop.drop("items/a.csv", "tea,Tea,3\n", header="article,name,price\n")
    weeks = "tea,s1,2024-06-03,front\ntea,s1,2024-06-10,\ntea,s1,monday,front\n"
    shop.drop("promotions/a.csv", weeks, header="article,shop,week,place\n")
    shop.ingest()
    assert shop.ledger.unclean_partitions("items") == [""]
    assert shop.ledger.unclean_partitions("promotions") == ["", "2024-06-03", "2024-06-10"]
    assert shop.ledger.unclean_partitions("campaigns") == []
    staged = shop.staged("promotions").sort("row_number")
    assert staged["week_start"].to_list() == [date(2024, 6, 3), date(2024, 6, 10), None]
    assert staged["errors"].list.len().to_list() == [0, 0, 1]
    assert set(staged.columns) > set(INPUT_TABLES["promotions"].names)
