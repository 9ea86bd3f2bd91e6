"""What each user will spend in the next weeks, which `user_profiles` says beside what rules say.

Three windows end at `as_of`: the first one fits, the second one chooses, the third one judges. What
is published is the champion, renewed by the newest closed window: its interval is taken from its
errors there, and its few numbers are learnt there, just as the judged ones were one window before.
"""

from __future__ import annotations

from copy import copy
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import polars as pl

from seq_ml.metrics.bootstrap import ratio_of_sums
from seq_ml.metrics.forecasts import pinball
from seq_ml.metrics.metric import Metric
from seq_ml.pages.page import Section
from seq_ml.schema import USER_PROFILES
from seq_ml.tasks.behaviour.spend import RATES, spend_features, spent_between
from seq_ml.tasks.behaviour.visits import read_behaviour, read_money
from seq_ml.tasks.profiles.features import MOST_USERS, closed_windows, sample
from seq_ml.tasks.profiles.models import HIGH, LOW, SHRUNKEN, spend_forecasts
from seq_ml.tasks.profiles.rows import user_profiles
from seq_ml.tasks.task import SPLITS, NotEnoughHistoryError, Serving, Task

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from numpy.typing import NDArray

    from seq_ml.tasks.candidate import Champion, Model
    from seq_ml.tasks.data import TaskData
    from seq_ml.tasks.judged import Backtest

    Floats = NDArray[np.float64]


