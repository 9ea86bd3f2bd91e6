"""Churn: who will stop buying (silence), or buy much less (decline).

Silence: at least one order in the last 13 weeks, none in the next 8. Decline: at least 3 orders in
the last 13 weeks, spend of the next 12 weeks below half of the 13-week run-rate. The weeks and the
share come from `Business.churn`. Both fill the one table `churn_predictions`, told apart by
`label_def`.

Origins: the test window is the latest closed one (as_of − horizon); earlier origins follow every
14 days, as long as 91 days of history lie before them. Primary metric is ROC-AUC: the whole list
is cut into deciles, so the whole ranking matters, and it does not move with the base rate, which
differs between windows.
"""

from __future__ import annotations

from abc import abstractmethod
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import polars as pl

from seq_ml.evaluation.metrics import binary_metrics
from seq_ml.schema import CHURN_PREDICTIONS
from seq_ml.tasks.features import (
    BEHAVIOUR_FEATURES,
    RECENCY,
    RFM_FEATURES,
    WINDOW_DAYS,
    Behaviour,
    behaviour_features,
    read_behaviour,
    with_embeddings,
)
from seq_ml.tasks.models import (
    EMBEDDING,
    Blend,
    BoostedTrees,
    ColumnScore,
    LogisticModel,
    reads_embedding,
    top_reasons,
)
from seq_ml.tasks.task import EMBARGO, Champion, NotEnoughHistoryError, Task, TaskData

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from seq_ml.business import Business
    from seq_ml.tasks.task import Metric, Model

ORIGIN_STEP_DAYS = 14


