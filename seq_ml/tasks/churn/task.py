"""Churn: who will stop buying (silence), or buy much less (decline).

Silence: at least one order in the last weeks, none in the next ones (a grocer: 13 and 8). Decline:
a few orders in the window, spend of the next weeks below half of its run-rate (a grocer: 3 orders
in 13 weeks, 12 weeks). The weeks are those of `Periods`, the share that of `Business.churn`. Both
fill the one table `churn_predictions`, told apart by `label_def`.

Origins: the test window is the latest closed one (as_of − horizon); earlier origins follow every
`Periods.origin_step_days`, as long as a whole window of history lies before them. Primary metric is
ROC-AUC: the whole list is cut into deciles, so the whole ranking matters, and it does not move with
the base rate, which differs between windows.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ClassVar

import polars as pl

from seq_ml.metrics.probabilities import binary_metrics
from seq_ml.schema import CHURN_PREDICTIONS
from seq_ml.tasks.behaviour.embeddings import EMBEDDING, with_embeddings
from seq_ml.tasks.behaviour.features import RECENCY, RFM_FEATURES
from seq_ml.tasks.behaviour.margins import with_margin
from seq_ml.tasks.behaviour.orders_model import next_order
from seq_ml.tasks.behaviour.visits import read_behaviour
from seq_ml.tasks.churn.attribution import Occluded
from seq_ml.tasks.churn.features import CHURN_FEATURES, NO_ORDER, Past, churn_features, read_past
from seq_ml.tasks.churn.report import calibration_section, reasons_section, value_section
from seq_ml.tasks.churn.rows import explained, table_rows
from seq_ml.tasks.churn.value import carried_on, has_prices, steps
from seq_ml.tasks.models.binary import Blend, BoostedTrees, ColumnScore, LogisticModel
from seq_ml.tasks.models.explain import top_reasons
from seq_ml.tasks.models.forest import Forest
from seq_ml.tasks.models.rates import ShrunkenRate
from seq_ml.tasks.models.recalibrated import Recalibrated
from seq_ml.tasks.task import EMBARGO, NotEnoughHistoryError, Serving, Task, check_conversions

if TYPE_CHECKING:
    from datetime import datetime

    from seq_ml.metrics.metric import Metric
    from seq_ml.pages.page import Section
    from seq_ml.periods import Periods
    from seq_ml.tasks.candidate import Champion, Model
    from seq_ml.tasks.data import TaskData
    from seq_ml.tasks.judged import Backtest


class ChurnTask(Task):
    """One definition of churn; `SilenceTask` and `DeclineTask` say which users and which label."""

    table = CHURN_PREDICTIONS
    key = ("user_id",)
    unit = "user_id"
    primary_metric = "roc_auc"
    slices = ("activity", "tenure", "history")
    limits = (
        "One year of data: the season of the test window was never seen in training.",
        (
            "Encoder vectors of training origins come from an encoder trained on events after "
            "them (never on the test window): its candidates may look too good in validation, "
            "not in the test."
        ),
        "Nobody was left out on purpose: churn is a forecast, not the effect of an action.",
        "The base rate moves with the season; probabilities carry the mean of the earlier windows.",
    )
    label_def: ClassVar[str]
    penalty: ClassVar[float]
    """Of the logistic model, chosen on earlier windows: features that overlap need much of it."""

    @abstractmethod
    def horizon_days(self, periods: Periods) -> int:
        """Length of the label window."""

    @abstractmethod
    def active_days(self, periods: Periods) -> int:
        """Only who bought within so many days before the origin can churn."""

    @abstractmethod
    def is_eligible(self, periods: Periods) -> pl.Expr:
        """Whether the definition applies to a row of behaviour features."""

    @abstractmethod
    def is_churn(self, data: TaskData) -> pl.Expr:
        """Return the label from `next_orders`, `next_spend`, `orders_window` and `spend_window`."""

    @abstractmethod
    def blend(self) -> Blend:
        """Return the members that err most differently; chosen on earlier windows."""

    def spoke_of(self, periods: Periods, horizon_days: int) -> Periods:
        """Return the windows of a row with this horizon: those that hold where it cannot tell."""
        return periods

    def examples(self, data: TaskData, as_of: datetime) -> pl.DataFrame:
        """Eligible users at every origin, with label, `next_orders` and `next_spend`."""
        past = read_past(data, as_of)
        splits = self._splits(data, past.behaviour.visits, as_of)
        frame = pl.concat(
            self._labelled(data, past, origin).with_columns(split=pl.lit(split))
            for origin, split in splits.items()
        )
        frame = frame.filter("eligible").sort("origin", "user_id")
        # Vectors of all users at one origin cost seconds: the newest of each split must do.
        newest = {split: max(o for o in splits if splits[o] == split) for split in splits.values()}
        newest.pop(EMBARGO, None)
        return with_embeddings(frame, data, newest.values())

    def serving(self, data: TaskData, as_of: datetime, units: pl.Series | None = None) -> Serving:
        """All users who ever bought before `as_of`; `eligible` marks whom the definition covers."""
        key = ("past", as_of)
        if key not in data.kept:  # both definitions read the same
            data.kept[key] = read_past(data, as_of, days=data.periods.window_days)
        past = data.kept[key]
        return Serving(self._features(data, past, as_of), past)

    def candidates(self) -> list[Model]:
        """Recency, RFM and BG/NBD against logistic, trees, a blend and encoder vectors."""
        return [
            ColumnScore("recency", RECENCY, "Days since the last order."),
            LogisticModel(
                "rfm_logistic",
                RFM_FEATURES,
                "Logistic regression on recency, orders and spend.",
                is_baseline=True,
            ),
            ColumnScore(
                "bg_nbd", NO_ORDER, "Probability of no order from each user's own rhythm (BG/NBD)."
            ),
            ShrunkenRate("base_rate", None, "The same rate for everybody."),
            self._line(),
            BoostedTrees("trees", CHURN_FEATURES),
            Recalibrated(self.blend()),
            LogisticModel(
                "logistic_encoder",
                (*CHURN_FEATURES, EMBEDDING),
                "Logistic regression on all features and the sequence encoder's vector.",
                penalty=100.0,
            ),
            LogisticModel(
                "encoder",
                [EMBEDDING],
                "Logistic regression on the sequence encoder's vector alone.",
                penalty=30.0,
            ),
        ]

    def _line(self) -> LogisticModel:
        return LogisticModel("logistic", CHURN_FEATURES, penalty=self.penalty)

    def metrics(self) -> list[Metric]:
        """Return the metrics of a probability."""
        return binary_metrics()

    def rows(
        self, data: TaskData, as_of: datetime, serving: Serving, champion: Champion
    ) -> pl.DataFrame:
        """Predict and explain; every user who ever bought gets a row (`rows.table_rows`).

        Encoder vectors are added only where the champion reads them. The latest closed window, out
        of sample for the champion, says the base rate and what is at risk.
        """
        horizon = self.horizon_days(data.periods)
        examples, behaviour = serving.examples, serving.read.behaviour
        model: Any = champion.model
        if EMBEDDING in model.features:
            examples = with_embeddings(examples, data, [as_of])
        return table_rows(
            with_margin(
                explained(examples, model, lambda rows: self._reasons(model, rows, data, as_of)),
                data,
                as_of,
            ),
            self.labels(data, behaviour.money, data.business.midnight_after(as_of, -horizon)),
            next_order(
                behaviour.visits, data.business.day_of(as_of), horizon, data.periods.window_days
            ),
            label_def=self.label_def,
            horizon_days=horizon,
            share=horizon / data.periods.window_days,
            actions=data.business.churn.actions,
            priced=has_prices(data, as_of),
            rests_on=champion.rests_on(horizon, data.periods.history_days),
        )

    def sections(self, data: TaskData, result: Backtest) -> list[Section]:
        """Say how probabilities held, what is at stake in each decile, and which reasons lead."""
        model = result.published
        behaviour = read_behaviour(data, result.as_of)
        visits, money = behaviour.visits, behaviour.money
        rates = {
            origin: self.labels(data, money, origin).filter("eligible")["label"].mean()
            for origin in reversed(self._splits(data, visits, result.as_of))
        }
        test = result.test["origin"][0]
        share = self.horizon_days(data.periods) / data.periods.window_days
        closed = data.business.midnight_after(test, -self.horizon_days(data.periods))
        before = self.labels(data, money, closed)
        kept, lost, _ = carried_on(before, "spend", share)
        predicted = result.predictions[model.name]
        loss = max(kept - lost, 0.0) if has_prices(data, result.as_of) else None
        return [
            calibration_section(model, result.test, rates),
            value_section(result.test, predicted, share, loss),
            reasons_section(self._reasons(model, result.test, data, test)),
        ]

    def outcomes(self, data: TaskData, predictions: pl.DataFrame, until: datetime) -> pl.DataFrame:
        """Who churned, of the eligible users of this definition; the contract is `Task.outcomes`.

        Windows grow with a young history: rows are judged by those of their day. Silence needs only
        the row's own horizon; a decline of another horizon than that day's is left out.
        """
        rows = predictions.filter(
            pl.col("eligible") & pl.col("p_churn").is_not_null(),
            pl.col("label_def") == self.label_def,
        )
        if rows.is_empty():
            return super().outcomes(data, rows, until)
        as_of: datetime = rows["as_of"][0]
        horizon = int(rows["horizon_days"][0])
        data = replace(data, periods=self.spoke_of(data.periods_at(as_of, until), horizon))
        if horizon != self.horizon_days(data.periods):
            return super().outcomes(data, rows.clear(), until)
        end = data.business.midnight_after(as_of, horizon)
        if end > until:
            return super().outcomes(data, rows, until)
        realised = self.labels(data, read_behaviour(data, until).money, as_of)
        return rows.join(realised, on="user_id", maintain_order="left").select(
            "user_id",
            "label_def",
            "horizon_days",
            target=pl.lit("p_churn"),
            predicted=pl.col("p_churn").cast(pl.Float64),
            realised="label",
            window_end=pl.lit(end, dtype=pl.Datetime("us", "UTC")),
        )

    def labels(self, data: TaskData, money: pl.DataFrame, origin: datetime) -> pl.DataFrame:
        """Return eligible, label and the orders and spend of both windows, per user ever seen.

        money: `Behaviour.money`.
        """
        end = data.business.midnight_after(origin, self.horizon_days(data.periods))
        at, order = pl.col("at"), pl.col("lines") > 0
        before = (at < origin) & (at >= origin - timedelta(days=data.periods.window_days))
        after = (at >= origin) & (at < end)
        return (
            money.filter(at < end)
            .group_by("user_id", maintain_order=True)
            .agg(
                last_order_at=at.filter(order & (at < origin)).max(),
                orders_window=(order & before).sum().cast(pl.Float64),
                spend_window=pl.col("spend").filter(before).sum(),
                next_orders=(order & after).sum().cast(pl.Float64),
                next_spend=pl.col("spend").filter(after).sum(),
            )
            .filter(pl.col("last_order_at").is_not_null())
            .with_columns(
                eligible=self._is_covered(data, origin),
                label=self.is_churn(data).cast(pl.Float64),
            )
        )

    def _reasons(
        self, model: Any, examples: pl.DataFrame, data: TaskData, origin: datetime
    ) -> list[list[dict[str, Any]]]:
        """Top reasons; an embedding's by stretches of the past."""
        if EMBEDDING in model.features and data.encoder is not None:
            model = Occluded(model, examples, data, origin)
            examples = model.examples
        return top_reasons(model, examples, named=data.periods.named)

    def _splits(self, data: TaskData, visits: pl.DataFrame, as_of: datetime) -> dict[datetime, str]:
        """Name the split of every origin; NotEnoughHistoryError when none can be trained on."""
        horizon, later = self.horizon_days(data.periods), data.business.midnight_after
        test, validation = later(as_of, -horizon), later(as_of, -2 * horizon)
        begins: Any = visits["at"].min()
        # A shop that opened late on its first day still has the whole window: allow one day.
        first = as_of if begins is None else begins + timedelta(days=data.periods.window_days - 1)
        if validation < first:
            check_conversions(data, as_of, self.name)
            raise NotEnoughHistoryError(
                f"{self.name} needs {2 * horizon + data.periods.window_days} days of "
                f"{data.business.conversion_noun()} before {as_of:%Y-%m-%d}, there are "
                f"{(as_of - begins).days}: the first one is of {begins:%Y-%m-%d}."
            )
        splits = {test: "test", validation: "validation"}
        origin = later(validation, -data.periods.origin_step_days)
        while origin >= first:
            splits[origin] = "fit" if later(origin, horizon) <= validation else "embargo"
            origin = later(origin, -data.periods.origin_step_days)
        return splits

    def _features(self, data: TaskData, past: Past, origin: datetime) -> pl.DataFrame:
        """Features of all users with an order before `origin`, whether eligible or not."""
        ever = (
            past.behaviour.visits.filter(pl.col("at") < origin)
            .group_by("user_id")
            .agg(last_order_at=pl.col("at").max(), first_order_at=pl.col("at").min(), ever=pl.len())
        )
        window = data.periods.window_days
        new = pl.col("first_order_at") >= origin - timedelta(days=window)
        return (
            churn_features(
                past,
                origin,
                ever["user_id"],
                day=data.business.day_of(origin),
                horizon_days=self.horizon_days(data.periods),
            )
            .join(ever, on="user_id", how="left", maintain_order="left")
            .with_columns(
                origin=pl.lit(origin, dtype=pl.Datetime("us", "UTC")),
                eligible=self._is_covered(data, origin),
                activity=steps("orders_window", (5, 15), f"orders in {window} days"),
                tenure=pl.when(new)
                .then(pl.lit(f"new: first order in the last {window} days"))
                .otherwise(pl.lit("known for longer")),
                history=steps("ever", (10, 50), "orders ever"),
            )
        )

    def _is_covered(self, data: TaskData, origin: datetime) -> pl.Expr:
        active = origin - timedelta(days=self.active_days(data.periods))
        return (pl.col("last_order_at") >= active) & self.is_eligible(data.periods)

    def _labelled(self, data: TaskData, past: Past, origin: datetime) -> pl.DataFrame:
        end = data.business.midnight_after(origin, self.horizon_days(data.periods))
        labels = self.labels(data, past.behaviour.money, origin)
        return (
            self._features(data, past, origin)
            .join(
                labels.select("user_id", "next_orders", "next_spend", "label"),
                on="user_id",
                how="left",
                maintain_order="left",
            )
            .with_columns(label_end=pl.lit(end, dtype=pl.Datetime("us", "UTC")))
        )


