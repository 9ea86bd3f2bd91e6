"""Take one person's rows out of raw drops, and nothing else.

Of a file that a mapping reads, the rows whose user column is the person; of one that no mapping
reads (refused, or of no source), the rows with the id as a whole value in any column. Of a text
that no reader understands, the lines with the id; and any other such file goes as a whole when it
holds the id: it was to be uploaded again anyway. All other rows keep their bytes (text formats), or
their values (Parquet). What was written is read again and compared before it replaces the drop.
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from seq_ml.erasure.records import Layout, records, without
from seq_ml.erasure.search import PACKED_ERRORS, SHORTEST_ID, Needle, count
from seq_ml.ingest.files.packing import ending, packed, packing, unpacked
from seq_ml.ingest.files.readers import read_batches
from seq_ml.ingest.files.text_files import UnreadableFileError
from seq_ml.ingest.mapping.source import MappingError
from seq_ml.ingest.rows.canonical import to_canonical
from seq_ml.schema.staged import ROW_ERROR
from seq_ml.storage.layout import source_of
from seq_ml.storage.objects import StorageError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from seq_ml.ingest.mapping.source import FileMapping, SourceMapping

BATCH_ROWS = 100_000
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
LINES = Layout(separator=None)
TEXT_BYTES = 1_000_000


class RewriteError(StorageError):
    """A drop cannot be rewritten without harm; the message names it and what to do by hand."""


@dataclass(frozen=True)
class Person:
    """Whom to look for: the source's own id, and its bytes."""

    user: str
    needle: Needle

    @classmethod
    def of(cls, user: str) -> Person:
        """Return the person with this id."""
        return cls(user, Needle.of(user))

    @property
    def is_short(self) -> bool:
        """Whether the id occurs by chance, so that its bytes say nothing."""
        return len(self.user) < SHORTEST_ID


@dataclass(frozen=True)
class Found:
    """What a drop holds of the person."""

    rows: NDArray[np.int64] | None
    """Numbers of their records, from 0; None: the file cannot be read and has to go."""
    lines: bool = False
    """Whether the records are just lines, of a text that cannot be read otherwise."""


def look_for(
    person: Person, key: str, file: BinaryIO, mappings: dict[str, SourceMapping]
) -> Found | None:
    """Return what a drop holds of the person; None when it is nothing.

    An id that is too short to be searched for is looked for in user columns only.
    """
    mapping, entry = _reader_of(key, mappings)
    if entry is not None and not entry.contract.has_users:
        return None  # a catalogue or a plan: no row of it belongs to a user
    try:
        rows = None
        if mapping is not None and entry is not None:
            try:
                rows, broken = _marks_of_users(person, key, file, mapping, entry)
            except MappingError:  # refused: the file lacks a column that the entry names
                file.seek(0)
        if person.is_short:
            return None if rows is None or not rows.any() else Found(np.flatnonzero(rows))
        if rows is None:
            rows, broken = _marks(key, file, lambda frame: _mentions(frame, person), None)
        if broken.any() and ending(key) != ".parquet":
            file.seek(0)
            layout = Layout.of(key, entry)
            for number, record in records(key, file, layout):
                if number is not None and number < len(broken) and broken[number]:
                    rows[number] |= bool(person.needle.pattern.search(layout.to_bytes(record)))
    except UnreadableFileError:
        return None if person.is_short else _in_unreadable(person, key, file)
    return Found(np.flatnonzero(rows)) if rows.any() else None


def rewrite(
    key: str, file: BinaryIO, target: Path, found: Found, mappings: dict[str, SourceMapping]
) -> None:
    """Write the file without what was found to `target`, in the same format and packing."""
    assert found.rows is not None
    file.seek(0)
    if ending(key) == ".parquet":
        _rewrite_parquet(key, file, target, found.rows)
    else:
        layout = LINES if found.lines else Layout.of(key, _reader_of(key, mappings)[1])
        without(key, file, target, layout, set(found.rows.tolist()))


def check(
    person: Person,
    key: str,
    old: BinaryIO,
    new: BinaryIO,
    found: Found,
    mappings: dict[str, SourceMapping],
) -> None:
    """Raise RewriteError unless the new file holds exactly the records of the old that stay."""
    assert found.rows is not None
    entry = _reader_of(key, mappings)[1]
    old.seek(0)
    new.seek(0)
    left = look_for(person, key, new, mappings)
    old.seek(0)
    new.seek(0)
    if found.lines:
        same = _lines(key, old) - len(found.rows) == _lines(key, new)
    else:
        same = _digest(key, old, entry, found.rows) == _digest(key, new, entry, None)
    if left is not None or not same:
        raise RewriteError(
            f"{key} cannot be rewritten safely (its records cannot be told apart line by line): "
            f"take the person's {len(found.rows)} rows out by hand, upload it, and repeat."
        )


def _in_unreadable(person: Person, key: str, file: BinaryIO) -> Found | None:
    """Look into a file that no reader understands: by line if it is a text, else as a whole."""
    file.seek(0)
    try:
        numbers = [
            number
            for number, line in records(key, file, LINES)
            if number is not None and person.needle.pattern.search(LINES.to_bytes(line))
        ]
        file.seek(0)
        with unpacked(key, file) as content:
            is_text = ending(key) != ".parquet" and b"\x00" not in content.read(TEXT_BYTES)
    except PACKED_ERRORS:  # cut off: what is left of it must not look like a whole file
        numbers, is_text = [], False
    if is_text:
        return Found(np.array(numbers, dtype=np.int64), lines=True) if numbers else None
    file.seek(0)
    held = count(file, person.needle)
    file.seek(0)
    with unpacked(key, file) as content:
        held += count(content, person.needle, packed=True)
    return Found(None) if held else None


