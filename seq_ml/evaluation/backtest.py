"""Judge the candidates of a task by the protocol of `seq_ml.tasks.task`.

Fit on `fit`, choose on `validation`, fit again on everything before the test window, judge once on
`test`. What was judged is what is published; nothing of `test` reaches a fitted candidate.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from seq_ml.metrics.bootstrap import LEVEL, Estimate, bootstrap, evaluate
from seq_ml.tasks.judged import Backtest, Judged, Slice, Window
from seq_ml.tasks.models.examples import enough
from seq_ml.tasks.task import NotEnoughHistoryError, check_examples

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from datetime import datetime

    from numpy.typing import NDArray

    from seq_ml.metrics.bootstrap import Draws
    from seq_ml.metrics.metric import Metric
    from seq_ml.tasks.candidate import Model
    from seq_ml.tasks.task import Task

logger = logging.getLogger(__name__)

SMALLEST_SLICE, FEWEST_UNITS = 50, 10
"""Slices with fewer test examples, or of fewer users or items, are not shown: all chance."""
SLICE_RESAMPLES = 200
NO_MODEL = "no model could be fitted"


@dataclass(frozen=True)
class Choice:
    """What validation says: every candidate's metrics, why some are left out, and the best ones."""

    scores: dict[str, dict[str, float]]
    left_out: dict[str, str]
    model: str | None
    baseline: str
    selection: str


def backtest(task: Task, examples: pl.DataFrame, *, as_of: datetime, seed: int) -> Backtest:
    """Run the protocol and return what it found.

    examples: what `task.examples` returned. Rows of split "embargo" (their label windows overlap
    those of validation) are used only for the second fit, before the test window. A candidate
    whose `fit` raises NotEnoughHistoryError is left out and named in the report. Without rows of
    `validation` the choice is made on half of the units of `fit`, by candidates fitted on the
    other half: the same time, but other people; `selection` says so.

    Raises ValueError when the examples break the temporal rule, NotEnoughHistoryError when there
    is nothing to fit on, nothing to judge on, or no baseline.
    """
    check_examples(examples, task, as_of)
    before, test = halves(task, examples)
    metrics = task.metrics()
    primary = next(m for m in metrics if m.name == task.primary_metric)
    choice = choose(task, before, test, as_of, metrics)
    model, baseline = choice.model, choice.baseline
    fitted, predictions = refit(task, before, test, choice.scores)

    draws = bootstrap(metrics, test, predictions, unit=task.unit, seed=seed)
    improvement = paired(draws, model, baseline, primary) if model is not None else None
    published = published_name(model, baseline, improvement)
    judged = tuple(
        Judged(
            c.name,
            c.description,
            c.is_baseline,
            choice.scores.get(c.name, {}),
            {k: d.estimate() for k, d in draws[c.name].items()} if c.name in draws else {},
            choice.left_out.get(c.name),
            None
            if c.is_baseline or c.name not in draws
            else paired(draws, c.name, baseline, primary),
        )
        for c in task.candidates()
    )
    result = Backtest(
        task=task.name,
        title=task.title,
        as_of=as_of,
        primary=primary,
        windows=_windows(task, examples),
        selection=choice.selection,
        candidates=judged,
        model=model,
        baseline=baseline,
        improvement=improvement,
        published=fitted[published],
        verdict=_verdict(task, choice, improvement, primary),
        slices=tuple(_slices(task, test, primary, predictions, model, baseline, seed)),
        test=test,
        predictions=predictions,
    )
    logger.info("%s: %s", task.name, result.verdict)
    return result


