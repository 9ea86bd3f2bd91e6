"""The ledger: which partitions wait, since when and why; counts per cleaning."""

from __future__ import annotations

from datetime import date

import polars as pl
import pytest

from tests.shop import Shop, event, numbers


@pytest.fixture
def shop(objects) -> Shop:
    return Shop(objects)


def why(shop: Shop, version: str | None = None) -> dict[str, list[str]]:
    stale = shop.ledger.stale("events", version)
    assert stale["waiting_since"].null_count() == 0
    found: dict[str, list[str]] = {}
    for day, _, reason in stale.rows():
        found.setdefault(day, []).append("late" if reason.startswith("late by") else reason)
    return found


def clean(shop: Shop, *days: str, version: str = "1") -> None:
    """Close days as if each file had one kept row in each of its days."""
    rows = shop.staged().select(partition=pl.col("event_date").cast(str), source_file="source_file")
    counts = (
        rows.filter(pl.col("partition").is_in(days))
        .group_by("partition", "source_file")
        .agg(rows_read=pl.len(), rows_kept=pl.len())
        .with_columns(rows_duplicate=0, rows_quarantined=0)
    )
    shop.ledger.record_cleaning("events", days, counts, shop.ledger.clock(), version=version)


def test_every_reason_has_its_name(shop):
    shop.drop("events/a.csv", event(1), event(2))
    today = f"anna,buy,tea,{date.today()} 00:00:01,1,1\n"
    shop.drop("events/b.csv", today)
    shop.ingest()
    found = why(shop)
    assert found.pop(max(found)) == ["new drop"]
    assert found == {"2024-06-01": ["late"], "2024-06-02": ["late"]}
    days = shop.ledger.unclean_partitions("events")
    clean(shop, *days)
    assert why(shop) == why(shop, "1") == {}
    assert set(why(shop, "2")) == set(days)
    assert {reason for reasons in why(shop, "2").values() for reason in reasons} == {
        "cleaning rules changed"
    }
    shop.drop("events/a.csv", event(2), event(4))
    shop.ingest()
    changed = ["2024-06-01", "2024-06-02", "2024-06-04"]
    assert why(shop) == {day: ["corrected drop"] for day in changed}
    clean(shop, "2024-06-01", "2024-06-02")
    assert why(shop) == {"2024-06-04": ["corrected drop"]}
    clean(shop, "2024-06-04")
    shop.ledger.reopen("events", ["2024-06-02"], "a person was erased")
    assert why(shop) == {"2024-06-02": ["a person was erased"]}
    assert shop.ledger.unclean_partitions("items") == []
    clean(shop, "2024-06-02")
    assert why(shop) == {}


def test_a_closed_drop_forgets_the_days_that_a_correction_left(shop):
    """The next correction must not open them again."""
    shop.drop("events/a.csv", event(1), event(2))
    shop.ingest()
    clean(shop, "2024-06-01", "2024-06-02")
    shop.drop("events/a.csv", event(2))
    shop.ingest()
    assert list(why(shop)) == ["2024-06-01", "2024-06-02"]
    clean(shop, "2024-06-01", "2024-06-02")
    assert shop.drops()["events/a.csv"]["partitions"] == ["2024-06-02"]
    shop.drop("events/a.csv", event(2), event(2, hour=20))
    shop.ingest()
    assert list(why(shop)) == ["2024-06-02"]


def test_counts_are_of_the_newest_cleaning_of_each_day(shop):
    shop.drop("events/a.csv", event(1), event(2), event(2, hour=13))
    shop.ingest()
    clean(shop, "2024-06-01")
    assert numbers(shop.drops()["events/a.csv"]) == ("ingested", 3, None, None, None)
    clean(shop, "2024-06-02")
    assert numbers(shop.drops()["events/a.csv"]) == ("clean", 3, 3, 0, 0)
    clean(shop, "2024-06-02", version="2")
    assert numbers(shop.drops()["events/a.csv"]) == ("clean", 3, 3, 0, 0)
    assert why(shop, "2") == {"2024-06-01": ["cleaning rules changed"]}
    read = shop.ledger.counts("events").filter(pl.col("source_file") != "")
    assert sorted(read.select("partition", "rows_read", "version").rows()) == [
        ("2024-06-01", 1, "1"),
        ("2024-06-02", 2, "2"),
    ]


def test_the_newest_complete_day_ends_before_the_first_that_waits(shop):
    shop.drop("events/a.csv", event(1), event(2), event(5))
    shop.ingest()

    def complete() -> date | None:
        return shop.ledger.complete_until("events", shop.ledger.stale("events"))

    assert complete() is None
    clean(shop, "2024-06-01", "2024-06-05")
    assert complete() == date(2024, 6, 1)
    clean(shop, "2024-06-02")
    assert complete() == date(2024, 6, 5)


def test_days_before_a_later_first_day_wait_for_nothing(shop):
    """What is published of them stays, and the rest counts as complete."""
    shop.drop("events/a.csv", event(1), event(2), event(5))
    shop.ingest()
    clean(shop, "2024-06-01", "2024-06-02", "2024-06-05")

    def waiting(first_day: date | None) -> pl.DataFrame:
        return shop.ledger.stale("events", "other rules", first_day=first_day)

    later = date(2024, 6, 2)
    assert waiting(None)["partition"].to_list() == ["2024-06-01", "2024-06-02", "2024-06-05"]
    assert waiting(later)["partition"].to_list() == ["2024-06-02", "2024-06-05"]
    clean(shop, "2024-06-02", "2024-06-05", version="other rules")
    assert waiting(later).is_empty()
    assert shop.ledger.complete_until("events", waiting(later)) == date(2024, 6, 5)
    assert shop.ledger.complete_until("events", waiting(None)) is None, "with the first day of then"


def test_an_edited_entry_reads_exactly_its_own_files_again(shop):
    shop.drop("events/a.csv", event(1))
    shop.drop("items/a.csv", "tea,Tea,3\n", header="article,name,price\n")
    shop.ingest()
    first = shop.drops()
    assert first["events/a.csv"]["mapping"] != first["items/a.csv"]["mapping"]
    text = shop.objects.get("sources/shop.yaml").decode()
    shop.objects.put("sources/shop.yaml", text.replace("title: name", "title: article").encode())
    assert shop.ingest().rows == {"items": 1}
    assert shop.drops()["events/a.csv"] == first["events/a.csv"]
    assert shop.staged("items")["title"].to_list() == ["tea"]
    # without an entry nothing could take the place of what was read: it stays
    shop.objects.put("sources/shop.yaml", text.replace("items/*", "goods/*").encode())
    assert shop.ingest().files == 0
    shop.objects.put("sources/shop.yaml", text.encode())
    assert shop.ingest().rows == {"items": 1}
