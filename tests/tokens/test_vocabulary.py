"""Vocabulary and token shards: nothing after the cut-off, ids never move, same bytes again."""

from __future__ import annotations

from datetime import datetime, timedelta

import numpy as np
import polars as pl
import pytest

from seq_ml.encoder.config import PRESETS
from seq_ml.encoder.data import order
from seq_ml.encoder.data.windows import window_table
from seq_ml.roles import STANDARD
from seq_ml.sequences.build import build_sequences
from seq_ml.storage.portions import shard_of
from seq_ml.tokens.shards import (
    BrokenShardError,
    NoSequencesError,
    length_buckets,
    read_shards,
    write_shards,
)
from seq_ml.tokens.store import load_vocabulary, newest_vocabulary, update_vocabulary
from seq_ml.tokens.vocabulary import NO_ITEM, SPECIAL, UNKNOWN, Vocabulary
from tests.data import AS_OF, journey

CUT = AS_OF - timedelta(days=91)


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    data = journey()
    return Vocabulary.fit([data["clean_events"].lazy()], data["items"], before=CUT, min_users=3)


@pytest.fixture(scope="module")
def sequences() -> pl.DataFrame:
    events = journey()["clean_events"].lazy()
    return build_sequences(events, as_of=CUT, max_events=500, shards=3)


def by_shard(sequences: pl.DataFrame) -> list[pl.DataFrame]:
    return sequences.sort("shard", maintain_order=True).partition_by("shard")


def test_vocabulary_sees_nothing_from_the_cut_off_on(vocabulary):
    data = journey()
    past = data["clean_events"].filter(pl.col("event_time") < CUT)
    assert Vocabulary.fit([past.lazy()], data["items"], before=CUT, min_users=3) == vocabulary
    users = past.group_by("item_id").agg(pl.col("user_id").n_unique()).drop_nulls()
    common = set(users.filter(pl.col("user_id") >= 3)["item_id"])
    assert set(vocabulary.item_tokens) == common


def test_vocabulary_survives_json(vocabulary):
    again = Vocabulary.from_bytes(vocabulary.to_bytes())
    assert again == vocabulary
    assert again.version == vocabulary.version


def test_extend_never_moves_an_id(vocabulary):
    data = journey()
    later = vocabulary.extend([data["clean_events"].lazy()], data["items"], before=AS_OF)
    assert later.tokens[: len(vocabulary.tokens)] == vocabulary.tokens
    assert later.categories[: len(vocabulary.categories)] == vocabulary.categories
    assert len(later) > len(vocabulary)
    assert later.price_edges == vocabulary.price_edges
    assert later.version != vocabulary.version
    assert later.extend([data["clean_events"].lazy()], data["items"], before=AS_OF) == later


def with_own_behaviours(names: list[str], since: datetime) -> pl.LazyFrame:
    """The journey, whose mailings have names of their own from an instant on."""
    own = pl.lit(pl.Series(names)).get(pl.col("event_id").hash() % len(names))
    renamed = (pl.col("event_type") == "ad_impression") & (pl.col("event_time") >= since)
    kind = pl.when(renamed).then(own).otherwise("event_type")
    return journey()["clean_events"].with_columns(event_type=kind).lazy()


def test_a_behaviour_that_appears_in_mid_history_gets_the_next_id(vocabulary):
    items = journey()["items"]
    assert vocabulary.behaviours == tuple(STANDARD)
    letters = with_own_behaviours(["letter", "box"], CUT - timedelta(days=90))
    own = Vocabulary.fit([letters], items, before=CUT, min_users=3)
    assert own.behaviours == (*STANDARD, "box", "letter")
    assert own.item_tokens == vocabulary.item_tokens
    later = own.extend([letters, with_own_behaviours(["app"], CUT)], items, before=AS_OF)
    assert later.behaviours == (*own.behaviours, "app")
    assert Vocabulary.from_bytes(later.to_bytes()) == later

    row = build_sequences(letters, as_of=CUT, max_events=500, shards=1)
    told = own.encode(row).behaviour
    assert set(told.tolist()) >= {15, 16}
    assert (later.encode(row).behaviour == told).all()
    before = vocabulary.encode(row).behaviour  # it was fitted before: unknown, and nothing else
    assert ((before == told) | ((before == 0) & (told > len(STANDARD)))).all()


def test_more_behaviours_than_a_byte_holds_are_one_sentence():
    number = pl.int_range(pl.len()) % 240
    events = journey()["clean_events"].lazy().with_columns(event_type=pl.format("page_{}", number))
    with pytest.raises(ValueError, match="names of behaviours, and the encoder reads at most 250"):
        Vocabulary.fit([events], journey()["items"], before=CUT, min_users=3)


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
    manifest = write_shards(by_shard(sequences), vocabulary, tmp_path / "a")
    again = write_shards(by_shard(sequences.sort("length")), vocabulary, tmp_path / "b")
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


def test_a_shard_in_pieces_gives_the_same_bytes(vocabulary, sequences, tmp_path):
    whole = write_shards(by_shard(sequences), vocabulary, tmp_path / "a")
    pieces = [
        piece
        for shard in by_shard(sequences.sort("user_id"))
        for piece in (shard.head(2), shard.slice(2))
        if piece.height
    ]
    assert len(pieces) > len(by_shard(sequences))
    assert write_shards(pieces, vocabulary, tmp_path / "b") == whole


