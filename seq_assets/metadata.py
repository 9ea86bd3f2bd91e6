"""What assets show in the UI: column schemas, row counts, samples, plots."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

import dagster as dg

from seq_ml.pages.figures import MODEL, alone, bars, lying_bars, number
from seq_ml.pages.page import markdown_table

if TYPE_CHECKING:
    from collections.abc import Container, Sequence

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
    cells = ([_cell(value) for value in row] for row in shown.rows())
    return dg.MetadataValue.md(markdown_table([shown.columns, *cells]))


def svg(figure: str) -> dg.MarkdownMetadataValue:
    """Return a figure of `seq_ml.pages` as an inline image."""
    encoded = base64.b64encode(alone(figure).encode()).decode()
    return dg.MetadataValue.md(f"![plot](data:image/svg+xml;base64,{encoded})")


def bar_chart(
    values: Sequence[float], labels: Sequence[str], title: str, *, highlight: Container[int] = ()
) -> dg.MarkdownMetadataValue:
    """Return one bar a value: lying and each with its name when they are few, else standing."""
    if len(values) <= MOST_NAMED_BARS:
        return svg(lying_bars(title, labels, values, highlight))
    highest = f"highest: {number(max(values))}"
    return svg(bars(title, "", "", labels, [(highest, MODEL, values)]))


def _cell(value: object) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return (text if len(text) <= 60 else text[:57] + "…").replace("\n", " ")
