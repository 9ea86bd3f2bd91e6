"""A business that lives by monthly subscriptions: terms, and how much their users use it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import polars as pl

from seq_ml.business import Business
from seq_ml.schema import EVENTS, SUBSCRIPTIONS
from seq_ml.tasks.data import TaskData
from tests.data import journey

START = datetime(2024, 1, 1, tzinfo=UTC)
AS_OF = datetime(2025, 3, 1, tzinfo=UTC)
DAY = timedelta(days=1)
MONTH = 30 * DAY
QUIT = {"basic": 0.16, "pro": 0.05}


def terms(*rows: dict[str, Any]) -> pl.DataFrame:
    """Rows of the input table; what is not said is a plan of one name, open and without a price."""
    usual = {"subscription_id": "MAIN", "plan": "basic"}
    frame = pl.DataFrame([usual | row for row in rows], infer_schema_length=None)
    return frame.select(
        pl.col(name).cast(dtype) if name in frame.columns else pl.lit(None, dtype).alias(name)
        for name, dtype in SUBSCRIPTIONS.polars_schema().items()
    )


def plays(rows: list[tuple[str, datetime]]) -> pl.DataFrame:
    """Events of use: (user, time)."""
    frame = pl.DataFrame(rows, schema=["user_id", "event_time"], orient="row").with_columns(
        pl.col("event_time").cast(pl.Datetime("us", "UTC")),
        event_id=pl.format("e{}", pl.int_range(pl.len())),
        event_type=pl.lit("view"),
    )
    frame = frame.with_columns(event_date=pl.col("event_time").dt.date())
    return frame.select(
        pl.col(name).cast(dtype) if name in frame.columns else pl.lit(None, dtype).alias(name)
        for name, dtype in EVENTS.polars_schema().items()
    )


def task_data(
    subscriptions: pl.DataFrame,
    events: pl.DataFrame | None = None,
    business: Business | None = None,
) -> TaskData:
    frames = journey(households=60)
    return TaskData(
        (plays([("nobody", START)]) if events is None else events).lazy(),
        frames["items"].clear(),
        frames["campaigns"].clear(),
        frames["campaign_items"].clear(),
        frames["promotions"].clear().lazy(),
        business or Business(),
        subscriptions=subscriptions,
    )


def subscribers(users: int, seed: int = 7) -> TaskData:
    """Monthly terms of so many users; who uses it little in a term mostly does not renew."""
    rng = np.random.default_rng(seed)
    rows, used = [], []
    for n in range(users):
        user, plan = f"u{n:04d}", "basic" if rng.random() < 0.6 else "pro"
        start = START + int(rng.integers(0, 300)) * DAY
        while start < AS_OF:
            rare = rng.random() < QUIT[plan] * 1.5
            quits = rng.random() < (0.6 if rare else 0.02)
            times = rng.random(rng.poisson(1 if rare else 10))
            used += [(user, start + share * MONTH) for share in times]
            end = start + MONTH
            notice = end - int(rng.integers(0, 20)) * DAY if quits and rng.random() < 0.3 else None
            rows.append(
                {
                    "user_id": user,
                    "plan": plan,
                    "started_at": start,
                    "renews_or_ends_at": end,
                    "price": 9.0 if plan == "basic" else 29.0,
                    "cancelled_at": notice,
                }
            )
            if quits:
                break
            start = end
    used = [(user, at) for user, at in used if at < AS_OF]
    return task_data(terms(*rows), plays(used))
