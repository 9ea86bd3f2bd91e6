"""From token arrays to what the model reads: windows, queries, targets, repeat features.

A *window* is a run of one user's consecutive events. A *query* asks, at an instant inside or after
the window, which items come in the following days: in groceries the order inside a basket is
arbitrary, so a target always comes from a strictly later basket, never from the same one. A query
sees exactly what would be known at that instant, as it will in production.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch

from seq_ml.tokens.vocabulary import DAY, HOUR, PAD, SPECIAL, Tokens, Vocabulary

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

HALF_LIVES = (7.0, 28.0, 112.0)
"""Days after which a past event counts half, for the decayed counts of the repeat head."""
REPEAT_FEATURES = 9
SLOW_COUNT = 3
"""Which repeat feature is the logarithm of the slowest decayed count."""

Batch = TypeVar("Batch", "Events", "Queries")


@dataclass(frozen=True)
class Window:
    """Events [start, stop) of the user in row `row`, as positions in the values of `tokens`."""

    tokens: Tokens
    row: int
    start: int
    stop: int


@dataclass(frozen=True)
class Events:
    """Padded events of some windows, all i64 [windows, events]; padding has item PAD.

    step counts the window's baskets: events of one instant have the same step.
    """

    item: torch.Tensor
    behaviour: torch.Tensor
    gap: torch.Tensor
    price: torch.Tensor
    quantity: torch.Tensor
    hour: torch.Tensor
    weekday: torch.Tensor
    step: torch.Tensor


@dataclass(frozen=True)
class Queries:
    """Questions to some windows.

    row, position, gap: i64 [queries], the window, the last event before the instant, and the
    bucket of the time from that event to the instant.  repeat_query, repeat_item i64 [pairs] and
    repeat_features f32 [pairs, REPEAT_FEATURES]: the items of each query's past.  target_query,
    target_item i64 [targets]: the distinct items that came.
    """

    row: torch.Tensor
    position: torch.Tensor
    gap: torch.Tensor
    repeat_query: torch.Tensor
    repeat_item: torch.Tensor
    repeat_features: torch.Tensor
    target_query: torch.Tensor
    target_item: torch.Tensor


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
    parts: Sequence[Tokens], rows: Sequence[NDArray[np.int64]], context: int
) -> WindowTable:
    """All windows of some users: `context` events long, each beginning half a context later.

    rows: i64, the users of each part.  Windows come in the order of part and row, newest first.
    """
    step = max(1, context // 2)
    found = []
    for number, (tokens, chosen) in enumerate(zip(parts, rows, strict=True)):
        begin, end = tokens.offset[chosen], tokens.offset[chosen + 1]
        length = end - begin
        count = (length > 0) + -(-np.maximum(length - context, 0) // step)
        which = np.repeat(np.arange(len(chosen)), count)
        place = np.arange(len(which)) - np.repeat(np.cumsum(count) - count, count)
        stop = end[which] - place * step
        start = np.maximum(begin[which], stop - context)
        found.append((np.full(len(which), number), chosen[which], start, stop))
    empty = np.empty(0, np.int64)
    columns = (np.concatenate([empty, *arrays]) for arrays in zip(*found, strict=True))
    return WindowTable(parts, *columns)


def windows_of(tokens: Tokens, rows: Sequence[int], context: int) -> list[Window]:
    """All windows of some users of one shard, as `window_table` cuts them."""
    table = window_table([tokens], [np.array(rows, dtype=np.int64)], context)
    return [table.window(number) for number in range(len(table))]


def collate(windows: Sequence[Window]) -> Events:
    """Stack windows, padded on the right to the longest."""
    longest = max(window.stop - window.start for window in windows)
    columns = np.zeros((8, len(windows), longest), dtype=np.int64)
    for row, window in enumerate(windows):
        part, tokens = slice(window.start, window.stop), window.tokens
        time = tokens.time[part]
        columns[:, row, : len(time)] = (
            tokens.item[part],
            tokens.behaviour[part],
            tokens.gap[part],
            tokens.price[part],
            tokens.quantity[part],
            time // HOUR % 24,
            (time // DAY + 3) % 7,
            np.cumsum(np.diff(time, prepend=time[0]) != 0),
        )
    return Events(*torch.from_numpy(columns))


def interest_mask(vocabulary: Vocabulary, interest: Sequence[str]) -> NDArray[np.bool_]:
    """Which behaviour ids show interest in an item, bool [behaviours + 1]."""
    return np.array([False, *(name in interest for name in vocabulary.behaviours)])


def sample_instants(
    windows: Sequence[Window], per_window: int, random: np.random.Generator
) -> list[NDArray[np.int64]]:
    """Draw query instants (seconds), uniform in time over the later half of each window.

    A window ends where the user's next event begins; the later half leaves a past to read.
    """
    instants = []
    for window in windows:
        end = int(window.tokens.offset[window.row + 1])
        middle = (window.start + window.stop) // 2
        first = int(window.tokens.time[middle]) + 1
        last = int(window.tokens.time[min(window.stop, end - 1)])
        many = per_window if last >= first else 0
        instants.append(random.integers(first, last + 1, size=many))
    return instants


def make_queries(
    windows: Sequence[Window],
    instants: Sequence[NDArray[np.int64]],
    vocabulary: Vocabulary,
    interesting: NDArray[np.bool_],
    *,
    horizon_days: int | None = None,
) -> Queries:
    """Build the queries of each window at its instants, each after the window's first event.

    With `horizon_days` targets are looked up, and queries without any are left out.
    """
    places: list[tuple[int, int, int]] = []
    repeats: list[tuple[NDArray[np.int64], NDArray[np.float32]]] = []
    targets: list[NDArray[np.int64]] = []
    for row, (window, moments) in enumerate(zip(windows, instants, strict=True)):
        if not len(moments):
            continue
        tokens = window.tokens
        whole = slice(int(tokens.offset[window.row]), int(tokens.offset[window.row + 1]))
        in_window = tokens.time[window.start : window.stop]
        keep = interesting[tokens.behaviour[whole]] & (tokens.item[whole] >= SPECIAL)
        times = tokens.time[whole][keep]
        distinct, inverse = np.unique(tokens.item[whole][keep], return_inverse=True)
        for instant in moments:
            now = int(np.searchsorted(times, instant, side="left"))
            if horizon_days is not None:
                until = np.searchsorted(times, instant + horizon_days * DAY, side="left")
                coming = np.unique(inverse[now:until])
                if not len(coming):
                    continue
                targets.append(distinct[coming].astype(np.int64))
            position = int(np.searchsorted(in_window, instant, side="left")) - 1
            places.append((row, position, int(instant - in_window[position])))
            seen, features = _repeat_features(inverse[:now], times[:now], int(instant))
            repeats.append((distinct[seen].astype(np.int64), features))
    place = np.array(places, dtype=np.int64).reshape(-1, 3)
    repeat_items = [items for items, _ in repeats]
    return Queries(
        row=torch.from_numpy(place[:, 0].copy()),
        position=torch.from_numpy(place[:, 1].copy()),
        gap=torch.from_numpy(vocabulary.gap_bucket(place[:, 2]).astype(np.int64)),
        repeat_query=_numbers(repeat_items),
        repeat_item=_joined(repeat_items),
        repeat_features=torch.from_numpy(
            np.concatenate([np.empty((0, REPEAT_FEATURES), np.float32), *(f for _, f in repeats)])
        ),
        target_query=_numbers(targets),
        target_item=_joined(targets),
    )


def mask_items(
    events: Events, per_window: int, share: float, random: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Choose the positions to hide: i64 (rows, positions), sorted, at most `per_window` in each."""
    items = events.item.numpy()
    rows, positions = [], []
    for row in range(len(items)):
        able = np.flatnonzero(items[row] >= SPECIAL)
        many = min(per_window, int(np.ceil(share * len(able))))
        rows.append(np.full(many, row))
        positions.append(np.sort(random.choice(able, many, replace=False)))
    return torch.from_numpy(np.concatenate(rows)), torch.from_numpy(np.concatenate(positions))


