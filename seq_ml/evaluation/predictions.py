"""Sections of the report that look at the predictions: calibration, gains, examples.

Whoever acts on a list asks three things: do the numbers hold, what do I find at the top, and what
does a hit or a miss look like. No row names a user.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from seq_ml.metrics.calibration import Reliability, reliability
from seq_ml.metrics.probabilities import labels
from seq_ml.pages.figures import BASELINE, MODEL, OTHER, Series, bars, curves, number
from seq_ml.pages.page import Section
from seq_ml.tasks.candidate import A_SCORE, off_beyond_chance

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from seq_ml.tasks.judged import Backtest
    from seq_ml.tasks.task import Task

    Array = NDArray[np.float64]

TENTHS = 10
PERSONAL = "user_id"
"""The column that no report shows."""


def calibration(result: Backtest) -> list[Section]:
    """Predicted against observed, in ten bins of equal size."""
    by_name = _reliability(result)
    if not by_name:
        return []
    binary = _is_binary(labels(result.test))
    shown = _percent if binary else number
    text = "A probability that holds comes true as often as it says: the dashed line."
    if not binary:
        text = "A forecast that holds is right on average: the dashed line. Both scales are log."
    text += "\n\nThe tenth of the examples with the highest predictions:\n\n"
    text += "\n".join(
        f"- {name}: {shown(bins[-1].predicted)} predicted, {shown(bins[-1].observed)} "
        f"[{shown(bins[-1].low)}, {shown(bins[-1].high)}] observed."
        for name, bins in by_name.items()
    )
    tested = {c.name: c.test for c in result.candidates}
    if off := off_beyond_chance(tested[result.published.name]):
        text += (
            f"\n\n'{result.published.name}' was off by more than chance ({off}): read what it says "
            f"as {A_SCORE}."
        )
    series = [Series.of_bins(name, role(name, result), bins) for name, bins in by_name.items()]
    figure = curves(
        "Predicted against observed, ten bins",
        "mean predicted",
        "mean observed",
        series,
        percent=binary,
        square=True,
    )
    return [Section("Do the numbers hold?", text, figures=(figure,))]


def reliability_table(result: Backtest) -> list[Section]:
    """Return the reliability curve of what is published, bin by bin."""
    bins = _reliability(result).get(result.published.name)
    if not bins:
        return []
    shown = _percent if _is_binary(labels(result.test)) else number
    rows = [("bin", "examples", "mean predicted", "mean observed")]
    rows += [
        (
            str(i),
            f"{b.examples:,}",
            shown(b.predicted),
            f"{shown(b.observed)} [{shown(b.low)}, {shown(b.high)}]",
        )
        for i, b in enumerate(bins, start=1)
    ]
    return [Section(f"Reliability of {result.published.name}", rows=tuple(rows))]


def gains(result: Backtest) -> list[Section]:
    """Say what a list cut at its top finds, where all rows compete with each other."""
    label = labels(result.test)
    if not _is_binary(label) or not label.any() or result.primary.per_unit:
        return []
    curve_of, lifts, said = [], [], []
    for name in compared(result):
        order = np.argsort(-_first(result.predictions[name]), kind="stable")
        share = np.append(0.0, np.cumsum(label[order])) / label.sum()
        at = np.linspace(0, len(label), 2 * TENTHS + 1).astype(int)
        points = [(i / len(label), float(share[i])) for i in at]
        curve_of.append(Series(name, role(name, result), points))
        lifts.append((name, role(name, result), (np.diff(share[at[::2]]) * TENTHS).tolist()))
        said.append(f"- {name}: {_percent(float(share[at[2]]))} of all cases.")
    text = "The tenth at the top of the list holds, where chance would find 10 %:\n\n"
    figures = (
        curves("Found by taking the top of the list", "share taken", "share found", curve_of),
        bars(
            "How often, against the average, by tenth",
            "tenth of the list, 1 = top",
            "times the average",
            [str(i + 1) for i in range(TENTHS)],
            lifts,
            reference=1.0,
        ),
    )
    return [Section("What the list finds", text + "\n".join(said), figures=figures)]


def examples(result: Backtest, task: Task) -> list[Section]:
    """Best hits and worst misses of what is published, the same ones every time."""
    label = labels(result.test)
    predicted = _first(result.predictions[result.published.name])
    shown = [name for name in task.key if name != PERSONAL]
    shown += [name for name in task.slices if name not in shown]
    binary = _is_binary(label)
    if binary:
        likely = np.argsort(-predicted, kind="stable")
        positive = label[likely] > 0
        picked = [
            *(("found", i) for i in likely[positive][:3]),
            *(("false alarm", i) for i in likely[~positive][:3]),
            *(("missed", i) for i in likely[positive][:-4:-1]),
        ]
    else:
        # of counts the error grows with the root of their size: else only the largest are shown
        error = (predicted - label) / np.sqrt(1 + np.maximum(predicted, 0))
        large = np.argsort(-label, kind="stable")[: max(3, len(label) // 20)]
        closest = large[np.argsort(np.abs(error[large]), kind="stable")]
        order = np.argsort(error, kind="stable")
        picked = [
            *(("close, among the largest", i) for i in closest[:3]),
            *(("far too high", i) for i in order[:-4:-1]),
            *(("far too low", i) for i in order[:3]),
        ]
    value = _percent if binary else number
    rows = [("what", "origin", "predicted", "happened", *shown)]
    taken = set()
    for kind, i in picked:
        if i in taken:
            continue
        taken.add(i)
        row = result.test.row(int(i), named=True)
        happened = ("yes" if label[i] else "no") if binary else number(label[i])
        context = ("–" if row[name] is None else str(row[name]) for name in shown)
        origin = f"{row['origin']:%Y-%m-%d}"
        rows.append((kind, origin, value(predicted[i]), happened, *context))
    text = f"The best and the worst of '{result.published.name}' on the test window."
    if PERSONAL in task.key:
        text += " Who it was is not said here: the page outlives an erasure."
    return [Section("Examples", text, tuple(rows))]


# --- parts ----------------------------------------------------------------------------------------


def _reliability(result: Backtest) -> dict[str, list[Reliability]]:
    """Reliability of model and baseline; not of a score that is no probability."""
    label = labels(result.test)
    predictions = {name: _first(result.predictions[name]) for name in compared(result)}
    binary = _is_binary(label)
    return {
        name: reliability(label, predicted)
        for name, predicted in predictions.items()
        if not binary or ((predicted >= 0) & (predicted <= 1)).all()
    }


def compared(result: Backtest) -> list[str]:
    """Name the two that are compared: best model (if any) and best baseline."""
    return [result.baseline] if result.model is None else [result.model, result.baseline]


def role(name: str, result: Backtest) -> str:
    """Return the role of a candidate in figures."""
    if name == result.baseline:
        return BASELINE
    return MODEL if name == result.model else OTHER


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %" if share >= 0.001 else f"{100 * share:.1g} %"


def _is_binary(label: Array) -> bool:
    return bool(np.isin(label, (0, 1)).all())


def _first(predictions: Array) -> Array:
    return predictions if predictions.ndim == 1 else predictions[:, 0]
