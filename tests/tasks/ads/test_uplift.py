"""Uplift on a generated log whose truth is known, and the reasons why there is none."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cache

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from seq_ml import schema
from seq_ml.business import Ads, Business
from seq_ml.evaluation.backtest import backtest
from seq_ml.metrics.off_policy import LoggedDecisions, off_policy
from seq_ml.tasks.ads.features import FEATURES, read_ad_history
from seq_ml.tasks.ads.log import NoLogError, decided_pairs
from seq_ml.tasks.ads.task import AdsTask
from seq_ml.tasks.ads.uplift import UpliftModel, judge_uplift, pair_effects
from seq_ml.tasks.candidate import Champion
from seq_ml.tasks.data import TaskData

START = datetime(2023, 1, 1, tzinfo=UTC)
AS_OF = START + timedelta(days=240)
USERS = 400
PERSUADED, SURE = (0.5, 0.1), (0.3, 0.3)
"""P(response) contacted and not: half the users are persuadable, the others respond anyway."""
TRUE_EFFECT = 0.5 * (PERSUADED[0] - PERSUADED[1])


LATE = 0.8
"""P(contact by a later snapshot) of the hot half of the sure ones, where there is one."""


@cache
def shop(*, late: bool = False) -> TaskData:
    """Weekly purchases, five closed campaigns and one open; who is persuadable uses coupons.

    late: three days after its start a second snapshot of each campaign contacts most of the sure
    ones that are hot: those respond twice as often, the other sure ones never.
    """
    rng, more = np.random.default_rng(11), np.random.default_rng(12)
    users = [f"u{n:04d}" for n in range(USERS)]
    persuadable = rng.random(USERS) < 0.5
    hot = ~persuadable & (more.random(USERS) < 0.5)
    events, decisions = [], []

    def event(user: str, kind: str, at: datetime, **values: object) -> None:
        events.append(
            {"user_id": user, "event_type": kind, "event_time": at, "event_date": at.date()}
            | values
        )

    for user, uses_coupons in zip(users, persuadable, strict=True):
        for week in range(34):
            at = START + timedelta(days=7 * week, hours=float(rng.integers(0, 160)))
            saved = 1.0 if uses_coupons and rng.random() < 0.5 else 0.0
            event(
                user, "purchase", at, session_id=f"{user}-{week}", item_id=f"i{rng.integers(20)}",
                quantity=1.0, unit_price=10.0, discount=saved, coupon_discount=saved,
            )  # fmt: skip
    starts = [START + timedelta(days=day) for day in (60, 90, 120, 155, 190, 230)]
    for number, start in enumerate(starts):
        campaign = f"c{number}"
        if start + timedelta(days=28) > AS_OF:
            continue
        # Confounded on purpose: those whom a contact changes are contacted more often.
        chance = np.where(persuadable, 0.7, 0.4)
        contacted = rng.random(USERS) < chance
        for n, user in enumerate(users):
            decisions.append((user, campaign, start, "send" if contacted[n] else "hold", chance[n]))
            if contacted[n]:
                event(user, "ad_impression", start + timedelta(hours=2), campaign_id=campaign)
            elif late and hot[n]:
                second, again = start + timedelta(days=3), more.random() < LATE
                decisions.append((user, campaign, second, "send" if again else "hold", LATE))
                if again:
                    event(user, "ad_impression", second, campaign_id=campaign)
            p = (PERSUADED if persuadable[n] else SURE)[0 if contacted[n] else 1]
            if late and not persuadable[n]:
                p = 2 * p if hot[n] else 0.0
            if rng.random() < p:
                at = start + timedelta(days=1 + float(rng.integers(0, 26)))
                event(user, "coupon_redeem", at, campaign_id=campaign)
    frame = pl.DataFrame(
        [{"event_id": f"e{n}"} | row for n, row in enumerate(events)],
        schema=schema.EVENTS.polars_schema(),
    )
    names = [f"c{n}" for n in range(len(starts))]
    return TaskData(
        events=frame.sort("event_time", "event_id").lazy(),
        items=pl.DataFrame(schema=schema.ITEMS.polars_schema()),
        campaigns=pl.DataFrame(
            {
                "campaign_id": names,
                "campaign_type": ["mail"] * len(names),
                "start_at": starts,
                "end_at": [start + timedelta(days=28) for start in starts],
            },
            schema=schema.CAMPAIGNS.polars_schema(),
        ),
        campaign_items=pl.DataFrame(
            {"campaign_id": names, "item_id": ["i1"] * len(names), "offer_id": ["o"] * len(names)}
        ),
        promotions=pl.LazyFrame(schema=schema.PROMOTIONS.polars_schema()),
        business=Business(ads=Ads(contact_cost=1.0)),
        ad_decisions=pl.DataFrame(
            decisions,
            schema={
                "user_id": pl.String,
                "campaign_id": pl.String,
                "as_of": pl.Datetime("us", "UTC"),
                "decision": pl.String,
                "propensity": pl.Float32,
            },
            orient="row",
        ).lazy(),
    )


def users_with_coupons(data: TaskData) -> pl.Series:
    """The persuadable."""
    used = data.events.filter(pl.col("coupon_discount") > 0).select("user_id").unique()
    return used.collect()["user_id"].sort()


def pairs(data: TaskData) -> pl.DataFrame:
    return decided_pairs(data, read_ad_history(data, AS_OF), AS_OF)


def logged_by_the_business(data: TaskData) -> TaskData:
    """The same decisions, in the business's own log and not published by Seqline."""
    told = data.ad_decisions.collect().with_columns(pl.col("propensity").cast(pl.Float64))
    told = told.join(data.campaigns.select("campaign_id"), on="campaign_id")
    contacts = pl.col("event_type") == "ad_impression"
    chances = told.filter(decision="send").select("user_id", "campaign_id", p="propensity").lazy()
    events = data.events.join(chances, on=["user_id", "campaign_id"], how="left").with_columns(
        propensity=pl.when(contacts).then("p")
    )
    held = told.filter(decision="hold").select(
        pl.format("h{}", pl.int_range(pl.len())).alias("event_id"),
        "user_id",
        "campaign_id",
        "propensity",
        event_type=pl.lit("held_back"),
        event_time=pl.col("as_of") + timedelta(hours=2),
        event_date=pl.col("as_of").dt.date(),
    )
    return replace(
        data,
        events=pl.concat([events.drop("p").collect(), held], how="diagonal").lazy(),
        ad_decisions=data.ad_decisions.clear(),
        business=data.business.model_copy(update={"behaviours": {"held_back": "other"}}),
    )


