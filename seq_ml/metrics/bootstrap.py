"""Paired bootstrap over units: how far a metric, or a difference of two, may be chance.

Units (users, items …) are drawn with replacement and keep all their rows together; every candidate
is judged on the same draws, so differences are paired (Efron & Tibshirani 1993).
Where rows of different units share something else (a campaign, the weeks of a forecast), that is
drawn as well, apart from the units; the squares of both half-widths add up, as variances of two-way
clusters do (Cameron, Gelbach & Miller 2011; for ends that are not alike Zou & Donner 2008), which
counts what is common to neither twice: too wide by a factor of √2 at most. Intervals are those of
`seq_ml.metrics.estimate`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from seq_ml.metrics.estimate import Draws, Estimate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from seq_ml.metrics.metric import Metric

RESAMPLES = 500
"""Draws of an interval that is shown."""
DECIDING = 5_000
"""Draws where an end of the interval decides."""
DRAWS_AT_ONCE, COUNTS_AT_ONCE = 25, 1 << 22
"""Most draws of a chunk, and most draws × units (32 MiB)."""


@dataclass(frozen=True)
class Drawn:
    """How often the examples were drawn, of some draws at once.

    units: f64 [draws, units]. unit_of: the number of each row's unit [rows]. kept: what several
    metrics of the same predictions need.
    """

    units: NDArray[np.float64]
    unit_of: NDArray[np.int64]
    kept: dict[int, Any] = field(default_factory=dict)

    def rows(self) -> NDArray[np.float64]:
        """Return how often each example counts [draws, rows]."""
        return self.units[:, self.unit_of]

    def by_unit(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Sum a number of each example [rows] in each unit [units]."""
        return np.bincount(self.unit_of, values, self.units.shape[1]).astype(np.float64)

    def of(self, rows: NDArray[np.bool_] | NDArray[np.int64]) -> Drawn:
        """Return the draws of some of the examples, chosen by a mask or by number."""
        return Drawn(self.units, self.unit_of[rows])


def ratio_of_sums(
    parts: Callable[[pl.DataFrame, NDArray[np.float64]], Sequence[NDArray[np.float64]]],
    then: Callable[[NDArray[np.float64]], NDArray[np.float64]] = np.asarray,
) -> Any:
    """Return `Metric.weighted` of a metric that is one sum over the examples ÷ another one.

    parts: examples, predictions → what is added up above and below the line [rows].  then: what is
    done with the ratio.
    """

    def weighted(examples: pl.DataFrame, predicted: NDArray[np.float64]) -> Any:
        above_below = parts(examples, predicted)
        of_units: list[NDArray[np.float64]] = []  # the same in all draws

        def of(drawn: Drawn) -> NDArray[np.float64]:
            if not of_units:
                of_units.extend(drawn.by_unit(values) for values in above_below)
            above, below = (drawn.units @ values for values in of_units)
            ratio = np.full(len(above), np.nan)  # where nothing that counts was drawn
            return then(np.divide(above, below, out=ratio, where=below > 0))

        return of

    return weighted


def deciding(metric: Metric) -> int:
    """Return how many draws decide by a metric: fewer where each costs the whole metric.

    >>> from seq_ml.metrics.metric import Metric
    >>> deciding(Metric("mae", False, lambda rows, p: 0.0)) == RESAMPLES < DECIDING
    True
    """
    return DECIDING if metric.weighted or metric.per_unit else RESAMPLES


