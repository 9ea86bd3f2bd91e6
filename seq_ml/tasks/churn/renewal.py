"""Churn by contract: whose subscription is not renewed (`label_def` non_renewal).

An example is a user's next contract that runs out within the horizon after an origin, by the terms
and dates known at the origin. It was not renewed when no term of the same subscription follows
within the days of grace. Who gave notice before the origin is not asked about: that is known, and
no model may shine with it. Whose contract runs out later, or never, or ran out before, is not
eligible. Origins lie one horizon apart, so that every contract is an example once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import polars as pl

from seq_ml.tasks.behaviour.features import BEHAVIOUR_FEATURES, behaviour_features
from seq_ml.tasks.behaviour.visits import Behaviour, read_behaviour
from seq_ml.tasks.churn.features import sample
from seq_ml.tasks.churn.report import calibration_section, reasons_section
from seq_ml.tasks.churn.rows import ChurnTask
from seq_ml.tasks.churn.terms import (
    END,
    RENEWAL,
    TERM_FEATURES,
    chained,
    due,
    lost,
    plan_logits,
)
from seq_ml.tasks.models.binary import BoostedTrees, LogisticModel
from seq_ml.tasks.models.explain import top_reasons
from seq_ml.tasks.models.rates import ShrunkenRate
from seq_ml.tasks.task import EMBARGO, NotApplicableError, NotEnoughHistoryError, Serving

if TYPE_CHECKING:
    from datetime import datetime

    from seq_ml.pages.page import Section
    from seq_ml.tasks.candidate import Champion, Model
    from seq_ml.tasks.data import TaskData
    from seq_ml.tasks.judged import Backtest

FEATURES = (*TERM_FEATURES, *BEHAVIOUR_FEATURES)


class RenewalTask(ChurnTask):
    """No new term when the contract runs out."""

    name = "churn_non_renewal"
    title = "Churn (non-renewal): no new term when the contract runs out"
    slices = ("plan", RENEWAL)
    limits = (
        "Who gave notice before the prediction is not asked about; the list of those is known.",
        (
            "An export that moves a date of renewal without saying when (`known_at`) tells the "
            "future."
        ),
        "Nobody was left out on purpose: churn is a forecast, not the effect of an action.",
    )
    label_def = "non_renewal"

    def examples(self, data: TaskData, as_of: datetime) -> pl.DataFrame:
        """Contracts that ran out in every window, with label; NotEnoughHistoryError without.

        Of many users those of a sample.
        """
        data = sample(data)
        chain, past = self._chain(data, as_of), read_behaviour(data, as_of)
        horizon = data.business.churn.renewal_days
        examples = pl.concat(
            self._features(data, past, origin)
            .filter("eligible")
            .join(self.labels(data, chain, origin, horizon), on="user_id", maintain_order="left")
            .with_columns(split=pl.lit(split))
            for origin, split in self._splits(data, chain, as_of).items()
        ).sort("origin", "user_id")
        test = examples.filter(split="test").height
        if test in (0, examples.height):
            when = "before the newest" if test else f"in the newest {horizon} days"
            raise NotEnoughHistoryError(
                f"{self.name}: no contract without notice ran out {when} whose renewal was known "
                f"by {as_of:%Y-%m-%d}; wait for more renewals."
            )
        if examples["label"].min() == 1:
            raise NotEnoughHistoryError(
                f"{self.name}: none of the {examples.height:,} contracts that ran out was renewed: "
                "log a renewal as a term of its own, or the moved date as a new row with known_at."
            )
        return examples

    def serving(self, data: TaskData, as_of: datetime, units: pl.Series | None = None) -> Serving:
        """Everybody with a term before `as_of`; `eligible` marks whose contract runs out soon."""
        self._check_terms(data, as_of)
        past = read_behaviour(data, as_of, days=data.periods.window_days)
        return Serving(self._features(data, past, as_of))

    def candidates(self) -> list[Model]:
        """Return the rates of plans and of renewals against logistic regressions and trees."""
        return [
            ShrunkenRate("plan_rate", "plan", "The plan's rate, drawn to the rate of all."),
            ShrunkenRate(
                "tenure_hazard",
                RENEWAL,
                "The rate at the first, second … renewal, drawn to the rate of all.",
            ),
            ShrunkenRate("base_rate", None, "The same rate for everybody."),
            LogisticModel(
                "logistic_terms",
                TERM_FEATURES,
                "Logistic regression on what the contract says.",
                penalty=10.0,
            ),
            LogisticModel("logistic", FEATURES, penalty=100.0, extends=("logistic_terms",)),
            BoostedTrees("trees", FEATURES),
        ]

    def rows(
        self, data: TaskData, as_of: datetime, serving: Serving, champion: Champion
    ) -> pl.DataFrame:
        """Predict and explain; everybody who ever had a contract gets a row.

        Orders are renewals here: one at most is due. What is at risk is the price of the next term,
        taken to be that of this one.
        """
        horizon = data.business.churn.renewal_days
        closed = data.business.midnight_after(as_of, -self._known_after(data, horizon))

        def labels(some: TaskData) -> pl.DataFrame:
            return self.labels(some, self._chain(some, as_of), closed, horizon)

        frame = self.valued(data, as_of, serving, champion)
        return self.rated(
            self.explained(champion.model, frame, data),
            sample(data)
            .keep((self.name, "closed", as_of), labels)
            .with_columns(eligible=pl.lit(value=True)),
            self.much_at_stake(frame, data, as_of, champion),
            horizon,
            data,
            champion,
        )

    def valued(
        self, data: TaskData, as_of: datetime, serving: Serving, champion: Champion
    ) -> pl.DataFrame:
        """Predict; of who is not asked about nothing is expected."""
        p, price, zone = pl.col("p"), pl.col("price"), data.business.timezone
        return self.predicted(champion.model, serving.examples).with_columns(
            value_at_risk=p * price,
            margin_at_risk=pl.lit(None, dtype=pl.Float64),
            expected_orders=1 - p,
            expected_spend=(1 - p) * price,
            next_order_date=END.dt.convert_time_zone(zone).dt.date(),
        )

    def sections(self, data: TaskData, result: Backtest) -> list[Section]:
        """Say how probabilities held, and which reasons lead."""
        data = sample(data)
        model: Any = result.published
        chain = self._chain(data, result.as_of)
        horizon = data.business.churn.renewal_days
        rates = {
            origin: self.labels(data, chain, origin, horizon)["label"].mean()
            for origin in reversed(self._splits(data, chain, result.as_of))
        }
        return [
            calibration_section(model, result.test, rates),
            reasons_section(top_reasons(model, result.test, data.periods.named)),
        ]

    def realised(self, data: TaskData, rows: pl.DataFrame, until: datetime) -> pl.DataFrame:
        """Return the labels of contracts whose days of grace are over."""
        chain = chained(data.terms_known(until))
        labels = self.labels(data, chain, *rows.select("as_of", "horizon_days").row(0))
        return labels.filter(pl.col("label_end") <= until)

    def labels(
        self, data: TaskData, chain: pl.DataFrame, origin: datetime, horizon: int
    ) -> pl.DataFrame:
        """Return user_id, label and label_end of the contracts that run out after `origin`.

        chain: `chained` of all that is known by now.
        """
        later = data.business.midnight_after
        known = later(origin, self._known_after(data, horizon))
        asked = due(chained(data.terms_known(origin)), origin, later(origin, horizon))
        return lost(asked, chain, data.business.churn.renewal_grace_days).with_columns(
            label_end=pl.lit(known, dtype=pl.Datetime("us", "UTC"))
        )

    def _known_after(self, data: TaskData, horizon: int) -> int:
        """Days after an origin at which all renewals of its window are known."""
        return horizon + data.business.churn.renewal_grace_days

    def _chain(self, data: TaskData, as_of: datetime) -> pl.DataFrame:
        """Return the terms that began before `as_of`; the errors say why there are none to ask."""
        self._check_terms(data, as_of)
        return chained(data.terms_known(as_of))

    def _check_terms(self, data: TaskData, as_of: datetime) -> None:
        data.once((self.name, "terms", as_of), lambda whole: self._of_all(whole, as_of))

    def _of_all(self, data: TaskData, as_of: datetime) -> None:
        if data.subscriptions.is_empty():
            raise NotApplicableError(
                f"{self.name} speaks of contracts, and no subscriptions were dropped."
            )
        terms = data.terms_known(as_of)
        if terms["renews_or_ends_at"].count() == 0:
            raise NotEnoughHistoryError(
                f"{self.name} needs contracts with a date of renewal: all {terms.height:,} that "
                f"began before {as_of:%Y-%m-%d} are open-ended."
            )

    def _splits(self, data: TaskData, chain: pl.DataFrame, as_of: datetime) -> dict[datetime, str]:
        """Name the split of every origin, newest first; NotEnoughHistoryError without two."""
        later, horizon = data.business.midnight_after, data.business.churn.renewal_days
        closed = self._known_after(data, horizon)
        test, validation = later(as_of, -closed), later(as_of, -2 * closed)
        begins: Any = chain["started_at"].min()
        if validation <= begins:
            raise NotEnoughHistoryError(
                f"{self.name} needs contracts of {2 * closed} days before {as_of:%Y-%m-%d}, the "
                f"first one began on {begins:%Y-%m-%d}."
            )
        splits = {test: "test", validation: "validation"}
        origin = later(validation, -horizon)
        while origin > begins:
            splits[origin] = "fit" if later(origin, closed) <= validation else EMBARGO
            origin = later(origin, -horizon)
        return splits

    def _features(self, data: TaskData, past: Behaviour, origin: datetime) -> pl.DataFrame:
        """Return the features of everybody with a term before `origin`, sorted by user."""
        chain = chained(data.terms_known(origin))
        users = chain["user_id"].unique().sort()
        churn = data.business.churn
        end = data.business.midnight_after(origin, churn.renewal_days)

        def of_plans(some: TaskData) -> pl.DataFrame:
            known = chained(some.terms_known(origin))
            return plan_logits(known, origin, churn.renewal_grace_days)

        plans = sample(data).keep((self.name, "plans", origin), of_plans)
        asked = due(chain, origin, end).join(plans, on="plan", how="left", maintain_order="left")
        terms = asked.select("user_id", "plan", RENEWAL, "renews_or_ends_at", *TERM_FEATURES)
        return (
            behaviour_features(past, origin, users)
            .join(terms, on="user_id", how="left", maintain_order="left")
            .with_columns(
                eligible=pl.col("plan").is_not_null(),
                origin=pl.lit(origin, dtype=pl.Datetime("us", "UTC")),
            )
        )
