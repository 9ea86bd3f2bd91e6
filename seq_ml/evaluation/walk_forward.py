"""Walk forward: the whole protocol again at earlier `as_of` dates, as if it had been run then.

Rolling-origin evaluation (Tashman 2000, "Out-of-sample tests of forecasting accuracy"): one test
window may flatter or wrong a model, several that do not overlap show whether a verdict lasts. Each
earlier fold chooses, refits and judges on its own windows; only its chosen model and baseline are
fitted again and judged. What is published rests on all windows together; the newest one may veto.
All folds ask today's question: their windows have the lengths that
`Periods` have now, though the rhythm they follow from was measured later.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from seq_ml.evaluation.backtest import (
    UNDEFINED,
    choose,
    halves,
    improvement_of,
    published_name,
    refit,
    verdict,
)
from seq_ml.evaluation.leakage import known_before
from seq_ml.metrics.bootstrap import evaluate
from seq_ml.metrics.metric import Metric
from seq_ml.tasks.candidate import reads_encoder, reads_ladder
from seq_ml.tasks.judged import Fold
from seq_ml.tasks.task import EARLIER_FOLDS, NotEnoughHistoryError, check_examples

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from datetime import datetime

    from numpy.typing import NDArray

    from seq_ml.metrics.bootstrap import Drawn
    from seq_ml.metrics.estimate import Estimate
    from seq_ml.tasks.data import TaskData
    from seq_ml.tasks.judged import Backtest
    from seq_ml.tasks.task import Task

MANY_EXAMPLES = 200_000
"""A round of more examples than these is costly: one earlier fold must do."""
WITHOUT_ENCODER = "without encoder candidates: the encoder was fitted on events after this window"
FOLD = "fold of the walk-forward"
"""Column that tells pooled folds apart; a name that no task uses."""


@dataclass(frozen=True)
class _Tested:
    """Test examples of a fold, predictions of some candidates, its best model and baseline."""

    test: pl.DataFrame
    predictions: Mapping[str, NDArray[np.float64]]
    model: str | None
    baseline: str


def walk_forward(
    task: Task, data: TaskData, newest: Backtest, examples: pl.DataFrame, *, seed: int
) -> Backtest:
    """Return the backtest with up to two earlier folds, and the verdict over all windows.

    examples: those that the newest round was judged on; earlier ones are made beside them.
    Each fold's `as_of` is the business midnight at which the next one's test window begins, or the
    one before it: test windows follow each other and never overlap. Where the history is too short
    for another fold, there are fewer.
    """
    metric = newest.primary
    many = sum(window.examples for window in newest.windows.values()) > MANY_EXAMPLES
    at_most = 1 if many else EARLIER_FOLDS
    beside = () if newest.model is None else task.predicts_beside(newest.model)
    models = {candidate.name: candidate for candidate in task.candidates()}
    note = WITHOUT_ENCODER if data.encoder and any(map(reads_encoder, models.values())) else ""
    parts = [part for part in newest.parts if reads_ladder(models[part.name])]
    wanted = {*beside, *(name for part in parts for name in (part.name, part.without))}
    tested = [_Tested(newest.test, newest.predictions, newest.model, newest.baseline)]
    folds: list[Fold] = []
    first_test = newest.windows["test"].first_origin
    for _ in range(at_most):
        as_of = data.business.midnight(data.business.day_of(first_test))
        past = replace(known_before(data, as_of, newest.as_of), encoder=None)
        try:
            examples = task.earlier_examples(past, as_of, examples)
            fold, judged = _fold(task, examples, as_of, metric, note, wanted, seed)
        except NotEnoughHistoryError:
            break
        folds.append(fold)
        first_test = judged.test["origin"].min()  # type: ignore[assignment]
        tested.append(judged)

    def over_all(name: str, other: str | None = None) -> Estimate | None:
        """Pool a candidate's lead over another, or over the baseline, where both were fitted."""
        pairs = [(fold, name, other or fold.baseline) for fold in tested]
        there = [pair for pair in pairs if {*pair[1:]} <= {*pair[0].predictions}]
        return _pooled(task, there, metric, seed) if len(there) > 1 else None

    added = {(part.name, part.without): over_all(part.name, part.without) for part in parts}
    newest = replace(
        newest,
        walk_forward=tuple(folds),
        parts=tuple(replace(p, pooled=added.get((p.name, p.without))) for p in newest.parts),
    )
    with_model = [(fold, fold.model, fold.baseline) for fold in tested if fold.model is not None]
    if newest.model is None or len(with_model) < 2:
        return newest
    pooled = _pooled(task, with_model, metric, seed)
    of_others = {name: over_all(name) for name in beside}
    found = (newest.model, newest.baseline, newest.improvement)
    return replace(
        newest,
        pooled=pooled,
        candidates=tuple(replace(c, pooled=of_others.get(c.name)) for c in newest.candidates),
        published=newest.fitted[published_name(*found, pooled)],
        verdict=verdict(*found, metric, pooled, len(with_model)),
    )


