"""Advertising: who responds to a campaign, and whom to contact.

Example = user × campaign that contacted them (an exposure, such as an ad_impression); label = a
response (`seq_ml.tasks.ads.features.the_response`) to that campaign before it ends; features
strictly before it starts. Test = campaigns that started in the newest window and are over.
Primary metric is PR-AUC: a budget buys the top of the list, so what counts is how many of those at
the top respond.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from seq_ml.metrics.metric import Metric
from seq_ml.metrics.probabilities import binary_metrics, labels, roc_auc
from seq_ml.periods import WINDOW_DAYS
from seq_ml.schema import AD_PREDICTIONS
from seq_ml.tasks.ads.decisions import decide, decision_end
from seq_ml.tasks.ads.features import (
    FEATURES,
    MOST_USERS,
    SLICES,
    AdHistory,
    ad_features,
    first_touch,
    read_ad_history,
    sample,
)
from seq_ml.tasks.ads.uplift import with_uplift
from seq_ml.tasks.behaviour.margins import margin_share, with_margin
from seq_ml.tasks.behaviour.visits import has_prices
from seq_ml.tasks.models.binary import Blend, BoostedTrees, ColumnScore, LogisticModel
from seq_ml.tasks.models.rates import ShrunkenRate
from seq_ml.tasks.task import NotApplicableError, NotEnoughHistoryError, Serving, Task

if TYPE_CHECKING:
    from datetime import datetime

    from numpy.typing import NDArray

    from seq_ml.metrics.bootstrap import Drawn
    from seq_ml.pages.page import Section
    from seq_ml.tasks.candidate import Champion, Model
    from seq_ml.tasks.data import TaskData
    from seq_ml.tasks.judged import Backtest

VALIDATION_SHARE = 0.2
"""Share of the examples before the test that validation should at least hold."""


class AdsTask(Task):
    """Probability of a response to a campaign."""

    name = "ads"
    title = "Ads: response to a campaign"
    table = AD_PREDICTIONS
    key = ("user_id", "campaign_id")
    unit = "user_id"
    primary_metric = "pr_auc"
    slices = SLICES
    by_user = True
    limits = (
        "Learnt from contacted users only; others are assumed to respond like them.",
        "A response is not additional revenue: only a hold-out made by chance shows the effect.",
        "A response is worth the same for everybody: the mean spend of responders on that day.",
        f"Of more than {MOST_USERS:,} users a sample is judged, and learnt from.",
    )

    def examples(self, data: TaskData, as_of: datetime) -> pl.DataFrame:
        """Contacted users of every closed campaign, by split."""
        if data.campaigns.is_empty():
            raise NotApplicableError("ads speaks of campaigns, and no campaigns were dropped.")
        data = sample(data)
        history = read_ad_history(data, as_of)
        splits = _splits(history, as_of)
        campaigns = history.contacts.join(splits, on="campaign_id", how="inner")
        known = campaigns.select(
            *self.key,
            "split",
            label=pl.col("responded_at").is_not_null().cast(pl.Float64),
            label_end="end_at",
        )
        features = pl.concat(
            ad_features(history, group["user_id"], [group.row(0, named=True)])
            for _, group in campaigns.group_by("campaign_id", maintain_order=True)
        )
        return features.join(known, on=self.key).sort("origin", "campaign_id", "user_id")

    def serving(self, data: TaskData, as_of: datetime, units: pl.Series | None = None) -> Serving:
        """Every user with an event in the window × every campaign that ends after `as_of`.

        All are predicted as if they started at `as_of`: those that run for the days that are left,
        those that start later for all of their days. units: users.
        """
        history = read_ad_history(data, as_of)
        active = data.events_before(as_of, days=data.periods.window_days).select("user_id").unique()
        if units is not None:
            active = active.filter(pl.col("user_id").is_in(units.implode()))
        users = active.collect()["user_id"].sort()
        length = pl.col("end_at") - pl.max_horizontal("start_at", pl.lit(as_of))
        running = (
            data.campaigns.filter(pl.col("end_at") > as_of)
            .sort("campaign_id")
            .with_columns(start_at=pl.lit(as_of), end_at=pl.lit(as_of) + length)
            .to_dicts()
        )
        none = {"campaign_id": "", "campaign_type": "", "start_at": as_of, "end_at": as_of}
        examples = ad_features(history, users, running or [none])
        return Serving(examples if running else examples.clear(), history)

    def candidates(self) -> list[Model]:
        """Rates of the campaign type and of the user as baselines; logistic, trees, their blend."""
        few = ("user_response_rate", "coupon_share", "coupon_orders_window", "offers")
        return [
            ColumnScore(
                "campaign_type_rate",
                "type_response_rate",
                "How often such campaigns were answered, the same for everybody.",
            ),
            ColumnScore(
                "user_rate", "user_response_rate", "How often the user answered campaigns before."
            ),
            ShrunkenRate("base_rate", None, "The same rate for everybody."),
            LogisticModel("logistic_4_features", few, "Logistic regression on four features."),
            _logistic(),
            _trees(),
            Blend("blend", [_logistic(), _trees()], extends=("logistic", "trees")),
        ]

    def cluster(self, examples: pl.DataFrame) -> pl.Series:
        """Return the campaigns: the claim is about the next one, and users are within them."""
        return examples["campaign_id"]

    def metrics(self) -> list[Metric]:
        """Return the metrics of a probability, and the ROC-AUC within campaigns."""
        within = Metric(
            "within_campaign_auc",
            higher_is_better=True,
            function=auc_within_campaigns,
            description="ROC-AUC of each campaign, weighted by its examples.",
            weighted=_many_within_campaigns,
        )
        return [*binary_metrics(), within]

    def rows(
        self, data: TaskData, as_of: datetime, serving: Serving, champion: Champion
    ) -> pl.DataFrame:
        """Rank the users within each campaign by expected profit and decide whom to contact.

        expected_revenue = probability × mean spend of a responding user on the business day of the
        response (responses of the window; before that, of all); the probability is the uplift
        where a hold-out showed that its order holds. Else the revenue is gross, and the row says
        so. Where costs are known, profit goes by the user's margin.
        Decisions and propensities: `seq_ml.tasks.ads.decisions`.
        """
        examples, history = serving.examples, serving.read
        p = champion.model.predict(examples) if examples.height else np.zeros(0)
        frame = examples.with_columns(p=pl.Series(p, dtype=pl.Float64))
        worth = data.once(
            ("response", as_of), lambda whole: value_of_response(history.everybody, whole, as_of)
        )
        value = pl.lit(worth, dtype=pl.Float64)
        frame = with_margin(with_uplift(frame, data, history, as_of), data, as_of).with_columns(
            revenue=pl.coalesce("uplift", "p") * value
        )
        decided = data.campaigns.filter(pl.col("start_at") < decision_end(data.business, as_of))
        contacted = history.contacts.select("user_id", "campaign_id", contacted=pl.lit(value=True))
        frame = frame.join(contacted, on=self.key, how="left", maintain_order="left").with_columns(
            open=pl.col("contacted").is_null()
            & pl.col("campaign_id").is_in(decided["campaign_id"].implode())
        )
        frame = frame.select(
            "user_id",
            "campaign_id",
            "open",
            p_response=pl.col("p").cast(pl.Float32),
            response_type=pl.lit(history.response_type),
            horizon_hours=(24 * pl.col("campaign_days")).round().cast(pl.Int32),
            p_response_control=pl.col("p_control").cast(pl.Float32),
            uplift=pl.col("uplift").cast(pl.Float32),
            expected_revenue="revenue",
            expected_margin=pl.col("revenue") * pl.col("margin_share"),
            expected_cost=pl.lit(data.business.ads.contact_cost),
            is_gross=pl.col("uplift").is_null(),
            rests_on=pl.lit(champion.rests_on(None, data.periods.history_days)),
        )
        return _decided(frame, data).drop("open")

    def across(self, rows: pl.LazyFrame, data: TaskData, as_of: datetime) -> pl.DataFrame:
        """Rank and decide again among everybody: the budget is one for all."""
        read = rows.select(
            *self.key,
            "p_response",
            "uplift",
            "expected_revenue",
            "expected_margin",
            # where a contact had no chance among few, it has none among all
            open=pl.col("propensity") > 0,
        )
        decided = _decided(read.collect(), data)
        return decided.select(*self.key, "rank", "decision", "propensity")

    def sections(self, data: TaskData, result: Backtest) -> list[Section]:
        """Return what a budget buys, what today's policy would have earned, what contacts add."""
        from seq_ml.tasks.ads.report import budget, new_policy, uplift

        data = sample(data)
        history = read_ad_history(data, result.as_of)
        value = value_of_response(history, data, result.as_of)
        share = margin_share(data, result.as_of)
        value = value if value is None or share is None else value * share
        return [
            budget(data, result, value),
            new_policy(data, result, history, value),
            uplift(data, result, history),
        ]

    def outcomes(self, data: TaskData, predictions: pl.DataFrame, until: datetime) -> pl.DataFrame:
        """Judge p_response of users who were contacted since `as_of`, once the campaign is over."""
        key = self.key
        rows = predictions.select(*key, "as_of", "response_type", predicted="p_response").join(
            data.campaigns.select("campaign_id", window_end="end_at"), on="campaign_id"
        )
        rows = rows.filter(pl.col("window_end") <= until)
        touches = (
            data.events_before(until)
            .filter(pl.col("campaign_id").is_in(rows["campaign_id"].unique().to_list()))
            .select(*key, "event_type", at="event_time")
            .collect()
            .join(rows, on=key)
        )
        in_time = touches.filter(pl.col("at") < pl.col("window_end"))
        impressions = in_time.filter(data.business.of_role("exposure"))
        contacted = first_touch(impressions, "contacted_at")
        responded = in_time.filter(
            (pl.col("event_type") == pl.col("response_type")) & (pl.col("at") >= pl.col("as_of"))
        )
        return (
            rows.join(contacted, on=key)
            .filter(pl.col("contacted_at") >= pl.col("as_of"))
            .join(first_touch(responded, "responded_at"), on=key, how="left")
            .select(
                *key,
                target=pl.lit("p_response"),
                predicted=pl.col("predicted").cast(pl.Float64),
                realised=pl.col("responded_at").is_not_null().cast(pl.Float64),
                window_end="window_end",
            )
            .sort(key)
        )

    def window_ends(self, data: TaskData, predictions: pl.DataFrame) -> pl.Series:
        """Return when the campaigns end, whether or not anybody was contacted yet."""
        return data.campaigns.filter(
            pl.col("campaign_id").is_in(predictions["campaign_id"].unique().implode())
        )["end_at"]


