"""The panel: weeks of the business, complete ones only, each promotion once a store."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import numpy as np
import polars as pl
import pytest

from seq_ml.schema import ITEMS
from seq_ml.tables.coverage import items_sold
from seq_ml.tasks.inventory.panel import build_panel, promotion_shares
from seq_ml.tasks.inventory.task import InventoryTask
from tests.data import AS_OF
from tests.tasks.inventory.histories import LAST_MONDAY, purchases, task_data


def test_weeks_are_cut_at_midnight_of_the_business_and_end_with_as_of():
    monday = datetime(2017, 12, 25, 5, tzinfo=UTC)  # midnight in New York
    events = purchases(
        ("a", 9.0, datetime(2017, 12, 6, 12, tzinfo=UTC)),  # a Wednesday: its week is incomplete
        ("a", 1.0, monday - timedelta(microseconds=1)),
        ("a", 2.0, monday),
        ("fuel", 17_000.0, monday),
    )
    items = catalogue("a", "fuel")
    panel = build_panel(task_data(events=events, items=items), AS_OF, horizon=2)
    assert panel.keys.rows() == [("a", "ALL")]
    assert panel.weeks[: panel.n_weeks] == [date(2017, 12, 11), date(2017, 12, 18), LAST_MONDAY]
    assert panel.units.tolist() == [[0.0, 1.0, 2.0]]
    thursday = build_panel(task_data(events=events, items=items), AS_OF - timedelta(days=4), 2)
    assert thursday.weeks[: thursday.n_weeks] == [date(2017, 12, 7 + 7 * n) for n in range(3)]
    assert thursday.units.tolist() == [[0.0, 0.0, 3.0]]  # what was sold on Monday is no forecast


def catalogue(*items: str) -> pl.DataFrame:
    """All of them merchandise but the fuel."""
    return pl.DataFrame(
        [
            {
                **dict.fromkeys(ITEMS.names),
                "item_id": item,
                "is_merchandise": item != "fuel",
                "valid_from": datetime(2016, 1, 1, tzinfo=UTC),
            }
            for item in items
        ],
        schema=ITEMS.polars_schema(),
    )


def test_a_store_promotes_an_item_at_most_once_a_week():
    """Two displays of one week are two rows, but one store."""
    row = {"item_id": "a", "store_id": "1", "week_start": LAST_MONDAY, "mailer": None}
    data = task_data(promotions=pl.DataFrame([{**row, "display": d} for d in ("front", "back")]))
    keys = pl.DataFrame({"item_id": ["a"], "store_id": ["1"]})
    for each_store in (True, False):
        display, _, _ = promotion_shares(data, keys, [LAST_MONDAY], each_store=each_store)
        assert display.tolist() == [[1.0]]


def test_a_week_that_two_weeks_of_the_plan_share_has_of_each_by_its_days():
    row = {"item_id": "a", "store_id": "1", "display": None, "mailer": "front"}
    other = {**row, "item_id": "b"}
    mondays = [LAST_MONDAY - timedelta(weeks=n) for n in (2, 1)]
    promotions = pl.DataFrame(
        [{**row, "week_start": mondays[0]}, *({**other, "week_start": day} for day in mondays)]
    )
    data = task_data(promotions=promotions)
    keys = pl.DataFrame({"item_id": ["a", "b"], "store_id": ["ALL", "ALL"]})
    thursdays = [mondays[0] + timedelta(days=3 + 7 * n) for n in (-1, 0, 1)]
    _, mailer, planned = promotion_shares(data, keys, thursdays, each_store=False)
    np.testing.assert_allclose(mailer, [[3 / 7, 4 / 7, 0], [3 / 7, 1, 4 / 7]], rtol=1e-6)
    assert planned.tolist() == [False, True, False]  # of the others it has some days only


@pytest.mark.parametrize("days", [0, 1, 4])
def test_the_items_of_complete_weeks_are_all_there_on_any_weekday(days):
    data, as_of = task_data(), AS_OF - timedelta(days=days)
    rows = InventoryTask().serving(data, as_of).examples
    assert items_sold(rows.lazy(), data, as_of) == {"items": 0}
    item = rows.filter(pl.col("level") == "item")["item_id"][0]
    assert items_sold(rows.lazy().filter(pl.col("item_id") != item), data, as_of) == {"items": 1}


def test_what_sold_before_a_young_shop_had_a_complete_week_is_not_lacking():
    monday = datetime(2017, 12, 25, 5, tzinfo=UTC)
    events = purchases(
        ("early", 1.0, datetime(2017, 12, 6, 12, tzinfo=UTC)),  # a Wednesday: AS_OF is a Monday
        ("a", 1.0, monday - timedelta(days=1)),
    )
    data = task_data(events=events, items=catalogue("a", "early"))
    assert items_sold(pl.LazyFrame({"item_id": ["a"]}), data, AS_OF) == {"items": 0}
    assert items_sold(pl.LazyFrame({"item_id": ["early"]}), data, AS_OF) == {"items": 1}
