"""A generated log of people who differ in how often they come and in what they choose."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import cache
from hashlib import blake2b

import numpy as np
import polars as pl

from seq_ml import schema

END = datetime(2025, 7, 1, tzinfo=UTC)
USERS = 500
SOLD = ("tea", "bread", "wine", "cheese", "soap", "salt")
"""Two items of each of three categories."""
NAMES = sorted(
    blake2b(bytes([n % 256, n // 256]), digest_size=16).hexdigest() for n in range(USERS)
)


def rates() -> np.ndarray:
    """Conversions a day of each user, from 0.01 to 0.3."""
    return np.exp(np.random.default_rng(3).uniform(np.log(0.01), np.log(0.3), USERS))


def tastes() -> np.ndarray:
    """The category that a user mostly chooses."""
    return np.random.default_rng(4).integers(0, 3, USERS)


@cache
def log(behaviour: str = "purchase") -> pl.DataFrame:
    """150 days of USERS who differ in how often they come and in what they choose."""
    random, rate, taste = np.random.default_rng(5), rates(), tastes()
    rows = []
    for user, name in enumerate(NAMES):
        rows.append((name, "view", END - timedelta(days=140), None, None))
        for day in np.flatnonzero(random.random(150) < rate[user]).tolist():
            category = taste[user] if random.random() < 0.8 else random.integers(0, 3)
            item = 2 * int(category) + int(random.integers(0, 2))
            rows.append((name, behaviour, END - timedelta(days=150 - day), item, 1.0 + item))
    columns = ("user_id", "event_type", "event_time", "item", "unit_price")
    frame = pl.DataFrame(rows, schema=columns, orient="row")
    frame = frame.with_columns(
        item_id=pl.col("item").replace_strict(range(6), SOLD, return_dtype=pl.String)
    )
    types = schema.EVENTS.polars_schema()
    return frame.select(
        (pl.col(name) if name in frame.columns else pl.lit(None).alias(name)).cast(kind)
        for name, kind in types.items()
    )


def catalogue() -> pl.DataFrame:
    known = {"item_id": SOLD, "category": ["a", "a", "b", "b", "c", "c"]}
    frame = pl.DataFrame(known).with_columns(valid_from=pl.lit(END - timedelta(days=999)))
    return frame.select(
        (pl.col(name) if name in frame.columns else pl.lit(None).alias(name)).cast(kind)
        for name, kind in schema.ITEMS.polars_schema().items()
    )
