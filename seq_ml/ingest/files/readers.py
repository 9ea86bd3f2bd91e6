"""Read a dropped file in batches: parquet, csv, tsv and jsonl, each plain or gz or zst.

A file of any size is read in bounded memory. Text formats are read as text: types are the mapping's
business, so that a bad value is one quarantined row and not a refused file. A row that cannot be
taken apart is one row with a reason, too.
"""

from __future__ import annotations

import io
import tempfile
import zlib
from contextlib import contextmanager
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, BinaryIO

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from seq_ml.ingest.files.packing import ending, packing, unpacked
from seq_ml.ingest.files.text_files import (
    BLOCK,
    LONGEST_RECORD,
    LongRecordError,
    Text,
    UnreadableFileError,
    read_csv,
    read_jsonl,
)
from seq_ml.ingest.mapping.source import MappingError, nearest
from seq_ml.ingest.mapping.values import find
from seq_ml.schema.staged import ROW_ERROR

if TYPE_CHECKING:
    from collections.abc import Iterator

    from seq_ml.ingest.mapping.source import FileMapping

FORMATS = (".csv", ".jsonl", ".ndjson", ".parquet", ".tsv")
SEPARATORS = {".csv": ",", ".tsv": "\t"}
HARMLESS_BYTES = 64_000_000
MOST_EXPANSION = 300
"""A file that unpacks to more than HARMLESS_BYTES, and to so many times its size, is no log."""
MOST_ROWS_PER_BYTE = 100
BATCH_BYTES = 64_000_000
"""Of a Parquet file's uncompressed pages, in one batch."""


def read_batches(
    name: str,
    file: BinaryIO,
    *,
    rows: int = 500_000,
    entry: FileMapping | None = None,
    mapped_only: bool = False,
) -> Iterator[pl.DataFrame]:
    """Yield the rows of a file in batches of at most `rows`, in file order.

    name: decides format and packing.  file: seekable, at its beginning; it stays open.  entry: the
    mapping's entry for it (separator, encoding).  mapped_only: leave out columns that `entry` does
    not read.

    Columns are texts (csv), what JSON holds (a batch need not have every column), or typed
    (Parquet). A batch with rows that could not be taken apart has the column ROW_ERROR. A file
    without rows yields nothing, or one empty batch with its columns.

    Raises, possibly after some batches, UnreadableFileError for a file that is broken, and
    MappingError (only with `mapped_only`) for JSON lines that never have a column of `entry`.
    """
    wanted = _inputs(entry) if entry is not None and mapped_only else None
    try:
        for frame in _frames(name, file, entry, rows, wanted):
            yield from frame.iter_slices(rows) if frame.height > rows else (frame,)
    except (UnreadableFileError, MappingError):
        raise
    except (
        pl.exceptions.PolarsError,
        pl.exceptions.PanicException,  # a column's name that is no text
        pa.ArrowException,
        OSError,
        EOFError,
        ValueError,
        zlib.error,
    ) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0][:200]
        raise UnreadableFileError(
            f"{name} is corrupt or truncated ({reason}): upload it again."
        ) from error


def _frames(
    name: str, file: BinaryIO, entry: FileMapping | None, rows: int, wanted: set[str] | None
) -> Iterator[pl.DataFrame]:
    if ending(name) not in FORMATS:
        raise UnreadableFileError(
            f"{name} ends in none of {', '.join(FORMATS)} (plain, .gz or .zst): rename it."
        )
    encoding = entry.encoding if entry else "utf-8"
    if ending(name) in SEPARATORS:
        separator = (entry.separator if entry else None) or SEPARATORS[ending(name)]
        yielded = 0
        for block in (BLOCK, LONGEST_RECORD):
            file.seek(0)
            with _unpacked(name, file) as content:
                # a record that does not fit into a block begins the file anew
                seen_before = yielded
                try:
                    for frame in read_csv(Text(name, content, encoding), separator, wanted, block):
                        new = frame.slice(seen_before) if seen_before else frame
                        seen_before = max(0, seen_before - frame.height)
                        yielded += new.height
                        if new.height or not yielded:
                            yield new
                except LongRecordError:
                    continue
                return
    with _unpacked(name, file) as content:
        if ending(name) == ".parquet":
            yield from _read_parquet(name, content, rows, wanted)
            return
        batches = read_jsonl(Text(name, content, encoding), wanted)
        yield from _complete(batches, name, entry) if entry and wanted else batches


def is_json(name: str) -> bool:
    """Tell whether a file holds JSON lines, which leave out what is null."""
    return ending(name) in (".jsonl", ".ndjson")


def _inputs(entry: FileMapping) -> set[str]:
    return entry.inputs | ({entry.lines} if entry.lines else set())


