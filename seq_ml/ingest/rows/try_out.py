"""Try a mapping on a sample file: what it understands, before anything is dropped."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, BinaryIO

import polars as pl
from polars_hash import CryptographicHashingNameSpace as Hashing

from seq_ml.business import Business
from seq_ml.ingest.files.readers import read_batches
from seq_ml.ingest.mapping.source import MappingError, nearest
from seq_ml.ingest.rows.canonical import to_canonical
from seq_ml.schema.staged import ROW_ERROR, staged_schema
from seq_ml.storage.layout import DROPS_PREFIX

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from seq_ml.ingest.mapping.source import FileMapping, SourceMapping

SAMPLE_ROWS = 1_000_000
"""Of a longer file only so many rows are looked at."""


@dataclass(frozen=True)
class Understood:
    """What a mapping makes of a file.

    records: as they would be staged, `user_id` replaced by a passing pseudonym.  unmapped: columns
    of the file that stay outside.  absent: mapped columns that no JSON line has, and the nearest
    name.  whole: whether all rows were looked at.
    """

    entry: FileMapping
    rows: int
    whole: bool
    records: pl.DataFrame
    unmapped: list[str]
    absent: list[str]


def choose_entry(mapping: SourceMapping, name: str, path: str | None) -> FileMapping:
    """Return the entry for a file called `name`, which would lie at `path` below the source.

    Without `path` the file's name alone is compared with the last part of each pattern. Raises
    MappingError when no entry fits, or several do.
    """
    if path is not None:
        fitting = [entry] if (entry := mapping.file_for(path)) else []
    else:
        fitting = [e for e in mapping.files if fnmatchcase(name, e.match.rpartition("/")[2])]
    if len(fitting) == 1:
        return fitting[0]
    patterns = ", ".join(entry.match for entry in fitting or mapping.files)
    if fitting:
        raise MappingError(
            f"{name} fits several entries of '{mapping.name}' ({patterns}): say with --path where "
            f"below {DROPS_PREFIX}/{mapping.name}/ it would lie."
        )
    raise MappingError(
        f"{path or name} fits no entry of '{mapping.name}' (patterns: {patterns})"
        f"{'' if path else '; say with --path where the file would lie'}."
    )


def understand(
    mapping: SourceMapping,
    entry: FileMapping,
    name: str,
    file: BinaryIO,
    *,
    limit: int = SAMPLE_ROWS,
) -> Understood:
    """Read the first `limit` rows of a file as ingest would; no storage and no key is needed.

    Raises what ingest would refuse the file with: UnreadableFileError, MappingError.
    """
    columns: dict[str, None] = {}
    for batch in _head(read_batches(name, file, entry=entry), limit):
        columns |= dict.fromkeys(_leaves(dict(batch.schema), entry.lines))
    file.seek(0)
    rows, passing = 0, secrets.token_hex(16)
    parts = [pl.DataFrame(schema=staged_schema(entry.table))]
    for batch in _head(read_batches(name, file, entry=entry, mapped_only=True), limit):
        part = to_canonical(
            batch,
            mapping,
            entry,
            key=f"{DROPS_PREFIX}/{mapping.name}/{name}",
            landed_at=datetime.now(UTC),
            currency=(mapping.business or Business()).currency,
            secret=passing,
            first_row=rows + 1,
        )
        if entry.contract.has_users:
            hidden = Hashing(pl.col("user_id")).hmac_sha256(key=passing).str.head(8)
            part = part.with_columns(user_id=hidden)
        parts.append(part)
        rows += batch.height
    read = entry.inputs | ({entry.lines} if entry.lines else set())
    unmapped = [column for column in columns if column not in read]
    absent = [
        f"{column}{nearest(column, unmapped) if unmapped else ''}"
        for column in sorted(entry.inputs - set(columns))
        if rows
    ]
    return Understood(entry, rows, rows < limit, pl.concat(parts), unmapped, absent)


def _head(batches: Iterator[pl.DataFrame], limit: int) -> Iterator[pl.DataFrame]:
    """Yield batches of together at most `limit` rows; read to the end what has no more."""
    for batch in batches:
        yield batch.head(limit)
        limit -= batch.height
        if limit <= 0:
            return


def _leaves(schema: Mapping[str, Any], lines: str | None, above: str = "") -> Iterator[str]:
    """Yield the names by which a mapping calls the columns and their fields."""
    for name, dtype in schema.items():
        if name == ROW_ERROR:
            continue
        full = f"{above}{name}"
        inside = dtype.inner if full == lines and isinstance(dtype, pl.List) else dtype
        if isinstance(inside, pl.Struct):
            yield from _leaves(inside.to_schema(), lines, f"{full}.")
        else:
            yield full
