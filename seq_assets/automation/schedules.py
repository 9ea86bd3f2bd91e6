"""Schedules: retraining, daily tables and upkeep, in the operator's time zone.

All load stopped; the README says how to turn them on.
"""

from __future__ import annotations

import dagster as dg

from seq_assets.automation.jobs import daily_tables, retrain
from seq_assets.automation.upkeep import storage_upkeep
from seq_ml.settings import load_settings

_settings = load_settings()

SCHEDULES = [
    dg.ScheduleDefinition(
        name=name,
        job=job,
        cron_schedule=cron,
        execution_timezone=_settings.timezone,
        description=description,
    )
    for name, job, cron, description in (
        (
            "nightly_retrain",
            retrain,
            _settings.nightly_cron,
            "Trains challengers on what has arrived; a champion is replaced only by a winner.",
        ),
        (
            "refresh_tables",
            daily_tables,
            _settings.tables_cron,
            "Publishes the tables as of this morning with the champions.",
        ),
        (
            "keep_storage",
            storage_upkeep,
            _settings.upkeep_cron,
            "Merges small files, deletes old versions, artefacts and Data Docs.",
        ),
    )
]
