"""Upkeep: contents stay, small files merge, old files and unused artefacts go, in any weather."""

from __future__ import annotations

import json
import os
import threading
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING

import dagster as dg
import polars as pl
import pytest
from typer.testing import CliRunner

from seq_assets.cli.app import app
from seq_assets.definitions import defs
from seq_assets.resources import Storage
from seq_ml.settings import Settings
from seq_ml.storage.artifacts import fetch_folder, publish_folder
from seq_ml.storage.tables import TableStore
from seq_ml.storage.upkeep import CHANGED, DONE, MANY_FILES, apply, plan, report

if TYPE_CHECKING:
    from pathlib import Path

    from seq_ml.storage.objects import ObjectStore
    from seq_ml.storage.upkeep import Step

SETTINGS = Settings(pseudonym_key="5e" * 32, history_days=30, docs_days=90)
LATER = timedelta(days=31)
"""Long enough for everything of today to be old."""


def upkeep(
    objects: ObjectStore, home: Path, after: timedelta = LATER, settings: Settings = SETTINGS
) -> list[Step]:
    return plan(objects, settings, home, datetime.now(UTC) + after)


def outcomes(steps: list[Step]) -> dict[str, str]:
    return dict(zip((step.target for step in steps), apply(steps), strict=True))


def content(tables: TableStore, name: str) -> int:
    """Hash of a table's rows, whatever their order."""
    rows = tables.scan(name).collect()
    return rows.sort(rows.columns).hash_rows(seed=7).hash().sum()


def grow(tables: TableStore, name: str, appends: int = MANY_FILES, first: int = 0) -> None:
    """Append small frames of two days."""
    for number in range(first, first + appends):
        frame = pl.DataFrame(
            {"day": [date(2024, 6, 1), date(2024, 6, 2)], "n": [number, -number], "s": ["a", None]}
        )
        tables.append(name, frame, partition_by="day")


def files(tables: TableStore, name: str) -> int:
    return tables.files(name).height


def put(objects: ObjectStore, *keys: str, **pointers: object) -> None:
    for key in keys:
        objects.put(key, b"{}")


# --- tables ---------------------------------------------------------------------------------------


def test_a_plan_changes_nothing(objects: ObjectStore, tables: TableStore, tmp_path: Path) -> None:
    grow(tables, "staged_events")
    before = {info.key: info.etag for info in objects.list("")}
    steps = upkeep(objects, tmp_path)
    assert [s.target for s in steps] == ["tables/staged_events"]
    assert {info.key: info.etag for info in objects.list("")} == before
    shown = report(steps).row(0, named=True)
    assert (shown["files_before"], shown["files_after"]) == (2 * MANY_FILES, 2)
    assert shown["outcome"] == "planned"


def test_small_files_are_merged_and_the_content_stays(
    objects: ObjectStore, tables: TableStore, tmp_path: Path
) -> None:
    grow(tables, "staged_events")
    tables.append("drop_ledger", pl.DataFrame({"key": ["k"]}))
    before = content(tables, "staged_events")
    assert apply(upkeep(objects, tmp_path)) == [DONE]
    assert files(tables, "staged_events") == 2
    assert content(tables, "staged_events") == before
    assert upkeep(objects, tmp_path, timedelta()) == []  # nothing left to do


def test_a_table_without_partitions_is_merged_too(
    objects: ObjectStore, tables: TableStore, tmp_path: Path
) -> None:
    identities = TableStore(objects, prefix="identities")
    for store, name in ((tables, "drop_ledger"), (identities, "user_ids")):
        for number in range(MANY_FILES):
            store.append(name, pl.DataFrame({"key": [str(number)]}))
    apply(upkeep(objects, tmp_path))
    assert files(tables, "drop_ledger") == files(identities, "user_ids") == 1
    assert tables.scan("drop_ledger").collect().height == MANY_FILES


def test_only_partitions_with_many_small_files_are_rewritten(
    objects: ObjectStore, tables: TableStore, tmp_path: Path
) -> None:
    grow(tables, "staged_events")
    quiet = pl.DataFrame({"day": [date(2024, 6, 9)], "n": [1], "s": ["q"]})
    for _ in range(3):
        tables.append("staged_events", quiet, partition_by="day")
    apply(upkeep(objects, tmp_path))
    assert files(tables, "staged_events") == 2 + 3


