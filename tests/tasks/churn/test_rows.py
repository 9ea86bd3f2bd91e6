"""What the churn table says beside a probability: reasons, actions, money, outcomes, the report."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from seq_ml.business import Action, Business, Churn
from seq_ml.evaluation.backtest import backtest
from seq_ml.evaluation.leakage import feature_time
from seq_ml.metrics.calibration import logit
from seq_ml.periods import choose_periods
from seq_ml.tasks.behaviour.features import RECENCY
from seq_ml.tasks.behaviour.orders_model import next_order
from seq_ml.tasks.behaviour.visits import read_behaviour
from seq_ml.tasks.candidate import Champion
from seq_ml.tasks.churn import features
from seq_ml.tasks.churn.actions import much, suggest
from seq_ml.tasks.churn.features import CHURN_FEATURES, NO_ORDER, churn_features, read_past
from seq_ml.tasks.churn.task import DeclineTask, SilenceTask
from seq_ml.tasks.models.binary import Blend, ColumnScore
from seq_ml.tasks.models.forest import Forest
from seq_ml.tasks.task import NotEnoughHistoryError
from tests.data import AS_OF
from tests.tasks.churn.test_task import as_table, purchases, task_data
from tests.tasks.cut import cut_by, rows_of

TASKS = (SilenceTask(), DeclineTask())
LABEL_DEFS = [task.label_def for task in TASKS]
DAY = timedelta(days=1)


@pytest.fixture(scope="module")
def rounds():
    """Per definition: the data, its examples, the backtest."""
    data = task_data()
    found = {}
    for task in TASKS:
        examples = task.examples(data, AS_OF)
        found[task.label_def] = (examples, backtest(task, examples, as_of=AS_OF, seed=7))
    return data, found


def fitted(task, examples, name):
    candidate = next(c for c in task.candidates() if c.name == name)
    candidate.fit(examples.filter(pl.col("split") != "test"))
    return candidate


@pytest.mark.slow
@pytest.mark.parametrize("name", ["rfm_logistic", "logistic", "trees", "blend"])
@pytest.mark.parametrize("task", TASKS, ids=LABEL_DEFS)
def test_reasons_add_up_to_the_log_odds(task, name, rounds):
    """Every effect is against one common base: log-odds − Σ effects is the same for everybody."""
    examples, result = rounds[1][task.label_def]
    model = fitted(task, examples, name)
    base = logit(model.predict(result.test)) - sum(model.contributions(result.test).values())
    np.testing.assert_allclose(base, base[0], atol=1e-6)


def test_the_recalibrated_blend_comes_back_from_its_state(rounds):
    examples, result = rounds[1]["silence"]
    model = fitted(SilenceTask(), examples, "blend")
    again = next(c for c in SilenceTask().candidates() if c.name == "blend")
    again.restore(model.state())
    assert np.array_equal(again.predict(result.test), model.predict(result.test))


def test_a_forest_never_says_never_and_is_the_same_on_every_run(rounds):
    examples, result = rounds[1]["silence"]
    before = examples.filter(pl.col("split") != "test")
    one, two = Forest("forest", CHURN_FEATURES), Forest("forest", CHURN_FEATURES)
    one.fit(before)
    two.fit(before)
    p = one.predict(result.test)
    assert np.array_equal(p, two.predict(result.test))
    assert 0 < p.min() < before["label"].mean() < p.max() < 1


@pytest.mark.parametrize("rows", [8, 60, 120])
def test_a_forest_of_few_rows_says_the_base_rate_and_not_zero(rows, rounds):
    """Most trees find no split there; LightGBM lets such a tree say 0."""
    examples, _ = rounds[1]["silence"]
    few = examples.sort(pl.col("user_id").hash(1), "origin").head(rows)
    few = few.with_columns(label=(pl.int_range(pl.len()) % 3 == 0).cast(pl.Float64))
    forest = Forest("forest", CHURN_FEATURES)
    forest.fit(few)
    p = forest.predict(few)
    assert p.min() > 0
    assert p.mean() == pytest.approx(few["label"].mean(), abs=0.02)
    again = Forest("forest", [])
    again.restore(forest.state())
    assert np.array_equal(again.predict(few), p)


def test_a_blend_weighs_the_log_odds_of_its_members(rounds):
    examples, result = rounds[1]["silence"]
    members = [ColumnScore("recency", RECENCY), ColumnScore("bg_nbd", NO_ORDER)]
    blend = Blend("blend", members, weights=(3, 1))
    blend.fit(examples.filter(pl.col("split") != "test"))
    recency, orders = (logit(member.predict(result.test)) for member in members)
    np.testing.assert_allclose(logit(blend.predict(result.test)), 0.75 * recency + 0.25 * orders)


def risky(rows: list[tuple[float | None, float | None]]) -> pl.DataFrame:
    """Users by (p, value at risk), all of high risk."""
    return pl.DataFrame(rows, schema=["p", "value_at_risk"], orient="row").with_columns(
        margin_at_risk=pl.lit(None, dtype=pl.Float64),
        risk_band=pl.when(pl.col("p").is_not_null()).then(pl.lit("high")),
        gap_overdue=pl.lit(2.0),
        coupon_orders_window=pl.lit(0.0),
    )


def test_the_action_of_the_largest_gain_is_suggested_or_none():
    actions = [
        Action(name="reminder", cost=0.1, save_rate=0.02),
        Action(name="coupon", cost=4.0, save_rate=0.10),
        Action(name="coupon again", cost=4.0, save_rate=0.10),
    ]
    users = risky([(0.5, 1.0), (0.5, 40.0), (0.5, 100.0), (None, None), (0.9, None)])
    found = suggest(users, actions, None)
    assert found["recommended_action"].to_list() == [None, "reminder", "coupon", None, None]
    assert found["expected_gain"].to_list() == [
        None,
        pytest.approx(40 * 0.02 - 0.1),
        pytest.approx(100 * 0.10 - 4.0),
        None,
        None,
    ]


def test_without_actions_a_rule_suggests_and_no_gain_is_claimed():
    users = risky([(0.5, value) for value in (1.0, 1.0, 2.0, 2.0, 3.0, 50.0)])
    found = suggest(users, (), much(users))
    assert found["recommended_action"].to_list() == ["reminder"] * 4 + ["personal offer"] * 2
    assert found["expected_gain"].null_count() == found.height


@pytest.mark.parametrize("task", TASKS, ids=LABEL_DEFS)
def test_rows_of_some_users_at_a_time_are_those_of_all_at_once(task, rounds, monkeypatch):
    data, judged = rounds
    champion = Champion(fitted(task, judged[task.label_def][0], "bg_nbd"), "v")
    whole = rows_of(task, replace(data), AS_OF, champion)
    assert {"personal offer", "reminder"} & set(whole["recommended_action"])
    cut_by(10, monkeypatch)
    assert replace(data).shard_count == 8
    assert_frame_equal(rows_of(task, replace(data), AS_OF, champion), whole)


@pytest.mark.parametrize("task", TASKS, ids=LABEL_DEFS)
def test_of_many_users_a_sample_is_learnt_from(task, rounds, monkeypatch):
    cut_by(10, monkeypatch)
    monkeypatch.setattr(features, "MOST_USERS", 30)
    data = replace(rounds[0])
    examples = task.examples(data, AS_OF)
    assert 10 < examples["user_id"].n_unique() < 40
    assert feature_time(task, data, examples, AS_OF) == ""
    # how often people order at all is that of the sample, not of the few that are served
    shard = list(data.shards())[-1]
    model = fitted(task, rounds[1][task.label_def][0], "bg_nbd")
    rows = task.rows(shard, AS_OF, task.serving(shard, AS_OF), Champion(model, "v"))
    of_sample = data.some(30)
    theirs = task.rows(of_sample, AS_OF, task.serving(of_sample, AS_OF), Champion(model, "v"))
    assert set(rows["base_rate"]) == set(theirs["base_rate"])
    assert not set(rows["user_id"]) & set(theirs["user_id"])


def test_a_configured_action_reaches_the_table():
    action = Action(name="call", cost=0.0, save_rate=0.5)
    data = task_data(business=Business(timezone="America/New_York", churn=Churn(actions=(action,))))
    task = SilenceTask()
    model = fitted(task, task.examples(data, AS_OF), "rfm_logistic")
    rows = task.rows(data, AS_OF, task.serving(data, AS_OF), Champion(model, "v"))
    chosen = as_table(rows).filter(pl.col("value_at_risk") > 0)
    assert chosen.height
    assert set(chosen["recommended_action"]) == {"call"}
    np.testing.assert_allclose(chosen["expected_gain"], 0.5 * chosen["value_at_risk"])
    rest = rows.filter(~(pl.col("value_at_risk") > 0).fill_null(value=False))
    assert rest["recommended_action"].null_count() == rest.height


@pytest.mark.slow
def test_without_a_closed_window_the_base_rate_is_unknown_and_nobody_has_a_band():
    """Nobody ordered in the 91 days before the latest closed window: 0 % churn would be a lie."""
    task, whole = SilenceTask(), task_data()
    model = fitted(task, task.examples(whole, AS_OF), "rfm_logistic")
    closed = AS_OF - 56 * DAY
    quiet = (pl.col("event_time") < closed) & (pl.col("event_time") >= closed - 91 * DAY)
    data = task_data(whole.events.filter(~quiet).collect())
    rows = as_table(task.rows(data, AS_OF, task.serving(data, AS_OF), Champion(model, "")))
    assert rows["p_churn"].drop_nulls().len()
    assert rows["base_rate"].null_count() == rows.height
    assert rows["risk_band"].null_count() == rows["recommended_action"].null_count() == rows.height
    rows = task.rows(whole, AS_OF, task.serving(whole, AS_OF), Champion(model, "v"))
    assert rows["base_rate"].unique().len() == 1
    assert 0 < rows["base_rate"][0] < 0.5
    assert rows.filter("eligible")["risk_band"].null_count() == 0


def test_the_next_order_is_expected_after_the_silence_so_far_and_never_in_the_past():
    """Weekly shoppers with eight orders, the last of them ever longer ago."""
    day = datetime(2024, 5, 1, tzinfo=UTC)
    silent = {"now": 1, "late": 20, "later": 34, "gone": 92}
    rows = [(user, day - (n + 7 * i) * DAY, 1.0) for user, n in silent.items() for i in range(8)]
    visits = read_behaviour(task_data(purchases(rows), Business()), day).visits
    dates = dict(next_order(visits, day.date(), 56).iter_rows())
    wait = {user: (date - day.date()).days for user, date in dates.items()}
    assert set(silent) - set(wait) == {"gone"}, "without an order in 91 days nothing is known"
    assert wait["now"] == 4  # ln 2 × 50 / 8 days
    assert wait["now"] < wait["late"] < wait["later"] < 56 / 2


def test_an_action_that_saves_nobody_is_no_action():
    with pytest.raises(ValueError, match="save_rate"):
        Action(name="prayer", cost=0.0, save_rate=0.0)


@pytest.mark.parametrize("task", TASKS, ids=LABEL_DEFS)
def test_outcomes_say_who_churned_once_the_window_has_passed(task, rounds):
    data, found = rounds
    _, result = found[task.label_def]
    horizon = timedelta(days=task.horizon_days(data.periods))
    origin = AS_OF - horizon
    champion = Champion(result.published, "v")
    rows = task.rows(data, origin, task.serving(data, origin), champion)
    published = rows.with_columns(as_of=pl.lit(origin))
    assert task.outcomes(data, published, AS_OF - timedelta(seconds=1)).is_empty()
    known = task.outcomes(data, published, AS_OF)
    assert set(known["window_end"]) == {AS_OF}
    truth = result.test.select("user_id", "label", "next_orders", "next_spend")
    for target, column in (
        ("p_churn", "label"), ("expected_orders", "next_orders"), ("expected_spend", "next_spend")
    ):  # fmt: skip
        joined = known.filter(target=target).join(truth, on="user_id", validate="1:1")
        assert joined.height == truth.height
        assert (joined["realised"] == joined[column]).all(), target
    waited = known.filter(target="next_order_p50")
    assert set(known["target"]) - {"p_churn", "expected_orders", "expected_spend"} == {
        "next_order_p50"
    }
    came = truth.filter(pl.col("next_orders") > 0)["user_id"]
    assert set(waited["user_id"]) <= set(came), "of who did not come, no day is known"
    assert waited["realised"].is_between(0, horizon.days - 1).all()
    assert 0.3 < (waited["realised"] <= waited["predicted"]).mean() < 0.8, "a median"
    foreign = published.with_columns(label_def=pl.lit("other"))
    assert task.outcomes(data, foreign, AS_OF).is_empty()
    older = published.with_columns(horizon_days=pl.lit(7, dtype=pl.Int32))
    judged = task.outcomes(data, older, AS_OF)
    assert judged.filter(target="p_churn").height == truth.height, "by the row's own horizon"
    assert set(judged["window_end"]) == {data.business.midnight_after(origin, 7)}
    now = replace(data, periods=replace(data.periods, window_days=28, rhythm_days=2.0))
    assert task.outcomes(now, published, AS_OF).equals(known), "and by its own window"
    if task.label_def == "decline":
        return
    soon, late = (rows.filter(target="p_churn")["realised"].mean() for rows in (judged, known))
    assert soon > late, "a week is soon over"


@pytest.mark.parametrize("task", TASKS, ids=LABEL_DEFS)
def test_a_window_ends_when_its_own_horizon_is_over_however_short_the_history(task):
    """Asked with a year of history: 400 days before that there was none, and no decline."""
    data = replace(task_data(), periods=choose_periods(Business(), 7.0, 365))
    origin, horizon = AS_OF - 84 * DAY, task.horizon_days(data.periods)
    rows = read_behaviour(data, origin).visits.select(
        pl.col("user_id").unique(),
        label_def=pl.lit(task.label_def),
        horizon_days=pl.lit(horizon, dtype=pl.Int32),
        as_of=pl.lit(origin),
        p_churn=0.5,
        eligible=pl.lit(value=True),
    )
    assert set(task.window_ends(data, rows)) == {data.business.midnight_after(origin, horizon)}
    assert task.window_ends(data, rows.with_columns(eligible=pl.lit(value=False))).is_empty()


@pytest.mark.parametrize("task", TASKS, ids=LABEL_DEFS)
def test_the_report_says_what_only_churn_can_say(task, rounds):
    data, found = rounds
    _, result = found[task.label_def]
    calibration, value, reasons = task.sections(data, result)
    assert "earlier windows" in calibration.text
    assert calibration.rows[-1][0] == "as published"
    assert sum(int(row[1].replace(",", "")) for row in value.rows[1:]) == result.test.height
    mean_p = [float(row[2]) for row in value.rows[1:]]
    assert mean_p == sorted(mean_p, reverse=True)
    assert len(reasons.rows) > 1
    assert all(len(row) == len(part.rows[0]) for part in (calibration, value) for row in part.rows)


def test_slices_are_named_and_never_features(rounds):
    examples, _ = rounds[1]["silence"]
    for column in SilenceTask.slices:
        assert 1 < examples[column].n_unique() <= 3
    new = examples["tenure"] == "new: first order in the last 91 days"
    assert new.any()


def test_rhythm_by_hand():
    origin = datetime(2024, 5, 1, tzinfo=UTC)
    # Weeks 0, 2 and 2 again, 12: ten weeks are empty; 60 of the 100 went into one order.
    rows = [("a", origin - n * DAY, spend) for n, spend in ((3, 10), (15, 20), (17, 60), (90, 10))]
    rows += [("gone", origin - 120 * DAY, 5.0)]
    past = read_past(task_data(purchases(rows), Business()), origin)
    users = pl.Series(["a", "gone"])
    found = churn_features(past, origin, users, day=origin.date(), horizon_days=56)
    a, gone = found.to_dicts()
    assert (a["empty_weeks"], a["empty_weeks_now"]) == (10, 0)
    assert (a["best_week_share"], a["largest_order_share"]) == (0.8, 0.6)
    assert a["typical_week_share"] == 0
    assert a["spend_slope"] == pytest.approx((10 * 6 + 80 * 4 - 10 * 6) / 100 / 12)
    assert a["orders_slope"] == pytest.approx((6 + 4 + 4 - 6) / 4 / 12)
    assert (gone["empty_weeks"], gone["categories_window"], gone["orders_window"]) == (
        None,
        None,
        0,
    )


def test_who_came_often_and_lately_is_least_likely_to_stay_away():
    origin = datetime(2024, 5, 1, tzinfo=UTC)
    days = {"often": range(2, 90, 7), "stopped": range(50, 90, 5), "once": [40], "rare": [30, 80]}
    rows = [(user, origin - n * DAY, 1.0) for user, back in days.items() for n in back]
    past = read_past(task_data(purchases(rows), Business()), origin)
    users = pl.Series(sorted(days))
    longer = [
        churn_features(past, origin, users, day=origin.date(), horizon_days=horizon)[NO_ORDER]
        for horizon in (28, 56)
    ]
    assert (longer[1] < longer[0]).all()
    logit = dict(zip(users, longer[1], strict=True))
    assert min(logit, key=logit.__getitem__) == "often"
    one = read_past(task_data(purchases(rows).head(1), Business()), origin)
    alone = churn_features(one, origin, users, day=origin.date(), horizon_days=56)
    assert alone[NO_ORDER].null_count() == len(users)  # nobody ordered twice: unknown


def test_a_category_counts_from_when_the_catalogue_knew_the_item():
    origin = datetime(2024, 5, 1, tzinfo=UTC)
    item = task_data().items.head(1)
    bought = purchases([("a", origin - 5 * DAY, 1.0), ("a", origin - 2 * DAY, 1.0)]).with_columns(
        item_id=pl.lit(item["item_id"][0])
    )
    for known_from, categories in ((6, 1), (4, 1), (1, 0)):
        data = task_data(bought, Business())
        catalogue = item.with_columns(
            valid_from=pl.lit(origin - known_from * DAY), category=pl.lit("DAIRY")
        )
        object.__setattr__(data, "items", catalogue)
        past = read_past(data, origin)
        assert past.lines["category"].null_count() == {6: 0, 4: 1, 1: 2}[known_from]
        users = pl.Series(["a"])
        features = churn_features(past, origin, users, day=origin.date(), horizon_days=56)
        assert features["categories_window"].to_list() == [categories]
        assert features["repeat_share"].to_list() == [0.5]


@pytest.mark.slow
def test_without_prices_silence_has_no_money_and_decline_says_why():
    events = task_data().events.with_columns(unit_price=pl.lit(None, dtype=pl.Float64)).collect()
    data = task_data(events)
    task = SilenceTask()
    model = fitted(task, task.examples(data, AS_OF), "rfm_logistic")
    rows = task.rows(data, AS_OF, task.serving(data, AS_OF), Champion(model, "v"))
    assert rows["p_churn"].drop_nulls().len()
    assert rows["expected_spend"].null_count() == rows["value_at_risk"].null_count() == rows.height
    result = backtest(task, task.examples(data, AS_OF), as_of=AS_OF, seed=7)
    money = next(s for s in task.sections(data, result) if s.title.startswith("Value at risk"))
    assert money.rows == ()
    assert money.text == "Not known: no order has a price."
    with pytest.raises(NotEnoughHistoryError, match=r"no purchase .* has a price"):
        DeclineTask().examples(data, AS_OF)
