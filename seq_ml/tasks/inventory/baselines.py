"""Baselines of demand that count: past sums, moving averages, intermittent demand, last year."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from seq_ml.tasks.inventory.distribution import negative_binomial, own_variance
from seq_ml.tasks.inventory.features import QUANTILES
from seq_ml.tasks.task import NotEnoughHistoryError

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Array = NDArray[np.float64]

SEASONAL = "seasonal_naive_negative_binomial"
WEIGHTS = tuple(np.linspace(0.01, 0.99, 21))
"""Of the newest week, between which exponential smoothing chooses."""


class Baseline:
    """A way to forecast that learns nothing: `forecast` turns examples into predictions."""

    is_baseline = True

    def __init__(
        self, name: str, description: str, forecast: Callable[[pl.DataFrame], Array]
    ) -> None:
        self.name = name
        self.description = description
        self._forecast = forecast

    def fit(self, examples: pl.DataFrame) -> None:
        """Learn nothing."""

    def predict(self, examples: pl.DataFrame) -> Array:
        """Return mean, variance and quantiles [n, 2 + quantiles]."""
        return self._forecast(examples)

    def state(self) -> dict[str, Any]:
        """Return nothing."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Take nothing back."""


class SeasonalNaive(Baseline):
    """Only where the examples look back on more than a year: in one year there is no season."""

    def fit(self, examples: pl.DataFrame) -> None:
        """Learn nothing; NotEnoughHistoryError when no example has a last year."""
        if not examples["last_year"].is_finite().any():
            raise NotEnoughHistoryError(
                f"{self.name}: no example has sales of the same weeks a year earlier; a season "
                "shows only where the history is more than a year longer than the test window."
            )


def past_sums(examples: pl.DataFrame) -> Array:
    """Empirical quantiles of the item's past sums over the horizon, 26 weeks."""
    columns = ("sum_mean", "sum_variance", *(f"sum_q{round(100 * q)}" for q in QUANTILES))
    return np.column_stack(_columns(examples, *columns))


def ma8(examples: pl.DataFrame) -> Array:
    """Mean of 8 weeks with the variance of 26, a negative binomial."""
    mean, weeks = _columns(examples, "mean_8", "horizon_weeks")
    return _around(mean * weeks, examples)


def ma13(examples: pl.DataFrame) -> Array:
    """Mean + z·sd of 13 weeks: the textbook's way."""
    from scipy.stats import norm

    mean, deviation, weeks = _columns(examples, "mean_13", "sd_week_13", "horizon_weeks")
    mean, variance = mean * weeks, deviation**2 * weeks
    spread = np.sqrt(variance)[:, None] * norm.ppf(QUANTILES)[None, :]
    return np.column_stack([mean, variance, np.maximum(mean[:, None] + spread, 0)])


def tsb(smoothing: float) -> Callable[[pl.DataFrame], Array]:
    """Return the forecast of Teunter, Syntetos and Babai (2011): size of a sale times its chance.

    The size is smoothed in weeks that sold, the chance in every week.
    """

    def level(history: Array, known: NDArray[np.bool_]) -> Array:
        sold = history > 0
        size = _smoothed(history, sold, smoothing)
        return size * _smoothed(sold.astype(np.float64), known, smoothing)

    return _of_level(level)


def croston_sba(history: Array, known: NDArray[np.bool_]) -> Array:
    """Size of a sale over the weeks between two, times 0.95 (Syntetos and Boylan 2005)."""
    sold, number = history > 0, np.cumsum(known, axis=1)
    last = np.maximum.accumulate(np.where(sold, number, 0), axis=1)
    before = np.column_stack([np.zeros(len(last)), last[:, :-1]])
    return 0.95 * _smoothed(history, sold, 0.1) / _smoothed(number - before, sold, 0.1)


def ses(history: Array, known: NDArray[np.bool_]) -> Array:
    """Exponential smoothing with the weight that errs least in the weeks of each series."""
    best, least = np.zeros(len(history)), np.full(len(history), np.inf)
    for smoothing in WEIGHTS:
        level, error = _smoothing(history, known, smoothing)
        better = error < least
        best[better], least[better] = level[better], error[better]
    return best


