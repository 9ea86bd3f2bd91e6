"""The one estimator of spend, where a business is young or its people come every few days."""

from __future__ import annotations

from dataclasses import replace

import pytest

from seq_ml.periods import GROCER
from seq_ml.tasks.behaviour.spend import expected_spend, learnt_shares, spend_features
from seq_ml.tasks.behaviour.visits import read_money
from tests.tasks.behaviour.test_money import BOUGHT, ORIGIN, shop


def rates(window_days: int):
    data = shop(*BOUGHT)
    periods = replace(GROCER, window_days=window_days)
    money = read_money(data.events_before(ORIGIN), data.business)
    return spend_features(money, data.business, ORIGIN, periods)


def test_a_window_as_short_as_the_recent_days_still_tells_old_from_new():
    found = rates(GROCER.recent_days)
    assert set(found["tenure"]) <= {"up to 28 days", "more than 28 days"}
    assert found.height == 2


def test_before_any_window_closed_the_own_rate_is_what_is_expected():
    found = rates(91)
    assert learnt_shares(found.head(0)) == [0.0, 0.0, 1.0, 0.0]
    own = expected_spend(found, learnt_shares(found.head(0)))
    assert own == pytest.approx(found["rate_window"].to_numpy())
