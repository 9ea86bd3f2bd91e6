"""Candidates for tasks with a 0/1 label: a column as a baseline, logistic, boosted trees, a blend.

All predict probabilities [n], keep their state as JSON values (LightGBM as its own text), predict
bit-identically after `restore`, and can say what moved a prediction, in log-odds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from seq_ml.metrics.calibration import Platt, logit, sigmoid
from seq_ml.tasks.models.examples import PENALISED, PER_VARIABLE, TREES, matrix, training_labels

if TYPE_CHECKING:
    from collections.abc import Sequence

    import polars as pl
    from numpy.typing import NDArray

    Array = NDArray[np.float64]


REPRODUCIBLE = {
    "max_bin": 63,
    "seed": 7,
    "deterministic": True,
    "force_col_wise": True,
    "num_threads": 1,
    "verbosity": -1,
}
"""Settings of LightGBM: the same trees on every run and machine."""


class ColumnScore:
    """Baseline: one column of the examples, turned into a probability by Platt scaling."""

    is_baseline = True
    fewest = PER_VARIABLE

    def __init__(self, name: str, column: str, description: str = "") -> None:
        self.name = name
        self.description = description
        self.features = [column]
        self.platt = Platt()
        self.missing = 0.0
        self.centre = 0.0

    def fit(self, examples: pl.DataFrame) -> None:
        """Learn the median (for missing values) and the two numbers of the curve."""
        label = training_labels(examples, self.name)
        score = matrix(examples, self.features)[:, 0]
        known = score[~np.isnan(score)]
        self.missing = float(np.median(known)) if len(known) else 0.0
        score = np.nan_to_num(score, nan=self.missing)
        self.centre = float(score.mean())
        self.platt.fit(score, label)

    def predict(self, examples: pl.DataFrame) -> Array:
        """Return probabilities [n]."""
        return self.platt.predict(self._score(examples))

    def contributions(self, examples: pl.DataFrame) -> dict[str, Array]:
        """Return the effect of the one column."""
        return {self.features[0]: self.platt.slope * (self._score(examples) - self.centre)}

    def state(self) -> dict[str, Any]:
        """Return the numbers of the curve."""
        return {
            "column": self.features[0],
            "missing": self.missing,
            "centre": self.centre,
            **self.platt.state(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take back what `state` returned."""
        self.features = [state["column"]]
        self.missing, self.centre = state["missing"], state["centre"]
        self.platt = Platt(state["slope"], state["intercept"])

    def _score(self, examples: pl.DataFrame) -> Array:
        return np.nan_to_num(matrix(examples, self.features)[:, 0], nan=self.missing)


FITTED = ("mean", "scale", "weights", "rate", "lacking")
"""What a `LogisticModel` knows of each matrix column."""


