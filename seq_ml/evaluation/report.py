"""The report of a backtest: the verdict in one sentence, then what it rests on.

Against the baselines, all metrics, earlier windows, calibration, what the list finds, slices, a few
examples, what the task adds, limits. No row names a user: an erasure cannot reach a page that was
sent to somebody.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from seq_ml.evaluation.predictions import (
    calibration,
    compared,
    examples,
    gains,
    reliability_table,
    role,
)
from seq_ml.pages.figures import MODEL, OTHER, Row, intervals
from seq_ml.pages.page import Page, Section

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from seq_ml.metrics.estimate import Estimate
    from seq_ml.metrics.metric import Metric
    from seq_ml.tasks.judged import Backtest, Judged
    from seq_ml.tasks.task import Task

LONG_SLICE = 24
"""Where a slice's name and value have more characters, the figure shows the values only."""
UNITS = {"user_id": "users", "item_id": "items", "campaign_id": "campaigns"}


def report_page(
    result: Backtest,
    task: Task,
    sections: Sequence[Section] = (),
    lineage: Mapping[str, object] | None = None,
    fate: str = "",
) -> Page:
    """Return the report of a backtest.

    sections: what `task.sections` returned. lineage: what the result was made from, by name. fate:
    whether the winner becomes the champion, which alone is published.
    """
    wins = not result.published.is_baseline
    appendix = [_every_candidate(result), *reliability_table(result), _windows(result)]
    if lineage:
        rows = [(name, str(value)) for name, value in sorted(lineage.items())]
        appendix.append(Section("Where it comes from", rows=(("what", "version"), *rows)))
    return Page(
        eyebrow=f"Seqline · {result.task} · as of {result.as_of:%Y-%m-%d %H:%M} UTC",
        title=result.title,
        headline="The model wins" if wins else "The simple method wins",
        verdict=" ".join(filter(None, (result.verdict, fate))),
        good=wins,
        facts=tuple(_facts(result, task)),
        sections=(
            _against_baselines(result),
            *_added(result),
            _all_metrics(result, task),
            *_earlier_windows(result),
            *calibration(result),
            *gains(result),
            *_slices(result),
            *examples(result, task),
            *sections,
            _limits(result, task),
        ),
        appendix=tuple(appendix),
        foot="Intervals in brackets hold the true value with 95 % confidence. Times are UTC.",
    )


def _facts(result: Backtest, task: Task) -> list[tuple[str, str]]:
    primary, test = result.primary.name, result.windows["test"]
    scores = {c.name: c.test[primary] for c in result.candidates if primary in c.test}
    published = result.published.name
    facts = [("Winner", published), (f"Its {primary}", str(scores[published]))]
    if published != result.baseline:
        facts.append((f"Best simple method: {result.baseline}", str(scores[result.baseline])))
    elif result.model is not None:
        facts.append((f"Best model: {result.model}", str(scores[result.model])))
    if result.improvement is not None:
        facts.append(("Model minus simple, paired", result.improvement.signed()))
    what = f"{test.examples:,} examples of {test.units:,} {UNITS.get(task.unit, task.unit)}"
    days = f"{test.first_origin:%Y-%m-%d} to {test.last_label_end:%Y-%m-%d}"
    return [*facts, ("Judged on", what), ("Outcomes of", days)]


def _against_baselines(result: Backtest) -> Section:
    primary = result.primary
    direction = "higher" if primary.higher_is_better else "lower"
    text = (
        f"{primary.name} ({direction} is better): {primary.description} Every candidate was fitted "
        "on the past and judged once on the same later window."
    )
    if result.improvement is not None:
        text += (
            f"\n\nPaired difference of '{result.model}' over '{result.baseline}' on the same "
            f"examples, positive is better: {result.improvement.signed()}."
        )
    rows = [("candidate", f"{primary.name} on the test window", "on validation", "what it is")]
    drawn = []
    for candidate in result.candidates:
        name, what = _marked(candidate, result), candidate.description
        if candidate.left_out:
            rows.append((f"{name}: left out", candidate.left_out, "", what))
            continue
        estimate = candidate.test[primary.name]
        chosen_on = candidate.validation.get(primary.name, float("nan"))
        shown = "–" if np.isnan(chosen_on) else f"{chosen_on:#.3g}".removesuffix(".")
        rows.append((name, str(estimate), shown, what))
        drawn.append(Row(candidate.name, estimate, role(candidate.name, result)))
    figure = intervals(f"{primary.name} on the test window", drawn)
    return Section("Against the baselines", text, tuple(rows), (figure,))


def _added(result: Backtest) -> list[Section]:
    """Say what each part adds to the same candidate without it."""
    if not result.parts:
        return []
    on = f"{result.primary.name}, paired"
    columns = (f"{on}, validation", f"{on}, test window", "all test windows")
    rows: list[tuple[str, ...]] = [("candidate", "added to", *columns, "earned it")]
    for part in result.parts:
        earned = ("yes" if part.earned else "no") + (", on the test" if part.on == "test" else "")
        found = map(_signed, (part.validation, part.test, part.pooled))
        rows.append((part.name, part.without, *found, earned))
    text = (
        "A candidate that adds something to another one competes only if what it adds is better "
        "than nothing beyond chance on validation; else the simpler one does. Positive is better. "
        "What an encoder adds that was fitted on events of the validation window is judged on the "
        "test window."
    )
    return [Section("What each part adds", text, tuple(rows))]


