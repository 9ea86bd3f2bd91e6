"""Windows: runs of one user's events in the memory maps of their shards, and what they hold."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from seq_ml.tokens.vocabulary import Tokens


@dataclass(frozen=True)
class Window:
    """Events [start, stop) of the user in row `row`, as positions in the values of `tokens`."""

    tokens: Tokens
    row: int
    start: int
    stop: int

    @property
    def whole(self) -> Window:
        """The window of all events of the user."""
        begin, end = self.tokens.offset[self.row : self.row + 2].tolist()
        return replace(self, start=begin, stop=end)


@dataclass(frozen=True)
class WindowTable:
    """Windows of the users of many shards, as numbers: the events stay in their memory maps.

    part: i64 [windows], which of `parts`.  row, start, stop: i64 [windows], as in `Window`.
    """

    parts: Sequence[Tokens]
    part: NDArray[np.int64]
    row: NDArray[np.int64]
    start: NDArray[np.int64]
    stop: NDArray[np.int64]

    def __len__(self) -> int:
        """Return the number of windows."""
        return len(self.row)

    def window(self, number: int) -> Window:
        """Return one window."""
        tokens = self.parts[self.part[number]]
        return Window(
            tokens, int(self.row[number]), int(self.start[number]), int(self.stop[number])
        )


def window_table(
    parts: Sequence[Tokens],
    rows: Sequence[NDArray[np.int64]],
    context: int,
    *,
    from_start: bool = False,
) -> WindowTable:
    """All windows of some users: `context` events long, each beginning half a context later.

    rows: i64, the users of each part.  Windows come in the order of part and row.  They are counted
    from the newest event back, newest first, so that it has a whole context before it; from_start:
    from the first event on, oldest first, so that how much an event has before it says nothing of
    what comes after it.
    """
    step = max(1, context // 2)
    cut = []
    for number, (tokens, chosen) in enumerate(zip(parts, rows, strict=True)):
        begin, end = tokens.offset[chosen], tokens.offset[chosen + 1]
        length = end - begin
        count = (length > 0) + -(-np.maximum(length - context, 0) // step)
        which = np.repeat(np.arange(len(chosen)), count)
        place = np.arange(len(which)) - np.repeat(np.cumsum(count) - count, count)
        if from_start:
            start = begin[which] + place * step
            stop = np.minimum(start + context, end[which])
        else:
            stop = end[which] - place * step
            start = np.maximum(begin[which], stop - context)
        cut.append((np.full(len(which), number), chosen[which], start, stop))
    empty = np.empty(0, np.int64)
    columns = (np.concatenate([empty, *arrays]) for arrays in zip(*cut, strict=True))
    return WindowTable(parts, *columns)


def rows_of(windows: Sequence[Window]) -> NDArray[np.int64]:
    """Which window each of the events belongs to."""
    return np.repeat(np.arange(len(windows)), [window.stop - window.start for window in windows])


def values_of(
    windows: Sequence[Window], name: str, dtype: type[np.generic] = np.int64
) -> NDArray[Any]:
    """Values of one field of `Tokens` at all events of the windows, one after another."""
    parts = [  # slices of a plain array are made in a tenth of the time of a memory map's
        np.asarray(getattr(window.tokens, name))[window.start : window.stop] for window in windows
    ]
    return np.concatenate(parts, dtype=dtype)
