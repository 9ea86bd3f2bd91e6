"""The registered tasks: to add one is to write its module and name it here."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from seq_ml.tasks.task import Task

TASK_NAMES = ("recommendations", "churn_silence", "churn_decline", "inventory", "ads")
"""Names in the order of the report; kept apart from the classes, whose import is slow."""

TABLE_TASKS = {
    "recommendations": ("recommendations",),
    "churn_predictions": ("churn_silence", "churn_decline"),
    "inventory_predictions": ("inventory",),
    "ad_predictions": ("ads",),
}
"""Which tasks fill which published table."""


def load_tasks() -> dict[str, Task]:
    """Return every task by name."""
    from seq_ml.tasks.ads import AdsTask
    from seq_ml.tasks.churn import DeclineTask, SilenceTask
    from seq_ml.tasks.inventory import InventoryTask
    from seq_ml.tasks.recommendations import RecommendationTask

    tasks = (RecommendationTask(), SilenceTask(), DeclineTask(), InventoryTask(), AdsTask())
    assert tuple(task.name for task in tasks) == TASK_NAMES
    return {task.name: task for task in tasks}
