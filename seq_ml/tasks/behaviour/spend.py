"""What users will spend in the days after an instant: the one estimator of every table.

Shares of the user's rates of lately, of the window and ever, plus one amount for everybody, learnt
on the newest closed window of as many days; none negative. It competes in `spend`
(`seq_ml.tasks.profiles`), and says what `churn_predictions` expects within its own horizon.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from seq_ml.tasks.behaviour.orders_model import order_history

if TYPE_CHECKING:
    from datetime import datetime

    from numpy.typing import NDArray

    from seq_ml.business import Business
    from seq_ml.periods import Periods

RATES = ("rate_recent", "rate_window", "rate_all")
"""Currency units per `Periods.value_days`, at the rate of the recent days, of the window, and since
the first order."""


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
    tenure = (
        pl.when(pl.col("age") <= recent_days)
        .then(pl.lit(f"up to {recent_days} days"))
        .when(pl.col("age") <= window_days)
        .then(pl.lit(f"{recent_days + 1} to {window_days} days"))
        .otherwise(pl.lit(f"more than {window_days} days"))
    )

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
            tenure=tenure,
            origin=pl.lit(origin, pl.Datetime("us", "UTC")),
            horizon=pl.lit(float(horizon)),
        )
        .drop("returned")
    )


def spent_between(money: pl.DataFrame, start: datetime, end: datetime) -> pl.DataFrame:
    """Return user_id and spent in [start, end), currency units net of returns, where there is any.

    money: `Behaviour.money`.
    """
    part = money.filter((pl.col("at") >= start) & (pl.col("at") < end))
    return part.group_by("user_id").agg(spent=pl.col("spend").sum().round(3))


def learnt_shares(closed: pl.DataFrame) -> list[float]:
    """Least squares of label, what was spent, on the RATES before, no share negative [1 + 3].

    The window's own rate where nobody had ordered before.
    """
    from scipy.optimize import nnls

    if closed.is_empty():
        return [0.0, 0.0, 1.0, 0.0]
    design = np.column_stack([np.ones(closed.height), closed.select(RATES).to_numpy()])
    shares, _ = nnls(design, closed["label"].to_numpy())
    return [float(share) for share in shares]


def expected_spend(rows: pl.DataFrame, shares: list[float]) -> NDArray[np.float64]:
    """Return what the shares make of each row's RATES [n]."""
    return np.asarray(shares[0] + rows.select(RATES).to_numpy() @ np.array(shares[1:]))
