"""How often a user will order, whether at all, when, and how much they will spend.

BG/NBD (Fader, Hardie & Lee 2005, "Counting your customers the easy way", Marketing Science 24):
while active a user orders as a Poisson process; the rate differs between users as a gamma
distribution; after every order a user leaves for good with a probability that differs as a beta
distribution. Gamma-Gamma (Fader & Hardie 2013, "The Gamma-Gamma model of monetary value"): the
values of a user's orders are gamma distributed around their own mean, which differs as an inverse
gamma distribution and not with the number of orders.

Both are four, or three, numbers for the whole business, fitted by maximum likelihood without any
label window. Times are in days, values in currency units; arrays have one value per user [n].
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from scipy.optimize import minimize
from scipy.special import betaln, gammaln, hyp2f1

from seq_ml.periods import WINDOW_DAYS

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import date

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

LOWEST, HIGHEST = -9.0, 12.0
"""Bounds of the logarithms of all parameters: a likelihood that is flat must still end."""
MOST_USERS = 20_000
"""Of more users every n-th is fitted: four numbers need no more, and ids are in no order."""
SERIES_TERMS = 300
HISTORY = ("repeats", "last", "age", "value")
"""The fields of `OrderHistory`, as columns of users."""


@dataclass(frozen=True)
class OrderHistory:
    """What both models need of each user, arrays [n].

    repeats: order days after the first one.  last: days from the first to the last order day.
    age: days from the first order day to the origin.  value: mean spend of an order day.
    """

    repeats: Floats
    last: Floats
    age: Floats
    value: Floats

    @classmethod
    def of(cls, users: pl.DataFrame) -> OrderHistory:
        """Take the columns `HISTORY` of users, in their order."""
        return cls(*(users[name].to_numpy() for name in HISTORY))


def order_history(visits: pl.DataFrame, day: date) -> pl.DataFrame:
    """Return user_id and `HISTORY` of orders strictly before the business day `day`, sorted.

    visits: user_id, day (business day), spend, one row per order (`Behaviour.visits`). Orders of
    one day are one order: the models know days, not hours.
    """
    days = (
        visits.filter(pl.col("day") < day)
        .group_by("user_id", "day")
        .agg(pl.col("spend").sum().round(3))
        .sort("user_id", "day")
    )
    return days.group_by("user_id", maintain_order=True).agg(
        repeats=pl.len().cast(pl.Float64) - 1,
        last=(pl.col("day").last() - pl.col("day").first()).dt.total_days().cast(pl.Float64),
        age=(pl.lit(day) - pl.col("day").first()).dt.total_days().cast(pl.Float64),
        value=pl.col("spend").mean(),
    )


def next_order(
    days: pl.DataFrame, day: date, horizon_days: float, window_days: int = WINDOW_DAYS
) -> pl.DataFrame:
    """Return user_id and next_order_date of everybody who ordered in the window before `day`.

    days: user_id and day (business day) of orders, as often as you like; those from `day` on are
    ignored. The date is the median one of somebody who orders at random every g days on average,
    given that an order comes within `horizon_days` at all (a truncated exponential); g counts the
    silence since the last order too. The same from BG/NBD is no better within a month and 0.06 days
    better within twelve weeks (`benchmarks.tables.next_order`); this needs no fit.
    """
    since = (pl.lit(day) - pl.col("day").min()).dt.total_days()
    gap, comes = pl.col("gap"), 1 - (-horizon_days / pl.col("gap")).exp()
    wait = (-gap * (1 - comes / 2).log()).floor().cast(pl.Int64)
    return (
        days.filter(pl.col("day").is_between(day - timedelta(days=window_days), day, closed="left"))
        .group_by("user_id")
        .agg(gap=since / pl.col("day").n_unique())
        .select("user_id", next_order_date=pl.lit(day) + pl.duration(days=wait))
        .sort("user_id")
    )


@dataclass(frozen=True)
class Orders:
    """BG/NBD with its parameters."""

    r: float
    alpha: float
    a: float
    b: float

    @classmethod
    def fit(cls, history: OrderHistory) -> Orders:
        """Maximum likelihood. Raises ValueError without a single repeated order."""
        history = _some(history)
        if not history.repeats.any():
            raise ValueError("BG/NBD needs users who ordered on more than one day; there is none.")
        start = np.log([1.0, max(float(history.age.mean()) / 4, 1.0), 1.0, 2.0])
        best = _maximise(lambda log: cls(*np.exp(log)).log_likelihood(history).mean(), start)
        return cls(*np.exp(best).tolist())

    def log_likelihood(self, history: OrderHistory) -> Floats:
        """Return the logarithm of each user's likelihood (equation 6 of the paper) [n]."""
        r, alpha, a, b = self.r, self.alpha, self.a, self.b
        x = history.repeats
        common = gammaln(r + x) - gammaln(r) + r * np.log(alpha) + betaln(a, b + x) - betaln(a, b)
        # ln of: still active, and left right after the last order (impossible before a repeat)
        active = -(r + x) * np.log(alpha + history.age)
        gone = np.log(a) - np.log(np.maximum(b + x - 1, 1e-300))
        gone = np.where(x > 0, gone - (r + x) * np.log(alpha + history.last), -np.inf)
        return np.asarray(common + np.logaddexp(active, gone))

    def p_alive(self, history: OrderHistory) -> Floats:
        """Return the probability that a user has not left [n]; 1 before the first repeat."""
        x = history.repeats
        odds = np.log(self.a) - np.log(np.maximum(self.b + x - 1, 1e-300))
        odds += (self.r + x) * np.log((self.alpha + history.age) / (self.alpha + history.last))
        return np.where(x > 0, 1 / (1 + np.exp(np.minimum(odds, 700))), 1.0)

    def p_no_order(self, history: OrderHistory, days: float) -> Floats:
        """Return the probability of no order in the next `days` days [n].

        Not 1 − P(alive), which is 0 for whoever ordered once: who is still there may also not come.
        """
        idle = ((self.alpha + history.age) / (self.alpha + history.age + days)) ** (
            self.r + history.repeats
        )
        return 1 - self.p_alive(history) * (1 - idle)

    def expected_orders(self, history: OrderHistory, days: float | Floats) -> Floats:
        """Return the expected number of order days in the next `days` days [n]; equation 10.

        Written with Euler's transformation of the hypergeometric function, whose arguments then do
        not grow with the number of orders: the form of the paper overflows beyond some hundreds.
        """
        pole = abs(self.a - 1) < 1e-6 or abs(self.a + self.b - 1) < 1e-6
        a = self.a + 2e-6 if pole else self.a  # beside a = 1 and c = 0 the formula has its limit
        c = a + self.b + history.repeats - 1
        z = days / (self.alpha + history.age + days)
        rest = (1 - z) ** (a - 1) * _hypergeometric(a + self.b - 1 - self.r, a - 1, c, z)
        return np.asarray(self.p_alive(history) * c / (a - 1) * (1 - rest))


