"""Rows of `sequence_predictions` without a model: from how lately and how often users came."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import polars as pl

from seq_ml.schema import SEQUENCE_PREDICTIONS
from seq_ml.storage.contracts import conform

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from seq_ml.tasks.data import TaskData


def foretold(
    data: TaskData,
    origins: Iterable[datetime],
    *,
    silence_days: int = 56,
    age: timedelta = timedelta(0),
) -> pl.DataFrame:
    """Predictions of all users with an event before, at each origin; age: of the rung there."""
    return pl.concat(_at(data, origin, silence_days, age) for origin in origins)


def _at(data: TaskData, origin: datetime, silence_days: int, age: timedelta) -> pl.DataFrame:
    days = (pl.lit(origin) - pl.col("event_time")).dt.total_seconds() / 86_400
    users = data.events_before(origin).group_by("user_id").agg(last=days.min(), events=pl.len())
    lines = pl.col("events").cast(pl.Float64).log1p()
    rows = users.select(
        "user_id",
        origin=pl.lit(origin),
        rung=pl.lit("r1"),
        rung_cut=pl.lit(origin - age),
        silence_days=pl.lit(silence_days),
        p_silence=1 - (-pl.col("last") / 90).exp() * 0.9,
        wait_p50=pl.col("last"),
        **{f"{what}_{span}d": lines for what in ("orders", "lines") for span in (28, 84)},
        **{f"p_no_spend_{span}d": pl.lit(0.1) for span in (28, 84)},
        **{f"spend_mu_{span}d": lines for span in (28, 84)},
        **{f"spend_sigma_{span}d": pl.lit(1.0) for span in (28, 84)},
    )
    return conform(rows.collect().sort("user_id"), SEQUENCE_PREDICTIONS)
