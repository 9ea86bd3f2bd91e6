"""The days of the graph are those that Dagster itself would count."""

from __future__ import annotations

from datetime import UTC, datetime

import dagster as dg
import pytest

from seq_assets.partitions import DAYS, Days


@pytest.mark.parametrize(
    "now", [datetime(1990, 1, 2, tzinfo=UTC), datetime(2024, 3, 1, 23, 59, tzinfo=UTC)]
)
def test_days_are_counted_as_dagster_counts_them(now):
    ours, theirs = (
        kind(start_date="1990-01-05", end_offset=2) for kind in (Days, dg.DailyPartitionsDefinition)
    )
    with dg.partition_loading_context(now):
        assert ours.get_partition_keys() == theirs.get_partition_keys()
    assert ours.get_partition_keys(current_time=now) == theirs.get_partition_keys(current_time=now)
    assert DAYS.get_partition_keys()[-1] == DAYS.get_last_partition_key()
