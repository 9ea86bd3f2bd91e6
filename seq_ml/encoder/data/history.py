"""What users touched before an instant, and what they touch after it, for many instants at once.

The repeat head reads how recently, how often and in which rhythm a user came back to an item. All
questions of a batch are answered together: a loop over users in Python would cost more than the
model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from seq_ml.tokens.vocabulary import DAY

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Integers = NDArray[np.int64]

HALF_LIVES = (7.0, 28.0, 112.0)
"""Days after which a past event counts half, for the decayed counts of the repeat head."""
REPEAT_FEATURES = 9
SLOW_COUNT = 3
"""Which repeat feature is the logarithm of the slowest decayed count."""


class History:
    """Events of some users (rows), all i64 [events], sorted by row, then time (seconds).

    A question is a row and an instant; questions are i64 [questions] in any order.
    """

    def __init__(self, row: Integers, time: Integers, item: Integers) -> None:
        self.row, self.time = row, time
        order = _order(row * (1 + item.max(initial=0)) + item)  # within an item by time
        self.item_row, self.item_time, self.item = row[order], time[order], item[order]
        new = np.ones(len(row), dtype=bool)
        new[1:] = (np.diff(self.item) != 0) | (np.diff(self.item_row) != 0)
        self.first = np.flatnonzero(new)
        """Of each pair (row, item) the place of its first event, when sorted by row and item."""
        self.pair = np.empty(len(row), dtype=np.int64)
        self.pair[order] = np.cumsum(new) - 1
        """Which pair (row, item) each event belongs to, events by row and time."""

    def coming(self, row: Integers, instant: Integers, seconds: int) -> tuple[Integers, Integers]:
        """(question, item) of all items touched in [instant, instant + seconds), sorted."""
        keys = _Keys(self.time, instant)
        own = keys(self.item_row, self.item_time)
        before = np.roll(own, 1)
        before[self.first] = keys.start(self.item_row[self.first]) - 1
        # the first event with the item at or after the instant, and soon enough
        question, event = _between(keys(row, instant), np.maximum(before, own - seconds), own)
        return question, self.item[event]

    def repeats(
        self, row: Integers, instant: Integers
    ) -> tuple[Integers, Integers, NDArray[np.float32]]:
        """(question, item) of all items touched before the instant, sorted, and their features.

        Features f32 [pairs, REPEAT_FEATURES]: logarithms of the count, of the decayed counts and of
        the age (days); age over mean interval, whether there is one; logarithms of the count per
        basket and of the baskets. A basket is an instant with events.
        """
        # every question sees the events of its row from the first one to the instant
        keys = _Keys(self.time, instant)
        own = keys(self.row, self.time)
        begin = np.searchsorted(self.row, row)
        seen = np.searchsorted(own, keys(row, instant)) - begin
        question = np.repeat(np.arange(len(row)), seen)
        event = _ranges(begin, seen)
        age = (instant[question] - self.time[event]) / DAY

        # a place for every question and pair of its row, so that one count sums events by item
        begin_pair = np.searchsorted(self.item_row[self.first], row)
        pairs = np.searchsorted(self.item_row[self.first], row, side="right") - begin_pair
        offset = np.cumsum(pairs) - pairs
        place = (offset - begin_pair)[question] + self.pair[event]
        count = np.bincount(place, minlength=pairs.sum())
        touched = np.flatnonzero(count)
        decayed = [
            np.bincount(place, np.exp2(-age / days), len(count))[touched] for days in HALF_LIVES
        ]
        # an item's events follow each other in `item_time`: its count leads from the first of them
        # to the newest before the instant
        number = count[touched]
        question = np.repeat(np.arange(len(row)), pairs)[touched]
        first = self.first[touched + (begin_pair - offset)[question]]
        since, longest = (
            (instant[question] - self.item_time[which]) / DAY
            for which in (first + number - 1, first)
        )
        interval = (longest - since) / np.maximum(number - 1, 1)
        again = interval > 0
        # an instant is a basket: count where the time changes
        different = np.append(0, np.cumsum(np.diff(own, prepend=-1) != 0))
        baskets = (different[begin + seen] - different[begin])[question]
        features = [
            np.log(number),
            *(np.log(value + 0.01) for value in decayed),
            np.log(since + 0.5),
            np.where(again, np.minimum(since / np.where(again, interval, 1.0), 4.0), 0.0),
            again,
            np.log(number / baskets),
            np.log(baskets),
        ]
        return question, self.item[first], np.stack(features, axis=1).astype(np.float32)


def last_before(
    event_row: Integers, time: Integers, row: Integers, instant: Integers
) -> tuple[Integers, Integers]:
    """Place among its row's events of the last one before each instant, and seconds since then.

    event_row, time: i64 [events], sorted; every instant has an event of its row before it.
    """
    keys = _Keys(time, instant)
    last = np.searchsorted(keys(event_row, time), keys(row, instant)) - 1
    return last - np.searchsorted(event_row, row), instant - time[last]


class _Keys:
    """Numbers that order pairs of row and time."""

    def __init__(self, *times: Integers) -> None:
        filled = [values for values in times if len(values)]
        self.low = min((int(values.min()) for values in filled), default=0)
        self.span = max((int(values.max()) for values in filled), default=0) - self.low + 2

    def __call__(self, row: Integers, time: Integers) -> Integers:
        return row * self.span + (time - self.low)

    def start(self, row: Integers) -> Integers:
        return row * self.span


def _between(asked: Integers, low: Integers, high: Integers) -> tuple[Integers, Integers]:
    """(question, event) with low[event] < asked[question] <= high[event], by question, event."""
    order = _order(asked)
    ranked = asked[order]
    first = np.searchsorted(ranked, low, side="right")
    count = np.searchsorted(ranked, high, side="right") - first
    event = np.repeat(np.arange(len(low)), count)
    question = order[_ranges(first, count)]
    by_question = _order(question)
    return question[by_question], event[by_question]


def _ranges(begin: Integers, count: Integers) -> Integers:
    """Count up from each `begin`, so many numbers as its `count`, one run after another."""
    return np.repeat(begin - (np.cumsum(count) - count), count) + np.arange(count.sum())


def _order(keys: Integers) -> Integers:
    """Order that sorts keys (0 <= key < 2**63 / len), equal ones by place.

    Key and place in one number sort twenty times as fast as a stable argsort.
    """
    bits = len(keys).bit_length()
    packed = np.sort((keys << bits) | np.arange(len(keys)))
    return packed & ((1 << bits) - 1)
