"""Publish the reference tables: catalogue, campaigns, promotion plan, stock, subscriptions.

One row per key: of several, the one that landed last counts, the others are duplicates. A missing
value is filled where the contract says with what. Rows that miss a required value or leave a range
are quarantined with their reason, like events.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING

import polars as pl

from seq_ml.clean.rules.row_rules import first_failing, reference_rules
from seq_ml.ingest.ledger import NUMBERS, WHOLE, Ledger
from seq_ml.schema import INPUT_TABLES, QUARANTINED, polars_dtype
from seq_ml.schema.staged import staged_name
from seq_ml.storage.contracts import conform
from seq_ml.storage.portions import portions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from seq_ml.schema import Table
    from seq_ml.storage.tables import TableStore

ROWS_AT_ONCE = 1_500_000


@dataclass(frozen=True)
class ReferenceResult:
    """What one publication changed."""

    partitions: int
    rows_kept: int
    rows_duplicate: int
    rows_quarantined: int


def publish_reference(tables: TableStore, table: str) -> ReferenceResult:
    """Rebuild the partitions of `table` (a key of INPUT_TABLES) that have new drops.

    Each partition appears in one atomic commit; nothing happens when nothing is new, except that
    the first call creates the (empty) table.
    """
    contract = INPUT_TABLES[table]
    ledger = Ledger(tables)
    read_at = ledger.clock()
    waiting = ledger.unclean_partitions(table)
    if not tables.exists(contract.name):
        empty = pl.DataFrame(schema=contract.polars_schema())
        tables.append(contract.name, empty, partition_by=contract.partition_by)
    if not waiting or not tables.exists(staged_name(table)):
        return ReferenceResult(0, 0, 0, 0)
    staged = tables.scan_staged(table)
    name = _partition(contract)
    sizes = dict(staged.group_by(name.alias("name")).len().collect().rows())
    counts = []
    for part in portions(waiting, lambda partition: sizes.get(partition, 0), ROWS_AT_ONCE):
        kept, of_part = clean_reference(staged.filter(name.is_in(part)).collect(), contract)
        _publish(tables, contract, part, conform(kept, contract))
        counts.append(of_part)
    tables.overwrite(
        QUARANTINED.name,
        conform(quarantined_reference(staged, table, contract), QUARANTINED),
        predicate=f"\"table\" = '{table}'",
        partition_by="event_date",
    )
    by_file = pl.concat(counts)
    ledger.record_cleaning(table, waiting, by_file, read_at)
    return ReferenceResult(len(waiting), *(int(by_file[column].sum()) for column in NUMBERS))


def _partition(contract: Table) -> pl.Expr:
    """Return the ledger's name of the partition that a row lies in."""
    if contract.partition_by is None:
        return pl.lit(WHOLE)
    return pl.col(contract.partition_by).cast(pl.String).fill_null(WHOLE)


def _filled(staged: pl.LazyFrame, contract: Table) -> pl.LazyFrame:
    """Put the contract's value where none is given; the row of an unreadable one stays bad."""
    return staged.with_columns(
        pl.col(column.name).fill_null(pl.lit(column.missing).cast(polars_dtype(column.dtype)))
        for column in contract.columns
        if column.if_missing not in {"keep", "reject", "derive"}
    )


def _is_bad(contract: Table) -> pl.Expr:
    failing = first_failing(reference_rules(contract)).is_not_null()
    return (pl.col("errors").list.len() > 0) | failing


def clean_reference(staged: pl.DataFrame, contract: Table) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return the rows to publish, and the counts per (partition, file)."""
    frame = _filled(staged.lazy(), contract).collect().with_columns(bad=_is_bad(contract))
    kept = _newest(frame.filter(~pl.col("bad")) if frame["bad"].any() else frame, contract)
    keys = [*filter(None, [contract.partition_by]), "source_file"]
    counts = (
        frame.group_by(keys)
        .agg(rows_read=pl.len().cast(pl.Int64), rows_quarantined=pl.col("bad").sum().cast(pl.Int64))
        .join(
            kept.group_by(keys).agg(rows_kept=pl.len().cast(pl.Int64)),
            on=keys,
            how="left",
            nulls_equal=True,
        )
        .select(
            "source_file",
            "rows_read",
            "rows_quarantined",
            pl.col("rows_kept").fill_null(0),
            partition=_partition(contract),
        )
        .with_columns(
            rows_duplicate=pl.col("rows_read") - pl.col("rows_kept") - pl.col("rows_quarantined")
        )
        .sort("partition", "source_file")
    )
    return kept.select(contract.names), counts


def _newest(rows: pl.DataFrame, contract: Table) -> pl.DataFrame:
    """Return the row of each key that landed last, all in the order in which they landed."""
    arrival = ["landed_at", "source_file", "row_number", "part"]
    # Nearly all keys come once: only the others are looked at closely.
    again = rows.select(contract.key).hash_rows().is_duplicated()
    if again.any():
        numbered = rows.select(*arrival, *contract.key, n=pl.int_range(pl.len()))
        several = numbered.filter(again).sort(arrival)
        newest = several.unique(contract.key, keep="last", maintain_order=True)["n"]
        rows = rows.filter(~again.scatter(newest, values=False))
    return rows.sort(arrival)


def quarantined_reference(staged: pl.LazyFrame, table: str, contract: Table) -> pl.DataFrame:
    """Return every bad row of the whole table with its first reason (schema QUARANTINED)."""
    rules = reference_rules(contract)
    first_error = pl.col("errors").list.first()
    of_ingest = pl.col("errors").list.len() > 0

    def reason(field: str, per_rule: list[pl.Expr]) -> pl.Expr:
        first = pl.coalesce(
            pl.when(rule.failed).then(value) for rule, value in zip(rules, per_rule, strict=True)
        )
        return pl.when(of_ingest).then(first_error.struct.field(field)).otherwise(first)

    return (
        _filled(staged, contract)
        .filter(_is_bad(contract))
        .select(
            table=pl.lit(table),
            source_file="source_file",
            row_number="row_number",
            part="part",
            rule=reason("rule", [pl.lit(rule.name) for rule in rules]),
            column=reason("column", [pl.lit(rule.column) for rule in rules]),
            value=reason("value", [rule.value for rule in rules]),
            event_date=pl.col("landed_at").dt.date(),
        )
        .sort("source_file", "row_number", "part")
        .collect(engine="streaming")
    )


def _publish(
    tables: TableStore, contract: Table, partitions: Sequence[str], kept: pl.DataFrame
) -> None:
    if contract.partition_by is None:
        tables.overwrite(contract.name, kept)
        return
    days = [date.fromisoformat(partition) for partition in partitions if partition != WHOLE]
    frames = kept.partition_by(contract.partition_by, maintain_order=True)
    tables.overwrite_files(contract, frames, days)
