"""Daily partitions (UTC, from the first day to one day beyond today), pools, and who goes first."""

from __future__ import annotations

import dagster as dg

from seq_ml.settings import load_settings

INGEST = "ingest"
"""Writers of the ledger, staged rows and clean days: one at a time."""
GPU = "gpu"
"""Training: one at a time, whatever started it."""

ENCODER_FIRST = {"dagster/priority": "4"}
THEN_VECTORS = {"dagster/priority": "3"}
THEN_TASKS = {"dagster/priority": "2"}
THEN_TABLES = {"dagster/priority": "1"}
"""Tags of steps: of those that can run, the one that matters to the others goes first.

The encoder, and what a task judged tonight, are worth waiting for, but nothing hangs on them: the
assets that stand for them (`current_encoder`, `<task>_champion`) have no step.
"""

# The two days of offset: today's drops arrive today, and a clock may run a little ahead.
DAYS = dg.DailyPartitionsDefinition(start_date=load_settings().first_day.isoformat(), end_offset=2)
