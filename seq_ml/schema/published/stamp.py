"""The columns that every row of a published table carries."""

from __future__ import annotations

from seq_ml.schema.contract import Column

STAMP = (
    Column("as_of", "datetime", "Cut-off (UTC): features strictly before it."),
    Column("model_version", "str", "Version in the registry that produced the row."),
    Column("source", "str", "What produced the row: the model, or the baseline that won."),
    Column("run_id", "str", "Dagster run."),
    Column("created_at", "datetime", "When the row was written (UTC)."),
)