@pytest.mark.parametrize(
    "name", ["clean_events", "quarantined_events", "user_sequences", "items", "recommendations"]
)
def test_tables_that_are_replaced_as_a_whole_or_by_day_are_not_merged(
    objects: ObjectStore, tables: TableStore, tmp_path: Path, name: str
) -> None:
    grow(tables, name)
    assert upkeep(objects, tmp_path) == []


def test_old_versions_stay_readable_for_history_days_and_then_go(
    objects: ObjectStore, tables: TableStore, tmp_path: Path
) -> None:
    grow(tables, "clean_events", 3)
    kept = tables.version("clean_events")
    tables.overwrite("clean_events", pl.DataFrame({"day": [date(2024, 6, 1)], "n": [9], "s": [""]}))
    newest, before = tables.version("clean_events"), content(tables, "clean_events")
    assert upkeep(objects, tmp_path, timedelta()) == []
    assert tables.scan("clean_events", version=kept).collect().height == 6

    recent = Settings(pseudonym_key="5e" * 32, history_days=1)
    age_tombstones(objects, "clean_events", days=2)
    steps = upkeep(objects, tmp_path, timedelta(), recent)
    assert [(s.files_before, s.files_after) for s in steps] == [(7, 1)]
    assert apply(steps) == [DONE]
    assert tables.version("clean_events") == newest  # what goes by versions sees no change
    assert content(tables, "clean_events") == before
    assert len(list(objects.list("tables/clean_events/day="))) == 1
    assert upkeep(objects, tmp_path, timedelta(), recent) == []


def age_tombstones(objects: ObjectStore, name: str, days: int) -> None:
    """Make the deletions of a table's log older."""
    back = days * 86_400_000
    for info in list(objects.list(f"tables/{name}/_delta_log/")):
        lines = [json.loads(line) for line in objects.get(info.key).decode().splitlines()]
        for line in lines:
            if "remove" in line:
                line["remove"]["deletionTimestamp"] -= back
        objects.put(info.key, "\n".join(json.dumps(line) for line in lines).encode())


def test_files_that_a_restore_took_back_are_not_deleted(
    objects: ObjectStore, tables: TableStore, tmp_path: Path
) -> None:
    grow(tables, "clean_events", 3)
    kept, before = tables.version("clean_events"), content(tables, "clean_events")
    tables.overwrite("clean_events", pl.DataFrame({"day": [date(2024, 6, 1)], "n": [9], "s": [""]}))
    age_tombstones(objects, "clean_events", days=31)
    steps = upkeep(objects, tmp_path, timedelta())
    tables.restore("clean_events", kept)
    assert apply(steps) == [CHANGED]
    assert content(tables, "clean_events") == before


def test_a_file_that_is_not_committed_yet_is_left_alone(
    objects: ObjectStore, tables: TableStore, tmp_path: Path
) -> None:
    grow(tables, "clean_events", 1)
    objects.put("tables/clean_events/day=2024-06-01/part-in-flight.parquet", b"half")
    assert upkeep(objects, tmp_path, timedelta()) == []


@pytest.mark.slow
def test_an_append_during_the_compaction_is_kept(
    objects: ObjectStore, tables: TableStore, tmp_path: Path
) -> None:
    grow(tables, "staged_events", 40)
    steps = upkeep(objects, tmp_path)
    errors: list[BaseException] = []

    def write() -> None:
        try:
            grow(TableStore(objects), "staged_events", 10, first=1000)
        except BaseException as error:  # noqa: BLE001
            errors.append(error)

    writer = threading.Thread(target=write)
    writer.start()
    assert apply(steps) == [DONE]
    writer.join()
    assert not errors
    found = tables.scan("staged_events").collect()
    assert found.height == 100
    assert found.filter(pl.col("n") >= 1000).height == 10


