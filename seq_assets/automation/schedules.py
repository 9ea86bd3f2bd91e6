"""Schedules: retraining, daily tables and upkeep, in the operator's time zone.

All load stopped; docs/operations.md says how to turn them on.
"""

from __future__ import annotations

import dagster as dg

from seq_assets.automation.jobs import daily_tables, retrain
from seq_assets.automation.upkeep import storage_upkeep
from seq_ml.settings import load_settings

_settings = load_settings()

nightly_retrain = dg.ScheduleDefinition(
    name="nightly_retrain",
    job=retrain,
    cron_schedule=_settings.nightly_cron,
    execution_timezone=_settings.timezone,
    description="Trains challengers on what has arrived; a champion is replaced only by a winner.",
)

refresh_tables = dg.ScheduleDefinition(
    name="refresh_tables",
    job=daily_tables,
    cron_schedule=_settings.tables_cron,
    execution_timezone=_settings.timezone,
    description="Publishes the tables as of this morning with the champions.",
)

keep_storage = dg.ScheduleDefinition(
    name="keep_storage",
    job=storage_upkeep,
    cron_schedule=_settings.upkeep_cron,
    execution_timezone=_settings.timezone,
    description="Merges small files, deletes old versions, artefacts and Data Docs.",
)

SCHEDULES = [nightly_retrain, refresh_tables, keep_storage]
