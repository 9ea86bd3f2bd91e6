"""The event log keeps what Dagster's own would keep, through connections that stay open."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING

import dagster as dg
from dagster._core.storage.event_log import SqliteEventLogStorage

from seq_assets.automation.event_log import MOST_OPEN, OpenEventLog

if TYPE_CHECKING:
    from pathlib import Path

CONFIG = """
telemetry: {enabled: false}
event_log_storage: {module: seq_assets.automation.event_log, class: OpenEventLog}
"""


@dg.asset
def numbers() -> dg.MaterializeResult:
    return dg.MaterializeResult(metadata={"count": 3})


def _instance(folder: Path, monkeypatch) -> dg.DagsterInstance:
    (folder / "dagster.yaml").write_text(CONFIG)
    monkeypatch.setenv("DAGSTER_HOME", str(folder))
    return dg.DagsterInstance.get()


def _told(log: SqliteEventLogStorage, run_id: str) -> list[str | None]:
    return [entry.dagster_event_type and entry.dagster_event_type.value
            for entry in log.get_logs_for_run(run_id)]  # fmt: skip


def test_dagsters_own_log_reads_what_was_written(tmp_path, monkeypatch):
    with _instance(tmp_path, monkeypatch) as instance:
        assert isinstance(instance.event_log_storage, OpenEventLog)
        runs = [dg.materialize([numbers], instance=instance).run_id for _ in range(MOST_OPEN + 2)]
        told = [_told(instance.event_log_storage, run) for run in runs]
        assert len(instance.event_log_storage._open) == MOST_OPEN
        with ThreadPoolExecutor(3) as pool:
            assert list(pool.map(partial(_told, instance.event_log_storage), runs)) == told
    own = SqliteEventLogStorage(str(tmp_path / "history" / "runs"))
    assert [_told(own, run) for run in runs] == told
    assert all("ASSET_MATERIALIZATION" in of_run for of_run in told)


def test_a_database_that_another_process_removed_is_made_anew(tmp_path, monkeypatch):
    with _instance(tmp_path, monkeypatch) as instance:
        dg.materialize([numbers], instance=instance)
        SqliteEventLogStorage(str(tmp_path / "history" / "runs")).wipe()
        run = dg.materialize([numbers], instance=instance).run_id
        assert "ASSET_MATERIALIZATION" in _told(instance.event_log_storage, run)
