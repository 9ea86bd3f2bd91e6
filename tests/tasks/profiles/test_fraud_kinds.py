"""Invented people of five kinds of fraud: what they do, and what a budget of alerts catches."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from seq_ml.business import Business
from seq_ml.tasks.behaviour.visits import read_visits
from seq_ml.tasks.profiles import fraud_kinds
from seq_ml.tasks.profiles.fraud_kinds import KINDS, Market, _market, find_invented
from tests.data import AS_OF
from tests.tasks.profiles.test_rows import task_data


def market(seed: int = 1) -> Market:
    data = task_data()
    visits = read_visits(data.events_before(AS_OF, days=data.periods.window_days), data.business)
    make = _market(data, visits, AS_OF)
    assert make is not None
    return make(np.random.default_rng((seed, 0, 0)))


def orders(account: list[dict]) -> Counter:
    return Counter(row["session_id"] for row in account)


@pytest.mark.parametrize("kind", list(KINDS))
def test_everybody_acts_within_the_window_and_alike_for_one_seed(kind):
    accounts, again = (KINDS[kind](market()) for _ in range(2))
    assert accounts == again
    days = market().days
    for account in accounts:
        assert account
        for row in account:
            assert 0 < (AS_OF - row["event_time"]).total_seconds() <= 86400 * days
            assert row["unit_price"] > 0
            assert row["quantity"] >= 1


def test_each_kind_does_what_it_is_after():
    ring = KINDS["linked_accounts"](market())
    assert 6 <= len(ring) <= 10
    assert len({row["store_id"] for account in ring for row in account}) == 1
    assert all(1 <= len(orders(account)) <= 3 for account in ring)
    (brush,) = KINDS["brushing"](market())
    assert len({row["item_id"] for row in brush}) == 1
    assert 12 <= len(orders(brush)) == len(brush) <= 25
    (resold,) = KINDS["reseller"](market())
    assert all(3 <= row["quantity"] <= 6 and row["discount"] > 0 for row in resold)
    (stolen,) = KINDS["account_takeover"](market())
    prices = np.quantile([good["unit_price"] for good in market().goods], 0.95)
    late = [row for row in stolen if row["unit_price"] >= prices]
    assert len(late) >= 10
    (between,) = KINDS["triangulation"](market())
    assert set(orders(between).values()) == {1}


def hoarder(market: Market):
    return [[row | {"quantity": 500.0} for row in market.order(5.0, 3, dear=(0.5, 1.0))]]


def ghost(market: Market):
    return [market.order(5.0, 1, dear=(0.0, 0.5))]


def test_alerts_catch_who_stands_out_and_nobody_else(monkeypatch):
    monkeypatch.setattr(fraud_kinds, "KINDS", {"hoarder": hoarder, "ghost": ghost})
    monkeypatch.setattr(fraud_kinds, "ALERTED", 0.05)
    hoarded, unseen = find_invented(task_data(), AS_OF, seed=1)
    assert (hoarded.kind, unseen.kind) == ("hoarder", "ghost")
    for name in ("published score", "largest spend"):
        assert hoarded.recall[name].value == 1.0
        assert hoarded.precision[name].value == pytest.approx(1 / 3)  # one of three alerts
        assert unseen.recall[name].value == unseen.precision[name].value == 0.0
    assert unseen.recall["published score"].high > 0


def test_where_nothing_has_a_price_nobody_is_invented():
    data = task_data()
    assert find_invented(task_data(data.events.collect().head(0), Business()), AS_OF, seed=1) == []
