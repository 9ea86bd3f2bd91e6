"""Clean staged events: publish what is sound, drop what was sent twice, set the rest aside.

Second stage, after ingest. One call takes one day or a range of days of staged events and decides
about every row, once: kept, duplicate, or quarantined with the rule that it broke. Nothing gets
lost: rows read = rows kept + duplicates + quarantined, for each file and day, exactly.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

import polars as pl

from seq_ml.clean.rules import BOT_RULE, bot_minutes, first_failing, normalised, row_rules
from seq_ml.schema import EVENTS, QUARANTINED, Column, Table

if TYPE_CHECKING:
    from datetime import date

    from seq_ml.clean.rules import Rule

COUNTS = Table(
    "clean_counts",
    "What cleaning did with the rows of each file and day.",
    (
        Column("event_date", "date", "Day under which the rows are filed (UTC)."),
        Column("source_file", "str", "Object key of the drop."),
        Column("rows_read", "i64", "Staged rows.", minimum=0),
        Column("rows_kept", "i64", "Rows published.", minimum=0),
        Column("rows_duplicate", "i64", "Rows dropped as re-sent.", minimum=0),
        Column("rows_quarantined", "i64", "Rows set aside with a reason.", minimum=0),
    ),
    key=("event_date", "source_file"),
    partition_by="event_date",
)

ARRIVAL = ("landed_at", "source_file", "row_number", "part")
"""Order of arrival: of rows with one event_id the first one is the event, the rest are re-sent."""

FILED = ("event_date", *ARRIVAL)

# Positions beyond the row rules in the column `outcome`; null means kept.
STAGED_ERROR, BOT, DUPLICATE = 253, 254, 255


@dataclass(frozen=True)
class Cleaned:
    """The outcome of one cleaning call.

    events: schema EVENTS, sorted by event_date, event_time, event_id; event_id is unique.
    quarantined: schema QUARANTINED, one row per rejected row, sorted by event_date, file and row.
    counts: schema COUNTS, one row per (event_date, source_file), sorted by both.
    """

    events: pl.DataFrame
    quarantined: pl.DataFrame
    counts: pl.DataFrame


def clean_events(
    staged: pl.LazyFrame | pl.DataFrame,
    *,
    first_day: date,
    future_tolerance: timedelta = timedelta(hours=1),
    bot_events_per_minute: int = 120,
) -> Cleaned:
    """Decide about every staged row; the order of the rows does not matter.

    staged: the columns of EVENTS (a value that could not be cast is null) plus source_file (str),
    row_number (i64), landed_at (datetime) and errors (list of structs rule, column, value: what
    ingest already found). event_date is the UTC day of event_time, or the day of arrival when there
    is no usable time. first_day: older events have a broken clock. bot_events_per_minute: a user
    who browses faster in some minute is a bot in that minute.

    A row is judged by ingest's own errors first, then by `row_rules` in their order; sound rows
    with an event_id that arrived before are duplicates (so a broken row never shadows its
    correction); what is left goes through the bot rule. Raises ValueError when a staged row has
    no file, row number, arrival or day, or is filed under another day than its own.
    """
    rules = row_rules(first_day=first_day, future_tolerance=future_tolerance)
    broken = pl.when(pl.col("errors").list.len() > 0).then(pl.lit(STAGED_ERROR, pl.UInt8))
    frame = (
        staged.lazy()
        .with_columns(normalised())
        .with_columns(outcome=pl.coalesce(broken, first_failing(rules)))
        .with_row_index("position")
        .collect()
    )
    _check_filing(frame)
    frame = _mark(frame, DUPLICATE, _sent_again(_undecided(frame)))
    bots = bot_minutes(_undecided(frame), limit=bot_events_per_minute)
    frame = _mark(frame, BOT, bots)

    counts = _counts(frame)
    quarantined = _quarantined(frame, rules, bots.select("position", "rate"))
    events = (
        frame.lazy()
        .filter(pl.col("outcome").is_null())
        .select(pl.col(name).cast(dtype) for name, dtype in EVENTS.polars_schema().items())
        .sort("event_date", "event_time", "event_id")
        .collect()
    )
    cleaned = Cleaned(events, quarantined, counts)
    _assert_nothing_lost(cleaned, frame.height)
    return cleaned


def _check_filing(frame: pl.DataFrame) -> None:
    for name in FILED:
        if frame[name].null_count():
            raise ValueError(f"Staged events without {name}: ingest must give every row one.")
    astray = frame.filter(
        pl.col("outcome").is_null() & (pl.col("event_time").dt.date() != pl.col("event_date"))
    )
    if astray.height:
        row = astray.select(*FILED, "event_time").row(0, named=True)
        raise ValueError(
            f"{astray.height} staged events are filed under another day than their own, first "
            f"{row['source_file']} row {row['row_number']}: event_date {row['event_date']}, "
            f"event_time {row['event_time']}."
        )


def _undecided(frame: pl.DataFrame) -> pl.DataFrame:
    return (
        frame.lazy()
        .filter(pl.col("outcome").is_null())
        .select("position", "event_id", "user_id", "event_type", "event_time", *ARRIVAL)
        .collect()
    )


def _sent_again(rows: pl.DataFrame) -> pl.DataFrame:
    """Return the rows whose event_id arrived before."""
    # Most days have no duplicate: only the rows in question are sorted.
    return (
        rows.filter(pl.col("event_id").is_duplicated())
        .sort("event_id", *ARRIVAL)
        .filter(pl.col("event_id").is_first_distinct().not_())
    )


def _mark(frame: pl.DataFrame, outcome: int, rows: pl.DataFrame) -> pl.DataFrame:
    if rows.is_empty():
        return frame
    hit = pl.col("position").is_in(rows["position"].implode())
    return frame.with_columns(
        outcome=pl.when(hit).then(pl.lit(outcome, pl.UInt8)).otherwise("outcome")
    )


def _quarantined(frame: pl.DataFrame, rules: list[Rule], bots: pl.DataFrame) -> pl.DataFrame:
    rejected = frame.filter(pl.col("outcome") != DUPLICATE).join(
        bots, on="position", how="left", maintain_order="left"
    )
    staged_error = pl.col("errors").list.first()
    outcome = pl.col("outcome")

    def reason(field: str, per_rule: list[pl.Expr], bot: pl.Expr) -> pl.Expr:
        chosen = [
            pl.when(outcome == STAGED_ERROR).then(staged_error.struct.field(field)),
            pl.when(outcome == BOT).then(bot),
            *(pl.when(outcome == n).then(expr) for n, expr in enumerate(per_rule)),
        ]
        return pl.coalesce(chosen)

    return (
        rejected.select(
            "source_file",
            "row_number",
            "part",
            "event_date",
            table=pl.lit("events"),
            rule=reason("rule", [pl.lit(rule.name) for rule in rules], pl.lit(BOT_RULE)),
            column=reason("column", [pl.lit(rule.column) for rule in rules], pl.lit("event_time")),
            value=reason(
                "value", [rule.value for rule in rules], pl.format("{} events in a minute", "rate")
            ),
        )
        .select(pl.col(name).cast(dtype) for name, dtype in QUARANTINED.polars_schema().items())
        .sort("event_date", "source_file", "row_number", "part")
    )


def _counts(frame: pl.DataFrame) -> pl.DataFrame:
    outcome = pl.col("outcome")
    counts = (
        frame.lazy()
        .group_by("event_date", "source_file")
        .agg(
            rows_read=pl.len(),
            rows_kept=outcome.is_null().sum(),
            rows_duplicate=(outcome == DUPLICATE).sum(),
            rows_quarantined=(outcome != DUPLICATE).sum(),
        )
    )
    return (
        counts.select(pl.col(name).cast(dtype) for name, dtype in COUNTS.polars_schema().items())
        .sort("event_date", "source_file")
        .collect()
    )


def _assert_nothing_lost(cleaned: Cleaned, rows_read: int) -> None:
    counts = cleaned.counts
    parts = counts["rows_kept"] + counts["rows_duplicate"] + counts["rows_quarantined"]
    assert (counts["rows_read"] == parts).all(), "rows read ≠ kept + duplicates + quarantined"
    assert counts["rows_read"].sum() == rows_read, "counts do not cover the rows read"
    assert counts["rows_kept"].sum() == cleaned.events.height, "counts ≠ rows published"
    assert counts["rows_quarantined"].sum() == cleaned.quarantined.height, "counts ≠ quarantine"
