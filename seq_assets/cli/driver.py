"""Drive the pipeline from a terminal: the sensors and jobs of production, without the daemon.

The driver ticks the same sensors that the daemon ticks, executes the runs that they request on the
same instance, and repeats until none has anything to ask. There is no second code path.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import dagster as dg

from seq_assets.automation.sensors import BATCH, FAILED, FORGIVEN, IN_PROGRESS
from seq_assets.checks import REFUSED
from seq_assets.cli.errors import RunFailedError
from seq_assets.cli.worker import OWNER, started
from seq_assets.definitions import defs
from seq_assets.resources import Storage
from seq_ml.settings import THREADS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CALL = "seqline/call"
STALE_MESSAGE = "The process of this run ended without a word (killed?); its work is done again."
POLL_SECONDS = 0.5
STOP_SECONDS = 30


def in_worker(request: dict[str, Any]) -> int:
    """Execute a run in a process of its own; return the exit code of that."""
    command = [sys.executable, "-m", "seq_assets.cli.worker"]
    environment = {**THREADS, **os.environ}
    with subprocess.Popen(command, stdin=subprocess.PIPE, env=environment) as worker:
        assert worker.stdin is not None
        worker.stdin.write(json.dumps(request).encode())
        worker.stdin.close()
        try:
            return worker.wait()
        except KeyboardInterrupt:
            # Ctrl-C reached the worker too: it ends its run in the instance, then itself
            worker.wait(timeout=STOP_SECONDS)
            raise


class Driver:
    """Ticks sensors and executes runs on one instance."""

    def __init__(self, instance: dg.DagsterInstance, say: Callable[[str], None]) -> None:
        self.instance = instance
        self.say = say
        self.cursors: dict[str, str | None] = {}

    def settle(self) -> int:
        """Tick the drop and day sensors until neither requests a run; return the runs executed."""
        executed = 0
        while True:
            requests = [
                (name, request)
                for name in ("drop_sensor", "day_sensor")
                for request in self._tick(name)
            ]
            if not requests:
                if any(self.cursors.values()):
                    continue  # there are more drops than one tick looks at
                return executed
            sensor, request = requests[0]  # the next tick sees what this run has changed
            job = "ingest_drops" if sensor == "drop_sensor" else "clean_days"
            tags = {
                **request.tags,
                "dagster/sensor_name": sensor,
                "dagster/run_key": str(request.run_key),
            }
            self.execute(job, tags=tags)
            executed += 1

    def execute(
        self, job: str, *, tags: dict[str, str] | None = None, config: dict[str, Any] | None = None
    ) -> str:
        """Execute one run in a worker process, say what its steps do, and return the run's id.

        Raises RunFailedError with the first error of each step that failed.
        """
        call = uuid4().hex
        request = {"job": job, "tags": {**(tags or {}), CALL: call}, "run_config": config or {}}
        with self._watching(call):
            code = in_worker(request)
        run_id = self._run_of(call)
        if code != 0:
            if run_id is None:
                raise RunFailedError(f"{job} did not start: its worker process ended ({code})")
            self.sweep()
            raise RunFailedError(_errors(self.instance, run_id), run_id)
        assert run_id is not None
        return run_id

    def sweep(self) -> int:
        """End the runs whose driver was killed, and free their pool slots; return how many."""
        swept = 0
        for run in self.instance.get_runs(filters=dg.RunsFilter(statuses=IN_PROGRESS)):
            pid, _, start = run.tags.get(OWNER, "").partition(":")
            if pid and started(int(pid)) != start:
                self.instance.report_run_failed(run, message=STALE_MESSAGE)
                self.instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)
                swept += 1
        return swept

    def forgive(self) -> None:
        """Let batches whose runs failed or were killed be asked for again: a person asks."""
        for run in self.instance.get_runs(filters=dg.RunsFilter(statuses=FAILED)):
            if BATCH in run.tags and FORGIVEN not in run.tags:
                self.instance.add_run_tags(run.run_id, {FORGIVEN: "true"})

    def _tick(self, name: str) -> list[dg.RunRequest]:
        sensor = defs.resolve_sensor_def(name)
        context = dg.build_sensor_context(
            instance=self.instance,
            sensor_name=name,
            cursor=self.cursors.get(name),
            resources={"storage": Storage()},
        )
        data = sensor.evaluate_tick(context)
        self.cursors[name] = data.cursor
        return list(data.run_requests or [])

    def _run_of(self, call: str) -> str | None:
        runs = self.instance.get_runs(filters=dg.RunsFilter(tags={CALL: call}), limit=1)
        return runs[0].run_id if runs else None

    @contextmanager
    def _watching(self, call: str) -> Iterator[None]:
        """Say what the run's steps do, from its event log, while it executes."""
        done = threading.Event()
        watcher = threading.Thread(target=self._watch, args=(call, done), daemon=True)
        watcher.start()
        try:
            yield
        finally:
            done.set()
            watcher.join(timeout=10)

    def _watch(self, call: str, done: threading.Event) -> None:
        run_id: str | None = None
        cursor: str | None = None
        lines = _Lines()
        while True:
            last_round = done.wait(POLL_SECONDS)
            run_id = run_id or self._run_of(call)
            while run_id is not None:
                page = self.instance.get_records_for_run(run_id, cursor=cursor)
                cursor = page.cursor
                for record in page.records:
                    if line := lines.of(record.event_log_entry):
                        self.say(line)
                if not page.has_more:
                    break
            if last_round:
                return


