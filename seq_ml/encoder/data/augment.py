"""Random changes of windows in training: crop, mask and reorder (CL4SRec, Xie et al. 2022), ties.

`ties` shuffles the events of one instant: their order is the source's, and learnt by heart it costs
quality (ML-100K, where half of the events share their second with another: NDCG@10 0.1215 as they
come, 0.1300 shuffled; validation, two seeds; docs/benchmarks-quality.md has the others).

Each changed window gets one of the configured changes. They are made before questions are asked,
except `mask`, which hides what is read and leaves what is asked as it was.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from seq_ml.tokens.vocabulary import MASK, SPECIAL, TICK

if TYPE_CHECKING:
    from collections.abc import Sequence

    from seq_ml.encoder.config import TrainingConfig
    from seq_ml.encoder.data.batches import Events
    from seq_ml.encoder.data.windows import Window

CROPPED = 0.6
"""Share of a window's events that a crop keeps: a run that begins anywhere."""
MASKED = 0.3
"""Share of a window's items that are hidden."""
REORDERED = 0.2
"""Share of a window's events that are shuffled: a run that begins anywhere."""
SHORTEST = 4
"""Windows of fewer events stay as they are."""


class Augmenter:
    """The changes of one batch, drawn when it is made."""

    def __init__(
        self, settings: TrainingConfig, windows: Sequence[Window], random: np.random.Generator
    ) -> None:
        self.random = random
        self.change = [
            str(random.choice(settings.augment))
            if settings.augment
            and random.random() < settings.augment_share
            and window.stop - window.start >= SHORTEST
            else ""
            for window in windows
        ]

    def crop(self, windows: Sequence[Window]) -> list[Window]:
        """Keep a run of events of the windows to crop."""
        return [
            self._cropped(window) if change == "crop" else window
            for window, change in zip(windows, self.change, strict=True)
        ]

    def reorder(self, events: Events) -> Events:
        """Shuffle items with their behaviour, price and quantity; the times stay in place."""
        runs, ties = self._rows("reorder"), self._rows("ties")
        if not runs and not ties:
            return events
        order = np.tile(np.arange(events.item.shape[1]), (len(events.item), 1))
        lengths = (events.item > 0).sum(1).tolist()
        for row in runs:
            begin, end = self._run(lengths[row], REORDERED)
            places = begin + np.flatnonzero(events.item[row, begin:end].numpy() != TICK)
            order[row, places] = self.random.permutation(places)
        for row in ties:
            step, item = (part[row, : lengths[row]].numpy() for part in (events.step, events.item))
            order[row, : lengths[row]] = np.lexsort(
                (self.random.random(len(step)), item == TICK, step)
            )
        place = torch.from_numpy(order)
        moved = ("item", "behaviour", "price", "quantity")
        return replace(events, **{name: getattr(events, name).gather(1, place) for name in moved})

    def mask(self, events: Events) -> Events:
        """Hide the items of some events that are read."""
        rows = self._rows("mask")
        if not rows:
            return events
        chance = torch.from_numpy(self.random.random(events.item.shape))
        chosen = torch.zeros_like(events.item, dtype=torch.bool)
        chosen[rows] = True
        chosen &= (events.item >= SPECIAL) & (chance < MASKED)
        return replace(events, item=events.item.masked_fill(chosen, MASK))

    def _rows(self, change: str) -> list[int]:
        return [row for row, mine in enumerate(self.change) if mine == change]

    def _cropped(self, window: Window) -> Window:
        begin, end = self._run(window.stop - window.start, CROPPED)
        return replace(window, start=window.start + begin, stop=window.start + end)

    def _run(self, length: int, share: float) -> tuple[int, int]:
        many = max(1, round(share * length))
        begin = int(self.random.integers(length - many + 1))
        return begin, begin + many