class LogisticModel:
    """Logistic regression on standardised log-scaled features, L2.

    Amounts and counts are heavy-tailed, so every value x enters as sign(x)·log(1 + |x|), then
    centred and scaled by the fit examples. That a value is missing is a feature of its own (the
    missing-indicator method): who has no gap between orders is no average buyer.
    """

    def __init__(
        self,
        name: str,
        features: Sequence[str],
        description: str = "Logistic regression on all features.",
        *,
        is_baseline: bool = False,
        penalty: float = 1.0,
        extends: Sequence[str] = (),
    ) -> None:
        self.name = name
        self.extends = extends
        self.description = description
        self.features = list(features)
        self.is_baseline = is_baseline
        self.penalty = penalty
        self.fewest = min(PER_VARIABLE * len(self.features), PENALISED)
        self.mean = self.scale = self.weights = self.rate = self.lacking = np.zeros(0)
        self.intercept = 0.0

    def fit(self, examples: pl.DataFrame, weight: Array | None = None) -> None:
        """Learn scaling and weights; weight [n]: how much each example counts (default: 1)."""
        from sklearn.linear_model import LogisticRegression
        from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

        label = training_labels(examples, self.name)
        x = _log_scaled(matrix(examples, self.features))
        known = ~np.isnan(x)
        count = np.maximum(known.sum(axis=0), 1)
        self.mean = np.where(known, x, 0.0).sum(axis=0) / count
        spread = np.sqrt(np.where(known, (x - self.mean) ** 2, 0.0).sum(axis=0) / count)
        self.scale = np.where(spread > 1e-9, spread, 1.0)
        self.rate = (~known).mean(axis=0)
        some = (self.rate > 0) & (self.rate < 1)
        unit = np.sqrt(self.rate * (1 - self.rate))[some]
        design = np.hstack([self._standardised(x), (~known - self.rate)[:, some] / unit])
        # Newton: few steps, exact; one BLAS thread: rounding may not depend on the machine's cores.
        model = LogisticRegression(C=1 / self.penalty, solver="newton-cholesky", tol=1e-8)
        with threadpool_limits(1):
            model.fit(design, label, sample_weight=weight)
        self.weights, lacking = np.split(model.coef_[0].astype(np.float64), [x.shape[1]])
        self.lacking = np.zeros(x.shape[1])
        self.lacking[some] = lacking / unit
        self.intercept = float(model.intercept_[0])

    def predict(self, examples: pl.DataFrame) -> Array:
        """Return probabilities [n]."""
        # A sum per row, not a matrix product: BLAS rounds by the number of rows, and a user's
        # probability may not depend on who else is in the frame.
        return sigmoid(self._effects(examples).sum(axis=1) + self.intercept)

    def contributions(self, examples: pl.DataFrame) -> dict[str, Array]:
        """Return weight × standardised value of each feature, or the effect of having none."""
        return dict(zip(self.features, (self._effects(examples)).T, strict=True))

    def state(self) -> dict[str, Any]:
        """Return features, scaling and weights."""
        return {
            "features": self.features,
            "intercept": self.intercept,
            **{name: getattr(self, name).tolist() for name in FITTED},
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take back what `state` returned."""
        self.features = list(state["features"])
        self.intercept = state["intercept"]
        for name in FITTED:
            setattr(self, name, np.array(state[name]))

    def _effects(self, examples: pl.DataFrame) -> Array:
        x = _log_scaled(matrix(examples, self.features))
        return self._standardised(x) * self.weights + (np.isnan(x) - self.rate) * self.lacking

    def _standardised(self, x: Array) -> Array:
        return np.asarray(np.nan_to_num((x - self.mean) / self.scale, nan=0.0))


class BoostedTrees:
    """LightGBM with log-loss: shallow trees, slow learning, one thread, the same on every run.

    randomised: extremely randomised splits (Geurts et al. 2006) of few columns, smoother where the
    signal is weak.
    """

    is_baseline = False
    fewest = TREES

    def __init__(
        self,
        name: str,
        features: Sequence[str],
        description: str = "Boosted trees on all features (LightGBM).",
        *,
        rounds: int = 120,
        randomised: bool = False,
    ) -> None:
        self.name = name
        self.description = description
        self.features = list(features)
        self.rounds = rounds
        self.randomised = randomised
        self.booster: Any = None

    def fit(self, examples: pl.DataFrame) -> None:
        """Learn the trees."""
        import lightgbm

        label = training_labels(examples, self.name)
        settings = {
            "objective": "binary",
            "learning_rate": 0.05,
            "num_leaves": 8,
            "min_data_in_leaf": max(5, min(60, len(label) // 20)),
            "lambda_l2": 5.0,
            "feature_fraction": 0.6,
            "bagging_fraction": 0.8,
            "bagging_freq": 1,
            **REPRODUCIBLE,
        }
        if self.randomised:
            settings |= {"extra_trees": True, "learning_rate": 0.03}
            settings |= {"lambda_l2": 20.0, "feature_fraction": 0.3}
        data = lightgbm.Dataset(matrix(examples, self.features), label, params={"verbosity": -1})
        self.booster = lightgbm.train(settings, data, num_boost_round=self.rounds)

    def predict(self, examples: pl.DataFrame) -> Array:
        """Return probabilities [n]."""
        x = matrix(examples, self.features)
        return np.asarray(self.booster.predict(x, num_threads=1), dtype=np.float64)

    def contributions(self, examples: pl.DataFrame) -> dict[str, Array]:
        """Return the exact Shapley values of the trees (Lundberg et al. 2020)."""
        x = matrix(examples, self.features)
        values = np.asarray(self.booster.predict(x, pred_contrib=True, num_threads=1))
        return dict(zip(self.features, (values[:, :-1]).T, strict=True))

    def state(self) -> dict[str, Any]:
        """Return features and the trees as LightGBM's text."""
        return {"features": self.features, "trees": self.booster.model_to_string()}

    def restore(self, state: dict[str, Any]) -> None:
        """Take back what `state` returned."""
        import lightgbm

        self.features = list(state["features"])
        self.booster = lightgbm.Booster(model_str=state["trees"])


class Blend:
    """The mean of its members' log-odds: members that err differently cancel each other's errors.

    Averaging log-odds and not probabilities makes the members' effects add up exactly. weights: of
    the members, relative to each other; equal without them.
    """

    is_baseline = False
    description = "Mean of the logistic regression and of other models that err differently."

    def __init__(
        self,
        name: str,
        members: Sequence[Any],
        weights: Sequence[float] | None = None,
        *,
        extends: Sequence[str] = (),
    ) -> None:
        self.name = name
        self.extends = extends
        self.members = list(members)
        weights = weights or [1.0] * len(self.members)
        self.shares = [weight / sum(weights) for weight in weights]

    @property
    def fewest(self) -> int:
        """Users of the rarer class that the most demanding member needs."""
        return int(max(member.fewest for member in self.members))

    @property
    def features(self) -> list[str]:
        """Columns that any of the members reads."""
        return [feature for member in self.members for feature in member.features]

    def fit(self, examples: pl.DataFrame) -> None:
        """Fit every member."""
        for member in self.members:
            member.fit(examples)

    def predict(self, examples: pl.DataFrame) -> Array:
        """Return probabilities [n]."""
        scores = [logit(member.predict(examples)) for member in self.members]
        return sigmoid(np.average(scores, axis=0, weights=self.shares))

    def contributions(self, examples: pl.DataFrame) -> dict[str, Array]:
        """Return the mean of the members' effects."""
        total: dict[str, Array] = {}
        for member, share in zip(self.members, self.shares, strict=True):
            for feature, effect in member.contributions(examples).items():
                total[feature] = total.get(feature, np.zeros(len(effect))) + share * effect
        return total

    def state(self) -> dict[str, Any]:
        """Return the members' states in order."""
        return {"members": [member.state() for member in self.members]}

    def restore(self, state: dict[str, Any]) -> None:
        """Take back what `state` returned."""
        for member, part in zip(self.members, state["members"], strict=True):
            member.restore(part)


def _log_scaled(x: Array) -> Array:
    return np.asarray(np.sign(x) * np.log1p(np.abs(x)))
