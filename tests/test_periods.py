"""The rule of the windows: what a rhythm, a history and the business's own wishes come to."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seq_ml.business import Business, Churn, Recommendations, Windows
from seq_ml.periods import GROCER, LEAST_HISTORY_DAYS, Periods, choose_periods
from seq_ml.sequences import cutoffs
from seq_ml.sequences.cutoffs import FEWEST_RETURNING, CutOffs, measure, record, steady
from seq_ml.storage.portions import shard_of
from seq_ml.storage.tables import TableStore
from tests.data import AS_OF, journey

RHYTHMS = (1.0, 2.0, 3.5, 8.7, 14.0, 28.0, 30.5, 45.0, 91.0, 182.0, 500.0)
HISTORIES = (70, 77, 91, 100, 140, 180, 202, 203, 258, 270, 329, 365, 545, 730, 1100, 1500)
BUSINESS = Business()


def windows(rhythm: float | None, history: int | None) -> Periods:
    return choose_periods(BUSINESS, rhythm, history)


@pytest.mark.parametrize("rhythm", [None, 3.5, 8.7, 14.0, 28.0])
@pytest.mark.parametrize("history", [None, 365, 380, 730])
def test_a_grocer_gets_exactly_a_grocers_windows(rhythm, history):
    found = windows(rhythm, history)
    fewer_orders = rhythm is not None and 6 * rhythm > 91
    assert found.decline_active_orders == (2 if fewer_orders else 3)
    assert found.like(Periods(decline_active_orders=found.decline_active_orders))
    assert (found.spans, found.pace) == (GROCER.spans, 1.0)


def test_complete_journey_gets_exactly_a_grocers_windows():
    business = Business(timezone="America/New_York")
    rhythm, history = measure(journey(120)["clean_events"].lazy(), business, AS_OF)
    assert (rhythm, history) == (8.0, 365)
    assert choose_periods(business, rhythm, history).like(GROCER)


def test_of_too_many_events_a_sample_of_users_is_measured_the_same_in_every_process(monkeypatch):
    events = journey(120)["clean_events"].lazy()
    sample = events.filter(shard_of(3) == 0)
    rhythm, _ = measure(sample, BUSINESS, AS_OF)
    assert rhythm != measure(events, BUSINESS, AS_OF)[0]
    first = pl.col("event_time") == pl.col("event_time").filter(event_type="purchase").min()
    whole = events.filter(first | (shard_of(3) == 0)).with_columns(
        # the first conversion is of a user outside of the sample, long before the others
        event_time=pl.when(first)
        .then(pl.col("event_time") - timedelta(100))
        .otherwise("event_time")
    )
    monkeypatch.setattr(cutoffs, "MOST_ROWS", 1_000)
    assert measure(events, BUSINESS, AS_OF, rows=3_000)[0] == rhythm
    assert whole.filter(first, shard_of(3) == 0).collect().is_empty()
    found = measure(whole, BUSINESS, AS_OF, rows=3_000)
    assert found == (rhythm, measure(events, BUSINESS, AS_OF)[1] + 100)


def test_windows_grow_with_the_rhythm_and_with_the_history():
    names = ("window_days", "silence_weeks", "decline_weeks", "value_days", "recent_days")
    for name in names:
        for rhythm in RHYTHMS:
            by_history = [getattr(windows(rhythm, history), name) for history in HISTORIES]
            assert by_history == sorted(by_history), (name, rhythm)
        by_rhythm = [getattr(windows(rhythm, None), name) for rhythm in RHYTHMS]
        assert by_rhythm == sorted(by_rhythm), name


@pytest.mark.parametrize("rhythm", RHYTHMS)
@pytest.mark.parametrize("history", HISTORIES)
def test_windows_stay_within_bounds_and_fit_the_history(rhythm, history):
    found = windows(rhythm, history)
    window, silence = found.window_days, 7 * found.silence_weeks
    assert 28 <= window <= 728
    assert 21 <= silence <= 364
    assert window >= 7 * found.silence_active_weeks
    assert silence >= min(rhythm, 364), "nobody is called silent within one usual gap"
    assert found.test_days <= history / 2
    assert 3 * found.value_days + found.rate_days <= max(history, LEAST_HISTORY_DAYS)
    assert list(found.spans.values())[:5] == sorted(list(found.spans.values())[:5])
    if history >= max(LEAST_HISTORY_DAYS, 3 * 7 * -(-min(rhythm, 365) // 7)):
        assert window + 2 * silence <= history
        assert window + 14 * found.decline_weeks <= history
        assert found.test_days >= max(silence, 7 * found.decline_weeks, found.value_days)


@given(st.none() | st.floats(1, 500), st.integers(1, 1500))
def test_windows_of_any_rhythm_and_history_can_be_used(rhythm, history):
    """Also of a shop that opened yesterday: nothing is 0, and nothing exceeds what is wished."""
    found, whole = windows(rhythm, history), windows(rhythm, None)
    lengths = {name: value for name, value in found.as_json().items() if name != "rhythm_days"}
    assert min(lengths.values()) >= 1
    assert found.test_days <= max(history // 2, 1)
    names = ("window_days", "silence_weeks", "decline_weeks", "value_days", "recommend_days")
    assert all(getattr(found, name) <= getattr(whole, name) for name in names)
    assert found.rate_days <= 56
    assert found.recent_days <= found.window_days
    later = windows(rhythm, history + 7)
    assert all(getattr(found, name) <= getattr(later, name) for name in names), "they only grow"


def test_fashion_is_slower_and_streaming_faster_than_a_grocer():
    fashion, plays = windows(182.0, 1500), windows(1.0, 400)
    assert (fashion.window_days, fashion.silence_weeks, fashion.recent_days) == (546, 52, 182)
    assert (plays.window_days, plays.silence_weeks, plays.recommend_days) == (28, 3, 14)
    assert plays.pace < GROCER.pace < fashion.pace
    assert "every 182 days" in fashion.said()
    assert "546 days" in fashion.said()
    assert fashion.named("orders_window") == "orders_546d"
    assert fashion.named("empty_weeks_now") == "empty_weeks_now"


def test_what_a_business_sets_holds_and_the_rest_makes_room():
    own = Business(
        churn=Churn(silence_weeks=20, decline_active_orders=5),
        recommendations=Recommendations(horizon_days=14),
        windows=Windows(recent_days=35, origin_step_days=7),
    )
    found = choose_periods(own, 8.7, 365)
    assert (found.silence_weeks, found.decline_active_orders, found.recommend_days) == (20, 5, 14)
    assert (found.recent_days, found.origin_step_days, found.test_days) == (35, 7, 140)
    assert found.window_days == 84, "13 weeks of features and two of 20 weeks are more than a year"
    active = choose_periods(Business(churn=Churn(silence_active_weeks=30)), 8.7, 700)
    assert (active.window_days, active.silence_active_weeks) == (210, 30)
    wide = choose_periods(Business(windows=Windows(window_days=180, value_days=60)), 8.7, 700)
    assert (wide.window_days, wide.value_days) == (180, 60)


def test_windows_survive_the_lineage_of_a_version():
    found = windows(45.0, 300)
    assert Periods.of_json(found.as_json()) == found
    assert Periods.of_json({**found.as_json(), "of_a_later_release": 1}) == found
    assert found.like(windows(45.0, 297))
    assert not found.like(windows(45.1, 300)), "half-lives follow the rhythm"
    assert windows(8.0, 365).like(windows(9.0, 380)), "but not within a grocer's"
    assert not found.like(GROCER)


def test_windows_follow_a_rhythm_that_clearly_changed(objects):
    tables = TableStore(objects)
    assert steady(tables, 9.0, AS_OF) == 9.0
    record(tables, CutOffs(AS_OF - timedelta(1), AS_OF - timedelta(30), 8.0, 100))
    measured = (8.0, 9.0, 9.6, 9.7, 6.5, 6.3, None)
    assert [steady(tables, rhythm, AS_OF) for rhythm in measured] == [
        8.0, 8.0, 8.0, 9.7, 8.0, 6.3, None
    ]  # fmt: skip
    assert steady(tables, 9.0, AS_OF - timedelta(2)) == 9.0, "nothing is known of later days"


def at(*days: int, user: str = "a", kind: str = "purchase") -> pl.DataFrame:
    start = datetime(2024, 1, 1, 12, tzinfo=UTC)
    return pl.DataFrame(
        {"user_id": user, "event_type": kind, "event_time": [start + timedelta(d) for d in days]}
    )


def test_the_rhythm_is_the_median_users_and_only_of_conversions():
    as_of = datetime(2024, 7, 1, tzinfo=UTC)
    users = [at(0, 10, 20, 40, user=f"u{n}") for n in range(FEWEST_RETURNING)]
    daily = [at(*range(100), user=f"d{n}") for n in range(3)]
    once = [at(3, user=f"o{n}") for n in range(50)]
    views = [at(*range(180), user="a", kind="view")]
    late = [at(400, user="z")]
    events = pl.concat([*users, *daily, *once, *views, *late]).lazy()
    assert measure(events, BUSINESS, as_of) == (13.33, 182)
    few = pl.concat([*users[1:], *once]).lazy()
    assert measure(few, BUSINESS, as_of) == (None, 182), "of nine who came back nothing is taken"
    assert measure(pl.concat(views).lazy(), BUSINESS, as_of) == (None, None)
    plays = Business(conversion="view")
    assert measure(events, plays, as_of)[1] == 182
    several = [at(0, 0, 0, 7, 7, user=f"u{n}") for n in range(FEWEST_RETURNING)]
    assert measure(pl.concat(several).lazy(), BUSINESS, as_of)[0] == 7.0


def test_spans_follow_each_other():
    for rhythm in RHYTHMS:
        for history in HISTORIES:
            spans = windows(rhythm, history).spans
            assert all(a <= b for a, b in pairwise(spans.values())), spans
