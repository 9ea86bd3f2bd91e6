"""What assets show in the UI: column schemas, row counts, samples, plots."""

from __future__ import annotations

import base64
import html
from typing import TYPE_CHECKING, Any

import dagster as dg

if TYPE_CHECKING:
    from collections.abc import Sequence

    import polars as pl

    from seq_ml.schema import Table

OWNERS = ["team:data"]
ML_OWNERS = ["team:ml"]

PERSONAL = {
    "user_id",
    "source_user_id",
    "session_id",
    "event_id",
    "query",
    "text",
    "value",
    "tags",
}
"""Columns that samples never show: Dagster's history keeps them, and no erasure reaches it.

`value` is what a rejected row held; `tags` name events. User ids are pseudonyms already, but still
name one person.
"""


WIDTH = 720
MOST_NAMED_BARS = 12


def column_schema(table: Table) -> dict[str, Any]:
    """Definition metadata: the contract as Dagster's column schema, seen before the first run."""
    columns = [
        dg.TableColumn(
            c.name,
            c.dtype,
            c.description,
            constraints=dg.TableColumnConstraints(
                nullable=c.nullable,
                unique=table.key == (c.name,),
                other=[f"one of {', '.join(c.allowed)}"] if c.allowed else [],
            ),
        )
        for c in table.columns
    ]
    return {
        "dagster/column_schema": dg.TableSchema(columns=columns),
        "dagster/table_name": table.name,
        "key": ", ".join(table.key),
    }


def sample(frame: pl.DataFrame, rows: int = 5) -> dg.MarkdownMetadataValue:
    """Return the first rows as a Markdown table, without the columns of PERSONAL."""
    shown = frame.head(rows).drop([c for c in frame.columns if c in PERSONAL])
    lines = [
        "| " + " | ".join(shown.columns) + " |",
        "|" + "---|" * shown.width,
        *("| " + " | ".join(_cell(value) for value in row) + " |" for row in shown.rows()),
    ]
    return dg.MetadataValue.md("\n".join(lines))


def svg(picture: str) -> dg.MarkdownMetadataValue:
    """Return a small SVG as an inline image."""
    encoded = base64.b64encode(picture.encode()).decode()
    return dg.MetadataValue.md(f"![plot](data:image/svg+xml;base64,{encoded})")


def bar_chart(
    values: Sequence[float], labels: Sequence[str], title: str, *, highlight: set[int] | None = None
) -> dg.MarkdownMetadataValue:
    """Draw one bar a value: lying and each with its name when they are few, else standing."""
    peak = max(values, default=0) or 1
    colours = ["#d9480f" if i in (highlight or ()) else "#4263eb" for i in range(len(values))]
    draw = _lying if len(values) <= MOST_NAMED_BARS else _standing
    height, bars = draw([v / peak for v in values], values, labels, colours)
    return svg(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" '
        'font-family="sans-serif" font-size="12"><rect width="100%" height="100%" fill="white"/>'
        f'<text x="0" y="14" font-size="13" font-weight="bold">{html.escape(title)}</text>'
        f"{bars}</svg>"
    )


def _lying(
    shares: Sequence[float], values: Sequence[float], labels: Sequence[str], colours: Sequence[str]
) -> tuple[int, str]:
    row, left, right = 22, 190, WIDTH - 60
    bars = "".join(
        f'<text x="{left - 6}" y="{40 + i * row}" text-anchor="end">{html.escape(labels[i])}</text>'
        f'<rect x="{left}" y="{28 + i * row}" height="{row - 6}" '
        f'width="{max(share, 0) * (right - left):.1f}" fill="{colours[i]}"/>'
        f'<text x="{left + max(share, 0) * (right - left) + 4:.1f}" y="{40 + i * row}">'
        f"{values[i]:.4g}</text>"
        for i, share in enumerate(shares)
    )
    return 34 + row * len(values), bars


def _standing(
    shares: Sequence[float], values: Sequence[float], labels: Sequence[str], colours: Sequence[str]
) -> tuple[int, str]:
    height, top, step = 180, 26, WIDTH / len(values)
    bars = "".join(
        f'<rect x="{i * step:.1f}" y="{top + (1 - share) * height:.1f}" '
        f'width="{max(step * 0.85, 0.6):.1f}" height="{share * height:.1f}" '
        f'fill="{colours[i]}"/>'
        for i, share in enumerate(shares)
    )
    base = top + height + 16
    axis = (
        f'<text x="0" y="{base}">{html.escape(labels[0])}</text>'
        f'<text x="{WIDTH / 2:.0f}" y="{base}" text-anchor="middle">'
        f"highest bar: {max(values):,.4g}</text>"
        f'<text x="{WIDTH}" y="{base}" text-anchor="end">{html.escape(labels[-1])}</text>'
    )
    return base + 6, bars + axis


def _cell(value: object) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    text = text if len(text) <= 60 else text[:57] + "…"
    return text.replace("|", "\\|").replace("\n", " ")
