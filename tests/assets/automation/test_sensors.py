"""The sensors: complete, unfinished, re-uploaded, many and deleted drops; ranges of days."""

from __future__ import annotations

from datetime import date
from typing import TYPE_CHECKING

import dagster as dg
import polars as pl
import pytest

import seq_assets.automation.sensors
from seq_assets.automation.sensors import ATTEMPTS, BATCH, RANGE_END, RANGE_START, _ranges
from seq_assets.definitions import defs
from seq_assets.resources import Storage
from seq_ml.clean.reference import publish_reference
from seq_ml.ingest.ingest import ingest
from seq_ml.ingest.ledger import Ledger
from seq_ml.ingest.mapping.bucket import load_business
from seq_ml.settings import load_settings
from seq_ml.storage.tables import TableStore

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from seq_ml.storage.objects import ObjectStore

MAPPING = b"""
name: shop
files:
  - match: "*/events.csv"
    table: events
    columns: {user_id: user, event_type: {value: view}, event_time: at, item_id: item}
"""


@pytest.fixture
def bucket(
    objects: ObjectStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[ObjectStore]:
    """A bucket that the settings point at, with one source mapping."""
    monkeypatch.setenv("SEQLINE_HOME", str(tmp_path))
    monkeypatch.setenv("SEQLINE_BUCKET", objects.bucket)
    monkeypatch.setenv("SEQLINE_STABLE_SECONDS", "3600")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", objects.config.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", objects.config.secret_key)
    monkeypatch.setenv("AWS_ENDPOINT_URL", str(objects.config.endpoint))
    objects.put("sources/shop.yaml", MAPPING)
    return objects


def drop(bucket: ObjectStore, day: str, *, user: str = "u1", complete: bool = True) -> None:
    """Land one day's file."""
    body = f"user,at,item\n{user},{day}T10:00:00Z,i1\n"
    bucket.put(f"drops/shop/{day}/events.csv", body.encode())
    if complete:
        bucket.put(f"drops/shop/{day}/_SUCCESS", b"")


def tick(sensor: str, instance: dg.DagsterInstance, cursor: str | None = None) -> dg.SensorResult:
    """Evaluate a sensor once."""
    context = dg.build_sensor_context(
        instance=instance, cursor=cursor, resources={"storage": Storage()}
    )
    return defs.resolve_sensor_def(sensor).evaluate_tick(context)  # type: ignore[return-value]


def take_in(bucket: ObjectStore) -> None:
    """What the requested run does."""
    ingest(bucket, TableStore(bucket), load_settings())


def test_nothing_dropped_is_skipped_with_a_reason(bucket: ObjectStore) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        found = tick("drop_sensor", instance)
    assert not found.run_requests
    assert found.skip_message == "No new drops."


def test_an_unfinished_drop_waits_for_its_marker(bucket: ObjectStore) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        drop(bucket, "2026-03-01", complete=False)
        waiting = tick("drop_sensor", instance)
        assert not waiting.run_requests
        assert "still being written" in str(waiting.skip_message)
        bucket.put("drops/shop/2026-03-01/_SUCCESS", b"")
        assert len(tick("drop_sensor", instance).run_requests or []) == 1


def test_many_drops_are_one_run_and_the_same_batch_has_the_same_key(bucket: ObjectStore) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        for day in range(1, 29):
            drop(bucket, f"2026-02-{day:02d}")
        first = tick("drop_sensor", instance).run_requests or []
        again = tick("drop_sensor", instance).run_requests or []
    assert [r.run_key for r in first] == [r.run_key for r in again]
    assert len(first) == 1
    assert first[0].tags["seqline/files"] == "28"


def test_what_was_taken_in_is_not_asked_for_again_but_a_correction_is(bucket: ObjectStore) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        drop(bucket, "2026-03-01")
        before = tick("drop_sensor", instance).run_requests or []
        take_in(bucket)
        assert not tick("drop_sensor", instance).run_requests
        drop(bucket, "2026-03-01", user="u2")
        after = tick("drop_sensor", instance).run_requests or []
    assert before[0].run_key != after[0].run_key


