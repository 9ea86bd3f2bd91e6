"""A tabular model moved by what the sequence model foresees: a stack of a few numbers.

logit p = a + b · logit p_tabular + Σ c_j · logit q_j. A ridge pulls towards b = 1 and c = 0, the
tabular model as it is, so that few rows, or predictions that say nothing new, change little. It is
fitted across halves of the users (Wolpert 1992, "Stacked generalization"), on the rows that have
predictions: those for which a rung of the ladder had been trained before their origin.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from seq_ml.metrics.calibration import logit, sigmoid
from seq_ml.tasks.models.examples import SMALLEST_CLASS, matrix
from seq_ml.tasks.task import NotEnoughHistoryError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from seq_ml.tasks.models.recalibrated import Recalibrated

    Array = NDArray[np.float64]

MOST_COLUMNS = 3
RIDGE = 10.0
"""Times half the square of b − 1 and of each c, of columns in units of their spread: as much as 50
rows say of a coefficient where every fourth has the label."""
NEWTON_STEPS = 25


class Stacked:
    """`model`, and at most MOST_COLUMNS probabilities of the sequence model beside it.

    Rows without these predictions keep the model's own probability.
    """

    is_baseline = False

    def __init__(
        self, name: str, model: Recalibrated, columns: Sequence[str], description: str
    ) -> None:
        """columns: of the examples, probabilities (f64), null where no rung was there in time."""
        if not 0 < len(columns) <= MOST_COLUMNS:
            raise ValueError(f"{name}: {len(columns)} columns; a stack reads 1 to {MOST_COLUMNS}")
        self.name = name
        self.model = model
        self.columns = list(columns)
        self.description = description
        self.extends = (model.name,)
        self.fewest = model.fewest
        self.intercept, self.slope = 0.0, 1.0
        self.centre, self.weights = np.zeros(len(columns)), np.zeros(len(columns))

    @property
    def features(self) -> list[str]:
        """Columns that the model reads, and the predictions."""
        return [*self.model.features, *self.columns]

    def fit(self, examples: pl.DataFrame) -> None:
        """Fit the model, then a, b and c; NotEnoughHistoryError where few rows are foretold."""
        if missing := [name for name in self.columns if name not in examples.columns]:
            raise NotEnoughHistoryError(f"{self.name}: there is no {', '.join(missing)}")
        foretold = self._foretold(examples)
        known = _known(foretold)
        label = examples["label"].cast(pl.Float64).to_numpy()[known]
        positives = int(label.sum())
        if min(positives, len(label) - positives) < SMALLEST_CLASS:
            raise NotEnoughHistoryError(
                f"{self.name}: {positives} positives among {len(label)} examples that the sequence "
                "model foretold are too few to learn from"
            )
        self.model.fit(examples)
        own = logit(self.model.platt.predict(self.model.crossed[known]))
        self.centre = foretold[known].mean(axis=0)
        columns = np.column_stack([own, foretold[known] - self.centre])
        self.intercept, more, *weights = ridge(columns, own, label)
        self.slope, self.weights = 1 + more, np.array(weights)

    def predict(self, examples: pl.DataFrame) -> Array:
        """Return probabilities [n]."""
        p = self.model.predict(examples)
        effects = (self._foretold(examples) - self.centre) * self.weights
        known = _known(effects)
        moved = self.intercept + self.slope * logit(p[known]) + effects[known].sum(axis=1)
        p[known] = sigmoid(moved)
        return p

    def contributions(self, examples: pl.DataFrame) -> dict[str, Array]:
        """Return the model's effects after the slope, and those of the predictions, in log-odds."""
        effects = (self._foretold(examples) - self.centre) * self.weights
        known = _known(effects)
        effects[~known] = 0.0
        slope = np.where(known, self.slope, 1.0)
        own = self.model.contributions(examples)
        found = {name: slope * effect for name, effect in own.items()}
        return found | dict(zip(self.columns, effects.T, strict=True))

    def state(self) -> dict[str, Any]:
        """Return the model's state and the numbers of the stack."""
        return {
            "model": self.model.state(),
            "intercept": self.intercept,
            "slope": self.slope,
            "centre": self.centre.tolist(),
            "weights": self.weights.tolist(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take back what `state` returned."""
        self.model.restore(state["model"])
        self.intercept, self.slope = state["intercept"], state["slope"]
        self.centre, self.weights = np.array(state["centre"]), np.array(state["weights"])

    def _foretold(self, examples: pl.DataFrame) -> Array:
        """Log-odds [n, columns], NaN where null."""
        return logit(matrix(examples, self.columns))


def _known(columns: Array) -> NDArray[np.bool_]:
    """Tell which rows [n] have every number."""
    return np.asarray(~np.isnan(columns).any(axis=1))


def ridge(columns: Array, offset: Array, label: Array) -> list[float]:
    """Fit log-odds = offset + a + columns · w, w pulled towards 0; return a, then w.

    columns: f64 [n, k]. A column without spread has the weight 0.
    """
    spread = columns.std(axis=0)
    unit = np.where(spread > 1e-9, spread, np.inf)
    design = np.column_stack([np.ones(len(label)), columns / unit])
    penalty = np.append(1e-9, np.full(len(unit), RIDGE))
    found = np.zeros(len(penalty))
    for _ in range(NEWTON_STEPS):
        p = sigmoid(offset + (design * found).sum(axis=1))
        slope = design.T @ (label - p) - penalty * found
        curve = (design * (p * (1 - p))[:, None]).T @ design + np.diag(penalty)
        step = np.linalg.solve(curve, slope)
        found = found + step / max(1.0, float(np.abs(step).max()))
        if np.abs(step).max() < 1e-10:
            break
    return [float(found[0]), *(found[1:] / unit).tolist()]
