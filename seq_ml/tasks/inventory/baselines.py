"""Baselines of demand that count: past sums, moving averages, intermittent demand, last year."""

from __future__ import annotations

from functools import partial
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


class EmpiricalSums:
    """Baseline: empirical quantiles of the item's past sums over the horizon, 26 weeks."""

    is_baseline = True

    def __init__(self, name: str, description: str) -> None:
        self.name = name
        self.description = description

    def fit(self, examples: pl.DataFrame) -> None:
        """Learn nothing."""

    def predict(self, examples: pl.DataFrame) -> Array:
        """Return mean, variance and quantiles [n, 2 + quantiles]."""
        columns = [f"sum_q{round(100 * q)}" for q in QUANTILES]
        wanted = examples.select(pl.col("sum_mean", "sum_variance", *columns).cast(pl.Float64))
        return wanted.to_numpy()

    def state(self) -> dict[str, Any]:
        """Return nothing."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Take nothing back."""


class MovingAverage(EmpiricalSums):
    """Baseline: mean of the last weeks, with a normal or negative binomial around it.

    `ma13_normal` is the textbook's mean + z·sd; `ma8_negative_binomial` takes the mean of 8 weeks
    and the variance of 26.
    """

    def predict(self, examples: pl.DataFrame) -> Array:
        """Return mean, variance and quantiles [n, 2 + quantiles]."""
        from scipy.stats import norm

        def column(name: str) -> Array:
            return examples[name].cast(pl.Float64).to_numpy()

        weeks = column("horizon_weeks")
        if self.name == "ma13_normal":
            mean, variance = column("mean_13") * weeks, column("sd_week_13") ** 2 * weeks
            spread = np.sqrt(variance)[:, None] * norm.ppf(QUANTILES)[None, :]
            return np.column_stack([mean, variance, np.maximum(mean[:, None] + spread, 0)])
        return _around(column("mean_8") * weeks, column("variance_26") * weeks)


class Intermittent(EmpiricalSums):
    """Baseline of `statsforecast` on the item's weeks, a negative binomial of 26 weeks around it.

    `tsb` (Teunter, Syntetos and Babai 2011), `croston_sba` (Syntetos and Boylan 2005), `ses`
    (simple exponential smoothing, optimised): all forecast one level for every week to come.
    """

    def predict(self, examples: pl.DataFrame) -> Array:
        """Return mean, variance and quantiles [n, 2 + quantiles]."""
        from statsforecast.models import TSB, CrostonSBA, SimpleExponentialSmoothingOptimized

        methods: dict[str, Callable[[], Any]] = {
            "tsb_negative_binomial": lambda: TSB(0.1, 0.1),
            "tsb_0.2_negative_binomial": lambda: TSB(0.2, 0.2),
            "croston_sba_negative_binomial": CrostonSBA,
            "ses_negative_binomial": SimpleExponentialSmoothingOptimized,
        }
        method = methods[self.name]()
        history = examples["history"].to_numpy().astype(np.float32)
        first = history.shape[1] - examples["memory_weeks"].to_numpy()
        level = np.array(
            [
                method.forecast(y=weeks[start:], h=1)["mean"][0]
                for weeks, start in zip(history, first, strict=True)
            ],
            dtype=np.float64,
        ).reshape(-1)
        weeks = examples["horizon_weeks"].cast(pl.Float64).to_numpy()
        variance = examples["variance_26"].cast(pl.Float64).to_numpy() * weeks
        return _around(np.nan_to_num(level) * weeks, variance)


class SeasonalNaive(EmpiricalSums):
    """Baseline: what was sold in the same weeks of last year, a negative binomial around it.

    The sum of what `SeasonalNaive(52)` of `statsforecast` forecasts. Of series that had not sold by
    then, the mean of 8 weeks. Only where the examples look back on more than a year: in one year
    there is no season.
    """

    def fit(self, examples: pl.DataFrame) -> None:
        """Learn nothing; NotEnoughHistoryError when no example has a last year."""
        if not examples["last_year"].is_finite().any():
            raise NotEnoughHistoryError(
                f"{self.name}: no example has sales of the same weeks a year earlier; a season "
                "shows only where the history is more than a year longer than the test window."
            )

    def predict(self, examples: pl.DataFrame) -> Array:
        """Return mean, variance and quantiles [n, 2 + quantiles]."""
        columns = ("last_year", "scale", "mean_8", "variance_26", "horizon_weeks")
        last_year, scale, mean_8, variance, weeks = (
            examples[name].cast(pl.Float64).to_numpy() for name in columns
        )
        mean = np.where(np.isfinite(last_year), last_year * scale, mean_8 * weeks)
        return _around(mean, variance * weeks)


def _around(mean: Array, variance: Array) -> Array:
    """Mean, variance and the quantiles of a negative binomial [n, 2 + quantiles]."""
    mean = np.maximum(mean, 0.05)
    variance = np.maximum(variance, 1.05 * mean)
    return np.column_stack([mean, variance, negative_binomial(mean, variance, QUANTILES)])


BASELINES: dict[str, Callable[[], EmpiricalSums]] = {
    name: partial(kind, name, description)
    for kind, name, description in (
        (
            EmpiricalSums,
            "past_sums",
            "Quantiles of what the item sold over as many weeks in the last 26.",
        ),
        (
            MovingAverage,
            "ma8_negative_binomial",
            "Mean of the last 8 weeks, negative binomial spread.",
        ),
        (
            MovingAverage,
            "ma13_normal",
            "Mean of the last 13 weeks, normal spread: the textbook's way.",
        ),
        (
            Intermittent,
            "tsb_negative_binomial",
            "Size and chance of a sale, both smoothed (TSB), for rare sellers.",
        ),
        (
            Intermittent,
            "croston_sba_negative_binomial",
            "Size and gap of sales, both smoothed (Croston, SBA).",
        ),
        (
            Intermittent,
            "ses_negative_binomial",
            "Exponential smoothing of the weeks, negative binomial spread.",
        ),
        (SeasonalNaive, SEASONAL, "The same weeks of last year, negative binomial spread."),
    )
}
"""Baselines by name: they learn nothing, so any of them can serve any row."""