def _decided(rows: pl.DataFrame, data: TaskData) -> pl.DataFrame:
    """Add rank, decision and propensity to rows of the table, and to whether each is `open`."""
    pairs = rows.with_columns(
        gain=pl.coalesce("expected_margin", "expected_revenue"), p="p_response"
    )
    return (
        decide(pairs, data.business.ads, seed=data.seed)
        .drop("gain", "p")
        .sort(
            "campaign_id",
            pl.coalesce("uplift", "p_response"),
            "user_id",
            descending=[False, True, False],
        )
        .with_columns(
            pl.col("propensity").cast(pl.Float32),
            rank=pl.int_range(1, pl.len() + 1, dtype=pl.Int32).over("campaign_id"),
        )
    )


def auc_within_campaigns(examples: pl.DataFrame, p: NDArray[np.float64]) -> float:
    """Mean ROC-AUC of the campaigns, weighted by examples: knowing good campaigns does not help."""
    label = labels(examples)
    codes = examples["campaign_id"].rank("dense").to_numpy()
    campaigns, sizes = np.unique(codes, return_counts=True)
    aucs = np.array([roc_auc(label[codes == code], p[codes == code]) for code in campaigns])
    defined = ~np.isnan(aucs)
    if not defined.any():
        return float("nan")
    return float(np.average(aucs[defined], weights=sizes[defined]))


