"""Money: net of returns at their own instant, in the business's currency, known or unknown."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import TYPE_CHECKING

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from seq_ml.business import Action
from seq_ml.tasks.ads.task import value_of_response
from seq_ml.tasks.behaviour.features import behaviour_features
from seq_ml.tasks.behaviour.margins import margin_share, with_margin
from seq_ml.tasks.behaviour.spend import spend_features, spent_between
from seq_ml.tasks.behaviour.visits import read_behaviour
from seq_ml.tasks.churn.actions import suggest
from seq_ml.tasks.churn.task import DeclineTask, SilenceTask
from seq_ml.tasks.churn.value import with_amounts
from seq_ml.tasks.profiles.models import Interval, spend_forecasts
from seq_ml.tasks.profiles.segments import segments_at
from tests.tasks.recommendations.test_task import catalogue, purchases, task_data

if TYPE_CHECKING:
    from seq_ml.tasks.data import TaskData

ORIGIN = datetime(2024, 5, 6, 4, tzinfo=UTC)
DAY = timedelta(days=1)


def shop(*rows: tuple[str, int, float, str]) -> TaskData:
    """Events of tea: (user, days after the origin, money, purchase or refund)."""
    events = purchases(*((user, "tea", ORIGIN + day * DAY) for user, day, _, _ in rows))
    events = events.with_columns(
        unit_price=pl.Series([price for _, _, price, _ in rows]),
        event_type=pl.Series([kind for *_, kind in rows]),
    )
    return task_data(events, items=catalogue("tea"))


BOUGHT = [("anna", -40 + 7 * n, 10.0, "purchase") for n in range(5)] + [
    ("ben", -20, 30.0, "purchase"),
    ("ben", -10, 30.0, "purchase"),
    ("anna", 3, 10.0, "purchase"),
]


def test_a_return_after_an_origin_changes_nothing_that_is_known_at_it():
    without = read_behaviour(shop(*BOUGHT), ORIGIN + 30 * DAY)
    later = shop(*BOUGHT, ("anna", 5, 10.0, "refund"), ("ben", 6, 30.0, "refund"))
    behaviour = read_behaviour(later, ORIGIN + 30 * DAY)
    for end in (ORIGIN, ORIGIN + 5 * DAY):
        assert_frame_equal(behaviour_features(behaviour, end), behaviour_features(without, end))
        business = later.business
        assert_frame_equal(
            spend_features(behaviour.money, business, end, later.periods),
            spend_features(without.money, business, end, later.periods),
        )
    labels = SilenceTask().labels(later, behaviour.money, ORIGIN).sort("user_id")
    assert labels.select("user_id", "spend_window", "next_orders", "next_spend").rows() == [
        ("anna", 50.0, 1.0, 0.0),
        ("ben", 60.0, 0.0, -30.0),
    ]
    spent = spent_between(behaviour.money, ORIGIN, ORIGIN + 30 * DAY).sort("user_id")
    assert spent.rows() == [("anna", 0.0), ("ben", -30.0)]


def test_a_return_is_no_order_and_lowers_the_spend_of_its_own_window():
    data = shop(*BOUGHT, ("ben", -5, 20.0, "refund"), ("carl", -5, 20.0, "refund"))
    behaviour = read_behaviour(data, ORIGIN)
    features = behaviour_features(behaviour, ORIGIN, pl.Series(["ben", "carl"]))
    shown = features.select(
        "user_id", "orders_recent", "spend_recent", "order_value", "recency_days"
    )
    assert shown.rows() == [("ben", 2.0, 40.0, 30.0, 10.0), ("carl", 0.0, -20.0, None, None)]
    rates = spend_features(behaviour.money, data.business, ORIGIN, data.periods)
    assert rates["user_id"].to_list() == ["anna", "ben"]  # who never ordered has no history
    assert rates.filter(user_id="ben")["value"].item() == 20.0


def test_a_refund_larger_than_the_spend_breaks_nothing():
    data = shop(*BOUGHT, ("ben", -5, 500.0, "refund"))
    behaviour = read_behaviour(data, ORIGIN)
    ben = behaviour_features(behaviour, ORIGIN).filter(user_id="ben")
    assert ben["spend_window"].item() == -440.0
    assert ben["spend_trend"].is_finite().all()
    assert segments_at(behaviour, ORIGIN)["segment"].null_count() == 0
    rates = spend_features(behaviour.money, data.business, ORIGIN, data.periods)
    assert rates.filter(user_id="ben")["value"].item() == 0.0
    last = next(one for one in spend_forecasts() if one.name == "last_window")
    last.interval = Interval([0.0], [-0.5], [1.0], 1e-9)
    assert (last.predict(rates) >= 0).all()

    task = DeclineTask()
    closed = task.labels(data, behaviour.money, ORIGIN - 15 * DAY)
    known = behaviour_features(behaviour, ORIGIN).drop("orders_window", "spend_window")
    frame = task.labels(data, behaviour.money, ORIGIN).join(known, on="user_id", how="left")
    frame = frame.with_columns(p=pl.lit(0.5), margin_share=None, expected_spend=pl.lit(-1.0))
    rows = with_amounts(frame, closed, share=84 / 91, priced=True)
    ben = rows.filter(user_id="ben")
    assert not ben["eligible"].item()
    assert (ben["expected_spend"].item(), ben["value_at_risk"].item()) == (0.0, 0.0)


def test_a_return_without_a_price_gives_nothing_back():
    data = shop(*BOUGHT, ("ben", -5, 20.0, "refund"))
    unpriced = pl.when(pl.col("event_type") != "refund").then("unit_price")
    data = task_data(data.events.with_columns(unit_price=unpriced).collect(), items=data.items)
    money = read_behaviour(data, ORIGIN).money
    assert money.filter(lines=0).is_empty()
    assert money["spend"].sum() == pytest.approx(110.0)


# --- margin ---------------------------------------------------------------------------------------


def with_costs(**costs: float | None) -> TaskData:
    """Anna buys tea and cups, ben only cups, carl only cups: 10 each time."""
    rows = [("anna", "tea"), ("anna", "tea"), ("anna", "cup"), ("ben", "cup"), ("carl", "cup")]
    events = purchases(*((user, item, ORIGIN - DAY) for user, item in rows))
    events = events.with_columns(unit_price=pl.lit(10.0))
    items = catalogue("tea", "cup").with_columns(
        unit_cost=pl.col("item_id").replace_strict(costs, default=None, return_dtype=pl.Float64)
    )
    return task_data(events, items=items)


def test_margins_are_a_users_own_where_costs_are_known_and_everybodys_elsewhere():
    users = pl.DataFrame({"user_id": ["anna", "ben", "nobody"]})
    known = with_margin(users, with_costs(tea=6.0, cup=9.0), ORIGIN)["margin_share"].to_list()
    assert known == pytest.approx([(4 + 4 + 1) / 30, 0.1, (4 + 4 + 1 + 1 + 1) / 50])
    half = with_costs(tea=6.0)
    assert margin_share(half, ORIGIN) == pytest.approx(0.4)  # of tea alone
    # two thirds of anna's spend are of known cost, none of ben's
    assert with_margin(users, half, ORIGIN)["margin_share"].to_list() == pytest.approx([0.4] * 3)
    less = with_costs(cup=9.0)
    assert with_margin(users, less, ORIGIN)["margin_share"].to_list() == pytest.approx([0.1] * 3)
    assert with_margin(users, with_costs(), ORIGIN)["margin_share"].null_count() == 3


def test_a_cost_that_is_known_later_is_not_known_before():
    data = with_costs(tea=6.0)
    later = pl.lit(ORIGIN + DAY, pl.Datetime("us", "UTC"))
    data = task_data(data.events.collect(), items=data.items.with_columns(valid_from=later))
    assert margin_share(data, ORIGIN) is None


def test_an_action_is_chosen_by_margin_where_it_is_known():
    users = pl.DataFrame({"p": [0.5, 0.5], "value_at_risk": [100.0, 100.0]}).with_columns(
        margin_at_risk=pl.Series([20.0, None], dtype=pl.Float64),
        risk_band=pl.lit("high"),
        gap_overdue=pl.lit(2.0),
        coupon_orders_window=pl.lit(0.0),
    )
    found = suggest(users, [Action(name="coupon", cost=4.0, save_rate=0.1)], None)
    assert found["expected_gain"].to_list() == [None, 6.0]


def test_a_response_is_worth_what_usually_stays_of_its_day():
    responses = pl.DataFrame({"user_id": ["ben"], "responded_at": [ORIGIN - 10 * DAY]})
    bought = shop(*BOUGHT[:7])
    back = shop(*BOUGHT[:7], ("anna", -1, 27.5, "refund"))  # a quarter of 110
    for data, worth in ((bought, 30.0), (back, 22.5)):
        history = SimpleNamespace(contacts=responses, behaviour=read_behaviour(data, ORIGIN))
        assert value_of_response(history, data, ORIGIN) == pytest.approx(worth)