def test_a_table_that_is_overwritten_meanwhile_is_left_for_the_next_night(
    objects: ObjectStore,
    tables: TableStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    grow(tables, "staged_events")
    steps = upkeep(objects, tmp_path)
    stale = tables.delta("staged_events")  # what a compaction that is under way goes by
    day = pl.DataFrame({"day": [date(2024, 6, 1)], "n": [5], "s": ["new"]})
    tables.overwrite("staged_events", day, predicate="day = '2024-06-01'", partition_by="day")
    before = content(tables, "staged_events")
    monkeypatch.setattr(TableStore, "delta", lambda *_: stale)
    assert apply(steps) == [CHANGED]
    monkeypatch.undo()
    assert content(tables, "staged_events") == before


def test_a_cleaning_that_began_before_a_compaction_fails_and_doubles_nothing(
    objects: ObjectStore, tables: TableStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from deltalake.exceptions import CommitFailedError

    grow(tables, "cleaning_counts")
    stale = tables.delta("cleaning_counts")
    apply(upkeep(objects, tmp_path))
    before = content(tables, "cleaning_counts")
    monkeypatch.setattr(TableStore, "delta", lambda *_: stale)
    row = pl.DataFrame({"day": [date(2024, 6, 1)], "n": [5], "s": ["new"]})
    with pytest.raises(CommitFailedError):
        tables.overwrite("cleaning_counts", row, predicate="day = '2024-06-01'", partition_by="day")
    monkeypatch.undo()
    assert content(tables, "cleaning_counts") == before


def test_old_quarantine_goes_only_when_asked_for(
    objects: ObjectStore, tables: TableStore, tmp_path: Path
) -> None:
    new = datetime.now(UTC).date() + timedelta(days=1)  # looked at an hour ahead, today may be past
    rows = pl.DataFrame({"event_date": [date(2024, 6, 1), new], "rule": ["required", "minimum"]})
    tables.append("quarantined_events", rows, partition_by="event_date")
    asked = Settings(pseudonym_key="5e" * 32, quarantine_days=10)
    assert upkeep(objects, tmp_path) == []
    # an old day that was written just now, by a late drop, is not old yet
    assert upkeep(objects, tmp_path, timedelta(days=9), asked) == []
    steps = upkeep(objects, tmp_path, timedelta(days=10, hours=1), asked)
    assert [s.action for s in steps] == ["delete 1 days up to 2024-06-01"]
    assert apply(steps) == [DONE]
    assert tables.scan("quarantined_events").collect()["event_date"].to_list() == [new]


# --- artefacts ------------------------------------------------------------------------------------


@pytest.fixture
def registry(objects: ObjectStore) -> ObjectStore:
    """Two tasks and three encoders: champions, versions to go back to, and forgotten ones."""

    def put(key: str, **values: object) -> None:
        objects.put(key, json.dumps(values).encode())

    for version, encoder in (("c1", "e1"), ("c0", "e0"), ("cx", "ex"), ("cc", "e1")):
        put(f"models/churn/{version}/config.json", lineage={"encoder": encoder})
        put(f"models/churn/{version}/model.json")
    put("models/churn/champion.json", version="c1", history=[{"version": "c0"}], rejected=["cx"])
    put("models/churn/challenger.json", version="cc", encoder="e1")
    for version in ("e0", "e1", "ex", "new"):
        objects.put(f"models/encoder/{version}/model.safetensors", b"x" * 10)
    put("models/encoder/current.json", version="new")
    for version in ("s0", "s1"):
        objects.put(f"tokens/shards/{version}/manifest.json", b"{}")
    put("tokens/shards/current.json", version="s1")
    put("tokens/vocabulary.json", version="v")
    return objects


def test_versions_that_nothing_refers_to_go_after_history_days(
    registry: ObjectStore, tmp_path: Path
) -> None:
    assert upkeep(registry, tmp_path, timedelta(days=29)) == []
    before = {info.key for info in registry.list("")}
    steps = upkeep(registry, tmp_path)
    forgotten = ["models/churn/cx", "models/encoder/ex", "tokens/shards/s0"]
    assert sorted(s.target for s in steps) == forgotten
    assert set(apply(steps)) == {DONE}
    gone = before - {info.key for info in registry.list("")}
    assert sorted({key.rsplit("/", 1)[0] for key in gone}) == forgotten
    assert upkeep(registry, tmp_path) == []


def test_a_version_that_is_used_again_after_the_plan_stays(
    registry: ObjectStore, tmp_path: Path
) -> None:
    steps = upkeep(registry, tmp_path)
    registry.put("models/churn/champion.json", json.dumps({"version": "cx"}).encode())
    (tmp_path / "manifest.json").write_text("{}")
    publish_folder(registry, "tokens/shards", "s0", tmp_path, files=["manifest.json"])
    found = outcomes(steps)
    assert found["models/churn/cx"] == CHANGED
    assert found["tokens/shards/s0"] == CHANGED
    assert registry.exists("tokens/shards/s0/manifest.json")
    assert registry.exists("models/encoder/ex/model.safetensors")  # cx reads its vectors


def test_an_upkeep_that_was_killed_is_finished_by_the_next(
    registry: ObjectStore, tables: TableStore, tmp_path: Path
) -> None:
    grow(tables, "staged_events")
    before = content(tables, "staged_events")
    for _ in range(20):
        steps = upkeep(registry, tmp_path)
        if not steps:
            break
        apply(steps[:1])  # and then the power goes
    assert steps == []
    assert content(tables, "staged_events") == before
    assert registry.exists("models/churn/c0/model.json")


def test_local_copies_of_old_versions_and_old_data_docs_go(
    registry: ObjectStore, tmp_path: Path
) -> None:
    for version in ("s0", "s1"):
        fetch_folder(registry, "tokens/shards", version, tmp_path / "work")
    day_file = tmp_path / "work" / "events" / "2024-06-01.parquet"
    for path in (tmp_path / "site" / "data_docs" / "run" / "index.html", day_file):
        path.parent.mkdir(parents=True)
        path.write_text("x")
    registry.put("site/data_docs/run/001/index.html", b"x")
    (tmp_path / "work" / "tokens" / "shards" / "kept").mkdir()
    old = (datetime.now(UTC) - timedelta(days=1)).timestamp()
    os.utime(day_file, (old, old))
    targets = {s.target for s in upkeep(registry, tmp_path)}
    assert "site/data_docs/run" not in targets
    steps = upkeep(registry, tmp_path, timedelta(days=91))
    assert DONE in apply(steps)
    shards = tmp_path / "work" / "tokens" / "shards"
    assert [p.name for p in shards.iterdir()] == ["s1"]
    assert not (tmp_path / "site" / "data_docs" / "run").exists()
    assert not registry.exists("site/data_docs/run/001/index.html")
    assert day_file.exists()  # the copy of an old day is in use


def test_raw_drops_are_never_touched(objects: ObjectStore, tmp_path: Path) -> None:
    objects.put("drops/shop/2020-01-01/events.csv", b"x")
    objects.put("sources/shop.yaml", b"x")
    assert upkeep(objects, tmp_path, timedelta(days=4000)) == []


# --- the job and the command ----------------------------------------------------------------------


@pytest.fixture
def deployment(
    objects: ObjectStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> ObjectStore:
    """The test's bucket as the one that the settings name."""
    monkeypatch.setenv("SEQLINE_HOME", str(tmp_path))
    monkeypatch.setenv("SEQLINE_BUCKET", objects.bucket)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", objects.config.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", objects.config.secret_key)
    monkeypatch.setenv("AWS_ENDPOINT_URL", str(objects.config.endpoint))
    return objects


@pytest.mark.parametrize("dry", [True, False], ids=["dry run", "real run"])
def test_the_job_reports_what_it_did(
    deployment: ObjectStore, tables: TableStore, dry: bool
) -> None:
    grow(tables, "staged_events")
    result = defs.resolve_job_def("storage_upkeep").execute_in_process(
        resources={"storage": Storage()},
        run_config={"ops": {"merge_and_delete": {"config": {"dry_run": dry}}}},
    )
    (done,) = [e for e in result.all_events if e.is_successful_output]
    metadata = done.step_output_data.metadata
    assert metadata["steps"].value == 1
    assert metadata["files_less"].value == 2 * MANY_FILES - 2
    assert ("planned" if dry else DONE) in str(metadata["report"].value)
    assert files(tables, "staged_events") == (2 * MANY_FILES if dry else 2)


def test_the_schedule_loads_stopped() -> None:
    schedule = defs.resolve_schedule_def("keep_storage")
    assert schedule.job_name == "storage_upkeep"
    assert schedule.default_status == dg.DefaultScheduleStatus.STOPPED


def test_the_dry_run_of_the_command_shows_a_table_and_changes_nothing(
    deployment: ObjectStore, tables: TableStore
) -> None:
    assert "Nothing to do." in CliRunner().invoke(app, ["upkeep", "--dry-run"]).output
    grow(tables, "staged_events")
    shown = CliRunner().invoke(app, ["upkeep", "--dry-run"])
    assert shown.exit_code == 0
    assert "tables/staged_events" in shown.output
    assert "compact 2 partitions" in shown.output
    assert files(tables, "staged_events") == 2 * MANY_FILES
