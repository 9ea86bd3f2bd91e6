"""Component forecasters of demand: baselines that count, and boosted trees around a distribution.

All predict [n, 2 + quantiles]: mean, variance and the quantiles `QUANTILES` of the units over the
horizon. The quantiles are of the sum over the horizon, never sums of weekly quantiles.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from seq_ml.tasks.demand import BASE_FEATURES, PLAN_FEATURES, QUANTILES
from seq_ml.tasks.task import NotEnoughHistoryError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    Array = NDArray[np.float64]

MEAN, VARIANCE = 0, 1
QUANTILE_COLUMN = {q: 2 + i for i, q in enumerate(QUANTILES)}
BOOSTED, BOOSTED_DUE = "boosted_count", "boosted_count_due_buyers"
BOOSTED_PLAN = "boosted_count_promo_plan"
WITHOUT_PLAN = BOOSTED_DUE
"""Candidate that predicts the rows of `BOOSTED_PLAN` whose plan is unknown."""
LEVELS = ("item", "item_store", "category")
SMALLEST_FIT = 200
ROUNDS = 100
DISPERSION_ROWS = 30_000
"""Rows that the dispersion is fitted on."""


def negative_binomial(mean: Array, variance: Array, levels: Sequence[float]) -> Array:
    """Quantiles [n, levels] of negative binomials with these moments (variance > mean)."""
    from scipy.stats import nbinom

    size, p = _parameters(mean, variance)
    return np.column_stack([nbinom.ppf(level, size, p) for level in levels])


def expected_excess(mean: Array, variance: Array, stock: Array) -> Array:
    """E[(D − stock)+] of negative binomial demand D: units lost when nothing is back-ordered.

    From k·P(D = k) = mean · P(D' = k − 1), D' the same distribution with size + 1.
    """
    from scipy.stats import nbinom

    size, p = _parameters(mean, variance)
    whole = np.floor(stock)
    above = mean * nbinom.sf(whole - 1, size + 1, p) - stock * nbinom.sf(whole, size, p)
    return np.asarray(np.maximum(above, 0.0))


def probability_above(mean: Array, variance: Array, stock: Array) -> Array:
    """P(D > stock) of negative binomial demand D [n]."""
    from scipy.stats import nbinom

    size, p = _parameters(mean, variance)
    return np.asarray(nbinom.sf(np.floor(stock), size, p))


def _parameters(mean: Array, variance: Array) -> tuple[Array, Array]:
    mean = np.maximum(mean, 0.01)
    variance = np.maximum(variance, 1.02 * mean)
    size = mean**2 / (variance - mean)
    return size, size / (size + mean)


class EmpiricalSums:
    """Baseline: empirical quantiles of the item's past sums over the horizon, 26 weeks."""

    name = "past_sums"
    is_baseline = True

    def fit(self, examples: pl.DataFrame) -> None:
        """Learn nothing."""

    def predict(self, examples: pl.DataFrame) -> Array:
        """Return mean, variance and quantiles [n, 2 + quantiles]."""
        columns = [f"sum_q{round(100 * q)}" for q in QUANTILES]
        wanted = examples.select(pl.col("sum_mean", "sum_variance", *columns).cast(pl.Float64))
        return wanted.to_numpy()

    def state(self) -> dict[str, Any]:
        """Return nothing."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Take nothing back."""


class MovingAverage(EmpiricalSums):
    """Baseline: mean of the last weeks, with a normal or negative binomial around it.

    `ma13_normal` is the textbook's mean + z·sd; `ma8_negative_binomial` takes the mean of 8 weeks
    and the variance of 26.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def predict(self, examples: pl.DataFrame) -> Array:
        """Return mean, variance and quantiles [n, 2 + quantiles]."""
        from scipy.stats import norm

        def column(name: str) -> Array:
            return examples[name].cast(pl.Float64).to_numpy()

        weeks = column("horizon_weeks")
        if self.name == "ma13_normal":
            mean, variance = column("mean_13") * weeks, column("sd_week_13") ** 2 * weeks
            spread = np.sqrt(variance)[:, None] * norm.ppf(QUANTILES)[None, :]
            quantiles = np.maximum(mean[:, None] + spread, 0)
        else:
            mean, variance = column("mean_8") * weeks, column("variance_26") * weeks
            mean = np.maximum(mean, 0.05)
            variance = np.maximum(variance, 1.05 * mean)
            quantiles = negative_binomial(mean, variance, QUANTILES)
        return np.column_stack([mean, variance, quantiles])


class Intermittent(EmpiricalSums):
    """Baseline of `statsforecast` on the item's weeks, a negative binomial of 26 weeks around it.

    `tsb` (Teunter, Syntetos and Babai 2011), `croston_sba` (Syntetos and Boylan 2005), `ses`
    (simple exponential smoothing, optimised): all forecast one level for every week to come.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def predict(self, examples: pl.DataFrame) -> Array:
        """Return mean, variance and quantiles [n, 2 + quantiles]."""
        from statsforecast.models import TSB, CrostonSBA, SimpleExponentialSmoothingOptimized

        methods: dict[str, Callable[[], Any]] = {
            "tsb_negative_binomial": lambda: TSB(0.1, 0.1),
            "croston_sba_negative_binomial": CrostonSBA,
            "ses_negative_binomial": SimpleExponentialSmoothingOptimized,
        }
        method = methods[self.name]()
        history = examples["history"].to_numpy().astype(np.float32)
        first = history.shape[1] - examples["memory_weeks"].to_numpy()
        level = np.array(
            [
                method.forecast(y=weeks[start:], h=1)["mean"][0]
                for weeks, start in zip(history, first, strict=True)
            ],
            dtype=np.float64,
        ).reshape(-1)
        weeks = examples["horizon_weeks"].cast(pl.Float64).to_numpy()
        mean = np.maximum(np.nan_to_num(level) * weeks, 0.05)
        variance = examples["variance_26"].cast(pl.Float64).to_numpy() * weeks
        variance = np.maximum(variance, 1.05 * mean)
        return np.column_stack([mean, variance, negative_binomial(mean, variance, QUANTILES)])


BASELINES: dict[str, Callable[[], EmpiricalSums]] = {
    "past_sums": EmpiricalSums,
    "ma8_negative_binomial": lambda: MovingAverage("ma8_negative_binomial"),
    "ma13_normal": lambda: MovingAverage("ma13_normal"),
    "tsb_negative_binomial": lambda: Intermittent("tsb_negative_binomial"),
    "croston_sba_negative_binomial": lambda: Intermittent("croston_sba_negative_binomial"),
    "ses_negative_binomial": lambda: Intermittent("ses_negative_binomial"),
}
"""Baselines by name: they learn nothing, so any of them can serve any row."""


class BoostedCount:
    """Boosted trees for the mean (Tweedie loss), a negative binomial around it.

    Trees predict demand over the series' own scale, so that one model serves items of every volume;
    stores and categories have trees of their own. The variance is mean·(1 + exp(θ·x)), x few
    numbers that say how regular the item is; θ maximises the likelihood of the fit examples. One
    model for all quantiles: on Complete Journey as good as a quantile regression for each, and much
    faster.
    """

    is_baseline = False

    def __init__(self, name: str, features: Sequence[str], *, rounds: int = ROUNDS) -> None:
        self.name = name
        self.features = list(features)
        self.rounds = rounds
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

        scale = rows["scale"].cast(pl.Float64).to_numpy()
        label = rows["label"].cast(pl.Float64).to_numpy()
        settings = {
            "objective": "tweedie",
            "tweedie_variance_power": 1.5,
            "learning_rate": 0.1,
            "num_leaves": 31,
            "min_data_in_leaf": max(5, min(100, rows.height // 200)),
            "lambda_l2": 1.0,
            "feature_fraction": 0.6,
            "max_bin": 63,
            "seed": 7,
            "deterministic": True,
            "force_col_wise": True,
            "num_threads": 1,
            "verbosity": -1,
        }
        data = lightgbm.Dataset(
            self._matrix(rows),
            label / scale,
            weight=scale,
            params={"verbosity": -1, "max_bin": 63},
        )
        self.boosters[level] = lightgbm.train(settings, data, num_boost_round=self.rounds)
        self.theta[level] = _fit_dispersion(rows, self._mean(level, rows), label)

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
            mean = self._mean(known, rows)
            excess = np.exp(np.clip(_dispersion_terms(rows, mean) @ self.theta[known], -4, 6))
            moments[at] = np.column_stack([mean, mean * (1 + excess)])
        quantiles = negative_binomial(moments[:, MEAN], moments[:, VARIANCE], QUANTILES)
        return np.column_stack([moments, quantiles])

    def state(self) -> dict[str, Any]:
        """Return features, dispersion and the trees as LightGBM's text."""
        return {
            "features": self.features,
            "theta": {level: theta.tolist() for level, theta in self.theta.items()},
            "trees": {level: trees.model_to_string() for level, trees in self.boosters.items()},
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take back what `state` returned."""
        import lightgbm

        self.features = list(state["features"])
        self.theta = {level: np.array(theta) for level, theta in state["theta"].items()}
        self.boosters = {
            level: lightgbm.Booster(model_str=trees) for level, trees in state["trees"].items()
        }

    def _matrix(self, examples: pl.DataFrame) -> NDArray[np.float32]:
        return examples.select(pl.col(self.features).cast(pl.Float32)).to_numpy()

    def _mean(self, level: str, examples: pl.DataFrame) -> Array:
        ratio = np.asarray(self.boosters[level].predict(self._matrix(examples), num_threads=1))
        mean = ratio * examples["scale"].cast(pl.Float64).to_numpy()
        return np.asarray(np.maximum(mean, 0.02))


class PlanAware:
    """`BoostedCount` that reads the promotion plan of the target weeks where it is known.

    Rows without a plan are predicted by `plain`, a candidate without those features; what it learnt
    from the same examples is used again.
    """

    is_baseline = False

    def __init__(self, name: str, plain: BoostedCount) -> None:
        self.name = name
        self.planned = BoostedCount(name, (*BASE_FEATURES, *PLAN_FEATURES))
        self.plain = plain

    def fit(self, examples: pl.DataFrame) -> None:
        """Learn both; NotEnoughHistoryError without any week that was planned."""
        known = examples.filter("promo_known")
        if not known.height:
            raise NotEnoughHistoryError(f"{self.name}: there is no promotion plan of any week")
        self.planned.fit(known)
        if self.plain.fitted_on is not examples:
            self.plain.fit(examples)

    def predict(self, examples: pl.DataFrame) -> Array:
        """Return mean, variance and quantiles [n, 2 + quantiles]."""
        known = examples["promo_known"].to_numpy()
        result = np.empty((examples.height, 2 + len(QUANTILES)))
        for model, rows in ((self.planned, known), (self.plain, ~known)):
            if rows.any():
                result[rows] = model.predict(examples.filter(pl.Series(rows)))
        return result

    def state(self) -> dict[str, Any]:
        """Return the states of both."""
        return {"planned": self.planned.state(), "plain": self.plain.state()}

    def restore(self, state: dict[str, Any]) -> None:
        """Take back what `state` returned."""
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


def _fit_dispersion(examples: pl.DataFrame, mean: Array, label: Array) -> Array:
    """Maximise the negative binomial likelihood of the labels given the means; returns θ [7]."""
    from scipy.optimize import minimize
    from scipy.special import gammaln, psi

    rows = np.arange(len(label))
    if len(rows) > DISPERSION_ROWS:
        rows = np.sort(np.random.default_rng(7).choice(rows, DISPERSION_ROWS, replace=False))
    x, mu, y = _dispersion_terms(examples, mean)[rows], mean[rows], np.round(label[rows])

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
