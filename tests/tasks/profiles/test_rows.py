"""User profiles: the contract, counts by hand, segments that stay, tags with their events."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from seq_ml.business import Business
from seq_ml.pages.page import html, markdown
from seq_ml.periods import GROCER
from seq_ml.schema import STAMP, USER_PROFILES
from seq_ml.storage.contracts import check_key, conform
from seq_ml.tasks.behaviour.visits import read_behaviour, read_visits
from seq_ml.tasks.data import TaskData
from seq_ml.tasks.profiles import features, fraud_kinds, planted_fraud, rows
from seq_ml.tasks.profiles.anomalies import (
    ANOMALY_FEATURES,
    UNUSUAL_SHARE,
    Usual,
    anomalies,
    anomaly_features,
)
from seq_ml.tasks.profiles.page import profiles_page
from seq_ml.tasks.profiles.planted_fraud import BENT, PATTERNS, average_precision, plant
from seq_ml.tasks.profiles.report import judge_profiles
from seq_ml.tasks.profiles.segments import SEGMENTS, stability
from seq_ml.tasks.profiles.tags import EVENTS_SHOWN
from tests.data import AS_OF, journey
from tests.tasks.churn.test_task import NEW_YORK, purchases, task_data
from tests.tasks.cut import cut_by

DAY = timedelta(days=1)


def user_profiles(data: TaskData, as_of: datetime) -> pl.DataFrame:
    return rows.user_profiles(data, as_of)


def with_vectors() -> TaskData:
    """The sample, with vectors of its users at AS_OF, and others of an earlier cut-off."""
    data = task_data()
    users = data.events.select("user_id").unique()
    vectors = [
        users.with_columns(as_of=pl.lit(at), embedding=pl.lit([first, 2.0], pl.List(pl.Float32)))
        for at, first in ((AS_OF, 1.0), (AS_OF - 7 * DAY, 0.0))
    ]
    return replace(data, embeddings=pl.concat(vectors))


@pytest.fixture(scope="module")
def profiles() -> pl.DataFrame:
    return user_profiles(with_vectors(), AS_OF)


def test_every_user_has_one_row_of_the_contract(profiles):
    table = conform(
        profiles.with_columns(
            as_of=pl.lit(AS_OF),
            model_version=pl.lit("v"),
            run_id=pl.lit("r"),
            created_at=pl.lit(AS_OF),
        ),
        USER_PROFILES,
    )
    check_key(table, USER_PROFILES)
    assert len(profiles.columns) == len(USER_PROFILES.columns) - len(STAMP) + 1
    assert set(profiles["source"]) == {"rules"}
    users = journey(households=60)["clean_events"]["user_id"].unique()
    assert set(table["user_id"]) == set(users)
    assert USER_PROFILES["segment"].allowed == tuple(SEGMENTS)
    assert table["embedding"].unique().to_list() == [[1.0, 2.0]]
    assert (table["orders_28d"] <= table["orders_91d"]).all()
    assert (table["orders_91d"] <= table["orders_total"]).all()
    assert table["anomaly_reason"].drop_nulls().len() >= 1
    assert table["clv_horizon_days"].unique().to_list() == [GROCER.value_days]
    assert table["clv_expected"].null_count() == table.height, "nothing was forecast"


def test_counts_by_hand():
    now = datetime(2024, 6, 1, tzinfo=UTC)
    orders = [("a", now - n * DAY, 10.0) for n in (1, 5, 9, 60, 200)]
    orders += [("b", now - 120 * DAY, 7.0), ("c", now - 3 * DAY, 1.0)]
    profiles = user_profiles(task_data(purchases(orders), Business()), now)
    a = profiles.row(by_predicate=pl.col("user_id") == "a", named=True)
    assert (a["orders_28d"], a["orders_91d"], a["orders_365d"], a["orders_total"]) == (3, 4, 5, 5)
    assert (a["spend_28d"], a["spend_total"], a["aov"]) == (30.0, 50.0, 10.0)
    assert (a["recency_days"], a["tenure_days"]) == (1.0, 200.0)
    assert a["avg_days_between_orders"] == pytest.approx(199 / 4)
    assert profiles["segment"].to_list()[1:] == ["lost", "new"]


def test_the_same_day_gives_the_same_and_a_kept_segment_keeps_its_date(profiles):
    data = with_vectors()
    assert user_profiles(data, AS_OF).equals(profiles)
    published = [
        user_profiles(data, as_of).with_columns(as_of=pl.lit(as_of))
        for as_of in (AS_OF - 28 * DAY, AS_OF - 7 * DAY)
    ]
    earlier = published[1]
    now = user_profiles(replace(data, profiles=pl.concat(published).lazy()), AS_OF)
    joined = now.join(earlier, on="user_id", suffix="_before")
    kept = joined["segment"] == joined["segment_before"]
    assert kept.mean() > 0.6, "rules on 91 days move slowly"
    assert (joined.filter(kept)["segment_since"] == date(2017, 12, 25)).all()
    assert (joined.filter(~kept)["segment_since"] == date(2018, 1, 1)).all()


def test_nothing_after_as_of_moves_a_profile():
    events = journey(households=60)["clean_events"]
    at = AS_OF - 30 * DAY
    wild = events.with_columns(
        unit_price=pl.when(pl.col("event_time") >= at).then(99.0).otherwise("unit_price"),
        store_id=pl.when(pl.col("event_time") >= at).then(pl.lit("x")).otherwise("store_id"),
    )
    assert user_profiles(task_data(events), at).equals(user_profiles(task_data(wild), at))


def test_segments_are_more_stable_than_clusters_fitted_anew():
    behaviour = read_behaviour(task_data(), AS_OF)
    steps = stability(behaviour, AS_OF, days=7, steps=4)
    assert [step.second for step in steps] == [AS_OF - n * 7 * DAY for n in (3, 2, 1, 0)]
    assert all(step.kept > 0.6 and step.rules > 0.4 for step in steps)
    assert np.mean([s.rules for s in steps]) > np.mean([s.clusters for s in steps])
    first = behaviour.visits["at"].min()
    early = stability(behaviour, first + 98 * DAY, days=7, steps=4)
    assert len(early) == 1, "no snapshot whose 91 days have only begun to fill"


# --- tags -----------------------------------------------------------------------------------------


def backs(tag: str, events: pl.DataFrame, favourite: str) -> bool:
    """Tell whether the named events really have what the tag says."""
    local = events["event_time"].dt.convert_time_zone("America/New_York")
    if tag == "coupon_user":
        return (events["event_type"] == "coupon_redeem").all()
    return {
        "bargain_hunter": lambda: (events["discount"] > 0).all(),
        "weekend_shopper": lambda: (local.dt.weekday() >= 6).all(),
        "evening_shopper": lambda: (local.dt.hour() >= 18).all(),
        "spends_less": lambda: (events["event_time"] < AS_OF - 28 * DAY).all(),
        "spends_more": lambda: (events["event_time"] >= AS_OF - 28 * DAY).all(),
        "many_stores": lambda: events["store_id"].n_unique() >= 4,
        "one_department": lambda: (events["department"] == favourite).all(),
    }[tag]() and bool((events["event_type"] == "purchase").all())


def test_every_tag_names_events_that_exist_and_back_it(profiles):
    frames = journey(households=60)
    events = frames["clean_events"].join(
        frames["items"].select("item_id", "department"), on="item_id", how="left"
    )
    tags = profiles.select("user_id", "tags").explode("tags").unnest("tags").drop_nulls("tag")
    assert tags["tag"].n_unique() >= 6, "most rules are seen in the sample"
    for user, tag, evidence, ids in tags.rows():
        assert evidence
        assert 1 <= len(ids) <= EVENTS_SHOWN
        named = events.filter(pl.col("event_id").is_in(ids))
        assert named.height == len(ids)
        assert set(named["user_id"]) == {user}
        assert named["event_time"].max() < AS_OF
        assert named["event_time"].min() >= AS_OF - 91 * DAY
        assert backs(tag, named, evidence.partition("spend on ")[2]), (tag, evidence)


# --- anomalies ------------------------------------------------------------------------------------


def with_planted(pattern: str, count: int = 6) -> tuple[pl.DataFrame, np.ndarray]:
    """Features of the sample's users and of `count` planted ones; which are planted."""
    data = task_data()
    visits = read_visits(data.events_before(AS_OF, days=GROCER.window_days), NEW_YORK)
    events, names = plant(data, visits, AS_OF, [pattern], count=count, seed=11)
    assert names == [pattern] * count
    both = replace(data, events=pl.concat([data.events, events]))
    features = anomaly_features(read_visits(both.events, NEW_YORK), both, AS_OF)
    return features, features["user_id"].str.starts_with("planted").to_numpy()