def _many_within_campaigns(examples: pl.DataFrame, p: NDArray[np.float64]) -> Any:
    """As `auc_within_campaigns`, of many resamples at once (see `Metric.weighted`)."""
    (auc,) = (metric.weighted for metric in binary_metrics() if metric.name == "roc_auc")
    codes = examples["campaign_id"].rank("dense").to_numpy()
    parts = [codes == code for code in np.unique(codes)]
    told = [auc(examples.filter(pl.Series(part)), p[part]) for part in parts]

    def of(drawn: Drawn) -> NDArray[np.float64]:
        within = [drawn.of(part) for part in parts]
        aucs = np.stack([of_one(one) for of_one, one in zip(told, within, strict=True)])
        sizes = np.stack([one.rows().sum(axis=1) for one in within]) * ~np.isnan(aucs)
        total = sizes.sum(axis=0)
        mean = (np.nan_to_num(aucs) * sizes).sum(axis=0) / np.maximum(total, 1)
        return np.where(total > 0, mean, np.nan)

    return of


def value_of_response(history: AdHistory, data: TaskData, as_of: datetime) -> float | None:
    """Mean spend of a responding user on the business day of a response, currency units.

    Less the share of all spend of the window that was given back: what comes back of that
    day comes back later. None when nobody responded yet, or nothing has a price.
    """
    zone, since = data.business.timezone, as_of - timedelta(days=data.periods.window_days)
    responses = history.contacts.filter(pl.col("responded_at").is_not_null())
    late = responses.filter(pl.col("responded_at") >= since)
    days = (
        (late if late.height else responses)
        .select("user_id", day=pl.col("responded_at").dt.convert_time_zone(zone).dt.date())
        .unique()
    )
    visits, money = history.behaviour.visits, history.behaviour.money
    if not days.height or not has_prices(data, as_of):
        return None
    spent = visits.group_by("user_id", "day").agg(pl.col("spend").sum())
    joined = days.join(spent, on=["user_id", "day"], how="left").sort("user_id", "day")
    bought, net = (
        float(frame.filter(pl.col("at") >= since)["spend"].sum()) for frame in (visits, money)
    )
    kept = min(max(net / bought, 0.0), 1.0) if bought else 1.0
    return kept * float(joined["spend"].fill_null(0.0).mean())  # type: ignore[arg-type]