class _Lines:
    """What a person is told of a run's events, one line each; of most of them nothing."""

    def __init__(self) -> None:
        self.begun: set[str | None] = {None}
        self.refused: set[str | None] = set()

    def of(self, entry: dg.EventLogEntry) -> str:
        """One line, or nothing. The steps that others stop, Dagster speaks of; we do not."""
        event, step = entry.dagster_event, entry.step_key
        if event is None:
            return f"    {entry.user_message}" if entry.user_message and step in self.begun else ""
        if event.event_type == dg.DagsterEventType.STEP_START:
            self.begun.add(step)
        if event.event_type == dg.DagsterEventType.ASSET_OBSERVATION:
            metadata = event.asset_observation_data.asset_observation.metadata
            if REFUSED in metadata and step not in self.refused:
                self.refused.add(step)
                return f"  – {step}: refused: {metadata[REFUSED].value}"
        if event.is_step_success and step not in self.refused:
            seconds = event.step_success_data.duration_ms / 1000
            return f"  ✓ {step} ({seconds:.1f} s)"
        if event.is_step_failure:
            return f"  ✗ {step}"
        return ""


def _errors(instance: dg.DagsterInstance, run_id: str) -> str:
    """Return the first error of each step that failed: the innermost cause, without the stack."""
    told: dict[str, str] = {}
    for entry in instance.all_logs(run_id):
        event = entry.dagster_event
        if event is None or not (event.is_step_failure or event.is_failure):
            continue
        if told and not event.is_step_failure:
            continue  # the run says only once more that steps failed
        error = getattr(event.event_specific_data, "error", None)
        while error is not None and error.cause is not None:
            error = error.cause
        where = f"{event.step_key}: " if event.step_key else ""
        if error is not None:
            text = error.message.strip().splitlines()[0]
            told.setdefault(where, str(text.partition(f"{error.cls_name}: ")[2] or text))
        elif event.message:
            told.setdefault(where, event.message.splitlines()[0])
    lines = [where + text for where, text in told.items()]
    if len(lines) > 1:
        return "\n  ".join(
            [f"{len(lines)} steps failed; what does not need them was done:", *lines]
        )
    return lines[0] if lines else f"run {run_id} failed; see it in the UI (`make ui`)"
