"""Bots and scrapers: users who browse faster, or more evenly, than a person can.

Both rules see sound browsing events without duplicates, or a file that is sent twice would look
like a bot, and judge within one UTC day.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

if TYPE_CHECKING:
    from seq_ml.business import Cleaning

RATE, REGULAR = "bot_rate", "bot_regular"

EVEN = 0.1
"""Coefficient of variation of the gaps between a user's events below which they are even.

People's gaps vary more than their mean (a coefficient above 1); a timer's by its jitter.
"""


def bot_events(browsing: pl.DataFrame, limits: Cleaning) -> pl.DataFrame:
    """Return the events of bots, each once, with `rule` and `value` (str: what gave them away).

    browsing: user_id, event_date, event_time and whatever the caller needs. RATE takes the events
    of the minutes in which their user had more than `bot_events_per_minute`; REGULAR those of the
    days on which a user had `bot_regular_events` or more, at even gaps. RATE is named first.
    """
    # almost nobody has as many events in days as a bot has in a minute
    fewest = min(limits.bot_events_per_minute + 1, limits.bot_regular_events)
    busy = browsing.lazy().group_by("user_id").len().filter(pl.col("len") >= fewest).collect()
    suspects = browsing.filter(pl.col("user_id").is_in(busy["user_id"].implode()))
    minute = pl.col("event_time").dt.truncate("1m")
    day = ["user_id", "event_date"]
    suspects = suspects.with_columns(rate=pl.len().over("user_id", minute)).join(
        _even_days(suspects, limits.bot_regular_events), on=day, how="left"
    )
    fast = pl.col("rate") > limits.bot_events_per_minute
    return suspects.filter(fast | pl.col("gap").is_not_null()).select(
        *browsing.columns,
        rule=pl.when(fast).then(pl.lit(RATE)).otherwise(pl.lit(REGULAR)),
        value=pl.when(fast)
        .then(pl.format("{} events in a minute", "rate"))
        .otherwise(pl.format("{} events of the day, one every {} s", "events", "gap")),
    )


def _even_days(suspects: pl.DataFrame, fewest: int) -> pl.DataFrame:
    """Return (user_id, event_date, events, gap in seconds) of the days with even gaps."""
    day = ["user_id", "event_date"]
    # whole milliseconds: their squares add up exactly, in any order, below 2^63
    gap = pl.col("event_time").sort().diff().dt.total_milliseconds()
    count = pl.col("events") - 1
    mean = pl.col("sum") / count
    variance = pl.col("squares") / count - mean**2
    return (
        suspects.group_by(day)
        .agg(events=pl.len().cast(pl.Int64), sum=gap.sum(), squares=(gap**2).sum())
        .filter(pl.col("events") >= fewest, mean > 0, variance < (EVEN * mean) ** 2)
        .select(*day, "events", gap=mean.round(0) / 1000)
    )
