"""Rates as predictions: of everybody, or of groups, each drawn to the rate of all the more the
fewer it has.

What a handful of outcomes can carry, and what a model of features must beat.
"""  # noqa: D205

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from seq_ml.metrics.calibration import logit
from seq_ml.metrics.shrinkage import shrunken
from seq_ml.tasks.models.examples import RATE, training_labels

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]


class ShrunkenRate:
    """Baseline: the share of 1s among the fit examples of the same group, `shrunken`.

    group: a column; None: one rate for everybody.
    """

    is_baseline = True
    fewest = RATE

    def __init__(self, name: str, group: str | None, description: str) -> None:
        self.name = name
        self.description = description
        self.features = [group] if group else []
        self.rates: dict[str, float] = {}
        self.pooled = 0.5

    def fit(self, examples: pl.DataFrame) -> None:
        """Learn the common rate and those of the groups."""
        label = training_labels(examples, self.name)
        # Half a 1 and half a 0 more than there are: no rate is 0 or 1 (Jeffreys).
        self.pooled = float((label.sum() + 0.5) / (len(label) + 1))
        self.rates = {}
        if not self.features:
            return
        groups = (
            examples.select(group=self.features[0], label=pl.Series(label))
            .drop_nulls("group")
            .group_by("group")
            .agg(ones=pl.col("label").sum(), n=pl.len())
            .sort("group")
        )
        ones, n = (groups[name].cast(pl.Float64).to_numpy() for name in ("ones", "n"))
        rates = shrunken(ones, n, self.pooled)
        self.rates = dict(zip(groups["group"].to_list(), rates.tolist(), strict=True))

    def predict(self, examples: pl.DataFrame) -> Array:
        """Return probabilities [n]; of a group that was never seen, the common rate."""
        if not self.features:
            return np.full(examples.height, self.pooled)
        groups = examples[self.features[0]].to_list()
        return np.array([self.rates.get(group, self.pooled) for group in groups], dtype=np.float64)

    def contributions(self, examples: pl.DataFrame) -> dict[str, Array]:
        """Return how far the group's rate lies from the common one."""
        away = logit(self.predict(examples)) - logit(np.array(self.pooled))
        return dict.fromkeys(self.features, away)

    def state(self) -> dict[str, Any]:
        """Return the rates."""
        return {"pooled": self.pooled, "rates": self.rates}

    def restore(self, state: dict[str, Any]) -> None:
        """Take back what `state` returned."""
        self.pooled, self.rates = state["pooled"], dict(state["rates"])
