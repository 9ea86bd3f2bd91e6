"""Run a command as a process of its own and measure it: seconds, CPU seconds, peak memory.

Memory is resident memory as the system counts it (files that are mapped and read included). The
peak of the process comes from the system itself; that of the storage server beside it, and of both
together, from looking ten times a second.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psutil

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from datetime import date
    from pathlib import Path

LOOK_SECONDS = 0.1
MB = 1_000_000


@dataclass(frozen=True)
class Measured:
    """What one process took, and the JSON of its last line."""

    wall_s: float
    cpu_s: float
    peak_mb: float
    server_mb: float
    """Peak of the storage server meanwhile; 0 without one."""
    together_mb: float
    """Peak of the sum of both."""
    server_cpu_s: float
    facts: dict[str, Any]


@contextmanager
def deployment(folder: Path, first_day: date) -> Iterator[tuple[dict[str, str], int]]:
    """Start a storage server of its own below `folder`; yield the environment and its pid."""
    from seq_ml.storage.server import EmbeddedServer

    environment = {
        "SEQLINE_HOME": str(folder),
        "SEQLINE_BUCKET": "benchmark",
        "SEQLINE_STABLE_SECONDS": "0",
        "SEQLINE_FIRST_DAY": first_day.isoformat(),
        "GX_ANALYTICS_ENABLED": "false",
        **dict.fromkeys(("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL"), ""),
    }
    server = EmbeddedServer(folder / "server")
    server.start("benchmark")
    try:
        yield environment, json.loads(server.state_path.read_text())["pid"]
    finally:
        server.stop()


def measure(
    command: Sequence[str], environment: Mapping[str, str] | None = None, server: int | None = None
) -> Measured:
    """Run `command` to its end; its last line of output is JSON. RuntimeError when it fails.

    server: pid of the storage server to watch.
    """
    watched = psutil.Process(server) if server else None
    server_before = _cpu(watched)
    started = time.monotonic()
    process = subprocess.Popen(
        command, env={**os.environ, **(environment or {})}, stdout=subprocess.PIPE, text=True
    )
    peaks = [0.0, 0.0]
    done = threading.Event()

    def look() -> None:
        child = psutil.Process(process.pid)
        while not done.wait(LOOK_SECONDS):
            try:
                beside = watched.memory_info().rss if watched else 0
                family = [child, *child.children(recursive=True)]
                own = sum(p.memory_info().rss for p in family)
            except psutil.Error:
                continue
            peaks[0] = max(peaks[0], beside / MB)
            peaks[1] = max(peaks[1], (beside + own) / MB)

    watcher = threading.Thread(target=look, daemon=True)
    watcher.start()
    assert process.stdout is not None
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    wall = time.monotonic() - started
    done.set()
    watcher.join()
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}:\n{output}")
    peak = usage.ru_maxrss * 1024 / MB
    return Measured(
        wall_s=wall,
        cpu_s=usage.ru_utime + usage.ru_stime,
        peak_mb=peak,
        server_mb=peaks[0],
        together_mb=max(peaks[1], peak),
        server_cpu_s=_cpu(watched) - server_before,
        facts=json.loads(output.strip().splitlines()[-1]),
    )


def table(headings: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Lay out rows as a Markdown table; the first column to the left, numbers to the right."""
    cells = [[_cell(value) for value in row] for row in rows]
    widths = [max(len(r[i]) for r in [list(headings), *cells]) for i in range(len(headings))]

    def line(values: Sequence[str]) -> str:
        first, *rest = zip(values, widths, strict=True)
        return f"| {first[0]:<{first[1]}} | " + " | ".join(f"{v:>{w}}" for v, w in rest) + " |"

    rule = "|" + "|".join(["-" * (widths[0] + 2), *("-" * (w + 1) + ":" for w in widths[1:])]) + "|"
    return "\n".join([line(headings), rule, *(line(row) for row in cells)])


def machine() -> dict[str, Any]:
    """Return what the numbers depend on."""
    from importlib.metadata import version

    return {
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "load_before": round(os.getloadavg()[0], 2),
        "python": sys.version.split()[0],
        **{name: version(name) for name in ("polars", "deltalake", "duckdb", "pandas", "numpy")},
    }


def _cpu(process: psutil.Process | None) -> float:
    if process is None:
        return 0.0
    times = process.cpu_times()
    return float(times.user + times.system)


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:,.2f}" if abs(value) < 10 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
