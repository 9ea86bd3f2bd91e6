"""Rows cut by user: all are there, each with its user."""

from __future__ import annotations

import polars as pl
import pytest

from seq_ml.storage.by_user import ByUser
from seq_ml.storage.portions import shard_of


@pytest.mark.parametrize("count", [0, 1, 500])
def test_rows_cut_by_user_are_those_that_there_were(count):
    users = [f"{(number * 2_654_435_761) % 2**32:08x}" for number in range(count)]
    types = {"user_id": pl.String, "n": pl.Int64, "vector": pl.List(pl.Float32)}
    rows = pl.DataFrame(
        {"user_id": users * 2, "n": range(2 * count), "vector": [[1.0, 2.0]] * 2 * count},
        schema=types,
    )
    cut = ByUser(rows.lazy(), 8)
    shards = [cut.shard(number).collect() for number in range(8)]
    assert pl.concat(shards).sort("n").equals(rows)
    for number, shard in enumerate(shards):
        assert (shard.select(shard_of(8)).to_series() == number).all()
    some = pl.Series("user_id", users[::50], dtype=pl.String)
    assert (
        cut.of(some).collect().sort("n").equals(rows.filter(pl.col("user_id").is_in(users[::50])))
    )
