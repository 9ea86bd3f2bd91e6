"""Erasure where something is in the way: cut off, other sources, lost drops, failing days."""

from __future__ import annotations

from collections import defaultdict
from datetime import date
from typing import TYPE_CHECKING

import polars as pl
import pytest
from rich.console import Console
from typer.testing import CliRunner

from seq_ml.clean.expectations.verdicts import DayResult
from seq_ml.erasure.access import NoSuchUserError
from seq_ml.ingest.ledger import Ledger
from seq_ml.privacy.pseudonyms import Pseudonyms
from seq_ml.schema.staged import staged_name
from tests.erasure.test_drops import MAPPING, PERSON, packed, row
from tests.shop import SETTINGS, PowerCutError, cut_power

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from click.testing import Result
from tests.erasure.deployment import USER, Deployment, left_in

ONE_DAY = date(2024, 6, 3)


ZEROS: dict[str, int] = defaultdict(int)


def books(shop: Deployment) -> dict[str, tuple[int, int]]:
    """Rows read, and the sum of kept, duplicate and quarantined, of each clean drop."""
    ledger = Ledger(shop.tables).current().filter(pl.col("status") == "clean")
    parts = pl.sum_horizontal("rows_kept", "rows_duplicate", "rows_quarantined")
    return {
        key: (read, sum_) for key, read, sum_ in ledger.select("key", "rows_read", parts).rows()
    }


def test_an_erasure_that_was_cut_off_is_finished_by_the_next(shop: Deployment) -> None:
    shop.fill()
    before = shop.snapshot()
    for step in (0, 1, 3, 6):
        with pytest.MonkeyPatch.context() as patch:
            cut_power(patch, step)
            with pytest.raises(PowerCutError):
                shop.erase()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("seq_ml.erasure.erase.forget_history", _fail)
        with pytest.raises(PowerCutError):
            shop.erase()
    receipt = shop.erase()
    assert receipt.found == {}
    assert receipt.models == ["churn_silence/v1", "encoder/e1"]
    assert left_in(shop.objects, shop.pseudonym) == []
    after = shop.snapshot()
    for place, rows in before.items():
        assert after[place] == rows, place
    assert all(read == sum_ for read, sum_ in books(shop).values())


def _fail(*_: object) -> int:
    raise PowerCutError


def test_a_user_of_another_source_with_the_same_id_stays(shop: Deployment) -> None:
    """In a bucket from before there were identities, in which both are one person."""
    shop.objects.put("identities/bare.json", b'["branch", "shop"]')
    shop.objects.put("sources/shop.yaml", MAPPING.encode())
    other = MAPPING.replace("name: shop", "name: branch")
    shop.objects.put("sources/branch.yaml", other.encode())
    for source in ("shop", "branch"):
        shop.objects.put(f"drops/{source}/a.csv", packed("a.csv", [row(PERSON, 3), row("ben", 4)]))
    shop.take_in()
    receipt = shop.erase(identity="shop")
    assert receipt.identity == "shop"
    assert receipt.removed["records in drops"] == 1
    assert "Another source" in receipt.remarks[0]
    for source in ("shop", "branch"):
        shop.objects.put(f"drops/{source}/b.csv", packed("b.csv", [row(PERSON, 5)]))
    shop.take_in()
    theirs = shop.tables.scan(staged_name("events")).filter(pl.col(USER) == shop.pseudonym)
    assert set(theirs.collect()["source_file"]) == {"drops/branch/a.csv", "drops/branch/b.csv"}
    days = shop.clean().filter(pl.col(USER) == shop.pseudonym)["event_date"].to_list()
    assert days == [date(2024, 6, 3), date(2024, 6, 5)]
    assert PERSON in set(Pseudonyms(shop.objects, SETTINGS).source_ids()["source_user_id"])


