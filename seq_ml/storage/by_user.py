"""Rows of a table too large to hold, cut by user into local files: some users are read alone."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import polars as pl

from seq_ml.storage.portions import shard_of

if TYPE_CHECKING:
    from collections.abc import Iterable


ROWS_HELD = 10_000
"""Rows of a shard that wait to be written; were it all, memory would grow with the table."""


class ByUser:
    """Rows with a `user_id` in local files, one a shard of `shard_of`."""

    def __init__(self, rows: pl.LazyFrame, shards: int, folder: Path | None = None) -> None:
        """Read all rows once, in bounded memory.

        folder: where the files lie and stay; without one they go with this object.
        """
        self.schema = rows.collect_schema()
        self._own = None if folder else TemporaryDirectory(prefix="seqline-")
        self._folder = folder or Path(self._own.name if self._own else "")
        self._shards = shards
        files = pl.PartitionBy(self._folder, key=shard_of(shards).alias("shard"))
        rows.sink_parquet(files, mkdir=True, row_group_size=ROWS_HELD)

    def shard(self, number: int) -> pl.LazyFrame:
        """Return the rows of one shard, in no order."""
        return self._scan([number])

    def of(self, users: pl.Series) -> pl.LazyFrame:
        """Return the rows of these users, in no order."""
        numbers = users.to_frame("user_id").select(shard_of(self._shards).unique()).to_series()
        return self._scan(numbers).join(users.to_frame("user_id").lazy(), on="user_id", how="semi")

    def _scan(self, numbers: Iterable[int]) -> pl.LazyFrame:
        folders = [self._folder / f"shard={number}" for number in numbers]
        files = sorted(file for folder in folders for file in folder.glob("*.parquet"))
        if not files:
            return pl.LazyFrame(schema=self.schema)
        return pl.scan_parquet(files, hive_partitioning=False).select(self.schema.names())