@contextmanager
def _unpacked(name: str, file: BinaryIO) -> Iterator[BinaryIO]:
    """Open the content as a stream; that of a packed Parquet file as a temporary file."""
    if not packing(name):
        yield file
        return
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    with unpacked(name, file) as content:
        guarded = _Guarded(name, content, size)
        if ending(name) != ".parquet":
            yield guarded  # type: ignore[misc]
            return
        with tempfile.SpooledTemporaryFile(max_size=HARMLESS_BYTES) as whole:
            while part := guarded.read(1 << 20):
                whole.write(part)
            whole.seek(0)
            yield whole  # type: ignore[misc]


class _Guarded(io.RawIOBase):
    """An unpacking stream that refuses a zip bomb after bounded work."""

    def __init__(self, name: str, stream: BinaryIO, packed_size: int) -> None:
        self.name = name
        self.stream = stream
        self.limit = max(HARMLESS_BYTES, MOST_EXPANSION * packed_size)
        self.out = 0

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        part = bytes(self.stream.read(size))
        self.out += len(part)
        if self.out > self.limit:
            raise _bomb(self.name)
        return part


def _bomb(name: str) -> UnreadableFileError:
    return UnreadableFileError(
        f"{name} unpacks to more than {MOST_EXPANSION} times its size, like a zip bomb: if it is "
        "sound, upload it unpacked, in parts."
    )


def _read_parquet(
    name: str, content: BinaryIO, rows: int, wanted: set[str] | None
) -> Iterator[pl.DataFrame]:
    """Read with Arrow and check every value: a corrupt page ends the process in Polars' reader."""
    size = content.seek(0, io.SEEK_END)
    content.seek(0)
    file = pq.ParquetFile(content, buffer_size=1 << 20, pre_buffer=False)
    unpacked = sum(
        file.metadata.row_group(n).total_byte_size for n in range(file.metadata.num_row_groups)
    )
    count = file.metadata.num_rows
    if unpacked > max(HARMLESS_BYTES, MOST_EXPANSION * size) or (
        count > max(HARMLESS_BYTES, MOST_ROWS_PER_BYTE * size)
    ):
        raise _bomb(name)
    columns = _heads(file.schema_arrow.names, wanted)
    if not count:
        yield _validated(file.schema_arrow.empty_table())
        return
    batch_rows = max(1, min(rows, count * BATCH_BYTES // max(1, unpacked)))
    for batch in file.iter_batches(batch_size=batch_rows, columns=columns):
        yield _validated(batch)


def _validated(batch: Any) -> pl.DataFrame:
    batch.validate(full=True)
    frame = pl.from_arrow(batch)
    assert isinstance(frame, pl.DataFrame)
    return frame


def _heads(names: list[str], wanted: set[str] | None) -> list[str] | None:
    """Return the top-level columns that hold what is wanted; None, all, when something lacks."""
    if not wanted:
        return None
    if not all(any(_is_head(name, {want}) for name in names) for want in wanted):
        return None
    return [name for name in names if _is_head(name, wanted)]


def _is_head(name: str, wanted: set[str]) -> bool:
    """Tell whether a column is wanted, or a field of it."""
    return any(want == name or want.startswith(f"{name}.") for want in wanted)


def _complete(
    batches: Iterator[pl.DataFrame], name: str, entry: FileMapping
) -> Iterator[pl.DataFrame]:
    """Leave out what `entry` does not read, and refuse lines that never have what it needs.

    A line leaves out what is null, so a column that some lines or files lack is no mistake, unless
    it is needed, or seems to be misspelt.
    """
    wanted = _inputs(entry)
    missing, columns_met, count = wanted, set[str](), 0
    for frame in batches:
        yield frame.select(n for n in frame.columns if n == ROW_ERROR or _is_head(n, wanted))
        count += frame.height
        columns_met.update(frame.columns)
        schema: dict[str, Any] = dict(frame.schema)
        if entry.lines and isinstance(inside := find(frame.schema, entry.lines)[1], pl.List):
            schema[entry.lines] = inside.inner
        fields = pl.Schema(schema)
        missing = {column for column in missing if find(fields, column)[1] is None}
    needed = {entry.lines} if entry.lines else set()
    for column in entry.contract.columns:
        if not column.nullable and column.name in entry.columns:
            needed.update(entry.columns[column.name].inputs)
    other = sorted(name for name in columns_met - {ROW_ERROR} if not _is_head(name, wanted))
    for absent in sorted(missing) if count else ():
        if absent in needed or get_close_matches(absent, other, n=1, cutoff=0.8):
            raise MappingError(
                f"{name} has no column '{absent}' in any of its {count} lines"
                f"{nearest(absent, other or sorted(columns_met))} (files matching {entry.match})"
            )
