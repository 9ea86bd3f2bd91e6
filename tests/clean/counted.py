"""What cleaning did, in numbers, and clicks to clean."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import polars as pl

if TYPE_CHECKING:
    from seq_ml.clean.clean import Cleaned


def counted(cleaned: Cleaned) -> dict[tuple[str, str], int]:
    """How often each rule decided, by rule and column, over all days."""
    per_rule = cleaned.rules.group_by("rule", "column").agg(pl.col("rows").sum())
    return {(rule, column): rows for rule, column, rows in per_rule.rows()}


def totals(cleaned: Cleaned) -> tuple[int, ...]:
    """Rows read, kept, duplicate, quarantined."""
    return cleaned.counts.select(pl.col("^rows_.*$").sum()).row(0)


def clicks(*seconds: float, **change: object) -> list[dict[str, object]]:
    """Equal views at these seconds."""
    noon = datetime(2017, 3, 4, 12, tzinfo=UTC)
    return [
        {"event_type": "view", "event_time": noon + timedelta(seconds=s), **change} for s in seconds
    ]