def test_an_id_of_two_people_is_erased_for_the_one_who_is_named(shop: Deployment) -> None:
    shop.objects.put("sources/shop.yaml", MAPPING.encode())
    shop.objects.put("sources/branch.yaml", MAPPING.replace("name: shop", "name: branch").encode())
    for source in ("shop", "branch"):
        shop.objects.put(f"drops/{source}/a.csv", packed("a.csv", [row(PERSON, 3), row("ben", 4)]))
    shop.take_in()
    assert shop.clean()[USER].n_unique() == 4
    with pytest.raises(NoSuchUserError, match="branch, shop know this id"):
        shop.erase()
    with pytest.raises(NoSuchUserError, match="no identity 'shopp'; there are: branch, shop"):
        shop.erase(identity="shopp")
    erasure = shop.erasure(identity="shop")
    receipt = erasure.run(erasure.survey(), also_search={"home": shop.home})
    assert (receipt.identity, receipt.found) == ("shop", {})
    assert "another identity's user" in receipt.remarks[0]
    assert shop.clean()[USER].n_unique() == 3
    for source in ("shop", "branch"):
        shop.objects.put(f"drops/{source}/b.csv", packed("b.csv", [row(PERSON, 5)]))
    shop.take_in()
    left = shop.clean().filter(pl.col("event_date") == date(2024, 6, 5))
    assert left[USER].to_list() == [Pseudonyms(shop.objects, SETTINGS).pseudonym(PERSON, "branch")]
    again = shop.erasure(identity="shop").survey()  # known by its tombstone, and nowhere else
    assert again.known
    assert again.tables == {}


def test_an_identity_that_mappings_no_longer_name_is_erased_alone(shop: Deployment) -> None:
    for source in ("branch", "shop"):
        mapping = MAPPING.replace("name: shop", f"name: {source}")
        shop.objects.put(f"sources/{source}.yaml", mapping.encode())
        shop.objects.put(f"drops/{source}/a.csv", packed("a.csv", [row(PERSON, 3), row("ben", 4)]))
    shop.take_in()
    shop.objects.delete(["sources/shop.yaml"])
    left = shop.erasure(identity="shop").survey()  # its drops are still there
    assert [info.key for info, _ in left.drops] == ["drops/shop/a.csv"]

    mapping = MAPPING.replace("name: shop", "name: branch\nidentity: family")
    shop.objects.put("sources/branch.yaml", mapping.encode())
    shop.take_in()
    before = shop.clean().rows()
    receipt = shop.erase(identity="branch")  # who has no drop any more: these are the family's
    assert receipt.removed == {"identities/user_ids": 1}
    assert shop.clean().rows() == before
    shop.objects.put("drops/branch/b.csv", packed("b.csv", [row(PERSON, 5)]))
    shop.take_in()
    assert shop.clean().height == len(before) + 1, "the source has the name, but other people"

    shop.objects.put("sources/till.yaml", b"name: till\nflies: []")
    receipt = shop.erase(identity="family")
    assert "The mappings of till cannot be read" in receipt.remarks[0]


def test_who_was_erased_stays_out_under_another_identity_of_the_source(shop: Deployment) -> None:
    for identity in ("family", "clan"):
        mapping = MAPPING.replace("name: shop", f"name: shop\nidentity: {identity}")
        shop.objects.put("sources/shop.yaml", mapping.encode())
        key = f"drops/shop/{identity}.csv"
        shop.objects.put(key, packed("a.csv", [row(PERSON, 3), row("ben", 4)]))
        shop.take_in()
        if identity == "family":
            shop.erase(identity="family")
    known = Pseudonyms(shop.objects, SETTINGS)
    assert known.pseudonym(PERSON, "clan") not in set(shop.clean()[USER])


def test_rows_of_a_drop_that_is_gone_are_erased_too(shop: Deployment) -> None:
    shop.objects.put("sources/shop.yaml", MAPPING.encode())
    rows = [row(PERSON, 3, note="mine"), row("ben", 3), row(PERSON, 4, pieces="x"), row("ben", 4)]
    shop.objects.put("drops/shop/a.csv", packed("a.csv", rows))
    shop.take_in()
    assert books(shop) == {"drops/shop/a.csv": (4, 4)}
    shop.objects.delete(["drops/shop/a.csv"])
    receipt = shop.erase()
    assert receipt.found == {}
    assert left_in(shop.objects, shop.pseudonym) == []
    assert set(shop.clean()[USER]) == set(Pseudonyms(shop.objects, SETTINGS).source_ids()[USER])
    assert books(shop) == {"drops/shop/a.csv": (2, 2)}


