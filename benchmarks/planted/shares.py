"""How much of what can be known somebody knows: differences of losses over what the optimum gains.

share = (constant − model) ÷ (constant − optimum); recovered = (hand − stack) ÷ (hand − optimum), of
mean losses in nats. Intervals resample the users, all arms on the same draws.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from seq_ml.metrics.bootstrap import resample
from seq_ml.metrics.estimate import Draws, Estimate

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from benchmarks.planted.world import Floats

CONSTANT, OPTIMUM, STACK = "constant", "optimum", "stack"
CEILING = "stack told the optimum"
"""The same stack on the optimum in place of the sequence model: what stacking itself loses."""
SEED, DRAWS = 7, 2_000


@dataclass(frozen=True)
class Judged:
    """What became of the predictions of several arms.

    loss: of each user [users], by arm. measure: what is shown beside (AUC, NDCG), by arm. hand: the
    arm that the stack is built on.
    """

    what: str
    loss: dict[str, Floats]
    measure: dict[str, float]
    hand: str

    def share(self, arm: str) -> Estimate:
        """Return what an arm knows of what there is to know."""
        return self._ratio((CONSTANT, arm), (CONSTANT, OPTIMUM))

    def recovered(self, arm: str) -> Estimate:
        """Return what an arm recovers of what hand features leave."""
        return self._ratio((self.hand, arm), (self.hand, OPTIMUM))

    def gain(self, worse: str, better: str) -> Estimate:
        """Return the paired difference of two arms' mean losses, nats."""
        gains = self.loss[worse] - self.loss[better]
        drawn = np.concatenate([n @ gains / n.sum(axis=1) for n in self._drawn()])
        return Draws(float(gains.mean()), drawn).estimate()

    def _ratio(self, above: tuple[str, str], below: tuple[str, str]) -> Estimate:
        of = np.stack([self.loss[a] - self.loss[b] for a, b in (above, below)], axis=1)
        sums = np.concatenate([n @ of for n in self._drawn()])
        value = of.sum(axis=0)
        return Draws(float(value[0] / value[1]), sums[:, 0] / sums[:, 1]).estimate()

    def _drawn(self):
        return resample(len(self.loss[CONSTANT]), SEED, DRAWS)


def nats(label: NDArray, p: Floats) -> Floats:
    """Log loss of each prediction of a 0/1 label."""
    p = np.clip(p, 1e-6, 1 - 1e-6)
    return -np.log(np.where(label, p, 1 - p))
