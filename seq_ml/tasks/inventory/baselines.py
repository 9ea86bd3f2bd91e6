"""Baselines of demand that count: past sums, moving averages, intermittent demand, last year."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from seq_ml.tasks.inventory.distribution import negative_binomial
from seq_ml.tasks.inventory.features import QUANTILES
from seq_ml.tasks.task import NotEnoughHistoryError

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Array = NDArray[np.float64]

SEASONAL = "seasonal_naive_negative_binomial"


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
    mean, variance, weeks = _columns(examples, "mean_8", "variance_26", "horizon_weeks")
    return _around(mean * weeks, variance * weeks)


def ma13(examples: pl.DataFrame) -> Array:
    """Mean + z·sd of 13 weeks: the textbook's way."""
    from scipy.stats import norm

    mean, deviation, weeks = _columns(examples, "mean_13", "sd_week_13", "horizon_weeks")
    mean, variance = mean * weeks, deviation**2 * weeks
    spread = np.sqrt(variance)[:, None] * norm.ppf(QUANTILES)[None, :]
    return np.column_stack([mean, variance, np.maximum(mean[:, None] + spread, 0)])


def intermittent(method: str, *smoothing: float) -> Callable[[pl.DataFrame], Array]:
    """Return the forecast of a `statsforecast` model, a negative binomial of 26 weeks around it.

    `TSB` (Teunter, Syntetos and Babai 2011), `CrostonSBA` (Syntetos and Boylan 2005),
    `SimpleExponentialSmoothingOptimized`: all forecast one level for every week to come.
    """

    def forecast(examples: pl.DataFrame) -> Array:
        from statsforecast import models

        model = getattr(models, method)(*smoothing)
        history = examples["history"].to_numpy().astype(np.float32)
        first = history.shape[1] - examples["memory_weeks"].to_numpy()
        level = np.array(
            [
                model.forecast(y=weeks[start:], h=1)["mean"][0]
                for weeks, start in zip(history, first, strict=True)
            ],
            dtype=np.float64,
        ).reshape(-1)
        variance, weeks = _columns(examples, "variance_26", "horizon_weeks")
        return _around(np.nan_to_num(level) * weeks, variance * weeks)

    return forecast


def last_year(examples: pl.DataFrame) -> Array:
    """Take what was sold in the same weeks of last year, a negative binomial around it.

    The sum of what `SeasonalNaive(52)` of `statsforecast` forecasts. Of series that had not sold by
    then, the mean of 8 weeks.
    """
    before, scale, mean_8, variance, weeks = _columns(
        examples, "last_year", "scale", "mean_8", "variance_26", "horizon_weeks"
    )
    mean = np.where(np.isfinite(before), before * scale, mean_8 * weeks)
    return _around(mean, variance * weeks)


def _columns(examples: pl.DataFrame, *names: str) -> list[Array]:
    return [examples[name].cast(pl.Float64).to_numpy() for name in names]


def _around(mean: Array, variance: Array) -> Array:
    """Mean, variance and the quantiles of a negative binomial [n, 2 + quantiles]."""
    mean = np.maximum(mean, 0.05)
    variance = np.maximum(variance, 1.05 * mean)
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
            intermittent("TSB", 0.1, 0.1),
        ),
        Baseline(
            "tsb_0.2_negative_binomial",
            "The same, which forgets twice as fast.",
            intermittent("TSB", 0.2, 0.2),
        ),
        Baseline(
            "croston_sba_negative_binomial",
            "Size and gap of sales, both smoothed (Croston, SBA).",
            intermittent("CrostonSBA"),
        ),
        Baseline(
            "ses_negative_binomial",
            "Exponential smoothing of the weeks, negative binomial spread.",
            intermittent("SimpleExponentialSmoothingOptimized"),
        ),
        SeasonalNaive(
            SEASONAL, "The same weeks of last year, negative binomial spread.", last_year
        ),
    )
}
"""Baselines by name: they learn nothing, so any of them can serve any row."""
