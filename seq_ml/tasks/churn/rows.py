"""What all definitions of churn share: the rows of the table, and what became of them."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

import polars as pl

from seq_ml.metrics.probabilities import binary_metrics
from seq_ml.schema import CHURN_PREDICTIONS
from seq_ml.tasks.churn.actions import much, suggest
from seq_ml.tasks.churn.features import sample
from seq_ml.tasks.churn.value import decile
from seq_ml.tasks.models.explain import top_reasons
from seq_ml.tasks.task import Serving, Task

if TYPE_CHECKING:
    from datetime import datetime

    from seq_ml.metrics.metric import Metric
    from seq_ml.tasks.candidate import Champion
    from seq_ml.tasks.data import TaskData


DATE = pl.col("next_order_date")


class ChurnTask(Task):
    """One definition of churn: the rows of `churn_predictions` that have its `label_def`."""

    table = CHURN_PREDICTIONS
    key = ("user_id",)
    unit = "user_id"
    primary_metric = "roc_auc"
    by_user = True
    label_def: ClassVar[str]

    def across(self, rows: pl.LazyFrame, data: TaskData, as_of: datetime) -> pl.DataFrame:
        """Return the deciles among everybody."""
        key = ["user_id", "label_def", "horizon_days"]
        return rows.select(*key, risk_decile=decile(pl.col("p_churn"))).collect()

    @abstractmethod
    def valued(
        self, data: TaskData, as_of: datetime, serving: Serving, champion: Champion
    ) -> pl.DataFrame:
        """Return what is served, p, and what is expected and at stake, one row per user."""

    @abstractmethod
    def realised(self, data: TaskData, rows: pl.DataFrame, until: datetime) -> pl.DataFrame | None:
        """Return user_id, label and label_end of the window that the rows of one `as_of` speak of.

        With next_orders, next_spend and next_order_at where orders are what is predicted. None
        where the label cannot be known by `until`.
        """

    def metrics(self) -> list[Metric]:
        """Return the metrics of a probability."""
        return binary_metrics()

    def judged(self, predictions: pl.DataFrame) -> pl.DataFrame:
        """Return the rows of this definition that hold a probability."""
        covered = pl.col("eligible") & pl.col("p_churn").is_not_null()
        return predictions.filter(covered, pl.col("label_def") == self.label_def)

    def outcomes(self, data: TaskData, predictions: pl.DataFrame, until: datetime) -> pl.DataFrame:
        """Say of eligible users whether they churned, and what they ordered: `Task.outcomes`.

        Targets: p_churn, expected_orders, expected_spend, and next_order_p50, the days until
        next_order_date, of whom an order came from within the horizon.
        """
        rows = self.judged(predictions)
        known = self.realised(data, rows, until) if rows.height else None
        if known is None:
            return super().outcomes(data, rows, until)
        rows = rows.join(known, on="user_id", maintain_order="left")
        happened = {"p_churn": pl.col("label")}
        if "next_orders" in known.columns:
            today = data.business.day_of(rows["as_of"][0])
            came = pl.col("next_order_at").dt.convert_time_zone(data.business.timezone).dt.date()
            due, at = ((day - pl.lit(today)).dt.total_days() for day in (DATE, came))
            rows = rows.with_columns(next_order_p50=due)
            happened |= {
                "expected_orders": pl.col("next_orders"),
                "expected_spend": pl.col("next_spend"),
                "next_order_p50": at,
            }
        return pl.concat(
            rows.select(
                "user_id",
                "label_def",
                "horizon_days",
                target=pl.lit(target),
                predicted=pl.col(target).cast(pl.Float64),
                realised=realised.cast(pl.Float64),
                window_end="label_end",
            ).drop_nulls(["predicted", "realised"])
            for target, realised in happened.items()
        )

    def predicted(self, model: Any, examples: pl.DataFrame) -> pl.DataFrame:
        """Add p (f64), null where an example is not eligible."""
        covered = examples.filter("eligible")
        p = model.predict(covered) if covered.height else []
        found = covered.select("user_id", p=pl.Series(p, dtype=pl.Float64))
        return examples.join(found, on="user_id", how="left", maintain_order="left")

    def explained(self, model: Any, frame: pl.DataFrame, data: TaskData) -> pl.DataFrame:
        """Add top_reasons to `predicted`; none where an example is not eligible."""
        covered = frame.filter("eligible")
        why: Any = top_reasons(model, covered, data.periods.named) if covered.height else []
        dtype = self.table.polars_schema()["top_reasons"]
        found = covered.select("user_id", top_reasons=pl.Series(why, dtype=dtype))
        joined = frame.join(found, on="user_id", how="left", maintain_order="left")
        return joined.with_columns(pl.col("top_reasons").fill_null([]))

    def much_at_stake(
        self, valued: pl.DataFrame, data: TaskData, as_of: datetime, champion: Champion
    ) -> float | None:
        """Return what `much` says of everybody, by a sample where there are many.

        valued: of these data.
        """
        if (some := sample(data)) is data:
            return much(valued)

        def of_sample(some: TaskData) -> float | None:
            return much(self.valued(some, as_of, self.serving(some, as_of), champion))

        limit: float | None = some.keep((self.name, champion.version, as_of), of_sample)
        return limit

    def rated(
        self,
        frame: pl.DataFrame,
        closed: pl.DataFrame,
        much_at_stake: float | None,
        horizon_days: int,
        data: TaskData,
        champion: Champion,
    ) -> pl.DataFrame:
        """Add base rate, decile, band and action; return the rows of the table, sorted by user.

        frame: `valued` and `explained`, with next_order_date. much_at_stake: of everybody. closed:
        eligible and label of the latest closed window; where nobody was eligible in it the base
        rate is null, and where that is null or 0 there is no band.
        """
        base_rate = pl.lit(closed.filter("eligible")["label"].mean(), dtype=pl.Float64)
        band = (
            pl.when(pl.col("p") >= 2 * base_rate)
            .then(pl.lit("high"))
            .when(pl.col("p") < 0.5 * base_rate)
            .then(pl.lit("low"))
            .when(pl.col("p").is_not_null())
            .then(pl.lit("medium"))
        )
        frame = frame.with_columns(
            risk_decile=decile(pl.col("p")), risk_band=pl.when(base_rate > 0).then(band)
        )
        rests_on = champion.rests_on(horizon_days, data.periods.history_days)
        return (
            suggest(frame, data.business.churn.actions, much_at_stake)
            .select(
                "user_id",
                label_def=pl.lit(self.label_def),
                horizon_days=pl.lit(horizon_days, dtype=pl.Int32),
                window_days=pl.lit(None, dtype=pl.Int32),
                eligible="eligible",
                p_churn=pl.col("p").cast(pl.Float32),
                base_rate=base_rate.cast(pl.Float32),
                risk_decile="risk_decile",
                risk_band="risk_band",
                expected_orders=pl.col("expected_orders").cast(pl.Float32),
                expected_spend="expected_spend",
                value_at_risk="value_at_risk",
                margin_at_risk="margin_at_risk",
                next_order_date="next_order_date",
                top_reasons="top_reasons",
                recommended_action="recommended_action",
                expected_gain="expected_gain",
                rests_on=pl.when("eligible").then(pl.lit(rests_on)),
            )
            .sort("user_id")
        )
