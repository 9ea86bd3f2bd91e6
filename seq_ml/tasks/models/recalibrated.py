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

from seq_ml.metrics.calibration import Platt, logit

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]


class Recalibrated:
    """`model`, then Platt scaling of its log-odds, fitted across halves of the users."""

    is_baseline = False

    def __init__(self, model: Any) -> None:
        self.model = model
        self.name = model.name
        self.description = model.description
        self.fewest = model.fewest
        self.extends = getattr(model, "extends", ())
        self.platt = Platt()
        self.fitted_to: pl.DataFrame | None = None
        """The examples of the newest fit, and `crossed`: the log-odds that the other half gives."""
        self.crossed: Array = np.zeros(0)

    @property
    def features(self) -> list[str]:
        """Columns that the model reads."""
        return list(self.model.features)

    def fit(self, examples: pl.DataFrame) -> None:
        """Fit the scaling on the answers about the other half, then the model on all rows.

        Nothing is done twice for the same frame: what builds on this one fits it, too.
        """
        if self.fitted_to is examples:
            return
        first = self._first_half(examples)
        self.crossed = np.empty(examples.height)
        for seen in (first, ~first):
            self.model.fit(examples.filter(pl.Series(seen)))
            unseen = examples.filter(pl.Series(~seen))
            self.crossed[~seen] = logit(self.model.predict(unseen))
        label = examples["label"].cast(pl.Float64).to_numpy()
        scores, labels = (np.append(of[~first], of[first]) for of in (self.crossed, label))
        self.platt.fit(scores, labels)
        self.model.fit(examples)
        self.fitted_to = examples

    def _first_half(self, examples: pl.DataFrame) -> NDArray[np.bool_]:
        """Return whose rows are in the first of two halves of the users [rows].

        Both have as equal a share of the rarer label as can be: users are sorted by their rows of
        that label, then by id, and go to the halves in turn. So
        neither half has fewer of them when examples are added: what could be fitted on the rows
        before the validation window can be fitted on those before the test window.
        """
        rare = float(examples["label"].mean() < 0.5)  # type: ignore[operator]
        users = examples.group_by("user_id").agg(rare=(pl.col("label") == rare).sum())
        users = users.sort("rare", "user_id", descending=[True, False])
        first = users.gather_every(2)["user_id"]
        return examples["user_id"].is_in(first.implode()).to_numpy()

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
