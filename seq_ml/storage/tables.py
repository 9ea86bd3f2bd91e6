"""Delta tables in the bucket: atomic publish, overwrite of whole partitions, history.

Every table of `seq_ml.schema` is one Delta table under `tables/<name>`; analysts read it with
DuckDB, Spark, Trino, pandas or Polars.
"""

from __future__ import annotations

import io
import json
import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import polars as pl

from seq_ml.schema.staged import staged_name, staged_schema
from seq_ml.storage.contracts import SchemaError, conform, grown
from seq_ml.storage.layout import TABLE_PREFIXES, TABLES_PREFIX
from seq_ml.storage.opened import LOG, newest, open_table

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from datetime import date, datetime
    from pathlib import Path

    from deltalake import DeltaTable
    from deltalake.transaction import AddAction

    from seq_ml.schema import Table
    from seq_ml.storage.objects import ObjectStore


UPLOADS = 4
"""Files of one commit that are on their way to the bucket at once."""

NO_PARTITION = "__HIVE_DEFAULT_PARTITION__"
"""Folder of the rows whose partition column is null."""


class TableStore:
    """Read and write the Delta tables of one bucket."""

    def __init__(self, objects: ObjectStore, prefix: str = TABLES_PREFIX) -> None:
        self.objects = objects
        self.prefix = prefix

    def uri(self, name: str) -> str:
        """Return the s3:// address of a table."""
        return self.objects.uri(f"{self.prefix}/{name}")

    def exists(self, name: str) -> bool:
        """Tell whether the table was ever written."""
        return newest(self.objects, f"{self.prefix}/{name}") is not None

    def scan(self, name: str, *, version: int | None = None) -> pl.LazyFrame:
        """Scan a table lazily; KeyError when it was never written."""
        return pl.scan_delta(self._read(name, version), storage_options=self.objects.options)

    def scan_or_empty(self, table: Table, name: str | None = None) -> pl.LazyFrame:
        """Scan a table, or an empty frame of its schema when it was never written.

        Columns that its contract gained since it was written are null.
        """
        try:
            rows = self.scan(name or table.name)
        except KeyError:
            return pl.LazyFrame(schema=table.polars_schema())
        return grown(rows, table.polars_schema())

    def scan_staged(self, table: str) -> pl.LazyFrame:
        """Scan an input table's rows before cleaning, all of one version; none before any drop."""
        try:
            rows = self.scan(staged_name(table))
        except KeyError:
            return pl.LazyFrame(schema=staged_schema(table))
        return grown(rows, staged_schema(table))

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

        `predicate` is SQL over the table's columns; every row of `frame` must fulfil it. Columns
        that the table does not have yet are added to it.
        """
        return self._write(
            name, frame, mode="overwrite", predicate=predicate, partition_by=partition_by
        )

    def overwrite_rows(
        self, table: Table, frames: Iterable[pl.DataFrame], *, predicate: str
    ) -> int:
        """Replace the rows of `predicate` in one commit; return the version.

        frames: as `conform` returns them, every row fulfils the predicate; one is in memory. One of
        another schema is an error, and nothing is replaced.
        """
        import pyarrow
        from deltalake import write_deltalake

        contract = table.polars_schema()
        self.prepare(table.name, contract)
        delta = self.delta(table.name)
        # Arrow's reader believes whatever it is told of a batch: bytes of another type are garbage.
        fitting = (frame.match_to_schema(contract) for frame in frames)
        batches = (batch for frame in fitting for batch in frame.to_arrow().to_batches())
        schema = pl.DataFrame(schema=contract).to_arrow().schema
        write_deltalake(
            delta,
            pyarrow.RecordBatchReader.from_batches(schema, batches),
            mode="overwrite",
            predicate=predicate,
        )
        return int(delta.version())

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

    def prepare(self, name: str, schema: pl.Schema, *, partition_by: str | None = None) -> None:
        """Make the table where it was never written; add the columns that it lacks.

        Who commits files by hand calls it first: a commit would lose a new column silently.
        """
        if not self.exists(name) or schema.keys() - self.scan(name).collect_schema().keys():
            self.append(name, pl.DataFrame(schema=schema), partition_by=partition_by)

    def append_files(
        self,
        name: str,
        frames: Iterable[pl.DataFrame],
        *,
        schema: pl.Schema,
        partition_by: str | None = None,
    ) -> int:
        """Add many frames, each a Parquet file of its own, in one commit; return the version.

        schema: of every frame.  A frame holds rows of one partition only.  However many rows there
        are, only one frame is in memory: delta-rs' own writer keeps the pages of all partitions
        until the end (1.5 GB for 12M rows).  Files of a call that was cut off belong to no
        version; `vacuum` removes them.
        """
        self.prepare(name, schema, partition_by=partition_by)
        actions = self._put_files(name, frames, schema, partition_by)
        table = self.delta(name)
        table.create_write_transaction(
            actions,
            mode="append",
            schema=table.schema(),
            partition_by=[partition_by] if partition_by else None,
        )
        return self.version(name)

    def overwrite_files(
        self,
        table: Table,
        frames: Iterable[pl.DataFrame],
        partitions: Iterable[date],
        *,
        statistics: Iterable[str] = (),
        row_group_rows: int | None = None,
    ) -> None:
        """Replace the given partitions of an existing table in one commit, a file for each frame.

        frames: as `conform` returns them, each of one of these partitions; one is in memory.
        statistics: columns whose smallest and largest value of each file the log shall name.
        row_group_rows: rows of a row group, the least that a filtered scan reads of a file.
        """
        column = table.partition_by
        assert column is not None, f"{table.name} has no partition column"
        days = sorted({str(day) for day in partitions})
        if not days:
            return
        schema = table.polars_schema()
        self.prepare(table.name, schema, partition_by=column)
        actions = self._put_files(table.name, frames, schema, column, statistics, row_group_rows)
        self._replace(self.delta(table.name), column, days, actions)

    def overwrite_whole(self, table: Table, frames: Iterable[pl.DataFrame]) -> None:
        """Replace all rows of a table without partitions in one commit, a file for each frame.

        frames: as `conform` returns them; one is in memory. A table that was never written comes
        into being with its rows.
        """
        from deltalake import Schema
        from deltalake.transaction import create_table_with_add_actions

        contract = table.polars_schema()
        actions = self._put_files(table.name, frames, contract, None)
        if self.exists(table.name):
            self.prepare(table.name, contract)
            delta = self.delta(table.name)
            delta.create_write_transaction(actions, mode="overwrite", schema=delta.schema())
            return
        create_table_with_add_actions(
            self.uri(table.name),
            Schema.from_arrow(contract),
            actions,
            storage_options=self.objects.options,
        )

    def overwrite_from_files(
        self, table: Table, files: Mapping[date, Sequence[Path]], *, version: int | None = None
    ) -> None:
        """Replace the partitions that `files` names by its Parquet files, in one commit.

        files: partition → the files with its rows, schema `table` (`conform` was the caller's);
        none empties it. They are uploaded as they are: neither read nor written once more. version:
        what the caller looked at; when these partitions changed since then, delta-rs raises
        CommitFailedError.
        """
        column = table.partition_by
        assert column is not None, f"{table.name} has no partition column"
        if not files:
            return
        actions = []
        for partition, paths in files.items():
            for file in paths:
                path = f"{column}={partition}/{uuid4()}.parquet"
                size = self.objects.put_file(f"{self.prefix}/{table.name}/{path}", file)
                rows = pl.scan_parquet(file).select(pl.len()).collect().item()
                actions.append(_added(path, size, {column: str(partition)}, numRecords=rows))
        days = sorted(str(partition) for partition in files)
        self._replace(self.delta(table.name, version), column, days, actions)

    @staticmethod
    def _replace(delta: DeltaTable, column: str, values: list[str], actions: list[Any]) -> None:
        delta.create_write_transaction(
            actions,
            mode="overwrite",
            schema=delta.schema(),
            partition_by=[column],
            partition_filters=[(column, "in", values)],
        )

    def _put_files(
        self,
        name: str,
        frames: Iterable[pl.DataFrame],
        schema: pl.Schema,
        partition_by: str | None,
        statistics: Iterable[str] = (),
        row_group_rows: int | None = None,
    ) -> list[Any]:
        """Upload each frame as a file of the table; return what a commit needs to name them."""
        actions = []
        _ = self.objects.client  # boto3 clients are thread-safe, their creation is not
        with ThreadPoolExecutor(max_workers=UPLOADS) as pool:
            uploads: deque[Future[str]] = deque()
            for frame in frames:
                value = str(frame[partition_by][0] or "") if partition_by else ""
                folder = f"{partition_by}={value or NO_PARTITION}/" if partition_by else ""
                path = f"{folder}{uuid4()}.parquet"
                file = io.BytesIO()
                columns = [column for column in schema if column != partition_by]
                frame.select(columns).write_parquet(file, row_group_size=row_group_rows)
                if len(uploads) == UPLOADS:
                    uploads.popleft().result()
                key = f"{self.prefix}/{name}/{path}"
                uploads.append(pool.submit(self.objects.put, key, file.getvalue()))
                values = {partition_by: value or None} if partition_by else {}
                told = frame.select(statistics)
                action = _added(
                    path,
                    file.tell(),
                    values,
                    numRecords=frame.height,
                    minValues=told.min().row(0, named=True) if told.width else {},
                    maxValues=told.max().row(0, named=True) if told.width else {},
                )
                actions.append(action)
            for upload in uploads:
                upload.result()
        return actions

    def files(self, name: str, version: int | None = None) -> pl.DataFrame:
        """Return the files of a table as its log lists them, without opening one.

        Columns path, size_bytes, num_records, partition.<column>, and min.<column>, max.<column>
        where the writer kept statistics; KeyError when the table was never written.
        """
        return pl.DataFrame(self._read(name, version).get_add_actions(flatten=True))

    def delete_rows(
        self, name: str, column: str, values: Iterable[str], *, within: str = ""
    ) -> None:
        """Delete the rows whose `column` is one of `values`, in one commit if there are any.

        within: SQL that all of these rows fulfil; what it rules out is not read.
        """
        quoted = ", ".join("'" + value.replace("'", "''") + "'" for value in values)
        if quoted:
            rows = f"{column} IN ({quoted})"
            self.delta(name).delete(f"({within}) AND {rows}" if within else rows)

    def version(self, name: str) -> int:
        """Return the newest version of a table; KeyError when it was never written."""
        return int(self._read(name).version())

    def size(self, name: str) -> int:
        """Return the bytes of the table's current files."""
        files = self.files(name)
        return int(files["size_bytes"].sum()) if files.height else 0

    def restore(self, name: str, version: int) -> None:
        """Make an older version the newest one (a commit of its own)."""
        self.delta(name).restore(version)

    def delta(self, name: str, version: int | None = None) -> DeltaTable:
        """Return a table as delta-rs opens it, to write to; KeyError when it was never written."""
        return open_table(self.objects, f"{self.prefix}/{name}", version)

    def _read(self, name: str, version: int | None = None) -> DeltaTable:
        """Return a table to read; KeyError when it was never written."""
        table = newest(self.objects, f"{self.prefix}/{name}")
        if table is None:
            raise KeyError(f"The table {name} does not exist yet at {self.uri(name)}.")
        return table if version in (None, table.version()) else self.delta(name, version)

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
            table = self.delta(name)  # opened once: each opening reads the log
        except KeyError:
            frame.write_delta(
                self.uri(name),
                mode="append",
                storage_options=self.objects.options,
                delta_write_options=options,
            )
            return self.version(name)
        # A contract that has grown a column: the rows that stay have null there.
        options["schema_mode"] = "merge"
        if predicate:
            options["predicate"] = predicate
        frame.write_delta(table, mode=mode, delta_write_options=options)
        return int(table.version())


def all_tables(objects: ObjectStore) -> Iterator[tuple[TableStore, str, dict[str, int]]]:
    """Yield every Delta table of the bucket: store, name, and its objects (path below it → bytes).

    Those of other stages and releases, too.
    """
    for prefix in TABLE_PREFIXES:
        folders: dict[str, dict[str, int]] = {}
        for info in objects.list(f"{prefix}/"):
            name, _, path = info.key[len(prefix) + 1 :].partition("/")
            folders.setdefault(name, {})[path] = info.size
        for name, listed in sorted(folders.items()):
            if any(path.startswith(f"{LOG}/") for path in listed):
                yield TableStore(objects, prefix), name, listed


def _added(path: str, size: int, values: dict[str, str | None], **statistics: Any) -> AddAction:
    """Name a new file to a commit: its partition's `values`, and what the log tells of it."""
    from deltalake.transaction import AddAction

    now = int(time.time() * 1000)
    text = json.dumps(statistics)
    return AddAction(path, size, values, now, data_change=True, stats=text)


def at_instant(column: str, instant: datetime) -> str:
    """Return the SQL predicate that a datetime column is an instant, for `overwrite`.

    A plain TIMESTAMP has nanoseconds: delta-rs refuses to compare it with a file's statistics.
    """
    text = instant.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    return f"{column} = arrow_cast('{text}', 'Timestamp(Microsecond, Some(\"UTC\"))')"