def test_a_business_logs_its_own_decisions_as_seqline_publishes_them():
    own, published = pairs(logged_by_the_business(shop())), pairs(shop())
    kept = ["user_id", "campaign_id", "origin", "contacted", "alone", "label", *FEATURES]
    assert_frame_equal(own.select(kept), published.select(kept))
    assert own["propensity"].to_list() == pytest.approx(published["propensity"].to_list())
    held = own.filter("alone")
    assert held["p_alone"].to_list() == pytest.approx((1 - held["propensity"]).to_list())


def test_a_log_of_contacts_alone_decides_nothing():
    data = logged_by_the_business(shop())
    shown = replace(data, events=data.events.filter(pl.col("event_type") != "held_back"))
    with pytest.raises(NoLogError, match="and of users who were held back"):
        pairs(shown)


def test_who_is_contacted_later_bends_no_effect():
    """They respond more than others, contacted or not: to leave them out would invent an effect."""
    log = pairs(shop(late=True))
    later = log.filter(~pl.col("contacted") & ~pl.col("alone"))
    assert 0.1 < later.height / log.height < 0.2
    found = judge_uplift(log, seed=7)
    assert found.later > 50
    assert found.effect.low < TRUE_EFFECT < found.effect.high
    assert abs(found.predicted - TRUE_EFFECT) < 0.06
    unweighted = log.with_columns(p_alone=1 - pl.col("propensity"))
    assert judge_uplift(
        unweighted.filter(pl.col("contacted") | pl.col("alone")), seed=7
    ).effect.low > (TRUE_EFFECT)


@pytest.mark.parametrize("new", [0.0, 0.5, 1.0], ids=str)
def test_a_first_decision_earns_what_followed_it(new):
    """The value of contacting by chance at first, then as the later snapshot did."""
    log, value, cost = pairs(shop(late=True)), 10.0, 1.0
    found = off_policy(
        LoggedDecisions(
            log["contacted"].to_numpy(),
            (log["label"] * value - (~log["alone"]).cast(pl.Float64) * cost).to_numpy(),
            log["propensity"].to_numpy(),
            log["user_id"].rank("dense").cast(pl.Int64).to_numpy(),
        ),
        np.full(log.height, new),
        reward_acted=np.full(log.height, 3.0),
        reward_not=np.full(log.height, 1.0),
    )
    share = log["user_id"].is_in(users_with_coupons(shop(late=True)).implode()).mean()
    contacted = (share * PERSUADED[0] + (1 - share) * SURE[0]) * value - cost
    held = (share * PERSUADED[1] + (1 - share) * SURE[1]) * value
    held -= cost * LATE * 0.5 * (1 - share)
    truth = new * contacted + (1 - new) * held
    for estimate in (found.ips, found.snips, found.dr):
        assert estimate.low < truth < estimate.high


