"""A candidate whose probabilities are put right by people it was not fitted on.

What a model says of its own training rows is too sure. So it is fitted on one half of the users
and asked about the other half, and the other way round; Platt scaling of these answers, of all
closed windows together, corrects the model that is fitted on everybody. All windows and not only
the newest one: the base rate moves between windows with the season, and one year of data cannot
say where it goes next; the newest window alone made the next one worse (docs/benchmarks-tables.md).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from seq_ml.evaluation.calibration import Platt, logit

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]


class Recalibrated:
    """`model`, then Platt scaling of its log-odds, fitted across halves of the users.

    The inner model may be fitted on another target than the label (`BoostedTrees.target`): the
    scaling turns its score into the probability of the label.
    """

    is_baseline = False

    def __init__(self, model: Any, *, unit: str = "user_id") -> None:
        self.model = model
        self.name = model.name
        self.unit = unit
        self.platt = Platt()

    @property
    def members(self) -> list[Any]:
        """What the model is made of (`models.reads_embedding` asks)."""
        return getattr(self.model, "members", [self.model])

    def fit(self, examples: pl.DataFrame) -> None:
        """Fit the scaling on the answers about the other half, then the model on all rows."""
        users = examples[self.unit].unique().sort().gather_every(2)
        first = examples[self.unit].is_in(users.implode())
        halves = [examples.filter(first), examples.filter(~first)]
        scores, labels = [], []
        for seen, unseen in (halves, halves[::-1]):
            self.model.fit(seen)
            scores.append(logit(self.model.predict(unseen)))
            labels.append(unseen["label"].cast(pl.Float64).to_numpy())
        self.platt.fit(np.concatenate(scores), np.concatenate(labels))
        self.model.fit(examples)

    def predict(self, examples: pl.DataFrame) -> Array:
        """Return probabilities [n]."""
        return self.platt.predict(logit(self.model.predict(examples)))

    def uncalibrated(self, examples: pl.DataFrame) -> Array:
        """Return what the model says before the scaling [n]."""
        return np.asarray(self.model.predict(examples), dtype=np.float64)

    def contributions(self, examples: pl.DataFrame) -> dict[str, Array]:
        """Return the model's effects in log-odds after the scaling."""
        effects = self.model.contributions(examples)
        return {feature: self.platt.slope * effect for feature, effect in effects.items()}

    def state(self) -> dict[str, Any]:
        """Return the model's state and the two numbers of the curve."""
        return {"model": self.model.state(), **self.platt.state()}

    def restore(self, state: dict[str, Any]) -> None:
        """Take back what `state` returned."""
        self.model.restore(state["model"])
        self.platt = Platt(state["slope"], state["intercept"])
