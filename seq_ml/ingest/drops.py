"""Drops: which objects below `drops/` are complete and not yet ingested.

A file is complete when its folder holds a `_SUCCESS` marker, or when it has not changed for a
while. It is identified by key, etag and the version of the mapping's entry that reads it: a
corrected re-upload is new, and so is a file whose entry was edited. Nothing is remembered here; the
ledger is the memory, so no tick of a sensor can skip or repeat a file.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import TYPE_CHECKING, Any

import polars as pl

from seq_ml.storage.layout import ARRIVED_AT, DROPS_PREFIX, MARKER, is_hidden

if TYPE_CHECKING:
    from seq_ml.ingest.mapping.bucket import Sources
    from seq_ml.storage.objects import ObjectInfo, ObjectStore


@dataclass(frozen=True)
class Pending:
    """Objects that wait: those that are complete, and how many are still being written.

    end: the last key that was looked at; "" when the listing came to its end. digest: identity of
    the ready batch; a file that is read anew, by another mapping say, makes another batch.
    """

    ready: tuple[ObjectInfo, ...]
    unfinished: int
    end: str
    digest: str


def find_pending(
    objects: ObjectStore,
    ledger: pl.DataFrame,
    sources: Sources,
    *,
    stable_seconds: int,
    now: datetime | None = None,
    start_after: str = "",
    limit: int | None = None,
) -> Pending:
    """List `drops/` and return what is not in the ledger yet, in key order.

    ledger: the current rows. start_after, limit: look only at so many objects after that key.
    """
    now = now or datetime.now(UTC)
    listed = list(islice(objects.list(f"{DROPS_PREFIX}/", start_after=start_after), limit))
    end = listed[-1].key if limit is not None and len(listed) == limit else ""
    finished = {_folder(info.key) for info in listed if info.key.endswith(f"/{MARKER}")}
    if listed and (start_after or end):
        first, last = listed[0].key, listed[-1].key
        ledger = ledger.filter(pl.col("key").is_between(pl.lit(first), pl.lit(last)))
        # the marker of a folder that the listing cuts may lie beyond it
        cut = (_folders(first) | _folders(last)) - finished
        finished |= {folder for folder in cut if objects.exists(f"{folder}/{MARKER}")}
    recorded = {row[0]: row for row in ledger.select("key", "etag", "status", "mapping").rows()}
    ready, unfinished, batch = [], 0, hashlib.blake2b(digest_size=12)
    for info in listed:
        if is_hidden(info.key):
            continue
        if info.key in recorded and _is_settled(info, recorded[info.key], sources):
            continue
        old = now - info.modified_at >= timedelta(seconds=stable_seconds)
        if old or _folder(info.key) in finished:
            ready.append(info)
            known = [info.etag, sources.version(info.key), *recorded.get(info.key, ())]
            batch.update(f"{info.key} {known}\n".encode())
        else:
            unfinished += 1
    return Pending(tuple(ready), unfinished, end, batch.hexdigest())


def first_arrival(
    objects: ObjectStore, info: ObjectInfo, before: dict[str, Any] | None
) -> ObjectInfo:
    """Return the object with the time of its arrival, from which an erasure's rewriting is none.

    before: its newest ledger row. What was sent twice, and what lay in the future, does not change
    for the rows that an erasure leaves in a drop.
    """
    if before is None:
        return info
    if before["etag"] == info.etag:
        return replace(info, modified_at=before["landed_at"])
    try:
        written = objects.metadata(info.key).get(ARRIVED_AT)
    except KeyError:  # deleted since it was listed
        return info
    return replace(info, modified_at=datetime.fromisoformat(written)) if written else info


def _folder(key: str) -> str:
    return key.rsplit("/", 1)[0]


def _folders(key: str) -> set[str]:
    """Return the folders that a key lies in, at any depth below `drops/`."""
    parts = key.split("/")
    return {"/".join(parts[:depth]) for depth in range(2, len(parts))}


def _is_settled(info: ObjectInfo, seen: tuple[str, str, str, str | None], sources: Sources) -> bool:
    """Tell whether the ledger knows what became of this object under today's mapping.

    A file that was read stays as it is while no entry can read it: nothing could replace it.
    """
    _, etag, status, mapping = seen
    if etag != info.etag or status in ("started", "deleted"):
        return False
    if mapping == sources.version(info.key):
        return True
    return status != "refused" and not sources.can_read(info.key)
