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
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ClassVar

import polars as pl

from seq_ml.periods import WINDOW_DAYS
from seq_ml.tasks.behaviour.features import RECENCY, RFM_FEATURES
from seq_ml.tasks.behaviour.foretold import (
    FORETOLD,
    p_silent,
    p_spend_below,
    predictions_for,
)
from seq_ml.tasks.behaviour.margins import with_margin
from seq_ml.tasks.behaviour.orders_model import next_order
from seq_ml.tasks.behaviour.spend import (
    expected_spend,
    learnt_shares,
    spend_features,
    spent_between,
)
from seq_ml.tasks.behaviour.visits import has_prices, read_behaviour
from seq_ml.tasks.churn.features import (
    CHURN_FEATURES,
    MOST_USERS,
    NO_ORDER,
    Past,
    churn_features,
    read_past,
    sample,
)
from seq_ml.tasks.churn.report import calibration_section, reasons_section, value_section
from seq_ml.tasks.churn.rows import ChurnTask
from seq_ml.tasks.churn.value import carried_on, with_amounts
from seq_ml.tasks.models.binary import Blend, BoostedTrees, ColumnScore, LogisticModel
from seq_ml.tasks.models.explain import top_reasons
from seq_ml.tasks.models.forest import Forest
from seq_ml.tasks.models.rates import ShrunkenRate
from seq_ml.tasks.models.recalibrated import Recalibrated
from seq_ml.tasks.models.stacked import Stacked
from seq_ml.tasks.task import (
    EARLIER_FOLDS,
    EMBARGO,
    NotEnoughHistoryError,
    Serving,
    check_conversions,
)

if TYPE_CHECKING:
    from datetime import datetime

    from seq_ml.pages.page import Section
    from seq_ml.periods import Periods
    from seq_ml.tasks.candidate import Champion, Model
    from seq_ml.tasks.data import TaskData
    from seq_ml.tasks.judged import Backtest