class SpendTask(Task):
    """Expected spend of everybody who ordered, with an interval."""

    name = "spend"
    title = "Spend that is expected of each user"
    table = USER_PROFILES
    key = ("user_id",)
    unit = "user_id"
    primary_metric = "rmse"
    slices: ClassVar[tuple[str, ...]] = ("tenure",)
    by_user = True
    limits: ClassVar[tuple[str, ...]] = (
        "Nothing is said about spend beyond the horizon: the history can judge no more.",
        "Net of returns, each at its own instant; no forecast is below 0, though a window may be.",
        "The published interval is taken from a newer window than the one that is judged here.",
        f"Of more than {MOST_USERS:,} users a sample is judged, and learnt from.",
    )

    def examples(self, data: TaskData, as_of: datetime) -> pl.DataFrame:
        """Everybody who ordered before the origin; label: what they spent in the horizon from it.

        Of many users a sample is looked at.
        """
        data = sample(data)
        money = read_money(data.events_before(as_of), data.business)
        first: Any = money["at"].min()
        periods = data.periods
        days = (as_of - (first or as_of)).days
        wanted = len(SPLITS) * periods.value_days + periods.rate_days
        if days < wanted:
            raise NotEnoughHistoryError(
                f"{self.name} needs {wanted} days of orders before {as_of:%Y-%m-%d} to choose, "
                f"judge and publish a forecast of {periods.value_days} days, there are {days}."
            )
        windows = closed_windows(money, data.business, as_of, len(SPLITS), periods)
        examples = pl.concat(
            window.with_columns(split=pl.lit(split))
            for split, window in zip(SPLITS, windows, strict=True)
        )
        if examples["label"].sum() <= 0:
            raise NotEnoughHistoryError(f"{self.name}: no order has a price above 0.")
        return examples

    def serving(self, data: TaskData, as_of: datetime, units: pl.Series | None = None) -> Serving:
        """Everybody who ordered before `as_of`."""
        behaviour = read_behaviour(data, as_of)
        features = spend_features(behaviour.money, data.business, as_of, data.periods)
        return Serving(features)

    def candidates(self) -> list[Model]:
        """Average, own rates and BG/NBD with Gamma-Gamma against a share of the rates."""
        return [*spend_forecasts()]

    def metrics(self) -> list[Metric]:
        """Error of the expected spend; how often the interval holds, and what its ends cost."""
        unit = "Currency units a user"
        return [
            Metric(
                "rmse",
                higher_is_better=False,
                function=lambda rows, f: float(
                    np.sqrt(np.mean((f[:, 0] - rows["label"].to_numpy()) ** 2))
                ),
                weighted=ratio_of_sums(_squared_errors, np.sqrt),
                description=f"{unit}; one that is far off counts more than many that are near.",
            ),
            _by_user("mae", lambda y, f: np.abs(y - f[:, 0]), f"{unit}: the mean error."),
            _by_user("bias", lambda y, f: f[:, 0] - y, f"{unit}: forecast minus spend; 0 is best."),
            _by_user(
                "coverage",
                lambda y, f: ((y >= f[:, 1]) & (y <= f[:, 2])).astype(np.float64),
                f"Share of users whose spend was in the interval; {HIGH - LOW:.1f} is best.",
            ),
            _by_user("width", lambda _, f: f[:, 2] - f[:, 1], f"{unit}: of the interval."),
            _by_user(
                "pinball",
                lambda y, f: pinball(y, f[:, 1], LOW) + pinball(y, f[:, 2], HIGH),
                f"{unit}: loss of both ends of the interval; narrow and right is best.",
            ),
        ]

    def rows(
        self, data: TaskData, as_of: datetime, serving: Serving, champion: Champion
    ) -> pl.DataFrame:
        """Describe every user, with the spend that the renewed champion expects of them."""

        def renewed(some: TaskData) -> Any:
            money = read_behaviour(some, as_of).money
            (closed,) = closed_windows(money, some.business, as_of, 1, some.periods)
            model: Any = copy(champion.model)
            model.renew(closed)
            return model

        model = sample(data).keep(("renewed", champion.version, as_of), renewed)
        rests_on = champion.rests_on(data.periods.value_days, data.periods.history_days)
        forecast = pl.DataFrame(
            model.predict(serving.examples), schema=["clv_expected", "clv_p10", "clv_p90"]
        ).with_columns(
            serving.examples["user_id"], clv_source=pl.lit(model.name), rests_on=pl.lit(rests_on)
        )
        return user_profiles(data, as_of, forecast)

    def rows_without_champion(self, data: TaskData, as_of: datetime) -> pl.DataFrame:
        """Describe every user; clv_* is null."""
        return user_profiles(data, as_of)

    def sections(self, data: TaskData, result: Backtest) -> list[Section]:
        """Say what the model takes of each rate."""
        model: Any = result.published
        if model.name != SHRUNKEN:
            return []
        rows = [
            (name, f"{share:.3g}")
            for name, share in zip(("everybody", *RATES), model.parameters, strict=True)
        ]
        text = (
            f"{SHRUNKEN} adds these shares of the user's rates (spend per "
            f"{data.periods.value_days} days) to one amount for everybody. The published "
            "one learns them anew on the newest window."
        )
        return [Section("What is taken of each rate", text, (("rate", "share"), *rows))]

    def outcomes(self, data: TaskData, predictions: pl.DataFrame, until: datetime) -> pl.DataFrame:
        """Return two rows per user whose clv_horizon_days have passed.

        clv_expected with the spend of the window, and clv_interval: the share that clv_p10 to
        clv_p90 should hold, with 1 where the spend was inside. `source` is the forecast's name.
        """
        rows = predictions.filter(pl.col("clv_expected").is_not_null())
        if rows.is_empty():
            return super().outcomes(data, predictions, until)
        start = rows["as_of"][0]
        end = data.business.midnight_after(start, rows["clv_horizon_days"][0])
        if end > until:
            return super().outcomes(data, predictions, until)
        money = read_money(data.events_between(start, end), data.business)
        spent = spent_between(money, start, end)
        rows = rows.join(spent, on="user_id", how="left", maintain_order="left").with_columns(
            pl.col("spent").fill_null(0.0),
            source="clv_source",
            window_end=pl.lit(end, pl.Datetime("us", "UTC")),
        )
        inside = pl.col("spent").is_between("clv_p10", "clv_p90").cast(pl.Float64)
        judged = {
            "clv_expected": (pl.col("clv_expected"), pl.col("spent")),
            "clv_interval": (pl.lit(HIGH - LOW), inside),
        }
        return pl.concat(
            rows.select(
                "user_id",
                "window_end",
                "source",
                target=pl.lit(target),
                predicted=predicted,
                realised=realised,
            )
            for target, (predicted, realised) in judged.items()
        )

    def window_ends(self, data: TaskData, predictions: pl.DataFrame) -> pl.Series:
        """Return the ends of the horizons for which a spend was forecast."""
        rows = predictions.filter(pl.col("clv_expected").is_not_null())
        windows = rows.select("as_of", "clv_horizon_days").unique().rows()
        ends = [data.business.midnight_after(as_of, days) for as_of, days in windows]
        return pl.Series(ends, dtype=pl.Datetime("us", "UTC"))


def _squared_errors(rows: pl.DataFrame, predicted: Floats) -> tuple[Floats, Floats]:
    return (predicted[:, 0] - rows["label"].to_numpy()) ** 2, np.ones(rows.height)


def _by_user(name: str, of: Callable[[Floats, Floats], Floats], description: str) -> Metric:
    """Mean over users of a number that is made of label [n] and predictions [n, 3]."""

    def by_user(rows: pl.DataFrame, predicted: Floats) -> pl.DataFrame:
        values = of(rows["label"].to_numpy(), predicted)
        return pl.DataFrame({"unit": rows["user_id"], "value": values})

    return Metric(name, False, by_user, per_unit=True, description=description)