@pytest.mark.parametrize("pattern", list(PATTERNS))
def test_planted_fraud_stands_out_by_what_it_bent(pattern):
    from sklearn.metrics import average_precision_score

    features, planted = with_planted(pattern, count=2)
    usual = Usual.of(features)
    found = anomalies(features, usual, GROCER)
    precision = average_precision_score(planted, found["anomaly_score"].to_numpy())
    assert precision >= 5 * planted.mean()
    strongest = usual.deviations(features)[planted].argmax(axis=1)
    assert {ANOMALY_FEATURES[k] for k in strongest} <= set(BENT[pattern])


def test_average_precision_equals_scikit_learns_under_weights():
    from sklearn.metrics import average_precision_score

    rng = np.random.default_rng(4)
    positive, score = rng.random(200) < 0.1, rng.integers(0, 12, 200).astype(float)  # many ties
    counts = rng.multinomial(200, np.full(200, 1 / 200), size=5)
    found = average_precision(positive, score, counts)
    expected = [average_precision_score(positive, score, sample_weight=c) for c in counts]
    assert found == pytest.approx(expected)
    assert np.isnan(average_precision(positive & False, score, counts)).all()


def test_the_reason_of_the_most_unusual_names_its_numbers():
    features, _ = with_planted("order_burst", count=1)
    found = anomalies(features, Usual.of(features), GROCER)
    reasons = found.drop_nulls("anomaly_reason")
    assert reasons.height == max(1, round(UNUSUAL_SHARE * found.height))
    user, score, reason = reasons.row(0)
    assert user == "planted 0"
    assert score == found["anomaly_score"].max()
    name, rest = reason.split(" is ", 1)
    value = features.filter(user_id=user)[name].item()
    assert rest.startswith(f"{value:.4g}, where half of the users have at most")