@dataclass(frozen=True)
class OrderValue:
    """Gamma-Gamma with its parameters."""

    p: float
    q: float
    gamma: float

    @classmethod
    def fit(cls, history: OrderHistory) -> OrderValue:
        """Maximum likelihood over users who paid. Raises ValueError when nobody did."""
        history = _some(history)
        paid = history.value > 0
        if not paid.any():
            raise ValueError("Gamma-Gamma needs orders with a value above 0; there is none.")
        count, value = history.repeats[paid] + 1, history.value[paid]
        start = np.log([2.0, 3.0, max(float(value.mean()), 1e-3)])
        best = _maximise(lambda log: cls(*np.exp(log)).log_likelihood(count, value).mean(), start)
        return cls(*np.exp(best).tolist())

    def log_likelihood(self, count: Floats, value: Floats) -> Floats:
        """Return the log likelihood of a mean `value` over `count` orders (equation 1a) [n]."""
        p, q, gamma = self.p, self.q, self.gamma
        px = p * count
        return np.asarray(
            gammaln(px + q) - gammaln(px) - gammaln(q) + q * np.log(gamma)
            + (px - 1) * np.log(value) + px * np.log(count)
            - (px + q) * np.log(gamma + count * value)
        )  # fmt: skip

    def expected_value(self, count: Floats, value: Floats) -> Floats:
        """Return the expected value of an order: between the user's mean and everybody's [n].

        Infinite where the fitted tail has no mean (p·count + q ≤ 1).
        """
        below = self.p * count + self.q - 1
        mean = self.p * (self.gamma + count * value) / np.where(below > 0, below, np.nan)
        return np.where(below > 0, mean, np.inf)


def _hypergeometric(a: float, b: float, c: Floats, z: Floats) -> Floats:
    """Gauss' 2F1. SciPy's is not finite near z = 1 for c above 100, where the series is short."""
    found = np.asarray(hyp2f1(a, b, c, z))
    broken = ~np.isfinite(found)
    if broken.any():
        term = total = np.ones(int(broken.sum()))
        for k in range(SERIES_TERMS):
            term = term * (a + k) * (b + k) / ((c[broken] + k) * (k + 1)) * z[broken]
            total = total + term
        found[broken] = total
    return found


def _some(history: OrderHistory) -> OrderHistory:
    step = max(-(-len(history.repeats) // MOST_USERS), 1)
    return OrderHistory(*(array[::step] for array in vars(history).values()))


def _maximise(mean_likelihood: Callable[[Floats], Any], start: Floats) -> Floats:
    """Return the best log parameters."""

    def loss(log: Floats) -> float:
        value = -float(mean_likelihood(log))
        return value if np.isfinite(value) else 1e9

    bounds = [(LOWEST, HIGHEST)] * len(start)
    found = minimize(loss, start, method="L-BFGS-B", bounds=bounds, options={"maxiter": 500})
    return np.asarray(found.x)
