"""Errors that a person at a terminal can act on, and the locks that keep two of a kind apart."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from seq_ml.settings import home

if TYPE_CHECKING:
    from collections.abc import Iterator


class RunFailedError(RuntimeError):
    """A run failed; the message is the first line of its first error.

    run_id: which; "" where none began.
    """

    def __init__(self, message: str, run_id: str = "") -> None:
        super().__init__(message)
        self.run_id = run_id


class RowsLostError(RuntimeError):
    """Cleaning set nearly all rows of a file aside; the message says why and what mends it."""


class BusyError(RuntimeError):
    """Another process does the same on this instance."""


NO_ROOM_BYTES = 16 << 20
"""With less room, a disk counts as full: writers reserve space in megabytes."""


def full_disk() -> str:
    """Name the folders in use whose disk is full, in a sentence; an empty text when none is."""
    used = {"SEQLINE_HOME": home(), "the temporary folder": Path(tempfile.gettempdir())}
    if dagster := os.environ.get("DAGSTER_HOME"):
        used["DAGSTER_HOME"] = Path(dagster)
    full = {
        f"{name} ({folder}, {room >> 20} MB left)"
        for name, folder in used.items()
        if folder.exists() and (room := shutil.disk_usage(folder).free) < NO_ROOM_BYTES
    }
    if not full:
        return ""
    return (
        f"The disk of {' and of '.join(sorted(full))} is full: free some space and run the same "
        "command again; what was finished stays, and the work goes on from there."
    )


@contextmanager
def only_one(what: str) -> Iterator[None]:
    """Hold the lock called `what`; BusyError when another process has it.

    The lock goes with the process, however it ends.
    """
    path = home() / f"{what}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.seek(0)
            raise BusyError(
                f"Another seqline {what} (pid {file.read().strip() or 'unknown'}) works on this "
                "instance: wait for it to end, or end it."
            ) from error
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield
