"""The next baskets of shards are those of all users at once."""

from __future__ import annotations

from dataclasses import replace

import polars as pl

from seq_ml.schema import RECOMMENDATIONS
from seq_ml.storage.portions import shard_of
from seq_ml.tables import baskets
from seq_ml.tables.baskets import predict_baskets
from seq_ml.tables.publish import checked, publish_snapshot, stamp
from seq_ml.tasks.recommendations.task import RecommendationTask
from tests.data import AS_OF


def test_baskets_of_shards_are_those_of_all_users_at_once(data, tables, tmp_path, monkeypatch):
    users = data.events.select(pl.col("user_id").unique().sort()).collect().to_series()
    names = [f"{(n * 2_654_435_761) % 2**32:08x}{'0' * 24}" for n in range(len(users))]
    data = replace(data, events=data.events.with_columns(pl.col("user_id").replace(users, names)))
    rows = RecommendationTask().rows_without_champion(data, AS_OF)
    rows = checked(stamp(rows, AS_OF, "v1", "x", "run"), RECOMMENDATIONS)
    publish_snapshot(tables, RECOMMENDATIONS, [rows.lazy()], AS_OF)
    monkeypatch.setattr(baskets, "SHARDS_AT_ONCE", 3)
    found = []
    for cut in (1, 8):
        parts = predict_baskets(tables, replace(data, cut=cut), AS_OF, "run", tmp_path / str(cut))
        assert len(parts) == cut
        found.append(pl.concat(parts).collect().drop("created_at").sort("user_id", "position"))
    assert found[0].equals(found[1])
    assert found[0]["user_id"].n_unique() == 40
    assert found[0]["model_version"].unique().to_list() == ["v1"]
    (number,) = parts[5].select(shard_of(8).unique()).collect().to_series()
    assert number == 5
