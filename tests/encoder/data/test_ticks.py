"""Ticks and what is asked at them: from the past alone, alike in training and in use."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seq_ml.encoder.data.batches import collate
from seq_ml.encoder.data.moments import moments_at, training_moments
from seq_ml.encoder.data.outcomes import VISIT, WAITS, Conversions
from seq_ml.encoder.data.ticks import SPARSE, WEEK, WEEKLY, make_ticks
from seq_ml.encoder.data.windows import Window, window_table
from seq_ml.periods import FORESEEN_DAYS as SPANS
from seq_ml.sequences.build import build_sequences
from seq_ml.tokens.vocabulary import DAY, TICK, Tokens, Vocabulary
from tests.data import AS_OF, journey

CUT = AS_OF - timedelta(days=91)
UNTIL = int(CUT.timestamp())


@pytest.fixture(scope="module")
def windows() -> list[Window]:
    data = journey()
    events = data["clean_events"].lazy()
    vocabulary = Vocabulary.fit([events], data["items"], before=CUT, min_users=3)
    tokens = vocabulary.encode(build_sequences(events, as_of=CUT, max_events=256, shards=1))
    bounds = zip(range(20), tokens.offset[:20], tokens.offset[1:21], strict=True)
    return [
        Window(tokens, row, max(int(start), int(stop) - 40), int(stop))
        for row, start, stop in bounds
    ]


@given(st.lists(st.integers(1, 900), min_size=1, max_size=6), st.integers(0, 6), st.integers(1, 9))
def test_ticks_are_weeks_before_the_anchor_and_thin_out_in_silence(days, phase, most):
    time = np.sort(np.array(days)) * DAY
    until = np.array([1000 * DAY])
    anchor = until - phase * DAY
    ticks = make_ticks(np.zeros(len(time), int), time, anchor, until, most=200)
    assert ((anchor - ticks.instant) % WEEK == 0).all()
    assert (time[0] < ticks.instant).all()
    assert (ticks.instant <= until).all()
    expected = [
        instant
        for instant in range(int(anchor[0]) % WEEK, 1000 * DAY + 1, WEEK)
        if instant > time[0]
        and (
            (silent := (instant - time[time < instant].max()) // WEEK) <= WEEKLY
            or silent % SPARSE == 0
            or instant == until[0]
        )
    ]
    assert ticks.instant.tolist() == expected
    few = make_ticks(np.zeros(len(time), int), time, anchor, until, most=most)
    assert few.instant.tolist() == expected[len(expected) - len(few.row) :]
    assert len(few.row) <= most


def test_a_tick_does_not_know_what_comes_after_it(windows):
    instants = np.full(len(windows), UNTIL)
    ticks, _ = moments_at(windows, instants, most=64)
    events = collate(windows, ticks)
    for row, window in enumerate(windows):
        mine = ticks.row == row
        times = window.tokens.time[window.start : window.stop]
        before = np.searchsorted(times, ticks.instant[mine])
        assert ticks.event[mine].tolist() == before.tolist()
        place = ticks.position[mine]
        assert (events.item[row, place] == TICK).all()
        read = events.item[row, events.item[row] != TICK][: len(times)]
        assert read.tolist() == window.tokens.item[window.start : window.stop].tolist()
        steps = events.step[row, : len(times) + mine.sum()].numpy()
        assert (np.diff(steps) >= 0).all()
        assert (np.diff(events.day[row, : len(steps)].numpy()) >= 0).all()


def test_in_use_each_window_is_asked_once_and_as_in_training(windows):
    instants = np.full(len(windows), UNTIL)
    ticks, asked = moments_at(windows, instants, most=64)
    assert asked.row.tolist() == list(range(len(windows)))
    assert asked.instant.tolist() == instants.tolist()
    events = collate(windows, ticks)
    lengths = (events.item > 0).sum(1)
    assert (asked.position == lengths.numpy() - 1).all()  # nothing stands behind the question
    # a training whose anchor is that instant reads the same
    for seed in range(40):
        learnt, _ = training_moments(
            windows[:1], UNTIL, context=64, items=3, causal=True,
            random=np.random.default_rng(seed),
        )  # fmt: skip
        if learnt.instant[-1] == UNTIL:
            mine = ticks.row == 0
            assert learnt.instant.tolist() == ticks.instant[mine].tolist()
            return
    pytest.fail("no seed of 40 drew the anchor")


def test_what_is_drawn_of_a_window_does_not_depend_on_the_others(windows):
    def drawn(some):
        _, moments = training_moments(some, UNTIL, context=64, items=4, causal=True, random=random)
        return list(zip(moments.instant.tolist(), moments.tick.tolist(), strict=True))

    random = np.random.default_rng(5)
    whole = drawn(windows)
    random = np.random.default_rng(5)
    assert drawn(windows[:7]) + drawn(windows[7:]) == whole
    assert {tick for _, tick in whole} == {True, False}


def test_outcomes_are_those_told_one_by_one():
    random = np.random.default_rng(0)
    row = np.sort(random.integers(4, size=60))
    time = np.concatenate(
        [np.sort(random.integers(0, 300 * DAY, (row == r).sum())) for r in range(4)]
    )
    time[1] = time[0] + VISIT // 2  # the same visit
    amount = random.random(60).astype(np.float32)
    amount[::7] = np.nan
    asked, instant = np.repeat(np.arange(4), 5), random.integers(0, 300 * DAY, 20)
    until = 300 * DAY
    found = Conversions(row, time, amount).outcomes(asked, instant, until)
    for place, (user, moment) in enumerate(zip(asked, instant, strict=True)):
        mine = row == user
        later = time[mine & (time >= moment)]
        wait = (later.min() - moment) / DAY if len(later) else np.inf
        assert found.wait[place] == sum(wait >= edge for edge in WAITS)
        assert found.seen[place] == sum(until - moment >= edge * DAY for edge in WAITS)
        for span, days in enumerate(SPANS):
            within = mine & (time >= moment) & (time < moment + days * DAY)
            times = time[mine]
            new = np.append(True, np.diff(times) > VISIT)
            visits = (new & (times >= moment) & (times < moment + days * DAY)).sum()
            assert found.counts[place, :, span].tolist() == [visits, within.sum()]
            assert found.spend[place, span] == pytest.approx(np.nansum(amount[within]), rel=1e-5)
            assert found.closed[place, span] == (moment + days * DAY <= until)


def test_a_shop_gives_the_same_tokens_in_every_time_zone():
    def tokens(zone: str, hours: int):
        midnight = datetime(2024, 3, 4, tzinfo=UTC) - timedelta(hours=hours)
        times = [midnight + timedelta(hours=hour) for hour in (0, 9, 9, 40, 167)]
        events = pl.DataFrame(
            {"event_id": [*"abcde"], "item_id": [*"xyxyx"], "event_time": times}
        ).with_columns(
            user_id=pl.lit("0" * 32), event_type=pl.lit("purchase"), quantity=2.0, unit_price=1.5
        )
        items = pl.DataFrame(
            schema={
                "item_id": pl.String,
                "category": pl.String,
                "valid_from": pl.Datetime("us", "UTC"),
            }
        )
        cut = midnight + timedelta(days=7)
        words = Vocabulary.fit([events.lazy()], items, before=cut, min_users=1, timezone=zone)
        return words.encode(build_sequences(events.lazy(), as_of=cut, max_events=9, shards=1))

    here, there = tokens("UTC", 0), tokens("Asia/Kolkata", 0)
    assert here.hour.tolist() == [0, 9, 9, 40, 167]
    assert here.amount.tolist() == [3.0] * 5
    assert there.hour.tolist() != here.hour.tolist()
    moved = tokens("Etc/GMT-9", 9)
    for name in ("item", "behaviour", "gap", "price", "quantity", "hour"):
        assert getattr(moved, name).tolist() == getattr(here, name).tolist()


def test_whether_a_tick_asks_does_not_depend_on_what_comes_after_it():
    """Every tick asks in exactly one window, and so it does in any longer history."""
    random = np.random.default_rng(3)
    days = np.sort(random.choice(np.arange(40 * DAY, 400 * DAY), 90, replace=False))

    def asked(events: int, until: int) -> set[int]:
        time = days[:events]
        byte, item = np.ones(events, np.uint8), np.full(events, 9, np.int32)
        tokens = Tokens(
            user=np.zeros((1, 16), np.uint8), offset=np.array([0, events]), item=item,
            behaviour=byte, gap=byte, price=byte, quantity=byte, hour=byte,
            amount=byte.astype(np.float32), time=time,
        )  # fmt: skip
        table = window_table([tokens], [np.arange(1)], 16, from_start=True)
        found: list[int] = []
        for number in range(len(table)):
            _, moments = training_moments(
                [table.window(number)], until, context=16, items=2, causal=True, random=SameDay()
            )
            found += moments.instant[moments.tick].tolist()
        assert len(found) == len(set(found))
        return set(found)

    until = 450 * DAY
    whole = asked(90, until)
    assert len(whole) > 40
    for events in (20, 41, 70):
        shared = {instant for instant in whole if instant <= days[events]}
        assert shared == {instant for instant in asked(events, until) if instant <= days[events]}


class SameDay:
    """Draws the anchor itself."""

    def integers(self, _high: int, *, size: int) -> np.ndarray:
        return np.zeros(size, dtype=np.int64)
