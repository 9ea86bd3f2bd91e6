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

PERSONAL = {"query", "text"}
"""Columns that samples never show; user ids are pseudonyms already."""


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
    """Return the first rows as a Markdown table."""
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
    """Draw bars with the first and last label; for counts per day and numbers per model."""
    width, height, top = 720, 180, 26
    peak = max(values, default=0) or 1
    step = width / max(len(values), 1)
    bars = "".join(
        f'<rect x="{i * step:.1f}" y="{top + (1 - v / peak) * height:.1f}" '
        f'width="{max(step * 0.85, 0.6):.1f}" height="{v / peak * height:.1f}" '
        f'fill="{"#d9480f" if highlight and i in highlight else "#4263eb"}">'
        f"<title>{html.escape(labels[i])}: {v:g}</title></rect>"
        for i, v in enumerate(values)
    )
    axis = ""
    if labels:
        axis = (
            f'<text x="0" y="{top + height + 16}" font-size="12">{html.escape(labels[0])}</text>'
            f'<text x="{width}" y="{top + height + 16}" font-size="12" text-anchor="end">'
            f"{html.escape(labels[-1])}</text>"
        )
    return svg(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height + top + 22}" '
        f'width="{width}" font-family="sans-serif"><rect width="100%" height="100%" fill="white"/>'
        f'<text x="0" y="14" font-size="13" font-weight="bold">{html.escape(title)} '
        f"(highest {peak:g})</text>{bars}{axis}</svg>"
    )


def _cell(value: object) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    text = text if len(text) <= 60 else text[:57] + "…"
    return text.replace("|", "\\|").replace("\n", " ")