def _lines(key: str, file: BinaryIO) -> int:
    return sum(number is not None for number, _ in records(key, file, LINES))


def _reader_of(
    key: str, mappings: dict[str, SourceMapping]
) -> tuple[SourceMapping | None, FileMapping | None]:
    source, path = source_of(key)
    mapping = mappings.get(source)
    return mapping, mapping.file_for(path) if mapping else None


def _marks_of_users(
    person: Person, key: str, file: BinaryIO, mapping: SourceMapping, entry: FileMapping
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Mark the rows whose user is the person, whatever else ingest thinks of them."""
    everybody = mapping.model_copy(update={"test_users": ()})
    origins = {o.model_dump_json(): o for o in (record["user_id"] for record in entry.records)}
    readers = []
    for origin in origins.values():
        inside = [n for n in origin.inputs if entry.lines and n.startswith(f"{entry.lines}.")]
        only = {"columns": {"user_id": origin}, "events": (), "consent": None}
        readers.append(entry.model_copy(update={**only, "lines": entry.lines if inside else None}))

    def theirs(frame: pl.DataFrame) -> pl.Series:
        marks = np.zeros(frame.height, dtype=np.bool_)
        for reader in readers:
            users = to_canonical(
                frame,
                everybody,
                reader,
                key=key,
                landed_at=EPOCH,
                currency="",
                secret="",
                first_row=0,
            )
            marks[users.filter(user_id=person.user)["row_number"].to_numpy()] = True
        return pl.Series(marks)

    one = len(readers) == 1
    return _marks(key, file, theirs, readers[0] if one else entry, mapped_only=one)


def _marks(
    key: str,
    file: BinaryIO,
    theirs: Callable[[pl.DataFrame], pl.Series],
    entry: FileMapping | None,
    *,
    mapped_only: bool = False,
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Mark each record of a file, in order: is it theirs, and could it not be taken apart."""
    name = key.rsplit("/", 1)[-1]
    rows, broken = [np.zeros(0, dtype=np.bool_)], [np.zeros(0, dtype=np.bool_)]
    for frame in read_batches(name, file, rows=BATCH_ROWS, entry=entry, mapped_only=mapped_only):
        rows.append(theirs(frame).fill_null(value=False).to_numpy())
        errors = frame[ROW_ERROR].is_not_null() if ROW_ERROR in frame.columns else None
        broken.append(
            np.zeros(frame.height, dtype=np.bool_) if errors is None else errors.to_numpy()
        )
    return np.concatenate(rows), np.concatenate(broken)


def _mentions(frame: pl.DataFrame, person: Person) -> pl.Series:
    """Mark the rows with the id as a whole value in some column, or inside a nested one."""
    hits = []
    for name, dtype in frame.schema.items():
        if name == ROW_ERROR:
            continue
        if dtype.is_nested():
            quoted = re.escape(json.dumps(person.user, ensure_ascii=False))
            texts = frame[name].to_frame().select(pl.struct(name).struct.json_encode()).to_series()
            hits.append(texts.str.contains(rf"[:\[]{quoted}[,\]\}}]"))
        else:
            hits.append(frame[name].cast(pl.String, strict=False) == person.user)
    if not hits:
        return pl.Series([False] * frame.height, dtype=pl.Boolean)
    return pl.DataFrame({str(i): h for i, h in enumerate(hits)}).select(
        pl.any_horizontal(pl.all().fill_null(value=False))
    ).to_series()  # fmt: skip


def _digest(
    key: str, file: BinaryIO, entry: FileMapping | None, gone: NDArray[np.int64] | None
) -> tuple[int, int]:
    """Return number and order-dependent hash of a file's records, but for those of `gone`.

    Of JSON lines the number alone: a line is a record without doubt, and the columns that the
    reader finds depend on the lines beside it.
    """
    name = key.rsplit("/", 1)[-1]
    total = digest = position = 0
    for frame in read_batches(name, file, rows=BATCH_ROWS, entry=entry):
        chosen = frame
        if gone is not None:
            numbers = np.arange(position, position + frame.height)
            chosen = frame.filter(pl.Series(~np.isin(numbers, gone)))
        position += frame.height
        if ending(key) in (".csv", ".tsv", ".parquet"):
            texts = [pl.struct(c).struct.json_encode() for c in sorted(chosen.columns)]
            values = chosen.select(pl.concat_str(texts)).to_series().hash(7).to_numpy()
            place = np.arange(total, total + chosen.height, dtype=np.uint64) * 2 + 1
            digest = (digest + int((values * place).sum())) % (1 << 64)
        total += chosen.height
    return total, digest


def _rewrite_parquet(key: str, file: BinaryIO, target: Path, rows: NDArray[np.int64]) -> None:
    with tempfile.TemporaryFile(dir=target.parent) as plain:
        if packing(key):
            with unpacked(key, file) as content:
                shutil.copyfileobj(content, plain)
            file = plain
        source = pq.ParquetFile(file)
        schema, position = source.schema_arrow, 0
        with (
            packed(key, target) as out,
            pq.ParquetWriter(out, schema, compression=_compression(source)) as writer,
        ):
            for batch in source.iter_batches(batch_size=BATCH_ROWS):
                numbers = np.arange(position, position + batch.num_rows)
                writer.write_batch(batch.filter(pa.array(~np.isin(numbers, rows))))
                position += batch.num_rows


def _compression(source: Any) -> str:
    if not source.metadata.num_row_groups or not source.metadata.num_columns:
        return "snappy"
    name = str(source.metadata.row_group(0).column(0).compression).lower()
    return "none" if name == "uncompressed" else name
