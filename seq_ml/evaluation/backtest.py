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

from seq_ml.metrics.bootstrap import bootstrap, deciding, evaluate
from seq_ml.metrics.estimate import LEVEL, Estimate
from seq_ml.tasks.candidate import extends, reads_encoder
from seq_ml.tasks.judged import Backtest, Judged, Part, Slice, Window
from seq_ml.tasks.models.examples import enough
from seq_ml.tasks.task import NotEnoughHistoryError, check_examples

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence
    from datetime import datetime

    from numpy.typing import NDArray

    from seq_ml.metrics.estimate import Draws
    from seq_ml.metrics.metric import Metric
    from seq_ml.tasks.candidate import Model
    from seq_ml.tasks.task import Task

logger = logging.getLogger(__name__)

SMALLEST_SLICE, FEWEST_UNITS = 50, 10
"""Slices with fewer test examples, or of fewer users or items, are not shown: all chance."""
SLICE_RESAMPLES = 200
NO_MODEL = "no model could be fitted"
UNDEFINED = Estimate(float("nan"), float("nan"), float("nan"))


@dataclass(frozen=True)
class Choice:
    """What validation says: every candidate's metrics, why some are left out, and the best ones.

    model, baseline: of those whose parts earned their place. parts: (candidate, the same without
    what it adds) → its paired increment. late: the best candidate whose encoder was fitted on
    events of the validation window, where that window says that it is better than `model`: only
    the test can tell.
    """

    scores: dict[str, dict[str, float]]
    left_out: dict[str, str]
    model: str | None
    baseline: str
    selection: str
    parts: dict[tuple[str, str], Estimate]
    late: str | None = None


def backtest(
    task: Task,
    examples: pl.DataFrame,
    *,
    as_of: datetime,
    seed: int,
    encoder_saw: datetime | None = None,
) -> Backtest:
    """Run the protocol and return what it found.

    examples: what `task.examples` returned. Rows of split "embargo" (their label windows overlap
    those of validation) are used only for the second fit, before the test window. A candidate
    whose `fit` raises NotEnoughHistoryError is left out and named in the report. Without rows of
    `validation` the choice is made on half of the units of `fit`, by candidates fitted on the
    other half: the same time, but other people; `selection` says so.

    A candidate that extends another one competes only if what it adds is better than nothing beyond
    chance on validation. encoder_saw: when the events ended that the encoder was fitted on. Where
    that is within the validation window, a candidate that reads it cannot be chosen there: the best
    of them takes the chosen one's place if it is better beyond chance on the test window.

    Raises ValueError when the examples break the temporal rule, NotEnoughHistoryError when there
    is nothing to fit on, nothing to judge on, or no baseline.
    """
    check_examples(examples, task, as_of)
    before, test = halves(task, examples)
    metrics = task.metrics()
    primary = next(m for m in metrics if m.name == task.primary_metric)
    choice = choose(task, before, test, as_of, metrics, seed=seed, encoder_saw=encoder_saw)
    model, baseline = choice.model, choice.baseline
    fitted, predictions = refit(task, before, test, choice.scores)

    draws = bootstrap(
        metrics, test, predictions, unit=task.unit, seed=seed, cluster=task.cluster(test)
    )
    parts = list(_parts(choice, draws, primary))
    if choice.late is not None and model is not None:
        adds, _ = improvement_of(task, test, predictions, choice.late, model, primary, seed)
        earned = adds.low > 0
        parts.append(Part(choice.late, model, UNDEFINED, adds, earned, "test"))
        model = choice.late if earned else model
    improvement = None
    if model is not None:
        improvement, _ = improvement_of(task, test, predictions, model, baseline, primary, seed)
    published = published_name(model, baseline, improvement)
    said = verdict(model, baseline, improvement, primary)
    if model is None:
        said = f"{said.removesuffix('.')}: {_why_none(task, choice.left_out, baselines=False)}."
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
        verdict=said,
        slices=tuple(_slices(task, test, primary, predictions, model, baseline, seed)),
        test=test,
        predictions=predictions,
        fitted=fitted,
        parts=tuple(parts),
    )
    logger.info("%s: %s", task.name, result.verdict)
    return result


