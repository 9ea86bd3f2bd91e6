"""The spool: rows on local disk between reading a file and showing it in the staged tables.

Rows of a file count only when the file was read to its end, and rows of many files are written to
a table in one commit, few files to a day. So they wait here, in Parquet parts of bounded size.
"""

from __future__ import annotations

import errno
import fcntl
import shutil
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from typing import TYPE_CHECKING

import polars as pl

from seq_ml.schema import INPUT_TABLES
from seq_ml.settings import home
from seq_ml.storage.objects import StorageError
from seq_ml.storage.portions import portions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from datetime import date
    from pathlib import Path

PART_ROWS = 500_000
"""Rows of a spooled part, and of a staged file: what is in memory at once."""

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@dataclass
class _Part:
    path: Path
    rows: dict[date | None, int]
    """Rows of each partition; one entry (None) for a table that has no partitions."""


@dataclass
class _Waiting:
    """What waits for one table: parts on disk, and rows too few for a part."""

    parts: list[_Part] = field(default_factory=list)
    loose: list[pl.DataFrame] = field(default_factory=list)

    @property
    def loose_rows(self) -> int:
        return sum(frame.height for frame in self.loose)


class Spool:
    """Collects the rows of files, table by table.

    finish: what is done to rows before they touch the disk (table, rows) → rows.
    """

    def __init__(
        self, folder: Path, finish: Callable[[str, pl.DataFrame], pl.DataFrame] = lambda _, f: f
    ) -> None:
        self.folder = folder
        self.finish = finish
        self._tables: dict[str, _Waiting] = {}
        self._written = 0

    @property
    def tables(self) -> list[str]:
        """The tables that have rows waiting."""
        return sorted(name for name, one in self._tables.items() if one.parts or one.loose)

    @contextmanager
    def file(self, table: str) -> Iterator[Callable[[pl.DataFrame], None]]:
        """Take the rows of one file, batch by batch; an exception takes all of them out again."""
        mine = _Waiting()

        def add(frame: pl.DataFrame) -> None:
            mine.loose.append(frame)
            self._to_disk(table, mine)

        try:
            yield add
        except BaseException:
            for part in mine.parts:
                part.path.unlink(missing_ok=True)
            raise
        waiting = self._tables.setdefault(table, _Waiting())
        waiting.parts += mine.parts
        waiting.loose += (frame for frame in mine.loose if frame.height)
        self._to_disk(table, waiting)

    def seal(self) -> None:
        """Bring to disk, and through `finish`, what is still in memory."""
        for table, waiting in self._tables.items():
            self._to_disk(table, waiting, least=1)

    def frames(self, table: str) -> Iterator[pl.DataFrame]:
        """Yield the rows of a sealed table in frames of one partition and about PART_ROWS rows.

        Sorted by partition, null last; within one the rows keep the order in which they came.
        """
        column = INPUT_TABLES[table].partition_by
        parts = self._tables[table].parts
        for days in _groups(parts):
            held: list[pl.DataFrame] = []
            for part in parts:
                if column is None:
                    held.append(pl.read_parquet(part.path))
                elif not part.rows.keys().isdisjoint(days):
                    held.append(_read(part.path, column, days))
                if sum(frame.height for frame in held) >= PART_ROWS:
                    yield from _split(held, column)
                    held = []
            yield from _split(held, column)

    def clear(self) -> None:
        """Forget all rows."""
        for waiting in self._tables.values():
            for part in waiting.parts:
                part.path.unlink(missing_ok=True)
        self._tables = {}

    def _to_disk(self, table: str, waiting: _Waiting, least: int = PART_ROWS) -> None:
        if waiting.loose_rows < least:
            return
        column = INPUT_TABLES[table].partition_by
        frame = self.finish(table, pl.concat(waiting.loose))
        waiting.loose.clear()
        rows: dict[date | None, int] = {None: frame.height}
        if column is not None:
            frame = _sorted(frame, column)
            rows = dict(frame.group_by(column).len().rows())
        path = self.folder / f"{self._written}.parquet"
        self._written += 1
        file = BytesIO()  # Polars' own writer does not tell what the disk said
        frame.write_parquet(file, compression="lz4", row_group_size=max(PART_ROWS // 8, 1))
        with room_below(self.folder):
            path.write_bytes(file.getbuffer())
        waiting.parts.append(_Part(path, rows))


@contextmanager
def work_folder(bucket: str, stage: str = "ingest") -> Iterator[Path]:
    """Give this process a folder of its own in the stage's work folder below `home()`; remove it.

    Waits while another process of this machine ingests into the same bucket: the same file must
    not be taken in twice. What a process left that was killed is removed first.
    """
    folder = home() / "work" / stage / bucket
    with room_below(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        shutil.rmtree(folder, ignore_errors=True)
        with room_below(folder):
            folder.mkdir()
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def room_below(folder: Path) -> Iterator[None]:
    """Turn a full disk into one sentence."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise StorageError(
            f"There is no room left in {folder}, where files are unpacked before they are shown: "
            "free some space, or set SEQLINE_HOME to a folder on a larger disk. Nothing was half "
            "taken in; run it again."
        ) from error


def _groups(parts: list[_Part]) -> Iterator[Sequence[date | None]]:
    """Cut the partitions into runs of about PART_ROWS rows; a larger one stands alone, and null."""
    totals: dict[date | None, int] = {}
    for part in parts:
        for day, rows in part.rows.items():
            totals[day] = totals.get(day, 0) + rows
    days = sorted(day for day in totals if day is not None)
    yield from portions(days, totals.__getitem__, PART_ROWS)
    if None in totals:
        yield [None]


def _read(path: Path, column: str, days: Sequence[date | None]) -> pl.DataFrame:
    value = pl.col(column)
    chosen = value.is_null() if days == [None] else value.is_between(days[0], days[-1])
    return pl.scan_parquet(path).filter(chosen).collect()


def _split(frames: list[pl.DataFrame], column: str | None) -> Iterator[pl.DataFrame]:
    if not frames:
        return
    frame = pl.concat(frames)
    if column is None:
        yield frame
        return
    frame = _sorted(frame, column)
    start = 0
    for rows in frame.group_by(column, maintain_order=True).len()["len"]:
        yield frame.slice(start, rows)
        start += rows


def _sorted(frame: pl.DataFrame, column: str) -> pl.DataFrame:
    if frame[column].is_sorted(nulls_last=True):
        return frame
    return frame.sort(column, nulls_last=True, maintain_order=True)
