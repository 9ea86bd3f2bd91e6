"""The next basket of everybody, made of their published recommendations, some users at a time."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import polars as pl

from seq_ml import schema
from seq_ml.storage.portions import shard_of
from seq_ml.tables.publish import checked, stamp
from seq_ml.tasks.behaviour.visits import merchandise_bought
from seq_ml.tasks.next_baskets.rows import next_baskets

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime
    from pathlib import Path

    from seq_ml.storage.tables import TableStore
    from seq_ml.tasks.data import TaskData

READ = (
    "user_id",
    "rank",
    "item_id",
    "score",
    "p_purchase",
    "rests_on",
    "source",
    "model_version",
)
SHARDS_AT_ONCE = 8
"""Shards whose recommendations are read at once: a table is not cut by user."""


def predict_baskets(
    tables: TableStore, data: TaskData, as_of: datetime, run_id: str, folder: Path
) -> list[pl.LazyFrame]:
    """Return the rows of NEXT_BASKETS in parts, which lie in `folder`; what was there goes."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    parts = []
    recommended = _recommended(tables, as_of, data.shard_count)
    for number, (shard, listed) in enumerate(zip(data.shards(), recommended, strict=True)):
        bought = merchandise_bought(shard, as_of)
        rows = next_baskets(listed, bought, as_of, data.business, data.periods)
        if rows.height:
            rows = stamp(rows, as_of, str(listed["model_version"].min()), "", run_id)
            path = folder / f"{number:05d}.parquet"
            checked(rows, schema.NEXT_BASKETS).write_parquet(path)
            parts.append(pl.scan_parquet(path))
    return parts


def _recommended(tables: TableStore, as_of: datetime, count: int) -> Iterator[pl.DataFrame]:
    """Yield what was recommended to the users of each of `count` shards."""
    published = tables.scan_or_empty(schema.RECOMMENDATIONS).filter(pl.col("as_of") == as_of)
    published = published.select(READ)
    if count == 1:
        yield published.collect()
        return
    for first in range(0, count, SHARDS_AT_ONCE):
        several = range(first, min(first + SHARDS_AT_ONCE, count))
        wanted = shard_of(count).is_between(several[0], several[-1])
        found = published.filter(wanted).collect(engine="streaming")
        for number in several:
            yield found.filter(shard_of(count) == number)
