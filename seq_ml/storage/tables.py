"""Delta tables in the bucket: atomic publish, overwrite of whole partitions, history.

Every table of `seq_ml.schema` is one Delta table under `tables/<name>`; analysts read it with
DuckDB, Spark, Trino, pandas or Polars.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import polars as pl

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import date

    from deltalake import DeltaTable

    from seq_ml.schema import Table
    from seq_ml.storage.objects import ObjectStore


class SchemaError(ValueError):
    """A frame does not fit its table's contract; the message names the column."""


class TableStore:
    """Read and write the Delta tables of one bucket."""

    def __init__(self, objects: ObjectStore, prefix: str = "tables") -> None:
        self.objects = objects
        self.prefix = prefix

    def uri(self, name: str) -> str:
        """Return the s3:// address of a table."""
        return self.objects.uri(f"{self.prefix}/{name}")

    def exists(self, name: str) -> bool:
        """Tell whether the table was ever written."""
        from deltalake import DeltaTable

        return DeltaTable.is_deltatable(self.uri(name), storage_options=self.objects.options)

    def scan(self, name: str, *, version: int | None = None) -> pl.LazyFrame:
        """Scan a table lazily; KeyError when it was never written."""
        return pl.scan_delta(self._open(name, version), storage_options=self.objects.options)

    def scan_or_empty(self, table: Table, name: str | None = None) -> pl.LazyFrame:
        """Scan a table, or an empty frame of its schema when it was never written."""
        name = name or table.name
        return self.scan(name) if self.exists(name) else pl.LazyFrame(schema=table.polars_schema())

    def append(self, name: str, frame: pl.DataFrame, *, partition_by: str | None = None) -> int:
        """Add rows in one commit; return the new version."""
        return self._write(name, frame, mode="append", partition_by=partition_by)

    def overwrite(
        self,
        name: str,
        frame: pl.DataFrame,
        *,
        predicate: str | None = None,
        partition_by: str | None = None,
    ) -> int:
        """Replace the table, or only the rows of `predicate`, in one commit; return the version.

        `predicate` is SQL over the table's columns; every row of `frame` must fulfil it.
        """
        return self._write(
            name, frame, mode="overwrite", predicate=predicate, partition_by=partition_by
        )

    def overwrite_partitions(
        self, table: Table, frame: pl.DataFrame, partitions: Iterable[date], name: str | None = None
    ) -> int:
        """Replace exactly the given partitions (also by nothing) in one commit.

        Returns the version. Raises SchemaError when `frame` does not fit the contract.
        """
        column = table.partition_by
        if column is None:
            raise SchemaError(f"{table.name} has no partition column")
        days = ", ".join(f"'{day}'" for day in sorted(set(partitions)))
        if not days:
            return self.version(name or table.name)
        return self.overwrite(
            name or table.name,
            conform(frame, table),
            predicate=f"{column} IN ({days})",
            partition_by=column,
        )

    def delete_rows(self, name: str, column: str, values: Iterable[str]) -> None:
        """Delete the rows whose `column` is one of `values`, in one commit."""
        quoted = ", ".join("'" + value.replace("'", "''") + "'" for value in values)
        if quoted:
            self._open(name).delete(f"{column} IN ({quoted})")

    def version(self, name: str) -> int:
        """Return the newest version of a table; KeyError when it was never written."""
        return int(self._open(name).version())

    def size(self, name: str) -> int:
        """Return the bytes of the table's current files."""
        actions = pl.DataFrame(self._open(name).get_add_actions(flatten=True))
        return int(actions["size_bytes"].sum()) if actions.height else 0

    def restore(self, name: str, version: int) -> None:
        """Make an older version the newest one (a commit of its own)."""
        self._open(name).restore(version)

    def _open(self, name: str, version: int | None = None) -> DeltaTable:
        from deltalake import DeltaTable
        from deltalake.exceptions import TableNotFoundError

        try:
            return DeltaTable(self.uri(name), version, storage_options=self.objects.options)
        except TableNotFoundError as error:
            message = f"The table {name} does not exist yet at {self.uri(name)}."
            raise KeyError(message) from error

    def _write(
        self,
        name: str,
        frame: pl.DataFrame,
        *,
        mode: Any,
        predicate: str | None = None,
        partition_by: str | None = None,
    ) -> int:
        options: dict[str, Any] = {"partition_by": [partition_by]} if partition_by else {}
        try:
            table = self._open(name)  # opened once: each opening reads the log
        except KeyError:
            frame.write_delta(
                self.uri(name),
                mode="append",
                storage_options=self.objects.options,
                delta_write_options=options,
            )
            return self.version(name)
        if predicate:
            options["predicate"] = predicate
        frame.write_delta(table, mode=mode, delta_write_options=options)
        return int(table.version())


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
