"""Profile the days of a cleaning call: a few sums per day, with which later days are compared.

DuckDB computes them in two scans of a few columns, in bounded memory whatever the values are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from seq_ml.clean.expectations.views import open_folder
from seq_ml.schema import DAY_PROFILES, EVENTS

if TYPE_CHECKING:
    from pathlib import Path

LISTED = ("channel", "currency", "store_id")
"""Columns whose values are counted, beside event_type, where a day has few of them."""

MAX_VALUES = 200
"""A column with more values than this on a day is no list of kinds: none of them is counted."""

MIN_ROWS = 10
"""Rarer values are not written down: they tell nothing about a day, but maybe about a person."""

_NULLABLE = [column.name for column in EVENTS.columns if column.nullable]


def profile_days(folder: Path) -> pl.DataFrame:
    """Profile the published rows of each day; return schema DAY_PROFILES, sorted by its key.

    folder: what cleaning wrote, see `validate_days`. Per day: rows, nulls of each nullable column
    and prices by event type; rows by channel, currency and store where the day has at most
    MAX_VALUES of them (in at least MIN_ROWS rows). At most about a thousand rows a day; a day
    without a published row has none. About 0.25 µs of CPU per event.
    """
    # A sum of doubles depends on the order of the threads: beyond 6 decimals it is not the same.
    by_type = f"""
        SELECT event_date, event_type, count(*) AS rows,
               {", ".join(f'count(*) - count("{name}") AS "{name}"' for name in _NULLABLE)},
               count(*) FILTER (unit_price > 0) AS priced,
               round(fsum(CASE WHEN unit_price > 0 THEN ln(unit_price) END), 6) AS log_price
        FROM clean_events WHERE event_date IS NOT NULL AND event_type IS NOT NULL GROUP BY ALL"""  # noqa: S608
    # The number of values is estimated first: counting millions of them would take the memory.
    kinds = f"""
        SELECT event_date,
               {", ".join(f'approx_count_distinct("{name}") AS "{name}"' for name in LISTED)}
        FROM clean_events WHERE event_date IS NOT NULL GROUP BY ALL"""  # noqa: S608
    with open_folder(folder) as database:
        types: pl.DataFrame = database.execute(by_type).pl()
        estimated = database.execute(kinds).pl()
        parts = [_rows(types, "event_type")]
        for name in LISTED:
            # Estimates are off by some per cent; the exact bound follows.
            days = estimated.filter(pl.col(name).is_between(1, 2 * MAX_VALUES))["event_date"]
            if days.is_empty():
                continue
            listed = ", ".join(f"DATE '{day}'" for day in days)
            of_values = f"""
                SELECT event_date, "{name}", count(*) AS rows FROM clean_events
                WHERE "{name}" IS NOT NULL AND event_date IN ({listed}) GROUP BY ALL"""  # noqa: S608
            values = database.execute(of_values).pl()
            few = pl.len().over("event_date") <= MAX_VALUES
            values = values.filter(few).filter(pl.col("rows") >= MIN_ROWS)
            parts.append(_rows(values, name))
    nulls = types.unpivot(
        _NULLABLE, index=["event_date", "event_type"], variable_name="column", value_name="number"
    ).with_columns(metric=pl.lit("nulls"), value="event_type")
    prices = types.unpivot(
        ["priced", "log_price"],
        index=["event_date", "event_type"],
        variable_name="metric",
        value_name="number",
    ).with_columns(column=pl.lit("unit_price"), value="event_type")
    columns = [pl.col(name).cast(dtype) for name, dtype in DAY_PROFILES.polars_schema().items()]
    profile = pl.concat([part.select(columns) for part in (*parts, nulls, prices)])
    return profile.drop_nulls("number").sort(DAY_PROFILES.key)


def _rows(counts: pl.DataFrame, column: str) -> pl.DataFrame:
    return counts.with_columns(
        metric=pl.lit("rows"), column=pl.lit(column), value=pl.col(column), number=pl.col("rows")
    )
