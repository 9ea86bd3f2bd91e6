"""A small task that is published, and the round that judges it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from seq_ml.schema import (
    CHURN_PREDICTIONS,
    EVENTS,
    PREDICTION_OUTCOMES,
)
from seq_ml.tables.outcomes import judge_outcomes
from seq_ml.tables.publish import checked, publish_snapshot, stamp
from seq_ml.tasks.registered import Entry

if TYPE_CHECKING:
    from seq_ml.tasks.data import TaskData

from seq_ml.tasks.task import Task

FIRST = datetime(2017, 6, 1, 4, tzinfo=UTC)
WEEKS = timedelta(weeks=8)


class Quiet(Task):
    """No purchase within `horizon_days`; half of its rows look two weeks further."""

    name = "quiet"
    title = "Who stays away"
    table = CHURN_PREDICTIONS
    key = ("user_id",)
    unit = "user_id"
    primary_metric = "roc_auc"

    def examples(self, data, as_of):
        raise NotImplementedError

    def serving(self, data, as_of, units=None):
        raise NotImplementedError

    def candidates(self):
        raise NotImplementedError

    def metrics(self):
        raise NotImplementedError

    def rows(self, data, as_of, serving, champion):
        raise NotImplementedError

    def outcomes(self, data, predictions, until):
        ends = pl.col("as_of") + pl.duration(days="horizon_days")
        closed = predictions.filter("eligible").with_columns(window_end=ends)
        closed = closed.filter(pl.col("window_end") <= until)
        bought = data.events.filter(event_type="purchase").select("user_id", "event_time").collect()
        inside = closed.join(bought, on="user_id").filter(
            pl.col("event_time") >= pl.col("as_of"), pl.col("event_time") < pl.col("window_end")
        )
        return closed.select(
            "user_id",
            "label_def",
            "horizon_days",
            target=pl.lit("p_churn"),
            predicted=pl.col("p_churn").cast(pl.Float64),
            realised=(~pl.col("user_id").is_in(inside["user_id"].implode())).cast(pl.Float64),
            window_end="window_end",
        )


class Early(Quiet):
    """Tells outcomes of windows that are still open."""

    def outcomes(self, data, predictions, until):
        return super().outcomes(data, predictions, until + WEEKS)


ENTRY = Entry(
    "quiet",
    "tests.tables.quiet:Quiet",
    CHURN_PREDICTIONS,
    "who stays away",
    plot="p_churn",
    rows=("label_def", "silence"),
)


def rows(data: TaskData, as_of: datetime) -> pl.DataFrame:
    """A prediction for everybody seen before, half of them for eight weeks, half for ten."""
    users = data.events_before(as_of).select(pl.col("user_id").unique().sort()).collect()
    n = users.height
    return users.with_columns(
        label_def=pl.lit("silence"),
        horizon_days=pl.Series([56 if i % 2 else 70 for i in range(n)], dtype=pl.Int32),
        eligible=pl.Series([i != 0 for i in range(n)]),
        p_churn=pl.Series(np.linspace(0.05, 0.4, n), dtype=pl.Float32),
        base_rate=pl.lit(0.1, dtype=pl.Float32),
        risk_decile=pl.lit(None, dtype=pl.Int32),
        risk_band=pl.lit(None, dtype=pl.String),
        expected_orders=pl.lit(1.0, dtype=pl.Float32),
        expected_spend=pl.lit(1.0),
        value_at_risk=pl.lit(None, dtype=pl.Float64),
        margin_at_risk=pl.lit(None, dtype=pl.Float64),
        next_order_date=pl.lit(None, dtype=pl.Date),
        top_reasons=pl.lit([], dtype=CHURN_PREDICTIONS.polars_schema()["top_reasons"]),
        recommended_action=pl.lit(None, dtype=pl.String),
        expected_gain=pl.lit(None, dtype=pl.Float64),
    )


def publish(tables, data: TaskData, as_of: datetime, version: str = "v1") -> None:
    stamped = stamp(rows(data, as_of), as_of, version, "rfm_logistic", "r")
    other = stamped.with_columns(label_def=pl.lit("decline"))
    missing = [c for c in CHURN_PREDICTIONS.names if c not in stamped.columns]
    both = pl.concat([stamped, other]).with_columns(
        pl.lit(None, dtype=CHURN_PREDICTIONS.polars_schema()[c]).alias(c) for c in missing
    )
    part = checked(both.select(CHURN_PREDICTIONS.names), CHURN_PREDICTIONS).lazy()
    publish_snapshot(tables, CHURN_PREDICTIONS, [part], as_of)


def clean(tables, data: TaskData) -> None:
    """The days of clean_events, whose files tell whether one changed."""
    tables.append(EVENTS.name, data.events.collect(), partition_by=EVENTS.partition_by)


def judge(objects, data: TaskData, until: datetime):
    return judge_outcomes(objects, data, until, [ENTRY])


def judged(tables) -> pl.DataFrame:
    return tables.scan(PREDICTION_OUTCOMES.name).sort(PREDICTION_OUTCOMES.key).collect()
