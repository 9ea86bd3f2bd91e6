"""Rows of many shards added up by a key, one shard after the other."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

if TYPE_CHECKING:
    from collections.abc import Iterable

MOST_WAITING = 1_000_000
"""Rows that wait at least before they are added up: seldom enough to cost little."""


class Sums:
    """Rows added up by a key, part after part: memory stays within some times that of the sum."""

    def __init__(self, by: Iterable[str], **how: pl.Expr) -> None:
        """by: columns of the key. how: for each other column how its values are added up."""
        self.by, self.how = list(by), how
        self.parts: list[pl.DataFrame] = []
        self.waiting = 0

    def add(self, rows: pl.DataFrame) -> None:
        """Add rows of by and how, each key once."""
        self.parts.append(rows.select(*self.by, *self.how))
        self.waiting += rows.height
        if self.waiting > max(MOST_WAITING, self.parts[0].height):
            self.total()

    def total(self) -> pl.DataFrame:
        """Return the sum of what was added, at least one part, each key once, in no order."""
        if len(self.parts) > 1:
            self.parts = [pl.concat(self.parts).group_by(self.by).agg(**self.how)]
            self.waiting = 0
        return self.parts[0]
