"""Identities: the same id in two sources is one person only where the mappings say so."""

from __future__ import annotations

import polars as pl
import pytest

from seq_ml.erasure.access import NoSuchUserError, export_history
from seq_ml.privacy.pseudonyms import MARK, Pseudonyms
from seq_ml.storage.objects import StorageError
from seq_ml.storage.tables import TableStore
from seq_ml.tables.read import with_own_ids
from tests.shop import HEADER, MAPPING, SETTINGS, Shop, event


@pytest.fixture
def shop(objects) -> Shop:
    return Shop(objects)


def drop(shop: Shop, source: str, *lines: str, identity: str = "", file: str = "a.csv") -> None:
    """Put a file of a source, whose mapping is the shop's but for name and identity."""
    said = f"name: {source}\n" + (f"identity: {identity}\n" if identity else "")
    mapping = MAPPING.replace("name: shop\n", said)
    if source != "shop":
        mapping = mapping.replace("business: {timezone: Europe/Berlin, currency: EUR}\n", "")
    shop.objects.put(f"sources/{source}.yaml", mapping.encode())
    shop.objects.put(f"drops/{source}/events/{file}", (HEADER + "".join(lines)).encode())


def people(shop: Shop) -> dict[str, set[str]]:
    """The pseudonyms of each source's staged events."""
    rows = shop.staged().with_columns(source=pl.col("source_file").str.split("/").list.get(1))
    return {
        str(source): set(mine["user_id"])
        for (source,), mine in rows.partition_by("source", as_dict=True).items()
    }


def test_a_user_in_two_sources_is_one_person_only_with_a_shared_identity(shop, tmp_path):
    drop(shop, "shop", event(1))
    shop.ingest()
    before = people(shop)["shop"]
    drop(shop, "web", event(1))  # the very same row: another person's, so another event
    shop.ingest()
    found = people(shop)
    assert found["shop"] == before
    assert found["web"].isdisjoint(before)
    assert shop.staged()["event_id"].n_unique() == 2
    with pytest.raises(NoSuchUserError, match="shop, web know this id"):
        export_history(shop.objects, SETTINGS, "anna", tmp_path / "anna.parquet")

    shown = with_own_ids(shop.objects, SETTINGS, shop.staged().sort("source_file"))
    assert shown["user_id"].to_list() == ["anna", "anna"]
    assert shown["identity"].to_list() == ["shop", "web"]

    drop(shop, "web", event(1), identity="shop")  # only its mapping changes: it is read again
    shop.ingest()
    assert people(shop) == {"shop": before, "web": before}


def test_two_sources_of_one_identity_are_one_person_from_the_first_file_on(shop):
    drop(shop, "app", event(1), identity="customers")
    drop(shop, "shop", event(2), identity="customers")
    shop.ingest()
    found = people(shop)
    assert found["app"] == found["shop"]
    assert "identity" not in with_own_ids(shop.objects, SETTINGS, shop.staged()).columns


def test_a_bucket_from_before_splits_and_merges_nobody(shop):
    drop(shop, "shop", event(1))
    drop(shop, "web", event(2), identity="shop")
    shop.ingest()
    before = people(shop)
    assert before["shop"] == before["web"]
    shop.objects.delete(["identities/bare.json"])  # as a release without identities left it
    store = TableStore(shop.objects, prefix="identities")
    ids = store.scan("user_ids").drop("identity").collect()
    shop.objects.delete_prefix("identities/user_ids/")
    store.append("user_ids", ids)
    drop(shop, "shop", event(3), file="b.csv")
    drop(shop, "web", event(2))
    drop(shop, "till", event(2))
    shop.ingest()
    found = people(shop)
    assert (found["shop"], found["web"]) == (before["shop"], before["web"])
    assert found["till"].isdisjoint(before["shop"])
    drop(shop, "web", event(2), identity="web-shop")  # until its mapping says that they are others
    shop.ingest()
    assert people(shop)["web"].isdisjoint(before["shop"] | found["till"])


@pytest.mark.parametrize("identity", ["", "customers"])
def test_a_list_of_first_identities_that_is_lost_stops_what_would_merge_or_split(shop, identity):
    drop(shop, "shop", event(1), identity=identity)
    shop.ingest()
    before = people(shop)
    kept = shop.objects.get("identities/bare.json")
    shop.objects.delete(["identities/bare.json"])
    drop(shop, "shop", event(2), identity=identity, file="b.csv")
    with pytest.raises(StorageError, match=r"identities/bare\.json is missing from the bucket"):
        shop.ingest()
    assert "identity" not in with_own_ids(shop.objects, SETTINGS, shop.staged()).columns
    shop.objects.put("identities/bare.json", kept)
    shop.ingest()
    assert people(shop) == before
    assert shop.staged().height == 2


def test_an_id_that_looks_like_another_identitys_is_not_taken_for_it(objects):
    objects.put("identities/bare.json", b'["shop"]')
    pseudonyms = Pseudonyms(objects, SETTINGS)
    forged = f"{MARK}web{MARK}anna"
    assert pseudonyms.pseudonym(forged, "shop") != pseudonyms.pseudonym("anna", "web")
    ids = pl.DataFrame({"user_id": [forged, "anna", None]})
    for identity in ("shop", "web"):
        marked = pseudonyms.marked(pl.col("user_id"), identity)
        pseudonyms.apply(ids.with_columns(user_id=marked))
    pseudonyms.remember()
    known = pseudonyms.source_ids().sort("identity", "source_user_id", nulls_last=True)
    assert known.select("source_user_id", "identity").rows() == [
        (forged, "web"), ("anna", "web"), (forged, None), ("anna", None),
    ]  # fmt: skip


def test_of_two_first_ingests_one_says_whose_ids_are_hashed_as_they_are(objects):
    one, other = Pseudonyms(objects, SETTINGS), Pseudonyms(objects, SETTINGS)
    assert one.bare == other.bare == frozenset()  # both look before either writes
    one.claim("shop")
    other.claim("web")
    assert one.bare == other.bare == frozenset(["shop"])