def _parts(choice: Choice, draws: dict[str, dict[str, Draws]], primary: Metric) -> Iterator[Part]:
    for (name, without), validation in choice.parts.items():
        test = paired(draws, name, without, primary)
        yield Part(name, without, validation, test, validation.low > 0)


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
    *,
    seed: int,
    encoder_saw: datetime | None = None,
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
    saw = encoder_saw is not None and encoder_saw > validation["origin"].min()  # type: ignore[operator]
    predicted: dict[str, NDArray[np.float64]] = {}
    scores: dict[str, dict[str, float]] = {}
    left_out: dict[str, str] = {}
    fitted: list[Model] = []
    for candidate in task.candidates():
        try:
            enough(candidate, before, task.unit)
            candidate.fit(fit)
        except NotEnoughHistoryError as reason:
            left_out[candidate.name] = str(reason)
            continue
        values = predicted[candidate.name] = candidate.predict(validation)
        scores[candidate.name] = {m.name: evaluate(m, validation, values) for m in metrics}
        fitted.append(candidate)
    primary = next(m for m in metrics if m.name == task.primary_metric)
    baseline = _best([c.name for c in fitted if c.is_baseline], scores, primary)
    if baseline is None:
        why = _why_none(task, left_out, baselines=True)
        raise NotEnoughHistoryError(f"{task.name}: no baseline could be fitted: {why}.")
    models = [c for c in fitted if not c.is_baseline]
    late = [c.name for c in models if saw and reads_encoder(c)]
    parts = {
        (c.name, without): improvement_of(
            task, validation, predicted, c.name, without, primary, seed
        )[0]
        for c in models
        for without in extends(c)
        if c.name not in late and without in predicted
    }
    idle = {name for (name, _), adds in parts.items() if not adds.low > 0}
    model = _best([c.name for c in models if c.name not in {*idle, *late}], scores, primary)
    best = _best([*filter(None, [model]), *late], scores, primary)
    model = best if model is None else model
    return Choice(
        scores,
        left_out,
        model,
        baseline,
        selection,
        parts,
        best if best in late and best != model else None,
    )


def improvement_of(
    task: Task,
    examples: pl.DataFrame,
    predictions: Mapping[str, NDArray[np.float64]],
    model: str,
    other: str,
    metric: Metric,
    seed: int,
    *,
    tail: float = (1 - LEVEL) / 2,
) -> tuple[Estimate, dict[str, Draws]]:
    """Return how much better a candidate is than another one, by as many draws as decide.

    Beside it the draws of either. tail: chance beyond each end of the interval.
    """
    both = {name: predictions[name] for name in (model, other)}
    draws = bootstrap(
        [metric],
        examples,
        both,
        unit=task.unit,
        seed=seed,
        resamples=deciding(metric),
        cluster=task.cluster(examples),
    )
    found = {name: of_it[metric.name] for name, of_it in draws.items()}
    return paired(draws, model, other, metric, tail=tail), found


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


def published_name(
    model: str | None,
    baseline: str,
    newest: Estimate | None,
    pooled: Estimate | None = None,
) -> str:
    """Name what is published: the model only where it beats the baseline beyond chance.

    newest: on the newest window alone; pooled: on it and the earlier ones together, None without
    any. All windows decide, the newest one may veto: there the model may not be worse beyond
    chance.
    """
    if model is None or newest is None or np.isnan(newest.value):
        return baseline
    whole = newest if pooled is None else pooled
    return model if whole.low > 0 and not newest.high < 0 else baseline


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
    why = left_out.get(easiest.name, "what it adds is not better than nothing beyond chance")
    return f"{easiest.name}: {why.removeprefix(f'{easiest.name}: ')}"


def verdict(
    model: str | None,
    baseline: str,
    newest: Estimate | None,
    primary: Metric,
    pooled: Estimate | None = None,
    windows: int = 1,
) -> str:
    """Say what wins and why; the arguments are those of `published_name`."""
    if model is None or newest is None:
        return f"The baseline '{baseline}' wins: {NO_MODEL}."
    if np.isnan(newest.value):
        return (
            f"The baseline '{baseline}' wins: the test window does not tell it from the "
            f"model '{model}', as {primary.name} is not defined there."
        )
    whole = newest if pooled is None else pooled
    gain = f"{whole.value:+.4g} {primary.name}"
    gain += (
        ", of too few to say how far that is chance"
        if np.isnan(whole.low)
        else f", 95 % interval [{whole.low:+.4g}, {whole.high:+.4g}]"
    )
    if pooled is not None:
        gain += f", over {windows} windows; {newest.value:+.4g} in the newest"
    gain += "" if primary.higher_is_better else "; above 0 the model errs less"
    if published_name(model, baseline, newest, pooled) == model:
        return f"The model '{model}' wins: it beats the baseline '{baseline}' by {gain}."
    why = "is worse than it beyond chance in the newest window"
    if not whole.low > 0:
        why = "does not beat it beyond chance"
    return f"The baseline '{baseline}' wins: the model '{model}' {why} ({gain})."


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
    for column, value, rows in parts_of(task, test):
        part = test.filter(pl.Series(rows))
        predicted = {name: predictions[name][rows] for name in (model, baseline) if name}
        draws = bootstrap(
            [primary],
            part,
            predicted,
            unit=task.unit,
            seed=seed,
            resamples=SLICE_RESAMPLES,
            cluster=task.cluster(part),
        )
        slices.append(
            Slice(
                column,
                value,
                part.height,
                draws[model or baseline][primary.name].estimate(),
                draws[baseline][primary.name].estimate(),
                paired(draws, model, baseline, primary) if model else None,
            )
        )
    return slices


def parts_of(task: Task, test: pl.DataFrame) -> Iterator[tuple[str, str, NDArray[np.bool_]]]:
    """Yield column, value and rows [n] of each slice that is large enough to be judged."""
    for column in task.slices:
        for value in test[column].drop_nulls().unique().sort():
            rows = (test[column] == value).fill_null(value=False).to_numpy()
            units = test[task.unit].filter(pl.Series(rows))
            if len(units) >= SMALLEST_SLICE and units.n_unique() >= FEWEST_UNITS:
                yield column, str(value), rows
