"""The two instants of a pipeline run: `as_of`, and the training cut-off before it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING

import polars as pl

if TYPE_CHECKING:
    from seq_ml.business import Business
    from seq_ml.storage.tables import TableStore

TEST_DAYS = 91
"""The encoder is fitted before `as_of` − 91 days, so that no task's test window was seen by it."""


@dataclass(frozen=True)
class CutOffs:
    """Features of published tables end before `as_of`, training of the encoder before `cutoff`."""

    as_of: datetime
    cutoff: datetime


def choose(events: pl.LazyFrame, business: Business, as_of: date | None = None) -> CutOffs:
    """Return the cut-offs: the business day `as_of` begins, or the newest day that is complete.

    Without `as_of` it is the midnight after the last day with an event, but never later than the
    midnight that began today. Raises ValueError when there is no event before it.
    """
    first, last = (
        events.select(first=pl.col("event_time").min(), last=pl.col("event_time").max())
        .collect()
        .row(0)
    )
    if last is None:
        raise ValueError("There are no clean events yet: land drops first (`seqline run`).")
    today = business.day_of(datetime.now(UTC))
    day = as_of or min(business.day_of(last) + timedelta(days=1), today)
    instant = business.midnight(day)
    if first >= instant:
        raise ValueError(
            f"There is no event before {day}: the first one is of {business.day_of(first)}."
        )
    return CutOffs(instant, business.midnight(day - timedelta(days=TEST_DAYS)))


def recorded(tables: TableStore) -> CutOffs:
    """Return the cut-offs of the published user sequences: what all later stages go by."""
    row = (
        tables.scan("user_sequences")
        .select(high=pl.col("as_of").max(), low=pl.col("as_of").min())
        .collect()
        .row(0)
    )
    return CutOffs(row[0], row[1])
