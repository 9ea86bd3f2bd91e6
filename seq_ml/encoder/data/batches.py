"""From token arrays to what the model reads: windows, queries, targets, repeat features.

A *window* is a run of one user's consecutive events, with ticks between and after them. A *query*
asks, at a tick or after a basket, what the following days bring: in groceries the order inside a
basket is arbitrary, so a target always comes from a strictly later basket, never from the same one.
A query sees exactly what would be known at that instant, as it will in production.
"""

from __future__ import annotations

from dataclasses import dataclass, is_dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch

from seq_ml.encoder.data.history import History
from seq_ml.encoder.data.outcomes import Conversions
from seq_ml.encoder.data.windows import rows_of, values_of
from seq_ml.tokens.vocabulary import DAY, GAP_EDGES, PAD, SPECIAL, TICK, Vocabulary

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from _typeshed import DataclassInstance
    from numpy.typing import NDArray

    from seq_ml.encoder.data.moments import Moments
    from seq_ml.encoder.data.ticks import Ticks
    from seq_ml.encoder.data.windows import Window

Batch = TypeVar("Batch", bound="DataclassInstance")
READ = ("item", "behaviour", "gap", "price", "quantity")
"""What is read of an event as its token has it."""


@dataclass(frozen=True)
class Events:
    """Padded events and ticks of some windows, i64 [windows, events]; padding has item PAD.

    step counts the window's baskets: events of one instant have the same step, a tick that of the
    event before it.  day: f32, days since the window's first event.
    """

    item: torch.Tensor
    behaviour: torch.Tensor
    gap: torch.Tensor
    price: torch.Tensor
    quantity: torch.Tensor
    hour: torch.Tensor
    weekday: torch.Tensor
    step: torch.Tensor
    day: torch.Tensor


@dataclass(frozen=True)
class Queries:
    """Questions to some windows.

    row, position: i64 [queries], the window, and the tick or event in it that asks.  Of the items:
    answered: i64 [answered], the queries that ask for them.  repeat_query, repeat_item i64 [pairs]
    and repeat_features f32 [pairs, REPEAT_FEATURES]: the items of the past, repeat_query a place in
    `answered`.  target_query, target_item i64 [targets]: the distinct items that came, likewise.
    """

    row: torch.Tensor
    position: torch.Tensor
    answered: torch.Tensor
    repeat_query: torch.Tensor
    repeat_item: torch.Tensor
    repeat_features: torch.Tensor
    target_query: torch.Tensor
    target_item: torch.Tensor


def collate(windows: Sequence[Window], ticks: Ticks | None = None) -> Events:
    """Stack windows, with their ticks, padded on the right to the longest."""
    row, time = rows_of(windows), values_of(windows, "time")
    hour = values_of(windows, "hour")
    first = np.searchsorted(row, np.arange(len(windows)))
    baskets = np.cumsum(np.diff(time, prepend=time[0]) != 0)
    columns = np.stack(
        [
            *(values_of(windows, name) for name in READ),
            hour % 24,
            hour // 24,
            baskets - baskets[first][row],
        ]
    )
    place = np.arange(len(row)) - first[row]
    lengths = np.bincount(row, minlength=len(windows))
    if ticks is not None:
        place = ticks.moved(row, place)
        lengths = lengths + np.bincount(ticks.row, minlength=len(windows))
    filled = np.zeros((len(columns), len(windows), lengths.max()), dtype=np.int64)
    filled[:, row, place] = columns
    day = np.zeros(filled.shape[1:], dtype=np.float32)
    day[row, place] = (time - time[first][row]) / DAY
    if ticks is not None:
        last = first[ticks.row] + ticks.event - 1
        there = (ticks.row, ticks.position)
        filled[0][there] = TICK
        filled[2][there] = 1 + np.searchsorted(GAP_EDGES, ticks.silent, side="right")
        filled[7][there] = columns[7][last]
        day[there] = (ticks.instant - time[first][ticks.row]) / DAY
    return Events(*(torch.from_numpy(values) for values in (*filled, day)))


def mask_of(vocabulary: Vocabulary, names: Sequence[str]) -> NDArray[np.bool_]:
    """Which behaviour ids are of these names, bool [behaviours + 1]."""
    return np.array([False, *(name in names for name in vocabulary.behaviours)])


def make_queries(
    windows: Sequence[Window],
    moments: Moments,
    interesting: NDArray[np.bool_],
    *,
    horizon_days: int | None = None,
) -> Queries:
    """Build the queries of each window at its moments.

    With `horizon_days` the items of the days from then on are looked up, and only queries with some
    ask for items.
    """
    past = _history([window.whole for window in windows], interesting)
    target_query, target_item = np.empty((2, 0), dtype=np.int64)
    answered = np.flatnonzero(moments.items)
    row, instant = moments.row[answered], moments.instant[answered]
    if horizon_days is not None:
        target_query, target_item = past.coming(row, instant, horizon_days * DAY)
        came, target_query = np.unique(target_query, return_inverse=True)
        answered, row, instant = answered[came], row[came], instant[came]
    repeats = past.repeats(row, instant)
    parts = (moments.row, moments.position, answered, *repeats, target_query, target_item)
    return Queries(*map(torch.from_numpy, parts))


def conversions_of(windows: Sequence[Window], converts: NDArray[np.bool_]) -> Conversions:
    """Conversions of the windows' users; converts: bool [behaviours + 1], as `mask_of` has it."""
    whole = [window.whole for window in windows]
    mine = converts[values_of(whole, "behaviour")]
    return Conversions(
        rows_of(whole)[mine],
        values_of(whole, "time")[mine],
        values_of(whole, "amount", np.float32)[mine],
    )


def _history(windows: Sequence[Window], interesting: NDArray[np.bool_]) -> History:
    item = values_of(windows, "item")
    kept = interesting[values_of(windows, "behaviour")] & (item >= SPECIAL)
    return History(rows_of(windows)[kept], values_of(windows, "time")[kept], item[kept])


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


def following_events(events: Events) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Last events of baskets that another one follows in the window, and that one.

    Returns i64 rows and positions [baskets], and behaviour and gap bucket [baskets, 2] of the first
    event of the next basket.
    """
    row, position = ((events.item != TICK) & (events.item != PAD)).nonzero(as_tuple=True)
    step = events.step[row, position]
    last = torch.nonzero((row[1:] == row[:-1]) & (step[1:] != step[:-1])).squeeze(1)
    place = row[last + 1], position[last + 1]
    following = torch.stack([events.behaviour[place], events.gap[place]], dim=1)
    return row[last], position[last], following


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
