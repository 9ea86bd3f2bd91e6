"""The code location: every asset, job, schedule, sensor and resource of Seqline."""

from __future__ import annotations

import dagster as dg

from seq_assets import (
    clean,
    encoder,
    evaluation,
    ingest,
    outcomes,
    sequences,
    tables,
    tasks,
    tokens,
)
from seq_assets.automation.jobs import JOBS
from seq_assets.automation.schedules import SCHEDULES
from seq_assets.automation.sensors import SENSORS
from seq_assets.resources import Storage

ASSETS = dg.load_assets_from_modules(
    [ingest, clean, sequences, tokens, encoder, tasks, evaluation, tables, outcomes]
)

defs = dg.Definitions(
    assets=ASSETS,
    jobs=JOBS,
    schedules=SCHEDULES,
    sensors=SENSORS,
    resources={"storage": Storage()},
)
