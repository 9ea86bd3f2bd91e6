"""A mapping in a few words, and the canonical rows that it makes."""

from __future__ import annotations

from datetime import UTC, datetime

import polars as pl
import yaml

from seq_ml.ingest.mapping.source import parse_mapping
from seq_ml.ingest.rows.canonical import to_canonical
from seq_ml.schema import INPUT_TABLES
from seq_ml.schema.staged import STAGED_EXTRA

LANDED = datetime(2024, 7, 1, 8, tzinfo=UTC)
REQUIRED = {
    "events": {"user_id": {"value": "u"}, "event_type": {"value": "view"}, "event_time": "at"},
    "items": {"item_id": {"value": "i"}},
    "promotions": {
        "item_id": {"value": "i"},
        "store_id": {"value": "s"},
        "week_start": {"value": "2024-01-01"},
    },
}


def mapping(columns: dict, table: str = "events", timezone: str = "UTC"):
    files = [{"match": "*", "table": table, "columns": {**REQUIRED[table], **columns}}]
    return parse_mapping(
        yaml.safe_dump({"name": "shop", "timezone": timezone, "files": files}), "shop.yaml"
    )


def canonical(
    frame: pl.DataFrame | dict, columns: dict, table: str = "events", timezone: str = "UTC"
):
    frame = pl.DataFrame(frame)
    if table == "events" and "at" not in frame.columns:
        frame = frame.with_columns(at=pl.lit("2024-05-01 12:00:00"))
    source = mapping(columns, table, timezone)
    result = to_canonical(
        frame,
        source,
        source.files[0],
        key="drops/shop/a.csv",
        landed_at=LANDED,
        currency="EUR",
        secret="5e" * 32,
    )
    expected = {**INPUT_TABLES[table].polars_schema(), **STAGED_EXTRA}
    assert dict(result.schema) == expected
    assert result["row_number"].to_list() == list(range(1, frame.height + 1))
    return result


def values(frame: dict, origin: object, column: str = "item_id", table: str = "events"):
    """What a column becomes, and (column, value) of the errors of each row."""
    result = canonical(frame, {column: origin}, table)
    errors = [[(e["column"], e["value"]) for e in row] for row in result["errors"].to_list()]
    return result[column].to_list(), [row for row in errors if row]
