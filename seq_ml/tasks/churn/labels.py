"""Labels of churn alone, at every closed origin since an instant: for a fine-tuning."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from seq_ml.tasks.behaviour.visits import has_prices, read_behaviour
from seq_ml.tasks.churn.task import DeclineTask, SilenceTask
from seq_ml.tasks.task import NotEnoughHistoryError, check_conversions

if TYPE_CHECKING:
    from datetime import datetime

    from seq_ml.tasks.churn.task import OrderChurnTask
    from seq_ml.tasks.data import TaskData

DEFINITIONS: dict[str, type[OrderChurnTask]] = {
    task.label_def: task for task in (SilenceTask, DeclineTask)
}


def labels_since(
    definition: str, data: TaskData, as_of: datetime, *, since: datetime
) -> pl.DataFrame:
    """Return user_id, origin, label, label_end of eligible users, by origin and user.

    definition: of DEFINITIONS.  Origins lie `Periods.origin_step_days` apart, the newest so that
    its window closes at `as_of`, none before `since`.  Raises NotEnoughHistoryError where there is
    none, or nobody is eligible.
    """
    task = DEFINITIONS[definition]()
    horizon = task.horizon_days(data.periods)
    check_conversions(data, as_of, task.name)
    if definition == DeclineTask.label_def and not has_prices(data, as_of):
        raise NotEnoughHistoryError(f"{task.name} compares spend, but nothing has a price.")
    money, later = read_behaviour(data, as_of).money, data.business.midnight_after
    newest = origin = later(as_of, -horizon)
    found = []
    while origin >= since:
        rows = task.labels(data, money, origin).filter("eligible")
        at = pl.lit(origin, dtype=pl.Datetime("us", "UTC"))
        found.append(rows.select("user_id", "label", "label_end", origin=at))
        origin = later(origin, -data.periods.origin_step_days)
    if not found:
        raise NotEnoughHistoryError(
            f"{task.name} looks {horizon} days ahead: its newest closed origin is "
            f"{newest:%Y-%m-%d}, before {since:%Y-%m-%d}, the cut-off of the encoder, which has "
            f"seen what came after: take an encoder trained with --as-of {newest:%Y-%m-%d} or "
            "earlier."
        )
    labels = pl.concat(found).sort("origin", "user_id")
    if labels.is_empty():
        raise NotEnoughHistoryError(f"{task.name}: nobody is eligible since {since:%Y-%m-%d}.")
    return labels