class ChurnTask(Task):
    """One definition of churn; `SilenceTask` and `DeclineTask` say which users and which label."""

    table = CHURN_PREDICTIONS
    key = ("user_id",)
    unit = "user_id"
    primary_metric = "roc_auc"
    slices = ("activity",)
    limits = (
        "One year of data: the season of the test window was never seen in training.",
        (
            "Encoder vectors of training origins come from an encoder trained on events after "
            "them (never on the test window): its candidates may look too good in validation, "
            "not in the test."
        ),
        "Nobody was left out on purpose: churn is a forecast, not the effect of an action.",
    )
    label_def: ClassVar[str]

    @abstractmethod
    def horizon_days(self, business: Business) -> int:
        """Length of the label window."""

    @abstractmethod
    def active_days(self, business: Business) -> int:
        """Only who bought within so many days before the origin can churn."""

    @abstractmethod
    def is_eligible(self, business: Business) -> pl.Expr:
        """Whether the definition applies to a row of behaviour features."""

    @abstractmethod
    def is_churn(self, business: Business) -> pl.Expr:
        """Return the label from `next_orders`, `next_spend` and the features."""

    def examples(self, data: TaskData, as_of: datetime) -> pl.DataFrame:
        """Eligible users at every origin, with label, `next_orders` and `next_spend`."""
        behaviour = read_behaviour(data, as_of)
        splits = self._splits(data, behaviour, as_of)
        frame = pl.concat(
            self._labelled(data, behaviour, origin).with_columns(split=pl.lit(split))
            for origin, split in splits.items()
        )
        frame = frame.filter("eligible").sort("origin", "user_id")
        # Vectors of all users at one origin cost seconds: the newest of each split must do.
        newest = {split: max(o for o in splits if splits[o] == split) for split in splits.values()}
        newest.pop(EMBARGO, None)
        return with_embeddings(frame, data, newest.values())

    def serving_examples(self, data: TaskData, as_of: datetime) -> pl.DataFrame:
        """All users who ever bought before `as_of`; `eligible` marks whom the definition covers."""
        return self._features(data, read_behaviour(data, as_of), as_of)

    def candidates(self) -> list[Model]:
        """Recency and RFM as baselines; logistic, trees, their blend, and the encoder's vectors."""
        everything = BEHAVIOUR_FEATURES
        embedded = (*everything, EMBEDDING)
        return [
            ColumnScore("recency", RECENCY),
            LogisticModel("rfm_logistic", RFM_FEATURES, is_baseline=True),
            LogisticModel("logistic", everything),
            BoostedTrees("trees", everything),
            Blend(
                "blend", [LogisticModel("logistic", everything), BoostedTrees("trees", everything)]
            ),
            LogisticModel("logistic_encoder", embedded, penalty=30.0),
            LogisticModel("encoder", [EMBEDDING], penalty=30.0),
        ]

    def metrics(self) -> list[Metric]:
        """Return the metrics of a probability."""
        return binary_metrics()

    def rows(
        self, data: TaskData, as_of: datetime, serving: pl.DataFrame, champion: Champion
    ) -> pl.DataFrame:
        """Predict and explain; every user who ever bought gets a row.

        Encoder vectors are added to `serving` only where the champion reads them.

        The latest closed window (out of sample for the champion) says the base rate and how the
        run-rate of the last 91 days carries on: `kept` = spend ÷ run-rate among those who did not
        churn, `lost` among those who did, `rest` among the users the definition does not cover.
        Then expected = run-rate × ((1 − p) × kept + p × lost), or run-rate × rest without a p. The
        same for orders.
        """
        business = data.business
        horizon = self.horizon_days(business)
        closed = self._labelled(data, read_behaviour(data, as_of), as_of - timedelta(days=horizon))
        base_rate = closed.filter("eligible")["label"].mean()
        if reads_embedding(champion.model):
            serving = with_embeddings(serving, data, [as_of])
        eligible = serving["eligible"].to_numpy()
        covered = serving.filter("eligible")
        p = np.full(serving.height, np.nan)
        reasons: list[list[dict[str, Any]]] = [[] for _ in range(serving.height)]
        if covered.height:
            p[eligible] = champion.model.predict(covered)
            explained = iter(top_reasons(champion.model, covered))  # type: ignore[arg-type]
            reasons = [next(explained) if is_covered else [] for is_covered in eligible]
        share = horizon / WINDOW_DAYS
        frame = serving.with_columns(
            p=pl.Series(p).fill_nan(None),
            top_reasons=pl.Series(reasons, dtype=self.table.polars_schema()["top_reasons"]),
        ).with_columns(
            value_at_risk=pl.col("p") * pl.col("spend_91d") * share,
            expected_orders=self._expected(closed, "orders", horizon),
            expected_spend=self._expected(closed, "spend", horizon),
            risk_decile=_decile(pl.col("p")),
            risk_band=pl.when(pl.col("p") >= 2 * pl.lit(base_rate))
            .then(pl.lit("high"))
            .when(pl.col("p") < 0.5 * pl.lit(base_rate))
            .then(pl.lit("low"))
            .when(pl.col("p").is_not_null())
            .then(pl.lit("medium")),
        )
        last = pl.col("last_order_at").dt.convert_time_zone(business.timezone).dt.date()
        usual = pl.col("gap_mean").round().cast(pl.Int64).clip(lower_bound=1)
        return frame.select(
            "user_id",
            label_def=pl.lit(self.label_def),
            horizon_days=pl.lit(horizon, dtype=pl.Int32),
            eligible="eligible",
            p_churn=pl.col("p").cast(pl.Float32),
            base_rate=pl.lit(base_rate if base_rate is not None else 0.0, dtype=pl.Float32),
            risk_decile="risk_decile",
            risk_band="risk_band",
            expected_orders=pl.col("expected_orders").cast(pl.Float32),
            expected_spend="expected_spend",
            value_at_risk="value_at_risk",
            next_order_date=last + pl.duration(days=usual),
            top_reasons="top_reasons",
            recommended_action=_action(),
            expected_gain=pl.lit(None, dtype=pl.Float64),
        ).sort("user_id")

    def _splits(self, data: TaskData, behaviour: Behaviour, as_of: datetime) -> dict[datetime, str]:
        """Name the split of every origin; NotEnoughHistoryError when none can be trained on."""
        horizon = timedelta(days=self.horizon_days(data.business))
        test = as_of - horizon
        begins: Any = behaviour.visits["at"].min()
        history = timedelta(days=WINDOW_DAYS)
        validation = test - horizon
        # A shop that opened late on its first day still has 91 days: allow one day.
        first = begins + history - timedelta(days=1) if begins is not None else as_of
        if validation < first:
            needed = (2 * horizon + history).days
            raise NotEnoughHistoryError(
                f"{self.name} needs {needed} days of purchases before {as_of:%Y-%m-%d}"
                + (f", the first one is of {begins:%Y-%m-%d}." if begins else ", there are none.")
            )
        splits = {test: "test", validation: "validation"}
        origin = validation - timedelta(days=ORIGIN_STEP_DAYS)
        while origin >= first:
            splits[origin] = "fit" if origin + horizon <= validation else "embargo"
            origin -= timedelta(days=ORIGIN_STEP_DAYS)
        return splits

    def _features(self, data: TaskData, behaviour: Behaviour, origin: datetime) -> pl.DataFrame:
        """Features of all users with an order before `origin`, whether eligible or not."""
        past = behaviour.visits.filter(pl.col("at") < origin)
        last = past.group_by("user_id").agg(last_order_at=pl.col("at").max())
        active = pl.col("last_order_at") >= origin - timedelta(days=self.active_days(data.business))
        return (
            behaviour_features(behaviour, origin, past["user_id"])
            .join(last, on="user_id", how="left", maintain_order="left")
            .with_columns(
                origin=pl.lit(origin, dtype=pl.Datetime("us", "UTC")),
                eligible=active & self.is_eligible(data.business),
                activity=pl.when(pl.col("orders_91d") <= 5)
                .then(pl.lit("1 to 5 orders in 91 days"))
                .when(pl.col("orders_91d") <= 15)
                .then(pl.lit("6 to 15 orders in 91 days"))
                .otherwise(pl.lit("more than 15 orders in 91 days")),
            )
        )

    def _labelled(self, data: TaskData, behaviour: Behaviour, origin: datetime) -> pl.DataFrame:
        horizon = self.horizon_days(data.business)
        end = origin + timedelta(days=horizon)
        following = (
            behaviour.visits.filter((pl.col("at") >= origin) & (pl.col("at") < end))
            .group_by("user_id")
            .agg(next_orders=pl.len().cast(pl.Float64), next_spend=pl.col("spend").sum())
        )
        return (
            self._features(data, behaviour, origin)
            .join(following, on="user_id", how="left", maintain_order="left")
            .with_columns(pl.col("next_orders", "next_spend").fill_null(0.0))
            .with_columns(
                label=self.is_churn(data.business).cast(pl.Float64),
                label_end=pl.lit(end, dtype=pl.Datetime("us", "UTC")),
            )
        )

    def _expected(self, closed: pl.DataFrame, what: str, horizon: int) -> pl.Expr:
        """Return expected orders or spend of the horizon by the rule of `rows`."""

        def carried_on(rows: pl.DataFrame) -> float:
            rate = float(rows[f"{what}_91d"].sum()) * horizon / WINDOW_DAYS
            return float(rows[f"next_{what}"].sum()) / rate if rate else 1.0

        kept = carried_on(closed.filter(pl.col("eligible") & (pl.col("label") == 0)))
        lost = carried_on(closed.filter(pl.col("eligible") & (pl.col("label") == 1)))
        rest = carried_on(closed.filter(~pl.col("eligible")))
        ratio = ((1 - pl.col("p")) * kept + pl.col("p") * lost).fill_null(rest)
        return pl.col(f"{what}_91d") * (horizon / WINDOW_DAYS) * ratio