def halves(task: Task, examples: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return what may be learnt from before the test window, and the test examples, sorted."""
    # Trees draw their samples by row number: the order of a table on disk may not change a model.
    order = ["origin", *task.key]
    test = pl.col("split") == "test"
    return examples.filter(~test).sort(order), examples.filter(test).sort(order)


def choose(
    task: Task,
    before: pl.DataFrame,
    test: pl.DataFrame,
    as_of: datetime,
    metrics: Sequence[Metric],
) -> Choice:
    """Fit every candidate on `fit` and judge it on `validation` by `metrics`, the primary included.

    Raises NotEnoughHistoryError when an example is lacking or no baseline can be fitted.
    """
    if not test.height or not before.height:
        lacking = "test" if not test.height else "fit"
        raise NotEnoughHistoryError(
            f"{task.name}: no '{lacking}' examples before {as_of:%Y-%m-%d}; load a longer history."
        )
    fit, validation, selection = _selection_sets(task, before)
    scores: dict[str, dict[str, float]] = {}
    left_out: dict[str, str] = {}
    of_kind: dict[bool, list[str]] = {True: [], False: []}
    for candidate in task.candidates():
        try:
            enough(candidate, before, task.unit)
            candidate.fit(fit)
        except NotEnoughHistoryError as reason:
            left_out[candidate.name] = str(reason)
            continue
        predicted = candidate.predict(validation)
        scores[candidate.name] = {m.name: evaluate(m, validation, predicted) for m in metrics}
        of_kind[candidate.is_baseline].append(candidate.name)
    primary = next(m for m in metrics if m.name == task.primary_metric)
    baseline = _best(of_kind[True], scores, primary)
    if baseline is None:
        why = _why_none(task, left_out, baselines=True)
        raise NotEnoughHistoryError(f"{task.name}: no baseline could be fitted: {why}.")
    return Choice(scores, left_out, _best(of_kind[False], scores, primary), baseline, selection)


def refit(
    task: Task, before: pl.DataFrame, test: pl.DataFrame, names: Collection[str]
) -> tuple[dict[str, Model], dict[str, NDArray[np.float64]]]:
    """Fit candidates on everything before the test window; return them and their predictions.

    before, test: what `halves` returned. Predictions: one row per test example, in order.
    """
    fitted, predictions = {}, {}
    for candidate in task.candidates():
        if candidate.name in names:
            candidate.fit(before)
            fitted[candidate.name] = candidate
            predictions[candidate.name] = candidate.predict(test)
    return fitted, predictions


def published_name(model: str | None, baseline: str, improvement: Estimate | None) -> str:
    """Name what is published: the model only where it beats the baseline beyond chance."""
    wins = model is not None and improvement is not None and improvement.low > 0
    return model if wins and model is not None else baseline


def paired(
    draws: dict[str, dict[str, Draws]],
    model: str,
    other: str,
    metric: Metric,
    *,
    tail: float = (1 - LEVEL) / 2,
) -> Estimate:
    """Return how much better a candidate is than another one, by a metric: positive is better.

    tail: chance beyond each end of the interval.
    """
    one, two = (draws[name][metric.name] for name in (model, other))
    better = one.less(two) if metric.higher_is_better else two.less(one)
    return better.estimate(tail)


def _selection_sets(task: Task, before: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame, str]:
    fit = before.filter(pl.col("split") == "fit")
    validation = before.filter(pl.col("split") == "validation")
    if fit.height and validation.height:
        return fit, validation, "chosen on later label windows (validation)"
    units = before.select(pl.col(task.unit).unique().sort())
    half = units.gather_every(2)
    return (
        before.join(half, on=task.unit, how="semi", maintain_order="left"),
        before.join(half, on=task.unit, how="anti", maintain_order="left"),
        f"history too short for a validation window: chosen on the other half of the {task.unit}s",
    )


def _best(names: list[str], scores: dict[str, dict[str, float]], primary: Metric) -> str | None:
    """Name of the best candidate on validation; the first one where they tie, None of none."""
    sign = 1.0 if primary.higher_is_better else -1.0
    worst = float("-inf")
    ranked = {name: sign * scores[name][primary.name] for name in names}
    return max(names, key=lambda n: worst if np.isnan(ranked[n]) else ranked[n], default=None)


def _why_none(task: Task, left_out: dict[str, str], *, baselines: bool) -> str:
    """Say why no candidate of a kind could be fitted: what the one that asks for least said."""
    kind = [c for c in task.candidates() if c.is_baseline == baselines]
    easiest = min(kind, key=lambda c: getattr(c, "fewest", 0), default=None)
    if easiest is None:
        return "there is none"
    return f"{easiest.name}: {left_out[easiest.name].removeprefix(f'{easiest.name}: ')}"


def _verdict(task: Task, choice: Choice, improvement: Estimate | None, primary: Metric) -> str:
    model, baseline = choice.model, choice.baseline
    if model is None or improvement is None:
        why = _why_none(task, choice.left_out, baselines=False)
        return f"The baseline '{baseline}' is published: {NO_MODEL}: {why}."
    if np.isnan(improvement.value):
        return (
            f"The baseline '{baseline}' is published: the test window does not tell it from the "
            f"model '{model}', as {primary.name} is not defined there."
        )
    gain = f"{improvement.value:+.4g} {primary.name}, 95 % interval [{improvement.low:+.4g}, "
    gain += f"{improvement.high:+.4g}]"
    gain += "" if primary.higher_is_better else "; above 0 the model errs less"
    if improvement.low > 0:
        return f"The model '{model}' is published: it beats the baseline '{baseline}' by {gain}."
    return (
        f"The baseline '{baseline}' is published: the model '{model}' does not beat it beyond "
        f"chance ({gain})."
    )


def _windows(task: Task, examples: pl.DataFrame) -> dict[str, Window]:
    windows = {}
    for split in ("fit", "embargo", "validation", "test"):
        rows = examples.filter(pl.col("split") == split)
        if rows.height:
            windows[split] = Window(
                rows.height,
                rows[task.unit].n_unique(),
                rows["origin"].n_unique(),
                rows["origin"].min(),  # type: ignore[arg-type]
                rows["origin"].max(),  # type: ignore[arg-type]
                rows["label_end"].max(),  # type: ignore[arg-type]
            )
    return windows


def _slices(
    task: Task,
    test: pl.DataFrame,
    primary: Metric,
    predictions: dict[str, NDArray[np.float64]],
    model: str | None,
    baseline: str,
    seed: int,
) -> list[Slice]:
    slices = []
    for column in task.slices:
        for value in test[column].drop_nulls().unique().sort():
            rows = (test[column] == value).fill_null(value=False).to_numpy()
            part = test.filter(pl.Series(rows))
            if part.height < SMALLEST_SLICE or part[task.unit].n_unique() < FEWEST_UNITS:
                continue
            predicted = {name: predictions[name][rows] for name in (model, baseline) if name}
            draws = bootstrap(
                [primary], part, predicted, unit=task.unit, seed=seed, resamples=SLICE_RESAMPLES
            )
            slices.append(
                Slice(
                    column,
                    str(value),
                    part.height,
                    draws[model or baseline][primary.name].estimate(),
                    draws[baseline][primary.name].estimate(),
                    paired(draws, model, baseline, primary) if model else None,
                )
            )
    return slices
