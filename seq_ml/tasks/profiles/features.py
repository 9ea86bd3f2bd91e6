"""Closed windows: what was known of each buyer's spend at their beginning, and what was spent."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import polars as pl

from seq_ml.tasks.behaviour.spend import spend_features, spent_between
from seq_ml.tasks.task import NotEnoughHistoryError

if TYPE_CHECKING:
    from datetime import datetime

    from seq_ml.business import Business
    from seq_ml.periods import Periods
    from seq_ml.tasks.data import TaskData

MOST_USERS = 20_000
"""More are sampled where something is only measured or fitted: a million users teach no more."""

FEWEST_USERS = 50
"""Users of a window from which quantiles in tenths can be taken."""


def sample(data: TaskData) -> TaskData:
    """Return the data of some MOST_USERS users, of all where there are fewer."""
    return data.some(MOST_USERS)


def closed_windows(
    money: pl.DataFrame, business: Business, as_of: datetime, count: int, periods: Periods
) -> list[pl.DataFrame]:
    """Return the `count` newest windows that closed by `as_of`, oldest first, one after another.

    Each is `spend_features` at its beginning with label (what was spent in it) and label_end.
    Raises NotEnoughHistoryError where the oldest is of too few.
    """
    ends = [business.midnight_after(as_of, -n * periods.value_days) for n in range(count, -1, -1)]
    windows = [
        spend_features(money, business, origin, periods)
        .join(spent_between(money, origin, end), on="user_id", how="left", maintain_order="left")
        .with_columns(
            label=pl.col("spent").fill_null(0.0), label_end=pl.lit(end, pl.Datetime("us", "UTC"))
        )
        .drop("spent")
        for origin, end in pairwise(ends)
    ]
    if windows[0].height < FEWEST_USERS:
        raise NotEnoughHistoryError(
            f"spend: {windows[0].height} users with {business.conversion_noun()} before "
            f"{ends[0]:%Y-%m-%d}; the quantiles of what users spend need {FEWEST_USERS}."
        )
    return windows
