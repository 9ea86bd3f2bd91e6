"""Duplicates: the same event sent twice, and the same click made twice.

Both are judged within one UTC day, so a day's result does not depend on which days are cleaned
together. No function depends on the order of the rows that it is given.
"""

from __future__ import annotations

from datetime import timedelta

import polars as pl

from seq_ml.schema import EVENTS

ARRIVAL = ("landed_at", "source_file", "row_number", "part")
"""Order of arrival: of rows with one event_id the first one is the event, the rest are re-sent."""

ROW = ("source_file", "row_number", "part")
"""What names one staged row."""

CONTENT = tuple(
    name for name in EVENTS.names if name not in {"event_id", "event_time", "event_date"}
)
"""What two clicks have in common that are the same one."""


def id_hash() -> pl.Expr:
    """Hash of (event_id, event_date), u64: rows of different hash have different identities.

    Only comparable within one process.
    """
    day = pl.col("event_date").cast(pl.Int32).cast(pl.Int64).reinterpret(signed=False)
    return pl.col("event_id").hash() ^ day.hash()


def identities(rows: pl.DataFrame) -> pl.DataFrame:
    """Decide what the rows that share an event_id on a day are: one event sent twice, or several.

    rows: sound rows with event_id, event_date, the columns of ARRIVAL and whatever the caller
    needs; of every (event_id, event_date) either all rows or none. Returns them in another order,
    with the final `event_id` and `duplicate` (bool).

    The source's own id (`<source>:<id>`) says that it is the same event. A derived id only says
    that the content is the same: within one file that is a genuine repeat, so the n-th later one
    gets the id `<id>-<n>`; the same file sent again makes the same ids, and its rows go.
    """
    identity = ["event_id", "event_date"]
    derived = pl.col("event_id").str.contains(":", literal=True).not_()
    nth = pl.int_range(pl.len()).over(*identity, "source_file")
    return (
        rows.sort(*ARRIVAL)
        .with_columns(
            event_id=pl.when(derived & (nth > 0))
            .then(pl.concat_str("event_id", pl.lit("-"), nth.cast(pl.String)))
            .otherwise("event_id")
        )
        .with_columns(duplicate=pl.struct(identity).is_first_distinct().not_())
    )


def repeated_clicks(rows: pl.DataFrame, *, window_seconds: float) -> pl.DataFrame:
    """Return those of `rows` that repeat an equal one closer than the window before them.

    rows: browsing events with all columns of EVENTS (event_id is unique per day) and whatever the
    caller needs. Equal are events that agree in all of CONTENT, without a value included. Measured
    is the distance to the last one that is kept, so that an endless row of clicks keeps one per
    window; of two at the same instant the one with the smaller event_id is kept.
    """
    content = pl.struct("event_date", *CONTENT)
    rows = rows.filter(content.hash().is_duplicated()).sort(
        "event_date", *CONTENT, "event_time", "event_id"
    )
    if rows.is_empty():
        return rows
    new = rows.select(
        pl.any_horizontal(
            pl.col(name).ne_missing(pl.col(name).shift()) for name in ("event_date", *CONTENT)
        )
    ).to_series()
    window = timedelta(seconds=window_seconds) // timedelta(microseconds=1)
    kept = 0
    repeated = []
    # each decision needs the one before it
    for is_new, time in zip(new, rows["event_time"].cast(pl.Int64), strict=True):
        again = not is_new and time - kept < window
        repeated.append(again)
        if not again:
            kept = time
    return rows.filter(pl.Series(repeated, dtype=pl.Boolean))
