"""From token arrays to what the model reads: windows, queries, targets, repeat features.

A *window* is a run of one user's consecutive events. A *query* asks, at an instant inside or after
the window, which items come in the following days: in groceries the order inside a basket is
arbitrary, so a target always comes from a strictly later basket, never from the same one. A query
sees exactly what would be known at that instant, as it will in production.
"""

from __future__ import annotations

from dataclasses import dataclass, is_dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch

from seq_ml.encoder.data.history import History, last_before
from seq_ml.tokens.vocabulary import DAY, HOUR, PAD, SPECIAL, Tokens, Vocabulary

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from _typeshed import DataclassInstance
    from numpy.typing import NDArray

Batch = TypeVar("Batch", bound="DataclassInstance")


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
    cut = []
    for number, (tokens, chosen) in enumerate(zip(parts, rows, strict=True)):
        begin, end = tokens.offset[chosen], tokens.offset[chosen + 1]
        length = end - begin
        count = (length > 0) + -(-np.maximum(length - context, 0) // step)
        which = np.repeat(np.arange(len(chosen)), count)
        place = np.arange(len(which)) - np.repeat(np.cumsum(count) - count, count)
        stop = end[which] - place * step
        start = np.maximum(begin[which], stop - context)
        cut.append((np.full(len(which), number), chosen[which], start, stop))
    empty = np.empty(0, np.int64)
    columns = (np.concatenate([empty, *arrays]) for arrays in zip(*cut, strict=True))
    return WindowTable(parts, *columns)


def collate(windows: Sequence[Window]) -> Events:
    """Stack windows, padded on the right to the longest."""
    lengths = np.array([window.stop - window.start for window in windows])
    time = _values(windows, "time")
    first = np.cumsum(lengths) - lengths
    baskets = np.cumsum(np.diff(time, prepend=time[0]) != 0)
    columns = np.zeros((8, len(windows), lengths.max()), dtype=np.int64)
    columns[:, np.arange(lengths.max()) < lengths[:, None]] = (
        *(_values(windows, name) for name in ("item", "behaviour", "gap", "price", "quantity")),
        time // HOUR % 24,
        (time // DAY + 3) % 7,
        baskets - np.repeat(baskets[first], lengths),
    )
    return Events(*torch.from_numpy(columns))


def _rows(windows: Sequence[Window]) -> NDArray[np.int64]:
    """Which window each of the events belongs to."""
    return np.repeat(np.arange(len(windows)), [window.stop - window.start for window in windows])


def _values(windows: Sequence[Window], name: str) -> NDArray[np.int64]:
    """Values of one field of `Tokens` at all events of the windows, one after another."""
    parts = [  # slices of a plain array are made in a tenth of the time of a memory map's
        np.asarray(getattr(window.tokens, name))[window.start : window.stop] for window in windows
    ]
    return np.concatenate(parts, dtype=np.int64)


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
    asking = [row for row in range(len(windows)) if len(instants[row])]
    rows = np.array(asking, dtype=np.int64)
    row = np.repeat(rows, [len(instants[row]) for row in asking])
    instant = np.concatenate([np.empty(0, np.int64), *(instants[row] for row in asking)])
    past = _history([_whole(window) for window in windows], interesting)
    target_query, target_item = np.empty((2, 0), dtype=np.int64)
    if horizon_days is not None:
        target_query, target_item = past.coming(row, instant, horizon_days * DAY)
        answered, target_query = np.unique(target_query, return_inverse=True)
        row, instant = row[answered], instant[answered]
    position, gap = last_before(_rows(windows), _values(windows, "time"), row, instant)
    repeat_query, repeat_item, repeat_features = past.repeats(row, instant)
    return Queries(
        row=torch.from_numpy(row),
        position=torch.from_numpy(position),
        gap=torch.from_numpy(vocabulary.gap_bucket(gap).astype(np.int64)),
        repeat_query=torch.from_numpy(repeat_query),
        repeat_item=torch.from_numpy(repeat_item),
        repeat_features=torch.from_numpy(repeat_features),
        target_query=torch.from_numpy(target_query),
        target_item=torch.from_numpy(target_item),
    )


def _whole(window: Window) -> Window:
    """Return the window of all events of the user."""
    begin, end = window.tokens.offset[window.row : window.row + 2].tolist()
    return Window(window.tokens, window.row, begin, end)


def _history(windows: Sequence[Window], interesting: NDArray[np.bool_]) -> History:
    item = _values(windows, "item")
    kept = interesting[_values(windows, "behaviour")] & (item >= SPECIAL)
    return History(_rows(windows)[kept], _values(windows, "time")[kept], item[kept])


def mask_items(
    events: Events, per_window: int, share: float, random: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Choose the positions to hide: i64 (rows, positions), sorted, at most `per_window` in each."""
    return _hidden_places(
        events,
        per_window,
        share,
        lambda able, many: np.sort(random.choice(able, many, replace=False)),
    )


def mask_span(
    events: Events, per_window: int, share: float, random: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Choose a run of neighbouring items to hide in each window; as `mask_items` else."""

    def run(able: NDArray[np.int64], many: int) -> NDArray[np.int64]:
        begin = int(random.integers(len(able) - many + 1))
        return able[begin : begin + many]

    return _hidden_places(events, per_window, share, run)


def _hidden_places(
    events: Events,
    per_window: int,
    share: float,
    choose: Callable[[NDArray[np.int64], int], NDArray[np.int64]],
) -> tuple[torch.Tensor, torch.Tensor]:
    items = events.item.numpy()
    rows, positions = [], []
    for row in range(len(items)):
        able = np.flatnonzero(items[row] >= SPECIAL)
        many = min(per_window, int(np.ceil(share * len(able))))
        rows.append(np.full(many, row))
        positions.append(choose(able, many))
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
    """Move all tensors of a batch, also those of its parts."""
    moved: dict[str, Any] = {}
    for name, value in vars(batch).items():
        if isinstance(value, torch.Tensor):
            moved[name] = value.to(device)
        elif is_dataclass(value):
            moved[name] = to_device(value, device)  # type: ignore[type-var]
    return replace(batch, **moved)
