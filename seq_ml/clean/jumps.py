"""Jumps: drops of which far more went to quarantine than their source usually has."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from seq_ml.ingest.ledger import NUMBERS, Ledger
from seq_ml.schema import QUARANTINED

if TYPE_CHECKING:
    from datetime import datetime

    from seq_ml.storage.tables import TableStore

LEAST_SHARE = 0.05
"""A smaller share of quarantined rows is never worth an alert."""
TIMES_USUAL = 3
TRAILING_DROPS = 20


def quarantine_jumps(drops: pl.DataFrame, *, since: datetime) -> pl.DataFrame:
    """Return the drops closed after `since` whose quarantined share jumped.

    drops: the ledger's current rows. A share jumps when it is above 5 % and above three times the
    median of the 20 drops of the same source and table that landed before. Returns key, source,
    table, share, usual (null for the first drop), rows_quarantined; the largest share first.
    """
    group = ("source", "table")
    rows = pl.sum_horizontal(NUMBERS)
    return (
        drops.filter(rows > 0)
        .sort("landed_at", "key")
        .with_columns(share=pl.col("rows_quarantined") / rows)
        .with_columns(
            usual=pl.col("share").shift(1).rolling_median(TRAILING_DROPS, min_samples=1).over(group)
        )
        .filter(pl.col("recorded_at") > since)
        .filter(pl.col("share") > LEAST_SHARE)
        .filter(pl.col("share") > TIMES_USUAL * pl.col("usual").fill_null(0))
        .select("key", *group, "share", "usual", "rows_quarantined")
        .sort("share", "key", descending=[True, False])
    )


def explained_jumps(tables: TableStore, *, table: str, since: datetime) -> pl.DataFrame:
    """Return `quarantine_jumps` of one table, with the `rule` that set aside most of the rows."""
    jumps = quarantine_jumps(Ledger(tables).current().filter(table=table), since=since)
    rules = (
        tables.scan_or_empty(QUARANTINED)
        .filter(pl.col("table") == table, pl.col("source_file").is_in(jumps["key"].implode()))
        .group_by(key="source_file", rule="rule")
        .len()
        .sort("len", "rule", descending=[True, False])
        .unique("key", keep="first", maintain_order=True)
        .select("key", "rule")
        .collect()
    )
    return jumps.join(rules, on="key", how="left", maintain_order="left")