def test_a_reference_table_that_a_killed_run_did_not_publish_is_asked_for(
    bucket: ObjectStore,
) -> None:
    entry = b'  - {match: "items.csv", table: items, columns: {item_id: item}}\n'
    bucket.put("sources/shop.yaml", MAPPING + entry)
    bucket.put("drops/shop/items.csv", b"item\ni1\n")
    bucket.put("drops/shop/_SUCCESS", b"")
    take_in(bucket)  # and then its process was killed
    with dg.DagsterInstance.ephemeral() as instance:
        (request,) = tick("drop_sensor", instance).run_requests or ()
        assert tick("drop_sensor", instance).run_requests == [request]
        publish_reference(TableStore(bucket), "items")
        assert not tick("drop_sensor", instance).run_requests


def test_a_drop_deleted_before_or_after_its_ingest_leaves_no_request(bucket: ObjectStore) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        drop(bucket, "2026-03-01")
        drop(bucket, "2026-03-02")
        bucket.delete_prefix("drops/shop/2026-03-02/")
        take_in(bucket)
        bucket.delete_prefix("drops/shop/2026-03-01/")
        assert not tick("drop_sensor", instance).run_requests


@pytest.mark.slow
def test_a_tick_looks_at_a_part_of_the_drops_and_the_next_one_goes_on(
    bucket: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where a part ends between a file and its folder's marker: nothing is left out."""
    days = [f"2026-03-{day:02d}" for day in range(1, 7)]
    for page in (1, 5, 12):
        monkeypatch.setattr(seq_assets.automation.sensors, "LISTED_PER_TICK", page)
        bucket.delete_prefix("drops/")
        bucket.delete_prefix("tables/")
        for day in days:
            drop(bucket, day)
        with dg.DagsterInstance.ephemeral() as instance:
            cursor, quiet, asked = "", False, set()
            while not quiet:
                found = tick("drop_sensor", instance, cursor)
                if found.run_requests:
                    assert found.cursor == cursor  # the same part again until it is done
                    assert found.run_requests[0].run_key not in asked
                    asked.add(found.run_requests[0].run_key)
                    take_in(bucket)
                quiet = not found.run_requests and not found.cursor
                cursor = found.cursor or ""
        ledger = Ledger(TableStore(bucket)).history()
        assert ledger.filter(status="ingested")["key"].sort().to_list() == [
            f"drops/shop/{day}/events.csv" for day in days
        ]


def test_a_batch_that_was_given_up_does_not_keep_the_tick_from_the_others(
    bucket: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seq_assets.automation.sensors, "LISTED_PER_TICK", 2)
    with dg.DagsterInstance.ephemeral() as instance:
        drop(bucket, "2026-03-01")
        drop(bucket, "2026-03-02")
        for _ in range(ATTEMPTS):
            request = (tick("drop_sensor", instance).run_requests or [])[0]
            instance.create_run_for_job(
                defs.resolve_job_def("ingest_drops"),
                tags=dict(request.tags),
                status=dg.DagsterRunStatus.FAILURE,
            )
        given_up = tick("drop_sensor", instance)
        assert "1 drops wait" in str(given_up.skip_message)
        other = tick("drop_sensor", instance, given_up.cursor)
    assert (other.run_requests or [])[0].tags[BATCH] != request.tags[BATCH]


def test_changed_cleaning_rules_and_broken_mappings(bucket: ObjectStore) -> None:
    """New rules ask for every day again; without a known business no day can be cleaned."""
    with dg.DagsterInstance.ephemeral() as instance:
        drop(bucket, "2026-03-01")
        take_in(bucket)
        ledger = Ledger(TableStore(bucket))
        first = tick("day_sensor", instance).run_requests or []
        version = load_business(bucket).cleaning_version()
        counts = pl.DataFrame(schema={"partition": pl.String, "source_file": pl.String})
        ledger.record_cleaning("events", ["2026-03-01"], counts, ledger.clock(), version=version)
        assert not tick("day_sensor", instance).run_requests
        rules = MAPPING + b"business: {cleaning: {bot_events_per_minute: 7}}\n"
        bucket.put("sources/shop.yaml", rules)
        again = tick("day_sensor", instance).run_requests or []
        assert len(first) == len(again) == 1
        assert first[0].run_key != again[0].run_key
        assert not tick("drop_sensor", instance).run_requests
        bucket.put("sources/shop.yaml", b"business: [")
        blind = tick("day_sensor", instance)
        assert not blind.run_requests
        assert "mapping cannot be read" in str(blind.skip_message)


def test_days_with_new_rows_are_requested_as_unbroken_ranges(bucket: ObjectStore) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        for day in ("2026-03-01", "2026-03-02", "2026-03-03", "2026-05-07"):
            drop(bucket, day)
        assert not tick("day_sensor", instance).run_requests
        take_in(bucket)
        requests = tick("day_sensor", instance).run_requests or []
    ranges = [(r.tags[RANGE_START], r.tags[RANGE_END]) for r in requests]
    assert ranges == [("2026-03-01", "2026-03-03"), ("2026-05-07", "2026-05-07")]


def test_days_before_the_first_one_are_left_as_they_are(
    bucket: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They have no partition: a later first day takes nothing away."""
    with dg.DagsterInstance.ephemeral() as instance:
        for day in ("2026-03-01", "2026-03-02"):
            drop(bucket, day)
        take_in(bucket)
        monkeypatch.setenv("SEQLINE_FIRST_DAY", "2026-03-02")
        (request,) = tick("day_sensor", instance).run_requests or []
    assert request.tags[RANGE_START] == request.tags[RANGE_END] == "2026-03-02"


def test_a_failed_batch_is_tried_again_and_then_left_to_a_person(bucket: ObjectStore) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        drop(bucket, "2026-03-01")
        keys = set()
        for _ in range(ATTEMPTS):
            request = (tick("drop_sensor", instance).run_requests or [])[0]
            keys.add(request.run_key)
            instance.create_run_for_job(
                defs.resolve_job_def("ingest_drops"),
                tags=dict(request.tags),
                status=dg.DagsterRunStatus.FAILURE,
            )
        left = tick("drop_sensor", instance)
    assert len(keys) == ATTEMPTS
    assert not left.run_requests
    assert "failed 3 times" in str(left.skip_message)


def test_a_batch_that_was_killed_is_asked_for_when_the_command_is_repeated(
    bucket: ObjectStore,
) -> None:
    from seq_assets.cli.driver import Driver

    with dg.DagsterInstance.ephemeral() as instance:
        drop(bucket, "2026-03-01")
        keys = []
        for _ in range(ATTEMPTS + 2):
            request = (tick("drop_sensor", instance).run_requests or [])[0]
            keys.append(request.run_key)
            instance.create_run_for_job(
                defs.resolve_job_def("ingest_drops"),
                tags=dict(request.tags),
                status=dg.DagsterRunStatus.FAILURE,
            )
            Driver(instance, print).forgive()
        assert (tick("drop_sensor", instance).run_requests or [])[0].run_key not in keys
    assert len(set(keys)) == ATTEMPTS + 2


def test_ranges() -> None:
    days = [date(2026, 2, 27), date(2026, 2, 28), date(2026, 3, 1), date(2026, 3, 5)]
    clean_day_between = {date(2026, 3, 3)}
    assert list(_ranges(days, set())) == [(days[0], days[3])]
    assert list(_ranges(days, clean_day_between)) == [(days[0], days[2]), (days[3], days[3])]
    assert list(_ranges([date(2010, 1, 1), date(2026, 1, 1)], set())) == [
        (date(2010, 1, 1), date(2010, 1, 1)),
        (date(2026, 1, 1), date(2026, 1, 1)),
    ]
    assert list(_ranges([], set())) == []


def test_the_batch_tag_is_what_attempts_are_counted_by(bucket: ObjectStore) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        drop(bucket, "2026-03-01")
        request = (tick("drop_sensor", instance).run_requests or [])[0]
    assert str(request.run_key).startswith(request.tags[BATCH])
