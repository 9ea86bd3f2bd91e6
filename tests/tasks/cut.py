"""The same data cut into small shards of users, and the rows that a task makes of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from seq_ml.tasks import data as task_data

if TYPE_CHECKING:
    from datetime import datetime

    import pytest

    from seq_ml.tasks.candidate import Champion
    from seq_ml.tasks.data import TaskData
    from seq_ml.tasks.task import Task


def cut_by(users: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let shards be of so many users at most."""
    monkeypatch.setattr(task_data, "USERS_A_SHARD", users)


def rows_of(task: Task, data: TaskData, as_of: datetime, champion: Champion) -> pl.DataFrame:
    """Predict a table's rows shard by shard, completed by what only all rows tell, sorted."""
    parts = [
        task.rows(shard, as_of, task.serving(shard, as_of), champion) for shard in data.shards()
    ]
    rows = pl.concat(parts)
    key = [name for name in task.table.key if name in rows.columns]
    told = task.across(rows.lazy(), data, as_of) if len(parts) > 1 else None
    if told is not None:
        others = [name for name in told.columns if name not in key]
        rows = rows.drop(others).join(told, on=key, how="left").select(rows.columns)
    return rows.sort(key)
