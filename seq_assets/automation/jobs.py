"""Jobs: what runs together. All steps of a run share one process; the run has its own."""

from __future__ import annotations

from typing import Any

import dagster as dg

from seq_assets.automation.upkeep import storage_upkeep
from seq_assets.partitions import DAYS

SPINE = dg.AssetSelection.groups("sequences", "tokens", "encoder", "tasks", "evaluation", "tables")
DAILY = dg.AssetSelection.groups("tables") | dg.AssetSelection.assets(
    "user_sequences", "user_embeddings"
)

ingest_drops = dg.define_asset_job(
    "ingest_drops",
    selection=dg.AssetSelection.groups("ingest"),
    description="Read new drops and publish the reference tables.",
    tags={"dagster/max_runtime": "7200"},
    executor_def=dg.in_process_executor,
)

clean_days = dg.define_asset_job(
    "clean_days",
    selection=dg.AssetSelection.groups("clean"),
    partitions_def=DAYS,
    description="Clean, validate and publish days; a range of days is one run.",
    tags={"dagster/max_runtime": "7200"},
    executor_def=dg.in_process_executor,
)

retrain = dg.define_asset_job(
    "retrain",
    selection=SPINE,
    description="From clean events to trained, judged models and published tables.",
    tags={"dagster/max_runtime": "43200"},
    executor_def=dg.in_process_executor,
)

daily_tables = dg.define_asset_job(
    "daily_tables",
    selection=DAILY,
    description="Publish the tables anew with today's champions; nothing is trained.",
    tags={"dagster/max_runtime": "7200"},
    executor_def=dg.in_process_executor,
)

JOBS: list[Any] = [
    ingest_drops,
    clean_days,
    retrain,
    daily_tables,
    storage_upkeep,
]
