"""The code location: every asset, job, schedule, sensor and resource of Seqline."""

from __future__ import annotations

import dagster as dg

from seq_assets import (
    clean,
    encoder,
    evaluation,
    gate,
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
    [ingest, clean, sequences, tokens, encoder, gate, tasks, evaluation, tables, outcomes],
    include_specs=True,  # of what has no step: the current encoder, the champions
)

defs = dg.Definitions(
    assets=ASSETS,
    jobs=JOBS,
    schedules=SCHEDULES,
    sensors=SENSORS,
    resources={"storage": Storage()},
    # all steps of a run share one process, and those that can run go by priority; a run has its own
    executor=dg.in_process_executor,
)