def _logistic() -> LogisticModel:
    # A few thousand correlated examples of a dozen campaigns: a strong penalty won on earlier
    # campaigns (30, 100, 200, 300).
    return LogisticModel("logistic", FEATURES, penalty=200.0)


def _trees() -> BoostedTrees:
    return BoostedTrees("trees", FEATURES, rounds=60)


def _splits(history: AdHistory, as_of: datetime) -> pl.DataFrame:
    """Name the split of every closed campaign that can be used: (campaign_id, split).

    Validation = the newest campaigns before the test that together hold a fifth of the examples,
    fit = those that ended before the first of them started, embargo = those between.
    """
    periods = history.behaviour.periods
    recent, test_days = periods.recent_days, min(periods.window_days, WINDOW_DAYS)
    begins = history.first_seen["first_seen"].min()
    # Campaigns that start earlier say little about what people did before them.
    first = as_of if begins is None else begins + timedelta(days=recent)  # type: ignore[operator]
    over = history.contacts.filter(pl.col("end_at") <= as_of)
    closed = (
        over.filter(pl.col("start_at") >= first)
        .group_by("campaign_id", "start_at", "end_at")
        .agg(rows=pl.len(), responses=pl.col("responded_at").count())
        .sort("start_at", "campaign_id")
    )
    test = closed.filter(pl.col("start_at") >= as_of - timedelta(days=test_days))
    before = closed.filter(pl.col("end_at") <= test["start_at"].min()) if test.height else test
    if not before.height:
        raise NotEnoughHistoryError(
            f"ads needs a campaign that started after {as_of - timedelta(days=test_days):%Y-%m-%d} "
            f"and ended before {as_of:%Y-%m-%d}, and one that ended before that one started; there "
            f"are {over['campaign_id'].n_unique()} closed campaigns with contacts, {closed.height} "
            f"of them started {recent} days or more after the first event."
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
