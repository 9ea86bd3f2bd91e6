"""Ingest: read what was dropped, through its source mapping, and file it by day.

Raw drops are never changed. Each object leaves rows in `staged_<table>` (Delta, by day or week) and
a row in the drop ledger. The order of the writes makes a crash harmless: a file is read to its end
before anything is written; then the ledger says `started` and where its rows will lie, before they
are staged; what was started is staged anew from scratch. A corrected object replaces the rows of
its earlier version; one that cannot be read replaces nothing. An object that is deleted after it
was read keeps its rows: raw drops may be cleared away by the bucket's own rules.
"""

from __future__ import annotations

import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from io import BytesIO
from typing import TYPE_CHECKING, Any, BinaryIO

import polars as pl

from seq_ml.ingest.drops import find_pending, first_arrival
from seq_ml.ingest.files.readers import read_batches
from seq_ml.ingest.files.text_files import UnreadableFileError
from seq_ml.ingest.ledger import WHOLE, Ledger, carried, describe, partition_names
from seq_ml.ingest.mapping.bucket import load_sources
from seq_ml.ingest.mapping.source import MappingError
from seq_ml.ingest.rows.canonical import file_by_day, to_canonical
from seq_ml.ingest.spool import Spool, room_below, work_folder
from seq_ml.privacy.pseudonyms import Pseudonyms
from seq_ml.privacy.tombstones import Tombstones
from seq_ml.schema import INPUT_TABLES
from seq_ml.schema.staged import staged_name, staged_schema
from seq_ml.storage.layout import source_of
from seq_ml.storage.portions import portions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from seq_ml.ingest.mapping.bucket import Sources
    from seq_ml.settings import Settings
    from seq_ml.storage.objects import ObjectInfo, ObjectStore
    from seq_ml.storage.tables import TableStore

LARGE_BYTES = 64_000_000
"""Larger objects go through a temporary file; of smaller ones so many bytes are fetched ahead."""
FETCHERS = 8
AHEAD = 64


@dataclass
class IngestResult:
    """What one ingest did, by which mappings."""

    sources: Sources
    files: int = 0
    refused: list[tuple[str, str]] = field(default_factory=list)
    rows: dict[str, int] = field(default_factory=dict)
    bytes: int = 0
    unfinished: int = 0


def ingest(
    objects: ObjectStore,
    tables: TableStore,
    settings: Settings,
    *,
    on_progress: Callable[[str], None] = lambda _: None,
) -> IngestResult:
    """Take in everything that waits below `drops/`; the same drop twice changes nothing.

    However large or many the files are, memory stays bounded; the disk below `home()/work` holds
    the rows of `ingest_batch_mb` of raw files, or of one larger file. Raises StorageError when that
    disk is full.
    """
    with work_folder(objects.bucket) as folder:
        return _Ingest(objects, tables, settings, folder).run(on_progress)


