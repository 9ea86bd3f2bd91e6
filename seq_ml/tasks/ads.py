"""Advertising: who responds to a campaign, and whom to contact.

Example = user × campaign that contacted them (an ad_impression of the campaign); label = a response
(coupon redeemed, or an ad clicked where there are no coupons) to that campaign before it ends;
features strictly before it starts. Test = campaigns that started in the last 91 days and are over.
Primary metric is PR-AUC: a budget buys the top of the list, so what counts is how many of those at
the top respond.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from seq_ml.evaluation.metrics import binary_metrics
from seq_ml.schema import AD_PREDICTIONS
from seq_ml.sequences.cutoffs import TEST_DAYS
from seq_ml.tasks.features import (
    BEHAVIOUR_FEATURES,
    WINDOW_DAYS,
    Behaviour,
    behaviour_features,
    read_behaviour,
)
from seq_ml.tasks.models import Blend, BoostedTrees, ColumnScore, LogisticModel
from seq_ml.tasks.task import Champion, NotEnoughHistoryError, Task, TaskData

if TYPE_CHECKING:
    from datetime import datetime

    from seq_ml.tasks.task import Metric, Model

FIRST_HISTORY_DAYS = 28
"""Campaigns that start earlier in the history say little about what people did before them."""
VALIDATION_SHARE = 0.2
"""Share of the examples before the test that validation should at least hold."""
USER_PRIOR = 2.0
TYPE_PRIOR = 50.0
"""Contacts by which the response rate of a user, of a campaign type, is drawn to the mean."""

RESPONSE_FEATURES = (
    "user_response_rate",
    "campaigns_received",
    "days_since_response",
    "type_response_rate",
    "offers",
    "campaign_items",
    "campaign_days",
    "item_spend_91d",
    "item_orders_91d",
    "item_share_91d",
)
FEATURES = (*BEHAVIOUR_FEATURES, *RESPONSE_FEATURES)


@dataclass(frozen=True)
class _History:
    """What is known strictly before as_of.

    contacts: user_id, campaign_id, campaign_type, start_at, end_at, contacted_at, responded_at
    (first response, null without one). item_spend: user_id, item (code), at, spend; offered items.
    codes: campaign_id, item (code), offer_id.
    """

    behaviour: Behaviour
    contacts: pl.DataFrame
    item_spend: pl.DataFrame
    codes: pl.DataFrame
    response_type: str


class AdsTask(Task):
    """Probability of a response to a campaign."""

    name = "ads"
    title = "Ads: response to a campaign"
    table = AD_PREDICTIONS
    key = ("user_id", "campaign_id")
    unit = "user_id"
    primary_metric = "pr_auc"
    slices = ("campaign_type", "responded_before")
    limits = (
        "Learnt from contacted users only; others are assumed to respond like them.",
        "No hold-out group: a response is not the same as additional revenue, so uplift is null.",
    )

    def examples(self, data: TaskData, as_of: datetime) -> pl.DataFrame:
        """Contacted users of every closed campaign, by split."""
        history = _read_history(data, as_of)
        splits = _splits(history, as_of)
        campaigns = history.contacts.join(splits, on="campaign_id", how="inner")
        parts = [
            _features(history, group["user_id"], group.row(0, named=True))
            for _, group in campaigns.group_by("campaign_id", maintain_order=True)
        ]
        return (
            pl.concat(parts)
            .join(
                campaigns.select(
                    "user_id",
                    "campaign_id",
                    "split",
                    label=pl.col("responded_at").is_not_null().cast(pl.Float64),
                    label_end="end_at",
                ),
                on=["user_id", "campaign_id"],
                how="inner",
                maintain_order="left",
            )
            .sort("origin", "campaign_id", "user_id")
        )

    def serving_examples(self, data: TaskData, as_of: datetime) -> pl.DataFrame:
        """Every user with an event in the last 91 days × every campaign that ends after `as_of`.

        Campaigns that already run are predicted as if they started at `as_of`.
        """
        history = _read_history(data, as_of)
        users = (data.events_before(as_of, days=WINDOW_DAYS).select("user_id").unique().collect())[
            "user_id"
        ].sort()
        running = data.campaigns.filter(pl.col("end_at") > as_of).sort("campaign_id")
        parts = [
            _features(history, users, {**campaign, "start_at": as_of})
            for campaign in running.iter_rows(named=True)
        ]
        if parts:
            return pl.concat(parts)
        campaign = {"campaign_id": "", "campaign_type": "", "start_at": as_of, "end_at": as_of}
        return _features(history, users, campaign).clear()

    def candidates(self) -> list[Model]:
        """Rates of the campaign type and of the user as baselines; logistic, trees, their blend."""
        few = ("user_response_rate", "coupon_share", "coupon_orders_91d", "offers")
        return [
            ColumnScore("campaign_type_rate", "type_response_rate"),
            ColumnScore("user_rate", "user_response_rate"),
            LogisticModel("logistic_4_features", few),
            _logistic(),
            _trees(),
            Blend("blend", [_logistic(), _trees()]),
        ]

    def metrics(self) -> list[Metric]:
        """Return the metrics of a probability."""
        return binary_metrics()

    def rows(
        self, data: TaskData, as_of: datetime, serving: pl.DataFrame, champion: Champion
    ) -> pl.DataFrame:
        """Rank the users within each campaign by expected profit and decide whom to contact.

        expected_revenue = p × mean spend of a responding user on the business day of the response
        (responses of the last 91 days; before that, of all). A contact pays when it exceeds the
        contact cost. With probability `explore_share` the decision is a coin instead, so that every
        user is contacted with a known propensity above 0 and below 1: e/2 where a contact does not
        pay, 1 − e/2 where it does.
        """
        history = _read_history(data, as_of)
        ads = data.business.ads
        p = champion.model.predict(serving) if serving.height else np.zeros(0)
        value = _value_of_response(history, data, as_of)
        frame = serving.with_columns(
            p=pl.Series(p, dtype=pl.Float64), expected_cost=pl.lit(ads.contact_cost)
        ).with_columns(expected_revenue=pl.col("p") * value)
        frame = frame.sort("campaign_id", "p", "user_id", descending=[False, True, False])
        # One generator per as_of: the same day draws the same users, another day others.
        rng = np.random.default_rng([data.seed, int(as_of.timestamp())])
        draw, coin = rng.random(frame.height), rng.random(frame.height)
        explored = pl.Series(draw < ads.explore_share)
        heads = pl.Series(coin < 0.5)
        pays = pl.col("expected_revenue") > pl.col("expected_cost")
        half = ads.explore_share / 2
        return frame.select(
            "user_id",
            "campaign_id",
            p_response=pl.col("p").cast(pl.Float32),
            response_type=pl.lit(history.response_type),
            horizon_hours=(24 * pl.col("campaign_days")).round().cast(pl.Int32),
            p_response_control=pl.lit(None, dtype=pl.Float32),
            uplift=pl.lit(None, dtype=pl.Float32),
            expected_revenue="expected_revenue",
            expected_cost="expected_cost",
            rank=pl.int_range(1, pl.len() + 1, dtype=pl.Int32).over("campaign_id"),
            decision=pl.when(explored & heads)
            .then(pl.lit("explore"))
            .when(pays & ~explored)
            .then(pl.lit("send"))
            .otherwise(pl.lit("hold")),
            propensity=pl.when(pays).then(1 - half).otherwise(half).cast(pl.Float32),
        )


def _logistic() -> LogisticModel:
    # A few thousand correlated examples: a strong penalty won on validation (1, 3, 10, 30, 100).
    return LogisticModel("logistic", FEATURES, penalty=100.0)


def _trees() -> BoostedTrees:
    return BoostedTrees("trees", FEATURES, rounds=60)


def _read_history(data: TaskData, as_of: datetime) -> _History:
    events = data.events_before(as_of)
    touches = (
        events.filter(
            pl.col("event_type").is_in(["ad_impression", "ad_click", "coupon_redeem"])
            & pl.col("campaign_id").is_not_null()
        )
        .group_by("user_id", "campaign_id", "event_type")
        .agg(at=pl.col("event_time").min())
        .collect()
    )
    redeemed = touches["event_type"].is_in(["coupon_redeem"]).any()
    response_type = "coupon_redeem" if redeemed else "ad_click"
    key = ["user_id", "campaign_id"]
    contacts = (
        touches.filter(pl.col("event_type") == "ad_impression")
        .select(*key, contacted_at="at")
        .join(
            touches.filter(pl.col("event_type") == response_type).select(*key, responded_at="at"),
            on=key,
            how="left",
        )
        .join(data.campaigns, on="campaign_id", how="inner")
        .filter(pl.col("contacted_at") < pl.col("end_at"))
        .with_columns(
            responded_at=pl.when(pl.col("responded_at") < pl.col("end_at")).then("responded_at")
        )
        .sort("start_at", "campaign_id", "user_id")
    )
    offered = data.campaign_items.select(pl.col("item_id").unique().sort()).with_row_index("item")
    item_spend = (
        events.filter(pl.col("event_type") == "purchase")
        .join(offered.lazy(), on="item_id", how="inner")
        .select(
            "user_id",
            "item",
            at="event_time",
            spend=(pl.col("quantity") * pl.col("unit_price")).fill_null(0.0),
        )
        .collect()
    )
    return _History(
        read_behaviour(data, as_of),
        contacts,
        item_spend,
        data.campaign_items.join(offered, on="item_id", how="inner"),
        response_type,
    )


def _splits(history: _History, as_of: datetime) -> pl.DataFrame:
    """Name the split of every closed campaign that can be used: (campaign_id, split).

    Validation = the newest campaigns before the test that together hold a fifth of the examples,
    fit = those that ended before the first of them started, embargo = those between.
    """
    begins = history.behaviour.visits["at"].min()
    first = as_of if begins is None else begins + timedelta(days=FIRST_HISTORY_DAYS)  # type: ignore[operator]
    closed = (
        history.contacts.filter((pl.col("end_at") <= as_of) & (pl.col("start_at") >= first))
        .group_by("campaign_id", "start_at", "end_at")
        .agg(rows=pl.len(), responses=pl.col("responded_at").count())
        .sort("start_at", "campaign_id")
    )
    test = closed.filter(pl.col("start_at") >= as_of - timedelta(days=TEST_DAYS))
    before = closed.filter(pl.col("end_at") <= test["start_at"].min()) if test.height else test
    if not before.height:
        raise NotEnoughHistoryError(
            f"ads needs a campaign that started after {as_of - timedelta(days=TEST_DAYS):%Y-%m-%d} "
            f"and ended before {as_of:%Y-%m-%d}, and one that ended before that one started; there "
            f"are {closed.height} closed campaigns with contacts."
        )
    split = pl.lit("fit")
    for start in before["start_at"].unique().sort(descending=True):
        newest = before.filter(pl.col("start_at") >= start)
        enough = int(newest["rows"].sum()) >= VALIDATION_SHARE * int(before["rows"].sum())
        if enough and newest["responses"].sum() >= 10 and (before["end_at"] <= start).any():
            split = (
                pl.when(pl.col("start_at") >= start)
                .then(pl.lit("validation"))
                .when(pl.col("end_at") <= start)
                .then(pl.lit("fit"))
                .otherwise(pl.lit("embargo"))
            )
            break
    return pl.concat(
        [
            before.select("campaign_id", split=split),
            test.select("campaign_id", split=pl.lit("test")),
        ]
    )


def _features(history: _History, users: pl.Series, campaign: dict[str, Any]) -> pl.DataFrame:
    """Features of `users` for one campaign, from events strictly before its `start_at`."""
    origin: datetime = campaign["start_at"]
    earlier = history.contacts.filter(pl.col("contacted_at") < origin).with_columns(
        responded_at=pl.when(pl.col("responded_at") < origin).then("responded_at")
    )
    overall = _rate(earlier, 0.0, 0.0)
    over = earlier.filter(
        (pl.col("end_at") <= origin)
        & pl.col("campaign_type").eq_missing(pl.lit(campaign["campaign_type"], dtype=pl.String))
    )
    of_user = earlier.group_by("user_id").agg(
        campaigns_received=pl.len().cast(pl.Float64),
        responses=pl.col("responded_at").count(),
        last_response=pl.col("responded_at").max(),
    )
    covered = history.codes.filter(pl.col("campaign_id") == campaign["campaign_id"])
    window = history.item_spend.filter(
        (pl.col("at") >= origin - timedelta(days=WINDOW_DAYS)) & (pl.col("at") < origin)
    )
    on_items = (
        window.join(covered.select(pl.col("item").unique()), on="item", how="semi")
        .group_by("user_id")
        .agg(
            item_spend_91d=pl.col("spend").sum().round(3),
            item_orders_91d=pl.col("at").n_unique().cast(pl.Float64),
        )
    )
    received = pl.col("campaigns_received").fill_null(0.0)
    return (
        behaviour_features(history.behaviour, origin, users)
        .join(of_user, on="user_id", how="left", maintain_order="left")
        .join(on_items, on="user_id", how="left", maintain_order="left")
        .with_columns(
            campaign_id=pl.lit(campaign["campaign_id"], dtype=pl.String),
            campaign_type=pl.lit(campaign["campaign_type"], dtype=pl.String),
            origin=pl.lit(origin, dtype=pl.Datetime("us", "UTC")),
            responded_before=pl.when(pl.col("responses") > 0)
            .then(pl.lit("yes"))
            .otherwise(pl.lit("no")),
            user_response_rate=(pl.col("responses").fill_null(0) + USER_PRIOR * overall)
            / (received + USER_PRIOR),
            campaigns_received=received,
            days_since_response=(pl.lit(origin) - pl.col("last_response")).dt.total_seconds()
            / 86400.0,
            type_response_rate=pl.lit(_rate(over, TYPE_PRIOR, overall)),
            offers=pl.lit(float(covered["offer_id"].n_unique())),
            campaign_items=pl.lit(float(covered["item"].n_unique())),
            campaign_days=pl.lit((campaign["end_at"] - origin).total_seconds() / 86400.0),
            item_spend_91d=pl.col("item_spend_91d").fill_null(0.0),
            item_orders_91d=pl.col("item_orders_91d").fill_null(0.0),
        )
        .with_columns(
            item_share_91d=pl.when(pl.col("spend_91d") > 0).then(
                pl.col("item_spend_91d") / pl.col("spend_91d")
            )
        )
        .select("user_id", "campaign_id", "origin", "campaign_type", "responded_before", *FEATURES)
    )


def _rate(contacts: pl.DataFrame, prior: float, mean: float) -> float:
    """Responses per contact, drawn to `mean` by `prior` contacts; 0 without any."""
    total = contacts.height + prior
    return (contacts["responded_at"].count() + prior * mean) / total if total else 0.0


def _value_of_response(history: _History, data: TaskData, as_of: datetime) -> float:
    """Mean spend of a responding user on the business day of a response, currency units."""
    zone = data.business.timezone
    responses = history.contacts.filter(pl.col("responded_at").is_not_null())
    late = responses.filter(pl.col("responded_at") >= as_of - timedelta(days=WINDOW_DAYS))
    days = (
        (late if late.height else responses)
        .select("user_id", day=pl.col("responded_at").dt.convert_time_zone(zone).dt.date())
        .unique()
    )
    spent = history.behaviour.visits.group_by("user_id", "day").agg(pl.col("spend").sum())
    joined = days.join(spent, on=["user_id", "day"], how="left").sort("user_id", "day")
    mean = joined["spend"].fill_null(0.0).mean()
    return float(mean) if mean is not None else 0.0  # type: ignore[arg-type]
