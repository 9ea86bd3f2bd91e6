"""Candidates of the recommendation task: one source's score, or boosted trees over all sources.

All predict the probability of a purchase [n], and rank by it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from seq_ml.metrics.calibration import Platt
from seq_ml.tasks.task import NotEnoughHistoryError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

NEGATIVES_KEPT = 0.3
"""Share of the negative examples that the trees see, each with weight 1 / share: a third of the
time, the same probabilities."""
SMALLEST_CLASS = 20
ROWS_AT_ONCE = 100_000
"""Rows that are predicted at once: bounds memory at so many × features."""
POPULARITY = "item_buyers_28"
TIE_BREAK = 1e-7
"""Weight of popularity beside a score: far below any difference of two scores that matters."""


class ScoreBaseline:
    """Baseline: rank by one column; the probability is a logistic curve of asinh(score).

    asinh keeps the order of all scores, also where a plain curve would saturate into ties. Items of
    the same score, all those never bought among them, are ranked by popularity.
    """

    is_baseline = True

    def __init__(self, name: str, column: str, description: str) -> None:
        self.name = name
        self.description = description
        self.column = column
        self.scale = 1.0
        self.platt = Platt()

    def fit(self, examples: pl.DataFrame) -> None:
        """Learn the scale and the two numbers of the curve."""
        label = _labels(examples, self.name)
        score = self._score(examples)
        size = np.abs(score[score != 0])
        self.scale = float(np.median(size)) if len(size) else 1.0
        self.platt = Platt()
        self.platt.fit(np.arcsinh(score / self.scale), label)
        # A score that says nothing in a small data set may not turn the ranking around.
        self.platt.slope = max(float(self.platt.slope), 1e-3)

    def predict(self, examples: pl.DataFrame) -> NDArray[np.float64]:
        """Return probabilities [n]."""
        popular = examples[POPULARITY].cast(pl.Float64).fill_null(0.0).to_numpy()
        score = np.arcsinh(self._score(examples) / self.scale) + TIE_BREAK * np.log1p(popular)
        return np.asarray(self.platt.predict(score))

    def state(self) -> dict[str, Any]:
        """Return the numbers of the curve."""
        return {"column": self.column, "scale": self.scale, **self.platt.state()}

    def restore(self, state: dict[str, Any]) -> None:
        """Take back what `state` returned."""
        self.column, self.scale = state["column"], state["scale"]
        self.platt = Platt(state["slope"], state["intercept"])

    def _score(self, examples: pl.DataFrame) -> NDArray[np.float64]:
        return examples[self.column].cast(pl.Float64).fill_null(0.0).to_numpy()


class BoostedRanker:
    """LightGBM with log-loss over the features: a probability, so lists are comparable in time."""

    is_baseline = False

    def __init__(
        self,
        name: str,
        features: Sequence[str],
        description: str = "",
        *,
        rounds: int = 150,
        seed: int = 7,
        extends: Sequence[str] = (),
    ) -> None:
        self.name = name
        self.extends = extends
        self.description = description
        self.features = list(features)
        self.rounds = rounds
        self.seed = seed
        self.booster: Any = None

    def fit(self, examples: pl.DataFrame) -> None:
        """Learn the trees; NotEnoughHistoryError when a feature has no value at all."""
        import lightgbm

        for name in self.features:
            if name.startswith("encoder") and examples[name].null_count() == examples.height:
                raise NotEnoughHistoryError(f"{self.name}: there are no scores of the encoder")
        label = _labels(examples, self.name)
        chance = np.random.default_rng(self.seed).random(len(label))
        kept = (label > 0) | (chance < NEGATIVES_KEPT)
        weight = np.where(label > 0, 1.0, 1 / NEGATIVES_KEPT)[kept]
        settings = {
            "objective": "binary",
            "learning_rate": 0.08,
            "num_leaves": 15,
            "min_data_in_leaf": max(5, min(300, len(label) // 200)),
            "lambda_l2": 5.0,
            "feature_fraction": 0.7,
            "max_bin": 63,
            "seed": self.seed,
            "deterministic": True,
            "force_row_wise": True,  # the same trees in less time than by column
            "num_threads": 1,
            "verbosity": -1,
        }
        data = lightgbm.Dataset(
            self._matrix(examples.select(self.features).filter(pl.Series(kept))),
            label[kept],
            weight=weight,
            params={"verbosity": -1, "max_bin": 63},
        )
        self.booster = lightgbm.train(settings, data, num_boost_round=self.rounds)

    def predict(self, examples: pl.DataFrame) -> NDArray[np.float64]:
        """Return probabilities [n]."""
        parts = [
            self.booster.predict(self._matrix(rows), num_threads=1)
            for rows in examples.select(self.features).iter_slices(ROWS_AT_ONCE)
        ]
        return np.concatenate([np.empty(0), *parts])

    def state(self) -> dict[str, Any]:
        """Return features and the trees as LightGBM's text."""
        return {"features": self.features, "trees": self.booster.model_to_string()}

    def restore(self, state: dict[str, Any]) -> None:
        """Take back what `state` returned."""
        import lightgbm

        self.features = list(state["features"])
        self.booster = lightgbm.Booster(model_str=state["trees"])

    def _matrix(self, examples: pl.DataFrame) -> NDArray[np.float32]:
        chosen = examples.select(pl.col(self.features).cast(pl.Float32).fill_null(float("nan")))
        return chosen.to_numpy()


def _labels(examples: pl.DataFrame, name: str) -> NDArray[np.float64]:
    label = examples["label"].cast(pl.Float64).to_numpy()
    positives = int(label.sum())
    if min(positives, len(label) - positives) < SMALLEST_CLASS:
        raise NotEnoughHistoryError(
            f"{name}: {positives} chosen among {len(label)} candidates are too few to learn from"
        )
    return label
