"""Figures of the reports: SVG that is read on a phone, in the dark, and aloud.

Each function returns one SVG document with a `<title>` and a `<desc>` that says its numbers. Inside
a report the page's style sheet colours it; `alone` makes an image of it that needs no page. Model
and baseline differ in shape as well as in colour (Okabe & Ito 2008).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

from seq_ml.pages.style import FIGURE, LIGHT

if TYPE_CHECKING:
    from collections.abc import Container, Sequence

    from seq_ml.metrics.calibration import Reliability
    from seq_ml.metrics.estimate import Estimate

WIDTH = 360
"""Units of every figure: about the pixels of a phone, so that text is not shrunk there."""
LINE_CHARACTERS = 50
"""So much text fits into one line of a figure; a table beside it has the rest."""
LEGEND_CHARACTERS = 20
MOST_LABELS = 12
"""Of more bars only the first and the last are named."""
LEFT, RIGHT, TOP, BOTTOM = 58, 20, 26, 62
MODEL, BASELINE, OTHER = "model", "baseline", "other"
"""Roles, which decide colour and shape."""


@dataclass(frozen=True)
class Row:
    """One line of `intervals`: a name, its number with interval, and its role."""

    name: str
    estimate: Estimate
    role: str = OTHER


@dataclass(frozen=True)
class Series:
    """One curve of `curves`: points (x, y), and where known the interval (low, high) of each y."""

    name: str
    role: str
    points: Sequence[tuple[float, float]]
    spans: Sequence[tuple[float, float]] = ()

    @classmethod
    def of_bins(cls, name: str, role: str, bins: Sequence[Reliability]) -> Series:
        """Return what was observed over what was predicted."""
        points = [(one.predicted, one.observed) for one in bins]
        return cls(name, role, points, [(one.low, one.high) for one in bins])


def alone(figure: str) -> str:
    """Return a figure as an image of its own, on white, as wide as on a page."""
    figure = figure.replace("<svg ", '<svg width="480" ', 1)
    style = f"<style>{LIGHT}{FIGURE}.figure{{width:480px}}</style>"
    background = '<rect width="100%" height="100%" fill="#fff"/>'
    head, mark, rest = figure.partition("</desc>")
    return f"{head}{mark}{style}{background}{rest}"


def intervals(title: str, rows: Sequence[Row], *, zero: bool = False) -> str:
    """Draw numbers with their intervals below each other, the name above each; `zero`: a line at 0.

    Rows without a number are left out.
    """
    rows = [row for row in rows if not math.isnan(row.estimate.value)]
    ends = [0.0] if zero else []
    for row in rows:
        three = (row.estimate.value, row.estimate.low, row.estimate.high)
        ends += [end for end in three if not math.isnan(end)]
    low, high = min(ends, default=0.0), max(ends, default=1.0)
    pad = 0.06 * (high - low) or abs(high) or 1.0
    low, high = low - pad, high + pad
    step, foot = 38, 22
    bottom = TOP + step * len(rows)

    def x(value: float) -> float:
        return 8 + (value - low) / (high - low) * (WIDTH - 16)

    parts = []
    for tick in ticks(low, high):
        parts.append(_line("grid", x(tick), TOP, x(tick), bottom))
        at = min(max(x(tick), 18), WIDTH - 18)
        parts.append(_text(at, bottom + 14, number(tick), "middle", "dim"))
    if zero:
        parts.append(_line("axis", x(0), TOP, x(0), bottom))
    for i, row in enumerate(rows):
        y = TOP + step * i + 28
        parts.append(_text(8, y - 11, row.name))
        text = row.estimate.signed() if zero else str(row.estimate)
        if len(row.name) + len(text) <= LINE_CHARACTERS:
            parts.append(_text(WIDTH - 8, y - 11, text, "end", "dim"))
        if not math.isnan(row.estimate.low):
            ends_at = x(row.estimate.low), y, x(row.estimate.high), y
            parts.append(_line(f"{row.role} line", *ends_at))
        parts.append(_mark(row.role, x(row.estimate.value), y))
    said = "; ".join(f"{row.name}: {row.estimate}" for row in rows)
    return _figure(title, said, bottom + foot, parts)


def curves(
    title: str,
    x_label: str,
    y_label: str,
    series: Sequence[Series],
    *,
    percent: bool = True,
    square: bool = False,
) -> str:
    """Draw curves over [0, largest value], with the diagonal; intervals as whiskers.

    percent: both axes are shares. square: x and y share one scale (predicted against observed).
    Amounts (not percent) are drawn on a scale of log(1 + value), which shows small and large.
    """
    xs = [px for line in series for px, _ in line.points] or [1.0]
    ys = [py for line in series for _, py in line.points] or [1.0]
    ys += [high for line in series for _, high in line.spans]
    top_x = max(xs) or 1.0
    top_y = max(ys) or 1.0
    if square:
        top_x = top_y = max(top_x, top_y)
    height = 300
    right, bottom = WIDTH - RIGHT, height - BOTTOM

    def scaled(value: float, top: float) -> float:
        value = max(value, 0.0)
        return value / top if percent else math.log1p(value) / math.log1p(top)

    def x(value: float) -> float:
        return LEFT + scaled(value, top_x) * (right - LEFT)

    def y(value: float) -> float:
        return bottom - scaled(value, top_y) * (bottom - TOP)

    marks_x, marks_y = (
        (ticks(0, top_x), ticks(0, top_y)) if percent else (decades(top_x), decades(top_y))
    )
    shown = _percent if percent else number
    parts = []
    for tick in marks_y:
        parts.append(_line("grid", LEFT, y(tick), right, y(tick)))
        parts.append(_text(LEFT - 5, y(tick) + 4, shown(tick), "end", "dim"))
    for tick in marks_x[1:]:  # the 0 of y stands there already
        parts.append(_line("grid", x(tick), TOP, x(tick), bottom))
        parts.append(_text(x(tick), bottom + 14, shown(tick), "middle", "dim"))
    parts.append(
        f'<path class="axis" stroke-dasharray="4 4" d="M{x(0):.1f},{y(0):.1f}'
        f'L{x(top_x):.1f},{y(top_y):.1f}"/>'
    )
    for line in series:
        for (px, _), (low, high) in zip(line.points, line.spans, strict=False):
            parts.append(_line(f"{line.role} whisker", x(px), y(low), x(px), y(high)))
        path = " ".join(f"{x(px):.1f},{y(py):.1f}" for px, py in line.points)
        parts.append(f'<polyline class="{line.role} line" points="{path}"/>')
        if line.spans:
            parts += [_mark(line.role, x(px), y(py), 3) for px, py in line.points]
    parts += _axis_labels(x_label, y_label, right, bottom)
    legend, end = _legend([(line.name, line.role) for line in series], height - 10)
    said = "; ".join(
        f"{line.name}: " + ", ".join(f"{shown(px)} → {shown(py)}" for px, py in line.points)
        for line in series
    )
    return _figure(title, said, end, [*parts, *legend])


def bars(
    title: str,
    x_label: str,
    y_label: str,
    labels: Sequence[str],
    series: Sequence[tuple[str, str, Sequence[float]]],
    *,
    reference: float | None = None,
) -> str:
    """Draw bars of several series side by side, from 0 up, or down where a value is negative.

    series: (name, role, one value per label). reference: where to draw a dashed line.
    """
    height = 280
    right, bottom = WIDTH - RIGHT, height - BOTTOM
    values = [value for _, _, row in series for value in row if not math.isnan(value)]
    low, top = min([0.0, *values]), max([0.0, *values, reference or 0.0])
    room = 0.05 * (top - low)  # a bar that ends at the frame looks cut off
    low, top = low - room if low < 0 else low, top + room or 1.0

    def y(value: float) -> float:
        return bottom - (value - low) / (top - low) * (bottom - TOP)

    parts = []
    for tick in ticks(low, top):
        parts.append(_line("grid", LEFT, y(tick), right, y(tick)))
        parts.append(_text(LEFT - 5, y(tick) + 4, number(tick), "end", "dim"))
    step = (right - LEFT) / max(len(labels), 1)
    width = step * 0.8 / max(len(series), 1)
    for i, label in enumerate(labels):
        for j, (_, role, row) in enumerate(series):
            if i < len(row) and not math.isnan(row[i]):
                left = LEFT + i * step + 0.1 * step + j * width
                parts.append(
                    f'<rect class="{role} bar" x="{left:.1f}" y="{min(y(row[i]), y(0)):.1f}" '
                    f'width="{width * 0.92:.1f}" height="{abs(y(0) - y(row[i])):.1f}"/>'
                )
        if len(labels) <= MOST_LABELS:
            parts.append(_text(LEFT + (i + 0.5) * step, bottom + 14, label, "middle", "dim"))
    if len(labels) > MOST_LABELS:
        parts.append(_text(LEFT, bottom + 14, labels[0], "start", "dim"))
        parts.append(_text(right, bottom + 14, labels[-1], "end", "dim"))
    if low < 0:
        parts.append(_line("axis", LEFT, y(0), right, y(0)))
    if reference is not None:
        ends = f"M{LEFT},{y(reference):.1f}H{right}"
        parts.append(f'<path class="axis" stroke-dasharray="4 4" d="{ends}"/>')
    parts += _axis_labels(x_label, y_label, right, bottom)
    legend, end = _legend([(name, role) for name, role, _ in series], height - 10)
    said = "; ".join(
        f"{name}: " + ", ".join(f"{k} {number(v)}" for k, v in zip(labels, row, strict=False))
        for name, _, row in series
    )
    return _figure(title, said, end, [*parts, *legend])


def lying_bars(
    title: str, labels: Sequence[str], values: Sequence[float], highlight: Container[int] = ()
) -> str:
    """Draw bars below each other, the name above each; highlight: which of them stand out."""
    step, peak = 36, max(values, default=0) or 1
    parts = []
    for i, (label, value) in enumerate(zip(labels, values, strict=True)):
        y, width = TOP + i * step + 16, max(value, 0) / peak * (WIDTH - 70)
        role = MODEL if i in highlight or not highlight else OTHER
        parts += [
            _text(8, y - 4, label),
            f'<rect class="{role} bar" x="8" y="{y}" width="{width:.1f}" height="14"/>',
            _text(12 + width, y + 11, number(value)),
        ]
    said = "; ".join(f"{k} {number(v)}" for k, v in zip(labels, values, strict=True))
    return _figure(title, said, TOP + step * len(values) + 4, parts)


# --- parts ----------------------------------------------------------------------------------------


def ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Return about `count` round numbers in [low, high]."""
    if not high > low:
        return [low]
    rough = (high - low) / count
    power = 10 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [i * step for i in range(first, math.floor(high / step + 1e-9) + 1)]


