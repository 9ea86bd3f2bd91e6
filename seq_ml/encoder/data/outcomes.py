"""What users did after an instant: when they converted next, how often, and what they spent.

An empty window is an answer like any other. What lies beyond the cut-off is not known: the wait is
censored there, and counts are told only of windows that had closed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from seq_ml.periods import FORESEEN_DAYS as SPANS
from seq_ml.tokens.vocabulary import DAY

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Integers = NDArray[np.int64]

WAITS = (1, 2, 3, 5, 7, 10, 14, 21, 28, 42, 56, 70, 84, 119, 182)
"""Upper ends of the bins of days until the next conversion."""
VISIT = 1_800
"""Seconds without a conversion after which the next one is of another visit."""


@dataclass(frozen=True)
class Outcomes:
    """Answers to some questions, all [questions, …].

    wait: i64, bin of the next conversion, len(WAITS) for none of them.  seen: i64, bins that had
    ended by the cut-off.  counts: f32 [questions, 2, SPANS], visits with a conversion and converted
    lines.  spend: f32 [questions, SPANS].  closed: bool [questions, SPANS].
    """

    wait: torch.Tensor
    seen: torch.Tensor
    counts: torch.Tensor
    spend: torch.Tensor
    closed: torch.Tensor

    def __len__(self) -> int:
        """Return the number of questions."""
        return len(self.wait)


class Conversions:
    """Conversions of some users (rows), sorted by row, then time (seconds).

    row, time: i64 [conversions].  amount: f32 [conversions], NaN where unknown.
    """

    def __init__(self, row: Integers, time: Integers, amount: NDArray[np.float32]) -> None:
        self.row, self.time = row, time
        new = np.ones(len(row), dtype=bool)
        new[1:] = (np.diff(row) != 0) | (np.diff(time) > VISIT)
        columns = (new, np.ones(len(row)), np.nan_to_num(amount).astype(np.float64))
        self.sums = np.stack([np.append(0.0, np.cumsum(column)) for column in columns], axis=1)
        """Visits, lines and spend of all conversions before each, f64 [conversions + 1, 3]."""

    def outcomes(self, row: Integers, instant: Integers, until: int) -> Outcomes:
        """Tell what came after each instant, as far as it was known at `until` (seconds)."""
        low = int(self.time.min(initial=until))
        width = max(until, int(self.time.max(initial=until))) - low + SPANS[-1] * DAY + 2
        keys = row * width + (instant - low)
        own = self.row * width + (self.time - low)
        first = np.searchsorted(own, keys)
        there = first < np.searchsorted(self.row, row, side="right")
        days = np.full(len(row), np.inf)
        days[there] = (self.time[first[there]] - instant[there]) / DAY
        ends = [np.searchsorted(own, keys + span * DAY) for span in SPANS]
        found = np.stack([self.sums[end] - self.sums[first] for end in ends], axis=2)
        known = (until - instant) / DAY
        return Outcomes(
            torch.from_numpy(np.searchsorted(WAITS, days, side="right")),
            torch.from_numpy(np.searchsorted(WAITS, known, side="right")),
            torch.from_numpy(found[:, :2].astype(np.float32)),
            torch.from_numpy(found[:, 2].astype(np.float32)),
            torch.from_numpy(known[:, None] >= np.array(SPANS)),
        )
