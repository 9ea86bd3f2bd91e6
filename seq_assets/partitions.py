"""Daily partitions (UTC, from the first day to one day beyond today), pools, and who goes first."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING

import dagster as dg

from seq_ml.settings import load_settings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dagster._core.instance import DynamicPartitionsStore

INGEST = "ingest"
"""Writers of the ledger, staged rows and clean days: one at a time."""
GPU = "gpu"
"""Training: one at a time, whatever started it."""

COUNTED_FIRST = {"dagster/priority": "5"}
ENCODER_FIRST = {"dagster/priority": "4"}
THEN_VECTORS = {"dagster/priority": "3"}
THEN_TASKS = {"dagster/priority": "2"}
THEN_TABLES = {"dagster/priority": "1"}
"""Tags of steps: of those that can run, the one that matters to the others goes first.

A table that waits for no model comes before all training: seconds, and there is something to see.
The encoder, and what a task judged tonight, are worth waiting for, but nothing hangs on them: the
assets that stand for them (`current_encoder`, `<task>_champion`) have no step.
"""


class Days(dg.DailyPartitionsDefinition):
    """Daily partitions in UTC that count their keys.

    Dagster asks for all of them in every step that reads a day, and would walk along a cron
    schedule each time: 0.1 s for 37 years.
    """

    def get_partition_keys(
        self,
        current_time: datetime | None = None,
        dynamic_partitions_store: DynamicPartitionsStore | None = None,
    ) -> Sequence[str]:
        """Return the days from the first to the last one, both as of `current_time`."""
        with dg.partition_loading_context(current_time, dynamic_partitions_store):
            last = self.get_last_partition_key()
        if last is None:
            return []
        first = self.start.date()
        count = (date.fromisoformat(last) - first).days + 1
        return [(first + timedelta(days=n)).isoformat() for n in range(count)]


# The two days of offset: today's drops arrive today, and a clock may run a little ahead.
DAYS = Days(start_date=load_settings().first_day.isoformat(), end_offset=2)
