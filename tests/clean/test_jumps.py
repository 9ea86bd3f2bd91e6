"""Alerts: a drop's quarantined share against what its source usually has."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import polars as pl

from seq_ml.clean.jumps import quarantine_jumps
from seq_ml.schema import DROP_LEDGER

START = datetime(2024, 6, 1, tzinfo=UTC)


def ledger(*drops: tuple[str, str, int, int]) -> pl.DataFrame:
    """Current rows of drops (source, table, kept, quarantined), landing hour by hour."""
    rows = [
        {
            "key": f"drops/{source}/{number}",
            "source": source,
            "table": table,
            "landed_at": START + timedelta(hours=number),
            "recorded_at": START + timedelta(hours=number, minutes=1),
            "rows_kept": kept,
            "rows_duplicate": 0,
            "rows_quarantined": quarantined,
        }
        for number, (source, table, kept, quarantined) in enumerate(drops)
    ]
    return pl.DataFrame(rows, schema=DROP_LEDGER.polars_schema())


def jumps(drops: pl.DataFrame, since: datetime = START) -> list[tuple[str, float]]:
    return quarantine_jumps(drops, since=since).select("key", "share").rows()


def test_five_percent_are_tolerated_whatever_is_usual():
    clean = [("a", "events", 100, 0)] * 5
    assert jumps(ledger(*clean, ("a", "events", 95, 5))) == []
    assert jumps(ledger(*clean, ("a", "events", 94, 6))) == [("drops/a/5", 0.06)]
    assert jumps(ledger(("a", "events", 94, 6))) == [("drops/a/0", 0.06)]  # nothing is usual yet


def test_a_source_with_many_bad_rows_is_told_at_three_times_its_median():
    usual = [("a", "events", 90, 10), ("a", "events", 50, 50), ("a", "events", 90, 10)]
    since = START + timedelta(hours=3)
    assert jumps(ledger(*usual, ("a", "events", 70, 30)), since) == []
    assert jumps(ledger(*usual, ("a", "events", 69, 31)), since) == [("drops/a/3", 0.31)]
    # another source, and another table of the same one, have a history of their own
    others = ledger(*usual, ("b", "events", 80, 20), ("a", "items", 70, 30))
    assert jumps(others, since) == [("drops/a/4", 0.3), ("drops/b/3", 0.2)]


def test_only_what_was_closed_since_then_and_has_rows_is_told():
    drops = ledger(("a", "events", 0, 10), ("a", "events", 0, 0), ("b", "events", 0, 10))
    assert jumps(drops) == [("drops/a/0", 1.0), ("drops/b/2", 1.0)]
    assert jumps(drops, START + timedelta(hours=1)) == [("drops/b/2", 1.0)]
    still_open = drops.with_columns(pl.lit(None, dtype=pl.Int64).alias("rows_quarantined"))
    assert jumps(still_open) == []
