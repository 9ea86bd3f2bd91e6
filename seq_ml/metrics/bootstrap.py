"""Paired bootstrap over units: how far a metric, or a difference of two, may be chance.

Units (users, items …) are drawn with replacement and keep all their rows together; every candidate
is judged on the same draws, so differences are paired (Efron & Tibshirani 1993, percentile method).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from seq_ml.metrics.metric import Metric

RESAMPLES = 500
LEVEL = 0.95
DRAWS_AT_ONCE = 25
"""Draws whose weighted means are one matrix product; bounds memory."""


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % bootstrap interval (NaN where it is undefined)."""

    value: float
    low: float
    high: float

    def as_json(self) -> dict[str, float | None]:
        """Return the three numbers; None where JSON has no number."""
        return {
            name: None if np.isnan(number) else float(number)
            for name, number in (("value", self.value), ("low", self.low), ("high", self.high))
        }

    def __str__(self) -> str:
        return self._text("")

    def signed(self) -> str:
        """Return the text of a difference: every number with its sign."""
        return self._text("+")

    def _text(self, sign: str) -> str:
        """Return value [low, high] with the digits that the interval leaves, at most four."""
        if np.isnan(self.value):
            return "–"
        if np.isnan(self.low):
            return f"{self.value:{sign}.4g}"
        half = (self.high - self.low) / 2
        digits = int(np.clip(1 - np.floor(np.log10(half)), 0, 4)) if half > 0 else 4
        value, low, high = (
            f"{number:{sign},.{digits}f}" for number in (self.value, self.low, self.high)
        )
        return f"{value} [{low}, {high}]"


@dataclass(frozen=True)
class Draws:
    """One metric of one candidate: its value on all examples, and on every resample [resamples]."""

    value: float
    resampled: NDArray[np.float64]

    def estimate(self) -> Estimate:
        """Return the value with its percentile interval."""
        return _percentile(self.value, self.resampled)

    def minus(self, other: Draws) -> Estimate:
        """Return the paired difference to another candidate's draws of the same metric."""
        return _percentile(self.value - other.value, self.resampled - other.resampled)


def evaluate(metric: Metric, examples: pl.DataFrame, predictions: NDArray[np.float64]) -> float:
    """Return one metric of predictions [n] or [n, k] on labelled examples."""
    result = metric.function(examples, predictions)
    if not metric.per_unit:
        return float(result)
    mean = result["value"].mean()
    return float("nan") if mean is None else float(mean)


def bootstrap(
    metrics: Sequence[Metric],
    examples: pl.DataFrame,
    predictions: Mapping[str, NDArray[np.float64]],
    *,
    unit: str,
    seed: int,
    resamples: int = RESAMPLES,
) -> dict[str, dict[str, Draws]]:
    """Return {candidate: {metric: Draws}}, all candidates on the same draws of units.

    A `per_unit` metric resamples its values; every other metric is computed again on each resample.
    The order of the rows does not matter beyond ties, the order of the units not at all.
    """
    units = examples[unit].unique().sort()
    codes = (
        examples.select(pl.col(unit).replace_strict(units, pl.int_range(len(units), eager=True)))
        .to_series()
        .to_numpy()
        .astype(np.int64)
    )
    values: dict[tuple[str, str], NDArray[np.float64]] = {}
    whole = {
        (name, metric.name): evaluate(metric, examples, predicted)
        for name, predicted in predictions.items()
        for metric in metrics
        if not metric.per_unit
    }
    for name, predicted in predictions.items():
        for metric in metrics:
            if metric.per_unit:
                frame = metric.function(examples, predicted)
                key = (name, metric.name)
                values[key] = _by_unit(frame, units)
                known = values[key][~np.isnan(values[key])]
                whole[key] = float(known.mean()) if len(known) else float("nan")
    drawn = {key: np.empty(resamples) for key in whole}
    recomputed = [metric for metric in metrics if not metric.per_unit]
    keys = list(values)
    stacked = np.stack([values[key] for key in keys], axis=1) if keys else np.empty((len(units), 0))
    present = ~np.isnan(stacked)
    filled = np.where(present, stacked, 0.0)
    weights = present.astype(np.float64)
    rng = np.random.default_rng(seed)
    rows = np.arange(examples.height)
    for start in range(0, resamples, DRAWS_AT_ONCE):
        draws = range(start, min(start + DRAWS_AT_ONCE, resamples))
        counts = np.stack(
            [
                np.bincount(rng.integers(0, len(units), size=len(units)), minlength=len(units))
                for _ in draws
            ]
        ).astype(np.float64)
        with np.errstate(invalid="ignore"):  # 0 / 0: no unit with a value was drawn
            means = (counts @ filled) / (counts @ weights)
        for column, key in enumerate(keys):
            drawn[key][draws.start : draws.stop] = means[:, column]
        for draw, count in zip(draws, counts.astype(np.int64), strict=True) if recomputed else ():
            index = np.repeat(rows, count[codes])
            sample = examples[index]
            for name, predicted in predictions.items():
                picked = predicted[index]
                for metric in recomputed:
                    drawn[name, metric.name][draw] = metric.function(sample, picked)
    return {
        name: {m.name: Draws(whole[name, m.name], drawn[name, m.name]) for m in metrics}
        for name in predictions
    }


def mean_estimate(values: NDArray[np.float64], *, seed: int) -> Estimate:
    """Return the mean of one value per unit [n], its interval by resampling the units."""
    if not len(values):
        return Estimate(float("nan"), float("nan"), float("nan"))
    rng = np.random.default_rng(seed)
    units = len(values)
    # The draws of `rng.choice`, which spends as long again on checking what it is asked.
    means = [values[rng.integers(0, units, size=units)].mean() for _ in range(RESAMPLES)]
    return _percentile(float(values.mean()), np.array(means))


def _by_unit(frame: pl.DataFrame, units: pl.Series) -> NDArray[np.float64]:
    """Values [units] in the order of `units`, NaN where a unit has none."""
    joined = pl.DataFrame({"unit": units}).join(
        frame.select("unit", pl.col("value").cast(pl.Float64)),
        on="unit",
        how="left",
        maintain_order="left",
        validate="1:1",
    )
    return joined["value"].fill_null(float("nan")).to_numpy()


def _percentile(value: float, resampled: NDArray[np.float64]) -> Estimate:
    kept = resampled[~np.isnan(resampled)]
    if not len(kept):
        return Estimate(value, float("nan"), float("nan"))
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(kept, [tail, 1 - tail])
    return Estimate(value, float(low), float(high))
