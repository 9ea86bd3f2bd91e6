"""Expected spend: judged like every task, published by a champion that the newest window renews."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from seq_ml.business import Business
from seq_ml.evaluation import leakage
from seq_ml.evaluation.backtest import backtest
from seq_ml.evaluation.report import report_page
from seq_ml.pages.page import markdown
from seq_ml.periods import GROCER
from seq_ml.tasks.behaviour.spend import RATES
from seq_ml.tasks.candidate import Champion
from seq_ml.tasks.profiles import features
from seq_ml.tasks.profiles.models import Interval, spend_forecasts
from seq_ml.tasks.profiles.task import SpendTask
from seq_ml.tasks.task import SPLITS, NotEnoughHistoryError, check_examples
from tests.data import AS_OF
from tests.tasks.churn.test_task import purchases, task_data
from tests.tasks.cut import cut_by, rows_of

DAY = timedelta(days=1)
FORECASTS = [candidate.name for candidate in spend_forecasts()]


def judge(events: pl.DataFrame | None = None):
    """The sample of 60 users, judged as of the end of the year."""
    task, data = SpendTask(), task_data(events)
    return backtest(task, task.examples(data, AS_OF), as_of=AS_OF, seed=7)


@pytest.fixture(scope="module")
def result():
    return judge()


def spending(factor: float | None, since: datetime) -> pl.DataFrame:
    """Events of the sample whose prices from an instant on are multiplied."""
    events = task_data().events.collect()
    later = pl.col("event_time") >= since
    price = pl.col("unit_price") * pl.when(later).then(factor).otherwise(1.0)
    return events.with_columns(unit_price=price)


def test_the_forecast_is_chosen_judged_and_published_on_later_and_later_windows(result):
    task, data = SpendTask(), task_data()
    examples = task.examples(data, AS_OF)
    check_examples(examples, task, AS_OF)
    windows = [result.windows[name] for name in SPLITS]
    assert [w.first_origin for w in windows[1:]] == [w.last_label_end for w in windows[:-1]]
    assert windows[-1].last_label_end == AS_OF
    assert [c.name for c in result.candidates] == FORECASTS
    assert (result.published.name == "shrunken_rate") == (result.improvement.low > 0)
    tested = {c.name: c.test for c in result.candidates}
    assert tested["shrunken_rate"]["rmse"].value < tested["average"]["rmse"].value
    assert 0.6 < tested[result.published.name]["coverage"].value < 0.95

    rows = task.rows(data, AS_OF, task.serving(data, AS_OF), Champion(result.published, ""))
    spent = examples.filter(split="test")["label"].mean()
    assert rows["clv_expected"].mean() == pytest.approx(spent, rel=0.25)
    assert (rows["clv_p10"] <= rows["clv_p90"]).all()
    assert (rows["clv_p10"] >= 0).all()
    assert rows["clv_source"].unique().to_list() == [result.published.name]
    assert rows["clv_horizon_days"].unique().to_list() == [GROCER.value_days]


def test_a_forecast_of_a_user_does_not_see_the_window_that_judges_it(result):
    """What is spent in the test window changes the judgement, not the forecast that is judged."""
    doubled = judge(spending(2.0, AS_OF - GROCER.value_days * DAY))
    for one, two in zip(result.candidates, doubled.candidates, strict=True):
        assert one.validation == two.validation
        assert one.test["rmse"].value < two.test["rmse"].value
        assert np.array_equal(result.predictions[one.name], doubled.predictions[one.name])
    assert result.baseline == doubled.baseline
    task, data = SpendTask(), task_data()
    examples = task.examples(data, AS_OF)
    assert leakage.feature_time(task, data, examples, AS_OF) == ""
    assert leakage.fitted_statistics(task, examples, result, seed=7) == ""


@pytest.mark.parametrize("candidate", spend_forecasts(), ids=FORECASTS)
def test_what_is_published_learns_from_the_window_that_closed_last(candidate):
    """As the judged forecast did one window before, its interval from errors it did not know."""
    task, data = SpendTask(), task_data()
    examples = task.examples(data, AS_OF)
    candidate.fit(examples.filter(pl.col("split") != "test"))
    champion, state = Champion(candidate, "v"), candidate.state()
    serving = task.serving(data, AS_OF)
    rows = task.rows(data, AS_OF, serving, champion)
    assert candidate.state() == state, "the champion itself stays what was judged"
    assert rows.equals(task.rows(data, AS_OF, serving, champion))
    renewed = next(c for c in spend_forecasts() if c.name == candidate.name)
    renewed.fit(examples)
    columns = rows.select("clv_expected", "clv_p10", "clv_p90").to_numpy()
    assert columns == pytest.approx(renewed.predict(serving.examples))
    again = next(c for c in spend_forecasts() if c.name == candidate.name)
    again.restore(state)
    assert np.array_equal(again.predict(serving.examples), candidate.predict(serving.examples))


def test_an_interval_is_relative_to_the_forecast_of_like_users():
    made = np.repeat([10.0, 1000.0], 100)
    spent = made * np.tile(np.linspace(0, 2, 100), 2)
    interval = Interval.of(made, spent)
    assert interval.around(np.array([10.0, 1000.0])) == pytest.approx(
        np.array([[2.0, 18.0], [200.0, 1800.0]])
    )
    assert (interval.around(np.zeros(1)) >= 0).all()
    assert np.isfinite(Interval.of(np.zeros(60), np.zeros(60)).around(np.zeros(60))).all()


def test_a_forecast_that_cannot_be_judged_is_refused_in_one_sentence():
    events = task_data().events.collect()
    users = events["user_id"].unique().sort()
    for rows, why in (
        (events.filter(pl.col("event_time") >= AS_OF - 21 * DAY), "there are 20"),
        (events.head(0), "there are 0"),
        (
            events.filter(pl.col("user_id").is_in(users.head(10).implode())),
            "10 users with purchases before",
        ),
        (events.with_columns(unit_price=0.0), "no order has a price"),
    ):
        with pytest.raises(NotEnoughHistoryError, match=why):
            SpendTask().examples(task_data(rows), AS_OF)


def test_of_many_users_a_sample_is_measured_and_everybody_gets_a_value(monkeypatch, result):
    cut_by(10, monkeypatch)
    monkeypatch.setattr(features, "MOST_USERS", 35)
    task, data = SpendTask(), task_data()
    serving, champion = task.serving(data, AS_OF), Champion(result.published, "v")
    with pytest.raises(NotEnoughHistoryError, match="29 users with purchases"):
        task.examples(data, AS_OF)  # every second one
    with pytest.raises(NotEnoughHistoryError, match="30 users with purchases"):
        task.rows(data, AS_OF, serving, champion)
    monkeypatch.setattr(features, "FEWEST_USERS", 20)
    assert task.examples(data, AS_OF)["user_id"].n_unique() == 30
    assert task.rows(data, AS_OF, serving, champion)["clv_expected"].null_count() == 0


def test_rows_of_some_users_at_a_time_are_those_of_all_at_once(monkeypatch, result):
    task, champion = SpendTask(), Champion(result.published, "v")

    whole = rows_of(task, task_data(), AS_OF, champion)
    cut_by(10, monkeypatch)
    assert task_data().shard_count == 8
    assert_frame_equal(rows_of(task, task_data(), AS_OF, champion), whole)


def test_where_nobody_orders_twice_the_other_forecasts_compete():
    orders = [(f"u{n}", AS_OF - (275 + n) * DAY, 10.0) for n in range(60)]
    orders += [(f"u{n}", AS_OF - (2 + n) * DAY, 10.0) for n in range(60)]
    task, data = SpendTask(), task_data(purchases(orders), Business())
    result = backtest(task, task.examples(data, AS_OF), as_of=AS_OF, seed=7)
    left_out = {c.name: c.left_out for c in result.candidates if c.left_out}
    assert left_out == {"bg_nbd_gamma_gamma": "nobody ordered twice, or nobody paid"}


def test_where_the_fitted_tail_has_no_mean_every_forecast_is_still_a_number():
    huge = pl.when(pl.int_range(pl.len()) % 500 == 0).then(1e6).otherwise("unit_price")
    found = judge(task_data().events.with_columns(unit_price=huge).collect())
    for candidate in found.candidates:
        assert np.isfinite(list(candidate.validation.values())).all()
        assert np.isfinite([e.value for e in candidate.test.values()]).all(), candidate.name
        assert np.isfinite(found.predictions[candidate.name]).all()


def test_without_a_champion_profiles_have_no_forecast():
    now = datetime(2024, 6, 1, tzinfo=UTC)
    young = purchases([("a", now - n * DAY, 5.0) for n in (1, 9, 20)])
    rows = SpendTask().rows_without_champion(task_data(young, Business()), now)
    assert rows.height == 1
    for column in ("clv_expected", "clv_p10", "clv_p90", "clv_source"):
        assert rows[column].to_list() == [None]


def test_the_report_says_how_often_the_interval_held(result):
    task = SpendTask()
    text = markdown(report_page(result, task, task.sections(task_data(), result)))
    for said in ("0.8 is best", "coverage", "pinball", "tenure = more than 91 days"):
        assert said in text
    model = next(c for c in task.candidates() if not c.is_baseline)
    model.fit(task.examples(task_data(), AS_OF))
    (section,) = task.sections(task_data(), replace(result, published=model))
    assert [row[0] for row in section.rows[1:]] == ["everybody", *RATES]
