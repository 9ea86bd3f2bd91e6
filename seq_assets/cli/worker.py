"""One run in a process of its own: `python -m seq_assets.cli.worker`, started by the driver.

As in production, a run's memory goes back to the system when it ends, and a crash of the run is not
a crash of the command. The call comes as JSON on standard input: job, tags, run_config. Exits 0
when the run succeeded.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from typing import Any

import dagster as dg

from seq_assets.definitions import defs

OWNER = "seqline/worker"
"""Tag: pid and start time of the process that executes the run."""

ORPHAN_POLL_SECONDS = 0.5


def started(pid: int) -> str:
    """Start time of a process, empty when it is gone (pids are used again)."""
    import psutil

    try:
        process = psutil.Process(pid)
        return "" if process.status() == psutil.STATUS_ZOMBIE else f"{process.create_time():.2f}"
    except psutil.NoSuchProcess:
        return ""


def job(name: str) -> dg.JobDefinition:
    """Return a job of the code location; Dagster asks for it by this function's name."""
    return defs.resolve_job_def(name)


def main() -> int:
    """Execute the run that standard input describes."""
    parent = os.getppid()
    threading.Thread(target=_die_with, args=(parent,), daemon=True).start()
    return execute(json.load(sys.stdin))


def execute(call: dict[str, Any]) -> int:
    """Execute a run in this process; return 0 when it succeeded, else 1."""
    with dg.DagsterInstance.get() as instance:
        result = dg.execute_job(
            dg.build_reconstructable_job("seq_assets.cli.worker", "job", (call["job"],)),
            instance=instance,
            tags={**call["tags"], OWNER: f"{os.getpid()}:{started(os.getpid())}"},
            run_config={
                **call["run_config"],
                "loggers": {"console": {"config": {"log_level": "CRITICAL"}}},
            },
            raise_on_error=False,
        )
    return 0 if result.success else 1


def _die_with(parent: int) -> None:
    """End this process when the driver was killed: nobody would see what it does."""
    while os.getppid() == parent:
        time.sleep(ORPHAN_POLL_SECONDS)
    os._exit(1)


if __name__ == "__main__":
    raise SystemExit(main())
