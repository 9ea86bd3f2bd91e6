"""Daily partitions (UTC, from the first day to one day beyond today), and the names of pools."""

from __future__ import annotations

import dagster as dg

from seq_ml.settings import load_settings

INGEST = "ingest"
"""Writers of the ledger, staged rows and clean days: one at a time."""
GPU = "gpu"
"""Training: one at a time, whatever started it."""

# The two days of offset: today's drops arrive today, and a clock may run a little ahead.
DAYS = dg.DailyPartitionsDefinition(start_date=load_settings().first_day.isoformat(), end_offset=2)