class OrderChurnTask(ChurnTask):
    """Churn that orders tell; `SilenceTask` and `DeclineTask` say which users and which label."""

    slices = ("activity", "tenure", "history")
    limits = (
        "One year of data: the season of the test window was never seen in training.",
        "Nobody was left out on purpose: churn is a forecast, not the effect of an action.",
        "The base rate moves with the season; probabilities carry the mean of the earlier windows.",
        f"Of more than {MOST_USERS:,} users a sample is judged, and learnt from.",
    )
    penalty: ClassVar[float]
    """Of the logistic model, chosen on earlier windows: features that overlap need much of it."""

    @abstractmethod
    def horizon_days(self, periods: Periods) -> int:
        """Length of the label window."""

    @abstractmethod
    def is_eligible(self, periods: Periods, origin: datetime) -> pl.Expr:
        """Whether a user can churn, from `last_order_at` and the features `*_window`."""

    @abstractmethod
    def is_churn(self, data: TaskData) -> pl.Expr:
        """Return the label from `next_orders`, `next_spend`, `orders_window` and `spend_window`."""

    @abstractmethod
    def foretold(self, predictions: pl.DataFrame, data: TaskData) -> pl.Series:
        """Return the probability of the label by the sequence model, null where it said nothing.

        predictions: examples with the columns of `sequence_predictions`.
        """

    @abstractmethod
    def blend(self) -> Blend:
        """Return the members that err most differently; chosen on earlier windows."""

    def examples(self, data: TaskData, as_of: datetime) -> pl.DataFrame:
        """Eligible users at every origin, with label, `next_orders` and `next_spend`.

        Of many users those of a sample.
        """
        data = sample(data)
        past = read_past(data, as_of)
        splits = self._splits(data, past.behaviour.visits, as_of)
        frame = pl.concat(
            self._labelled(data, past, origin).with_columns(split=pl.lit(split))
            for origin, split in splits.items()
        )
        return self._foretold(frame.filter("eligible").sort("origin", "user_id"), data)

    def foretold_at(self, data: TaskData, as_of: datetime) -> set[datetime]:
        """Return the newest origin of each split, in this round and in earlier ones."""
        visits = read_behaviour(sample(data), as_of).visits
        origins, then = {as_of}, as_of
        with suppress(NotEnoughHistoryError):
            for _ in range(1 + EARLIER_FOLDS):
                splits = self._splits(data, visits, then)
                newest = {split: origin for origin, split in sorted(splits.items())}
                newest.pop(EMBARGO, None)
                origins |= {*newest.values()}
                then = newest["test"]
        return origins

    def test_examples(self, data: TaskData, as_of: datetime) -> pl.DataFrame:
        """Eligible users at the newest origin."""
        data = sample(data)
        past = read_past(data, as_of)
        splits = self._splits(data, past.behaviour.visits, as_of)
        origins = [origin for origin, split in splits.items() if split == "test"]
        frame = pl.concat(self._labelled(data, past, origin) for origin in origins)
        frame = frame.filter("eligible").with_columns(split=pl.lit("test"))
        return self._foretold(frame.sort("origin", "user_id"), data)

    def serving(self, data: TaskData, as_of: datetime, units: pl.Series | None = None) -> Serving:
        """All users who ever bought before `as_of`; `eligible` marks whom the definition covers."""
        past = read_past(data, as_of, days=data.periods.window_days)
        return Serving(self._foretold(self._features(data, past, as_of), data), past)

    def candidates(self) -> list[Model]:
        """Recency, RFM and BG/NBD against logistic, trees, a blend, and what a stack adds to it."""
        blend = Recalibrated(self.blend())
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
            blend,
            Stacked(
                "stacked",
                blend,
                [FORETOLD],
                "The blend, moved by the probability that the sequence model foresees.",
            ),
        ]

    def _line(self) -> LogisticModel:
        return LogisticModel("logistic", CHURN_FEATURES, penalty=self.penalty)

    def rows(
        self, data: TaskData, as_of: datetime, serving: Serving, champion: Champion
    ) -> pl.DataFrame:
        """Predict and explain; every user who ever bought gets a row.

        The latest closed window, out of sample for the champion, says the base rate and what is at
        risk.
        """
        periods, visits = data.periods, serving.read.behaviour.visits
        horizon = self.horizon_days(periods)
        frame = self.valued(data, as_of, serving, champion)
        much = self.much_at_stake(frame, data, as_of, champion)
        orders = next_order(visits, data.business.day_of(as_of), horizon, periods.window_days)
        frame = self.explained(champion.model, frame, data)
        return self.rated(
            frame.join(orders, on="user_id", how="left"),
            self._closed(data, as_of, serving.read),
            much,
            horizon,
            data,
            champion,
        ).with_columns(window_days=pl.lit(periods.window_days, dtype=pl.Int32))

    def valued(
        self, data: TaskData, as_of: datetime, serving: Serving, champion: Champion
    ) -> pl.DataFrame:
        """Predict, and say what is expected and at stake."""
        spend = self._expected_spend(data, as_of, serving.read)
        frame = self.predicted(champion.model, serving.examples)
        frame = frame.join(spend, on="user_id", how="left")
        return with_amounts(
            with_margin(frame, data, as_of),
            self._closed(data, as_of, serving.read),
            share=self.horizon_days(data.periods) / data.periods.window_days,
            priced=has_prices(data, as_of),
        )

    def _expected_spend(self, data: TaskData, as_of: datetime, past: Past) -> pl.DataFrame:
        """Return user_id and expected_spend within the horizon of everybody who ordered."""
        periods = replace(data.periods, value_days=self.horizon_days(data.periods))

        def learnt(whole: TaskData) -> list[float]:
            money = past.everybody.behaviour.money
            began = whole.business.midnight_after(as_of, -periods.value_days)
            before = spend_features(money, whole.business, began, periods)
            spent = spent_between(money, began, as_of)
            closed = before.join(spent, on="user_id", how="left", maintain_order="left")
            return learnt_shares(closed.with_columns(label=pl.col("spent").fill_null(0.0)))

        shares = data.once((self.name, "spend", as_of), learnt)
        rates = spend_features(past.behaviour.money, data.business, as_of, periods)
        return rates.select("user_id", expected_spend=pl.Series(expected_spend(rates, shares)))

    def _closed(self, data: TaskData, as_of: datetime, past: Past) -> pl.DataFrame:
        """Return the labels of the latest closed window, of those who stand for everybody."""
        began = data.business.midnight_after(as_of, -self.horizon_days(data.periods))
        closed: pl.DataFrame = data.once(
            (self.name, "closed", as_of),
            lambda whole: self.labels(whole, past.everybody.behaviour.money, began),
        )
        return closed

    def sections(self, data: TaskData, result: Backtest) -> list[Section]:
        """Say how probabilities held, what is at stake in each decile, and which reasons lead."""
        data = sample(data)
        model, horizon = result.published, self.horizon_days(data.periods)
        behaviour = read_behaviour(data, result.as_of)
        rates = {
            origin: self.labels(data, behaviour.money, origin).filter("eligible")["label"].mean()
            for origin in reversed(self._splits(data, behaviour.visits, result.as_of))
        }
        test, share = result.test["origin"][0], horizon / data.periods.window_days
        before = self.labels(data, behaviour.money, data.business.midnight_after(test, -horizon))
        kept, lost = carried_on(before, "spend", share)
        loss = max(kept - lost, 0.0) if has_prices(data, result.as_of) else None
        return [
            calibration_section(model, result.test, rates),
            value_section(result.test, result.predictions[model.name], share, loss),
            reasons_section(top_reasons(model, result.test, data.periods.named)),
        ]

    def realised(self, data: TaskData, rows: pl.DataFrame, until: datetime) -> pl.DataFrame | None:
        """Return the labels of a closed window; the contract is `ChurnTask.realised`.

        By the windows that the rows say they were made with, whatever the rule says by now.
        """
        as_of, horizon, window = rows.select("as_of", "horizon_days", "window_days").row(0)
        if data.business.midnight_after(as_of, horizon) > until:
            return None
        weeks, window = horizon // 7, WINDOW_DAYS if window is None else window
        periods = replace(
            data.periods, window_days=window, silence_weeks=weeks, decline_weeks=weeks
        )
        return self.labels(replace(data, periods=periods), read_behaviour(data, until).money, as_of)

    def window_ends(self, data: TaskData, predictions: pl.DataFrame) -> pl.Series:
        """Return the end of the rows' own horizon, whatever the windows of another day are."""
        rows = self.judged(predictions)
        later = data.business.midnight_after
        ends = [later(rows["as_of"][0], days) for days in rows["horizon_days"].unique()]
        return pl.Series(ends, dtype=pl.Datetime("us", "UTC"))

    def labels(self, data: TaskData, money: pl.DataFrame, origin: datetime) -> pl.DataFrame:
        """Return eligible, label, its end, orders and spend of both windows, per user ever seen.

        Also when the first order of the label window came, if one did.

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
                next_order_at=at.filter(order & after).min(),
            )
            .filter(pl.col("last_order_at").is_not_null())
            .with_columns(
                eligible=self.is_eligible(data.periods, origin),
                label=self.is_churn(data).cast(pl.Float64),
                label_end=pl.lit(end, dtype=pl.Datetime("us", "UTC")),
            )
        )

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
            splits[origin] = "fit" if later(origin, horizon) <= validation else EMBARGO
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
                eligible=self.is_eligible(data.periods, origin),
                activity=_steps("orders_window", (5, 15), f"orders in {window} days"),
                tenure=pl.when(new)
                .then(pl.lit(f"new: first order in the last {window} days"))
                .otherwise(pl.lit("known for longer")),
                history=_steps("ever", (10, 50), "orders ever"),
            )
        )

    def _foretold(self, examples: pl.DataFrame, data: TaskData) -> pl.DataFrame:
        """Add what the sequence model foresees of the label."""
        foretold = self.foretold(predictions_for(examples, data), data)
        return examples.with_columns(foretold.alias(FORETOLD))

    def _labelled(self, data: TaskData, past: Past, origin: datetime) -> pl.DataFrame:
        labels = self.labels(data, past.behaviour.money, origin)
        return self._features(data, past, origin).join(
            labels.select("user_id", "next_orders", "next_spend", "label", "label_end"),
            on="user_id",
            how="left",
            maintain_order="left",
        )


class SilenceTask(OrderChurnTask):
    """No order at all in the next weeks."""

    name = "churn_silence"
    title = "Churn (silence): no order in the next weeks"
    label_def = "silence"
    penalty = 100.0

    def horizon_days(self, periods: Periods) -> int:
        """Weeks without an order that count as churn."""
        return 7 * periods.silence_weeks

    def is_eligible(self, periods: Periods, origin: datetime) -> pl.Expr:
        """Everybody with an order in the weeks before."""
        active = origin - timedelta(weeks=periods.silence_active_weeks)
        return pl.col("last_order_at") >= active

    def is_churn(self, data: TaskData) -> pl.Expr:
        """No order in the label window."""
        return pl.col("next_orders") == 0

    def foretold(self, predictions: pl.DataFrame, data: TaskData) -> pl.Series:
        """No conversion within the horizon."""
        return p_silent(predictions, self.horizon_days(data.periods))

    def blend(self) -> Blend:
        """Line, forest and, at half their weight, BG/NBD, which knows only orders."""
        forest, rhythm = Forest("forest", CHURN_FEATURES), ColumnScore("bg_nbd", NO_ORDER)
        members = [self._line(), forest, rhythm]
        return Blend("blend", members, weights=(2, 2, 1), extends=("logistic",))


class DeclineTask(OrderChurnTask):
    """Spend falls below a share of the run-rate."""

    name = "churn_decline"
    title = "Churn (decline): spend falls far below the run-rate"
    label_def = "decline"
    penalty = 20.0

    def examples(self, data: TaskData, as_of: datetime) -> pl.DataFrame:
        """As those of `OrderChurnTask`; NotEnoughHistoryError also without a spend to compare."""
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

    def is_eligible(self, periods: Periods, origin: datetime) -> pl.Expr:
        """Enough orders in the window to speak of a run-rate."""
        return (pl.col("orders_window") >= periods.decline_active_orders) & (
            pl.col("spend_window") > 0
        )

    def is_churn(self, data: TaskData) -> pl.Expr:
        """Spend of the label window below the share of the run-rate."""
        return pl.col("next_spend") < self._least(data)

    def foretold(self, predictions: pl.DataFrame, data: TaskData) -> pl.Series:
        """Spend below the share of the run-rate."""
        return p_spend_below(predictions, self._least(data), self.horizon_days(data.periods))

    def _least(self, data: TaskData) -> pl.Expr:
        """Return the spend of the horizon below which it has declined."""
        share = self.horizon_days(data.periods) / data.periods.window_days
        return data.business.churn.decline_share * share * pl.col("spend_window")

    def blend(self) -> Blend:
        """Line and many small boosted trees."""
        trees = BoostedTrees("trees", CHURN_FEATURES, rounds=300, randomised=True)
        return Blend("blend", [self._line(), trees], extends=("logistic",))


def _steps(column: str, ends: tuple[int, int], what: str) -> pl.Expr:
    """Three classes of a count, named."""
    low, high = ends
    names = [f"up to {low} {what}", f"{low + 1} to {high} {what}", f"more than {high} {what}"]
    return pl.col(column).cut(ends, labels=names).cast(pl.String)
