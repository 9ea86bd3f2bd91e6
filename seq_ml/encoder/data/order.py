"""Which windows a training reads, and in which order.

The order is a function of seed and step alone, so that a training resumes where it stopped. Events
stay in the memory maps of their shards; what is shuffled are numbers.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from seq_ml.encoder.data.windows import Window, WindowTable, window_table

if TYPE_CHECKING:
    from datetime import datetime

    from numpy.typing import NDArray

    from seq_ml.encoder.config import EncoderConfig
    from seq_ml.tokens.vocabulary import Tokens

HELD_OUT_WINDOWS = 256
"""Most windows of held-out users that one evaluation reads."""
BUCKET = 8
"""Batches whose windows are sorted by length together, so that little is padding."""
POOL = 1_000_000
"""Windows of whole shards that are shuffled together: more of them are read pool by pool, so that
the pages of the memory maps in use are those of a few shards."""


class Order:
    """The batches of every step: windows shuffled per epoch, similar lengths together."""

    def __init__(self, windows: WindowTable, config: EncoderConfig, size: int = 0) -> None:
        """size: windows of a step, when it is not what the configuration says."""
        self.windows = windows
        self.size = min(size or _windows_of_a_step(config), len(windows))
        self.seed = config.training.seed
        self.pools = _pools(windows, self.size)
        self.per_epoch = sum(len(pool) // self.size for pool in self.pools)
        self.epoch, self.batches = -1, np.empty((0, 0), dtype=np.int64)

    def batch(self, step: int) -> list[Window]:
        """Return the windows of a step, a function of seed and step alone."""
        epoch, place = divmod(step, self.per_epoch)
        if epoch != self.epoch:
            random = np.random.default_rng([self.seed, epoch])
            several = len(self.pools) > 1
            order = random.permutation(len(self.pools)) if several else [0]
            self.batches = np.concatenate([self._shuffled(self.pools[i], random) for i in order])
            self.epoch = epoch
        return [self.windows.window(i) for i in self.batches[place]]

    def _shuffled(self, pool: range, random: np.random.Generator) -> NDArray[np.int64]:
        batches = len(pool) // self.size
        order = pool.start + random.permutation(len(pool))[: batches * self.size]
        lengths = self.windows.stop[order] - self.windows.start[order]
        bucket = np.arange(len(order)) // (self.size * BUCKET)
        order = order[np.lexsort((lengths, bucket))]
        return random.permutation(order.reshape(batches, self.size))


class Replay:
    """The batches of a training that continues: windows with new events, and old ones.

    A window is new when it holds an event at or after `since`. Both kinds have an order of their
    own, a function of seed and step alone; where one kind is short the other fills the batches.
    """

    def __init__(self, windows: WindowTable, config: EncoderConfig, since: datetime) -> None:
        new = _are_new(windows, since)
        fresh, size = int(new.sum()), _windows_of_a_step(config)
        many = min(round((1 - config.training.replay_share) * size), fresh)
        many = max(many, size - (len(windows) - fresh))
        kinds = ((new, many), (~new, size - many))
        self.orders = [Order(_chosen(windows, kind), config, n) for kind, n in kinds if n]

    def batch(self, step: int) -> list[Window]:
        """Return the windows of a step, a function of seed and step alone."""
        return [window for order in self.orders for window in order.batch(step)]


def _windows_of_a_step(config: EncoderConfig) -> int:
    return config.training.windows * config.training.accumulate


def _pools(windows: WindowTable, size: int) -> list[range]:
    """Cut the windows into runs of whole shards, of about POOL windows and one batch at least."""
    pools, begin = [], 0
    for end in np.cumsum(np.bincount(windows.part, minlength=len(windows.parts))).tolist():
        if end - begin >= max(POOL, size):
            pools.append(range(begin, end))
            begin = end
    if len(windows) - begin >= size:
        pools.append(range(begin, len(windows)))
    elif begin < len(windows):  # too few for a batch of their own
        pools[-1] = range(pools[-1].start, len(windows))
    return pools


def split_windows(
    parts: list[Tokens], config: EncoderConfig, since: datetime | None = None
) -> tuple[WindowTable, list[Window]]:
    """Windows of the users to train on and of the held-out ones, told apart by their pseudonym.

    With `since` the held-out ones are new (as in `Replay`), when there are any: over all times the
    start of a training that continues looks best, whatever it does not know of the newest.
    """
    limit = int(config.training.held_out_share * 2**32)
    draws = [np.ascontiguousarray(part.user[:, 4:8]).view(">u4").ravel() for part in parts]
    context = config.model.context
    train, others = (
        window_table(
            parts,
            [np.flatnonzero(mine) for mine in chosen],
            context,
            from_start=config.training.next_basket > 0,
        )
        for chosen in ([draw >= limit for draw in draws], [draw < limit for draw in draws])
    )
    if not config.training.next_basket:
        train, others = _with_two_baskets(train), _with_two_baskets(others)
    if since is not None and (new := _are_new(others, since)).any():
        others = _chosen(others, new)
    step = max(1, math.ceil(len(others) / HELD_OUT_WINDOWS))
    return train, [others.window(number) for number in range(0, len(others), step)]


def _with_two_baskets(windows: WindowTable) -> WindowTable:
    """Leave out windows of one instant: they hold nothing later to predict, and no tick asks."""
    return _chosen(windows, _times(windows, windows.stop - 1) > _times(windows, windows.start))


def _are_new(windows: WindowTable, since: datetime) -> NDArray[np.bool_]:
    return _times(windows, windows.stop - 1) >= since.timestamp()


def _times(windows: WindowTable, place: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the time (s) of an event of each window, i64 [windows]; place: as `start`, `stop`."""
    times = np.zeros(len(windows), dtype=np.int64)
    for number, tokens in enumerate(windows.parts):
        mine = windows.part == number
        times[mine] = tokens.time[place[mine]]
    return times


def _chosen(windows: WindowTable, which: NDArray[np.bool_]) -> WindowTable:
    columns = (windows.part, windows.row, windows.start, windows.stop)
    return WindowTable(windows.parts, *(column[which] for column in columns))
