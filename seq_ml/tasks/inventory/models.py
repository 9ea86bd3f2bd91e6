"""Forecasters of demand: boosted trees around a distribution, without and with promotion plan."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from seq_ml.tasks.inventory.distribution import MEAN, VARIANCE, negative_binomial, own_variance
from seq_ml.tasks.inventory.features import BASE_FEATURES, PLAN_FEATURES, QUANTILES
from seq_ml.tasks.task import NotEnoughHistoryError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Array = NDArray[np.float64]

BOOSTED, BOOSTED_PLAN = "boosted_count", "boosted_count_promo_plan"
"""The second one is judged where the plan is known; `without_plan` names who predicts the rest."""
LEVELS = ("item", "item_store", "category")
SMALLEST_FIT = 200
ROUNDS = 100
SETTINGS: dict[str, Any] = {
    "objective": "tweedie",
    "tweedie_variance_power": 1.5,
    "learning_rate": 0.1,
    "num_leaves": 31,
    "min_data_in_leaf": 100,
    "lambda_l2": 1.0,
    "feature_fraction": 0.6,
    "max_bin": 63,
    "seed": 7,
    "deterministic": True,
    "force_col_wise": True,
    "num_threads": 1,
    "verbosity": -1,
}
FEW_EXAMPLES = 10_000
FEW_SETTINGS = {"num_leaves": 7, "min_data_in_leaf": 50}
"""Settings of a level with fewer examples than `FEW_EXAMPLES`, such as the categories."""
OWN_VARIANCE = 0.4
"""Weight of the series' own variance of 26 weeks beside that of the model, where no plan is read;
the plan explains much of the own variance. Chosen on validation."""
DISPERSION_SHARE = 0.4
"""Share of the origins, the latest, whose errors the dispersion of few examples is fitted on."""
DISPERSION_ROWS = 10_000
"""Rows that the dispersion is fitted on."""


class BoostedCount:
    """Boosted trees for the mean (Tweedie loss), a negative binomial around it.

    Trees predict demand over the series' own scale, so that one model serves items of every volume;
    stores and categories have trees of their own. The variance is a mean of the series' own, with
    weight `own_variance`, and of mean·(1 + exp(θ·x)), x few numbers that say how regular the item
    is; θ maximises the likelihood of the fit examples. Trees know few examples by heart: there they
    are small, and θ is that of the latest origins around trees of the origins before them. One
    model for all quantiles: on Complete Journey as good as a quantile regression for each, and much
    faster.
    """

    is_baseline = False

    def __init__(
        self, name: str, features: Sequence[str], description: str = "", *, own_variance: float
    ) -> None:
        self.name = name
        self.description = description
        self.features = list(features)
        self.own_variance = own_variance
        self.theta: dict[str, Array] = {}
        self.boosters: dict[str, Any] = {}
        self.fitted_on: pl.DataFrame | None = None

    def fit(self, examples: pl.DataFrame) -> None:
        """Learn the trees, then the dispersion, of each level that has enough examples."""
        self.theta, self.boosters, self.fitted_on = {}, {}, examples
        for level in LEVELS:
            rows = examples.filter(pl.col("level") == level)
            if rows.height >= SMALLEST_FIT:
                self._fit_level(level, rows)
            elif level == LEVELS[0]:
                raise NotEnoughHistoryError(
                    f"{self.name}: {rows.height} item × origin examples, {SMALLEST_FIT} are needed"
                )

    def _fit_level(self, level: str, rows: pl.DataFrame) -> None:
        import lightgbm

        label, scale = (rows[name].cast(pl.Float64).to_numpy() for name in ("label", "scale"))
        few = rows.height < FEW_EXAMPLES
        settings = SETTINGS | (FEW_SETTINGS if few else {})
        data = lightgbm.Dataset(
            self._matrix(rows),
            label / scale,
            weight=scale,
            params={name: SETTINGS[name] for name in ("verbosity", "max_bin")},
        )
        trees = lightgbm.train(settings, data, num_boost_round=ROUNDS)
        self.boosters[level] = trees
        origins = rows["origin"].unique().sort()
        begin = origins[int((1 - DISPERSION_SHARE) * len(origins))]
        earlier = (rows["label_end"] <= begin).arg_true()
        if few and len(earlier) >= SMALLEST_FIT // 2:
            trees = lightgbm.train(settings, data.subset(earlier.to_list()), ROUNDS)
            rows = rows.filter(pl.col("origin") >= begin)
        some = _some_rows(rows)
        self.theta[level] = _fit_dispersion(some, self._mean(trees, some))

    def predict(self, examples: pl.DataFrame) -> Array:
        """Return mean, variance and quantiles [n, 2 + quantiles].

        Rows of a level without trees are predicted by those of the items.
        """
        moments = np.empty((examples.height, 2))
        levels = examples["level"].to_numpy()
        for level in np.unique(levels):
            known = level if level in self.boosters else LEVELS[0]
            at = levels == level
            rows = examples.filter(pl.Series(at))
            mean = self._mean(self.boosters[known], rows)
            excess = np.exp(np.clip(_dispersion_terms(rows, mean) @ self.theta[known], -4, 6))
            variance = (1 - self.own_variance) * mean * (1 + excess)
            variance += self.own_variance * own_variance(rows, mean)
            moments[at] = np.column_stack([mean, variance])
        quantiles = negative_binomial(moments[:, MEAN], moments[:, VARIANCE], QUANTILES)
        return np.column_stack([moments, quantiles])

    def state(self) -> dict[str, Any]:
        """Return features, variance, dispersion and the trees as LightGBM's text."""
        return {
            "features": self.features,
            "own_variance": self.own_variance,
            "theta": {level: theta.tolist() for level, theta in self.theta.items()},
            "trees": {level: trees.model_to_string() for level, trees in self.boosters.items()},
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take back what `state` returned."""
        import lightgbm

        self.features = list(state["features"])
        self.own_variance = float(state["own_variance"])
        self.theta = {level: np.array(theta) for level, theta in state["theta"].items()}
        self.boosters = {
            level: lightgbm.Booster(model_str=trees) for level, trees in state["trees"].items()
        }

    def _matrix(self, examples: pl.DataFrame) -> NDArray[np.float32]:
        return examples.select(pl.col(self.features).cast(pl.Float32)).to_numpy()

    def _mean(self, trees: Any, examples: pl.DataFrame) -> Array:
        ratio = np.asarray(trees.predict(self._matrix(examples), num_threads=1))
        mean = ratio * examples["scale"].cast(pl.Float64).to_numpy()
        return np.asarray(np.maximum(mean, 0.02))


class PlanAware:
    """`BoostedCount` that reads the promotion plan of the target weeks where it is known.

    Rows without a plan are predicted by `plain`, a candidate without those features; what it learnt
    from the same examples is used again.
    """

    description = "The same, which also reads the promotion plan where it is known."
    is_baseline = False
    extends = (BOOSTED,)

    def __init__(self, name: str, plain: BoostedCount) -> None:
        self.name = name
        self.planned = BoostedCount(name, (*BASE_FEATURES, *PLAN_FEATURES), own_variance=0.0)
        self.plain = plain
        self.fitted_on: pl.DataFrame | None = None

    def fit(self, examples: pl.DataFrame) -> None:
        """Learn the planned weeks; NotEnoughHistoryError without any."""
        known = examples.filter("promo_known")
        if not known.height:
            raise NotEnoughHistoryError(f"{self.name}: there is no promotion plan of any week")
        self.planned.fit(known)
        self.fitted_on = examples

    def predict(self, examples: pl.DataFrame) -> Array:
        """Return mean, variance and quantiles [n, 2 + quantiles]."""
        known = examples["promo_known"].to_numpy()
        result = np.empty((examples.height, 2 + len(QUANTILES)))
        if known.any():
            result[known] = self.planned.predict(examples.filter("promo_known"))
        if not known.all():
            result[~known] = self._without_plan().predict(examples.filter(~pl.col("promo_known")))
        return result

    def _without_plan(self) -> BoostedCount:
        """Return `plain`, which learns when first asked: many tests have a plan of all rows."""
        if self.fitted_on is not None and self.plain.fitted_on is not self.fitted_on:
            self.plain.fit(self.fitted_on)
        return self.plain

    def state(self) -> dict[str, Any]:
        """Return the states of both."""
        return {"planned": self.planned.state(), "plain": self._without_plan().state()}

    def restore(self, state: dict[str, Any]) -> None:
        """Take back what `state` returned."""
        self.fitted_on = None
        self.planned.restore(state["planned"])
        self.plain.restore(state["plain"])


def _dispersion_terms(examples: pl.DataFrame, mean: Array) -> Array:
    """Return what the variance depends on [n, 7]: the mean, how regularly the item sold."""
    column = {
        name: examples[name].cast(pl.Float64).to_numpy()
        for name in ("variance_26", "mean_13", "ma_26", "scale", "mailer_13", "weeks_since_sale")
    }
    log_mean = np.log(mean)
    own = np.log1p(column["variance_26"] / np.maximum(column["mean_13"], 0.05))
    usual = np.log(np.maximum(column["ma_26"], 0.05) * column["scale"]) - log_mean
    return np.column_stack(
        [
            np.ones(len(mean)),
            log_mean,
            log_mean**2,
            own,
            usual,
            column["mailer_13"],
            column["weeks_since_sale"] / 10,
        ]
    )


def _some_rows(examples: pl.DataFrame) -> pl.DataFrame:
    """Return at most `DISPERSION_ROWS` of the examples, drawn with a fixed seed."""
    if examples.height <= DISPERSION_ROWS:
        return examples
    rows = np.random.default_rng(7).choice(examples.height, DISPERSION_ROWS, replace=False)
    return examples[np.sort(rows)]


def _fit_dispersion(examples: pl.DataFrame, mean: Array) -> Array:
    """Maximise the negative binomial likelihood of the labels given the means; returns θ [7]."""
    from scipy.optimize import minimize
    from scipy.special import gammaln, psi

    x, mu = _dispersion_terms(examples, mean), mean
    y = np.round(examples["label"].cast(pl.Float64).to_numpy())

    def loss(theta: Array) -> tuple[float, Array]:
        linear = np.clip(x @ theta, -4, 6)
        excess = np.exp(linear)  # variance / mean − 1
        size = mu / excess
        log_odds = np.log1p(excess)
        value = gammaln(y + size) - gammaln(size) - (size + y) * log_odds + y * linear
        # d size / d linear = −size
        slope = -size * (psi(y + size) - psi(size) - log_odds)
        slope = slope - (size + y) * excess / (1 + excess) + y
        return float(-value.mean()), np.asarray(-(x * slope[:, None]).mean(axis=0))

    found = minimize(loss, np.zeros(x.shape[1]), jac=True, method="L-BFGS-B")
    return np.asarray(found.x, dtype=np.float64)
