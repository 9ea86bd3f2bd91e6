"""Forecasts of each user's spend: simple methods and a model, each with an interval of its own.

The interval is empirical: what users with a like forecast spent, relative to it, in the newest
window whose forecast was made without it (split conformal prediction, Vovk et al. 2005, within
groups of ten).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from seq_ml.tasks.behaviour.orders_model import OrderHistory, Orders, OrderValue
from seq_ml.tasks.behaviour.spend import expected_spend, learnt_shares
from seq_ml.tasks.task import NotEnoughHistoryError

if TYPE_CHECKING:
    from collections.abc import Callable

    import polars as pl
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Learn = Callable[[pl.DataFrame], list[float]]
    Expect = Callable[[pl.DataFrame, list[float]], Floats]

GROUPS = 10
LOW, HIGH = 0.1, 0.9
SHRUNKEN = "shrunken_rate"


@dataclass(frozen=True)
class Interval:
    """What users with a like forecast spent, relative to it.

    middle: mean logarithm of the forecasts of each group, ascending. low, high: quantiles of spend
    divided by forecast in it. floor: smallest forecast that a ratio is taken of.
    """

    middle: list[float]
    low: list[float]
    high: list[float]
    floor: float

    @classmethod
    def of(cls, made: Floats, spent: Floats) -> Interval:
        """Look at forecasts that were made without knowing what was spent, both [n]."""
        floor = max(0.01 * float(made.mean()), 1e-9)  # of a forecast of nothing there is no ratio
        made = np.maximum(made, floor)
        order = np.argsort(made, kind="stable")
        groups = np.array_split(order, min(GROUPS, len(np.unique(made))))
        ratio = spent / made
        return cls(
            [float(np.log(made[group]).mean()) for group in groups],
            [float(np.quantile(ratio[group], LOW)) for group in groups],
            [float(np.quantile(ratio[group], HIGH)) for group in groups],
            floor,
        )

    def around(self, made: Floats) -> Floats:
        """Return the quantiles LOW and HIGH of the spend where `made` [n] is forecast [n, 2].

        None is below 0, though the spend of a window may be: the return of what was bought before.
        """
        scale = np.maximum(made, self.floor)
        bounds = [np.interp(np.log(scale), self.middle, ratios) for ratios in (self.low, self.high)]
        return np.maximum(np.column_stack(bounds) * scale[:, None], 0.0)


class SpendForecast:
    """A candidate: a few numbers learnt from the newest closed window, and an interval.

    learn: labelled examples of one window → parameters. expect: examples, parameters → spend [n].
    """

    def __init__(
        self, name: str, description: str, learn: Learn, expect: Expect, *, is_baseline: bool = True
    ) -> None:
        self.name, self.description, self.is_baseline = name, description, is_baseline
        self._learn, self._expect = learn, expect
        self.parameters: list[float] = []
        self.interval: Interval | None = None

    def fit(self, examples: pl.DataFrame) -> None:
        """Learn from the windows one after another; the interval is out of sample from two on."""
        windows = examples.sort("origin").partition_by("origin", maintain_order=True)
        self.parameters = self._learn(windows[0])
        for closed in windows[1:] or windows:
            self.renew(closed)

    def renew(self, closed: pl.DataFrame) -> None:
        """Learn from a window that has closed since: first how far off its forecast was."""
        self.interval = Interval.of(self.expected(closed), closed["label"].to_numpy())
        self.parameters = self._learn(closed)

    def expected(self, examples: pl.DataFrame) -> Floats:
        """Return each user's expected spend of the horizon from the origin on [n]."""
        return np.maximum(self._expect(examples, self.parameters), 0.0)

    def predict(self, examples: pl.DataFrame) -> Floats:
        """Return expected spend and its quantiles LOW and HIGH [n, 3]."""
        assert self.interval is not None
        made = self.expected(examples)
        return np.column_stack([made, self.interval.around(made)])

    def state(self) -> dict[str, Any]:
        """Parameters and interval."""
        assert self.interval is not None
        return {"parameters": self.parameters, "interval": asdict(self.interval)}

    def restore(self, state: dict[str, Any]) -> None:
        """Take back what `state` returned."""
        self.parameters, self.interval = state["parameters"], Interval(**state["interval"])


def spend_forecasts() -> list[SpendForecast]:
    """Return new, unfitted forecasts; all but the last are baselines."""
    return [
        SpendForecast(
            "average",
            "Everybody's average spend of the last closed window.",
            lambda closed: [float(closed["label"].to_numpy().mean())],
            lambda rows, mean: np.full(rows.height, mean[0]),
        ),
        SpendForecast(
            "last_window",
            "The user's spend of the window again.",
            lambda _: [],
            lambda rows, _: rows["rate_window"].to_numpy(),
        ),
        SpendForecast(
            "own_rate",
            "The user's spend a day since the first order.",
            lambda _: [],
            lambda rows, _: rows["rate_all"].to_numpy(),
        ),
        SpendForecast(
            "bg_nbd_gamma_gamma",
            "Expected orders (BG/NBD) times expected value of one (Gamma-Gamma).",
            _fit_orders,
            _orders_times_value,
        ),
        SpendForecast(
            SHRUNKEN,
            "Shares of the user's rates of lately, of the window and ever, plus one amount for "
            "everybody; fitted on the last closed window, none negative.",
            learnt_shares,
            expected_spend,
            is_baseline=False,
        ),
    ]


def _fit_orders(closed: pl.DataFrame) -> list[float]:
    """BG/NBD and Gamma-Gamma of the histories; what was spent after them is not looked at."""
    history = OrderHistory.of(closed)
    if not history.repeats.any() or not (history.value > 0).any():
        raise NotEnoughHistoryError("nobody ordered twice, or nobody paid")
    o, v = Orders.fit(history), OrderValue.fit(history)
    return [o.r, o.alpha, o.a, o.b, v.p, v.q, v.gamma]


def _orders_times_value(rows: pl.DataFrame, parameters: list[float]) -> Floats:
    r, alpha, a, b, p, q, gamma = parameters
    history, orders, value = OrderHistory.of(rows), Orders(r, alpha, a, b), OrderValue(p, q, gamma)
    worth = value.expected_value(history.repeats + 1, history.value)
    worth = np.where(np.isfinite(worth), worth, history.value)  # a tail without a mean
    return orders.expected_orders(history, rows["horizon"].to_numpy()) * worth
