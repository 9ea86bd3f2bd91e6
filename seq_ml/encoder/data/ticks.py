"""Ticks: a token every seven days, so that silence is read and asked like behaviour.

Ticks are counted back from an anchor: in use from the instant that is asked about, in training from
any of seven days, so that both look alike. Whether a week has one depends on the past alone: after
13 silent weeks every fourth stays. (Time as tokens: CEHR-BERT, Pang et al. 2021; weekly counts of
customers: Valendin et al. 2022.)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from seq_ml.encoder.data.history import last_before
from seq_ml.tokens.vocabulary import DAY

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Integers = NDArray[np.int64]

WEEK = 7 * DAY
WEEKLY, SPARSE = 13, 4
"""Silent weeks with a tick each, and every how many weeks there is one from then on."""


@dataclass(frozen=True)
class Ticks:
    """Ticks of some windows, all i64 [ticks], sorted by row, then instant (seconds).

    event: how many of the window's events lie before the tick, at least one.  silent: seconds since
    the last of them.
    """

    row: Integers
    instant: Integers
    event: Integers
    silent: Integers

    @property
    def position(self) -> Integers:
        """Place of each tick among the events and ticks of its window."""
        return self.event + np.arange(len(self.row)) - np.searchsorted(self.row, self.row)

    def moved(self, row: Integers, place: Integers) -> Integers:
        """Place of events among the events and ticks; row, place: i64, those among the events."""
        size = 1 + max(int(place.max(initial=0)), int(self.event.max(initial=0)))
        before = np.searchsorted(self.row * size + self.event, row * size + place, side="right")
        return place + before - np.searchsorted(self.row, row)


def make_ticks(
    event_row: Integers, time: Integers, anchor: Integers, until: Integers, *, most: int
) -> Ticks:
    """Ticks of windows after their first event and up to `until`, the newest `most` of each.

    event_row, time: i64 [events], sorted; every window has one.  anchor, until: i64 [windows],
    seconds; a tick at `until` itself is always there.
    """
    first = time[np.searchsorted(event_row, np.arange(len(anchor)))]
    newest = -((until - anchor) // WEEK)  # weeks before the anchor
    oldest = np.minimum((anchor - first - 1) // WEEK, newest + most - 1)
    count = np.maximum(oldest - newest + 1, 0)
    row = np.repeat(np.arange(len(anchor)), count)
    weeks = oldest[row] - (np.arange(len(row)) - np.repeat(np.cumsum(count) - count, count))
    instant = anchor[row] - weeks * WEEK
    position, silent = last_before(event_row, time, row, instant)
    quiet = silent // WEEK
    kept = (quiet <= WEEKLY) | (quiet % SPARSE == 0) | (instant == until[row])
    return Ticks(row[kept], instant[kept], position[kept] + 1, silent[kept])