def test_the_report_counts_who_was_contacted_later():
    policy, effect = AdsTask().sections(shop(late=True), judged())[1:]
    assert "users that were held back were contacted by a later snapshot" in policy.text
    assert "contacted later and in neither group" in effect.text


@cache
def judged():
    examples = AdsTask().examples(shop(), AS_OF)
    return backtest(AdsTask(), examples, as_of=AS_OF, seed=7)


def test_logged_decisions_are_joined_with_what_followed():
    data, found = shop(), pairs(shop())
    assert found.height == 5 * USERS
    key = ["user_id", "campaign_id"]
    for kind, column in (("ad_impression", "contacted"), ("coupon_redeem", "label")):
        seen = data.events.filter(event_type=kind).select(*key).unique().collect()
        marked = found.filter(pl.col(column).cast(bool)).select(*key)
        assert marked.sort(key).equals(seen.sort(key))
    early = decided_pairs(data, read_ad_history(data, AS_OF), AS_OF - timedelta(days=30))
    assert set(early["campaign_id"]) == {"c0", "c1", "c2", "c3"}


def test_the_estimates_cover_the_truth_and_find_the_persuadable():
    found = judge_uplift(pairs(shop()), seed=7)
    assert found.effect.low < TRUE_EFFECT < found.effect.high
    assert found.effect_top.low < 0.4 < found.effect_top.high
    assert found.effect_top.low > found.effect.value
    assert found.qini.low > 0
    assert abs(found.predicted - TRUE_EFFECT) < 0.06
    assert found.curve[0] == (0.0, 0.0)
    assert found.curve[-1][1] == pytest.approx(found.effect.value)


def test_effects_are_unbiased_under_confounding_whatever_the_model_says():
    """The difference of the arms would be 0.1 too high here; 200 small logs, by their mean."""
    rng = np.random.default_rng(2)
    eager = rng.random((200, 300)) < 0.5
    chance = np.where(eager, 0.8, 0.3)
    contacted = rng.random(eager.shape) < chance
    label = rng.random(eager.shape) < np.where(eager, 0.5, 0.2) + 0.1 * contacted
    raw = [y[t].mean() - y[~t].mean() for y, t in zip(label, contacted, strict=True)]
    wrong = np.full((300, 2), [0.9, 0.4])
    logs = (
        pl.DataFrame({"contacted": t, "propensity": e, "label": y}).with_columns(
            alone=~pl.col("contacted"), p_alone=1 - pl.col("propensity")
        )
        for t, e, y in zip(contacted, chance, label, strict=True)
    )
    found = [pair_effects(log, wrong).mean() for log in logs]
    assert np.mean(raw) > 0.2
    assert np.mean(found) == pytest.approx(0.1, abs=0.02)


