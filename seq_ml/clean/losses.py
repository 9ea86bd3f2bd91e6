"""Losses: files of which one rule set nearly all rows aside, which is a mistake more than dirt."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import polars as pl

from seq_ml.clean.rules.catalogue import describe_rule
from seq_ml.ingest.ledger import NUMBERS, Ledger
from seq_ml.schema import QUARANTINED

if TYPE_CHECKING:
    from datetime import datetime

    from seq_ml.storage.tables import TableStore

NEARLY_ALL = 0.9
LEAST_ROWS = 20
"""A file with fewer rows may lose them by chance."""
NO_MISTAKE = (
    *("no_consent", "test_account", "erased", "too_late"),  # somebody wanted them set aside
    *("bot_rate", "bot_regular"),  # a file of machines is dirt
    "misfiled",  # its file is read again by itself
)
"""Rules that may take a whole file though its mapping and all settings are right."""
PERSONAL = ("user_id", "session_id", "event_id", "query", "text")
"""Columns whose values no sentence shows."""


@dataclass(frozen=True)
class Loss:
    """How many rows a rule set aside in one place; value: what stood in the first of them."""

    place: str
    rows: int
    lost: int
    rule: str
    column: str | None
    value: str | None

    @property
    def is_nearly_all(self) -> bool:
        """Whether it looks like a wrong mapping or setting, not like dirt."""
        enough = self.rows >= LEAST_ROWS and self.lost >= NEARLY_ALL * self.rows
        return enough and self.rule not in NO_MISTAKE

    def __str__(self) -> str:
        """Say what was lost, why, and what mends it."""
        share = f"{self.lost:,} of {self.rows:,} rows ({self.lost / self.rows:.0%})"
        example = ""
        if self.column and self.value is not None and self.column not in PERSONAL:
            example = f", such as {self.column} '{self.value[:60]}'"
        said = f"{self.place}: {share} break the rule {self.rule}{example}."
        named = describe_rule(self.rule)
        return f"{said} {named.meaning} {named.advice}" if named else said


def worst(place: str, rows: int, rejected: pl.LazyFrame) -> Loss | None:
    """Return what the rule with most rows takes; None when none takes any.

    rows: how many there were. rejected: schema QUARANTINED.
    """
    leading = _by_rule(rejected).limit(1).collect().rows()
    return Loss(place, rows, *leading[0][1:]) if leading else None


def losses(tables: TableStore, *, since: datetime) -> list[Loss]:
    """Return which drops closed after `since` lost nearly all rows to one rule, largest first."""
    total = pl.sum_horizontal(NUMBERS)
    drops = (
        Ledger(tables)
        .current()
        .filter(pl.col("recorded_at") > since, pl.col("rows_quarantined") >= NEARLY_ALL * total)
        .select(source_file="key", rows=total)
    )
    if drops.is_empty():
        return []
    held = tables.scan_or_empty(QUARANTINED).filter(
        pl.col("source_file").is_in(drops["source_file"].implode())
    )
    leading = _by_rule(held).collect().unique("source_file", keep="first", maintain_order=True)
    found = [
        Loss(row.pop("source_file"), **row)
        for row in leading.join(drops, on="source_file", maintain_order="left").to_dicts()
    ]
    return [loss for loss in found if loss.is_nearly_all]


def why_nothing_is_clean(tables: TableStore) -> str:
    """Say why there is no clean event: nothing was dropped, or all of it was set aside."""
    held = tables.scan_or_empty(QUARANTINED).filter(table="events")
    rows = int(held.select(pl.len()).collect().item())
    anywhere = held.with_columns(source_file=pl.lit(""))
    leading = worst("All drops", rows, anywhere) if rows else None
    if leading is None:
        return "There are no clean events yet: land drops first (`seqline run`)."
    return f"There are no clean events: all {rows:,} rows are in quarantine. {leading}"


def _by_rule(rejected: pl.LazyFrame) -> pl.LazyFrame:
    """Count rows per file and rule, most first: source_file, lost, rule, column, value."""
    return (
        rejected.group_by("source_file", "rule", "column")
        .agg(lost=pl.len(), value=pl.col("value").sort_by("row_number", "part").first())
        .sort("lost", "source_file", "rule", descending=[True, False, False])
        .select("source_file", "lost", "rule", "column", "value")
    )
