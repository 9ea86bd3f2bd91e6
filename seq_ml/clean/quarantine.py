"""Look into the quarantine: how much each rule holds back, of which files, with examples."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from seq_ml.schema import QUARANTINED

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import date

    from seq_ml.storage.tables import TableStore

REASON = ("table", "rule", "column")


def quarantine_by_rule(
    tables: TableStore, *, table: str | None = None, rule: str | None = None
) -> pl.DataFrame:
    """Count rows per table, rule and column; most rows first.

    table: an input table, like events. rule: a rule's name; `type` stands for all of `type:…`.
    Columns: table, rule, column, rows, files (both u32), first_day, last_day (date).
    """
    return (
        _rows(tables, table, rule)
        .group_by(REASON)
        .agg(
            rows=pl.len(),
            files=pl.col("source_file").n_unique(),
            first_day=pl.col("event_date").min(),
            last_day=pl.col("event_date").max(),
        )
        .sort("rows", *REASON, descending=[True, False, False, False])
        .collect(engine="streaming")
    )


def quarantine_by_file(
    tables: TableStore, *, table: str | None = None, rule: str | None = None, limit: int = 3
) -> pl.DataFrame:
    """Count rows per reason and file, the `limit` files with most rows of each reason.

    Columns: table, rule, column, source_file, rows (u32), row_number (i64: the first such row) and
    value (str: what stood there). Sorted by reason, most rows first.
    """
    first = ["row_number", "part"]
    return (
        _rows(tables, table, rule)
        .group_by(*REASON, "source_file")
        .agg(
            rows=pl.len(),
            row_number=pl.col("row_number").min(),
            value=pl.col("value").sort_by(first).first(),
        )
        .sort(*REASON, "rows", "source_file", descending=[False, False, False, True, False])
        .group_by(REASON, maintain_order=True)
        .head(limit)
        .collect(engine="streaming")
        .sort(*REASON, "rows", "source_file", descending=[False, False, False, True, False])
    )


def undeclared_behaviours(
    tables: TableStore, days: Sequence[date] | None = None
) -> list[tuple[str, int]]:
    """Return the behaviours that have no role, each with its rows; most rows first.

    days: of these alone. A behaviour that no mapping names any more is among them as soon as its
    days are cleaned anew.
    """
    rows = _rows(tables, "events", "behaviour")
    if days is not None:
        rows = rows.filter(pl.col("event_date").is_in(list(days)))
    names = rows.group_by("value").agg(rows=pl.len())
    return names.sort("rows", "value", descending=[True, False]).collect().rows()


def _rows(tables: TableStore, table: str | None, rule: str | None) -> pl.LazyFrame:
    rows = tables.scan_or_empty(QUARANTINED)
    if table is not None:
        rows = rows.filter(pl.col("table") == table)
    if rule is not None:
        name = pl.col("rule")
        rows = rows.filter((name == rule) | name.str.starts_with(f"{rule}:"))
    return rows
