"""Hand the published tables to the tasks.

Events are read many times, at many origins: they are copied once per table version into a local
file, which Polars then scans.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from seq_ml import schema
from seq_ml.tasks.task import SequenceModel, TaskData

if TYPE_CHECKING:
    from pathlib import Path

    from seq_ml.business import Business
    from seq_ml.storage.tables import TableStore


def local_events(tables: TableStore, work: Path) -> pl.LazyFrame:
    """Scan clean events (schema EVENTS) from a local copy of the table's newest version."""
    name = schema.EVENTS.name
    version = tables.version(name)
    path = work / "events" / f"version-{version}.parquet"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        rows = tables.scan(name, version=version).select(schema.EVENTS.names)
        rows.sort("event_date", "event_time", "event_id").sink_parquet(partial)
        partial.replace(path)
        for old in path.parent.glob("version-*.parquet"):
            if old != path:
                old.unlink(missing_ok=True)
    return pl.scan_parquet(path)


def load_task_data(
    tables: TableStore,
    business: Business,
    work: Path,
    *,
    encoder: SequenceModel | None,
    seed: int,
) -> TaskData:
    """Collect what every task may read; reference tables that nobody dropped are empty."""
    return TaskData(
        events=local_events(tables, work),
        items=tables.scan_or_empty(schema.ITEMS).collect(),
        campaigns=tables.scan_or_empty(schema.CAMPAIGNS).collect(),
        campaign_items=tables.scan_or_empty(schema.CAMPAIGN_ITEMS).collect(),
        promotions=tables.scan_or_empty(schema.PROMOTIONS),
        business=business,
        encoder=encoder,
        seed=seed,
    )
