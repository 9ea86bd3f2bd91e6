"""Shelves by hand, stock at equal service, and the orders that stock counts lead to."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from seq_ml.business import Business, Inventory
from seq_ml.schema import EVENTS, INPUT_TABLES, INVENTORY_PREDICTIONS, STAMP, STOCK
from seq_ml.storage.contracts import check_key, conform
from seq_ml.tasks.candidate import Champion
from seq_ml.tasks.data import TaskData
from seq_ml.tasks.inventory.baselines import BASELINES
from seq_ml.tasks.inventory.distribution import QUANTILE_COLUMN, negative_binomial
from seq_ml.tasks.inventory.report import draws_of_items
from seq_ml.tasks.inventory.rows import better_baseline, inventory_rows, realised_demand
from seq_ml.tasks.inventory.shelves import TARGETS, at_service, simulate
from seq_ml.tasks.inventory.task import InventoryTask
from seq_ml.tasks.task import Serving

AS_OF = datetime(2024, 6, 3, tzinfo=UTC)  # a Monday


# --- the simulation -------------------------------------------------------------------------------


def test_shelves_by_hand():
    demand = np.array([[3.0, 5.0, 4.0, 2.0, 6.0]])
    levels = np.full((1, 1, 5), 8.0)
    found = simulate(levels, demand, lead=1, review=1)
    # week:       0  1  2  3  4
    # begins:     8  5  3  5  6    an order refills to 8, counting what is on order
    # sold:       3  5  3  2  6    (4 were asked in week 2)
    assert found.weeks == 3  # two weeks warm up
    assert found.sold.item() == 3 + 2 + 6
    assert found.asked.item() == 4 + 2 + 6
    assert found.empty.item() == 1
    assert found.on_hand.item() == (3 + 0) / 2 + (5 + 3) / 2 + (6 + 0) / 2


@given(
    arrays(np.int64, (3, 12), elements=st.integers(0, 20)),
    st.integers(0, 3),
    st.integers(1, 2),
)
@settings(max_examples=60, deadline=None)
def test_perfect_foresight_never_runs_out(demand, lead, review):
    demand = demand.astype(float)
    horizon = lead + review
    padded = np.pad(demand, ((0, 0), (0, horizon)))
    levels = np.stack([padded[:, w : w + horizon].sum(axis=1) for w in range(12)], axis=1)
    found = simulate(levels[None], demand, lead=lead, review=review)
    first = demand[:, 12 - found.weeks :]
    assert found.empty.sum() == 0
    np.testing.assert_allclose(found.sold[0], first.sum(axis=1))


@given(arrays(np.int64, (4, 10), elements=st.integers(0, 30)))
@settings(max_examples=40, deadline=None)
def test_a_higher_level_never_serves_less(demand):
    levels = np.broadcast_to(np.array([5.0, 15.0, 40.0])[:, None, None], (3, 4, 10))
    found = simulate(levels, demand.astype(float), lead=1, review=1)
    assert (np.diff(found.sold, axis=0) >= 0).all()
    assert (np.diff(found.on_hand, axis=0) >= 0).all()
    assert (found.sold <= found.asked).all()


def test_stock_at_equal_service_is_read_between_the_targets():
    rng = np.random.default_rng(3)
    demand = rng.poisson(5, (200, 30)).astype(float)
    mean = np.full(200, 10.0)
    levels = negative_binomial(mean, 1.1 * mean, TARGETS).T[:, :, None].repeat(30, axis=2)
    shelves = simulate(levels, demand, lead=1, review=1)
    counts = draws_of_items(200, seed=1)
    stock, fill, empty = shelves.curves(counts[:1])
    found = at_service(shelves, counts)["98 % fill"]
    place = np.searchsorted(fill[0], 0.98)
    assert stock[0, place - 1] <= found[0] <= stock[0, place]
    assert np.quantile(found[1:], 0.025) < found[0]
    # The distribution is a little wider than the demand, and what is lost is not asked again.
    assert 0.01 < empty[0, TARGETS.index(0.95)] < 0.05
    nowhere = simulate(levels[:1], demand, lead=1, review=1)
    assert np.isnan(at_service(nowhere, counts)["98 % fill"]).all()


# --- orders ---------------------------------------------------------------------------------------


def purchases(*rows: tuple[str, str, date]) -> pl.LazyFrame:
    """clean_events of (user, item, day), two units each, sold in store s1."""
    return pl.LazyFrame(
        [
            {
                **dict.fromkeys(EVENTS.names),
                "event_id": f"e{n}",
                "user_id": user,
                "item_id": item,
                "store_id": "s1",
                "event_time": datetime(day.year, day.month, day.day, 12, tzinfo=UTC),
                "event_type": "purchase",
                "quantity": 2.0,
                "event_date": day,
            }
            for n, (user, item, day) in enumerate(rows)
        ],
        schema=EVENTS.polars_schema(),
    )


def task_data(events: pl.LazyFrame, stock: pl.DataFrame | None = None, **terms) -> TaskData:
    empty = {
        name: pl.DataFrame(schema=table.polars_schema()) for name, table in INPUT_TABLES.items()
    }
    return TaskData(
        events,
        empty["items"],
        empty["campaigns"],
        empty["campaign_items"],
        empty["promotions"].lazy(),
        Business(inventory=Inventory(**terms)),
        stock=empty["stock"] if stock is None else stock,
    )


class Known:
    """A model that says what it is told."""

    name = "known"
    is_baseline = False

    def __init__(self, mean: float, variance: float) -> None:
        self.moments = np.array([[mean, variance]])

    def predict(self, examples: pl.DataFrame) -> np.ndarray:
        moments = self.moments.repeat(examples.height, axis=0)
        return np.column_stack([moments, negative_binomial(*moments.T, list(QUANTILE_COLUMN))])


def serving(*keys: tuple[str, str, str]) -> pl.DataFrame:
    frame = pl.DataFrame(keys, schema=["item_id", "store_id", "level"], orient="row")
    return frame.with_columns(
        segment=pl.lit("regular"), demand_class=pl.lit("smooth"), promo_known=pl.lit(value=False)
    )


def counts(*rows: tuple) -> pl.DataFrame:
    """Stock of (item, store, days ago, on hand, on order, lead time, pack); no further terms."""
    frame = pl.DataFrame(
        [(i, s, AS_OF - timedelta(days=ago), *rest) for i, s, ago, *rest in rows],
        schema=dict(list(STOCK.polars_schema().items())[:7]),
        orient="row",
    )
    return frame.with_columns(pl.lit(None, pl.Float64).alias(name) for name in STOCK.names[7:])


def rows_of(stock: pl.DataFrame, frame: pl.DataFrame, **terms) -> pl.DataFrame:
    data = task_data(purchases(), stock, **terms)
    champion = Champion(Known(28.0, 60.0), "v1")
    found = inventory_rows(data, AS_OF, Serving(frame), champion, 2)
    names = {c.name: pl.lit("x") for c in STAMP if c.name not in found.columns and c.dtype == "str"}
    times = {"as_of": pl.lit(AS_OF), "created_at": pl.lit(AS_OF)}
    table = conform(found.with_columns(**names, **times), INVENTORY_PREDICTIONS)
    check_key(table, INVENTORY_PREDICTIONS)
    return table


def test_an_order_raises_the_position_to_the_level_in_whole_packs():
    stock = counts(
        ("tea", "ALL", 30, 0.0, 0.0, None, None),  # an older count that found none
        ("tea", "ALL", 1, 17.0, 6.0, None, 12.0),
        ("pot", "ALL", 1, 500.0, 0.0, None, 12.0),
        ("tea", "ALL", -1, 99.0, 0.0, None, 12.0),  # after as_of
    )
    frame = serving(("tea", "ALL", "item"), ("pot", "ALL", "item"), ("cup", "ALL", "item"))
    tea, pot, cup = rows_of(stock, frame).iter_rows(named=True)
    assert (tea["on_hand"], tea["on_order"], tea["inventory_position"]) == (17.0, 6.0, 23.0)
    lacking = tea["order_up_to"] - 23.0
    assert tea["recommended_order_qty"] % 12 == 0
    assert lacking <= tea["recommended_order_qty"] < lacking + 12
    assert tea["order_by_date"] == AS_OF.date()  # the position is below the reorder point
    assert tea["days_of_cover"] == pytest.approx(17 / 2)  # 28 units in 14 days
    assert tea["is_censored"] is True
    assert pot["is_censored"] is False
    assert pot["recommended_order_qty"] == 0
    assert pot["order_by_date"] > AS_OF.date() + timedelta(days=200)
    assert pot["stockout_prob"] < 1e-6 < 0.5 < tea["stockout_prob"]
    assert pot["expected_lost_units"] < 1e-6 < tea["expected_lost_units"]
    unknown = ["on_hand", "on_order", "inventory_position", "recommended_order_qty"]
    unknown += ["order_by_date", "days_of_cover", "stockout_prob", "is_censored"]
    assert [cup[name] for name in unknown] == [None] * len(unknown)  # unknown is not 0
    assert 0 < cup["expected_lost_units"] < 1


def test_where_no_demand_is_expected_no_number_of_days_is_made_up():
    stock = counts(("tea", "ALL", 1, 5.0, 0.0, None, None), ("pot", "ALL", 1, 0.0, 0.0, None, 6.0))
    frame = serving(("tea", "ALL", "item"), ("pot", "ALL", "item"))
    frame = frame.with_columns(
        mean_13=pl.lit(0.0), sd_week_13=pl.lit(0.0), horizon_weeks=pl.lit(2.0)
    )
    champion = Champion(BASELINES["ma13_normal"], "v1")
    found = inventory_rows(task_data(purchases(), stock), AS_OF, Serving(frame), champion, 2)
    assert found["days_of_cover"].to_list() == [None, None]
    assert found["order_by_date"].to_list() == [None, None]
    assert [str(q) for q in found["recommended_order_qty"]] == ["0.0", "0.0"]


def test_an_item_may_have_a_lead_time_of_its_own():
    stock = counts(("tea", "ALL", 1, 5.0, 0.0, 21.0, None))
    tea, cup = rows_of(stock, serving(("tea", "ALL", "item"), ("cup", "ALL", "item"))).rows(
        named=True
    )
    assert (tea["lead_time_days"], cup["lead_time_days"]) == (21, 7)
    assert tea["demand_mean"] == pytest.approx(2 * cup["demand_mean"])  # 28 days instead of 14
    assert tea["order_up_to"] == tea["demand_p95"] > cup["demand_p95"]


def test_the_terms_of_an_item_are_kept():
    """An uncertain lead time, the least that can be ordered, costs, and what spoils."""
    names = ["late", "least", "costly", "cheap", "spoils", "usual"]
    stock = counts(*((name, "ALL", 1, 20.0, 0.0, None, 12.0) for name in names))
    item = pl.col("item_id")
    stock = stock.with_columns(
        lead_time_sd_days=pl.when(item == "late").then(3.0),
        min_order_qty=pl.when(item == "least").then(50.0),
        shortage_cost_ratio=pl.when(item == "costly").then(99.0).when(item == "cheap").then(1.0),
        shelf_life_days=pl.when(item == "spoils").then(8.0),
    )
    frame = serving(*((name, "ALL", "item") for name in names))
    rows = {row["item_id"]: row for row in rows_of(stock, frame).iter_rows(named=True)}
    usual = rows["usual"]
    # 28 units in 14 days: three days more or less are 6 units
    wide = negative_binomial(np.array([28.0]), np.array([60.0 + 6**2]), [0.95]).item()
    assert rows["late"]["order_up_to"] == wide > usual["order_up_to"]
    assert rows["late"]["demand_mean"] == usual["demand_mean"]
    assert usual["recommended_order_qty"] == 24  # two packs
    assert rows["least"]["recommended_order_qty"] == 60  # five packs
    assert rows["costly"]["service_level"] == pytest.approx(0.99)
    assert rows["cheap"]["order_up_to"] == rows["cheap"]["demand_p50"]
    assert rows["costly"]["order_up_to"] > usual["order_up_to"] == usual["demand_p95"]
    assert rows["spoils"]["order_up_to"] == pytest.approx(30)  # seven days and eight at two a day
    assert rows["spoils"]["reorder_point"] <= 30
    enough = stock.with_columns(on_hand=pl.lit(100.0))
    assert set(rows_of(enough, frame)["recommended_order_qty"]) == {0.0}


def test_terms_of_stores_add_up_with_care():
    stock = counts(("tea", "s1", 1, 5.0, 2.0, 7.0, 6.0), ("tea", "s2", 2, 0.0, 1.0, 7.0, 12.0))
    ratio = pl.Series([3.0, 9.0])
    stock = stock.with_columns(shortage_cost_ratio=ratio, shelf_life_days=10 * ratio)
    row = rows_of(stock, serving(("tea", "ALL", "item"))).row(0, named=True)
    assert row["service_level"] == pytest.approx(0.9)
    assert row["order_up_to"] <= 2 * (7 + 30)


def test_days_that_make_no_whole_weeks_are_no_more_than_they_are():
    frame = serving(("cup", "ALL", "item"))
    rows = rows_of(counts(), frame, lead_time_days=3, review_period_days=7)
    assert rows["demand_mean"].item() == pytest.approx(28 * 10 / 14)
    assert rows["reorder_point"].item() <= rows["order_up_to"].item()


def test_counts_of_stores_add_up_where_the_whole_was_not_counted():
    stock = counts(
        ("tea", "s1", 1, 5.0, 2.0, 4.0, 6.0),
        ("tea", "s2", 2, 0.0, 1.0, 9.0, 12.0),
        ("pot", "s1", 1, 5.0, 0.0, None, None),
        ("pot", "ALL", 1, 50.0, 0.0, None, None),
    )
    frame = serving(("tea", "ALL", "item"), ("pot", "ALL", "item"), ("tea", "s1", "item_store"))
    tea, pot, store = rows_of(stock, frame).iter_rows(named=True)
    assert (tea["on_hand"], tea["on_order"], tea["lead_time_days"]) == (5.0, 3.0, 9)
    assert tea["is_censored"] is True
    assert pot["on_hand"] == 50.0
    assert (store["on_hand"], store["level"], store["is_censored"]) == (5.0, "item_store", False)


@pytest.mark.parametrize("level", [0.6, 0.93, 0.99])
def test_quantiles_never_fall(level):
    row = rows_of(counts(), serving(("cup", "ALL", "item")), service_level=level).row(0, named=True)
    quantiles = {q: row[f"demand_p{round(100 * q)}"] for q in QUANTILE_COLUMN}
    quantiles[level] = row["order_up_to"]
    assert sorted(quantiles.values()) == [quantiles[q] for q in sorted(quantiles)]
    assert row["safety_stock"] == max(row["order_up_to"] - row["demand_mean"], 0)


def test_a_level_that_a_baseline_wins_on_validation_comes_from_it():
    def candidate(name: str, loss: float) -> dict:
        return {"name": name, "validation": {"wql_category": loss}, "test": {}}

    report = {"candidates": [candidate("trees", 0.3), candidate("past_sums", 0.2)]}
    assert better_baseline(report, "trees", "category") == "past_sums"
    assert better_baseline(report, "trees", "item_store") is None  # nothing is known
    report["candidates"][0]["validation"]["wql_category"] = 0.1
    assert better_baseline(report, "trees", "category") is None


# --- what became of it ----------------------------------------------------------------------------


def test_outcomes_are_what_was_sold_in_the_window_and_nothing_before_it_closed():
    today = AS_OF.date()
    days = [
        today - timedelta(days=1),
        today,
        today + timedelta(days=13),
        today + timedelta(days=14),
    ]
    events = purchases(*(("anna", "tea", day) for day in days), ("anna", "milk", today))
    data = task_data(events)
    table = rows_of(
        counts(("late", "ALL", 1, 5.0, 0.0, 30.0, None)),
        serving(
            ("tea", "ALL", "item"),
            ("cup", "ALL", "item"),
            ("late", "ALL", "item"),
            ("tea", "s1", "item_store"),
        ),
    )
    closed = AS_OF + timedelta(days=14)
    found = InventoryTask().outcomes(data, table, closed)
    assert set(found["target"]) == {"demand_mean", *(f"demand_p{q}" for q in (10, 50, 90, 95))}
    sold = {
        (row["item_id"], row["store_id"]): row["realised"]
        for row in found.filter(pl.col("target") == "demand_mean").iter_rows(named=True)
    }
    # two units a purchase; the row with the long lead time is still open
    assert sold == {("tea", "ALL"): 4.0, ("cup", "ALL"): 0.0, ("tea", "s1"): 4.0}
    assert found["window_end"].unique().to_list() == [closed]
    assert found.height == found.select("item_id", "store_id", "target").n_unique()
    later = table.with_columns(as_of=pl.lit(AS_OF + timedelta(days=3)))  # a Thursday
    sold = realised_demand(data, later, closed + timedelta(days=3)).filter(item_id="tea")
    assert set(sold["realised"]) == {4.0}  # of the 13th and the 14th day, not of the first
    still_open = realised_demand(data, table, closed - timedelta(seconds=1))
    assert still_open.is_empty()
    assert still_open.schema == found.schema
