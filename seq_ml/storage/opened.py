"""Open Delta tables, kept: the log of a table is read once for each of its states.

Opening a table reads its log, several requests over a connection of its own. A night reads the same
tables hundreds of times, and most of them do not change meanwhile: one listing tells whether a log
has a newer commit than the table that is open.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from deltalake import DeltaTable

    from seq_ml.storage.objects import ObjectInfo, ObjectStore, StorageConfig

LOG = "_delta_log"
"""Folder of a table's commits."""
COMMIT = re.compile(r"(\d{20})\.json$")
KEPT = 128
"""Tables that a process keeps open; those that were read longest ago are closed first."""


@dataclass(frozen=True)
class _Open:
    table: DeltaTable
    etag: str
    """Of the commit that made this state: a table that was removed and made anew has another."""


_kept: OrderedDict[tuple[StorageConfig, str], _Open] = OrderedDict()
_lock = Lock()


def newest(objects: ObjectStore, folder: str) -> DeltaTable | None:
    """Return the table below `folder` in its newest state, None when it was never written.

    It is shared by all that read: who writes opens one of its own (`TableStore.delta`).
    """
    key = (objects.config, folder)
    with _lock:
        known = _kept.get(key)
    if known is not None:
        version = int(known.table.version())
        commits = _commits(objects, folder, version)
        if {number: info.etag for number, info in commits.items()} == {version: known.etag}:
            with _lock:
                _kept[key] = known
                _kept.move_to_end(key)
            return known.table
    elif next(objects.list(f"{folder}/{LOG}/"), None) is None:
        return None
    return _reopened(objects, folder)


def open_table(objects: ObjectStore, folder: str, version: int | None = None) -> DeltaTable:
    """Return a table of the caller's own; KeyError when it was never written."""
    from deltalake import DeltaTable
    from deltalake.exceptions import TableNotFoundError

    uri = objects.uri(folder)
    try:
        return DeltaTable(uri, version, storage_options=objects.options)
    except TableNotFoundError as error:
        raise KeyError(f"The table {folder} does not exist yet at {uri}.") from error


def _reopened(objects: ObjectStore, folder: str) -> DeltaTable | None:
    try:
        table = open_table(objects, folder)
    except KeyError:
        return None
    version = int(table.version())
    commit = _commits(objects, folder, version).get(version)
    if commit is not None:  # else a checkpoint took the place of its file
        with _lock:
            _kept[objects.config, folder] = _Open(table, commit.etag)
            while len(_kept) > KEPT:
                _kept.popitem(last=False)
    return table


def _commits(objects: ObjectStore, folder: str, version: int) -> dict[int, ObjectInfo]:
    """List the commits from `version` on."""
    listed = objects.list(f"{folder}/{LOG}/", start_after=f"{folder}/{LOG}/{version:020d}")
    found = ((COMMIT.search(info.key), info) for info in listed)
    return {int(match.group(1)): info for match, info in found if match is not None}
