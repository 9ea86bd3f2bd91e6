"""Show the folder that cleaning wrote to DuckDB: one view per table, every instant in UTC.

Validation and profiles read the same views, so that both see exactly the rows to be published.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import polars as pl

from seq_ml.schema import EVENTS, QUARANTINED
from seq_ml.schema.stages import COUNTS

if TYPE_CHECKING:
    from pathlib import Path

DUCKDB = {"memory_limit": "400MB", "threads": 2}
"""DuckDB spills beyond its limit; with Great Expectations' 300 MB a process stays below 1 GB."""

WRITTEN = (EVENTS, QUARANTINED, COUNTS)


def open_folder(folder: Path, database: Path | None = None) -> Any:
    """Return a DuckDB connection with a view for each table of `WRITTEN`.

    folder: `clean_events/*.parquet`, `quarantined_events/*.parquet` and `clean_counts/*.parquet`;
    any number of files each, also none. The files must carry no statistics: those leave NaN out,
    and DuckDB would conclude that all values are fine. database: where views and spilled data live;
    None keeps the views in memory.
    """
    import duckdb

    connection = duckdb.connect(str(database or ":memory:"), config=DUCKDB)
    for table in WRITTEN:
        if files := [str(file) for file in sorted((folder / table.name).glob("*.parquet"))]:
            rows = connection.read_parquet(files)
        else:
            nothing = pl.DataFrame(schema=table.polars_schema())  # noqa: F841 - read by its name
            connection.execute(f"CREATE TABLE {table.name}_none AS FROM nothing")
            rows = connection.table(f"{table.name}_none")
        # An instant with a zone would be shown in the zone of the machine: give up the zone, it is
        # UTC. (`AT TIME ZONE` means the same and costs ten times as much.)
        columns = [
            f'make_timestamp(epoch_us("{name}")) AS "{name}"'
            if str(kind) == "TIMESTAMP WITH TIME ZONE"
            else f'"{name}"'
            for name, kind in zip(rows.columns, rows.types, strict=True)
        ]
        rows.project(", ".join(columns)).create_view(table.name)
    return connection
