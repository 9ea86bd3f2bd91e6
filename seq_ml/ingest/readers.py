"""Read a dropped file into a frame: parquet, csv, tsv and jsonl, each plain or gz or zst.

Text formats are read as text: types are the mapping's business, so that a bad value is one
quarantined row and not a refused file.
"""

from __future__ import annotations

import codecs
import gzip
import io
import zlib
from pathlib import PurePosixPath

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

FORMATS = {".parquet", ".csv", ".tsv", ".jsonl", ".ndjson"}


class UnreadableFileError(ValueError):
    """A file cannot be read at all; the message says why and what to do."""


def read_file(name: str, body: bytes) -> pl.DataFrame:
    """Return all rows of a file.

    Raises UnreadableFileError for an unknown ending, and for a corrupt or truncated file.
    """
    suffixes = PurePosixPath(name.lower()).suffixes
    packing = suffixes.pop() if suffixes and suffixes[-1] in (".gz", ".zst") else ""
    ending = suffixes[-1] if suffixes else ""
    if ending not in FORMATS:
        raise UnreadableFileError(
            f"{name} ends in none of {', '.join(sorted(FORMATS))} (plain, .gz or .zst): rename it."
        )
    try:
        content = _unpack(body, packing)
        if ending == ".parquet":
            return _read_parquet(content)
        content = content.removeprefix(codecs.BOM_UTF8)
        if not content.strip():
            return pl.DataFrame()
        if ending in (".csv", ".tsv"):
            separator = "," if ending == ".csv" else "\t"
            return pl.read_csv(io.BytesIO(content), separator=separator, infer_schema=False)
        return pl.read_ndjson(io.BytesIO(content), infer_schema_length=None)
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


def _read_parquet(content: bytes) -> pl.DataFrame:
    """Read with Arrow and check every value: a corrupt page ends the process in Polars' reader."""
    table = pq.read_table(io.BytesIO(content))
    table.validate(full=True)
    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)
    return frame


def _unpack(body: bytes, packing: str) -> bytes:
    if packing == ".gz":
        return gzip.decompress(body)
    if packing == ".zst":
        with pa.input_stream(io.BytesIO(body), compression="zstd") as stream:
            return bytes(stream.read())
    return body
