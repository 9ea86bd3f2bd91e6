"""Subscriptions: from a dropped file to the terms that tasks read; what is set aside, and why."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import polars as pl
import pytest
import yaml

from seq_ml import schema
from seq_ml.business import Business
from seq_ml.clean.reference import ReferenceResult, publish_reference
from seq_ml.clean.rules.catalogue import describe_rule
from seq_ml.erasure.access import export_history
from seq_ml.erasure.erase import Erasure
from seq_ml.ingest.ingest import ingest
from seq_ml.privacy.pseudonyms import Pseudonyms
from seq_ml.schema.staged import staged_name
from seq_ml.storage.contracts import check_key
from seq_ml.tasks.data import load_task_data
from tests.shop import MAPPING, SETTINGS, Shop, numbers

if TYPE_CHECKING:
    from pathlib import Path

HEADER = "who,tariff,since,until,fee,notice\n"
ENTRY = {
    "match": "contracts/*",
    "table": "subscriptions",
    "columns": {
        "user_id": "who",
        "plan": "tariff",
        "started_at": "since",
        "renews_or_ends_at": "until",
        "price": "fee",
        "cancelled_at": "notice",
    },
}
PERSON = "kundin-4711-zoe"


@pytest.fixture
def shop(objects) -> Shop:
    shop = Shop(objects)
    mapping = yaml.safe_load(MAPPING) | {"test_users": ["test-*"], "timezone": "UTC"}
    mapping["files"].append(ENTRY)
    objects.put("sources/shop.yaml", yaml.safe_dump(mapping).encode())
    return shop


def contracts(shop: Shop, *lines: str, path: str = "contracts/1.csv") -> str:
    return shop.drop(path, *lines, header=HEADER)


def pseudonym(shop: Shop, user: str) -> str:
    return str(Pseudonyms(shop.objects, SETTINGS).of(pl.Series([user])).item())


def test_terms_arrive_and_what_cannot_be_a_contract_is_set_aside(shop: Shop, tmp_path: Path):
    contracts(
        shop,
        "anna,basic,2024-01-01,2024-02-01,9,\n",
        "anna,basic,2024-02-01,2024-03-01,9,2024-02-20\n",
        "ben,pro,2024-01-01,,,\n",  # open-ended, no price
        "cleo,basic,2024-03-01,2024-02-01,9,\n",  # ends before it starts
        ",basic,2024-03-01,2024-04-01,9,\n",  # a renewal of nobody
        "dora,basic,2024-03-01,2024-04-01,9,2024-02-27\n",  # cancelled before it began
        "test-1,basic,2024-03-01,2024-04-01,9,\n",
    )
    assert shop.ingest().refused == []
    assert publish_reference(shop.tables, "subscriptions") == ReferenceResult(1, 3, 0, 4)
    assert numbers(shop.drops()["contracts/1.csv"]) == ("clean", 7, 3, 0, 4)
    rejected = shop.tables.scan("quarantined_events").sort("row_number").collect()
    assert rejected.select("row_number", "rule", "column").rows() == [
        (4, "before_start", "renews_or_ends_at"),
        (5, "required", "user_id"),
        (6, "before_start", "cancelled_at"),
        (7, "test_account", None),
    ]
    named = describe_rule("before_start")
    assert named is not None
    assert "never ran" in named.meaning

    data = load_task_data(shop.tables, Business(), tmp_path, encoder=None, seed=7)
    check_key(data.subscriptions, schema.SUBSCRIPTIONS)
    anna, ben = pseudonym(shop, "anna"), pseudonym(shop, "ben")
    assert set(data.subscriptions["user_id"]) == {anna, ben}
    assert set(data.subscriptions["subscription_id"]) == {"MAIN"}
    assert set(data.subscriptions["currency"]) == {"EUR"}, "a price without one is the business's"
    known = data.terms_known(datetime(2024, 2, 20, tzinfo=UTC))
    assert known.height == 3
    assert known["cancelled_at"].null_count() == 3, "nobody knows yet of the notice of that day"
    assert data.terms_known(datetime(2024, 2, 1, tzinfo=UTC)).height == 2, "strictly before"


def test_the_newest_row_of_a_term_counts(shop: Shop):
    contracts(shop, "anna,basic,2024-01-01,2024-02-01,9,\n")
    contracts(shop, "anna,basic,2024-01-01,2024-02-01,9,2024-01-20\n", path="contracts/2.csv")
    shop.ingest()
    assert publish_reference(shop.tables, "subscriptions") == ReferenceResult(1, 1, 1, 0)
    assert shop.tables.scan("subscriptions").collect()["cancelled_at"].null_count() == 0


@pytest.mark.parametrize("gone", [False, True], ids=["drop is there", "drop is gone"])
def test_erasing_a_person_takes_their_contracts_and_nobody_elses(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gone: bool
):
    monkeypatch.setenv("SEQLINE_HOME", str(tmp_path))
    (tmp_path / "work").mkdir()
    key = contracts(shop, "anna,pro,2024-01-01,,7,\n", f"{PERSON},basic,2024-01-01,2024-02-01,9,\n")
    shop.ingest()
    publish_reference(shop.tables, "subscriptions")
    out = tmp_path / "zoe.parquet"
    assert export_history(shop.objects, SETTINGS, PERSON, out) == 0
    terms = pl.read_parquet(tmp_path / "zoe-subscriptions.parquet")
    assert terms["user_id"].to_list() == [PERSON]
    out.unlink()
    (tmp_path / "zoe-subscriptions.parquet").unlink()
    if gone:
        shop.objects.delete([key])

    work = Erasure(shop.objects, SETTINGS, PERSON)
    survey = work.survey()
    assert survey.known
    receipt = work.run(survey, also_search={"home": tmp_path})
    assert receipt.found == {}
    assert receipt.removed[f"tables/{staged_name('subscriptions')}"] == 1
    assert receipt.removed["tables/subscriptions"] == 1
    for name in ("subscriptions", staged_name("subscriptions")):
        assert shop.tables.scan(name).collect()["user_id"].to_list() == [pseudonym(shop, "anna")]
    assert numbers(shop.drops()["contracts/1.csv"]) == ("clean", 1, 1, 0, 0)
    if not gone:
        assert shop.objects.get(key) == f"{HEADER}anna,pro,2024-01-01,,7,\n".encode()
    contracts(shop, f"{PERSON},basic,2024-02-01,2024-03-01,9,\n", path="contracts/2.csv")
    ingest(shop.objects, shop.tables, SETTINGS)
    publish_reference(shop.tables, "subscriptions")
    assert shop.tables.scan("subscriptions").collect().height == 1, "a later drop changes nothing"
