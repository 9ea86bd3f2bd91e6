"""Publish a table: rows as of an instant, stamped, checked, in one commit.

A table holds one snapshot per `as_of`; publishing the same instant again replaces its snapshot.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import polars as pl

from seq_ml.storage.contracts import SchemaError, check_key, conform
from seq_ml.storage.tables import at_instant
from seq_ml.tasks.registered import filled_by

if TYPE_CHECKING:
    from collections.abc import Iterable

    from seq_ml.schema import Table
    from seq_ml.storage.tables import TableStore
    from seq_ml.tasks.data import TaskData

NULL_WHY = re.compile(r"\b[Nn]ull (without (?:prices|items)\b[^.;]*)")
"""How a contract says that a column lives by what the events themselves carry.

What an optional file would add (stock, costs, campaigns), or an encoder, no table lacks: a word
that is said of every table says nothing of any.
"""


def empty_columns(rows: pl.LazyFrame, table: Table) -> str:
    """Name the columns that no event of the logs could fill, with what the contract says of it."""
    there = rows.collect_schema().names()
    found = {column.name: NULL_WHY.search(column.description) for column in table.columns}
    whys = {name: why[1] for name, why in found.items() if why}
    asked = [name for name in whys if name in there]
    filled = rows.select(pl.col(asked).is_not_null().any()).collect(engine="streaming")
    empty: dict[str, list[str]] = {}
    for name, why in whys.items():
        if name not in asked or not filled[name].item():
            empty.setdefault(why, []).append(name)
    return "; ".join(f"{', '.join(names)} (null {why})" for why, names in empty.items())


def lacking(rows: pl.LazyFrame, table: Table, data: TaskData, as_of: datetime) -> dict[str, int]:
    """Count what a table's rows lack, by task and name of what it is; all 0 where all is there.

    A task without a row refused, and says why; it lacks nobody.
    """
    return {
        f"{entry.name}_{what}": count
        for entry in filled_by(table.name)
        if entry.of(rows).head(1).collect().height
        for what, count in entry.lacking(rows, data, as_of).items()
    }


def stamp(
    rows: pl.DataFrame, as_of: datetime, version: str, source: str, run_id: str
) -> pl.DataFrame:
    """Add the stamp columns; a `source` that the task already set by row stays."""
    columns = {
        "as_of": pl.lit(as_of).cast(pl.Datetime("us", "UTC")),
        "model_version": pl.lit(version),
        "run_id": pl.lit(run_id),
        "created_at": pl.lit(datetime.now(UTC)).cast(pl.Datetime("us", "UTC")),
    }
    if "source" not in rows.columns:
        columns["source"] = pl.lit(source)
    return rows.with_columns(**columns)


def checked(rows: pl.DataFrame, table: Table) -> pl.DataFrame:
    """Return rows as the contract wants them, sorted by the key; SchemaError if they do not."""
    try:
        rows = conform(rows, table)
        check_key(rows, table)
    except pl.exceptions.PolarsError as error:
        raise SchemaError(f"{table.name}: {error}") from error
    return rows.sort(table.key)


def publish_snapshot(
    tables: TableStore, table: Table, parts: Iterable[pl.LazyFrame], as_of: datetime
) -> int:
    """Replace the snapshot of `as_of` in one commit; return the table's version.

    parts: its rows as `checked` returns them, one part in memory at a time; no two share a key.
    """
    frames = (part.collect() for part in parts)
    return tables.overwrite_rows(table, frames, predicate=at_instant("as_of", as_of))
