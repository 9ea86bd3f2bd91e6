"""Read a dropped file into a frame: parquet, csv, tsv and jsonl, each plain or gz or zst.

Text formats are read as text: types are the mapping's business, so that a bad value is one
quarantined row and not a refused file.
"""

from __future__ import annotations

import gzip
import io
from pathlib import PurePosixPath

import polars as pl

FORMATS = {".parquet", ".csv", ".tsv", ".jsonl", ".ndjson"}


class UnreadableFileError(ValueError):
    """A file cannot be read at all; the message says why and what to do."""


def read_file(name: str, body: bytes) -> pl.DataFrame:
    """Return all rows of a file.

    Raises UnreadableFileError for an unknown ending, and for a corrupt or truncated file.
    """
    suffixes = PurePosixPath(name).suffixes
    packing = suffixes.pop() if suffixes and suffixes[-1] in (".gz", ".zst") else ""
    ending = suffixes[-1].lower() if suffixes else ""
    if ending not in FORMATS:
        raise UnreadableFileError(
            f"{name} ends in none of {', '.join(sorted(FORMATS))} (plain, .gz or .zst): rename it."
        )
    try:
        content = _unpack(body, packing)
        if ending == ".parquet":
            return pl.read_parquet(io.BytesIO(content))
        if not content.strip():
            return pl.DataFrame()
        if ending in (".csv", ".tsv"):
            separator = "," if ending == ".csv" else "\t"
            return pl.read_csv(io.BytesIO(content), separator=separator, infer_schema=False)
        return pl.read_ndjson(io.BytesIO(content), infer_schema_length=None)
    except (pl.exceptions.PolarsError, OSError, EOFError, ValueError) as error:
        reason = str(error).splitlines()[0][:200]
        raise UnreadableFileError(
            f"{name} is corrupt or truncated ({reason}): upload it again."
        ) from error


def _unpack(body: bytes, packing: str) -> bytes:
    if packing == ".gz":
        return gzip.decompress(body)
    if packing == ".zst":
        import pyarrow as pa

        with pa.input_stream(io.BytesIO(body), compression="zstd") as stream:
            return bytes(stream.read())
    return body
