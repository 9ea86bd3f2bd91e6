"""Staged rows, between ingest and cleaning: the contract of an input and where a row came from."""

from __future__ import annotations

import polars as pl

from seq_ml.schema.inputs import INPUT_TABLES

ERROR = pl.Struct({"rule": pl.String, "column": pl.String, "value": pl.String})
ROW_ERROR = "\x00error"
"""Column of a batch (dtype ERROR): why a row could not be taken apart; it has no values then."""
STAGED_EXTRA = {
    "source_file": pl.String(),
    "row_number": pl.Int64(),
    "part": pl.Int32(),
    "landed_at": pl.Datetime("us", "UTC"),
    "errors": pl.List(ERROR),
}


def staged_schema(table: str) -> pl.Schema:
    """Return the schema of a contract table's rows before cleaning."""
    return pl.Schema({**INPUT_TABLES[table].polars_schema(), **STAGED_EXTRA})


def staged_name(table: str) -> str:
    """Name of the Delta table that holds a contract table's rows before cleaning."""
    return f"staged_{table}"