def test_a_reason_that_names_a_feature_of_the_window_counts_as_right():
    """People read `coupons_redeemed_91d`, what was bent is `coupons_redeemed_window`."""
    users = [f"u{i}" for i in range(60)] + ["planted 0"]
    alike = pl.DataFrame({"user_id": users}).with_columns(
        pl.lit(0.0).alias(name) for name in ANOMALY_FEATURES
    )
    bent = pl.col("user_id").str.starts_with("planted").cast(pl.Float64)
    unusual = alike.with_columns(coupons_redeemed_window=40 * bent)
    found = planted_fraud._found("coupon_abuse", [(unusual, ["coupon_abuse"])], GROCER, 7)
    assert (found.reached, found.named) == (1.0, 1.0)


def test_users_who_are_all_alike_are_not_unusual():
    now = datetime(2024, 6, 1, tzinfo=UTC)
    orders = [(f"u{i}", now - n * DAY, 10.0) for i in range(20) for n in (1, 8, 15)]
    profiles = user_profiles(task_data(purchases(orders), Business()), now)
    assert profiles["anomaly_score"].max() == 0
    assert profiles["anomaly_reason"].null_count() == 20


# --- report ---------------------------------------------------------------------------------------


@pytest.fixture
def _planted_once(monkeypatch):
    monkeypatch.setattr(planted_fraud, "PLANTINGS", 1)
    monkeypatch.setattr(fraud_kinds, "TIMES", 1)


