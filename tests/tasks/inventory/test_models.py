"""Forecasters on more than a year: the season is learnt, and they are as sure as they say."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
import pytest

from seq_ml.evaluation.backtest import backtest
from seq_ml.evaluation.leakage import feature_time
from seq_ml.tasks.inventory import task as inventory
from seq_ml.tasks.inventory.baselines import BASELINES, SEASONAL, ses
from seq_ml.tasks.inventory.panel import build_panel
from seq_ml.tasks.inventory.task import InventoryTask
from tests.data import AS_OF
from tests.tasks.inventory.histories import purchases, task_data, with_plan

if TYPE_CHECKING:
    from seq_ml.tasks.data import TaskData


@pytest.fixture(scope="module")
def three_years() -> TaskData:
    """40 items over 150 weeks; 20 of them sell five times as much in the same weeks every year."""
    rng = np.random.default_rng(0)
    year = rng.choice([1, 5], 52)
    rows = []
    for item in range(40):
        usual = rng.uniform(2, 20)
        for week in range(150):
            sold = rng.poisson(usual * (year[week % 52] if item < 20 else 1))
            time = AS_OF - timedelta(weeks=150 - week, days=-2)
            if sold:
                rows.append((f"i{item:02}", float(sold), time))
    return task_data(events=purchases(*rows), promotions=with_plan().clear())


def test_a_season_is_learnt_where_there_is_more_than_a_year(three_years):
    from statsforecast.models import SeasonalNaive

    found = InventoryTask().examples(three_years, AS_OF)
    assert feature_time(InventoryTask(), three_years, found, AS_OF) == ""
    panel = build_panel(three_years, AS_OF, horizon=2)
    test = found.filter(pl.col("split") == "test")
    first = test.filter(pl.col("origin") == test["origin"].min())
    weeks = panel.n_weeks - 2 * inventory.TEST_HORIZONS
    year_ago = [
        SeasonalNaive(52).forecast(y=panel.units[row, :weeks], h=2)["mean"].sum()
        for row in range(len(first))
    ]
    baseline = BASELINES[SEASONAL]
    baseline.fit(found.filter(pl.col("split") == "fit"))
    np.testing.assert_allclose(baseline.predict(first)[:, 0], year_ago, rtol=1e-5)
    judged = backtest(InventoryTask(), found, as_of=AS_OF, seed=7)
    wape = {c.name: c.test["wape_regular"].value for c in judged.candidates if not c.left_out}
    assert wape[SEASONAL] < 0.5 * wape["ma8_negative_binomial"]
    assert judged.baseline == SEASONAL


def test_rare_sellers_are_forecast_as_by_statsforecast():
    from statsforecast.models import TSB, CrostonSBA

    rng = np.random.default_rng(5)
    history = rng.poisson(3, (80, 26)) * (rng.random((80, 26)) < rng.uniform(0.1, 1, (80, 1)))
    memory = rng.integers(6, 27, 80)
    for row, weeks in enumerate(memory):
        history[row, : 26 - weeks] = 0
        history[row, -1] += not history[row].any()
    rows = pl.DataFrame(
        {
            "history": pl.Series(history.astype(np.float32), dtype=pl.Array(pl.Float32, 26)),
            "memory_weeks": memory,
            "variance_26": np.ones(80),
            "horizon_weeks": np.full(80, 2.0),
            "ma_26": np.ones(80),
            "scale": np.ones(80),
        }
    )
    for name, model in (
        ("tsb_negative_binomial", TSB(0.1, 0.1)),
        ("tsb_0.2_negative_binomial", TSB(0.2, 0.2)),
        ("croston_sba_negative_binomial", CrostonSBA()),
    ):
        expected = [
            2 * model.forecast(y=of[26 - weeks :].astype(np.float32), h=1)["mean"][0]
            for of, weeks in zip(history, memory, strict=True)
        ]
        found = BASELINES[name].predict(rows)[:, 0]
        np.testing.assert_allclose(found, np.maximum(expected, 0.05), rtol=1e-5)


def test_smoothing_chooses_the_weight_that_statsforecast_does():
    """On a grid: the forecasts are nearly the same, but where all weights err alike."""
    from statsforecast.models import SimpleExponentialSmoothingOptimized

    history = np.random.default_rng(5).poisson(20, (80, 26)).cumsum(axis=1) % 97.0
    model = SimpleExponentialSmoothingOptimized()
    expected = np.array([model.forecast(y=of, h=1)["mean"][0] for of in history])
    off = np.abs(ses(history, np.ones(history.shape, dtype=bool)) / expected - 1)
    assert np.quantile(off, 0.8) < 0.02


def test_trees_are_as_sure_of_unseen_weeks_as_they_say(three_years):
    """The variance of few examples is that of errors on weeks that the trees did not see."""
    found = InventoryTask().examples(three_years, AS_OF)
    steady = found.filter(pl.col("item_id") >= "i20")
    model = InventoryTask().candidates()[-2]
    model.fit(steady.filter(pl.col("split") != "test"))
    test = steady.filter(pl.col("split") == "test")
    inside = test["label"].to_numpy() <= model.predict(test)[:, 4]
    assert 0.87 < inside.mean() < 0.95


def test_what_hardly_sells_any_more_is_not_as_uncertain_as_it_was(three_years):
    """Else the quantiles of a season that is over fall to 0 while its mean does not."""
    rng = np.random.default_rng(1)
    begin = AS_OF - timedelta(weeks=9)
    over = pl.col("item_id").is_in([f"i{item}" for item in range(30, 40)])
    late = over & (pl.col("event_time") >= begin)
    more = pl.col("quantity") * pl.when(over).then(30).otherwise(1)
    sold = three_years.events.collect().with_columns(more)
    few = sold.filter(late).with_columns(quantity=rng.choice([1.0, 2.0], 90))
    data = task_data(events=pl.concat([sold.filter(~late), few]), promotions=with_plan().clear())
    model = InventoryTask().candidates()[-2]
    model.fit(InventoryTask().examples(three_years, AS_OF))
    ended = InventoryTask().serving(data, AS_OF).examples.filter(over)
    for forecaster in (model, *BASELINES.values()):
        mean, _, *quantiles = forecaster.predict(ended).T
        assert (quantiles[-1] >= mean).all(), forecaster.name
