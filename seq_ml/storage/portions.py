"""Portions of bounded size: how everything that may be large is worked through."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

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