def _all_metrics(result: Backtest, task: Task) -> Section:
    tested = {c.name: c.test for c in result.candidates}
    names = compared(result)
    rows = [("metric", *names, "better", "what it says")]
    rows += [
        (
            metric.name,
            *(str(tested[name][metric.name]) for name in names),
            _better(metric),
            metric.description,
        )
        for metric in task.metrics()
    ]
    return Section("All metrics", rows=tuple(rows))


def _earlier_windows(result: Backtest) -> list[Section]:
    """Say whether the same verdict would have been given before: walk forward."""
    if not result.walk_forward:
        return []
    folds = result.walk_forward
    won = sum(1 for fold in folds if fold.published != fold.baseline)
    dates = "date" if len(folds) == 1 else "dates"
    text = (
        f"The whole procedure again as of {len(folds)} earlier {dates}, each choosing on its own "
        f"past and judged on its own later window: a model would have been published in {won} of "
        f"{len(folds)}. Windows and horizons are those of today."
    )
    if result.pooled is not None:
        text += (
            f"\n\nOver all windows together the model is better by {result.pooled.signed()}: this "
            "decides, and the newest window may veto."
        )
    if notes := sorted({fold.note for fold in folds if fold.note}):
        text += f"\n\nNot the same in them as today: {'; '.join(notes)}."
    its = f"its {result.primary.name}"
    rows = [("as of", "examples", "model", its, "simple method", its, "difference, paired")]
    drawn = [(f"{result.as_of:%Y-%m-%d} (this report)", result.improvement, MODEL)]
    for fold in folds:
        day = f"{fold.as_of:%Y-%m-%d}"
        model = (fold.model or "–", str(fold.model_value))
        simple = (fold.baseline, str(fold.baseline_value))
        rows.append((day, f"{fold.examples:,}", *model, *simple, _signed(fold.improvement)))
        drawn.append((day, fold.improvement, OTHER))
    return [Section("Earlier windows", text, tuple(rows), _improvements(drawn, result))]


def _slices(result: Backtest) -> list[Section]:
    slices = [part for part in result.slices if not np.isnan(part.model.value)]
    if not slices:
        return []
    rows = [("slice", "examples", f"{result.model or result.baseline}", result.baseline, "paired")]
    drawn = []
    long = {part.column for part in slices if len(f"{part.column} = {part.value}") > LONG_SLICE}
    for part in slices:
        name = f"{part.column} = {part.value}"
        scores = (str(part.model), str(part.baseline), _signed(part.improvement))
        rows.append((name, f"{part.examples:,}", *scores))
        drawn.append((part.value if part.column in long else name, part.improvement, OTHER))
    text = f"{result.primary.name} on parts of the test window; small parts are left out."
    figures = _improvements(drawn, result)
    return [Section("Where it is better, and where not", text, tuple(rows), figures)]


def _improvements(
    drawn: Sequence[tuple[str, Estimate | None, str]], result: Backtest
) -> tuple[str, ...]:
    """Draw how much the model is better, by name and role, where that is known."""
    rows = [Row(name, gain, role) for name, gain, role in drawn if gain is not None]
    title = f"Better than the simple method by ({result.primary.name})"
    return (intervals(title, rows, zero=True),) if rows else ()


def _limits(result: Backtest, task: Task) -> Section:
    limits = (
        f"Candidates were {result.selection}, by {result.primary.name}.",
        f"Intervals resample {_drawn(task, result)}; another window may differ more.",
        *task.limits,
    )
    return Section("Limits", "\n".join(f"- {text}" for text in limits))


def _drawn(task: Task, result: Backtest) -> str:
    """Name what the bootstrap draws."""
    units = UNITS.get(task.unit, task.unit)
    cluster = task.cluster(result.test)
    if cluster is None:
        return f"{units} within one test window"
    beside = UNITS.get(cluster.name, "spans of one horizon")
    return f"{cluster.n_unique()} {beside} and, apart from them, {units}"


def _every_candidate(result: Backtest) -> Section:
    judged = [c for c in result.candidates if c.test]
    rows = [("metric", *(_marked(c, result) for c in judged))]
    rows += [(name, *(str(c.test[name]) for c in judged)) for name in judged[0].test]
    return Section("Every candidate on the test window", rows=tuple(rows))


def _windows(result: Backtest) -> Section:
    rows = [("window", "examples", "units", "first origin", "last origin", "labels until")]
    for name, window in result.windows.items():
        instants = (window.first_origin, window.last_origin, window.last_label_end)
        first, last, end = (f"{instant:%Y-%m-%d %H:%M}" for instant in instants)
        rows.append((name, f"{window.examples:,}", f"{window.units:,}", first, last, end))
    return Section("Windows", rows=tuple(rows))


# --- words and roles ------------------------------------------------------------------------------


def _signed(difference: Estimate | None) -> str:
    return difference.signed() if difference else "–"


def _better(metric: Metric) -> str:
    """Say where a metric should go; a bias or a coverage says its best value."""
    if "is best" in metric.description:
        return "see right"
    return "higher" if metric.higher_is_better else "lower"


def _marked(candidate: Judged, result: Backtest) -> str:
    marks = [
        mark
        for mark, holds in (
            ("baseline", candidate.is_baseline),
            ("chosen", candidate.name in (result.model, result.baseline)),
            ("winner", candidate.name == result.published.name),
        )
        if holds
    ]
    return f"{candidate.name} ({', '.join(marks)})" if marks else candidate.name
