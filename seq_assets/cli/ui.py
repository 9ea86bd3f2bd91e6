"""`seqline ui`: the Dagster UI with its daemon, and a small server for reports and Data Docs."""

from __future__ import annotations

import functools
import http.server
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seq_ml.settings import THREADS, home, load_settings, project_root
from seq_ml.storage.server import LOOPBACK, is_free

if TYPE_CHECKING:
    from collections.abc import Callable

PORTS_TRIED = 50


def serve(port: int, say: Callable[[str], None]) -> int:
    """Run until Ctrl-C; return the exit code of the Dagster process."""
    site_port = int(load_settings().site_url.rsplit(":", 1)[-1].rstrip("/"))
    site = home() / "site"
    site.mkdir(parents=True, exist_ok=True)
    handler = functools.partial(_Quiet, directory=str(site))
    try:
        server = http.server.ThreadingHTTPServer((LOOPBACK, site_port), handler)
    except OSError:
        say(f"port {site_port} is in use: reports and Data Docs stay in {site}")
    else:
        threading.Thread(target=server.serve_forever, daemon=True).start()
    chosen = next((p for p in range(port, port + PORTS_TRIED) if is_free(p)), port)
    if chosen != port:
        say(f"port {port} is in use: the UI takes {chosen}")
    dagster = Path(sys.executable).with_name("dagster")
    command = [
        str(dagster) if dagster.exists() else str(shutil.which("dagster")),
        "dev",
        "-w",
        str(project_root() / "workspace.yaml"),
        "-h",
        LOOPBACK,
        "-p",
        str(chosen),
    ]
    say(f"Dagster UI: http://{LOOPBACK}:{chosen}   (Ctrl-C ends it)")
    # a shell that started us in the background made us ignore SIGINT: take it back, for us and
    # for Dagster
    signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(
        command,
        cwd=project_root(),
        env={
            **THREADS,
            **os.environ,
            "PYTHONWARNINGS": "ignore",
        },  # `dagster dev` advertises its successor
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # noqa: PLW1509
    )
    signal.signal(signal.SIGTERM, lambda *_: process.send_signal(signal.SIGINT))
    try:
        return process.wait()
    except KeyboardInterrupt:
        return process.wait()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        """Say nothing: the terminal belongs to Dagster."""
