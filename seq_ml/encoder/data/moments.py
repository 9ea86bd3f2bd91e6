"""Where a window is asked: at its ticks, and after some of its baskets.

In use there is one moment a window, the tick at the instant that is asked about. In training the
ticks of the later half of a window ask, which leaves a past to read, and where they are few some of
its baskets do, too.
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


@dataclass(frozen=True)
class Moments:
    """Moments of some windows, sorted by row, then instant.

    row, position: i64 [moments], the window, and the tick or event in it that asks.  instant: i64,
    seconds; what lies before is known.  tick: bool, whether it is a tick.
    """

    row: NDArray[np.int64]
    position: NDArray[np.int64]
    instant: NDArray[np.int64]
    tick: NDArray[np.bool_]


def moments_at(
    windows: Sequence[Window], instants: NDArray[np.int64], *, most: int
) -> tuple[Ticks, Moments]:
    """Return the ticks of windows asked at an instant each (seconds), and these moments.

    most: ticks of a window.  Every window has an event before its instant and none from it on.
    """
    ticks = make_ticks(rows_of(windows), values_of(windows, "time"), instants, instants, most=most)
    asked = ticks.instant == instants[ticks.row]
    return ticks, Moments(
        ticks.row[asked], ticks.position[asked], ticks.instant[asked], np.ones(asked.sum(), bool)
    )


def after_last(windows: Sequence[Window], instants: NDArray[np.int64]) -> Moments:
    """Return moments at the last events of windows, for a model that knows no ticks."""
    last = np.array([window.stop - window.start - 1 for window in windows])
    return Moments(np.arange(len(windows)), last, instants, np.zeros(len(windows), bool))


def training_moments(
    windows: Sequence[Window],
    until: int,
    *,
    most_ticks: int,
    asked: int,
    baskets: bool,
    random: np.random.Generator,
) -> tuple[Ticks, Moments]:
    """Draw at most `asked` moments of each window, and return its ticks up to where it ends.

    A window ends where the user's next event begins, the last one at `until` (seconds).  baskets:
    whether baskets ask where ticks are fewer.  What is drawn for a window does not depend on the
    windows beside it.
    """
    row, time = rows_of(windows), values_of(windows, "time")
    first = np.searchsorted(row, np.arange(len(windows)))
    ends = np.array([_end(window, until) for window in windows], dtype=np.int64)
    seed = random.integers(2**62, size=len(windows))
    anchor = until - DAY * (seed % 7)
    ticks = make_ticks(row, time, anchor, ends, most=most_ticks)
    middle = time[(first + np.append(first[1:], len(row))) // 2]

    late = ticks.instant > middle[ticks.row]
    basket = np.flatnonzero(_ends_basket(row, time, ends) & (time >= middle[row]) & baskets)
    place = ticks.moved(row[basket], basket - first[row[basket]])
    row = np.concatenate([ticks.row[late], row[basket]])
    position = np.concatenate([ticks.position[late], place])
    instant = np.concatenate([ticks.instant[late], time[basket] + 1])
    tick = np.arange(len(row)) < late.sum()

    # the first `asked` of each window: ticks in a random order, then baskets
    order = np.lexsort((_shuffled(seed[row], position), ~tick, row))
    rank = np.arange(len(row)) - np.searchsorted(row[order], row[order])
    chosen = order[rank < asked]
    chosen = chosen[np.lexsort((position[chosen], row[chosen]))]
    return ticks, Moments(row[chosen], position[chosen], instant[chosen], tick[chosen])


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
