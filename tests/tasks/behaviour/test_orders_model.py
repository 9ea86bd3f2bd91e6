"""BG/NBD and Gamma-Gamma: published numbers, identities, and users simulated by their own rules."""

from __future__ import annotations

from datetime import date

import numpy as np
import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from seq_ml.tasks.behaviour.orders_model import (
    OrderHistory,
    Orders,
    OrderValue,
    order_history,
)

CDNOW = Orders(0.243, 4.414, 0.793, 2.426)
"""Fader, Hardie & Lee 2005, table 2; weeks."""
CDNOW_VALUE = OrderValue(6.25, 3.74, 15.44)
"""Fader & Hardie 2013; US dollars."""


def users(repeats, last, age, value=None) -> OrderHistory:
    repeats = np.asarray(repeats, dtype=float)
    value = np.ones(len(repeats)) if value is None else np.asarray(value, dtype=float)
    return OrderHistory(repeats, np.asarray(last, float), np.asarray(age, float), value)


def test_the_published_numbers_of_cdnow():
    customer = users([2], [30.43], [38.86])
    assert CDNOW.expected_orders(customer, 39)[0] == pytest.approx(1.226, abs=5e-4)
    assert CDNOW.p_alive(customer)[0] == pytest.approx(0.7266, abs=5e-4)
    # Fader & Hardie 2013: two customers with orders, and one without
    count, value = np.array([2.0, 1.0, 0.0]), np.array([22.35, 11.77, 0.0])
    expected = CDNOW_VALUE.expected_value(count, value)
    assert expected == pytest.approx([24.66, 18.91, 35.17], abs=0.06)  # parameters are rounded


def simulated_orders(n: int, r: float, alpha: float, a: float, b: float, seed: int) -> OrderHistory:
    """Users who order by the rules of the BG/NBD, observed for up to 400 days."""
    rng = np.random.default_rng(seed)
    age = rng.uniform(200, 400, n)
    rate, leaving = rng.gamma(r, 1 / alpha, n), rng.beta(a, b, n)
    repeats, last = np.zeros(n), np.zeros(n)
    active = np.ones(n, dtype=bool)
    while active.any():
        at = last + rng.exponential(1 / np.maximum(rate, 1e-12))
        active &= at <= age
        repeats, last = repeats + active, np.where(active, at, last)
        active &= rng.random(n) >= leaving
    return users(repeats, last, age)


def test_maximum_likelihood_recovers_what_made_the_orders():
    truth = np.array([0.8, 12.0, 0.9, 2.5])
    fitted = Orders.fit(simulated_orders(6000, *truth, seed=5))
    found = np.array([fitted.r, fitted.alpha, fitted.a, fitted.b])
    assert np.abs(np.log(found / truth)).max() < 0.35


def test_maximum_likelihood_recovers_what_made_the_values():
    rng = np.random.default_rng(3)
    p, q, gamma = 5.0, 4.0, 20.0
    repeats = rng.integers(0, 30, 4000).astype(float)
    scale = rng.gamma(q, 1 / gamma, 4000)
    value = rng.gamma(p * (repeats + 1)) / scale / (repeats + 1)
    fitted = OrderValue.fit(users(repeats, repeats, repeats, value))
    assert (fitted.p, fitted.q, fitted.gamma) == pytest.approx((p, q, gamma), rel=0.15)


histories = st.tuples(
    st.integers(0, 400), st.floats(0, 1), st.floats(1, 700), st.floats(1, 400)
)  # repeats, last as a share of the age, age, horizon
parameters = st.tuples(*[st.floats(0.02, 30)] * 4)


@settings(max_examples=200, deadline=None)
@example(history=(99, 0.0, 1.0, 10.0), four=(1.0, 0.0625, 2.0, 1.0))  # SciPy's 2F1 is infinite
@example(history=(0, 0.0, 30.0, 91.0), four=(1.0, 4.0, 0.5, 0.5))  # a pole of the formula
@example(history=(3, 0.5, 30.0, 91.0), four=(1.0, 4.0, 1.0, 2.0))
@given(history=histories, four=parameters)
def test_probabilities_and_expectations_are_possible(history, four):
    repeats, share, age, days = history
    one = users([repeats], [share * age if repeats else 0.0], [age])
    model = Orders(*four)
    alive, idle = model.p_alive(one)[0], model.p_no_order(one, days)[0]
    expected = model.expected_orders(one, days)[0]
    assert 0 <= alive <= 1
    assert 1 - alive - 1e-12 <= idle <= 1, "who has left orders nothing"
    assert model.p_no_order(one, 2 * days)[0] <= idle + 1e-12
    assert -1e-9 <= 1 - idle <= expected + 1e-6, "P(at least one) is at most the mean (Markov)"
    assert expected <= model.expected_orders(one, 2 * days)[0] + 1e-9
    assert np.isfinite(model.log_likelihood(one)).all()


def test_a_one_time_buyer_is_alive_and_yet_may_not_come():
    once = users([0], [0], [300])
    assert CDNOW.p_alive(once)[0] == 1
    assert CDNOW.p_no_order(once, 8)[0] > 0.9


def test_simulation_agrees_with_the_closed_forms():
    customer = users([0, 1, 6], [0, 20, 33], [38.86, 30, 38])
    rng, x, shape = np.random.default_rng(1), customer.repeats, (20_000, 3)
    alive = rng.random(shape) < CDNOW.p_alive(customer)
    rate = rng.gamma(CDNOW.r + x, 1 / (CDNOW.alpha + customer.age), shape)
    # a user leaves right after the k-th order, k geometric: no more than k can come
    most = rng.geometric(np.clip(rng.beta(CDNOW.a, CDNOW.b + x, shape), 1e-12, 1.0))
    coming = np.minimum(rng.poisson(39 * rate), most) * alive
    assert coming.mean(axis=0) == pytest.approx(CDNOW.expected_orders(customer, 39), rel=0.05)
    assert (coming == 0).mean(axis=0) == pytest.approx(CDNOW.p_no_order(customer, 39), abs=0.01)


def test_orders_of_a_day_are_one_and_the_future_is_not_seen():
    visits = pl.DataFrame(
        {
            "user_id": ["b", "a", "a", "a", "a"],
            "day": [date(2024, 1, d) for d in (3, 1, 1, 5, 9)],
            "spend": [5.0, 10.0, 20.0, 6.0, 99.0],
        }
    )
    history = order_history(visits, date(2024, 1, 9))
    assert history["user_id"].to_list() == ["a", "b"]
    assert history["repeats"].to_list() == [1, 0]
    assert history["last"].to_list() == [4, 0]
    assert history["age"].to_list() == [8, 6]
    assert history["value"].to_list() == [18, 5]


def test_without_repeats_or_prices_there_is_nothing_to_fit():
    once = users([0, 0], [0, 0], [10, 20], [0.0, 0.0])
    with pytest.raises(ValueError, match="more than one day"):
        Orders.fit(once)
    with pytest.raises(ValueError, match="value above 0"):
        OrderValue.fit(once)
