"""What is known of each buyer's spend at an instant, and what they spent in the days after."""

from __future__ import annotations

from datetime import timedelta
from itertools import pairwise
from typing import TYPE_CHECKING

import polars as pl

from seq_ml.tasks.behaviour.orders_model import order_history
from seq_ml.tasks.task import NotEnoughHistoryError

if TYPE_CHECKING:
    from datetime import datetime

    from seq_ml.business import Business
    from seq_ml.periods import Periods
    from seq_ml.tasks.data import TaskData

MOST_USERS = 20_000
"""More are sampled where something is only measured or fitted: a million users teach no more."""

RATES = ("rate_recent", "rate_window", "rate_all")
"""Currency units per `Periods.value_days`, at the rate of the recent days, of the window, and since
the first order."""
FEWEST_USERS = 50
"""Users of a window from which quantiles in tenths can be taken."""


def sample(data: TaskData) -> TaskData:
    """Return the data of some MOST_USERS users, of all where there are fewer."""
    return data.some(MOST_USERS)


def spend_features(
    money: pl.DataFrame, business: Business, origin: datetime, periods: Periods
) -> pl.DataFrame:
    """Return one row per user with an order before `origin`, sorted.

    Columns: its history, RATES, tenure and horizon (the days that are forecast, f64). A rate is
    taken over `Periods.rate_days` at least (56 of a grocer, chosen on summer 2017); so many days
    lie before the first window, or everybody in it would look new.

    money: `Behaviour.money`: rates and value of an order are net of returns, a value never below 0;
    `origin` is a business midnight.
    """
    before = money.filter(pl.col("at") < origin)
    recent_days, window_days = periods.recent_days, periods.window_days
    horizon = periods.value_days
    tenures = [
        f"up to {recent_days} days",
        f"{recent_days + 1} to {window_days} days",
        f"more than {window_days} days",
    ]

    def spend(days: int) -> pl.Expr:
        recent = pl.col("at") >= origin - timedelta(days=days)
        return pl.col("spend").filter(recent).sum().round(3)

    spent = before.group_by("user_id").agg(
        rate_recent=spend(recent_days),
        rate_window=spend(window_days),
        rate_all=pl.col("spend").sum().round(3),
        returned=pl.col("spend").filter(pl.col("lines") == 0).sum(),
    )
    age = pl.max_horizontal("age", pl.lit(float(periods.rate_days)))
    return (
        order_history(before.filter(pl.col("lines") > 0), business.day_of(origin))
        .join(spent, on="user_id", how="left", maintain_order="left")
        .with_columns(
            value=pl.when(pl.col("returned") < 0)
            .then((pl.col("value") + pl.col("returned") / (pl.col("repeats") + 1)).clip(0))
            .otherwise("value"),
            rate_recent=horizon * pl.col("rate_recent") / recent_days,
            rate_window=horizon * pl.col("rate_window") / pl.min_horizontal(age, window_days),
            rate_all=horizon * pl.col("rate_all") / age,
            tenure=pl.col("age").cut([recent_days, window_days], labels=tenures).cast(str),
            origin=pl.lit(origin, pl.Datetime("us", "UTC")),
            horizon=pl.lit(float(horizon)),
        )
        .drop("returned")
    )


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


def spent_between(money: pl.DataFrame, start: datetime, end: datetime) -> pl.DataFrame:
    """Return user_id and spent in [start, end), currency units net of returns, where there is any.

    money: `Behaviour.money`.
    """
    part = money.filter((pl.col("at") >= start) & (pl.col("at") < end))
    return part.group_by("user_id").agg(spent=pl.col("spend").sum().round(3))