def test_a_day_that_fails_its_checks_loses_the_person_all_the_same(
    shop: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.objects.put("sources/shop.yaml", MAPPING.encode())
    rows = [row(PERSON, 3), row("ben", 3), row(PERSON, 3, pieces=PERSON), row("ben", 4)]
    shop.objects.put("drops/shop/a.csv", packed("a.csv", rows))
    shop.take_in()
    monkeypatch.setattr(
        "seq_ml.clean.publish.validate_days",
        lambda _, days, *__, **___: [DayResult(day, day.day == 4, (), (), ZEROS) for day in days],
    )
    receipt = shop.erase()
    assert receipt.found == {}
    assert "1 days failed" in receipt.remarks[0]
    assert left_in(shop.objects, shop.pseudonym) == []
    assert shop.clean()["event_date"].to_list() == [date(2024, 6, 3), date(2024, 6, 4)]


def test_a_short_id_is_erased_and_the_receipt_says_what_was_not_searched(shop: Deployment) -> None:
    shop.objects.put("sources/shop.yaml", MAPPING.encode())
    rows = [row("17", 3), row("ben", 3, pieces="17"), row("ben", 4)]
    shop.objects.put("drops/shop/a.csv", packed("a.csv", rows))
    shop.take_in()
    receipt = shop.erase("17")
    assert receipt.found == {}
    assert receipt.searched_for == ["pseudonym as text", "pseudonym as bytes"]
    assert "fewer than 6" in receipt.remarks[0]
    assert shop.objects.get("drops/shop/a.csv") == packed("a.csv", rows[1:])
    assert shop.clean().height == 2


def test_an_unknown_id_is_known_nowhere(shop: Deployment) -> None:
    shop.objects.put("sources/shop.yaml", MAPPING.encode())
    shop.objects.put("drops/shop/a.csv", packed("a.csv", [row("ben", 4)]))
    shop.take_in()
    survey = shop.erasure("nobody-at-all").survey()
    assert not survey.known


@pytest.fixture
def seqline(
    shop: Deployment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Result]:
    """Call the command on the shop, with a Dagster instance of its own."""
    folder = tmp_path / "dagster"
    folder.mkdir()
    config = shop.objects.config
    for name, value in {
        "DAGSTER_HOME": str(folder),
        "SEQLINE_BUCKET": config.bucket,
        "SEQLINE_PSEUDONYM_KEY": SETTINGS.pseudonym_key.get_secret_value(),
        "AWS_ACCESS_KEY_ID": config.access_key,
        "AWS_SECRET_ACCESS_KEY": config.secret_key,
        "AWS_ENDPOINT_URL": str(config.endpoint),
    }.items():
        monkeypatch.setenv(name, value)
    from seq_assets.cli import app as cli

    monkeypatch.setattr("seq_assets.cli.terminal.console", Console(width=200))
    return lambda *arguments: CliRunner().invoke(cli.app, ["erase", *arguments])


def test_the_command_looks_asks_and_erases(
    shop: Deployment, seqline: Callable[..., Result]
) -> None:
    import dagster as dg

    shop.objects.put("sources/shop.yaml", MAPPING.encode())
    shop.objects.put("drops/shop/a.csv", packed("a.csv", [row(PERSON, 3), row("ben", 4)]))
    shop.take_in()
    assert "nothing to erase" in seqline("nobody-at-all").output
    looked = seqline(PERSON, "--dry-run")
    assert "drops/shop/a.csv: 1 records" in looked.output
    assert "tables/clean_events: 1 rows" in looked.output
    assert seqline(PERSON).exit_code != 0  # nobody says yes
    assert shop.clean().height == 2
    with dg.DagsterInstance.get() as instance:
        job = dg.GraphDefinition(name="ingest_drops").to_job()
        run = instance.create_run_for_job(job, status=dg.DagsterRunStatus.STARTED)
        busy = seqline(PERSON, "--yes")
        assert busy.exit_code == 1
        assert "is in progress" in busy.output
        instance.report_run_canceled(run)
    done = seqline(PERSON, "--yes")
    assert done.exit_code == 0, done.output
    assert "The byte search found nothing." in done.output
    assert "Receipt: receipts/erasure/" in done.output
    assert PERSON not in done.output
    assert left_in(shop.objects, shop.pseudonym) == []
    assert shop.clean().height == 1