class SilenceTask(ChurnTask):
    """No order at all in the next weeks."""

    name = "churn_silence"
    title = "Churn (silence): no order in the next weeks"
    label_def = "silence"

    def horizon_days(self, business: Business) -> int:
        """Weeks without an order that count as churn."""
        return 7 * business.churn.silence_weeks

    def active_days(self, business: Business) -> int:
        """Weeks in which there must be an order."""
        return 7 * business.churn.silence_active_weeks

    def is_eligible(self, business: Business) -> pl.Expr:  # noqa: ARG002
        """Everybody who was active."""
        return pl.lit(value=True)

    def is_churn(self, business: Business) -> pl.Expr:  # noqa: ARG002
        """No order in the label window."""
        return pl.col("next_orders") == 0


class DeclineTask(ChurnTask):
    """Spend falls below a share of the 13-week run-rate."""

    name = "churn_decline"
    title = "Churn (decline): spend falls far below the run-rate"
    label_def = "decline"

    def horizon_days(self, business: Business) -> int:
        """Weeks whose spend is compared."""
        return 7 * business.churn.decline_weeks

    def active_days(self, business: Business) -> int:  # noqa: ARG002
        """Return the 13 weeks of the run-rate."""
        return WINDOW_DAYS

    def is_eligible(self, business: Business) -> pl.Expr:
        """Enough orders in 13 weeks to speak of a run-rate."""
        return (pl.col("orders_91d") >= business.churn.decline_active_orders) & (
            pl.col("spend_91d") > 0
        )

    def is_churn(self, business: Business) -> pl.Expr:
        """Spend of the label window below the share of the run-rate."""
        share = business.churn.decline_share * self.horizon_days(business) / WINDOW_DAYS
        return pl.col("next_spend") < share * pl.col("spend_91d")


def _decile(p: pl.Expr) -> pl.Expr:
    """1 to 10 (highest) by rank among the users with a probability."""
    rank = p.rank("ordinal") - 1
    return (rank * 10 // p.count() + 1).cast(pl.UInt8)


def _action() -> pl.Expr:
    """Suggest by a rule, not by a measured effect: the more at stake, the more personal.

    High risk: a personal offer where the value at risk is in the top fifth of those with a
    probability; a coupon for who used one in the last 91 days; else a reminder. Medium risk: a
    reminder when the user is later than usual.
    """
    at_stake = pl.col("value_at_risk") >= pl.col("value_at_risk").quantile(0.8)
    high = pl.col("risk_band") == "high"
    return (
        pl.when(high & at_stake)
        .then(pl.lit("personal offer"))
        .when(high & (pl.col("coupon_orders_91d") > 0))
        .then(pl.lit("coupon"))
        .when(high)
        .then(pl.lit("reminder"))
        .when((pl.col("risk_band") == "medium") & (pl.col("gap_overdue") > 1))
        .then(pl.lit("reminder"))
    )


def churn_tasks() -> Sequence[ChurnTask]:
    """Return both definitions."""
    return SilenceTask(), DeclineTask()
