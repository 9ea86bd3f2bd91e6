"""User profiles: the contract, counts by hand, segments that stay, tags with their events."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import numpy as np
import polars as pl
import pytest

from seq_ml.business import Business
from seq_ml.pages.page import html, markdown
from seq_ml.periods import HORIZON_DAYS, WINDOW_DAYS
from seq_ml.schema import STAMP, USER_PROFILES
from seq_ml.storage.tables import check_key, conform
from seq_ml.tasks.behaviour.visits import read_behaviour, read_visits
from seq_ml.tasks.data import TaskData
from seq_ml.tasks.profiles import planted_fraud
from seq_ml.tasks.profiles import task as spend_forecast
from seq_ml.tasks.profiles.anomalies import (
    ANOMALY_FEATURES,
    UNUSUAL_SHARE,
    anomalies,
    anomaly_features,
    deviations,
)
from seq_ml.tasks.profiles.page import profiles_page
from seq_ml.tasks.profiles.planted_fraud import BENT, PATTERNS, average_precision, plant
from seq_ml.tasks.profiles.report import judge_profiles
from seq_ml.tasks.profiles.rows import user_profiles
from seq_ml.tasks.profiles.segments import SEGMENTS, stability
from seq_ml.tasks.profiles.tags import EVENTS_SHOWN
from seq_ml.tasks.profiles.task import FORECASTS, forecast_spend
from seq_ml.tasks.task import NotEnoughHistoryError
from tests.data import AS_OF, journey
from tests.tasks.churn.test_task import NEW_YORK, FakeEncoder, purchases, task_data

DAY = timedelta(days=1)


@pytest.fixture(scope="module")
def profiles() -> pl.DataFrame:
    return user_profiles(task_data(encoder=FakeEncoder(AS_OF)), AS_OF)


def test_every_user_has_one_row_of_the_contract(profiles):
    table = conform(
        profiles.with_columns(
            as_of=pl.lit(AS_OF),
            model_version=pl.lit("v"),
            source=pl.lit("rules"),
            run_id=pl.lit("r"),
            created_at=pl.lit(AS_OF),
        ),
        USER_PROFILES,
    )
    check_key(table, USER_PROFILES)
    assert len(profiles.columns) == len(USER_PROFILES.columns) - len(STAMP)
    users = journey(households=60)["clean_events"]["user_id"].unique()
    assert set(table["user_id"]) == set(users)
    assert USER_PROFILES["segment"].allowed == tuple(SEGMENTS)
    assert table["embedding"].list.len().unique().to_list() == [2]
    assert (table["orders_28d"] <= table["orders_91d"]).all()
    assert (table["orders_91d"] <= table["orders_total"]).all()
    assert table["anomaly_reason"].drop_nulls().len() >= 1
    assert (table["clv_p10"] <= table["clv_p90"]).all()
    assert (table["clv_p10"] >= 0).all()
    assert table["clv_horizon_days"].unique().to_list() == [HORIZON_DAYS]
    assert set(table["clv_source"]) <= set(FORECASTS)


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
    assert profiles["clv_expected"].null_count() == 3, "200 days cannot judge a forecast"


def test_the_same_day_gives_the_same_and_a_kept_segment_keeps_its_date(profiles):
    data = task_data(encoder=FakeEncoder(AS_OF))
    assert user_profiles(data, AS_OF).equals(profiles)
    earlier = user_profiles(data, AS_OF - 7 * DAY)
    now = user_profiles(data, AS_OF, earlier)
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
    items = data.items_known(AS_OF)
    visits = read_visits(data.events_before(AS_OF, days=WINDOW_DAYS), NEW_YORK)
    events, names = plant(data, visits, AS_OF, [pattern], count=count, seed=11)
    assert names == [pattern] * count
    both = pl.concat([data.events, events])
    features = anomaly_features(read_visits(both, NEW_YORK), both, items, AS_OF)
    return features, features["user_id"].str.starts_with("planted").to_numpy()


@pytest.mark.parametrize("pattern", list(PATTERNS))
def test_planted_fraud_stands_out_by_what_it_bent(pattern):
    from sklearn.metrics import average_precision_score

    features, planted = with_planted(pattern, count=2)
    found = anomalies(features)
    precision = average_precision_score(planted, found["anomaly_score"].to_numpy())
    assert precision >= 5 * planted.mean()
    strongest = deviations(features)[planted].argmax(axis=1)
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
    found = anomalies(features)
    reasons = found.drop_nulls("anomaly_reason")
    assert reasons.height == max(1, round(UNUSUAL_SHARE * found.height))
    user, score, reason = reasons.row(0)
    assert user == "planted 0"
    assert score == found["anomaly_score"].max()
    name, rest = reason.split(" is ", 1)
    value = features.filter(user_id=user)[name].item()
    assert rest.startswith(f"{value:.4g}, where half of the users have at most")


def test_users_who_are_all_alike_are_not_unusual():
    now = datetime(2024, 6, 1, tzinfo=UTC)
    orders = [(f"u{i}", now - n * DAY, 10.0) for i in range(20) for n in (1, 8, 15)]
    profiles = user_profiles(task_data(purchases(orders), Business()), now)
    assert profiles["anomaly_score"].max() == 0
    assert profiles["anomaly_reason"].null_count() == 20


# --- expected spend -------------------------------------------------------------------------------


def test_the_forecast_is_chosen_judged_and_published_on_later_and_later_windows():
    visits = read_behaviour(task_data(), AS_OF).visits
    forecast = forecast_spend(visits, NEW_YORK, AS_OF, seed=7)
    ends = [forecast.windows[name][1] for name in ("fit", "validation", "test")]
    begins = [forecast.windows[name][0] for name in ("fit", "validation", "test")]
    assert begins[1:] == ends[:-1]
    assert ends[-1] == AS_OF
    assert forecast.published in FORECASTS
    assert (forecast.published == "shrunken_rate") == (forecast.improvement().low > 0)
    errors = {n: d.value for n, d in forecast.draws["rmse"].items()}
    assert errors["shrunken_rate"] < errors["average"]
    held = forecast.draws["coverage"][forecast.published]
    assert 0.6 < held.value < 0.95
    assert forecast.rows["clv_expected"].mean() == pytest.approx(
        visits.filter(pl.col("at") >= AS_OF - 91 * DAY)["spend"].sum() / forecast.rows.height,
        rel=0.25,
    )
    assert forecast_spend(visits, NEW_YORK, AS_OF, seed=7).rows.equals(forecast.rows)


def test_a_forecast_of_a_user_does_not_see_the_window_that_judges_it():
    """What is spent in the test window changes the judgement, not the forecast that is judged."""
    visits = read_behaviour(task_data(), AS_OF).visits
    doubled = visits.with_columns(
        spend=pl.col("spend") * pl.when(pl.col("at") >= AS_OF - 91 * DAY).then(2.0).otherwise(1.0)
    )
    one, two = (forecast_spend(v, NEW_YORK, AS_OF, seed=7) for v in (visits, doubled))
    assert one.validation == two.validation
    assert one.baseline == two.baseline
    assert one.draws["rmse"]["shrunken_rate"].value < two.draws["rmse"]["shrunken_rate"].value


def test_a_forecast_that_cannot_be_judged_is_refused_in_one_sentence():
    visits = read_behaviour(task_data(), AS_OF).visits
    late = visits.filter(pl.col("at") >= AS_OF - 21 * DAY)
    for rows, why in (
        (late, "20 days of orders"),
        (visits.head(0), "0 days of orders"),
        (visits.filter(pl.col("user_id").is_in(visits["user_id"].unique().sort().head(10))), "10 "),
        (visits.with_columns(spend=0.0), "no order has a price"),
    ):
        with pytest.raises(NotEnoughHistoryError, match=why):
            forecast_spend(rows, NEW_YORK, AS_OF, seed=7)


def test_where_the_fitted_tail_has_no_mean_every_forecast_is_still_a_number(monkeypatch):
    monkeypatch.setattr(spend_forecast, "FEWEST_USERS", 20)
    visits = read_behaviour(task_data(), AS_OF).visits
    huge = pl.when(pl.int_range(pl.len()) % 50 == 0).then(1e6).otherwise("spend")
    found = forecast_spend(visits.with_columns(spend=huge), NEW_YORK, AS_OF, seed=7)
    assert np.isfinite(list(found.validation.values())).all()
    for metric, draws in found.draws.items():
        for name, draw in draws.items():
            assert np.isfinite(draw.value), (metric, name)
    assert found.rows.select(pl.exclude("user_id").is_finite().all()).row(0) == (True, True, True)


# --- report ---------------------------------------------------------------------------------------


@pytest.fixture
def _planted_once(monkeypatch):
    monkeypatch.setattr(planted_fraud, "PLANTINGS", 1)


@pytest.mark.usefixtures("_planted_once")
def test_the_report_says_what_was_measured_and_names_nobody():
    data = task_data()
    page = profiles_page(judge_profiles(data, AS_OF))
    text = markdown(page)
    for said in (
        "index of the rules",
        "interval held",
        "isolation forest",
        "their mean spend since",
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


@pytest.mark.slow
def test_of_many_users_a_sample_is_measured_and_everybody_gets_a_value(monkeypatch, profiles):
    monkeypatch.setattr(spend_forecast, "MOST_USERS", 55)
    visits = read_behaviour(task_data(), AS_OF).visits
    with pytest.raises(NotEnoughHistoryError, match="27 buyers"):
        forecast_spend(visits, NEW_YORK, AS_OF, seed=7)  # every second one
    monkeypatch.setattr(spend_forecast, "FEWEST_USERS", 20)
    assert forecast_spend(visits, NEW_YORK, AS_OF, seed=7).rows.height == profiles.height
    text = markdown(profiles_page(judge_profiles(task_data(), AS_OF)))
    assert "Users: 60\n- Measured on a sample of: 30" in text


@pytest.mark.usefixtures("_planted_once")
def test_the_report_of_a_young_business_says_what_could_not_be_judged():
    now = datetime(2024, 6, 1, tzinfo=UTC)
    young = purchases([(f"u{i}", now - n * DAY, 5.0) for i in range(5) for n in (1, 9, 20)])
    page = profiles_page(judge_profiles(task_data(young, Business()), now))
    text = markdown(page)
    assert "clv_* is null" in text
    assert "No two snapshots" in text
    data = TaskData(
        young.head(0).lazy(), *(journey(60)[n] for n in ("items", "campaigns", "campaign_items")),
        journey(60)["promotions"].lazy(), Business(),
    )  # fmt: skip
    assert user_profiles(data, now).height == 0
    assert "Nothing could be judged" in markdown(profiles_page(judge_profiles(data, now)))