class SilenceTask(ChurnTask):
    """No order at all in the next weeks."""

    name = "churn_silence"
    title = "Churn (silence): no order in the next weeks"
    label_def = "silence"
    penalty = 100.0

    def horizon_days(self, periods: Periods) -> int:
        """Weeks without an order that count as churn."""
        return 7 * periods.silence_weeks

    def active_days(self, periods: Periods) -> int:
        """Weeks in which there must be an order."""
        return 7 * periods.silence_active_weeks

    def is_eligible(self, periods: Periods) -> pl.Expr:
        """Everybody who was active."""
        return pl.lit(value=True)

    def spoke_of(self, periods: Periods, horizon_days: int) -> Periods:
        """No order in the row's own horizon: whatever the weeks are today."""
        return replace(periods, silence_weeks=max(horizon_days // 7, 1))

    def is_churn(self, data: TaskData) -> pl.Expr:
        """No order in the label window."""
        return pl.col("next_orders") == 0

    def blend(self) -> Blend:
        """Line, forest and, at half their weight, BG/NBD, which knows only orders."""
        forest, rhythm = Forest("forest", CHURN_FEATURES), ColumnScore("bg_nbd", NO_ORDER)
        return Blend("blend", [self._line(), forest, rhythm], weights=(2, 2, 1))


class DeclineTask(ChurnTask):
    """Spend falls below a share of the run-rate."""

    name = "churn_decline"
    title = "Churn (decline): spend falls far below the run-rate"
    label_def = "decline"
    penalty = 20.0

    def examples(self, data: TaskData, as_of: datetime) -> pl.DataFrame:
        """As `ChurnTask.examples`; NotEnoughHistoryError also without a spend to compare."""
        if not has_prices(data, as_of):
            check_conversions(data, as_of, self.name)
            one = data.business.conversion_noun(many=False)
            raise NotEnoughHistoryError(
                f"{self.name} compares spend, but no {one} before {as_of:%Y-%m-%d} has a price."
            )
        examples = super().examples(data, as_of)
        if examples.filter(pl.col("split") != "test").is_empty():
            raise NotEnoughHistoryError(
                f"{self.name} compares spend, but before its test window nobody with "
                f"{data.periods.decline_active_orders} orders in {data.periods.window_days} days "
                "kept more than they gave back."
            )
        return examples

    def horizon_days(self, periods: Periods) -> int:
        """Weeks whose spend is compared."""
        return 7 * periods.decline_weeks

    def active_days(self, periods: Periods) -> int:
        """Return the window of the run-rate."""
        return periods.window_days

    def is_eligible(self, periods: Periods) -> pl.Expr:
        """Enough orders in the window to speak of a run-rate."""
        return (pl.col("orders_window") >= periods.decline_active_orders) & (
            pl.col("spend_window") > 0
        )

    def is_churn(self, data: TaskData) -> pl.Expr:
        """Spend of the label window below the share of the run-rate."""
        share = self.horizon_days(data.periods) / data.periods.window_days
        least = data.business.churn.decline_share * share
        return pl.col("next_spend") < least * pl.col("spend_window")

    def blend(self) -> Blend:
        """Line and many small boosted trees."""
        trees = BoostedTrees("trees", CHURN_FEATURES, rounds=300, randomised=True)
        return Blend("blend", [self._line(), trees])
