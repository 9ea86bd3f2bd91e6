"""Vocabulary and token shards: nothing after the cut-off, ids never move, same bytes again."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import polars as pl
import pytest

from seq_ml.sequences.build import build_sequences
from seq_ml.tokens.shards import BrokenShardError, length_buckets, read_shards, write_shards
from seq_ml.tokens.vocabulary import NO_ITEM, SPECIAL, UNKNOWN, Vocabulary
from tests.data import AS_OF, journey

CUT = AS_OF - timedelta(days=91)


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    data = journey()
    return Vocabulary.fit(data["clean_events"].lazy(), data["items"], before=CUT, min_users=3)


@pytest.fixture(scope="module")
def sequences() -> pl.DataFrame:
    events = journey()["clean_events"].lazy()
    return build_sequences(events, as_of=CUT, max_events=500, shards=3)


def test_vocabulary_sees_nothing_from_the_cut_off_on(vocabulary):
    data = journey()
    past = data["clean_events"].filter(pl.col("event_time") < CUT)
    assert Vocabulary.fit(past.lazy(), data["items"], before=CUT, min_users=3) == vocabulary
    users = past.group_by("item_id").agg(pl.col("user_id").n_unique()).drop_nulls()
    common = set(users.filter(pl.col("user_id") >= 3)["item_id"])
    assert set(vocabulary.item_tokens) == common


def test_vocabulary_survives_json(vocabulary):
    again = Vocabulary.from_bytes(vocabulary.to_bytes())
    assert again == vocabulary
    assert again.version == vocabulary.version


def test_extend_never_moves_an_id(vocabulary):
    data = journey()
    later = vocabulary.extend(data["clean_events"].lazy(), data["items"], before=AS_OF)
    assert later.tokens[: len(vocabulary.tokens)] == vocabulary.tokens
    assert later.categories[: len(vocabulary.categories)] == vocabulary.categories
    assert len(later) > len(vocabulary)
    assert later.price_edges == vocabulary.price_edges
    assert later.version != vocabulary.version
    assert later.extend(data["clean_events"].lazy(), data["items"], before=AS_OF) == later


def test_encoding_falls_back_to_category_then_unknown(vocabulary):
    items = journey()["items"].filter(pl.col("category").is_not_null())
    rare = items.filter(~pl.col("item_id").is_in(list(vocabulary.item_tokens))).row(0, named=True)
    common = next(iter(vocabulary.item_tokens))
    times = [CUT - timedelta(days=days) for days in (9, 3, 3, 1)]
    row = pl.DataFrame(
        {
            "user_id": ["0" * 31 + "1"],
            "item_ids": [[common, rare["item_id"], "never seen", None]],
            "event_types": [["purchase", "purchase", "view", "ad_impression"]],
            "event_times": [times],
            "quantities": [[1.0, 2.0, None, None]],
            "unit_prices": [[0.1, 1e6, None, 0.0]],
            "length": [4],
        }
    )
    tokens = vocabulary.encode(row)
    assert tokens.item[0] == vocabulary.item_tokens[common]
    assert vocabulary.tokens[tokens.item[1] - SPECIAL] == ("category", rare["category"])
    assert tokens.item[2:].tolist() == [UNKNOWN, NO_ITEM]
    assert tokens.gap[0] == 0  # nothing came before
    assert tokens.gap[1] == tokens.gap[2]  # one basket, one gap
    assert tokens.gap[3] < tokens.gap[2]
    assert tokens.price.tolist() == [1, len(vocabulary.price_edges) + 1, 0, 1]
    assert tokens.quantity[2] == 0
    assert tokens.user_ids == row["user_id"].to_list()


def test_shards_hold_the_sequences_and_are_identical_again(vocabulary, sequences, tmp_path):
    manifest = write_shards(sequences, vocabulary, tmp_path / "a")
    again = write_shards(sequences.sort("length"), vocabulary, tmp_path / "b")
    assert again == manifest
    for file in (tmp_path / "a").iterdir():
        assert (tmp_path / "b" / file.name).read_bytes() == file.read_bytes()
    read, parts = read_shards(tmp_path / "a")
    assert read == manifest
    assert (read.users, read.events) == (sequences.height, sequences["length"].sum())
    for number, part in enumerate(parts):
        mine = sequences.filter(pl.col("shard") == number)
        expected = vocabulary.encode(mine)
        assert isinstance(part.item, np.memmap)
        assert part.user_ids == mine["user_id"].to_list()
        for name in ("offset", "item", "behaviour", "gap", "price", "quantity", "time"):
            np.testing.assert_array_equal(getattr(part, name), getattr(expected, name))


def test_a_broken_shard_is_named(vocabulary, sequences, tmp_path):
    manifest = write_shards(sequences, vocabulary, tmp_path)
    broken = tmp_path / manifest.shards[1].file
    broken.write_bytes(broken.read_bytes()[:-1] + b"!")
    with pytest.raises(BrokenShardError, match=broken.name):
        read_shards(tmp_path)


def test_buckets_take_every_row_once_and_stay_within_bounds():
    lengths = np.random.default_rng(0).integers(0, 300, size=500)
    batches = list(length_buckets(lengths, max_tokens=1000, max_rows=64))
    assert sorted(np.concatenate(batches).tolist()) == list(range(500))
    for rows in batches:
        assert len(rows) <= 64
        assert len(rows) == 1 or len(rows) * lengths[rows].max() <= 1000
