"""The drop ledger: what became of every object that was ever dropped.

An append-only Delta table: each change of state is one more row, so it is an audit trail as well;
the current state of a drop is its newest row.
"""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any

import polars as pl

from seq_ml.schema import DROP_LEDGER
from seq_ml.storage.tables import conform

if TYPE_CHECKING:
    from collections.abc import Iterable

    from seq_ml.storage.objects import ObjectInfo
    from seq_ml.storage.tables import TableStore

COUNTS = "cleaning_counts"
COUNTS_SCHEMA = pl.Schema(
    {
        "table": pl.String(),
        "partition": pl.String(),
        "source_file": pl.String(),
        "rows_read": pl.Int64(),
        "rows_kept": pl.Int64(),
        "rows_duplicate": pl.Int64(),
        "rows_quarantined": pl.Int64(),
        "cleaned_at": pl.Datetime("us", "UTC"),
    }
)
WHOLE = ""
"""The one partition of a table that has no partition column."""


class Ledger:
    """Reads and extends the drop ledger."""

    def __init__(self, tables: TableStore) -> None:
        self.tables = tables

    def current(self) -> pl.DataFrame:
        """Return the newest row of each object, by key."""
        rows = self.tables.scan_or_empty(DROP_LEDGER).collect()
        return rows.sort("recorded_at").unique("key", keep="last", maintain_order=True).sort("key")

    def record(self, rows: Iterable[dict[str, Any]]) -> None:
        """Append states; `recorded_at` is now, what a row does not name is null."""
        frame = pl.DataFrame(list(rows), schema=DROP_LEDGER.polars_schema())
        if frame.height:
            frame = frame.with_columns(recorded_at=pl.lit(datetime.now(UTC)))
            self.tables.append(DROP_LEDGER.name, conform(frame, DROP_LEDGER))

    def waiting(self, table: str) -> pl.DataFrame:
        """Return the drops with partitions to clean: new rows, or rows that were replaced."""
        return self.current().filter(_is_open() & (pl.col("table") == table))

    def unclean_partitions(self, table: str) -> list[str]:
        """Return the partitions (days, weeks) of a table that have rows not yet cleaned."""
        cleaned_at = self._cleaned_at(self.counts(table))
        found: set[str] = set()
        for partitions, recorded_at in (
            self.waiting(table).select("partitions", "recorded_at").rows()
        ):
            # with none left, only the closing of the drop itself was cut off: do its days again
            found.update(_uncovered(partitions, recorded_at, cleaned_at) or partitions)
        return sorted(found)

    def clock(self) -> datetime:
        """Return the time of the newest row: rows staged until then are there to be read."""
        newest: datetime | None = (
            self.tables.scan_or_empty(DROP_LEDGER)
            .select(pl.col("recorded_at").max())
            .collect()
            .item()
        )
        return newest or datetime.now(UTC)

    def record_cleaning(
        self, table: str, partitions: Iterable[str], counts: pl.DataFrame, read_at: datetime
    ) -> None:
        """Write down the counts of freshly cleaned partitions and close the drops they complete.

        counts: partition, source_file, rows_read, rows_kept, rows_duplicate, rows_quarantined.
        read_at: `clock()` before the partitions were read; a drop that was recorded later may
        have staged rows that the cleaning did not see, and stays open.
        """
        partitions = sorted(set(partitions))
        if not partitions:
            return
        seen = pl.DataFrame({"partition": partitions}).with_columns(
            source_file=pl.lit(""), rows_read=0, rows_kept=0, rows_duplicate=0, rows_quarantined=0
        )
        frame = pl.concat([counts, seen], how="diagonal_relaxed").with_columns(
            table=pl.lit(table), cleaned_at=pl.lit(read_at)
        )
        listed = ", ".join(f"'{p}'" for p in partitions)
        self.tables.overwrite(
            COUNTS,
            frame.select(pl.col(n).cast(t) for n, t in COUNTS_SCHEMA.items()),
            predicate=f"\"table\" = '{table}' AND partition IN ({listed})",
        )
        self._close_drops(table, set(partitions))

    def counts(self, table: str) -> pl.DataFrame:
        """Return the counts of every cleaned partition of a table (schema COUNTS_SCHEMA)."""
        if not self.tables.exists(COUNTS):
            return pl.DataFrame(schema=COUNTS_SCHEMA)
        return self.tables.scan(COUNTS).filter(pl.col("table") == table).collect()

    def _cleaned_at(self, counts: pl.DataFrame) -> dict[str, datetime]:
        seen = counts.filter(pl.col("source_file") == "")
        return dict(seen.select("partition", "cleaned_at").rows())

    def _close_drops(self, table: str, cleaned: set[str]) -> None:
        counts = self.counts(table)
        cleaned_at = self._cleaned_at(counts)
        numbers = ("rows_kept", "rows_duplicate", "rows_quarantined")
        totals = {
            row.pop("source_file"): row
            for row in counts.group_by("source_file").agg(pl.col(numbers).sum()).to_dicts()
        }
        rows = []
        for drop in (
            self.current()
            .filter((pl.col("table") == table) & (_is_open() | pl.col("rows_kept").is_not_null()))
            .to_dicts()
        ):
            if drop["rows_kept"] is None:
                done = not _uncovered(drop["partitions"], drop["recorded_at"], cleaned_at)
            else:  # a later drop may have taken over some of its rows
                done = not cleaned.isdisjoint(drop["partitions"])
            state = {**drop, **totals.get(drop["key"], dict.fromkeys(numbers, 0))}
            if drop["status"] == "ingested":
                state["status"] = "clean"
            if done and state != drop:
                rows.append(state)
        self.record(rows)


def describe(info: ObjectInfo) -> dict[str, Any]:
    """Return the ledger columns that the listing of an object gives."""
    return {"key": info.key, "etag": info.etag, "size": info.size, "landed_at": info.modified_at}


def carried(row: dict[str, Any] | None) -> dict[str, Any]:
    """Return what the next ledger row of an object keeps of its newest one.

    Until a new version is read, the rows of the earlier one stay; its partitions have to be cleaned
    again with whatever comes.
    """
    kept = row or {"table": None, "rows_read": 0, "partitions": []}
    return {name: kept[name] for name in ("table", "rows_read", "partitions")}


def _is_open() -> pl.Expr:
    settled = pl.col("status") != "started"
    return settled & pl.col("rows_kept").is_null() & (pl.col("partitions").list.len() > 0)


def _uncovered(
    partitions: Iterable[str], recorded_at: datetime, cleaned_at: dict[str, datetime]
) -> list[str]:
    """Return the partitions that were last read before a drop was recorded."""
    return [p for p in partitions if p not in cleaned_at or cleaned_at[p] < recorded_at]


def partition_names(values: Iterable[date | None]) -> list[str]:
    """Return the ledger's names of partition values."""
    return sorted({WHOLE if v is None else v.isoformat() for v in values})
