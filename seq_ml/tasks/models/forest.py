"""A forest of random trees: the mean of many deep, independent looks at a weak signal.

Where boosting adds shallow trees that correct each other, every tree here is grown alone, on a
sample of the rows, with splits at random places of few columns (extremely randomised trees, Geurts
et al. 2006), and the mean is taken. It errs differently from a line, which is what a blend needs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from seq_ml.metrics.calibration import logit
from seq_ml.tasks.models.binary import REPRODUCIBLE, BoostedTrees
from seq_ml.tasks.models.examples import matrix, training_labels

if TYPE_CHECKING:
    from collections.abc import Sequence

    import polars as pl
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

SETTINGS = {
    "objective": "regression",
    "boosting": "rf",
    "extra_trees": True,
    "num_leaves": 32,
    "min_data_in_leaf": 30,
    # Draws a leaf of 30 rows a third of the way to the base rate: no leaf says 0.
    "lambda_l2": 15.0,
    "feature_fraction_bynode": 0.3,
    "bagging_fraction": 0.7,
    "bagging_freq": 1,
    **REPRODUCIBLE,
}
TREES = 100


class Forest(BoostedTrees):
    """LightGBM's random forest on a 0/1 label, one thread, the same on every run.

    The probabilities are means of shares and so too near the middle: scale them
    (`recalibrated.Recalibrated`).
    """

    def __init__(self, name: str, features: Sequence[str]) -> None:
        super().__init__(name, features, "Forest of extremely randomised trees (LightGBM).")
        self.mean = 0.0

    def fit(self, examples: pl.DataFrame) -> None:
        """Grow the trees on what is above or below the base rate.

        LightGBM lets a tree that finds no split say 0: of few rows most would.
        """
        import lightgbm

        label = training_labels(examples, self.name)
        self.mean = float(label.mean())
        above = label - self.mean
        data = lightgbm.Dataset(matrix(examples, self.features), above, params={"verbosity": -1})
        self.booster = lightgbm.train(SETTINGS, data, num_boost_round=TREES)

    def predict(self, examples: pl.DataFrame) -> Array:
        """Return probabilities [n]."""
        return np.asarray((self.mean + super().predict(examples)).clip(0.0, 1.0))

    def contributions(self, examples: pl.DataFrame) -> dict[str, Array]:
        """Return the exact Shapley values of the trees, each stretched to log-odds.

        The trees add up in probability: every effect of a row is multiplied by the same slope,
        from the mean's log-odds to the row's, so that they add up in log-odds too.
        """
        x = matrix(examples, self.features)
        values = np.asarray(self.booster.predict(x, pred_contrib=True, num_threads=1))
        values /= self.booster.num_trees()  # LightGBM adds up here what it averages in `predict`
        effects, mean = values[:, :-1], self.mean + values[:, -1]
        p = self.mean + values.sum(axis=1)
        away = p - mean
        near = np.abs(away) < 1e-9
        slope = np.where(
            near,
            1 / np.maximum(p * (1 - p), 1e-9),
            (logit(p) - logit(mean)) / np.where(near, 1.0, away),
        )
        return dict(zip(self.features, (effects * slope[:, None]).T, strict=True))

    def state(self) -> dict[str, Any]:
        """Return features, base rate and the trees as LightGBM's text."""
        return super().state() | {"mean": self.mean}

    def restore(self, state: dict[str, Any]) -> None:
        """Take back what `state` returned."""
        super().restore(state)
        self.mean = float(state["mean"])
