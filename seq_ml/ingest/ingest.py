"""Ingest: read what was dropped, through its source mapping, and file it by day.

Raw drops are never changed. Each object leaves rows in `staged_<table>` (Delta, by day or week) and
a row in the drop ledger. The order of the writes makes a crash harmless: the ledger says `started`
before rows are staged, and what was started is staged anew from scratch. A corrected object
replaces the rows of its earlier version once it was read; one that cannot be read replaces nothing.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import polars as pl

from seq_ml.ingest.canonical import STAGED_EXTRA, file_by_day, to_canonical
from seq_ml.ingest.drops import DROPS_PREFIX, find_pending, source_of
from seq_ml.ingest.ledger import WHOLE, Ledger, carried, describe, partition_names
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
    ledger = Ledger(tables)
    current = ledger.current()
    pending = find_pending(objects, current, mappings, stable_seconds=settings.stable_seconds)
    staging = _Staging(tables, Pseudonyms(objects, settings), known=set(current["key"]))
    result = IngestResult(unfinished=pending.unfinished)
    listed = pl.Series([info.key for info in pending.ready], dtype=pl.String)
    before = {
        row["key"]: row for row in current.filter(pl.col("key").is_in(listed.implode())).to_dicts()
    }
    for batch in _batches(pending.ready, settings.ingest_batch_mb * 1_000_000):
        started = time.monotonic()
        states = {
            info.key: {
                **carried(before.get(info.key)),
                **describe(info),
                "source": source_of(info.key)[0],
                "status": "started",
            }
            for info in batch
        }
        ledger.record(states.values())
        for info, body in _fetch(objects, batch):
            state = states[info.key]
            if body is None:
                gone = "The object was deleted or replaced while it was being read."
                state.update(status="deleted", reason=gone)
                continue
            try:
                table, frame = _read(info, body, mappings, currency, staging.pseudonyms)
            except (UnreadableFileError, MappingError) as error:
                mapping = mappings.get(state["source"])
                tried = f"[mapping {mapping.version if mapping else 'none'}]"
                state.update(status="refused", reason=f"{error} {tried}")
                result.refused.append((info.key, str(error)))
                continue
            if table == "events":
                frame = file_by_day(frame, settings.first_day)
            column = INPUT_TABLES[table].partition_by
            touched = partition_names(frame[column].unique()) if column else [WHOLE]
            if state["table"] == table:
                touched = [*touched, *state["partitions"]]
            state.update(status="ingested", table=table, rows_read=frame.height, partitions=touched)
            staging.add(table, info.key, frame)
            result.rows[table] = result.rows.get(table, 0) + frame.height
            result.bytes += info.size
        staging.flush()
        ledger.record(_settled(state, staging.emptied) for state in states.values())
        result.files += len(batch)
        seconds = time.monotonic() - started
        on_progress(f"ingested {result.files} of {len(pending.ready)} files ({seconds:.1f} s)")
    return result


class _Staging:
    """Collects the rows of many files and writes them to the staged tables in few commits."""

    def __init__(self, tables: TableStore, pseudonyms: Pseudonyms, known: set[str]) -> None:
        self.tables = tables
        self.pseudonyms = pseudonyms
        self.known = known
        self.waiting: dict[str, list[tuple[str, pl.DataFrame]]] = {}
        self.emptied: dict[tuple[str, str], list[str]] = {}
        """(table, key) → partitions that held rows of an earlier version or a crashed ingest."""

    def add(self, table: str, key: str, frame: pl.DataFrame) -> None:
        waiting = self.waiting.setdefault(table, [])
        waiting.append((key, frame))
        if sum(part.height for _, part in waiting) >= STAGE_ROWS:
            self._write(table)

    def flush(self) -> None:
        for table in list(self.waiting):
            self._write(table)

    def _write(self, table: str) -> None:
        parts = self.waiting.pop(table)
        self._unstage([key for key, _ in parts if key in self.known])
        frame = pl.concat([frame for _, frame in parts])
        parts.clear()
        if table == "events":
            frame = self.pseudonyms.apply(frame)
        partition_by = INPUT_TABLES[table].partition_by
        self.tables.append(staged_name(table), frame, partition_by=partition_by)

    def _unstage(self, keys: Sequence[str]) -> None:
        """Remove what these objects had staged before, and remember where."""
        for table, contract in INPUT_TABLES.items():
            name = staged_name(table)
            if not keys or not self.tables.exists(name):
                continue
            column = contract.partition_by
            touched = (
                self.tables.scan(name)
                .filter(pl.col("source_file").is_in(list(keys)))
                .select("source_file", partition=pl.col(column) if column else pl.lit(None))
                .unique()
                .collect()
            )
            for key, group in touched.group_by("source_file"):
                self.emptied[table, str(key[0])] = partition_names(group["partition"])
            if touched.height:
                self.tables.delete_rows(name, "source_file", touched["source_file"].unique())


def _settled(state: dict[str, Any], emptied: dict[tuple[str, str], list[str]]) -> dict[str, Any]:
    """Return the final ledger row of a drop: a file that touches nothing is clean at once."""
    emptied_too = emptied.get((str(state["table"]), state["key"]), [])
    state = {**state, "partitions": sorted({*state["partitions"], *emptied_too})}
    if state["status"] == "ingested" and not state["partitions"]:
        state |= {"status": "clean", "rows_kept": 0, "rows_duplicate": 0, "rows_quarantined": 0}
    return state


def _read(
    info: ObjectInfo,
    body: bytes,
    mappings: dict[str, SourceMapping],
    currency: str,
    pseudonyms: Pseudonyms,
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
        frame,
        mapping,
        entry,
        key=info.key,
        landed_at=info.modified_at,
        currency=currency,
        event_ids=pseudonyms.event_ids,
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


__all__ = ["DROPS_PREFIX", "IngestResult", "ingest", "staged_name"]
