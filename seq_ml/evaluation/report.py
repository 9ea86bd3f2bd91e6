"""The report of a backtest, as Markdown (Dagster, model card) and as one HTML file.

Both say the same: the verdict in one sentence, every candidate with its intervals, slices, the
dates of all windows, what the numbers do not say. The HTML adds the figures as inline SVG.
"""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

import numpy as np

from seq_ml.evaluation.calibration import reliability
from seq_ml.evaluation.metrics import labels

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from seq_ml.evaluation.backtest import Backtest, Judged
    from seq_ml.evaluation.bootstrap import Estimate
    from seq_ml.tasks.task import Task

    Rows = Sequence[Sequence[str]]

WIDTH, HEIGHT, MARGIN = 320, 240, 42
MODEL_COLOUR, BASELINE_COLOUR = "#1f6feb", "#8b949e"
STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}"
    "table{border-collapse:collapse;margin:1rem 0}"
    "td,th{border:1px solid #d0d7de;padding:.3rem .6rem;text-align:left}"
    "td{font-variant-numeric:tabular-nums}.verdict{font-size:1.1rem;font-weight:600}"
    "svg{max-width:100%;margin-right:1rem}"
)


def report_markdown(result: Backtest, task: Task) -> str:
    """Return the report as Markdown, without figures."""
    parts = [f"# {result.title}", f"**{result.verdict}**"]
    for title, rows in _tables(result):
        parts += [f"## {title}", _markdown_table(rows)]
    parts += ["## Limits", "\n".join(f"- {text}" for text in _limits(result, task))]
    return "\n\n".join(parts) + "\n"


def report_html(result: Backtest, task: Task) -> str:
    """Return the report as one HTML document that needs nothing else."""
    parts = [
        f"<h1>{escape(result.title)}</h1>",
        f'<p class="verdict">{escape(result.verdict)}</p>',
        *_figures(result),
    ]
    for title, rows in _tables(result):
        parts += [f"<h2>{escape(title)}</h2>", _html_table(rows)]
    limits = "".join(f"<li>{escape(text)}</li>" for text in _limits(result, task))
    parts.append(f"<h2>Limits</h2><ul>{limits}</ul>")
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(result.title)}'
        f"</title><style>{STYLE}</style></head><body>{''.join(parts)}</body></html>\n"
    )


def _tables(result: Backtest) -> list[tuple[str, Rows]]:
    names = list(next(c.test for c in result.candidates if c.test))
    candidates = [["candidate", "validation", *names]]
    candidates += [_candidate_row(c, result, names) for c in result.candidates]
    windows = [["window", "examples", "units", "first origin", "last origin", "labels until"]]
    windows += [
        [
            name,
            f"{w.examples:,}",
            f"{w.units:,}",
            f"{w.first_origin:%Y-%m-%d %H:%M}",
            f"{w.last_origin:%Y-%m-%d %H:%M}",
            f"{w.last_label_end:%Y-%m-%d %H:%M}",
        ]
        for name, w in result.windows.items()
    ]
    tables: list[tuple[str, Rows]] = [
        ("Candidates on the test window, with 95 % bootstrap intervals", candidates)
    ]
    if result.slices:
        slices = [["slice", "examples", f"{result.primary.name}: {result.model}", result.baseline]]
        slices += [
            [f"{s.column} = {s.value}", f"{s.examples:,}", _plain(s.model), _plain(s.baseline)]
            for s in result.slices
        ]
        tables.append(("Slices", slices))
    return [*tables, ("Windows (UTC)", windows)]


def _candidate_row(candidate: Judged, result: Backtest, names: list[str]) -> list[str]:
    marks = [
        mark
        for mark, holds in (
            ("baseline", candidate.is_baseline),
            ("chosen", candidate.name in (result.model, result.baseline)),
            ("published", candidate.name == result.published.name),
        )
        if holds
    ]
    name = f"{candidate.name} ({', '.join(marks)})" if marks else candidate.name
    if candidate.left_out:
        return [f"{name}: left out", candidate.left_out, *("" for _ in names)]
    validation = _plain(candidate.validation.get(result.primary.name, float("nan")))
    return [name, validation, *(_interval(candidate.test[n]) for n in names)]


