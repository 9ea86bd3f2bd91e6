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
        """Append states; `recorded_at` is now."""
        frame = pl.DataFrame(list(rows), schema_overrides=DROP_LEDGER.polars_schema())
        if frame.height:
            for name in DROP_LEDGER.names:
                if name not in frame.columns:
                    frame = frame.with_columns(pl.lit(None).alias(name))
            frame = frame.with_columns(recorded_at=pl.lit(datetime.now(UTC)))
            self.tables.append(DROP_LEDGER.name, conform(frame, DROP_LEDGER))

    def unclean_partitions(self, table: str) -> list[str]:
        """Return the partitions (days, weeks) of a table that have rows not yet cleaned."""
        waiting = self.current().filter(
            (pl.col("status") == "ingested") & (pl.col("table") == table)
        )
        return sorted(set(waiting["partitions"].explode().drop_nulls()))

    def record_cleaning(
        self, table: str, partitions: Iterable[str], counts: pl.DataFrame, as_read: pl.DataFrame
    ) -> None:
        """Write down the counts of freshly cleaned partitions and close the drops they complete.

        counts: partition, source_file, rows_read, rows_kept, rows_duplicate, rows_quarantined.
        as_read: the ledger as it was when the partitions were read; a drop that arrived later is
        not closed.
        """
        partitions = sorted(set(partitions))
        now = datetime.now(UTC)
        seen = pl.DataFrame({"partition": partitions}).with_columns(
            source_file=pl.lit(""), rows_read=0, rows_kept=0, rows_duplicate=0, rows_quarantined=0
        )
        frame = pl.concat([counts, seen], how="diagonal_relaxed").with_columns(
            table=pl.lit(table), cleaned_at=pl.lit(now)
        )
        listed = ", ".join(f"'{p}'" for p in partitions)
        self.tables.overwrite(
            COUNTS,
            frame.select(pl.col(n).cast(t) for n, t in COUNTS_SCHEMA.items()),
            predicate=f"\"table\" = '{table}' AND partition IN ({listed})",
        )
        self._close_drops(table, set(partitions), as_read)

    def counts(self, table: str) -> pl.DataFrame:
        """Return the counts of every cleaned partition of a table (schema COUNTS_SCHEMA)."""
        if not self.tables.exists(COUNTS):
            return pl.DataFrame(schema=COUNTS_SCHEMA)
        return self.tables.scan(COUNTS).filter(pl.col("table") == table).collect()

    def _close_drops(self, table: str, cleaned: set[str], as_read: pl.DataFrame) -> None:
        counts = self.counts(table)
        cleaned_at = dict(
            counts.filter(pl.col("source_file") == "").select("partition", "cleaned_at").rows()
        )
        numbers = ("rows_read", "rows_kept", "rows_duplicate", "rows_quarantined")
        totals = {
            row["source_file"]: row
            for row in counts.group_by("source_file").agg(pl.col(numbers).sum()).to_dicts()
        }
        rows = []
        for drop in as_read.filter(
            (pl.col("table") == table) & pl.col("status").is_in(["ingested", "clean"])
        ).to_dicts():
            touched = set(drop["partitions"])
            if drop["status"] == "ingested":
                done = all(
                    p in cleaned_at and cleaned_at[p] >= drop["recorded_at"] for p in touched
                )
            else:  # a later drop may have taken over some of its rows
                done = bool(touched & cleaned)
            if not done:
                continue
            total = totals.get(drop["key"], dict.fromkeys(numbers, 0))
            state = {
                "status": "clean",
                "rows_kept": total["rows_kept"],
                "rows_duplicate": total["rows_duplicate"],
                "rows_quarantined": total["rows_quarantined"],
            }
            if any(drop[name] != value for name, value in state.items()):
                rows.append({**drop, **state})
        self.record(rows)


def describe(info: ObjectInfo) -> dict[str, Any]:
    """Return the ledger columns that the listing of an object gives."""
    return {
        "key": info.key,
        "etag": info.etag,
        "size": info.size,
        "landed_at": info.modified_at,
        "rows_read": 0,
        "partitions": [],
    }


def partition_names(values: Iterable[date | None]) -> list[str]:
    """Return the ledger's names of partition values."""
    return sorted({WHOLE if v is None else v.isoformat() for v in values})
