"""Erasing a person from a whole deployment: nothing is left of them, and nobody else notices."""

from __future__ import annotations

from datetime import date
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest

from seq_ml.erasure.receipt import Receipt
from seq_ml.erasure.search import search_bucket, search_folder
from seq_ml.ingest.ledger import Ledger
from seq_ml.privacy.pseudonyms import Pseudonyms
from seq_ml.sequences.segments import update_sequences
from seq_ml.storage.artifacts import is_forbidden
from seq_ml.storage.objects import ObjectStore
from seq_ml.storage.server import EmbeddedServer
from tests.erasure.test_drops import PERSON, packed, row
from tests.shop import SETTINGS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

from tests.erasure.deployment import DROPS, OTHERS, USER, Deployment, left_in


@pytest.fixture(scope="module")
def module_patch() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        yield patch


@pytest.fixture(scope="module")
def own_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    """A server of this module alone: its volumes are searched byte by byte."""
    embedded = EmbeddedServer(tmp_path_factory.mktemp("s3"))
    yield embedded
    embedded.stop()


@pytest.fixture(scope="module")
def before_and_after(
    own_server: EmbeddedServer,
    tmp_path_factory: pytest.TempPathFactory,
    module_patch: pytest.MonkeyPatch,
) -> tuple[Deployment, dict[str, Any], Receipt]:
    """The deployment after the erasure, the snapshot before it, and the receipt."""
    home = tmp_path_factory.mktemp("home")
    module_patch.setenv("SEQLINE_HOME", str(home))
    objects = ObjectStore(own_server.start("erase-test"))
    shop = Deployment(objects, home)
    shop.fill()
    assert shop.clean().filter(pl.col(USER) == shop.pseudonym).height == 6
    before = shop.snapshot()
    held = {key.split("/")[0] for key in left_in(objects, shop.pseudonym)}
    assert held == {"drops", "examples", "identities", "site", "tables", "tokens"}
    assert search_folder(own_server.folder, shop.needle)
    work = shop.erasure()
    receipt = work.run(
        work.survey(),
        compact=own_server.compact,
        also_search={"server": own_server.folder, "home": home},
    )
    return shop, before, receipt


Erased = tuple[Deployment, dict[str, Any], Receipt]


def test_nothing_is_left_of_the_person(
    before_and_after: Erased, own_server: EmbeddedServer, tmp_path: Path
) -> None:
    shop, _, receipt = before_and_after
    assert receipt.found == {}
    assert receipt.status == "finished"
    assert left_in(shop.objects, shop.pseudonym) == []
    assert search_bucket(shop.objects, shop.needle, tmp_path) == {}
    assert search_folder(shop.home, shop.needle) == {}
    assert search_folder(own_server.folder, shop.needle) == {}


def test_nobody_else_notices(before_and_after: Erased) -> None:
    shop, before, _ = before_and_after
    after = shop.snapshot()
    for place, rows in before.items():
        assert after[place] == rows, place
    assert update_sequences(shop.tables, SETTINGS).days == ()


def test_the_books_are_right_again(before_and_after: Erased) -> None:
    shop, _, _ = before_and_after
    ledger = Ledger(shop.tables).current().filter(pl.col("status") == "clean")
    parts = ledger.select(pl.sum_horizontal("rows_kept", "rows_duplicate", "rows_quarantined"))
    assert parts.to_series().to_list() == ledger["rows_read"].to_list()
    theirs = {key: [r for r in rows if r["customer"] != PERSON] for key, rows in DROPS.items()}
    read = dict(ledger.select("key", "rows_read").rows())
    assert read == {key: len(rows) for key, rows in theirs.items() if "shop" in key}
    quarantined = shop.tables.scan("quarantined_events").collect()
    assert quarantined.select("source_file", "row_number").rows() == [("drops/shop/a.csv", 3)]


def test_the_receipt_tells_what_was_done_and_names_nobody(before_and_after: Erased) -> None:
    shop, _, receipt = before_and_after
    stored = shop.objects.get(receipt.key)
    assert stored == receipt.to_bytes()
    assert receipt.models == ["churn_silence/v1", "encoder/e1"]
    named = [is_forbidden(shop.objects, "models/encoder", name) for name in ("e1", "e0")]
    assert named == [True, False]  # what never saw the person may be continued
    removed = receipt.removed
    assert removed["records in drops"] == 8
    assert removed["drops rewritten"] == 6
    assert removed["drops that no reader understands"] == 1
    assert removed["tables/clean_events"] == 6
    assert removed["identities/user_ids"] == 1
    assert removed["tables/user_embeddings"] == 1
    assert removed["tables/churn_predictions"] == 1
    assert removed["events in token shards"] == 6
    assert removed["labelled examples"] == 1
    assert receipt.history["tables/clean_events"] > 0


def test_a_drop_that_comes_again_does_not_bring_the_person_back(
    before_and_after: Erased, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop, before, _ = before_and_after
    monkeypatch.setattr("seq_ml.clean.publish.validate_days", lambda *_, **__: [])
    for key in ("drops/shop/b.csv.gz", "drops/shop/d.tsv"):
        shop.objects.put(key, packed(key, DROPS[key]))
    shop.objects.put("drops/shop/later.csv", packed("later.csv", [row(PERSON, 11), row("ben", 11)]))
    shop.take_in()
    clean = shop.clean()
    assert clean.filter(pl.col(USER) == shop.pseudonym).is_empty()
    assert clean.filter(pl.col("event_date") < date(2024, 6, 10)).rows() == before["clean"]
    found = shop.tables.scan("quarantined_events").filter(pl.col("rule") == "erased").collect()
    assert sorted(found["source_file"].unique()) == [
        "drops/shop/b.csv.gz", "drops/shop/d.tsv", "drops/shop/later.csv"
    ]  # fmt: skip
    assert found["value"].null_count() == found.height == 4
    ids = Pseudonyms(shop.objects, SETTINGS).source_ids()["source_user_id"].to_list()
    assert sorted(ids) == sorted(OTHERS)
    # a second erasure takes the raw rows out again, and knows the models of the first
    receipt = shop.erase()
    assert receipt.found == {}
    assert receipt.removed["records in drops"] == 4
    assert receipt.models == ["churn_silence/v1", "encoder/e1"]
