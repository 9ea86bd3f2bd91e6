"""Hold a frame against the contract of its table: columns, types, nulls, allowed values, key."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

if TYPE_CHECKING:
    from seq_ml.schema import Table


class SchemaError(ValueError):
    """A frame does not fit its table's contract; the message names the column."""


def conform(frame: pl.DataFrame, table: Table) -> pl.DataFrame:
    """Return `frame` with exactly the columns, order and dtypes of the table's contract.

    Raises SchemaError naming the missing and unknown columns, or the first column with a value that
    does not fit: of another type, null where none may be, or outside the allowed ones.
    """
    missing = [name for name in table.names if name not in frame.columns]
    unknown = [name for name in frame.columns if name not in table.names]
    if missing or unknown:
        raise SchemaError(f"{table.name}: missing columns {missing}, unknown columns {unknown}")
    try:
        frame = frame.select(
            pl.col(name).cast(dtype) for name, dtype in table.polars_schema().items()
        )
    except pl.exceptions.PolarsError as error:
        raise SchemaError(f"{table.name}: {str(error).splitlines()[0]}") from error
    for column in table.columns:
        if not column.nullable and (nulls := frame[column.name].null_count()):
            raise SchemaError(f"{table.name}.{column.name}: {nulls} nulls where none may be")
        if column.allowed:
            strange = frame[column.name].drop_nulls().unique().is_in(list(column.allowed))
            if not strange.all():
                raise SchemaError(f"{table.name}.{column.name}: a value outside {column.allowed}")
    return frame


def check_key(frame: pl.DataFrame, table: Table) -> None:
    """Raise SchemaError when two rows of `frame` share the table's key."""
    doubles = frame.height - frame.select(table.key).n_unique()
    if doubles:
        raise SchemaError(f"{table.name}: {doubles} rows repeat the key {table.key}")


def grown(rows: pl.LazyFrame, schema: pl.Schema) -> pl.LazyFrame:
    """Add the columns of a contract that a table written before it grew does not have."""
    lacking = schema.keys() - rows.collect_schema().keys()
    return rows.with_columns(pl.lit(None, schema[name]).alias(name) for name in sorted(lacking))
