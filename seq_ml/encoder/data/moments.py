"""Where a window is asked: at its ticks, and after some of its baskets.

In use there is one moment a window, the tick at the instant that is asked about. In training every
tick asks what the user does next, in exactly one of the windows that hold it: whether it asks must
not depend on what came later, or silence would be asked too often. The items that come are asked at
some ticks and, where these are few, after some baskets.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from seq_ml.encoder.data.ticks import Ticks, make_ticks
from seq_ml.encoder.data.windows import rows_of, values_of
from seq_ml.tokens.vocabulary import DAY

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from seq_ml.encoder.data.windows import Window


MOST_TICKS = 4
"""Ticks of a window in training, in units of its context: so many that hardly any is left out, as
which ones are depends on what came later."""


@dataclass(frozen=True)
class Moments:
    """Moments of some windows, sorted by row, then instant.

    row, position: i64 [moments], the window, and the tick or event in it that asks.  instant: i64,
    seconds; what lies before is known.  tick: bool, whether it is a tick.  items: bool, whether
    items are asked for.
    """

    row: NDArray[np.int64]
    position: NDArray[np.int64]
    instant: NDArray[np.int64]
    tick: NDArray[np.bool_]
    items: NDArray[np.bool_]

    def of(self, chosen: NDArray[np.bool_]) -> Moments:
        """Return some of the moments."""
        return Moments(*(column[chosen] for column in vars(self).values()))


def moments_at(
    windows: Sequence[Window], instants: NDArray[np.int64], *, most: int
) -> tuple[Ticks, Moments]:
    """Return the ticks of windows asked at an instant each (seconds), and these moments.

    most: ticks of a window.  Every window has an event before its instant and none from it on.
    """
    ticks = make_ticks(rows_of(windows), values_of(windows, "time"), instants, instants, most=most)
    every = np.ones(len(ticks.row), bool)
    moments = Moments(ticks.row, ticks.position, ticks.instant, every, every)
    return ticks, moments.of(ticks.instant == instants[ticks.row])


def after_last(windows: Sequence[Window], instants: NDArray[np.int64]) -> Moments:
    """Return moments at the last events of windows, for a model that knows no ticks."""
    last = np.array([window.stop - window.start - 1 for window in windows])
    every = np.ones(len(windows), bool)
    return Moments(np.arange(len(windows)), last, instants, ~every, every)


def training_moments(
    windows: Sequence[Window],
    until: int,
    *,
    context: int,
    items: int,
    causal: bool,
    random: np.random.Generator,
) -> tuple[Ticks, Moments]:
    """Return the ticks of each window up to where it ends, and the moments at which they ask.

    A window ends where the user's next event begins, the last one at `until` (seconds).  context:
    of `window_table`, which made the windows.  items: most moments of a window that ask for items.
    causal: whether one pass answers all moments; then baskets ask for items, too, where ticks are
    fewer.  Else each moment is a pass of its own, and only those that ask for items do.  What is
    drawn for a window does not depend on the windows beside it.
    """
    row, time = rows_of(windows), values_of(windows, "time")
    first = np.searchsorted(row, np.arange(len(windows)))
    ends = np.array([_end(window, until) for window in windows], dtype=np.int64)
    seed = random.integers(2**62, size=len(windows))
    ticks = make_ticks(row, time, until - DAY * (seed % 7), ends, most=MOST_TICKS * context)

    # a window that begins within a history leaves the first half of its context to the one before
    begun = np.array([window.start > window.tokens.offset[window.row] for window in windows])
    least = np.where(begun, context // 2 + 1, 1)
    asks = ticks.event >= least[ticks.row]
    place = np.arange(len(row)) - first[row]
    basket = np.flatnonzero(_ends_basket(row, time, ends) & (place + 1 >= least[row]) & causal)
    moved = ticks.moved(row[basket], place[basket])
    row = np.concatenate([ticks.row[asks], row[basket]])
    position = np.concatenate([ticks.position[asks], moved])
    instant = np.concatenate([ticks.instant[asks], time[basket] + 1])
    tick = np.arange(len(row)) < asks.sum()

    # the first few of each window ask for items: ticks in a random order, then baskets
    order = np.lexsort((_shuffled(seed[row], position), ~tick, row))
    rank = np.empty(len(row), dtype=np.int64)
    rank[order] = np.arange(len(row)) - np.searchsorted(row[order], row[order])
    order = np.lexsort((position, row))
    moments = Moments(row[order], position[order], instant[order], tick[order], rank[order] < items)
    return ticks, moments.of(moments.items | (moments.tick & causal))


def _shuffled(seed: NDArray[np.int64], place: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Return a random number of each pair of seed and place (SplitMix64, Steele et al. 2014)."""
    mixed = seed.astype(np.uint64) + place.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def _end(window: Window, until: int) -> int:
    """Return when the user's next event after the window comes, `until` when there is none."""
    last = window.stop == window.tokens.offset[window.row + 1]
    return until if last else int(window.tokens.time[window.stop])


def _ends_basket(
    row: NDArray[np.int64], time: NDArray[np.int64], ends: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Which events are the last of their instant, with all of it in the window."""
    following = np.append(time[1:], 0)
    last = np.append(row[1:] != row[:-1], True)
    following[last] = ends[row[last]]
    return following > time
