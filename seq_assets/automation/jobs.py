"""Jobs: what runs together. All steps of a run share one process (see `definitions`)."""

from __future__ import annotations

from typing import Any

import dagster as dg

from seq_assets.automation.upkeep import storage_upkeep
from seq_assets.partitions import DAYS

groups = dg.AssetSelection.groups
SPINE = groups("sequences", "tokens", "encoder", "tasks", "evaluation", "tables")
DAILY = groups("tables") | dg.AssetSelection.assets(
    "cut_offs", "user_sequences", "user_embeddings", "sequence_predictions"
)


def _job(
    name: str, selection: dg.AssetSelection, description: str, *, hours: int = 2, **options: Any
) -> Any:
    return dg.define_asset_job(
        name,
        selection=selection,
        description=description,
        tags={"dagster/max_runtime": str(hours * 3600)},
        **options,
    )


ingest_drops = _job(
    "ingest_drops", groups("ingest"), "Read new drops and publish the reference tables."
)
clean_days = _job(
    "clean_days",
    groups("clean"),
    "Clean, validate and publish days; a range of days is one run.",
    partitions_def=DAYS,
)
retrain = _job(
    "retrain", SPINE, "From clean events to trained, judged models and published tables.", hours=12
)
daily_tables = _job(
    "daily_tables",
    DAILY,
    "Publish the tables anew with today's champions; nothing is trained.",
)

JOBS: list[Any] = [ingest_drops, clean_days, retrain, daily_tables, storage_upkeep]