def decades(top: float) -> list[float]:
    """Return 0, 1, 10, 100 … up to `top`; below 3 ordinary ticks."""
    if top < 3:
        return ticks(0, top)
    return [0.0, *(10.0**i for i in range(math.floor(math.log10(top)) + 1))]


def number(value: float) -> str:
    """Return a number as people write it: 1,234 or 0.0123, without noise."""
    if math.isnan(value):
        return "–"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    text = f"{value:.3g}"
    return "0" if float(text) == 0 else f"{float(text):g}"


def _percent(value: float) -> str:
    return f"{number(100 * value)} %"


def _axis_labels(x_label: str, y_label: str, right: float, bottom: float) -> list[str]:
    upright = f"translate(11,{(TOP + bottom) / 2:.0f}) rotate(-90)"
    return [
        _text((LEFT + right) / 2, bottom + 30, x_label, "middle", "dim"),
        f'<text class="dim" text-anchor="middle" transform="{upright}">{escape(y_label)}</text>',
    ]


def _legend(names: Sequence[tuple[str, str]], top: float) -> tuple[list[str], float]:
    """Return the legend from `top` on, side by side or below each other, and where it ends."""
    beside = len(names) <= 1 or all(len(name) <= LEGEND_CHARACTERS for name, _ in names)
    parts = []
    for i, (name, role) in enumerate(names):
        x = i * (WIDTH - 16) / len(names) if beside else 0.0
        y = top if beside else top + i * 18
        parts.append(_mark(role, 14 + x, y - 4))
        parts.append(_text(24 + x, y, name))
    return parts, top + (0 if beside else (len(names) - 1) * 18) + 10


def _figure(title: str, said: str, height: float, parts: Sequence[str]) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="figure" role="img" '
        f'viewBox="0 0 {WIDTH} {height:.0f}"><title>{escape(title)}</title>'
        f"<desc>{escape(said)}</desc>{_text(8, 14, title, 'start', 'head')}{''.join(parts)}</svg>"
    )


def _text(x: float, y: float, text: str, anchor: str = "start", kind: str = "") -> str:
    styled = f' class="{kind}"' if kind else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{styled}>{escape(text)}</text>'


def _line(kind: str, x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _mark(role: str, x: float, y: float, size: float = 4.5) -> str:
    """Draw a dot for the model, a square for the baseline, a smaller dot for the others."""
    if role == BASELINE:
        corner = f'x="{x - size:.1f}" y="{y - size:.1f}"'
        return f'<rect class="{role}" {corner} width="{2 * size:.1f}" height="{2 * size:.1f}"/>'
    radius = size if role == MODEL else size - 1
    return f'<circle class="{role}" cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}"/>'