class _Ingest:
    """One ingest: what it reads with, and what it has done so far."""

    def __init__(
        self, objects: ObjectStore, tables: TableStore, settings: Settings, folder: Path
    ) -> None:
        self.objects = objects
        self.tables = tables
        self.settings = settings
        self.folder = folder
        self.ledger = Ledger(tables)
        self.sources = load_sources(objects)
        self.pseudonyms = Pseudonyms(objects, settings)
        self.tombstones = Tombstones(objects, settings)
        self.spool = Spool(folder, self._finish)
        self.result = IngestResult(self.sources)

    def run(self, on_progress: Callable[[str], None]) -> IngestResult:
        current = self.ledger.current()
        pending = find_pending(
            self.objects, current, self.sources, stable_seconds=self.settings.stable_seconds
        )
        self.result.unfinished = pending.unfinished
        listed = pl.Series([info.key for info in pending.ready], dtype=pl.String)
        earlier = current.filter(pl.col("key").is_in(listed.implode()))
        before = {row["key"]: row for row in earlier.to_dicts()}
        ready = [first_arrival(self.objects, info, before.get(info.key)) for info in pending.ready]
        limit = self.settings.ingest_batch_mb * 1_000_000
        for batch in portions(ready, lambda info: info.size, limit):
            started = time.monotonic()
            self._take_in(batch, before)
            seconds = time.monotonic() - started
            on_progress(
                f"ingested {self.result.files} of {len(pending.ready)} files ({seconds:.1f} s)"
            )
        return self.result

    def _take_in(self, batch: Sequence[ObjectInfo], before: dict[str, dict[str, Any]]) -> None:
        states = [
            self._read(info, file, before.get(info.key))
            for info, file in _fetch(self.objects, batch, self.folder)
        ]
        read = [state for state in states if state["status"] == "ingested"]
        self.spool.seal()
        self.ledger.record({**state, "status": "started"} for state in read)
        self.pseudonyms.remember()
        self._unstage([state for state in read if state["key"] in before])
        for table in self.spool.tables:
            column = INPUT_TABLES[table].partition_by
            self.tables.append_files(
                staged_name(table),
                self.spool.frames(table),
                schema=staged_schema(table),
                partition_by=column,
            )
        self.spool.clear()
        self.ledger.record(_settled(state) for state in states)
        self.result.files += len(batch)

    def _read(
        self, info: ObjectInfo, file: BinaryIO | None, before: dict[str, Any] | None
    ) -> dict[str, Any]:
        """Bring the rows of one object to the spool; return its next ledger row."""
        source, path = source_of(info.key)
        state = {
            **carried(before),
            **describe(info),
            "source": source,
            "mapping": self.sources.version(info.key),
        }
        if file is None:
            gone = "The object was deleted or replaced while it was being read."
            return {**state, "status": "deleted", "reason": gone}
        touched: set[Any] = set()  # partitions, which the ledger names before rows lie there
        rows, records = 0, 0
        try:
            mapping, entry = self.sources.entry(info.key)
            column, people = entry.contract.partition_by, mapping.people
            if entry.contract.has_users:
                self.pseudonyms.claim(people)
            secret = self.pseudonyms.event_key(people)
            with self.spool.file(entry.table) as add:
                name = path.rsplit("/", 1)[-1]
                for batch in read_batches(name, file, entry=entry, mapped_only=True):
                    frame = to_canonical(
                        batch,
                        mapping,
                        entry,
                        key=info.key,
                        landed_at=info.modified_at,
                        currency=self.sources.currency,
                        secret=secret,
                        first_row=rows + 1,
                    )
                    rows += batch.height
                    records += frame.height
                    if entry.table == "events":
                        frame = file_by_day(frame, self.settings.first_day)
                    if entry.contract.has_users:
                        frame = self.tombstones.blank(frame, source, people)
                        marked = self.pseudonyms.marked(pl.col("user_id"), people)
                        frame = frame.with_columns(user_id=marked)
                    touched.update(frame[column].unique() if column else [None])
                    add(frame)
        except (UnreadableFileError, MappingError) as error:
            self.result.refused.append((info.key, str(error)))
            return {**state, "status": "refused", "reason": str(error)}
        # the days of the earlier version are cleaned again, too: its rows go from there
        partitions = set(partition_names(touched))
        if state["table"] == entry.table:
            partitions.update(state["partitions"])
        self.result.rows[entry.table] = self.result.rows.get(entry.table, 0) + records
        self.result.bytes += info.size
        return {
            **state,
            "status": "ingested",
            "table": entry.table,
            "rows_read": records,
            "partitions": sorted(partitions),
        }

    def _finish(self, table: str, frame: pl.DataFrame) -> pl.DataFrame:
        return self.pseudonyms.apply(frame) if INPUT_TABLES[table].has_users else frame

    def _unstage(self, states: Sequence[dict[str, Any]]) -> None:
        """Remove what these objects had staged before, in an earlier version or a crashed ingest.

        Where an object has gone over to another table, the partitions that it leaves are opened.
        """
        now = {state["key"]: state["table"] for state in states}
        touched = self.ledger.touched(now)
        for (table, *_), group in touched.group_by("table", maintain_order=True):
            name, contract = staged_name(str(table)), INPUT_TABLES[str(table)]
            if not self.tables.exists(name):
                continue
            keys = group["key"].unique().sort().to_list()
            within = _sql_within(contract.partition_by, group["partition"].unique().sort())
            left = [key for key in keys if now[key] != table]
            if left:
                rows = self.tables.scan(name).filter(pl.col("source_file").is_in(left))
                column = contract.partition_by
                days = rows.select(pl.col(column) if column else pl.lit(None)).unique().collect()
                self.ledger.reopen(
                    str(table), partition_names(days.to_series()), "drop went over to another table"
                )
            self.tables.delete_rows(name, "source_file", keys, within=within)


def _sql_within(column: str | None, partitions: pl.Series) -> str:
    """Say in SQL that a row lies in one of the partitions; "" when there is but one."""
    if column is None:
        return ""
    days = ", ".join(f"'{day}'" for day in partitions if day != WHOLE)
    parts = [f"{column} IN ({days})"] if days else []
    if WHOLE in partitions.to_list():
        parts.append(f"{column} IS NULL")
    return " OR ".join(parts)


def _settled(state: dict[str, Any]) -> dict[str, Any]:
    """Return the final ledger row of a drop: a file that touches nothing is clean at once."""
    if state["status"] == "ingested" and not state["partitions"]:
        state |= {"status": "clean", "rows_kept": 0, "rows_duplicate": 0, "rows_quarantined": 0}
    return state


def _fetch(
    objects: ObjectStore, batch: Sequence[ObjectInfo], folder: Path
) -> Iterator[tuple[ObjectInfo, BinaryIO | None]]:
    """Yield each object, opened, in order; small ones are fetched ahead by a few threads.

    The file is None when the object is no longer the one that was listed. It is closed when the
    next one is asked for.
    """
    _ = objects.client  # boto3 clients are thread-safe, their creation is not

    def small(info: ObjectInfo) -> BinaryIO | None:
        try:
            body, etag = objects.get_with_etag(info.key)
        except KeyError:
            return None
        return BytesIO(body) if etag == info.etag else None

    def large(info: ObjectInfo) -> BinaryIO | None:
        path = folder / "download"
        with room_below(folder):
            unchanged = objects.get_to_file(info.key, path, etag=info.etag)
        return path.open("rb") if unchanged else None

    waiting = deque(batch)
    fetched: deque[tuple[ObjectInfo, Future[BinaryIO | None] | None]] = deque()
    ahead = 0
    with ThreadPoolExecutor(max_workers=FETCHERS) as pool:
        while waiting or fetched:
            while waiting and len(fetched) < AHEAD:
                info = waiting[0]
                if fetched and ahead + info.size > LARGE_BYTES:
                    break
                waiting.popleft()
                ahead += info.size
                is_small = info.size <= LARGE_BYTES
                fetched.append((info, pool.submit(small, info) if is_small else None))
            info, future = fetched.popleft()
            ahead -= info.size
            file = future.result() if future else large(info)
            yield info, file
            if file is not None:
                file.close()
