"""Ads: who counts as a response, no look past a campaign's start, decisions and propensities."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import polars as pl
import pytest

from seq_ml.business import Ads, Business
from seq_ml.evaluation.backtest import backtest
from seq_ml.schema import AD_PREDICTIONS, STAMP
from seq_ml.storage.tables import check_key, conform
from seq_ml.tasks.ads import FEATURES, AdsTask
from seq_ml.tasks.models import LogisticModel
from seq_ml.tasks.task import Champion, NotEnoughHistoryError, check_examples
from tests.data import AS_OF, journey
from tests.test_churn import task_data


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


def test_backtest_names_a_baseline_and_both_slices(examples):
    result = backtest(AdsTask(), examples, as_of=AS_OF, seed=7)
    assert {c.name for c in result.candidates if c.is_baseline} == {
        "campaign_type_rate",
        "user_rate",
    }
    assert result.improvement is not None


def test_rows_cover_active_users_and_running_campaigns(champion):
    data, task = task_data(), AdsTask()
    serving = task.serving_examples(data, AS_OF)
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


def test_decisions_follow_the_logged_propensities(champion):
    data = task_data()
    task = AdsTask()
    serving = task.serving_examples(data, AS_OF)

    def decided(**terms: float) -> pl.DataFrame:
        business = Business(timezone="America/New_York", ads=Ads(**terms))
        return task.rows(replace(data, business=business), AS_OF, serving, champion)

    greedy = decided(contact_cost=1.0, explore_share=0.0)
    pays = greedy["expected_revenue"] > 1.0
    assert ((greedy["decision"] == "send") == pays).all()
    assert set(greedy["propensity"]) <= {0.0, 1.0}
    learning = decided(contact_cost=1.0, explore_share=0.5)
    contacted = learning["decision"] != "hold"
    assert contacted.mean() == pytest.approx(learning["propensity"].mean(), abs=0.08)
    assert set(learning["decision"]) == {"send", "hold", "explore"}
    assert learning["propensity"].round(3).is_between(0.25, 0.75).all()


def test_without_campaigns_there_is_an_empty_table_or_a_clear_message(champion):
    data = task_data()
    none = replace(data, campaigns=data.campaigns.clear())
    serving = AdsTask().serving_examples(none, AS_OF)
    assert AdsTask().rows(none, AS_OF, serving, champion).height == 0
    with pytest.raises(NotEnoughHistoryError, match="0 closed campaigns"):
        AdsTask().examples(none, AS_OF)