def _smoothed(values: Array, counts: NDArray[np.bool_], smoothing: float) -> Array:
    return _smoothing(values, counts, smoothing)[0]


def _smoothing(values: Array, counts: NDArray[np.bool_], smoothing: float) -> tuple[Array, Array]:
    """Smooth the weeks that count of each row [n, weeks], from the first one on; 0 of none.

    Beside the level the sum of its squared errors, each week's before it was known.
    """
    level, error = np.zeros((2, len(values)))
    begun = np.zeros(len(values), dtype=bool)
    for value, now in zip(values.T, counts.T, strict=True):
        off = (value - level) * now
        error += off**2 * begun
        level += np.where(begun, smoothing, 1.0) * off
        begun |= now
    return level, error


def _of_level(
    level: Callable[[Array, NDArray[np.bool_]], Array],
) -> Callable[[pl.DataFrame], Array]:
    """Forecast one level for every week to come, a negative binomial of 26 weeks around it.

    level: of the weeks [n, weeks], and which of them are known [n, weeks].
    """

    def forecast(examples: pl.DataFrame) -> Array:
        history = examples["history"].to_numpy().astype(np.float64)
        first = history.shape[1] - examples["memory_weeks"].to_numpy()
        known = np.arange(history.shape[1]) >= first[:, None]
        (weeks,) = _columns(examples, "horizon_weeks")
        return _around(np.nan_to_num(level(history, known)) * weeks, examples)

    return forecast


def last_year(examples: pl.DataFrame) -> Array:
    """Take what was sold in the same weeks of last year, a negative binomial around it.

    The sum of what `SeasonalNaive(52)` of `statsforecast` forecasts. Of series that had not sold by
    then, the mean of 8 weeks.
    """
    before, scale, mean_8, weeks = _columns(
        examples, "last_year", "scale", "mean_8", "horizon_weeks"
    )
    return _around(np.where(np.isfinite(before), before * scale, mean_8 * weeks), examples)


def _columns(examples: pl.DataFrame, *names: str) -> list[Array]:
    return [examples[name].cast(pl.Float64).to_numpy() for name in names]


def _around(mean: Array, examples: pl.DataFrame) -> Array:
    """Mean, own variance and the quantiles of a negative binomial [n, 2 + quantiles]."""
    mean = np.maximum(mean, 0.05)
    variance = np.maximum(own_variance(examples, mean), 1.05 * mean)
    return np.column_stack([mean, variance, negative_binomial(mean, variance, QUANTILES)])


BASELINES: dict[str, Baseline] = {
    baseline.name: baseline
    for baseline in (
        Baseline(
            "past_sums",
            "Quantiles of what the item sold over as many weeks in the last 26.",
            past_sums,
        ),
        Baseline(
            "ma8_negative_binomial", "Mean of the last 8 weeks, negative binomial spread.", ma8
        ),
        Baseline(
            "ma13_normal", "Mean of the last 13 weeks, normal spread: the textbook's way.", ma13
        ),
        Baseline(
            "tsb_negative_binomial",
            "Size and chance of a sale, both smoothed (TSB), for rare sellers.",
            tsb(0.1),
        ),
        Baseline(
            "tsb_0.2_negative_binomial",
            "The same, which forgets twice as fast.",
            tsb(0.2),
        ),
        Baseline(
            "croston_sba_negative_binomial",
            "Size and gap of sales, both smoothed (Croston, SBA).",
            _of_level(croston_sba),
        ),
        Baseline(
            "ses_negative_binomial",
            "Exponential smoothing of the weeks, negative binomial spread.",
            _of_level(ses),
        ),
        SeasonalNaive(
            SEASONAL, "The same weeks of last year, negative binomial spread.", last_year
        ),
    )
}
"""Baselines by name: they learn nothing, so any of them can serve any row."""
