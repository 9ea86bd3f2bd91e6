"""Sequences: newest events before as_of, the same for any number of shards."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seq_ml.schema import EVENTS, SEQUENCE_SNAPSHOT
from seq_ml.sequences.build import build_sequences
from seq_ml.storage.contracts import check_key
from seq_ml.storage.portions import shard_of
from tests.data import journey

START = datetime(2024, 1, 1, tzinfo=UTC)


def make_events(rows: list[tuple[int, int]]) -> pl.DataFrame:
    """Events of (user number, minute)."""
    frame = pl.DataFrame(
        {
            "event_id": [f"e{i:04d}" for i in range(len(rows))],
            "user_id": [f"{user * 0x01234567 % 2**32:08x}{'0' * 24}" for user, _ in rows],
            "event_type": ["view"] * len(rows),
            "item_id": [None if i % 5 == 0 else f"item{i % 7}" for i in range(len(rows))],
            "event_time": [START + timedelta(minutes=minute) for _, minute in rows],
        },
        schema_overrides={"item_id": pl.String, "event_time": pl.Datetime("us", "UTC")},
    )
    missing = {n: t for n, t in EVENTS.polars_schema().items() if n not in frame.columns}
    return frame.with_columns(pl.lit(None, dtype=t).alias(n) for n, t in missing.items())


@settings(max_examples=25, deadline=None)
@given(
    rows=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 30)), min_size=1, max_size=60),
    as_of=st.integers(0, 31),
    max_events=st.integers(1, 8),
    shards=st.integers(1, 5),
)
def test_sequences_are_the_newest_events_before_as_of(rows, as_of, max_events, shards):
    events = make_events(rows)
    cut = START + timedelta(minutes=as_of)
    built = build_sequences(events.lazy(), as_of=cut, max_events=max_events, shards=shards)
    assert built.schema == SEQUENCE_SNAPSHOT.polars_schema()
    check_key(built, SEQUENCE_SNAPSHOT)
    expected: dict[str, list[tuple]] = {}
    columns = ("user_id", "event_time", "event_id", "item_id")
    for user, time, event, item in events.select(columns).sort(columns[:3]).rows():
        if time < cut:
            expected.setdefault(user, []).append((time, event, item))
    assert built["user_id"].to_list() == sorted(expected)
    for row in built.iter_rows(named=True):
        newest = expected[row["user_id"]][-max_events:]
        assert row["event_times"] == [time for time, _, _ in newest]
        assert row["item_ids"] == [item for _, _, item in newest]
        assert row["length"] == len(newest)
        assert row["total_events"] == len(expected[row["user_id"]])


@pytest.mark.parametrize("shards", [2, 16])
def test_shards_agree_with_the_whole(shards):
    events = journey()["clean_events"].sample(fraction=1.0, shuffle=True, seed=1).lazy()
    as_of = datetime(2017, 10, 2, 4, tzinfo=UTC)
    whole = build_sequences(events, as_of=as_of, max_events=300, shards=1)
    parts = build_sequences(events, as_of=as_of, max_events=300, shards=shards)
    assert parts.drop("shard").equals(whole.drop("shard"))
    assert parts["length"].max() == 300


def test_shard_is_the_first_32_bits_of_the_pseudonym():
    users = pl.DataFrame({"user_id": ["ffffffff" + "0" * 24, "0000000a" + "f" * 24]})
    assert users.select(shard_of(16))["user_id"].to_list() == [15, 10]
    assert users.select(shard_of(7))["user_id"].to_list() == [(2**32 - 1) % 7, 3]
