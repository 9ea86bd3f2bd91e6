"""Ads: who counts as a response, no look past a campaign's start, decisions and propensities."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from seq_ml.business import Ads, Business
from seq_ml.evaluation.backtest import backtest
from seq_ml.evaluation.leakage import feature_time
from seq_ml.metrics.bootstrap import bootstrap
from seq_ml.schema import AD_PREDICTIONS, EVENTS, STAMP
from seq_ml.storage.contracts import check_key, conform
from seq_ml.tasks.ads import features
from seq_ml.tasks.ads.decisions import decision_end
from seq_ml.tasks.ads.features import FEATURES, ad_features, read_ad_history
from seq_ml.tasks.ads.task import AdsTask, auc_within_campaigns
from seq_ml.tasks.candidate import Champion
from seq_ml.tasks.data import open_ad_decisions
from seq_ml.tasks.models.binary import LogisticModel
from seq_ml.tasks.task import NotEnoughHistoryError, check_examples
from tests.data import AS_OF, journey
from tests.tasks import cut
from tests.tasks.churn.test_task import task_data

if TYPE_CHECKING:
    from seq_ml.tasks.data import TaskData


@pytest.fixture(scope="module")
def examples() -> pl.DataFrame:
    return AdsTask().examples(task_data(), AS_OF)


@pytest.fixture(scope="module")
def champion(examples) -> Champion:
    model = LogisticModel("logistic", FEATURES)
    model.fit(examples.filter(pl.col("split") != "test"))
    return Champion(model, "v")


def test_examples_are_the_contacts_of_closed_campaigns(examples):
    task = AdsTask()
    check_examples(examples, task, AS_OF)
    frames = journey(households=60)
    events, campaigns = frames["clean_events"], frames["campaigns"]
    test = examples.filter(split="test")
    late = campaigns.filter(
        (pl.col("start_at") >= AS_OF - timedelta(days=91)) & (pl.col("end_at") <= AS_OF)
    )
    contacted = events.filter(event_type="ad_impression").join(late, on="campaign_id", how="semi")
    assert test.height == contacted.select("user_id", "campaign_id").n_unique()
    redeemed = events.filter(event_type="coupon_redeem").select("user_id", "campaign_id").unique()
    joined = examples.join(
        redeemed.with_columns(redeemed=pl.lit(1.0)), on=["user_id", "campaign_id"], how="left"
    )
    assert joined["label"].to_list() == joined["redeemed"].fill_null(0.0).to_list()


def test_features_stop_at_the_start_of_the_campaign(examples):
    events = journey(households=60)["clean_events"]
    campaign = examples.filter(split="test").row(0, named=True)
    start = campaign["origin"]
    known = (pl.col("event_time") < start) | (pl.col("event_type") == "ad_impression")
    now = AdsTask().examples(task_data(events.filter(known)), AS_OF)
    key = ["user_id", "campaign_id"]
    one, two = (
        frame.filter(pl.col("origin") <= start).select(*key, *FEATURES).sort(key)
        for frame in (examples, now)
    )
    # Redemptions after `start` are unknown to both, so features of all origins up to it agree.
    assert one.equals(two)
    assert two.height > 0


def test_backtest_names_both_baselines(examples):
    result = backtest(AdsTask(), examples, as_of=AS_OF, seed=7)
    assert {c.name for c in result.candidates if c.is_baseline} == {
        "campaign_type_rate",
        "user_rate",
        "base_rate",
    }
    assert result.published.is_baseline, "sixty households are too few for a model to win"
    best = next(c for c in result.candidates if c.name == result.published.name)
    for other in result.candidates:
        if other.is_baseline:
            assert other.validation["pr_auc"] <= best.validation["pr_auc"]
        else:
            assert other.left_out, "who is not judged says why"


def test_rows_cover_active_users_and_running_campaigns(champion):
    data, task = task_data(), AdsTask()
    serving = task.serving(data, AS_OF)
    rows = task.rows(data, AS_OF, serving, champion)
    assert set(rows.columns) == {c.name for c in AD_PREDICTIONS.columns} - {c.name for c in STAMP}
    table = conform(
        rows.with_columns(
            as_of=pl.lit(AS_OF),
            model_version=pl.lit("v"),
            source=pl.lit("logistic"),
            run_id=pl.lit("r"),
            created_at=pl.lit(AS_OF),
        ),
        AD_PREDICTIONS,
    )
    check_key(table, AD_PREDICTIONS)
    running = data.campaigns.filter(pl.col("end_at") > AS_OF)["campaign_id"]
    assert set(table["campaign_id"]) == set(running)
    active = data.events_before(AS_OF, days=91).select("user_id").unique().collect()
    assert table.height == running.len() * active.height
    for _, campaign in table.group_by("campaign_id"):
        assert sorted(campaign["rank"]) == list(range(1, campaign.height + 1))
        assert campaign.sort("rank")["p_response"].is_sorted(descending=True)
    assert rows.equals(task.rows(data, AS_OF, serving, champion))


def test_decisions_are_greedy_without_exploration_and_never_contact_twice(champion):
    data, task = task_data(), AdsTask()
    business = Business(timezone="America/New_York", ads=Ads(contact_cost=1.0, explore_share=0.0))
    serving = task.serving(data, AS_OF)
    rows = task.rows(replace(data, business=business), AS_OF, serving, champion)
    before = data.events_before(AS_OF).filter(event_type="ad_impression")
    contacted = before.select("user_id", "campaign_id").unique().collect()
    again = rows.join(contacted, on=["user_id", "campaign_id"], how="semi")
    assert again.height
    assert set(again["decision"]) == {"hold"}
    assert set(again["propensity"]) == {0.0}
    first = rows.join(contacted, on=["user_id", "campaign_id"], how="anti")
    assert ((first["decision"] == "send") == (first["expected_revenue"] > 1.0)).all()
    assert set(first["propensity"]) == {0.0, 1.0}


def test_without_prices_a_response_has_no_value_and_only_a_budget_sends(champion):
    data, task = task_data(), AdsTask()
    events = data.events.with_columns(unit_price=pl.lit(None, dtype=pl.Float64))
    for budget, sent in ((None, 0), (7, 7)):
        ads = Ads(explore_share=0.0, budget=budget)
        business = Business(timezone="America/New_York", ads=ads)
        unpriced = replace(data, events=events, business=business)
        serving = task.serving(unpriced, AS_OF)
        rows = task.rows(unpriced, AS_OF, serving, champion)
        assert rows["expected_revenue"].null_count() == rows.height
        assert rows.filter(pl.col("decision") != "hold").height == sent


def rows_of(data: TaskData, as_of: datetime, champion: Champion) -> pl.DataFrame:
    """What the snapshot of `as_of` would publish."""
    known = replace(data, events=data.events_before(as_of))
    return AdsTask().rows(known, as_of, AdsTask().serving(known, as_of), champion)


@pytest.mark.parametrize(
    "ads",
    [
        Ads(contact_cost=0.0, explore_share=0.2, budget=20),
        Ads(contact_cost=1.0, explore_share=0.0, budget=5),
        Ads(contact_cost=1.0, explore_share=0.1),
    ],
)
def test_rows_of_some_users_at_a_time_are_those_of_all_at_once(champion, ads, monkeypatch):
    """The budget is one for all, and ranks are among all."""
    as_of = AS_OF - timedelta(days=60)
    business = Business(timezone="America/New_York", ads=ads)
    data = replace(task_data(), business=business)
    known = replace(data, events=data.events_before(as_of))
    whole = cut.rows_of(AdsTask(), known, as_of, champion)
    assert whole["rank"].max() > 50
    assert whole.filter(pl.col("decision") != "hold").height > 2
    cut.cut_by(10, monkeypatch)
    parts = cut.rows_of(AdsTask(), replace(known), as_of, champion)
    assert_frame_equal(parts, whole)


def test_of_many_users_a_sample_is_learnt_from(examples, champion, monkeypatch):
    cut.cut_by(10, monkeypatch)
    monkeypatch.setattr(features, "MOST_USERS", 30)
    data, task = task_data(), AdsTask()
    some = task.examples(data, AS_OF)
    assert 10 < some["user_id"].n_unique() < 40
    assert feature_time(task, data, some, AS_OF) == ""
    shard = list(data.shards())[-1]
    rows = task.rows(shard, AS_OF, task.serving(shard, AS_OF), champion)
    assert not set(rows["user_id"]) & set(some["user_id"])
    # how often campaigns are answered is that of the sample, not of these few
    history = read_ad_history(shard, AS_OF)
    assert history.everybody is read_ad_history(data.some(30), AS_OF)


def test_a_campaign_is_decided_in_the_snapshot_whose_day_holds_its_start(champion):
    """On the day before its first hour too; until then it is ranked and takes no budget."""
    ads = Ads(contact_cost=0.0, explore_share=0.2, budget=20)
    business = Business(timezone="America/New_York", ads=ads)
    midnight = datetime(2017, 11, 5, 4, tzinfo=UTC)  # a day of 25 hours follows
    campaigns = pl.DataFrame(
        {
            "campaign_id": ["runs", "last hour", "tomorrow"],
            "campaign_type": ["Type A"] * 3,
            "start_at": [midnight + timedelta(hours=hours) for hours in (-50, 24.5, 25)],
        }
    ).with_columns(end_at=pl.col("start_at") + timedelta(days=10))
    data = replace(task_data(), business=business, campaigns=campaigns)
    for as_of, decided in (
        (midnight, {"runs", "last hour"}),
        (midnight + timedelta(hours=25), {"runs", "last hour", "tomorrow"}),
    ):
        rows = rows_of(data, as_of, champion)
        assert set(rows["campaign_id"]) == set(campaigns["campaign_id"])
        waits = rows.filter(~pl.col("campaign_id").is_in(list(decided)))
        assert set(waits["decision"]) <= {"hold"}
        assert set(waits["propensity"]) <= {0.0}
        assert waits["rank"].null_count() == 0
        now = rows.filter(pl.col("campaign_id").is_in(list(decided)))
        assert set(now.filter(pl.col("propensity") > 0)["campaign_id"]) == decided
        assert 10 < now.filter(pl.col("decision") != "hold").height <= 20
    assert decision_end(business, midnight) == midnight + timedelta(hours=25)


def test_a_campaign_that_starts_later_is_predicted_for_its_own_length(champion):
    data = task_data()
    start = AS_OF + timedelta(days=40)
    later = data.campaigns.head(1).with_columns(
        start_at=pl.lit(start), end_at=pl.lit(start + timedelta(days=30))
    )
    runs = later.with_columns(campaign_id=pl.lit("runs"), start_at=AS_OF - timedelta(days=5))
    data = replace(data, campaigns=pl.concat([later, runs]))
    hours = (
        rows_of(data, AS_OF, champion).group_by("campaign_id").agg(pl.col("horizon_hours").max())
    )
    assert dict(hours.iter_rows()) == {later["campaign_id"][0]: 30 * 24, "runs": 70 * 24}


def test_outcomes_judge_who_was_contacted_once_the_campaign_is_over(champion):
    data, task = task_data(), AdsTask()
    campaign = data.campaigns.filter(campaign_id="18").row(0, named=True)
    as_of = campaign["start_at"]
    before = replace(data, events=data.events_before(as_of))
    serving = task.serving(before, as_of)
    rows = task.rows(before, as_of, serving, champion).with_columns(as_of=pl.lit(as_of))
    assert (
        task.outcomes(data, rows, campaign["end_at"] - timedelta(hours=1))
        .filter(campaign_id="18")
        .is_empty()
    )
    found = task.outcomes(data, rows, AS_OF).filter(campaign_id="18").sort("user_id")
    truth = task.examples(data, AS_OF).filter(campaign_id="18").sort("user_id")
    seen = truth.join(rows.select("user_id").unique(), on="user_id", how="semi")
    assert found["user_id"].to_list() == seen["user_id"].to_list()
    assert found["realised"].to_list() == seen["label"].to_list()
    assert set(found["window_end"]) == {campaign["end_at"]}
    assert found["predicted"].is_between(0, 1).all()


def test_the_report_says_what_a_budget_buys_and_why_there_is_no_uplift(examples):
    result = backtest(AdsTask(), examples, as_of=AS_OF, seed=7)
    budget, policy, uplift = AdsTask().sections(task_data(), result)
    last = budget.rows[-1]
    assert set(last[1 : budget.rows[0].index("by chance: responses")]) == {
        str(int(result.test["label"].sum()))
    }
    assert policy.text.startswith("Not estimated: No campaign ended yet")
    assert uplift.text.startswith("Not estimated, uplift is null: No campaign ended yet")


def test_offers_bought_with_a_coupon_are_counted():
    """By hand: two offers cover items that u bought in the year before, one with a coupon."""
    at = AS_OF - timedelta(days=30)
    sale = {"user_id": "u", "event_type": "purchase", "quantity": 1.0, "unit_price": 2.0}
    rows = [
        {"item_id": "a", "event_time": at, "coupon_discount": 0.5},
        {"item_id": "b", "event_time": at, "coupon_discount": None},
        {"item_id": "a", "event_time": AS_OF, "coupon_discount": 0.5},  # not before the origin
        {"item_id": "z", "event_time": at, "coupon_discount": 0.5},  # not offered
        {"item_id": "c", "event_time": AS_OF - timedelta(days=400), "coupon_discount": 0.5},
    ]
    rows = [{"event_id": f"e{n}"} | sale | row for n, row in enumerate(rows)]
    data = replace(
        task_data(pl.DataFrame(rows, schema=EVENTS.polars_schema())),
        campaign_items=pl.DataFrame(
            {
                "campaign_id": ["x"] * 4,
                "item_id": ["a", "a", "b", "c"],
                "offer_id": ["1", "2", "2", "3"],
            }
        ),
    )
    history = read_ad_history(data, AS_OF + timedelta(days=1))
    campaign = {
        "campaign_id": "x",
        "campaign_type": None,
        "start_at": AS_OF,
        "end_at": AS_OF + timedelta(days=10),
    }
    found = ad_features(history, pl.Series(["u", "new"]), [campaign]).rows(named=True)
    assert [row["user_id"] for row in found] == ["new", "u"]
    assert found[1]["offers_with_coupon_long"] == 2
    assert found[1]["offers_bought_window"] == 2
    assert found[1]["item_coupons_long"] == 1
    assert found[1]["item_lines_long"] == 2
    assert found[1]["offers"] == 3
    assert found[1]["offers_with_coupon_rate"] == 2 / (364 / 91)
    assert found[0]["offers_bought_window"] == 0
    assert [row["history"] for row in found] == ["new: up to 4 weeks", "over 26 weeks"]


def test_a_year_of_redemptions_is_counted_in_days_of_the_business():
    """23:00 and 01:00 in New York are two days there, though one in UTC."""
    night = datetime(2017, 6, 2, 3, tzinfo=UTC)
    rows = [
        {"event_id": f"e{n}", "user_id": "u", "event_type": "coupon_redeem", "campaign_id": "x"}
        | {"event_time": night + timedelta(hours=hours)}
        for n, hours in enumerate((0, 2, 3))
    ]
    data = task_data(pl.DataFrame(rows, schema=EVENTS.polars_schema()))
    campaign = {"campaign_id": "y", "campaign_type": None, "start_at": AS_OF, "end_at": AS_OF}
    found = ad_features(read_ad_history(data, AS_OF), pl.Series(["u"]), [campaign])
    assert found["redemption_days_long"].to_list() == [2.0]
    assert found["redemptions_long"].to_list() == [3.0]


def test_a_campaign_may_start_at_any_hour():
    """Purchases without a session are one visit a day: the day of the start is no feature."""
    data = task_data()
    hours = timedelta(hours=9)
    moved = data.campaigns.with_columns(pl.col("start_at") + hours, pl.col("end_at") + hours)
    impressions = pl.col("event_type") == "ad_impression"
    later = pl.when(impressions).then(pl.col("event_time") + hours).otherwise("event_time")
    events = data.events.with_columns(event_time=later).collect()
    # everybody buys an hour before the start, and an hour after it
    bought = [
        events.filter(impressions).with_columns(
            pl.col("event_time") + timedelta(hours=hour),
            event_type=pl.lit("purchase"),
            quantity=pl.lit(1.0),
            unit_price=pl.lit(5.0),
            event_id=pl.format("{}{}", "event_id", pl.lit(hour)),
        )
        for hour in (-1, 1)
    ]
    data = replace(data, events=pl.concat([events, *bought]).lazy(), campaigns=moved)
    examples = AdsTask().examples(data, AS_OF)
    assert feature_time(AdsTask(), data, examples, AS_OF) == ""


def test_a_sample_of_users_is_served_what_all_are():
    data = task_data()
    every = AdsTask().serving(data, AS_OF).examples
    some = every["user_id"].unique().sort().gather_every(7)
    found = AdsTask().serving(data, AS_OF, some).examples
    assert found.height < every.height
    assert found.equals(every.filter(pl.col("user_id").is_in(some.implode())))


def test_without_campaigns_there_is_an_empty_table_or_a_clear_message(champion):
    data = task_data()
    none = replace(data, campaigns=data.campaigns.clear())
    serving = AdsTask().serving(none, AS_OF)
    assert AdsTask().rows(none, AS_OF, serving, champion).height == 0
    with pytest.raises(NotEnoughHistoryError, match="no campaigns were dropped"):
        AdsTask().examples(none, AS_OF)


def test_one_closed_campaign_alone_says_that_another_one_is_needed():
    data = task_data()
    newest = data.campaigns.filter(pl.col("end_at") <= AS_OF).sort("end_at").tail(1)
    with pytest.raises(NotEnoughHistoryError, match="there are 1 closed campaigns with contacts"):
        AdsTask().examples(replace(data, campaigns=newest), AS_OF)


def test_auc_within_campaigns_is_the_mean_by_examples():
    frame = pl.DataFrame(
        {"campaign_id": ["a"] * 4 + ["b"] * 2 + ["c"], "label": [1, 0, 0, 1, 0, 1, 1]}
    )
    p = np.array([0.9, 0.2, 0.8, 0.3, 0.6, 0.1, 0.5])
    # a: 3 of 4 pairs in order; b: none; c has one class only
    assert auc_within_campaigns(frame, p) == pytest.approx((4 * 0.75 + 2 * 0.0) / 6)


def test_auc_within_campaigns_of_many_resamples_is_that_of_each():
    rng = np.random.default_rng(3)
    frame = pl.DataFrame(
        {
            "user_id": rng.integers(0, 30, 90),
            "campaign_id": rng.integers(0, 9, 90),
            "label": (rng.random(90) < 0.2).astype(float),
        }
    )
    fast = AdsTask().metrics()[-1]
    slow = replace(fast, weighted=None)
    p = {"p": rng.integers(0, 10, 90) / 10}
    cluster = AdsTask().cluster(frame)
    one, other = (
        bootstrap([metric], frame, p, unit="user_id", seed=1, resamples=60, cluster=cluster)
        for metric in (fast, slow)
    )
    drawn, expected = (found["p"][fast.name] for found in (one, other))
    np.testing.assert_allclose(drawn.resampled, expected.resampled)
    np.testing.assert_allclose(drawn.beside.resampled, expected.beside.resampled)
    assert drawn.value == expected.value


def test_decisions_count_where_a_contact_had_a_chance(tables):
    names = AD_PREDICTIONS.polars_schema()
    row = dict.fromkeys(names) | {"user_id": "u", "decision": "hold", "propensity": 0.5}
    snapshots = [
        ("c", AS_OF - timedelta(days=1), {"propensity": 0.0}),  # before its start
        ("c", AS_OF, {}),
        ("d", AS_OF, {"decision": "explore", "propensity": 0.25}),
        ("d", AS_OF + timedelta(days=1), {"propensity": 0.0}),  # after the contact
    ]
    for campaign, as_of, change in snapshots:
        values = row | {"campaign_id": campaign, "as_of": as_of, "created_at": as_of} | change
        tables.append(AD_PREDICTIONS.name, pl.DataFrame([values], schema=names))
    found = open_ad_decisions(tables)
    assert found.collect().sort("campaign_id").rows() == [
        ("u", "c", AS_OF, "hold", 0.5),
        ("u", "d", AS_OF, "explore", 0.25),
    ]
