"""Weeks in which nothing was left: which they are, what was asked for, and that it helps."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import polars as pl
import pytest

from seq_ml.evaluation.leakage import feature_time
from seq_ml.schema import STOCK
from seq_ml.tasks.inventory.baselines import BASELINES
from seq_ml.tasks.inventory.panel import build_panel
from seq_ml.tasks.inventory.stockouts import unconstrain
from seq_ml.tasks.inventory.task import InventoryTask
from tests.data import AS_OF
from tests.tasks.inventory.histories import purchases, task_data, with_plan


def counted(*rows: tuple[str, str, int, float]) -> pl.DataFrame:
    """Stock of (item, store, whole days before AS_OF, on hand)."""
    frame = pl.DataFrame(
        [(item, store, AS_OF - timedelta(days=ago), units) for item, store, ago, units in rows],
        schema=dict(list(STOCK.polars_schema().items())[:4]),
        orient="row",
    )
    return frame.with_columns(
        pl.lit(0.0 if name == "on_order" else None, pl.Float64).alias(name)
        for name in STOCK.names[4:]
    )


def test_a_week_is_censored_from_a_count_of_none_until_it_sells_or_is_counted_again():
    weeks = (8, 0, 6, 0, 0, 0, 0, 9)
    rows = [("a", float(n), AS_OF - timedelta(weeks=8 - w)) for w, n in enumerate(weeks)]
    stock = counted(("a", "ALL", 45, 0.0), ("a", "ALL", 30, 0.0), ("a", "ALL", 10, 12.0))
    data = task_data(events=purchases(*(r for r in rows if r[1])), stock=stock)
    units = build_panel(data, AS_OF, 2).units[0]
    # counted empty in weeks 1 and 3; it sold in week 2, so it had come; counted full in week 6
    assert units[[0, 2, 6, 7]].tolist() == [8, 6, 0, 9]
    assert units[1] == 8
    assert units[3] == pytest.approx(np.mean([8, 8, 6]))
    assert (units[4:6] > 6).all()


def test_stores_tell_of_the_whole_where_all_that_were_counted_are_empty():
    events = purchases(*(("a", 5.0, AS_OF - timedelta(days=7 * n)) for n in (5, 4)))
    both = counted(("a", "s1", 20, 0.0), ("a", "s2", 20, 0.0), ("a", "s2", 3, 4.0))
    units = build_panel(task_data(events=events, stock=both), AS_OF, 2).units[0]
    assert units.tolist() == [5, 5, 5, 5, 0]
    one = counted(("a", "s1", 20, 0.0), ("a", "s2", 20, 4.0))
    assert build_panel(task_data(events=events, stock=one), AS_OF, 2).units[0, 2:].sum() == 0


def test_what_was_sold_is_the_least_that_was_asked_for():
    units = np.array([[4, 4, 4, 7, 0, 900]], dtype=np.float32)
    out = np.array([[True, False, False, True, True, True]])
    spend = 2 * units
    unconstrain(units, out, spend)
    assert units[0, :3].tolist() == [4, 4, 4]  # nothing is known before the first week
    assert 7 < units[0, 3] < 9
    assert units[0, 4] == pytest.approx(units[0, :4].mean())
    assert units[0, 5] == 900
    np.testing.assert_allclose(spend, 2 * units, rtol=1e-5)


def test_forecasts_of_what_ran_out_are_better_with_counts_than_without():
    """Demand is steady, a third of the weeks sell out after half of it: sales say too little."""
    rng = np.random.default_rng(3)
    items, weeks = 80, 40
    usual = rng.uniform(3, 12, (items, 1))
    demand = rng.poisson(usual, (items, weeks))
    short = rng.random((items, weeks)) < 1 / 3
    sold = np.where(short, np.minimum(demand, rng.poisson(usual / 2, (items, weeks))), demand)
    short = short & (sold < demand)
    at = [(f"i{i:02}", w) for i in range(items) for w in range(weeks)]
    events = purchases(
        *(
            (item, float(sold[int(item[1:]), w]), AS_OF - timedelta(days=7 * (weeks - w)))
            for item, w in at
            if sold[int(item[1:]), w]
        )
    )
    stock = counted(
        *(
            (item, "ALL", 7 * (weeks - w) - 6, 0.0 if short[int(item[1:]), w] else 5.0)
            for item, w in at
        )
    )
    errors, biases = {}, {}
    for name, counts in (("with", stock), ("without", stock.clear())):
        data = task_data(events=events, promotions=with_plan().clear(), stock=counts)
        rows = InventoryTask().serving(data, AS_OF).examples.filter(pl.col("level") == "item")
        gap = BASELINES["ma13_normal"].predict(rows)[:, 0] / 2 - usual[:, 0]
        errors[name], biases[name] = np.abs(gap).mean(), gap.mean() / usual.mean()
    assert biases["without"] < -0.1
    assert abs(biases["with"]) < 0.05
    assert errors["with"] < 0.75 * errors["without"]
    data = task_data(events=events, promotions=with_plan().clear(), stock=stock)
    examples = InventoryTask().examples(data, AS_OF)
    assert feature_time(InventoryTask(), data, examples, AS_OF) == ""
