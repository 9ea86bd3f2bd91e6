"""A lead time of an item's own: its weeks, its season, and how the error of a level grows."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import polars as pl
import pytest

from seq_ml.business import Inventory
from seq_ml.schema import STOCK
from seq_ml.tasks.candidate import Champion
from seq_ml.tasks.inventory.baselines import BASELINES, SEASONAL
from seq_ml.tasks.inventory.horizons import level_weeks
from seq_ml.tasks.inventory.panel import build_panel
from seq_ml.tasks.inventory.task import InventoryTask
from tests.data import AS_OF
from tests.tasks.inventory.histories import purchases, task_data, with_plan

WEEKS, ITEMS = 104, 60


def sold(units: np.ndarray) -> pl.DataFrame:
    """Purchases of items × weeks, a line a week."""
    return purchases(
        *(
            (f"i{item:02}", float(of), AS_OF - timedelta(weeks=units.shape[1] - week, days=-2))
            for item, weeks in enumerate(units)
            for week, of in enumerate(weeks)
            if of
        )
    )


def stock(**lead_times: float) -> pl.DataFrame:
    """A count of items with lead times of their own."""
    frame = pl.DataFrame(
        {"item_id": list(lead_times), "lead_time_days": list(lead_times.values())}
    ).with_columns(
        store_id=pl.lit("ALL"),
        counted_at=pl.lit(AS_OF - timedelta(days=1)),
        on_hand=pl.lit(5.0),
        on_order=pl.lit(0.0),
    )
    lacking = [name for name in STOCK.names if name not in frame.columns]
    frame = frame.with_columns(pl.lit(None, pl.Float64).alias(name) for name in lacking)
    return frame.select(STOCK.names)


def test_an_item_is_forecast_over_its_own_weeks():
    """Last year sold ten times as much from the third week on: who waits for five weeks sees it."""
    units = np.full((3, WEEKS), 4.0)
    units[:, WEEKS - 52 + 2 : WEEKS - 52 + 6] = 40.0
    data = task_data(
        events=sold(units),
        promotions=with_plan().clear(),
        stock=stock(i01=28.0, i02=10.0),
        terms=Inventory(lead_time_days=7, review_period_days=7),
    )
    task = InventoryTask()
    serving = task.serving(data, AS_OF)
    assert set(serving.examples["horizon_weeks"]) == {2.0}
    assert serving.read.examples.select("item_id", "horizon_weeks").rows() == [
        ("i02", 3.0),
        ("i01", 5.0),
    ]
    rows = task.rows(data, AS_OF, serving, Champion(BASELINES[SEASONAL], "v1"))
    mean = dict(rows.select("item_id", "demand_mean").rows())
    assert mean["i00"] == pytest.approx(2 * 4)
    assert mean["i01"] == pytest.approx(2 * 4 + 3 * 40)
    assert mean["i02"] == pytest.approx((2 * 4 + 40) * 17 / 21)  # 17 days of three weeks


@pytest.mark.parametrize(("drift", "low", "high"), [(0.0, 11, 26), (0.12, 1, 8)])
def test_what_a_level_rests_on_is_told_by_its_errors(drift, low, high):
    """A steady demand is known like the mean of its memory; one that drifts like that of few."""
    rng = np.random.default_rng(4)
    steps = rng.normal(0, drift, (ITEMS, WEEKS)) - drift**2 / 2
    level = 12 * np.exp(np.cumsum(steps, axis=1))
    data = task_data(events=sold(rng.poisson(level)), promotions=with_plan().clear())
    panel = build_panel(data, AS_OF, horizon=8)
    assert low <= level_weeks(panel, panel.n_weeks, 8) <= high


def test_the_error_of_a_level_is_made_again_in_every_week():
    """Demand that drifts, judged over two weeks and ordered for eight: p90 holds 90 %."""
    rng = np.random.default_rng(6)
    items = 300
    steps = rng.normal(0, 0.12, (items, WEEKS + 8)) - 0.12**2 / 2
    units = rng.poisson(12 * np.exp(np.cumsum(steps, axis=1)))
    names = {f"i{item:02}": 49.0 for item in range(items)}
    data = task_data(
        events=sold(units[:, :WEEKS]), promotions=with_plan().clear(), stock=stock(**names)
    )
    task = InventoryTask()
    served = task.serving(data, AS_OF)

    class Level:
        """The mean of eight weeks, and its true spread over two weeks."""

        name, is_baseline = "level", True

        def predict(self, examples: pl.DataFrame) -> np.ndarray:
            weeks = examples["horizon_weeks"].cast(pl.Float64).to_numpy()
            mean = examples["mean_8"].cast(pl.Float64).to_numpy()
            recent = np.stack([units[:, w - 8 : w].mean(axis=1) for w in range(60, WEEKS - 1)])
            then = np.stack([units[:, w : w + 2].sum(axis=1) for w in range(60, WEEKS - 1)])
            ratio = ((then - 2 * recent) ** 2).sum() / (2 * recent).sum()
            moments = [mean * weeks, mean * weeks * ratio]
            return np.column_stack([*moments, *[np.zeros(len(mean))] * 4])

    rows = task.rows(data, AS_OF, served, Champion(Level(), "v1")).filter(level="item")
    after = pl.DataFrame(
        {"item_id": list(names), "after": units[:, WEEKS:].sum(axis=1).astype(float)}
    )
    held = rows.join(after, on="item_id")
    assert 0.85 < (held["after"] <= held["demand_p90"]).mean() < 0.95