def test_contacts_that_follow_the_forecast_bend_no_effect():
    """Who responds anyway is contacted, the others are not; a contact changes nothing."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(10):
        rows = 3000
        greedy = rng.random(rows) < 0.6
        propensity = np.where(greedy, 0.975, 0.025)
        contacted = rng.random(rows) < propensity
        decided = pl.DataFrame(
            {
                **dict.fromkeys(FEATURES, np.zeros(rows)),
                FEATURES[0]: np.where(greedy, 3.0, 0.0),
                "contacted": contacted,
                "alone": ~contacted,
                "propensity": propensity,
                "p_alone": 1 - propensity,
                "label": (rng.random(rows) < np.where(greedy, 0.12, 0.01)).astype(float),
            }
        )
        model = UpliftModel()
        model.fit(decided)
        both = model.predict(decided)
        found.append((both[:, 0] - both[:, 1]).mean())
    assert abs(np.mean(found)) < 0.025  # without weights: 0.04


def test_a_random_order_has_no_qini():
    shuffled = pairs(shop()).with_columns(
        pl.col("label").shuffle(seed=3).over("campaign_id"),
    )
    found = judge_uplift(shuffled, seed=7)
    assert found.qini.low < 0 < found.qini.high
    assert found.effect.low < 0 < found.effect.high


def test_published_rows_rank_and_earn_by_uplift():
    data, task = shop(), AdsTask()
    champion = Champion(judged().published, "v")
    rows = task.rows(data, AS_OF, task.serving(data, AS_OF), champion)
    coupons = users_with_coupons(data)
    persuadable = rows.filter(pl.col("user_id").is_in(coupons.implode()))
    sure = rows.filter(~pl.col("user_id").is_in(coupons.implode()))
    assert persuadable["uplift"].mean() == pytest.approx(0.4, abs=0.1)
    assert sure["uplift"].mean() == pytest.approx(0.0, abs=0.1)
    assert persuadable["rank"].mean() < sure["rank"].mean()
    gain = rows["expected_revenue"] / rows["uplift"]
    assert gain.min() == pytest.approx(gain.max(), rel=1e-4)
    without = task.rows(
        replace(data, ad_decisions=data.ad_decisions.clear()),
        AS_OF,
        task.serving(data, AS_OF),
        champion,
    )
    assert without["uplift"].null_count() == without["p_response_control"].null_count() > 0
    assert without["expected_revenue"].null_count() == 0
    assert without["is_gross"].all()
    assert not rows["is_gross"].any()


def test_uplift_whose_order_is_chance_leaves_the_response_in_its_place():
    """Responses fall on anybody: contacts change nothing, and no order of them is better."""
    data, task = shop(), AdsTask()
    redeemed = pl.col("event_type") == "coupon_redeem"
    events = data.events.collect().with_columns(
        user_id=pl.when(redeemed).then(pl.col("user_id").shuffle(seed=3)).otherwise("user_id")
    )
    data = replace(data, events=events.lazy())
    assert not judge_uplift(pairs(data), seed=data.seed).holds
    champion = Champion(judged().published, "v")
    rows = task.rows(data, AS_OF, task.serving(data, AS_OF), champion)
    assert rows["uplift"].null_count() == rows["p_response_control"].null_count() == rows.height
    assert rows["is_gross"].all()
    value = rows["expected_revenue"] / rows["p_response"]
    assert value.min() == pytest.approx(value.max(), rel=1e-4)
    assert "it is null and responses decide, gross" in task.sections(data, judged())[2].text


def test_the_report_shows_value_and_effect():
    """Today's policy on a log where chance decided: its value lies where the truth does."""
    policy, effect = AdsTask().sections(shop(), judged())[1:]
    assert "effective ones" in policy.text
    assert [row[0] for row in policy.rows][:2] == ["profit per decision", "as logged"]
    assert "better than chance" in effect.text
    assert effect.figures[0].startswith("<svg")


def test_an_arm_without_responses_is_a_small_rate_and_not_zero():
    decided = pairs(shop()).with_columns(
        label=pl.when(pl.col("contacted")).then(pl.col("label")).otherwise(0.0)
    )
    model = UpliftModel()
    model.fit(decided)
    control = model.predict(decided)[:, 1]
    assert 0 < control.max() < 0.01


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda log: log.clear(), "No campaign ended yet"),
        (
            lambda log: log.with_columns(propensity=pl.lit(None, dtype=pl.Float32)),
            "have no propensity",
        ),
        (
            lambda log: log.with_columns(
                propensity=(pl.col("decision") == "send").cast(pl.Float32)
            ),
            "Nothing was decided by chance",
        ),
        (
            lambda log: log.with_columns(decision=pl.lit("hold")),
            "left alone had no exposure",
        ),
        (
            lambda log: log.filter(
                (pl.col("decision") == "hold") | (pl.col("user_id") < "u0020")
            ).with_columns(
                user_id=pl.when(pl.col("decision") == "send")
                .then(pl.format("x{}", "user_id"))
                .otherwise("user_id")
            ),
            "contacts that were decided show as an exposure",
        ),
        (lambda log: log.filter(pl.col("decision") == "send"), "were held out to the end"),
        (lambda log: log.filter(pl.col("campaign_id") == "c4"), "overlap"),
    ],
    ids=[
        "no log",
        "no propensity",
        "no chance",
        "nobody left alone",
        "few contacts and none made",
        "no hold-out",
        "one campaign",
    ],
)
def test_without_a_control_group_uplift_is_null_and_says_why(change, message):
    data = replace(shop(), ad_decisions=change(shop().ad_decisions))
    with pytest.raises(NoLogError, match=message):
        judge_uplift(pairs(data), seed=7)
    section = AdsTask().sections(data, judged())[2]
    assert section.text.startswith("Not estimated, uplift is null")
    assert message in section.text
