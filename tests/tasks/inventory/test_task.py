"""Inventory: weeks and sums by hand, no look ahead but the plan, the distribution, the table."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import date, timedelta

import numpy as np
import polars as pl
import pytest

from seq_ml.business import Inventory
from seq_ml.evaluation.backtest import backtest
from seq_ml.evaluation.leakage import feature_time, known_before
from seq_ml.metrics.bootstrap import bootstrap, evaluate
from seq_ml.schema import INVENTORY_PREDICTIONS, STAMP, STOCK
from seq_ml.storage.contracts import check_key, conform
from seq_ml.tables.coverage import items_sold
from seq_ml.tasks.candidate import Champion
from seq_ml.tasks.inventory import task as inventory
from seq_ml.tasks.inventory.baselines import BASELINES, SEASONAL
from seq_ml.tasks.inventory.features import BASE_FEATURES, PLAN_FEATURES
from seq_ml.tasks.inventory.levels import CATEGORY, category_panel
from seq_ml.tasks.inventory.models import BOOSTED, BOOSTED_PLAN, BoostedCount
from seq_ml.tasks.inventory.panel import MEMORY_WEEKS, build_panel
from seq_ml.tasks.inventory.rows import ORDERING, without_plan
from seq_ml.tasks.inventory.task import InventoryTask, horizon_weeks
from seq_ml.tasks.task import NotEnoughHistoryError, check_examples
from tests.data import AS_OF, journey
from tests.tasks.inventory.histories import HOUSEHOLDS, NEW_YORK, task_data, with_plan


@pytest.fixture(scope="module")
def examples() -> pl.DataFrame:
    return InventoryTask().examples(task_data(), AS_OF)


@pytest.fixture(scope="module")
def judged(examples):
    return backtest(InventoryTask(), examples, as_of=AS_OF, seed=7)


def stamped(rows: pl.DataFrame) -> pl.DataFrame:
    names = {c.name: pl.lit("x") for c in STAMP if c.name not in rows.columns and c.dtype == "str"}
    times = {"as_of": pl.lit(AS_OF), "created_at": pl.lit(AS_OF)}
    return conform(rows.with_columns(**names, **times), INVENTORY_PREDICTIONS)


def test_the_label_is_the_sum_over_the_whole_horizon(examples):
    events = journey(households=HOUSEHOLDS)["clean_events"]
    rows = examples.filter(pl.col("split") == "test", pl.col("level") != "category")
    rows = pl.concat([of.sample(30, seed=3) for _, of in rows.group_by("level")])
    for row in rows.iter_rows(named=True):
        days = [NEW_YORK.day_of(row[name]) for name in ("origin", "label_end")]
        assert days[1] - days[0] == timedelta(days=14)  # an hour more where summer time ends
        sold = events.filter(
            pl.col("item_id") == row["item_id"],
            pl.col("event_type") == "purchase",
            pl.col("event_time") >= row["origin"],
            pl.col("event_time") < row["label_end"],
            (pl.col("store_id") == row["store_id"]) | (row["store_id"] == "ALL"),
        )
        assert row["label"] == sold["quantity"].sum()


def test_the_horizon_is_lead_time_plus_review_in_whole_weeks():
    terms = Inventory(lead_time_days=3, review_period_days=7)
    assert horizon_weeks(task_data(terms=terms)) == 2
    terms = Inventory(lead_time_days=0, review_period_days=7)
    assert horizon_weeks(task_data(terms=terms)) == 1


def test_a_horizon_longer_than_the_shortest_history_is_served_or_refused():
    """25 weeks from order to order: a year is too short to judge it, 52 weeks can be served."""
    task = InventoryTask()
    long = task_data(terms=Inventory(lead_time_days=120, review_period_days=55))
    assert horizon_weeks(long) == MEMORY_WEEKS - 1
    assert task.serving(long, AS_OF).examples.height
    with pytest.raises(NotEnoughHistoryError, match="needs 101 "):
        task.examples(long, AS_OF)
    early = AS_OF - timedelta(weeks=28)
    with pytest.raises(NotEnoughHistoryError, match=f"needs {MEMORY_WEEKS}"):
        task.serving(long, early)


def test_examples_keep_the_temporal_rule(examples):
    check_examples(examples, InventoryTask(), AS_OF)
    assert set(examples["split"]) == {"fit", "validation", "test"}
    assert set(examples["segment"]) == {"regular", "sparse", "item_store", "category"}
    test = examples.filter(pl.col("split") == "test")
    assert test["origin"].n_unique() == 2 * inventory.TEST_HORIZONS - 1  # weekly
    assert test["label_end"].max() == AS_OF


def test_features_do_not_change_when_the_future_does(examples):
    origin = examples.filter(pl.col("split") == "test")["origin"].min()
    events = journey(households=HOUSEHOLDS)["clean_events"].with_columns(
        quantity=pl.when(pl.col("event_time") >= origin)
        .then(pl.col("quantity") * 3 + 1)
        .otherwise("quantity")
    )
    again = InventoryTask().examples(task_data(events=events), AS_OF)
    columns = ["item_id", "segment", "scale", *BASE_FEATURES, *PLAN_FEATURES, "sum_q95", "cv2"]
    columns += ["size", "history"]
    then = pl.col("origin") == origin
    assert again.filter(then).select(columns).equals(examples.filter(then).select(columns))
    assert not again.filter(then)["label"].equals(examples.filter(then)["label"])


def test_a_sample_is_served_as_in_the_whole():
    whole = InventoryTask().serving(task_data(), AS_OF).examples
    units = whole["item_id"].unique().sort().sample(50, seed=1)
    assert units.str.starts_with(CATEGORY).any()
    sample = InventoryTask().serving(task_data(), AS_OF, units).examples
    wanted = pl.col("item_id").is_in(units.implode())
    assert sample.filter(wanted).equals(whole.filter(wanted))


def test_of_many_items_as_many_are_fitted_and_judged_as_are_said(examples, monkeypatch):
    """The same ones from origin to origin, with the features that they have among all."""
    monkeypatch.setattr(inventory, "SPARSE_SAMPLE", 0)
    monkeypatch.setattr(inventory, "MOST_REGULAR", 20)
    few = InventoryTask().examples(task_data(), AS_OF).filter(pl.col("level") == "item")
    assert few.group_by("origin").len()["len"].max() == 20
    assert few["item_id"].n_unique() < 60
    key = ["origin", "item_id", "store_id"]
    assert few.equals(examples.join(few, on=key, how="semi", maintain_order="left"))


def test_features_are_those_that_serving_would_have_had(examples):
    assert feature_time(InventoryTask(), task_data(), examples, AS_OF) == ""


def test_categories_are_those_of_the_catalogue_at_each_origin(examples):
    """Items that change their category later do not move earlier origins; goods stay goods."""
    origin = examples.filter(pl.col("split") == "test")["origin"].min()
    items = journey(households=HOUSEHOLDS)["items"]
    names = items["category"].drop_nulls().unique().sort().to_list()
    following = dict(zip(names, names[1:] + names[:1], strict=True))
    changed = items.gather_every(2).with_columns(
        category=pl.col("category").replace(following),
        is_merchandise=pl.col("item_id").str.ends_with("1") | pl.col("is_merchandise"),
        valid_from=pl.lit(origin + timedelta(days=3)),
    )
    arrives = pl.when(pl.int_range(pl.len()) % 5 == 0).then(pl.lit(origin - timedelta(days=30)))
    known = items.with_columns(valid_from=arrives.otherwise("valid_from"))
    data = task_data(items=pl.concat([known, changed]))
    found = InventoryTask().examples(data, AS_OF)
    assert feature_time(InventoryTask(), data, found, AS_OF) == ""
    then = found.filter(pl.col("origin") == origin)
    served = InventoryTask().serving(known_before(data, origin, AS_OF), origin).examples
    for level in ("item_store", "category"):  # of the items a sample
        of = (pl.col("level") == level,)
        assert set(then.filter(of)["item_id"]) == set(served.filter(of)["item_id"])
    last = found["origin"].max()
    known = data.items_known(last).filter("is_merchandise")["category"].drop_nulls().unique()
    categories = found.filter(pl.col("origin") == last, pl.col("level") == "category")
    assert set(categories["item_id"].str.strip_prefix(CATEGORY)) <= set(known)


def test_only_the_plan_features_read_promotions_after_the_origin(examples):
    origin = examples.filter(pl.col("split") == "test")["origin"].max()
    promotions = journey(households=HOUSEHOLDS)["promotions"]
    promotions = promotions.filter(pl.col("week_start") < origin.date())
    again = InventoryTask().examples(task_data(promotions=promotions), AS_OF)
    then = pl.col("origin") == origin
    columns = ["item_id", *BASE_FEATURES]
    assert again.filter(then).select(columns).equals(examples.filter(then).select(columns))
    assert not again.filter(then)["promo_known"].any()
    assert examples.filter(then)["promo_known"].all()


def test_examples_are_the_same_in_any_order_of_the_events(examples):
    events = journey(households=HOUSEHOLDS)["clean_events"].sample(fraction=1, shuffle=True, seed=1)
    assert InventoryTask().examples(task_data(events=events), AS_OF).equals(examples)


@pytest.mark.slow
def test_metrics_are_the_ratios_they_say(judged):
    label = judged.test["label"].to_numpy()
    predicted = judged.predictions[BOOSTED]
    regular = (judged.test["segment"] == "regular").to_numpy()
    expected = {
        "wape_regular": np.abs(predicted[regular, 0] - label[regular]).sum() / label[regular].sum(),
        "bias_regular": (predicted[regular, 0] - label[regular]).sum() / label[regular].sum(),
        "coverage_90_regular": np.mean(label[regular] <= predicted[regular, 4]),
    }
    for metric in InventoryTask().metrics():
        if metric.name in expected:
            value = evaluate(metric, judged.test, predicted)
            assert value == pytest.approx(expected[metric.name])


def test_the_interval_of_a_ratio_is_that_of_the_plain_bootstrap(judged):
    """The linear form of the ratio against the ratio of every resample."""
    test = judged.test
    predicted = judged.predictions[BOOSTED]
    error = np.abs(predicted[:, 0] - test["label"].to_numpy())
    items = (
        test.select("item_id", "segment", "label", error=pl.Series(error))
        .filter(pl.col("segment") == "sparse")
        .group_by("item_id")
        .agg(pl.col("label", "error").sum())
        .sort("item_id")
    )
    rng = np.random.default_rng(0)
    rows = rng.integers(0, items.height, (2000, items.height))
    ratios = items["error"].to_numpy()[rows].sum(axis=1) / items["label"].to_numpy()[rows].sum(1)
    low, high = np.quantile(ratios, [0.025, 0.975])
    (metric,) = (m for m in InventoryTask().metrics() if m.name == "wape_sparse")
    draws = bootstrap([metric], test, {BOOSTED: predicted}, unit="item_id", seed=7)
    found = draws[BOOSTED]["wape_sparse"].estimate()
    width = high - low
    assert found.low == pytest.approx(low, abs=0.25 * width)
    assert found.high == pytest.approx(high, abs=0.25 * width)


def test_the_report_judges_baselines_and_models(judged):
    assert {c.name for c in judged.candidates if c.is_baseline} == set(BASELINES)
    # one year of history has no season
    assert [c.name for c in judged.candidates if c.left_out] == [SEASONAL]
    boosted = next(c for c in judged.candidates if c.name == BOOSTED)
    assert boosted.test["coverage_90_sparse"].value > 0.85


def test_the_report_says_what_the_verdict_does_not(judged):
    sections = {s.title: s for s in InventoryTask().sections(task_data(), judged)}
    levels = sections["Items, items in a store, categories"]
    assert [row[0] for row in levels.rows] == ["level", "item", "item_store", "category"]
    planned = replace(judged, published=InventoryTask().candidates()[-1])
    said = InventoryTask().remark(planned)
    assert f"rows without one come from '{without_plan(judged.metrics_json())}'" in said
    plain = replace(judged, published=InventoryTask().candidates()[0])
    assert InventoryTask().remark(plain) == ""


def test_the_report_simulates_the_shelves_of_the_test_window(judged):
    # sixty households buy few items regularly: all segments count
    frame = judged.test.with_columns(segment=pl.lit("regular"))
    shown = InventoryTask().sections(task_data(), replace(judged, test=frame))[-1]
    assert shown.title == "Replenishment simulation"
    assert [row[0] for row in shown.rows[1:]] == list(
        dict.fromkeys([judged.published.name, judged.baseline])
    )
    assert shown.figures[0].startswith("<svg")


def test_categories_add_up_their_items(examples):
    """And no category is a part of another: all together are all that was sold."""
    test = examples.filter(pl.col("split") == "test")
    parts = test.group_by("origin", "level").agg(pl.col("label").sum())
    wide = parts.pivot(on="level", index="origin", values="label")
    assert (wide["category"] >= wide["item_store"]).all()
    panel = build_panel(task_data(), AS_OF, horizon=2)
    names = sorted(set(test.filter(pl.col("level") == "category")["item_id"]))
    of = category_panel(panel)
    known = panel.category >= 0
    assert of.units.sum() == panel.units[known].sum()
    assert set(names) <= set(of.keys["item_id"])


def test_without_promotions_the_plan_is_left_out():
    none = journey(households=HOUSEHOLDS)["promotions"].head(0)
    found = InventoryTask().examples(task_data(promotions=none), AS_OF)
    assert not found["promo_known"].any()
    model = InventoryTask().candidates()[-1]
    with pytest.raises(NotEnoughHistoryError, match="no promotion plan"):
        model.fit(found)


@pytest.mark.slow
def test_state_survives_json_bit_for_bit(examples):
    fit = examples.filter(pl.col("split") == "fit")
    fresh = {m.name: m for m in InventoryTask().candidates()}
    for model in InventoryTask().candidates():
        if model.name == SEASONAL:
            continue  # one year of history has no season
        model.fit(fit)
        other = fresh[model.name]
        if isinstance(other, BoostedCount):
            other.own_variance = 0.9  # what it was judged with comes from the state
        other.restore(json.loads(json.dumps(model.state())))
        np.testing.assert_array_equal(other.predict(fit), model.predict(fit))


@pytest.fixture(scope="module")
def champion(examples: pl.DataFrame, judged) -> Champion:
    model = InventoryTask().candidates()[-1]
    model.fit(examples.filter(pl.col("split") != "test"))
    return Champion(model, "v1", judged.metrics_json())


def test_rows_conform_and_fall_back_when_no_plan_is_known(champion, judged):
    task, data = InventoryTask(), task_data()
    serving = task.serving(data, AS_OF)
    rows = task.rows(data, AS_OF, serving, champion)
    table = stamped(rows)
    check_key(table, INVENTORY_PREDICTIONS)
    items = table.filter(pl.col("level") == "item")
    assert set(items["source"]) == {without_plan(champion.report)}
    assert not table["promo_known"].any()
    for low, high in (("10", "50"), ("50", "90"), ("90", "95")):
        assert (table[f"demand_p{low}"] <= table[f"demand_p{high}"]).all()
    sold = table.filter(pl.col("discontinued").is_null())
    assert (sold["order_up_to"] == sold["demand_p95"]).all()
    assert (table["reorder_point"] <= table["order_up_to"]).all()
    assert table["backtest_wape"].null_count() == 0
    source = without_plan(champion.report)
    regular = next(c for c in judged.candidates if c.name == source).test["wape_regular"].value
    assert regular in items["backtest_wape"].to_list()
    assert sold["recommended_order_qty"].null_count() == sold.height
    recent = journey(households=HOUSEHOLDS)["clean_events"].filter(
        pl.col("event_type") == "purchase",
        pl.col("event_time") >= NEW_YORK.midnight(date(2017, 7, 3)),  # 26 weeks
        pl.col("quantity") > 0,
    )
    other = journey(households=HOUSEHOLDS)["items"].filter(~pl.col("is_merchandise"))["item_id"]
    sold = recent.filter(~pl.col("item_id").is_in(other.implode()))["item_id"]
    assert set(items["item_id"]) == set(sold)


def test_of_what_is_discontinued_nothing_is_ordered(champion):
    """Ended, or silent beyond its rhythm; what is only sold out is ordered."""
    events, task = journey(households=HOUSEHOLDS)["clean_events"], InventoryTask()
    plain = task.rows(task_data(), AS_OF, task.serving(task_data(), AS_OF), champion)
    best = plain.filter(level="item").sort("demand_mean", descending=True)["item_id"]
    ended, silent, sold_out, other = best.head(4)
    until = pl.when(pl.col("item_id") == ended).then(pl.lit(AS_OF))
    late = pl.col("event_time") >= AS_OF - timedelta(days=100)
    counts = pl.DataFrame({"item_id": [ended, sold_out, other], "on_hand": [5.0, 0.0, 5.0]})
    stock = counts.select(
        "item_id",
        store_id=pl.lit("ALL"),
        counted_at=pl.lit(AS_OF - timedelta(days=1)),
        on_hand="on_hand",
        on_order=pl.lit(0.0),
        **dict.fromkeys(STOCK.names[5:], pl.lit(None, pl.Float64)),
    )
    data = task_data(
        items=journey(households=HOUSEHOLDS)["items"].with_columns(valid_until=until),
        events=events.filter(~(late & (pl.col("item_id") == silent)).fill_null(value=False)),
        stock=stock,
    )
    rows = stamped(task.rows(data, AS_OF, task.serving(data, AS_OF), champion))
    assert not any(items_sold(rows.lazy(), data, AS_OF).values())  # the rows stay
    of = {row["item_id"]: row for row in rows.filter(level="item").to_dicts()}
    assert of[ended]["discontinued"] == "ended"
    assert of[silent]["discontinued"] == "unsold"
    assert of[ended]["demand_mean"] > 0
    for item in (ended, silent):
        assert {of[item][name] for name in ORDERING} == {0.0}
        assert of[item]["order_by_date"] is None
    assert of[sold_out]["discontinued"] is None
    assert of[sold_out]["recommended_order_qty"] > 0
    assert of[other]["discontinued"] is None


def test_rows_without_a_plan_come_from_the_baseline_where_the_trees_do_not_beat_it(champion):
    """All windows decide, the newest may veto; whatever the trees win that read the plan."""
    task, data = InventoryTask(), task_data()
    serving = task.serving(data, AS_OF)
    better, unsure, worse = (
        {"value": low + 0.002, "low": low, "high": low + 0.004} for low in (0.001, -0.001, -0.005)
    )
    baseline = champion.report["best_baseline"]
    for newest, pooled, source in (
        (better, None, BOOSTED),
        (unsure, None, baseline),
        (unsure, better, BOOSTED),
        (worse, better, baseline),
        (better, unsure, baseline),
    ):
        of_trees = {"gain": newest, "pooled_gain": pooled}
        candidates = [
            {**c, **(of_trees if c["name"] == BOOSTED else {}), "validation": {}}
            for c in champion.report["candidates"]
        ]
        told = replace(champion, report={**champion.report, "candidates": candidates})
        rows = task.rows(data, AS_OF, serving, told)
        assert set(rows["source"]) == {source}
    mean = rows.select("item_id", "store_id", "demand_mean")
    expected = BASELINES[source].predict(serving.examples)[:, 0]
    joined = serving.examples.select("item_id", "store_id", expected=pl.Series(expected))
    joined = joined.join(mean, on=["item_id", "store_id"])
    assert (joined["demand_mean"] - joined["expected"]).abs().max() < 1e-6


def test_rows_use_the_plan_of_the_target_weeks_where_it_is_known(champion):
    task, data = InventoryTask(), task_data(promotions=with_plan())
    serving = task.serving(data, AS_OF)
    table = stamped(task.rows(data, AS_OF, serving, champion))
    items = table.filter(pl.col("level") == "item")
    assert set(items["source"]) == {BOOSTED_PLAN}
    assert items["promo_known"].all()


def test_another_service_level_is_a_quantile_of_the_same_distribution(champion):
    task = InventoryTask()
    data = task_data(terms=Inventory(service_level=0.99))
    serving = task.serving(data, AS_OF)
    table = stamped(task.rows(data, AS_OF, serving, champion))
    ordered = table.filter(pl.col("discontinued").is_null())
    assert (ordered["order_up_to"] >= ordered["demand_p95"]).all()
    usual = stamped(task.rows(task_data(), AS_OF, serving, champion))
    assert table["expected_lost_units"].sum() < usual["expected_lost_units"].sum()


def test_what_is_no_sale_of_goods_is_no_demand_for_stock():
    """Plays and ratings leave no shelf, unless they have a price or somebody counts stock."""
    bought = pl.col("event_type") == "purchase"
    played = pl.when(bought).then(pl.lit("play")).otherwise("event_type")
    sold = task_data()
    plays = replace(
        sold,
        events=sold.events.with_columns(event_type=played),
        business=sold.business.model_copy(update={"conversion": ("play",)}),
    )
    unpriced = pl.lit(None, pl.Float64)
    free = replace(plays, events=plays.events.with_columns(unit_price=unpriced))
    counted = pl.DataFrame({name: ["x"] for name in STOCK.names})
    for data in (
        sold,
        replace(sold, events=sold.events.with_columns(unit_price=unpriced)),
        plays,
        replace(free, stock=counted),
    ):
        inventory.check_goods(data, AS_OF)
    said = "inventory: no play has a price and nobody counts stock, .* log unit_price with plays"
    for refuses in (
        lambda: InventoryTask().examples(free, AS_OF),
        lambda: InventoryTask().rows(free, AS_OF, None, None),
    ):
        with pytest.raises(NotEnoughHistoryError, match=said):
            refuses()


def test_a_short_history_is_refused_in_words():
    events = journey(households=HOUSEHOLDS)["clean_events"]
    few = events.filter(pl.col("event_time") >= AS_OF - timedelta(weeks=9))
    with pytest.raises(NotEnoughHistoryError, match="needs 10 complete weeks"):
        InventoryTask().examples(task_data(events=few), AS_OF)
    events = events.filter(pl.col("event_time") >= AS_OF - timedelta(weeks=3))
    with pytest.raises(NotEnoughHistoryError, match="complete weeks"):
        InventoryTask().serving(task_data(events=events), AS_OF)
