"""Churn: windows and labels by hand, no look into the future, the table of both definitions."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest

from seq_ml.business import Business
from seq_ml.evaluation import leakage
from seq_ml.evaluation.backtest import backtest
from seq_ml.periods import GROCER
from seq_ml.schema import CHURN_PREDICTIONS, EVENTS, STAMP
from seq_ml.storage.contracts import check_key, conform
from seq_ml.tasks.behaviour.features import BEHAVIOUR_FEATURES, behaviour_features
from seq_ml.tasks.behaviour.foretold import FORETOLD, p_silent, p_spend_below
from seq_ml.tasks.behaviour.visits import read_behaviour
from seq_ml.tasks.candidate import Champion
from seq_ml.tasks.churn.features import CHURN_FEATURES, churn_features, read_past
from seq_ml.tasks.churn.task import DeclineTask, SilenceTask
from seq_ml.tasks.churn.value import expected_orders
from seq_ml.tasks.data import TaskData
from seq_ml.tasks.task import NotEnoughHistoryError, check_examples
from tests.data import AS_OF, journey
from tests.tasks.foretold import foretold

TASKS = (SilenceTask(), DeclineTask())
NEW_YORK = Business(timezone="America/New_York")


def task_data(events: pl.DataFrame | None = None, business: Business = NEW_YORK, **more):
    frames = journey(households=60)
    events = frames["clean_events"] if events is None else events
    return TaskData(
        events.lazy(),
        frames["items"],
        frames["campaigns"],
        frames["campaign_items"],
        frames["promotions"].lazy(),
        business,
        **more,
    )


def purchases(rows: list[tuple[str, datetime, float]]) -> pl.DataFrame:
    """Single-item orders: (user, time, spend)."""
    frame = pl.DataFrame(rows, schema=["user_id", "event_time", "unit_price"], orient="row")
    frame = frame.with_columns(
        event_id=pl.format("e{}", pl.int_range(pl.len())),
        session_id=pl.format("s{}", pl.int_range(pl.len())),
        event_type=pl.lit("purchase"),
        quantity=pl.lit(1.0),
        discount=pl.lit(0.0),
        coupon_discount=pl.lit(0.0),
        event_date=pl.col("event_time").dt.date(),
    )
    return frame.select(
        pl.col(name).cast(dtype) if name in frame.columns else pl.lit(None, dtype).alias(name)
        for name, dtype in EVENTS.polars_schema().items()
    )


def as_table(rows: pl.DataFrame) -> pl.DataFrame:
    """The rows with a stamp: must fit the contract."""
    stamped = rows.with_columns(
        as_of=pl.lit(AS_OF),
        model_version=pl.lit("v"),
        source=pl.lit("logistic"),
        run_id=pl.lit("r"),
        created_at=pl.lit(AS_OF),
    )
    assert set(rows.columns) == {c.name for c in CHURN_PREDICTIONS.columns} - {
        c.name for c in STAMP
    }
    frame = conform(stamped, CHURN_PREDICTIONS)
    check_key(frame, CHURN_PREDICTIONS)
    return frame


def test_labels_by_hand():
    start, day = datetime(2024, 1, 1, tzinfo=UTC), timedelta(days=1)
    origin = start + 120 * day
    rows = []
    for user, spends, later in (
        ("gone", 10.0, None),
        ("half", 10.0, 4.9),
        ("stays", 10.0, 5.1),
        ("old", 0.0, None),
    ):
        if user == "old":
            rows.append((user, start, 10.0))
            continue
        rows += [(user, origin - (7 * i + 1) * day, spends) for i in range(13)]
        if later is not None:
            rows += [(user, origin + (7 * i + 1) * day, later) for i in range(12)]
    rows.append(("future", origin, 10.0))
    data = task_data(purchases(rows), Business())
    past = read_past(data, origin + 84 * day)
    found = {}
    for task in TASKS:
        frame = task._labelled(data, past, origin)
        assert "future" not in frame["user_id"].to_list()
        found[task.label_def] = {
            row["user_id"]: bool(row["label"]) for row in frame.filter("eligible").to_dicts()
        }
    assert found["silence"] == {"gone": True, "half": False, "stays": False}
    # 13 orders of 10 in 91 days: half of the run-rate of 84 days is 60; 12 × 4.9 = 58.8.
    assert found["decline"] == {"gone": True, "half": True, "stays": False}


def test_both_definitions_read_the_past_of_a_snapshot_once():
    data = task_data()
    one, other = (task.serving(data, AS_OF) for task in TASKS)
    assert one.read is other.read
    known = replace(data, events=data.events.filter(pl.col("event_time") < AS_OF))
    assert SilenceTask().serving(known, AS_OF).examples.equals(one.examples)


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.label_def)
def test_examples_obey_the_temporal_rule_and_have_91_days_before_them(task):
    data = task_data()
    examples = task.examples(data, AS_OF)
    check_examples(examples, task, AS_OF)
    horizon = task.horizon_days(GROCER)
    assert set(examples["split"]) == {"fit", "validation", "embargo", "test"}
    test = examples.filter(split="test")["origin"].unique().to_list()
    assert test == [NEW_YORK.midnight_after(AS_OF, -horizon)]
    windows = examples.select("origin", "label_end").unique()
    for origin, end in windows.iter_rows():
        assert origin == NEW_YORK.midnight(NEW_YORK.day_of(origin))
        assert end == NEW_YORK.midnight_after(origin, horizon)
    first = data.events.filter(event_type="purchase").select(pl.col("event_time").min())
    assert examples["origin"].min() >= first.collect().item() + timedelta(days=90)
    assert examples["eligible"].all()


def test_no_feature_knows_an_event_at_or_after_its_origin():
    origin = datetime(2017, 9, 1, 4, tzinfo=UTC)
    events = journey(households=60)["clean_events"]
    later = pl.col("event_time") >= origin
    scrambled = pl.concat(
        [
            events.filter(~later),
            events.filter(later).with_columns(
                unit_price=pl.lit(999.0), user_id=pl.col("user_id").reverse()
            ),
        ]
    )
    users = events.filter(~later)["user_id"].unique()
    terms = {"day": origin.date(), "horizon_days": 56}
    one, two = (
        churn_features(read_past(task_data(e), AS_OF), origin, users, **terms)
        for e in (events, scrambled)
    )
    assert one.columns == ["user_id", *CHURN_FEATURES]
    assert one.equals(two)
    past = read_past(task_data(events.filter(~later)), origin)
    cut = churn_features(past, origin, users, **terms)
    assert cut.equals(one)


def test_serving_reads_91_days_and_has_the_features_of_examples():
    noon = datetime(2017, 9, 1, 16, 30, tzinfo=UTC)
    data, task = task_data(), SilenceTask()
    served = task.serving(data, noon).examples
    whole = task._features(data, read_past(data, AS_OF), noon)
    assert served.drop(FORETOLD).equals(whole)
    days = read_past(data, noon, days=91).lines["at"]
    assert noon - timedelta(days=93) <= days.min() < noon - timedelta(days=91)


def test_features_count_what_they_say():
    origin = datetime(2017, 9, 1, 4, tzinfo=UTC)
    events = journey(households=60)["clean_events"]
    features = behaviour_features(read_behaviour(task_data(), AS_OF), origin)
    bought = events.filter(
        (pl.col("event_type") == "purchase")
        & (pl.col("event_time") < origin)
        & (pl.col("event_time") >= origin - timedelta(days=28))
    )
    expected = bought.group_by("user_id").agg(
        orders=pl.col("session_id").n_unique().cast(pl.Float64),
        spend=(pl.col("quantity") * pl.col("unit_price")).sum(),
    )
    joined = features.join(expected, on="user_id", how="left").fill_null(0)
    assert joined["orders_recent"].to_list() == joined["orders"].to_list()
    np.testing.assert_allclose(joined["spend_recent"], joined["spend"], atol=0.1)
    assert not features.select(pl.col("^orders_.*|spend_.*$").is_null().any()).row(0).count(True)
    assert features.columns == ["user_id", *BEHAVIOUR_FEATURES]


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.label_def)
def test_examples_read_what_was_foreseen_in_time_and_so_does_what_is_served(task):
    data = task_data()
    at = task.foretold_at(data, AS_OF)
    days = task.horizon_days(GROCER)
    windows = {NEW_YORK.midnight_after(AS_OF, -n * days) for n in range(4)}
    assert windows <= at, "of test and validation, also of earlier rounds"
    data = replace(data, predictions=foretold(data, at).lazy())
    examples = task.examples(data, AS_OF)
    there = examples.group_by("origin").agg(pl.col(FORETOLD).is_not_null().mean()).rows()
    assert dict(there) == {origin: float(origin in at) for origin, _ in there}
    p = examples[FORETOLD].drop_nulls()
    assert p.is_between(0, 1).all()
    assert p.n_unique() > 50
    served = task.serving(data, AS_OF).examples.filter("eligible")[FORETOLD]
    assert served.null_count() == 0
    assert leakage.prediction_time(task, examples, data) == ""
    planted = foretold(data, at, age=-timedelta(seconds=1))
    late = replace(data, predictions=planted.lazy())
    assert "was trained on events up to" in leakage.prediction_time(task, examples, late)
    assert "'sequence_p'" in leakage.feature_time(task, late, task.examples(late, AS_OF), AS_OF)


def test_another_horizon_was_not_asked_about():
    data = task_data()
    asked = foretold(data, [AS_OF], silence_days=28)
    assert p_silent(asked, 56).null_count() == asked.height
    assert p_silent(asked, 28).to_list() == asked["p_silence"].cast(pl.Float64).to_list()


def test_spend_below_an_amount_is_taken_at_the_rate_of_the_nearest_span():
    one = (
        foretold(task_data(), [AS_OF])
        .head(1)
        .with_columns(p_no_spend_84d=0.2, spend_mu_84d=3.0, spend_sigma_84d=1.0)
    )
    median = float(np.exp(3.0))
    for days, amount in ((84, median), (42 * 3 // 2, median * 63 / 84)):
        (p,) = p_spend_below(one, pl.lit(amount), days)
        assert p == pytest.approx(0.2 + 0.8 * 0.5, abs=1e-6)
    assert p_spend_below(one, pl.lit(0.0), 84).to_list() == [0.0]
    unknown = one.with_columns(p_no_spend_84d=pl.lit(None, dtype=pl.Float32))
    assert p_spend_below(unknown, pl.lit(5.0), 84).to_list() == [None]


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.label_def)
def test_every_user_who_ever_bought_gets_one_row_of_the_table(task):
    data = task_data()
    data = replace(data, predictions=foretold(data, task.foretold_at(data, AS_OF)).lazy())
    examples = task.examples(data, AS_OF)
    result = backtest(task, examples, as_of=AS_OF, seed=7)
    few = {c.name for c in result.candidates if c.left_out}
    assert few == {
        "rfm_logistic", "logistic", "trees", "blend", "stacked"
    }, "sixty households have too few churners for models of features"  # fmt: skip
    serving = task.serving(data, AS_OF)
    for candidate in task.candidates():
        candidate.fit(examples.filter(pl.col("split") != "test"))
        rows = task.rows(data, AS_OF, serving, Champion(candidate, "v"))
        table = as_table(rows)
        assert table.filter("eligible")["p_churn"].null_count() == 0
        assert (
            table.filter(~pl.col("eligible"))["p_churn"].null_count()
            == table.filter(~pl.col("eligible")).height
        )
        reasons = table.filter("eligible")["top_reasons"].list.len()
        assert ((reasons > 0) == (candidate.name != "base_rate")).all()
    buyers = data.events.filter(event_type="purchase").select("user_id").unique().collect()
    assert set(table["user_id"]) == set(buyers["user_id"])
    assert (table["expected_spend"].drop_nulls() >= 0).all()
    for amount in ("expected_orders", "expected_spend"):
        assert (table[amount].is_not_null() == table["eligible"]).all(), "judged by no window"
    at_risk = table.drop_nulls("value_at_risk")
    assert (at_risk["value_at_risk"] >= 0).all()
    again = task.rows(data, AS_OF, task.serving(data, AS_OF), Champion(candidate, "v"))
    assert again.equals(rows)


def test_expected_orders_of_the_closed_window_add_up():
    """The ratios are measured so that a calibrated p gives the total back."""
    task, data = SilenceTask(), task_data()
    closed = task.labels(data, read_behaviour(data, AS_OF).visits, AS_OF - timedelta(days=56))
    known = closed.with_columns(p=pl.when("eligible").then("label"))
    total = known.select(expected_orders(closed, 56 / 91)).to_series()
    assert total.sum() == pytest.approx(known.drop_nulls("p")["next_orders"].sum(), rel=1e-6)


def test_short_history_is_said():
    data = task_data()
    with pytest.raises(NotEnoughHistoryError, match="needs 259 days"):
        DeclineTask().examples(data, datetime(2017, 6, 1, tzinfo=UTC))
    with pytest.raises(NotEnoughHistoryError, match="no purchase before"):
        SilenceTask().examples(data, datetime(2016, 6, 1, tzinfo=UTC))
