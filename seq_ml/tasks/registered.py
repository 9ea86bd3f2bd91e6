"""The registered tasks: to add one is to write its module and to enter it here.

Assets, checks, jobs, reports, tables and the command line derive from these entries. They are light
to import (no polars): a task's class is loaded when it is needed.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from seq_ml import schema

if TYPE_CHECKING:
    import polars as pl

    from seq_ml.schema import Table
    from seq_ml.tasks.data import TaskData
    from seq_ml.tasks.task import Task


@dataclass(frozen=True)
class Entry:
    """One task, as the rest of the pipeline needs to know it.

    task, covers: "module:name" of the task's class, and of the function that counts whom its rows
    lack (see `seq_ml.tables.coverage`). description: completes "Labelled examples: …". plot: column
    of the table whose distribution is drawn. rows: (column, value) of the rows that are this
    task's, where several tasks fill one table. needs: what the logs must hold at as_of for any row
    of the table. reads: assets, beside the inputs, that the rows are made of. lives_by: the
    optional input (a field of `TaskData`) without which nobody asked for it: then it has no rows,
    and none are missed.
    """

    name: str
    task: str
    table: Table
    description: str
    plot: str
    needs: str = "users with events"
    covers: str = "seq_ml.tables.coverage:users"
    rows: tuple[str, str] | None = None
    reads: tuple[str, ...] = ()
    lives_by: str = ""

    def load(self) -> Task:
        """Return the task."""
        task: Task = _named(self.task)()
        if (task.name, task.table) != (self.name, self.table):
            raise TypeError(
                f"The entry '{self.name}' of table {self.table.name} names {self.task}, which is "
                f"the task '{task.name}' of table {task.table.name}: make the two agree."
            )
        return task

    def applies(self, data: TaskData) -> bool:
        """Tell whether there is what the task lives by."""
        return not self.lives_by or not getattr(data, self.lives_by).is_empty()

    def of(self, rows: pl.LazyFrame) -> pl.LazyFrame:
        """Return the rows of the table that are this task's."""
        return rows.filter(**dict([self.rows])) if self.rows else rows

    def lacking(self, rows: pl.LazyFrame, *inputs: Any) -> dict[str, int]:
        """Count what the rows lack, by name of what it is; `inputs` are (data, as_of)."""
        counts: dict[str, int] = _named(self.covers)(self.of(rows), *inputs)
        return counts


TASKS: tuple[Entry, ...] = (
    Entry(
        "recommendations",
        "seq_ml.tasks.recommendations.task:RecommendationTask",
        schema.RECOMMENDATIONS,
        "which items each user chooses next",
        plot="p_purchase",
    ),
    Entry(
        "churn_silence",
        "seq_ml.tasks.churn.task:SilenceTask",
        schema.CHURN_PREDICTIONS,
        "who stops ordering",
        plot="p_churn",
        needs="users who order",
        covers="seq_ml.tables.coverage:buyers",
        rows=("label_def", "silence"),
    ),
    Entry(
        "churn_decline",
        "seq_ml.tasks.churn.task:DeclineTask",
        schema.CHURN_PREDICTIONS,
        "whose spend falls",
        plot="p_churn",
        needs="users who order",
        covers="seq_ml.tables.coverage:buyers",
        rows=("label_def", "decline"),
    ),
    Entry(
        "churn_non_renewal",
        "seq_ml.tasks.churn.renewal:RenewalTask",
        schema.CHURN_PREDICTIONS,
        "whose contract is not renewed",
        plot="p_churn",
        covers="seq_ml.tables.coverage:subscribers",
        rows=("label_def", "non_renewal"),
        lives_by="subscriptions",
    ),
    Entry(
        "inventory",
        "seq_ml.tasks.inventory.task:InventoryTask",
        schema.INVENTORY_PREDICTIONS,
        "how many units of each item are asked for until the next delivery",
        plot="order_up_to",
        needs="items that sold lately",
        covers="seq_ml.tables.coverage:items_sold",
    ),
    Entry(
        "ads",
        "seq_ml.tasks.ads.task:AdsTask",
        schema.AD_PREDICTIONS,
        "who responds to which campaign",
        plot="p_response",
        needs="campaigns that have not ended, and users to ask",
        covers="seq_ml.tables.coverage:open_campaigns",
    ),
    Entry(
        "spend",
        "seq_ml.tasks.profiles.task:SpendTask",
        schema.USER_PROFILES,
        "what each user spends next",
        plot="spend_91d",
        reads=("user_vectors",),
    ),
)
"""In the order of the report."""


def task_names() -> tuple[str, ...]:
    """Return the name of every task, in order."""
    return tuple(entry.name for entry in TASKS)


def load_tasks() -> dict[str, Task]:
    """Return every task by name."""
    return {entry.name: entry.load() for entry in TASKS}


def filled_by(table: str) -> tuple[Entry, ...]:
    """Return the entries that fill a table; none for a table that no task fills."""
    return tuple(entry for entry in TASKS if entry.table.name == table)


def task_tables() -> dict[str, Table]:
    """Return the tables that tasks fill, by name."""
    return {entry.table.name: entry.table for entry in TASKS}


def published_tables() -> dict[str, Table]:
    """Return every table that analysts read: those of the tasks, and those without one."""
    return {**schema.PUBLISHED, **task_tables()}


def _named(path: str) -> Any:
    module, _, name = path.partition(":")
    return getattr(import_module(module), name)
