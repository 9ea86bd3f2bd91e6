"""Late, early and corrected data: whatever the order of arrival, one ordered load is what is left.

Everything is real but for the Great Expectations run, which takes seconds and changes nothing here.
"""

from __future__ import annotations

from datetime import date
from typing import TYPE_CHECKING
from uuid import uuid4

import botocore.client
import polars as pl
import pytest
from botocore.exceptions import EndpointConnectionError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import seq_ml.clean.publish
from seq_ml.clean.jumps import explained_jumps
from seq_ml.clean.publish import publish_days
from seq_ml.clean.reference import publish_reference
from seq_ml.ingest.mapping.bucket import load_business
from seq_ml.storage.tables import TableStore
from tests.shop import (
    HEADER,
    MAPPING,
    SETTINGS,
    PowerCutError,
    Shop,
    cut_power,
    day_of,
    event,
    numbers,
)

if TYPE_CHECKING:
    from pathlib import Path

few = settings(
    max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


class Publisher(Shop):
    """A shop whose days are published as the pipeline does it."""

    folder: Path

    def publish(self) -> list[str]:
        """Publish what is open; return the open days."""
        version = load_business(self.objects).cleaning_version()
        open_days = self.ledger.unclean_partitions("events", version)
        publish_days(
            self.tables,
            SETTINGS,
            [date.fromisoformat(day) for day in open_days],
            self.folder / uuid4().hex,
        )
        return open_days

    def settle(self) -> None:
        self.ingest()
        self.publish()

    def outcome(self) -> dict[str, list[tuple[object, ...]]]:
        """What analysts see, and what became of every row; without what arrival may decide.

        Which file of two that tell of the same event is the original depends on the arrival, so the
        counts are those of the days.
        """
        events = self.tables.scan("clean_events").collect()
        quarantined = self.tables.scan("quarantined_events").collect()
        version = load_business(self.objects).cleaning_version()
        counts = self.ledger.counts("events").group_by("partition").agg(pl.col("^rows_.*$").sum())
        return {
            "events": sorted(map(repr, events.rows())),
            "quarantined": sorted(map(repr, quarantined.rows())),
            "days": sorted(row for row in counts.rows() if row[1]),
            "open": self.ledger.unclean_partitions("events", version),
            "statuses": sorted(set(self.ledger.current()["status"])),
        }

    def files_by_day(self) -> dict[str, set[str]]:
        """The files of clean_events in the newest version."""
        if not self.tables.exists("clean_events"):
            return {}
        found: dict[str, set[str]] = {}
        for path in self.tables.files("clean_events")["path"]:
            found.setdefault(path.split("/")[0].removeprefix("event_date="), set()).add(path)
        return found


@pytest.fixture
def shop(objects, tmp_path, monkeypatch) -> Publisher:
    monkeypatch.setattr(seq_ml.clean.publish, "validate_days", lambda *_, **__: [])
    shop = Publisher(objects)
    shop.folder = tmp_path
    return shop


# --- any order, any correction, any crash ---------------------------------------------------------

lines = st.builds(
    event,
    st.integers(1, 4),
    st.integers(0, 23),
    st.sampled_from(["anna", "bob"]),
    st.sampled_from(["tea", "cup"]),
)
bad = st.sampled_from(["anna,buy,tea,never,1,1\n", ",buy,tea,2024-06-02 10:00:00,1,1\n"])
content = st.lists(st.one_of(lines, lines, lines, bad), max_size=5).map(tuple)
path = st.integers(0, 3).map(lambda number: f"events/{number}.csv")
upload = st.tuples(st.just("upload"), path, content)
delete = st.tuples(st.just("delete"), path, st.just(()))
work = st.tuples(st.just("work"), st.just(""), st.integers(0, 12))
"""Ingest and publish, with the power cut before the n-th write (more than there are: no cut)."""
story = st.lists(st.one_of(upload, upload, delete, work), min_size=2, max_size=7)


@few
@given(story=story, copies=st.booleans())
def test_the_tables_are_those_of_one_ordered_load(shop, story, copies):
    shop.reset()
    newest: dict[str, tuple[str, ...]] = {}
    for what, where, detail in story:
        if what == "upload":
            newest[where] = detail
            shop.drop(where, *detail)
        elif what == "delete":
            shop.objects.delete_prefix(f"drops/shop/{where}")
        else:
            _work_until_the_power_fails(shop, detail)
    for where, text in newest.items():  # what was deleted comes back
        shop.drop(where, *text)
        if copies:  # the same files under other names
            shop.drop(where.replace("events/", "events/again-"), *text)
    shop.settle()
    found = shop.outcome()
    assert found["open"] == []
    assert set(found["statuses"]) <= {"clean"}

    shop.reset()
    for where in sorted(newest):
        shop.drop(where, *newest[where])
        if copies:
            shop.drop(where.replace("events/", "events/again-"), *newest[where])
    shop.settle()
    assert found == shop.outcome()


def _work_until_the_power_fails(shop: Publisher, step: int) -> None:
    before = shop.files_by_day()
    opened: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        cut_power(patch, step)
        try:
            shop.ingest()
            version = load_business(shop.objects).cleaning_version()
            opened = shop.ledger.unclean_partitions("events", version)
            shop.publish()
        except PowerCutError:
            pass
    after = shop.files_by_day()
    untouched = {*before, *after} - set(opened)
    assert {day: before.get(day) for day in untouched} == {day: after.get(day) for day in untouched}


def test_a_storage_that_fails_at_any_call_loses_and_doubles_nothing(shop, monkeypatch):
    """The n-th call to S3 fails; the next run ends like an undisturbed one."""

    def load() -> None:
        shop.reset()
        shop.drop("events/a.csv", event(1), event(2))
        shop.settle()
        shop.drop("events/a.csv", event(2), event(3))
        shop.drop("events/b.csv", event(2), "anna,buy,tea,never,1,1\n")

    load()
    shop.settle()
    expected = shop.outcome()
    call, finished = 0, False
    while not finished:
        load()
        with monkeypatch.context() as patch:
            fail_at(patch, call)
            try:
                shop.settle()
                finished = True
            except (EndpointConnectionError, OSError):
                call += 13  # every single one takes minutes; it was done once
        shop.settle()
        assert shop.outcome() == expected, f"after call {call} failed"
    assert call > 20


def fail_at(patch: pytest.MonkeyPatch, call: int) -> None:
    """Let the `call`-th request of boto3, or access of delta-rs to a table, fail."""
    left = [call]

    def failing(real):
        def made(*args, **options):
            left[0] -= 1
            if left[0] == -1:
                raise EndpointConnectionError(endpoint_url="http://storage")
            return real(*args, **options)

        return made

    patch.setattr(
        botocore.client.BaseClient,
        "_make_api_call",
        failing(botocore.client.BaseClient._make_api_call),
    )
    for name in ("delta", "_write", "delete_rows", "exists"):
        patch.setattr(TableStore, name, failing(getattr(TableStore, name)))


# --- corrections of other kinds -------------------------------------------------------------------


def test_the_same_file_under_two_names_counts_once(shop):
    """Also a file with equal rows: its copy repeats their numbers."""
    body = [event(1), event(1), event(2)]
    shop.drop("events/a.csv", *body)
    shop.settle()
    before = shop.published()
    assert before.height == 3
    shop.drop("events/copy.csv", *body)
    shop.settle()
    assert shop.published().equals(before)
    assert numbers(shop.drops()["events/copy.csv"]) == ("clean", 3, 0, 3, 0)
    shop.drop("events/a.csv", event(5))  # the original is corrected: the copy speaks for its rows
    shop.settle()
    assert shop.published().height == 4
    assert numbers(shop.drops()["events/copy.csv"]) == ("clean", 3, 3, 0, 0)


def test_a_mended_mapping_releases_rows_and_files(shop):
    """The release path: fix the mapping, re-run; comments and other entries re-read nothing."""
    shop.drop("events/a.csv", event(1), "anna,rent,tea,2024-06-01 10:00:00,1,1\n")
    shop.drop("items/a.csv", "tea,Tea,3\n", header="article,name,price\n")
    shop.drop("returns/a.csv", event(3))
    shop.settle()
    publish_reference(shop.tables, "items")
    assert shop.published().height == 1
    quarantined = shop.tables.scan("quarantined_events").collect()
    assert quarantined["value"].to_list() == ["rent"]
    assert "fits no entry" in shop.drops()["returns/a.csv"]["reason"]

    shop.objects.put("sources/shop.yaml", f"# {MAPPING}\n{MAPPING}".encode())
    assert shop.ingest().files == 0

    mended = MAPPING.replace("look: view", "look: view, rent: purchase")
    mended += (
        "  - match: 'returns/*'\n    table: events\n"
        "    columns: {user_id: customer, event_type: {value: refund}, event_time: at}\n"
    )
    shop.objects.put("sources/shop.yaml", mended.encode())
    result = shop.ingest()
    assert (result.files, result.rows) == (2, {"events": 3})  # not the items
    why = dict(shop.ledger.stale("events").select("partition", "reason").rows())
    assert list(why) == ["2024-06-01", "2024-06-03"]
    assert why["2024-06-01"] == "mapping changed"
    assert why["2024-06-03"].startswith("late by ")
    shop.publish()
    assert shop.published().height == 3
    assert shop.tables.scan("quarantined_events").collect().is_empty()
    assert numbers(shop.drops()["events/a.csv"]) == ("clean", 2, 2, 0, 0)
    assert numbers(shop.drops()["returns/a.csv"]) == ("clean", 1, 1, 0, 0)


def test_a_column_that_is_renamed_in_mid_day_is_told_and_mended_without_reading_the_morning(shop):
    shop.drop("events/day=01/08.csv", event(1, 8), event(1, 9))
    shop.drop("events/day=01/14.csv", event(1, 14), header=HEADER.replace("article", "articles"))
    shop.settle()
    assert shop.published().height == 2
    refused = shop.drops()["events/day=01/14.csv"]
    assert refused["status"] == "refused"
    assert "14.csv has no column 'article'; did you mean 'articles'?" in refused["reason"]

    events = MAPPING[MAPPING.index('  - match: "events') : MAPPING.index('  - match: "items')]
    afternoon = events.replace("events/*", "events/*/14.csv").replace(": article", ": articles")
    shop.objects.put("sources/shop.yaml", MAPPING.replace(events, afternoon + events).encode())
    assert shop.ingest().files == 1
    shop.publish()
    assert shop.published()["item_id"].to_list() == ["tea"] * 3
    assert numbers(shop.drops()["events/day=01/14.csv"]) == ("clean", 1, 1, 0, 0)


def test_a_file_that_goes_over_to_another_table_leaves_its_old_one(shop):
    key = shop.drop("items/a.csv", event(1), event(2))
    as_events = MAPPING.replace('"events/*"', '"[ei][vt]*/*"')
    shop.objects.put("sources/shop.yaml", as_events.encode())
    shop.settle()
    assert shop.published().height == 2
    shop.objects.put("sources/shop.yaml", MAPPING.encode())
    shop.objects.put(key, b"article,name,price\ntea,Tea,3\n")
    shop.ingest()
    assert shop.staged().is_empty()
    stale = shop.ledger.stale("events")
    assert stale["partition"].to_list() == ["2024-06-01", "2024-06-02"]
    assert set(stale["reason"]) == {"drop went over to another table"}
    shop.publish()
    publish_reference(shop.tables, "items")
    assert shop.published().is_empty()
    assert shop.tables.scan("items").collect()["item_id"].to_list() == ["tea"]
    assert shop.ledger.stale("events").is_empty()
    assert numbers(shop.drops()["items/a.csv"]) == ("clean", 1, 1, 0, 0)
    shop.objects.put(key, b"article,name,price\ncup,Cup,3\n")  # again, and nothing else re-opens
    shop.ingest()
    assert shop.ledger.stale("events").is_empty()


def test_a_drop_that_is_deleted_after_it_was_read_keeps_its_rows(shop):
    """Raw drops are cleared away by lifecycle rules; that is no reason to forget the events."""
    shop.drop("events/a.csv", event(1), event(2))
    shop.settle()
    before = shop.published()
    shop.objects.delete_prefix("drops/")
    shop.drop("events/b.csv", event(2, hour=20))
    shop.settle()
    assert shop.published().height == 3
    assert shop.published().filter(pl.col("event_id").is_in(before["event_id"])).equals(before)
    assert numbers(shop.drops()["events/a.csv"]) == ("clean", 2, 2, 0, 0)


def test_changed_cleaning_rules_clean_every_day_again(shop):
    shop.drop("events/a.csv", event(1), event(2))
    shop.settle()
    assert shop.published().height == 2
    strict = MAPPING.replace("currency: EUR}", "currency: EUR, cleaning: {max_quantity: 1}}")
    shop.objects.put("sources/shop.yaml", strict.encode())
    assert shop.ingest().files == 0
    assert shop.publish() == ["2024-06-01", "2024-06-02"]
    assert shop.published().is_empty()
    assert shop.publish() == []


def test_rows_of_a_behaviour_leave_the_quarantine_when_it_gets_a_role(shop):
    shop.drop("events/a.csv", event(1), "anna,rent,tea,2024-06-01 10:00:00,1,1\n", event(2))
    shop.settle()
    held = shop.tables.scan("quarantined_events").select("rule", "value").collect()
    assert held.rows() == [("behaviour", "rent")]
    declared = f"{MAPPING}behaviours: {{rent: conversion}}\n"
    shop.objects.put("sources/shop.yaml", declared.encode())
    assert shop.ingest().files == 0
    assert shop.publish() == ["2024-06-01", "2024-06-02"]
    assert "rent" in shop.published()["event_type"].to_list()
    assert shop.publish() == []


# --- alerts ---------------------------------------------------------------------------------------


def test_a_drop_of_which_far_more_is_quarantined_than_usual_is_told(shop):
    bad_line = "anna,buy,tea,2024-06-01 09:00:00,-2,1\n"
    for number in range(3):
        shop.drop(f"events/{number}.csv", *(event(1, hour=n) for n in range(20)))
    shop.settle()
    since = shop.ledger.clock()
    assert explained_jumps(shop.tables, table="events", since=since).is_empty()
    shop.drop("events/4.csv", *(event(2, hour=n) for n in range(8)), bad_line, bad_line)
    shop.drop("events/5.csv", *(event(3, hour=n) for n in range(20)))
    shop.settle()
    jumps = explained_jumps(shop.tables, table="events", since=since)
    assert jumps.select("key", "share", "usual", "rows_quarantined", "rule").rows() == [
        ("drops/shop/events/4.csv", 0.2, 0.0, 2, "minimum")
    ]
    assert explained_jumps(shop.tables, table="events", since=shop.ledger.clock()).is_empty()
    assert shop.published().filter(pl.col("event_date") == day_of(2)).height == 8