def _fold(
    task: Task,
    examples: pl.DataFrame,
    as_of: datetime,
    metric: Metric,
    note: str,
    wanted: Collection[str],
    seed: int,
) -> tuple[Fold, _Tested]:
    check_examples(examples, task, as_of)
    before, test = halves(task, examples)
    choice = choose(task, before, test, as_of, [metric], seed=seed)
    model, baseline = choice.model, choice.baseline
    names = [name for name in (model, baseline, *wanted) if name in choice.scores]
    _, predictions = refit(task, before, test, names)
    improvement, draws = improvement_of(
        task, test, predictions, model or baseline, baseline, metric, seed
    )
    fold = Fold(
        as_of=as_of,
        model=model,
        baseline=baseline,
        published=published_name(model, baseline, improvement),
        model_value=UNDEFINED if model is None else draws[model].estimate(),
        baseline_value=draws[baseline].estimate(),
        improvement=None if model is None else improvement,
        examples=test.height,
        note=note,
    )
    return fold, _Tested(test, predictions, model, baseline)


def _pooled(
    task: Task, tested: Sequence[tuple[_Tested, str, str]], metric: Metric, seed: int
) -> Estimate:
    """Mean over the folds of one − other, units drawn once for all folds; positive is better.

    tested: the folds, each with the names of the two candidates. A user who is in several windows
    is drawn into all of them: their errors are not independent.
    """
    frames = [
        fold.test.with_columns(pl.lit(number, dtype=pl.Int32).alias(FOLD))
        for number, (fold, *_) in enumerate(tested)
    ]
    examples = pl.concat(frames, how="diagonal_relaxed")
    predictions = {
        "one": np.concatenate([fold.predictions[one] for fold, one, _ in tested]),
        "other": np.concatenate([fold.predictions[other] for fold, _, other in tested]),
    }
    mean = Metric(
        metric.name,
        metric.higher_is_better,
        lambda rows, predicted: _over_folds(metric, rows, predicted),
        per_unit=metric.per_unit,
        weighted=metric.weighted and partial(_weighted_over_folds, metric),
    )
    return improvement_of(task, examples, predictions, "one", "other", mean, seed)[0]


def _weighted_over_folds(metric: Metric, rows: pl.DataFrame, predicted: NDArray[np.float64]) -> Any:
    """As `_over_folds`, of many resamples at once (see `Metric.weighted`)."""
    folds = rows[FOLD].to_numpy()
    parts = [folds == number for number in np.unique(folds)]
    told = [metric.weighted(rows.filter(pl.Series(part)), predicted[part]) for part in parts]

    def of(drawn: Drawn) -> NDArray[np.float64]:
        values = [of_fold(drawn.of(part)) for of_fold, part in zip(told, parts, strict=True)]
        return np.asarray(np.mean(values, axis=0))

    return of


def _over_folds(
    metric: Metric, rows: pl.DataFrame, predicted: NDArray[np.float64]
) -> float | pl.DataFrame:
    """Return the mean of the folds' metric, or for a metric by unit the values whose mean it is.

    A unit's value is the sum of its values, each divided by its fold's share of all values.
    """
    folds = rows[FOLD].to_numpy()
    numbers = np.unique(folds)
    parts = [(rows.filter(pl.col(FOLD) == n), predicted[folds == n]) for n in numbers]
    if not metric.per_unit:
        return float(np.mean([evaluate(metric, part, p) for part, p in parts]))
    values = [metric.function(part, p).select("unit", "value").drop_nulls() for part, p in parts]
    values = [v for v in values if v.height]
    if not values:
        return pl.DataFrame(schema={"unit": pl.String, "value": pl.Float64})
    units = pl.concat([v.select("unit") for v in values]).n_unique()
    weighted = [v.with_columns(pl.col("value") * units / (len(values) * v.height)) for v in values]
    summed: pl.DataFrame = pl.concat(weighted).group_by("unit").agg(pl.col("value").sum())
    return summed.sort("unit")