def test_a_broken_shard_is_named(vocabulary, sequences, tmp_path):
    manifest = write_shards(by_shard(sequences), vocabulary, tmp_path)
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


def test_parts_of_the_users_agree_with_the_whole(vocabulary):
    data = journey()
    events = data["clean_events"].lazy()
    parts = [events.filter(shard_of(3) == shard) for shard in range(3)]
    assert Vocabulary.fit(parts, data["items"], before=CUT, min_users=3) == vocabulary


def test_bands_are_quantiles_and_hardly_move_when_values_are_merged(vocabulary, monkeypatch):
    data = journey()
    past = data["clean_events"].filter(pl.col("event_time") < CUT)
    prices = past.filter(pl.col("unit_price") > 0)["unit_price"].to_numpy()
    shares = np.linspace(0, 1, 17)[1:-1]
    exact = np.unique(np.quantile(prices, shares, method="inverted_cdf"))
    assert vocabulary.price_edges == tuple(exact)
    monkeypatch.setattr("seq_ml.tokens.vocabulary.DISTINCT_VALUES", 200)
    parts = [past.lazy().filter(shard_of(3) == shard) for shard in range(3)]
    merged = Vocabulary.fit(parts, data["items"], before=CUT, min_users=3).price_edges
    ranks = [(prices <= edge).mean() for edge in merged]
    np.testing.assert_allclose(ranks, [(prices <= edge).mean() for edge in exact], atol=0.02)


def test_extending_counts_users_anew(vocabulary):
    data = journey()
    later = vocabulary.extend([data["clean_events"].lazy()], data["items"], before=AS_OF)
    fresh = Vocabulary.fit([data["clean_events"].lazy()], data["items"], before=AS_OF, min_users=3)
    assert dict(zip(later.tokens, later.users, strict=True)) == dict(
        zip(fresh.tokens, fresh.users, strict=True)
    )


def test_the_vocabulary_in_the_bucket_is_extended_until_its_settings_change(objects):
    data = journey()

    def update(before, min_users=3, timezone="UTC"):
        return update_vocabulary(
            objects,
            [data["clean_events"].lazy()],
            data["items"],
            before=before,
            min_users=min_users,
            timezone=timezone,
        )

    assert newest_vocabulary(objects) is None
    first, extends = update(CUT)
    assert not extends
    second, extends = update(AS_OF)
    assert extends
    assert second.tokens[: len(first.tokens)] == first.tokens
    assert update(AS_OF) == (second, True)
    assert newest_vocabulary(objects) == second
    assert load_vocabulary(objects, first.version) == first
    back, extends = update(CUT)  # it must not know what came after
    assert (back, extends) == (first, False)
    other, extends = update(AS_OF, min_users=5)
    assert not extends
    assert other.min_users == 5


def test_shards_of_nobody_or_out_of_order_are_refused(vocabulary, sequences, tmp_path):
    with pytest.raises(NoSequencesError):
        write_shards([], vocabulary, tmp_path)
    assert not (tmp_path / "manifest.json").exists()
    with pytest.raises(ValueError, match="in the order of their shards"):
        write_shards(by_shard(sequences)[::-1], vocabulary, tmp_path)
    later = by_shard(sequences.with_columns(as_of=pl.lit(AS_OF)))
    with pytest.raises(ValueError, match="one as_of"):
        write_shards([by_shard(sequences)[0], later[1]], vocabulary, tmp_path)


def test_windows_cover_each_user_newest_first(vocabulary, sequences, tmp_path):
    write_shards(by_shard(sequences), vocabulary, tmp_path)
    _, parts = read_shards(tmp_path)
    table = window_table(parts, [np.arange(len(part.user)) for part in parts], 64)
    expected = []
    for number, part in enumerate(parts):
        for row in range(len(part.user)):
            begin, end = int(part.offset[row]), int(part.offset[row + 1])
            for stop in range(end, begin, -32):
                expected.append((number, row, max(begin, stop - 64), stop))
                if stop - 64 <= begin:
                    break
    found = np.stack([table.part, table.row, table.start, table.stop], axis=1)
    assert [tuple(row) for row in found.tolist()] == expected
    assert isinstance(table.window(5).tokens.item, np.memmap)


@pytest.mark.parametrize("pool", [1, 1_000_000])
def test_every_window_comes_once_an_epoch_and_shards_stay_together(
    vocabulary, sequences, tmp_path, monkeypatch, pool
):
    monkeypatch.setattr(order, "POOL", pool)
    write_shards(by_shard(sequences), vocabulary, tmp_path)
    _, parts = read_shards(tmp_path)
    table = window_table(parts, [np.arange(len(part.user)) for part in parts], 64)
    batches_of = order.Order(table, PRESETS["tiny"])
    epochs = []
    for epoch in range(2):
        steps = range(epoch * batches_of.per_epoch, (epoch + 1) * batches_of.per_epoch)
        batches_of.batch(steps[0])
        batches = batches_of.batches.copy()
        assert len(np.unique(batches)) == batches.size
        assert batches.size > len(table) - len(parts) * batches_of.size
        assert order.Order(table, PRESETS["tiny"]).batch(steps[-1]) == [
            table.window(number) for number in batches[-1]
        ]
        epochs.append(batches)
        changes = np.count_nonzero(np.diff(table.part[batches[:, 0]]))
        assert changes == len(parts) - 1 if pool == 1 else changes > len(parts)
    assert not np.array_equal(*epochs)
