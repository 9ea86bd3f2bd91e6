"""Drops: which objects below `drops/` are complete and not yet ingested.

A file is complete when its folder holds a `_SUCCESS` marker, or when it has not changed for a
while. It is identified by key and etag: a corrected re-upload is new. Nothing is remembered here;
the ledger is the memory, so no tick of a sensor can skip or repeat a file.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import polars as pl

if TYPE_CHECKING:
    from seq_ml.ingest.mapping import SourceMapping
    from seq_ml.storage.objects import ObjectInfo, ObjectStore

DROPS_PREFIX = "drops/"
MARKER = "_SUCCESS"


@dataclass(frozen=True)
class Pending:
    """Objects that wait: those that are complete, and how many are still being written."""

    ready: tuple[ObjectInfo, ...]
    unfinished: int

    @property
    def digest(self) -> str:
        """Identity of the ready batch: hash over keys and etags."""
        state = hashlib.blake2b(digest_size=12)
        for info in self.ready:
            state.update(f"{info.key}\n{info.etag}\n".encode())
        return state.hexdigest()


def find_pending(
    objects: ObjectStore,
    ledger: pl.DataFrame,
    mappings: dict[str, SourceMapping],
    *,
    stable_seconds: int,
    now: datetime | None = None,
) -> Pending:
    """List `drops/` and return what is not in the ledger yet, in key order.

    ledger: the current rows. A refused file is tried again when its source's mapping has changed
    since (the reason carries the mapping's version).
    """
    now = now or datetime.now(UTC)
    settled = {
        (row["key"], row["etag"])
        for row in ledger.filter(~pl.col("status").is_in(["started", "deleted"])).to_dicts()
        if not (row["status"] == "refused" and _mapping_changed(row, mappings))
    }
    listed = list(objects.list(DROPS_PREFIX))
    finished = {_folder(info.key) for info in listed if info.key.endswith(f"/{MARKER}")}
    ready, unfinished = [], 0
    for info in listed:
        if is_hidden(info.key) or (info.key, info.etag) in settled:
            continue
        old = now - info.modified_at >= timedelta(seconds=stable_seconds)
        if _folder(info.key) in finished or old:
            ready.append(info)
        else:
            unfinished += 1
    return Pending(tuple(ready), unfinished)


def source_of(key: str) -> tuple[str, str]:
    """Split a drop's key into the source's name and the path below it."""
    name, _, path = key[len(DROPS_PREFIX) :].partition("/")
    return name, path


def is_hidden(path: str) -> bool:
    """Tell whether a path is no drop: a marker, or work in progress (`_temporary/`, `.git/`)."""
    return path.endswith("/") or any(part.startswith(("_", ".")) for part in path.split("/"))


def _folder(key: str) -> str:
    return key.rsplit("/", 1)[0]


def _mapping_changed(row: dict[str, object], mappings: dict[str, SourceMapping]) -> bool:
    mapping = mappings.get(source_of(str(row["key"]))[0])
    tried = str(row["reason"] or "").rpartition("[mapping ")[2].rstrip("]")
    return (mapping.version if mapping else "none") != tried
