"""Shops at the edge: one item alone, quantities that no forecast can be made of."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import polars as pl
import pytest

from seq_ml.evaluation.backtest import backtest
from seq_ml.tasks.candidate import Champion
from seq_ml.tasks.inventory.task import InventoryTask
from seq_ml.tasks.task import NotEnoughHistoryError
from tests.data import AS_OF
from tests.tasks.inventory.histories import purchases, task_data, with_plan

WEEKS = 60


def shop(items: int, **quantities: float):
    """Items that sell a few units a week; quantities: what an item sold in its 50th week."""
    rng, rows = np.random.default_rng(0), []
    for item in (f"i{n:02}" for n in range(items)):
        for week in range(WEEKS):
            sold = rng.poisson(5) + 1.0
            time = AS_OF - timedelta(weeks=WEEKS - week, days=-2)
            rows.append((item, quantities.get(item, sold) if week == 50 else sold, time))
    return task_data(events=purchases(*rows), promotions=with_plan().clear())


def published(data) -> pl.DataFrame:
    task = InventoryTask()
    judged = backtest(task, task.examples(data, AS_OF), as_of=AS_OF, seed=7)
    champion = Champion(judged.published, "v1", judged.metrics_json())
    return task.rows(data, AS_OF, task.serving(data, AS_OF), champion)


def test_one_item_alone_is_forecast_by_a_simple_method():
    rows = published(shop(1))
    assert rows["item_id"].to_list() == ["i00"]
    assert rows["source"].item().endswith("negative_binomial")
    assert 9 < rows["demand_mean"].item() < 15
    assert rows["demand_mean"].item() < rows["order_up_to"].item() < 30


def test_a_huge_quantity_stays_with_its_item():
    rows = published(shop(40, i00=1e11))
    numbers = [name for name, kind in rows.schema.items() if kind.is_float()]
    told = rows.select(pl.col(numbers).drop_nulls().is_finite().all())
    assert all(told.row(0))
    assert rows.filter(pl.col("item_id") != "i00")["demand_p95"].max() < 100


@pytest.mark.parametrize("huge", [1e13, 1e300, float("inf")])
def test_a_quantity_beyond_all_numbers_is_refused_by_name(huge):
    for refuses in (InventoryTask().examples, InventoryTask().serving):
        with pytest.raises(NotEnoughHistoryError, match=r"i07 .* units in the week of 2017-10"):
            refuses(shop(40, i07=huge), AS_OF)
