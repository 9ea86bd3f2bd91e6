"""Files of every format and packing, and what the readers make of them."""

from __future__ import annotations

import gzip
import io

import polars as pl
import pyarrow as pa

from seq_ml.ingest.files.readers import ROW_ERROR, read_batches
from seq_ml.ingest.mapping.source import FileMapping

ROWS = pl.DataFrame({"id": ["a", "b", "ü;\t,\n"], "n": ["1", None, "3"], "time": ["x"] * 3})


def encoded(ending: str, frame: pl.DataFrame = ROWS) -> bytes:
    buffer = io.BytesIO()
    match ending:
        case "parquet":
            frame.write_parquet(buffer)
        case "csv":
            frame.write_csv(buffer)
        case "tsv":
            frame.write_csv(buffer, separator="\t")
        case _:
            frame.write_ndjson(buffer)
    return buffer.getvalue()


def read_file(name: str, body: bytes, **options) -> pl.DataFrame:
    frames = list(read_batches(name, io.BytesIO(body), **options))
    return pl.concat(frames, how="diagonal_relaxed") if frames else pl.DataFrame()


def packed(packing: str, body: bytes) -> bytes:
    if packing == ".gz":
        return gzip.compress(body, mtime=0)
    if packing == ".zst":
        return bytes(pa.compress(body, "zstd", asbytes=True))
    return body


def rows_of(name: str, body: bytes, **options) -> list[tuple]:
    """The rows as tuples; (row_error's rule and value) for those that are none."""
    found = []
    for row in read_file(name, body, **options).to_dicts():
        error = row.pop(ROW_ERROR, None)
        found.append((error["rule"], error["value"]) if error else tuple(row.values()))
    return found


def entry(column: str = "user", **options):
    columns = {
        "user_id": column,
        "event_type": {"value": "view"},
        "event_time": "at",
        "text": "note",
    }
    return FileMapping.model_validate(
        {"match": "*", "table": "events", "columns": columns, **options}
    )
