"""A sixth task, as somebody would add it: one module with its table, features and candidates."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import polars as pl

from seq_ml.metrics.probabilities import binary_metrics
from seq_ml.schema import STAMP, Column, Table
from seq_ml.tasks.models.binary import ColumnScore, LogisticModel
from seq_ml.tasks.registered import Entry
from seq_ml.tasks.task import NotEnoughHistoryError, Serving, Task

if TYPE_CHECKING:
    from datetime import datetime

    from seq_ml.tasks.data import TaskData

WEEK = timedelta(days=7)

NEXT_VISITS = Table(
    "next_visits",
    "Who comes back within a week.",
    (
        Column("user_id", "str", "Pseudonym of the user."),
        Column("p_visit", "f32", "Probability of an order in the next 7 days.", minimum=0),
        *STAMP,
    ),
    key=("user_id", "as_of"),
)

ENTRY = Entry(
    "next_visit",
    "tests.journeys.sixth_task:NextVisitTask",
    NEXT_VISITS,
    "who comes back within a week",
    plot="p_visit",
)


class NextVisitTask(Task):
    """Any order in the next seven days."""

    name = "next_visit"
    title = "Who comes back within a week"
    table = NEXT_VISITS
    key = ("user_id",)
    unit = "user_id"
    primary_metric = "roc_auc"

    def examples(self, data: TaskData, as_of: datetime) -> pl.DataFrame:
        frames = []
        for weeks, split in ((4, "fit"), (3, "fit"), (2, "validation"), (1, "test")):
            origin = as_of - weeks * WEEK
            visits = data.events_between(origin, origin + WEEK).filter(event_type="purchase")
            came = visits.select("user_id", label=1.0).unique().collect()
            frames.append(
                self.serving(data, origin)
                .examples.join(came, on="user_id", how="left", maintain_order="left")
                .with_columns(
                    pl.col("label").fill_null(0.0),
                    split=pl.lit(split),
                    label_end=pl.lit(origin + WEEK),
                )
            )
        return pl.concat(frames)

    def serving(self, data: TaskData, as_of: datetime, units: pl.Series | None = None) -> Serving:
        at = pl.col("event_time")
        users = (
            data.events_before(as_of)
            .group_by("user_id")
            .agg(
                days_since=(pl.lit(as_of) - at.max()).dt.total_seconds() / 86400,
                days_active=at.dt.date().n_unique().cast(pl.Float64),
            )
            .sort("user_id")
            .with_columns(origin=pl.lit(as_of))
            .collect()
        )
        if users.is_empty():
            raise NotEnoughHistoryError(f"next_visit: there is no event before {as_of:%F}.")
        return Serving(users)

    def candidates(self):
        return [
            ColumnScore("recency", "days_since"),
            LogisticModel("logistic", ["days_since", "days_active"]),
        ]

    def metrics(self):
        return binary_metrics()

    def rows(self, data, as_of, serving, champion):
        p = pl.Series(champion.model.predict(serving.examples))
        return serving.examples.select("user_id", p_visit=p.cast(pl.Float32))
