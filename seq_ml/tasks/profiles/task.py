"""What each user will spend in the next 91 days: the forecast that won its own test.

Judged like every task: simple methods and a model, chosen on one closed window, judged once on the
next, published as judged. Three windows end at `as_of`: the first one fits, the second one chooses,
the third one judges; the published forecast is then fitted on the third. The interval is empirical:
what users with a like forecast spent, relative to it, in the newest window whose forecast was made
without it (split conformal prediction, Vovk et al. 2005, within groups of ten).

91 days is what a year of data can choose, judge and calibrate out of time; 365 days are not.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from seq_ml.metrics.bootstrap import Draws, bootstrap
from seq_ml.metrics.metric import Metric
from seq_ml.periods import HORIZON_DAYS, RECENT_DAYS, WINDOW_DAYS
from seq_ml.schema import USER_PROFILES
from seq_ml.tasks.behaviour.orders_model import (
    OrderHistory,
    Orders,
    OrderValue,
    order_history,
    simulate_spend,
)
from seq_ml.tasks.behaviour.visits import read_behaviour
from seq_ml.tasks.task import NotEnoughHistoryError

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from numpy.typing import NDArray

    from seq_ml.business import Business
    from seq_ml.metrics.bootstrap import Estimate
    from seq_ml.tasks.data import TaskData

    Floats = NDArray[np.float64]

RATE_DAYS = 56
"""Fewest days that a rate is taken over: a first basket is no habit (chosen on summer 2017). So
many days lie before the first window, or everybody in it would look new."""
FEWEST_USERS = 50
"""Users of a window from which quantiles in tenths can be taken."""
MOST_USERS = 20_000
"""More are sampled where something is only measured or fitted: a million users teach no more."""
GROUPS = 10
LOW, HIGH = 0.1, 0.9
DRAWS = 500
"""Simulated futures of each user, for the interval of BG/NBD and Gamma-Gamma."""

BG_NBD = "bg_nbd_gamma_gamma"
FORECASTS = {
    "average": "everybody's average spend of the last closed window",
    "last_window": "the user's spend of the last 91 days again",
    "own_rate": "the user's spend a day since the first order",
    BG_NBD: "expected orders (BG/NBD) × expected value of an order (Gamma-Gamma)",
    "shrunken_rate": "a share of the user's rates of 28 and 91 days and of the whole history, plus "
    "the same for everybody; the shares fitted on the last closed window, none negative",
}
MODELS = ("shrunken_rate",)
"""All others are baselines: one of them is published unless a model beats it beyond chance."""
TENURES = (
    ("up to 28", -1, RECENT_DAYS),
    ("29 to 91", RECENT_DAYS, WINDOW_DAYS),
    ("more", WINDOW_DAYS, np.inf),
)
RATES = ("rate_28d", "rate_91d", "rate_all")


@dataclass(frozen=True)
class Origin:
    """All buyers at one instant: their rates before it and, once closed, their spend after it.

    rates: currency units per HORIZON_DAYS at the rate of 28 days, 91 days, since the first order
    [n, 3]. spent: in [at, at + HORIZON_DAYS) [n], None while the window is open.
    """

    at: datetime
    history: OrderHistory
    rates: Floats
    spent: Floats | None


@dataclass(frozen=True)
class SpendForecast:
    """The published forecast and what its test found.

    rows: user_id, clv_expected, clv_p10, clv_p90, sorted.  published: its name in FORECASTS.
    validation: root mean squared error of each forecast in the window that chose.  draws: metric →
    forecast → value and resamples in the test window.  shares: of MODELS, for the published fit.
    tenure: (days since the first order, users, mean forecast, mean spend) in the test window.
    windows: name → first instant, end and users.
    """

    rows: pl.DataFrame
    published: str
    baseline: str
    verdict: str
    validation: dict[str, float]
    draws: dict[str, dict[str, Draws]]
    shares: dict[str, float]
    tenure: list[tuple[str, int, float, float]]
    windows: dict[str, tuple[datetime, datetime, int]]

    def improvement(self) -> Estimate:
        """Root mean squared error of the best baseline minus that of the model (paired)."""
        return self.draws["rmse"][self.baseline].minus(self.draws["rmse"][MODELS[0]])


def forecast_spend(
    visits: pl.DataFrame, business: Business, as_of: datetime, *, seed: int
) -> SpendForecast:
    """Choose, judge and publish a forecast of the spend from `as_of` on.

    visits: orders strictly before `as_of` (`Behaviour.visits`). Raises NotEnoughHistoryError when
    three windows of 91 days, eight weeks before them and 50 buyers are not there.
    """
    first: Any = visits["at"].min()
    length = timedelta(days=HORIZON_DAYS)
    wanted = 3 * length + timedelta(days=RATE_DAYS)
    if first is None or as_of - first < wanted:
        have = 0 if first is None else (as_of - first).days
        raise NotEnoughHistoryError(
            f"spend forecast: {have} days of orders before {as_of:%Y-%m-%d}; choosing, judging and "
            f"publishing a forecast of {HORIZON_DAYS} days needs {wanted.days}"
        )
    some = visits.join(sample_users(visits["user_id"]).to_frame(), on="user_id", how="semi")
    fit, choose, test = (read_origin(some, business, as_of - n * length, as_of) for n in (3, 2, 1))
    serve = read_origin(visits, business, as_of, as_of)
    if len(fit.history) < FEWEST_USERS:
        raise NotEnoughHistoryError(
            f"spend forecast: {len(fit.history)} buyers before {fit.at:%Y-%m-%d}; quantiles need "
            f"{FEWEST_USERS}"
        )
    if not any(o.spent is not None and o.spent.any() for o in (fit, choose, test)):
        raise NotEnoughHistoryError("spend forecast: no order has a price above 0")
    # Where nobody orders twice, BG/NBD cannot be fitted; the others can.
    able = all(o.history.repeats.any() and (o.history.value > 0).any() for o in (fit, choose, test))
    names = [name for name in FORECASTS if able or name != BG_NBD]
    validation = {name: _rmse(expected(name, choose, fit), choose) for name in names}
    judged = {name: _with_interval(name, test, choose, fit) for name in names}
    if able:
        judged[f"{BG_NBD}, simulated interval"] = _simulated(test, seed)
    draws = _judge(test, judged, seed)
    baseline = min((n for n in names if n not in MODELS), key=lambda n: validation[n])
    gain = draws["rmse"][baseline].minus(draws["rmse"][MODELS[0]])
    published = MODELS[0] if gain.low > 0 else baseline
    rows = pl.DataFrame(
        _with_interval(published, serve, test, choose),
        schema=["clv_expected", "clv_p10", "clv_p90"],
    ).with_columns(user_id=pl.Series(serve.history.user_ids, dtype=pl.String))
    return SpendForecast(
        rows.select("user_id", "clv_expected", "clv_p10", "clv_p90"),
        published,
        baseline,
        _verdict(published, baseline, draws, gain),
        validation,
        draws,
        dict(zip(("everybody", *RATES), _shares(test).tolist(), strict=True)),
        _by_tenure(test, judged[published][:, 0]),
        {
            name: (origin.at, origin.at + length, len(origin.history))
            for name, origin in (("fit", fit), ("validation", choose), ("test", test))
        },
    )


def sample_users(users: pl.Series) -> pl.Series:
    """Return at most about MOST_USERS of the distinct user ids, sorted.

    Every n-th: pseudonyms are hashes, so that is a random sample, and the same one every time.
    """
    distinct = users.unique().sort()
    return distinct.gather_every(max(-(-len(distinct) // MOST_USERS), 1))


def expected(name: str, origin: Origin, closed: Origin) -> Floats:
    """Return one forecast's expected spend from `origin` on [n].

    closed: the newest origin whose window had closed by then; only it may be learnt from.
    """
    assert closed.spent is not None
    history = origin.history
    if name == "average":
        return np.full(len(history), float(closed.spent.mean()))
    if name in ("last_window", "own_rate"):
        return np.asarray(origin.rates[:, 1 if name == "last_window" else 2])
    if name == BG_NBD:
        orders, value = Orders.fit(history), OrderValue.fit(history)
        worth = value.expected_value(history.repeats + 1, history.value)
        worth = np.where(np.isfinite(worth), worth, history.value)  # a tail without a mean
        return orders.expected_orders(history, HORIZON_DAYS) * worth
    shares = _shares(closed)
    return np.asarray(shares[0] + origin.rates @ shares[1:])


def read_origin(visits: pl.DataFrame, business: Business, at: datetime, known: datetime) -> Origin:
    """Reduce the orders before `at`, and what was spent after it if that is `known`."""
    before = visits.filter(pl.col("at") < at)
    history = order_history(before, business.day_of(at))
    users = pl.DataFrame({"user_id": history.user_ids}, schema={"user_id": pl.String})

    def spend(start: datetime, end: datetime) -> Floats:
        part = visits.filter((pl.col("at") >= start) & (pl.col("at") < end))
        sums = part.group_by("user_id").agg(pl.col("spend").sum().round(3))
        found = users.join(sums, on="user_id", how="left", maintain_order="left")
        return found["spend"].fill_null(0.0).to_numpy()

    age = np.maximum(history.age, RATE_DAYS)
    long_ago = at - timedelta(days=100_000)
    rates = [
        spend(at - timedelta(days=RECENT_DAYS), at) / RECENT_DAYS,
        spend(at - timedelta(days=WINDOW_DAYS), at) / np.minimum(age, WINDOW_DAYS),
        spend(long_ago, at) / age,
    ]
    end = at + timedelta(days=HORIZON_DAYS)
    closed = spend(at, end) if end <= known else None
    return Origin(at, history, HORIZON_DAYS * np.column_stack(rates), closed)


def _shares(closed: Origin) -> Floats:
    """Least squares of what was spent on the rates before, no share negative [1 + 3]."""
    from scipy.optimize import nnls

    assert closed.spent is not None
    design = np.column_stack([np.ones(len(closed.spent)), closed.rates])
    return np.asarray(nnls(design, closed.spent)[0])


def _with_interval(name: str, origin: Origin, closed: Origin, before: Origin) -> Floats:
    """Return expected spend, p10 and p90 [n, 3]; the interval is taken from `closed`.

    before: the newest origin whose window had closed when that of `closed` began: the forecasts
    whose errors are looked at were made without the spend that they are held against.
    """
    assert closed.spent is not None
    learnt = expected(name, closed, before)
    made = expected(name, origin, closed)
    floor = max(0.01 * float(learnt.mean()), 1e-9)  # of a forecast of nothing no ratio can be taken
    learnt, scale = np.maximum(learnt, floor), np.maximum(made, floor)
    ratio = closed.spent / learnt
    order = np.argsort(learnt, kind="stable")
    groups = np.array_split(order, min(GROUPS, len(np.unique(learnt))))
    middle = np.array([np.log(learnt[g]).mean() for g in groups])
    bounds = [
        np.interp(np.log(scale), middle, [np.quantile(ratio[g], level) for g in groups]) * scale
        for level in (LOW, HIGH)
    ]
    return np.column_stack([made, *bounds])


def _simulated(origin: Origin, seed: int) -> Floats:
    """Return expected spend, p10 and p90 by simulating BG/NBD and Gamma-Gamma [n, 3]."""
    orders, value = Orders.fit(origin.history), OrderValue.fit(origin.history)
    spent = simulate_spend(orders, value, origin.history, HORIZON_DAYS, draws=DRAWS, seed=seed)
    low, high = np.quantile(spent, [LOW, HIGH], axis=1)
    return np.column_stack([spent.mean(axis=1), low, high])


def _rmse(made: Floats, origin: Origin) -> float:
    assert origin.spent is not None
    return float(np.sqrt(np.mean((made - origin.spent) ** 2)))


def _judge(test: Origin, made: dict[str, Floats], seed: int) -> dict[str, dict[str, Draws]]:
    """Return metric → forecast → value and paired resamples of the users."""
    assert test.spent is not None
    examples = pl.DataFrame({"user_id": test.history.user_ids, "label": test.spent})

    def metric(name: str, of: Callable[[Floats, Floats], Floats]) -> Metric:
        def by_user(frame: pl.DataFrame, predicted: Floats) -> pl.DataFrame:
            values = of(frame["label"].to_numpy(), predicted)
            return pl.DataFrame({"unit": frame["user_id"], "value": values})

        return Metric(name, higher_is_better=False, function=by_user, per_unit=True)

    def pinball(y: Floats, f: Floats) -> Floats:
        return sum(  # type: ignore[return-value]
            np.maximum(level * (y - f[:, k]), (level - 1) * (y - f[:, k]))
            for k, level in ((1, LOW), (2, HIGH))
        )

    metrics = [
        metric("rmse", lambda y, f: (y - f[:, 0]) ** 2),
        metric("mae", lambda y, f: np.abs(y - f[:, 0])),
        metric("bias", lambda y, f: f[:, 0] - y),
        metric("coverage", lambda y, f: ((y >= f[:, 1]) & (y <= f[:, 2])).astype(np.float64)),
        metric("width", lambda _, f: f[:, 2] - f[:, 1]),
        metric("pinball", pinball),
    ]
    found = bootstrap(metrics, examples, made, unit="user_id", seed=seed)
    return {
        m.name: {
            name: Draws(np.sqrt(d[m.name].value), np.sqrt(d[m.name].resampled))
            if m.name == "rmse"
            else d[m.name]
            for name, d in found.items()
        }
        for m in metrics
    }


def _by_tenure(test: Origin, made: Floats) -> list[tuple[str, int, float, float]]:
    assert test.spent is not None
    rows = []
    for name, low, high in TENURES:
        of = (test.history.age > low) & (test.history.age <= high)
        if of.any():
            means = float(made[of].mean()), float(test.spent[of].mean())
            rows.append((name, int(of.sum()), *means))
    return rows


def _verdict(
    published: str, baseline: str, draws: dict[str, dict[str, Draws]], gain: Estimate
) -> str:
    model = MODELS[0]
    error = draws["rmse"]
    held = draws["coverage"][published].estimate()
    compared = (
        f"the error (RMSE) of {model} is {error[model].value:.1f} against "
        f"{error[baseline].value:.1f} of {baseline}, {gain.value:.1f} [{gain.low:.1f}, "
        f"{gain.high:.1f}] less"
    )
    why = "" if published == model else ", which may be chance"
    return (
        f"{published} is published: {compared}{why}; its 80 % interval held "
        f"{held.value:.0%} [{held.low:.0%}, {held.high:.0%}] of the users."
    )


class SpendOutcomes:
    """What became of clv_*: profiles are no task, but this part is judged like the tasks' tables.

    `outcomes` and `window_ends` keep the contract of `seq_ml.tasks.task.Task`.
    """

    name = USER_PROFILES.name
    table = USER_PROFILES

    def outcomes(self, data: TaskData, predictions: pl.DataFrame, until: datetime) -> pl.DataFrame:
        """Return two rows per user whose clv_horizon_days have passed.

        clv_expected with the spend of the window, and clv_interval: the share that clv_p10 to
        clv_p90 should hold, with 1 where the spend was inside. `source` is the forecast's name.
        """
        end = pl.col("as_of") + pl.duration(days="clv_horizon_days")
        rows = predictions.filter(pl.col("clv_expected").is_not_null())
        rows = rows.with_columns(window_end=end).filter(pl.col("window_end") <= until)
        visits = read_behaviour(data, until).visits.select("user_id", "at", "spend")
        inside = pl.col("at").is_between("as_of", "window_end", closed="left")
        spent = (
            rows.select("user_id", "as_of", "window_end")
            .join(visits, on="user_id")
            .filter(inside)
            .group_by("user_id")
            .agg(spent=pl.col("spend").sum().round(3))
        )
        rows = rows.join(spent, on="user_id", how="left", maintain_order="left")
        rows = rows.with_columns(pl.col("spent").fill_null(0.0))
        held = pl.col("spent").is_between("clv_p10", "clv_p90").cast(pl.Float64)
        same = ("user_id", "window_end", pl.col("clv_source").alias("source"))
        return pl.concat(
            [
                rows.select(
                    *same,
                    target=pl.lit("clv_expected"),
                    predicted="clv_expected",
                    realised="spent",
                ),
                rows.select(
                    *same,
                    target=pl.lit("clv_interval"),
                    predicted=pl.lit(HIGH - LOW),
                    realised=held,
                ),
            ]
        )

    def window_ends(self, data: TaskData, predictions: pl.DataFrame) -> pl.Series:  # noqa: ARG002
        """Return when the forecasts' windows end."""
        known = predictions.filter(pl.col("clv_expected").is_not_null())
        return known.select(pl.col("as_of") + pl.duration(days="clv_horizon_days")).to_series()
