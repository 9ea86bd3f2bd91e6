"""Ingest: read what was dropped, through its source mapping, and file it by day.

Raw drops are never changed. Each object leaves rows in `staged_<table>` (Delta, by day or week) and
a row in the drop ledger. The order of the writes makes a crash harmless: the ledger says `started`
before rows are staged, and what was started is staged anew from scratch.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import polars as pl

from seq_ml.ingest.canonical import STAGED_EXTRA, file_by_day, to_canonical
from seq_ml.ingest.drops import DROPS_PREFIX, find_pending, source_of
from seq_ml.ingest.ledger import WHOLE, Ledger, describe, partition_names
from seq_ml.ingest.mapping import MappingError, SourceMapping, load_business, load_mappings
from seq_ml.ingest.pseudonyms import Pseudonyms
from seq_ml.ingest.readers import UnreadableFileError, read_file
from seq_ml.schema import INPUT_TABLES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from seq_ml.settings import Settings
    from seq_ml.storage.objects import ObjectInfo, ObjectStore
    from seq_ml.storage.tables import TableStore


STAGE_ROWS = 1_000_000
"""Rows collected before they are written: bounds memory whatever the files' sizes."""


@dataclass
class IngestResult:
    """What one ingest did."""

    files: int = 0
    refused: list[tuple[str, str]] = field(default_factory=list)
    rows: dict[str, int] = field(default_factory=dict)
    bytes: int = 0
    unfinished: int = 0


def staged_name(table: str) -> str:
    """Name of the Delta table that holds a contract table's rows before cleaning."""
    return f"staged_{table}"


def ingest(
    objects: ObjectStore,
    tables: TableStore,
    settings: Settings,
    *,
    on_progress: Callable[[str], None] = lambda _: None,
) -> IngestResult:
    """Take in everything that waits below `drops/`; the same drop twice changes nothing."""
    mappings = load_mappings(objects)
    currency = load_business(objects).currency
    pseudonyms = Pseudonyms(objects, settings)
    ledger = Ledger(tables)
    current = ledger.current()
    pending = find_pending(objects, current, mappings, stable_seconds=settings.stable_seconds)
    known = set(current["key"])
    result = IngestResult(unfinished=pending.unfinished)
    for batch in _batches(pending.ready, settings.ingest_batch_mb * 1_000_000):
        started = time.monotonic()
        again = [info.key for info in batch if info.key in known]
        ledger.record({**describe(info), "status": "started"} for info in batch)
        emptied = _unstage(tables, again) if again else {}
        rows: list[dict[str, Any]] = []
        staged: dict[str, list[pl.DataFrame]] = {}
        for info, body in _fetch(objects, batch):
            state = {**describe(info), "source": source_of(info.key)[0]}
            if body is None:
                gone = "The object was deleted or replaced while it was being read."
                rows.append({**state, "status": "deleted", "reason": gone})
                continue
            try:
                table, frame = _read(info, body, mappings, currency)
            except (UnreadableFileError, MappingError) as error:
                mapping = mappings.get(state["source"])
                tried = f"[mapping {mapping.version if mapping else 'none'}]"
                rows.append({**state, "status": "refused", "reason": f"{error} {tried}"})
                result.refused.append((info.key, str(error)))
                continue
            if table == "events":
                frame = file_by_day(frame, settings.first_day)
            staged.setdefault(table, []).append(frame)
            if sum(part.height for part in staged[table]) >= STAGE_ROWS:
                _stage(tables, table, staged.pop(table), pseudonyms)
            column = INPUT_TABLES[table].partition_by
            touched = partition_names(frame[column].unique()) if column else [WHOLE]
            touched = sorted({*touched, *emptied.get(info.key, ())})
            state |= {"table": table, "rows_read": frame.height, "partitions": touched}
            rows.append({**state, "status": "ingested"})
            result.rows[table] = result.rows.get(table, 0) + frame.height
            result.bytes += info.size
        for table, frames in staged.items():
            _stage(tables, table, frames, pseudonyms)
        ledger.record(rows)
        result.files += len(batch)
        seconds = time.monotonic() - started
        on_progress(f"ingested {result.files} of {len(pending.ready)} files ({seconds:.1f} s)")
    return result