def resample(
    units: int, seed: int | Sequence[int], resamples: int = RESAMPLES
) -> Iterator[NDArray[np.float64]]:
    """Yield how often each unit was drawn, f64 [draws, units], some draws at a time.

    As many units are drawn, with replacement, as there are. Draws depend on `units` and `seed`
    alone: more resamples begin with the same ones.

    >>> for counts in resample(5, seed=7, resamples=2):
    ...     print(counts)
    [[0. 0. 1. 2. 2.]
     [1. 2. 0. 1. 1.]]
    """
    rng = np.random.default_rng(seed)
    at_once = max(1, min(DRAWS_AT_ONCE, COUNTS_AT_ONCE // max(units, 1)))
    for start in range(0, resamples, at_once):
        counts = np.empty((min(at_once, resamples - start), units))
        for row in counts:
            row[:] = np.bincount(rng.integers(0, units, size=units), minlength=units)
        yield counts


def mean_draws(
    values: NDArray[np.float64], *, seed: int | Sequence[int], resamples: int = RESAMPLES
) -> list[Draws]:
    """Return the mean of each column of `values` [units, columns], all on the same draws.

    NaN is a unit without a value: it counts in no mean, and a mean of none is NaN.

    >>> values = np.array([[1.0, 0.0], [3.0, np.nan], [2.0, 1.0]])
    >>> [draws.value for draws in mean_draws(values, seed=7)]
    [2.0, 0.5]
    """
    present = ~np.isnan(values)
    filled, weights = np.where(present, values, 0.0), present.astype(np.float64)
    with np.errstate(invalid="ignore"):  # 0 / 0: no unit with a value was drawn
        drawn = [(n @ filled) / (n @ weights) for n in resample(len(values), seed, resamples)]
    return [
        Draws(float(column[there].mean()) if there.any() else float("nan"), means, int(there.sum()))
        for column, there, means in zip(values.T, present.T, np.concatenate(drawn).T, strict=True)
    ]


def mean_estimate(
    values: NDArray[np.float64], *, seed: int, resamples: int = RESAMPLES
) -> Estimate:
    """Return the mean of one value per unit [n], its interval by resampling the units.

    >>> print(mean_estimate(np.arange(100.0), seed=7))
    49.5 [43.7, 54.8]
    """
    if not len(values):
        return Estimate(float("nan"), float("nan"), float("nan"))
    return mean_draws(values[:, None], seed=seed, resamples=resamples)[0].estimate()


def evaluate(metric: Metric, examples: pl.DataFrame, predictions: NDArray[np.float64]) -> float:
    """Return one metric of predictions [n] or [n, k] on labelled examples.

    >>> from seq_ml.metrics.probabilities import binary_metrics
    >>> examples = pl.DataFrame({"label": [0, 1, 0, 1]})
    >>> roc_auc = binary_metrics()[0]
    >>> evaluate(roc_auc, examples, np.array([0.1, 0.8, 0.4, 0.3]))
    0.75
    """
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
    cluster: pl.Series | None = None,
) -> dict[str, dict[str, Draws]]:
    """Return {candidate: {metric: Draws}}, all candidates on the same draws of units.

    A `per_unit` metric resamples its values; every other metric is computed again on each resample.
    The order of the rows does not matter beyond ties, the order of the units not at all.  cluster:
    [rows] what is drawn beside the units, if anything; of a single one nothing can be said, and
    intervals are NaN.

    >>> from seq_ml.metrics.probabilities import binary_metrics
    >>> examples = pl.DataFrame({"user_id": range(40), "label": [0, 1] * 20})
    >>> predictions = {"model": np.tile([0.2, 0.7], 20), "rate": np.full(40, 0.5)}
    >>> draws = bootstrap(binary_metrics(), examples, predictions, unit="user_id", seed=7)
    >>> print(draws["rate"]["brier"].minus(draws["model"]["brier"]))
    0.1850 [0.1775, 0.1926]
    """
    draws = _draws(metrics, examples, predictions, examples[unit], seed, resamples, by_unit=True)
    if cluster is not None:
        shared = _draws(
            metrics, examples, predictions, cluster, (seed, 1), resamples, by_unit=False
        )
        draws = {key: replace(drawn, beside=shared[key]) for key, drawn in draws.items()}
    for key in [(name, m.name) for name in predictions for m in metrics if m.gaps]:
        draws[key] = length(draws[key])
    return {name: {m.name: draws[name, m.name] for m in metrics} for name in predictions}


def length(gaps: Draws) -> Draws:
    """Return the length of a vector of gaps, without the noise that makes it too long.

    gaps: value [k], resampled [resamples, k]. Gaps are means: the square of their length is too
    large by their variances, which the resamples tell, also where rows of a unit are alike (Efron &
    Tibshirani 1993, chapter 10). For the interval the gaps are as much shorter.

    >>> drawn = np.array([[0.5, 0.1], [0.7, -0.1], [0.5, -0.1], [0.7, 0.1]])
    >>> print(length(Draws(np.array([0.6, 0.0]), drawn)).estimate())
    0.58 [0.47, 0.68]
    """
    of: Any = gaps.value
    scatter, units = gaps.resampled - of, gaps.units
    if gaps.beside is not None:
        scatter = scatter + gaps.beside.resampled - of
        units = min(u for u in (units, gaps.beside.units) if u is not None)
    noise, square = float(np.nanmean((scatter**2).sum(axis=1))), float((of**2).sum())
    left = max(square - noise, 0.0)
    shorter = of * (np.sqrt(left / square) if square else 0.0)
    squares = ((shorter + scatter) ** 2).sum(axis=1) - noise
    return Draws(float(np.sqrt(left)), np.sqrt(np.maximum(squares, 0.0)), units)


def _draws(
    metrics: Sequence[Metric],
    examples: pl.DataFrame,
    predictions: Mapping[str, NDArray[np.float64]],
    column: pl.Series,
    seed: int | Sequence[int],
    resamples: int,
    *,
    by_unit: bool,
) -> dict[tuple[str, str], Draws]:
    """Draw the units of a column. by_unit: they are those that a `per_unit` metric speaks of."""
    units = column.unique().sort()
    keys = [(name, metric) for name in predictions for metric in metrics]
    means_of = [key for key in keys if key[1].per_unit and (by_unit or not key[1].weighted)]
    draws: dict[tuple[str, str], Draws] = {}
    if means_of:
        values = [_by_unit(m.function(examples, predictions[name]), units) for name, m in means_of]
        means = mean_draws(np.stack(values, axis=1), seed=seed, resamples=resamples)
        draws = {(name, m.name): drawn for (name, m), drawn in zip(means_of, means, strict=True)}
    whole = [(name, m) for name, m in keys if (name, m.name) not in draws]
    if not whole:
        return draws
    told = {
        (name, m.name): (m.weighted or _one_by_one(m))(examples, predictions[name])
        for name, m in whole
    }
    unit_of = column.replace_strict(units, range(len(units))).to_numpy()
    found: dict[tuple[str, str], list[NDArray[np.float64]]] = {key: [] for key in told}
    for counts in resample(len(units), seed, resamples):
        for part in _some(counts, examples.height):
            drawn = Drawn(part, unit_of)
            for key, of in told.items():
                found[key].append(of(drawn))
    telling = _telling(examples, column)
    once = Drawn(np.ones((1, len(units))), unit_of)
    for name, metric in whole:
        if metric.gaps:
            (value,) = told[name, metric.name](once)
        else:
            value = evaluate(metric, examples, predictions[name])
        resampled = np.concatenate(found[name, metric.name])
        draws[name, metric.name] = Draws(value, resampled, telling)
    return draws


def _some(counts: NDArray[np.float64], rows: int) -> Iterator[NDArray[np.float64]]:
    at_once = max(1, COUNTS_AT_ONCE // max(rows, 1))
    for start in range(0, len(counts), at_once):
        yield counts[start : start + at_once]


def _one_by_one(metric: Metric) -> Any:
    """Return `Metric.weighted` of a metric that has none: its function on every resample."""

    def weighted(examples: pl.DataFrame, predicted: NDArray[np.float64]) -> Any:
        def of(drawn: Drawn) -> NDArray[np.float64]:
            values = []
            for counts in drawn.rows().astype(np.int64):
                rows = np.repeat(np.arange(len(counts)), counts)
                if len(rows):
                    values.append(float(metric.function(examples[rows], predicted[rows])))
                else:
                    values.append(float("nan"))
            return np.array(values)

        return of

    return weighted


def _telling(examples: pl.DataFrame, unit: pl.Series) -> int:
    """Return how many units say something: of a 0/1 label those with the rarer one, else all."""
    label = examples["label"] if "label" in examples.columns else pl.Series([None])
    if label.dtype.is_numeric() and ((label == 0) | (label == 1)).all():
        frame = pl.DataFrame({"label": label, "unit": unit})
        of_class = frame.group_by("label").agg(pl.col("unit").n_unique())
        return int(of_class["unit"].min()) if of_class.height == 2 else 0  # type: ignore[arg-type]
    return int(unit.n_unique())


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