def _limits(result: Backtest, task: Task) -> list[str]:
    primary = result.primary
    direction = "higher" if primary.higher_is_better else "lower"
    return [
        f"Candidates were {result.selection} by {primary.name} ({direction} is better"
        + (f"; {primary.description.rstrip('.')})." if primary.description else ")."),
        f"Intervals resample {task.unit} within one test window; another window may differ more.",
        *task.limits,
    ]


def _plain(value: float) -> str:
    return "–" if np.isnan(value) else f"{value:.4g}"


def _interval(estimate: Estimate) -> str:
    if np.isnan(estimate.value):
        return "–"
    return f"{estimate.value:.4g} [{_plain(estimate.low)}, {_plain(estimate.high)}]"


def _markdown_table(rows: Rows) -> str:
    lines = ["| " + " | ".join(c.replace("|", "\\|") for c in row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])


def _html_table(rows: Rows) -> str:
    head = "".join(f"<th>{escape(cell)}</th>" for cell in rows[0])
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows[1:]
    )
    return f"<table><tr>{head}</tr>{body}</table>"


# --- figures --------------------------------------------------------------------------------------


def _figures(result: Backtest) -> list[str]:
    """Predicted against observed, and the gains curve where labels are 0/1."""
    if "label" not in result.test.columns or not result.test["label"].dtype.is_numeric():
        return []
    label = labels(result.test)
    names = [(result.baseline, BASELINE_COLOUR)]
    if result.model:
        names.append((result.model, MODEL_COLOUR))
    predictions = {name: _first(result.predictions[name]) for name, _ in names}
    held, gains = [], []
    for name, colour in names:
        bins = reliability(label, predictions[name])
        points = [(b.predicted, b.observed) for b in bins]
        held.append((name, colour, points))
        gains.append((name, colour, _gains(label, predictions[name])))
    binary = bool(np.isin(label, (0, 1)).all())
    figures = [
        _plot("Predicted against observed, 10 equal bins", "mean predicted", "mean observed", held)
    ]
    if binary and label.any():
        figures.append(
            _plot("Found by contacting the top share", "share contacted", "share found", gains)
        )
    return figures


def _first(predictions: NDArray[np.float64]) -> NDArray[np.float64]:
    return predictions if predictions.ndim == 1 else predictions[:, 0]


def _gains(label: NDArray[np.float64], score: NDArray[np.float64]) -> list[tuple[float, float]]:
    found = np.append(0.0, np.cumsum(label[np.argsort(-score, kind="stable")]))
    at = np.linspace(0, len(label), 21).astype(int)
    return [(i / len(label), float(found[i] / max(found[-1], 1.0))) for i in at]


def _plot(
    title: str, x: str, y: str, lines: Sequence[tuple[str, str, list[tuple[float, float]]]]
) -> str:
    """Draw lines over the diagonal, both axes from 0 to the largest value."""
    top = max((max(p) for _, _, points in lines for p in points), default=1.0) or 1.0
    w, h, m = WIDTH, HEIGHT, MARGIN

    def place(point: tuple[float, float]) -> str:
        px = m + point[0] / top * (w - m - 10)
        py = h - m - point[1] / top * (h - m - 30)
        return f"{px:.1f},{py:.1f}"

    start, end = place((0.0, 0.0)), place((top, top))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{w}" height="{h}" font-size="11">',
        f'<text x="{m}" y="14" font-weight="bold">{escape(title)}</text>',
        f'<polyline points="{start} {end}" stroke="#d0d7de" stroke-dasharray="4" fill="none"/>',
        f'<path d="M{m},30V{h - m}H{w - 10}" stroke="#57606a" fill="none"/>',
        f'<text x="{w - 10}" y="{h - m + 14}" text-anchor="end">{top:.3g}</text>',
        f'<text x="{m - 4}" y="36" text-anchor="end">{top:.3g}</text>',
        f'<text x="{m}" y="{h - m + 14}">0 {escape(x)}</text>',
        f'<text transform="translate({m - 8},{h - m}) rotate(-90)">{escape(y)}</text>',
    ]
    for i, (name, colour, points) in enumerate(lines):
        path = " ".join(place(p) for p in points)
        parts.append(f'<polyline points="{path}" stroke="{colour}" stroke-width="2" fill="none"/>')
        at = h - 10
        parts.append(
            f'<text x="{m + i * (w - m) // 2}" y="{at}" fill="{colour}">● {escape(name)}</text>'
        )
    return "".join([*parts, "</svg>"])
