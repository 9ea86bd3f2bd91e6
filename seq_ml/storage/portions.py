"""Portions of bounded size: how everything that may be large is worked through."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import polars as pl

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

Item = TypeVar("Item")


def portions(
    items: Iterable[Item], size: Callable[[Item], int], limit: int
) -> Iterator[list[Item]]:
    """Cut items, in their order, into runs of together at most `limit`; a larger one is alone."""
    run: list[Item] = []
    held = 0
    for item in items:
        more = size(item)
        if run and held + more > limit:
            yield run
            run, held = [], 0
        run.append(item)
        held += more
    if run:
        yield run


def shard_of(shards: int) -> pl.Expr:
    """Shard of `user_id`, i32 in [0, shards).

    A pseudonym is a keyed hash, 32 uniform hex digits: its first 32 bits modulo the shard count are
    balanced, and the same in every version of every library.

    >>> users = pl.DataFrame({"user_id": [f"{number:032x}" for number in (7 << 96, 10 << 96)]})
    >>> users.select(shard_of(4)).to_series().to_list()
    [3, 2]
    """
    bits = pl.col("user_id").str.slice(0, 8).str.to_integer(base=16, dtype=pl.Int64)
    return (bits % shards).cast(pl.Int32)


def shards_of(many: float, at_most: int) -> int:
    """Return into how many shards so many are cut: a power of two, so that it seldom changes.

    >>> shards_of(50_000_000, 1_000_000), shards_of(3, 10)
    (64, 1)
    """
    count = 1
    while count * at_most < many:
        count *= 2
    return count