def _stage(
    tables: TableStore, table: str, frames: list[pl.DataFrame], pseudonyms: Pseudonyms
) -> None:
    frame = pl.concat(frames)
    frames.clear()
    if table == "events":
        frame = pseudonyms.apply(frame)
    tables.append(staged_name(table), frame, partition_by=INPUT_TABLES[table].partition_by)


def _read(
    info: ObjectInfo, body: bytes, mappings: dict[str, SourceMapping], currency: str
) -> tuple[str, pl.DataFrame]:
    source, path = source_of(info.key)
    mapping = mappings.get(source)
    if mapping is None:
        raise MappingError(
            f"{info.key} belongs to no source: there is no sources/{source}.yaml in the bucket; "
            "land it with `seqline run --source FILE.yaml DIR`."
        )
    entry = mapping.file_for(path)
    if entry is None:
        patterns = ", ".join(e.match for e in mapping.files)
        raise MappingError(
            f"{info.key} fits no entry of source '{source}' (patterns: {patterns}): it belongs to "
            "another source, or the mapping lacks an entry."
        )
    frame = read_file(path.rsplit("/", 1)[-1], body)
    if frame.width == 0 or frame.height == 0:
        empty = {**entry.contract.polars_schema(), **STAGED_EXTRA}
        return entry.table, pl.DataFrame(schema=empty)
    canonical = to_canonical(
        frame, mapping, entry, key=info.key, landed_at=info.modified_at, currency=currency
    )
    return entry.table, canonical


def _batches(ready: Sequence[ObjectInfo], limit: int) -> Iterator[list[ObjectInfo]]:
    batch: list[ObjectInfo] = []
    size = 0
    for info in ready:
        if batch and size + info.size > limit:
            yield batch
            batch, size = [], 0
        batch.append(info)
        size += info.size
    if batch:
        yield batch


def _fetch(
    objects: ObjectStore, batch: Sequence[ObjectInfo]
) -> Iterator[tuple[ObjectInfo, bytes | None]]:
    """Download ahead with a few threads, in order and with a bounded number in memory.

    The body is None when the object is no longer the one that was listed.
    """
    _ = objects.client  # boto3 clients are thread-safe, their creation is not

    def fetch(info: ObjectInfo) -> bytes | None:
        try:
            body, etag = objects.get_with_etag(info.key)
        except KeyError:
            return None
        return body if etag == info.etag else None

    with ThreadPoolExecutor(max_workers=8) as pool:
        for start in range(0, len(batch), 32):
            part = batch[start : start + 32]
            yield from zip(part, pool.map(fetch, part), strict=True)


def _unstage(tables: TableStore, keys: Sequence[str]) -> dict[str, list[str]]:
    """Remove what earlier versions of these objects (or a crashed ingest) staged.

    Returns the partitions that each object had touched: they have to be cleaned again.
    """
    emptied: dict[str, list[str]] = {}
    for table, contract in INPUT_TABLES.items():
        name = staged_name(table)
        if not tables.exists(name):
            continue
        column = contract.partition_by
        touched = (
            tables.scan(name)
            .filter(pl.col("source_file").is_in(list(keys)))
            .select("source_file", partition=pl.col(column) if column else pl.lit(None))
            .unique()
            .collect()
        )
        if not touched.height:
            continue
        for key, group in touched.group_by("source_file"):
            emptied.setdefault(str(key[0]), []).extend(partition_names(group["partition"]))
        tables.delete_rows(name, "source_file", sorted(touched["source_file"].unique()))
    return emptied


__all__ = ["DROPS_PREFIX", "IngestResult", "ingest", "staged_name"]