@pytest.mark.usefixtures("_planted_once")
def test_the_report_says_what_was_measured_and_names_nobody():
    data = task_data()
    page = profiles_page(judge_profiles(data, AS_OF))
    text = markdown(page)
    for said in (
        "index of the rules",
        "isolation forest",
        "their mean spend since",
        "Fraud that no feature was made for",
        "account takeover",
    ):
        assert said in text
    for pattern in PATTERNS:
        assert pattern in text
    document = html(page)
    assert document.count("<svg") >= 4
    for user in journey(households=60)["clean_events"]["user_id"].unique():
        assert user not in document


@pytest.mark.usefixtures("_planted_once")
def test_without_prices_the_report_speaks_of_the_published_segments_and_of_no_money():
    events = task_data().events.with_columns(unit_price=pl.lit(None, dtype=pl.Float64))
    data = task_data(events.collect())
    found = user_profiles(data, AS_OF)
    published = dict(found["segment"].value_counts().rows())
    assert not {"champions", "big_baskets"} & set(published)
    judged = judge_profiles(data, AS_OF)
    assert dict(judged.segments.select("segment", "users").rows()) == {
        name: published.get(name, 0) for name in SEGMENTS
    }
    assert judged.segments.filter(pl.col("segment").is_in(["champions", "big_baskets"]))[
        "then"
    ].to_list() == [0, 0]
    assert judged.segments["after"].is_nan().all()
    text = html(profiles_page(judged))
    assert "nan" not in text.lower()


@pytest.mark.usefixtures("_planted_once")
def test_of_many_users_a_sample_is_measured(monkeypatch):
    cut_by(10, monkeypatch)
    monkeypatch.setattr(features, "MOST_USERS", 35)
    text = markdown(profiles_page(judge_profiles(task_data(), AS_OF)))
    assert "Users: 60\n- Measured on a sample of: 31" in text


@pytest.mark.parametrize("priced", [True, False])
def test_profiles_of_some_users_at_a_time_are_those_of_all_at_once(monkeypatch, priced):
    data = with_vectors()
    if not priced:
        free = pl.lit(None, dtype=pl.Float64)
        data = replace(data, events=data.events.with_columns(unit_price=free))
    earlier = user_profiles(data, AS_OF - 7 * DAY).with_columns(as_of=pl.lit(AS_OF - 7 * DAY))
    data = replace(data, profiles=earlier.lazy())
    whole = user_profiles(data, AS_OF)
    cut_by(10, monkeypatch)
    parts = [user_profiles(shard, AS_OF) for shard in replace(data).shards()]
    assert len(parts) == 8
    assert_frame_equal(pl.concat(parts).sort("user_id"), whole)


def test_what_is_usual_is_learnt_from_a_sample(monkeypatch):
    """A part whose users are all alike is not measured by itself."""
    cut_by(10, monkeypatch)
    monkeypatch.setattr(features, "MOST_USERS", 30)
    data = task_data()
    everybody = rows.measured(features.sample(data), AS_OF)
    assert everybody.users.len() < 40
    shard = list(data.shards())[-1]
    found = user_profiles(shard, AS_OF)
    bent = rows.measured(shard, AS_OF).bent
    score = anomalies(bent, Usual.of(everybody.bent), GROCER)
    found = found.join(score, on="user_id", suffix="_expected")
    assert found["anomaly_score"].to_list() == found["anomaly_score_expected"].to_list()


@pytest.mark.usefixtures("_planted_once")
def test_the_report_of_a_young_business_says_what_could_not_be_judged():
    now = datetime(2024, 6, 1, tzinfo=UTC)
    young = purchases([(f"u{i}", now - n * DAY, 5.0) for i in range(5) for n in (1, 9, 20)])
    page = profiles_page(judge_profiles(task_data(young, Business()), now))
    text = markdown(page)
    assert "No two snapshots" in text
    data = TaskData(
        young.head(0).lazy(), *(journey(60)[n] for n in ("items", "campaigns", "campaign_items")),
        journey(60)["promotions"].lazy(), Business(),
    )  # fmt: skip
    assert user_profiles(data, now).height == 0
    assert "Nothing could be judged" in markdown(profiles_page(judge_profiles(data, now)))