def mask_span(
    events: Events, per_window: int, share: float, random: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Choose a run of neighbouring items to hide in each window; as `mask_items` else."""
    items = events.item.numpy()
    rows, positions = [], []
    for row in range(len(items)):
        able = np.flatnonzero(items[row] >= SPECIAL)
        many = min(per_window, int(np.ceil(share * len(able))))
        begin = int(random.integers(len(able) - many + 1))
        rows.append(np.full(many, row))
        positions.append(able[begin : begin + many])
    return torch.from_numpy(np.concatenate(rows)), torch.from_numpy(np.concatenate(positions))


def next_targets(
    events: Events, interesting: NDArray[np.bool_]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Positions whose very next event is an item of interest: i64 (rows, positions)."""
    wanted = (events.item >= SPECIAL) & torch.from_numpy(interesting)[events.behaviour]
    rows, following = wanted[:, 1:].nonzero(as_tuple=True)
    return rows, following


def valid(events: Events) -> torch.Tensor:
    """Which positions hold an event, bool [windows, events]."""
    return events.item != PAD


def to_device(batch: Batch, device: torch.device) -> Batch:
    """Move all tensors of a batch."""
    moved = {field.name: getattr(batch, field.name).to(device) for field in fields(batch)}
    return type(batch)(**moved)


def _repeat_features(
    inverse: NDArray[np.int64], times: NDArray[np.int64], instant: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Recency, frequency and rhythm of each item in a past; ages in days."""
    if not len(inverse):
        return np.empty(0, np.int64), np.empty((0, REPEAT_FEATURES), np.float32)
    size = int(inverse.max()) + 1
    count = np.bincount(inverse, minlength=size)
    age = (instant - times) / DAY
    newest, oldest = np.zeros(size), np.zeros(size)
    newest[inverse] = age  # ascending in time: the last assignment is the newest event
    oldest[inverse[::-1]] = age[::-1]
    decayed = [np.bincount(inverse, 0.5 ** (age / days), size) for days in HALF_LIVES]
    baskets = 1 + np.count_nonzero(np.diff(times))
    seen = np.flatnonzero(count)
    number, since = count[seen], newest[seen]
    interval = (oldest[seen] - since) / np.maximum(number - 1, 1)
    again = (number > 1) & (interval > 0)
    rhythm = np.minimum(since / np.where(again, interval, 1.0), 4.0)
    features = [
        np.log(number),
        *(np.log(value[seen] + 0.01) for value in decayed),
        np.log(since + 0.5),
        np.where(again, rhythm, 0.0),
        again,
        np.log(number / baskets),
        np.full(len(seen), np.log(baskets)),
    ]
    return seen, np.stack(features, axis=1).astype(np.float32)


def _numbers(parts: list[NDArray[np.int64]]) -> torch.Tensor:
    lengths = np.array([len(part) for part in parts], dtype=np.int64)
    return torch.from_numpy(np.repeat(np.arange(len(parts)), lengths))


def _joined(parts: list[NDArray[np.int64]]) -> torch.Tensor:
    return torch.from_numpy(np.concatenate([np.empty(0, np.int64), *parts]))
