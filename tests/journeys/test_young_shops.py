"""Young shops, rare and frequent buyers: smaller honest answers, and who is silent at any rhythm.

Generated orders, the windows measured and derived as a run does it. The tasks are asked one by one;
the check `feature_time` makes every example again from the past alone.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import cache

import numpy as np
import polars as pl
import pytest

from seq_ml import schema
from seq_ml.business import Business, Churn
from seq_ml.evaluation.leakage import feature_time
from seq_ml.periods import choose_periods
from seq_ml.sequences.cutoffs import measure
from seq_ml.tasks.behaviour.visits import read_behaviour
from seq_ml.tasks.churn.task import DeclineTask, SilenceTask
from seq_ml.tasks.data import TaskData
from seq_ml.tasks.inventory.task import InventoryTask
from seq_ml.tasks.profiles.task import SpendTask
from seq_ml.tasks.recommendations.task import RecommendationTask
from seq_ml.tasks.task import NotEnoughHistoryError, check_examples
from tests.journeys.small_shops import Shop, shop_data
from tests.journeys.test_small_businesses import table_of

BEGIN = datetime(2022, 1, 1, tzinfo=UTC)


def with_windows(data: TaskData, as_of: datetime) -> TaskData:
    """The data as a run reads them: with the windows that their rhythm and history give."""
    measured = measure(data.events, data.business, as_of)
    return TaskData(
        data.events,
        data.items,
        data.campaigns,
        data.campaign_items,
        data.promotions,
        data.business,
        choose_periods(data.business, *measured),
    )


@cache
def orders(
    days: int, gap: float, *, users: int = 150, leave: float = 0.4, churn: Churn | None = None
) -> tuple[TaskData, datetime]:
    """Orders of users who come every `gap` days, more or less; some leave at an unknown day."""
    rng, rows = np.random.default_rng(3), []
    for user in range(users):
        own = gap * float(rng.uniform(0.7, 1.3))
        left = days if rng.random() > leave else float(rng.uniform(0, days))
        day = float(rng.uniform(0, own))
        while day < left:
            rows.append((f"u{user:03d}", BEGIN + timedelta(days=day), f"i{rng.integers(12):02d}"))
            day += own * float(rng.uniform(0.8, 1.2))
    frame = pl.DataFrame(rows, schema=["user_id", "event_time", "item_id"], orient="row")
    frame = frame.with_columns(
        event_id=pl.format("e{}", pl.int_range(pl.len())),
        event_type=pl.lit("purchase"),
        quantity=pl.lit(1.0),
        unit_price=5.0 + pl.col("item_id").str.slice(1).cast(pl.Float64),
        event_date=pl.col("event_time").dt.date(),
    )
    events = frame.with_columns(pl.col("event_time").dt.cast_time_unit("us"))
    lacking = {n: pl.lit(None, t) for n, t in schema.EVENTS.polars_schema().items()}
    known = {n: pl.col(n).cast(t) for n, t in schema.EVENTS.polars_schema().items()}
    events = events.select(
        **{name: known[name] if name in events.columns else lacking[name] for name in known}
    ).sort("event_time", "event_id")
    empty = {t.name: pl.DataFrame(schema=t.polars_schema()) for t in schema.INPUT_TABLES.values()}
    data = TaskData(
        events.lazy(),
        empty["items"],
        empty["campaigns"],
        empty["campaign_items"],
        empty["promotions"].lazy(),
        Business(churn=churn or Churn()),
    )
    as_of = BEGIN + timedelta(days=days)
    return with_windows(data, as_of), as_of


def found(shop: tuple[TaskData, datetime], task: str) -> pl.DataFrame:
    table = table_of(*shop, task)
    assert isinstance(table, pl.DataFrame), table
    return table


@pytest.mark.parametrize(("days", "weeks"), [(70, (4, 3)), (100, (6, 3)), (180, (11, 6))])
def test_a_young_shop_gets_a_smaller_honest_answer(days, weeks):
    shop = orders(days, 8.0)
    data, as_of = shop
    assert (data.periods.window_days // 7, data.periods.silence_weeks) == weeks
    for task in (SilenceTask(), DeclineTask()):
        examples = task.examples(data, as_of)
        check_examples(examples, task, as_of)
        assert feature_time(task, data, examples, as_of) == ""
    table = found(shop, "churn_silence")
    assert table["horizon_days"].unique().to_list() == [7 * weeks[1]]
    probable = table.drop_nulls("p_churn")
    assert probable.height > 50
    assert probable["rests_on"].null_count() == 0
    assert probable["rests_on"][0].startswith(f"{data.periods.history_days} days of history, ")
    assert f"{7 * weeks[1]} days ahead" in probable["rests_on"][0]
    assert table.filter(~pl.col("eligible"))["rests_on"].null_count() == (~table["eligible"]).sum()
    if days == 70:
        assert probable["p_churn"].n_unique() == 1, "few churners: one rate for everybody"
        return
    gone = table.filter(pl.col("p_churn") > pl.col("base_rate"))
    seen = data.events_before(as_of).group_by("user_id").agg(pl.col("event_time").max()).collect()
    late = gone.join(seen, on="user_id")["event_time"].mean()
    assert late < probable.join(seen, on="user_id")["event_time"].mean()


def test_below_the_least_history_the_sentence_names_the_minimum():
    data, as_of = orders(30, 8.0)
    for task in (SilenceTask(), DeclineTask(), SpendTask()):
        with pytest.raises(NotEnoughHistoryError, match=r"needs 70 days .* there are (29|30)"):
            task.examples(data, as_of)
    with pytest.raises(NotEnoughHistoryError, match=r"needs 10 complete weeks .* there are"):
        InventoryTask().examples(data, as_of)


def test_at_nine_months_there_is_a_value_and_it_says_over_how_many_days():
    shop = orders(275, 8.0)
    table = found(shop, "spend")
    assert table["clv_horizon_days"].unique().to_list() == [70]
    assert table["clv_expected"].null_count() < table.height / 10
    assert table.drop_nulls("clv_expected")["rests_on"][0].startswith("27")
    assert "70 days ahead" in table.drop_nulls("clv_expected")["rests_on"][0]
    task, (data, as_of) = SpendTask(), shop
    assert feature_time(task, data, task.examples(data, as_of), as_of) == ""


def test_a_week_is_enough_for_lists_that_are_counted():
    young = Shop(days=6)
    as_of = young.as_of
    few = with_windows(shop_data(young), as_of)
    with pytest.raises(NotEnoughHistoryError, match="what is popular"):
        RecommendationTask().examples(few, as_of)
    rows = RecommendationTask().rows_without_champion(few, as_of)
    assert rows is not None
    assert {"own_counts", "popular"} <= set(rows["source"])
    assert rows["p_purchase"].null_count() == rows.height
    assert rows["rests_on"].null_count() == 0
    own = rows.filter(source="own_counts")
    assert own["rests_on"].str.contains("nothing could be judged yet").all()
    assert not own["is_fallback"].any()
    nobody = few.events.filter(pl.col("event_type") == "view")
    seen = TaskData(
        nobody, few.items, few.campaigns, few.campaign_items, few.promotions, few.business
    )
    assert RecommendationTask().rows_without_champion(seen, as_of) is None


def test_ten_weeks_are_enough_for_the_inventory():
    shop = orders(80, 8.0)
    task, (data, as_of) = InventoryTask(), shop
    examples = task.examples(data, as_of)
    check_examples(examples, task, as_of)
    assert feature_time(task, data, examples, as_of) == ""
    assert set(examples["split"]) == {"fit", "validation", "test"}
    assert found(shop, "inventory").height


def test_who_buys_twice_a_year_is_not_silent_between_two_seasons():
    shop = orders(1000, 182.0, users=200, leave=0.5)
    data, as_of = shop
    assert data.periods.rhythm_days == pytest.approx(182, rel=0.1)
    assert data.periods.silence_weeks >= 26
    visits = data.events.collect()
    task = SilenceTask()
    origin = as_of - timedelta(days=task.horizon_days(data.periods))
    labels = task.labels(data, read_behaviour(data, as_of).money, origin)
    covered = labels.filter("eligible")
    last = visits.group_by("user_id").agg(last=pl.col("event_time").max())
    covered = covered.join(last, on="user_id")
    stayed = covered.filter(pl.col("last") >= as_of - timedelta(days=150))
    assert covered.height > 80
    assert stayed["label"].sum() == 0
    assert 0.05 < float(covered["label"].mean()) < 0.7
    table = found(shop, "churn_silence")
    recent = table.join(last, on="user_id").with_columns(
        fresh=pl.col("last") >= as_of - timedelta(days=120)
    )
    eligible = recent.filter("eligible")
    assert eligible.height > table.height / 3, "who came last season is no lost customer"
    means = dict(eligible.group_by("fresh").agg(pl.col("p_churn").mean()).rows())
    assert means[True] < means[False]
    segments = (
        found(shop, "spend")
        .join(last, on="user_id")
        .filter(pl.col("last") >= as_of - timedelta(days=150))
    )
    assert "lost" not in set(segments["segment"])


@pytest.mark.parametrize(
    "churn", [Churn(silence_weeks=20), Churn(silence_active_weeks=30)], ids=["silence", "active"]
)
def test_windows_that_a_business_sets_simply_work(churn):
    shop = orders(520, 8.0, churn=churn)
    data, as_of = shop
    task = SilenceTask()
    examples = task.examples(data, as_of)
    check_examples(examples, task, as_of)
    assert feature_time(task, data, examples, as_of) == ""
    assert examples["recency_days"].null_count() == 0, "who is eligible is inside the window"
    assert data.periods.test_days >= task.horizon_days(data.periods), "the encoder saw no label"
    table = found(shop, "churn_silence")
    last = data.events.group_by("user_id").agg(last=pl.col("event_time").max()).collect()
    lapsed = table.filter("eligible").join(last, on="user_id").sort("last")
    tenth = lapsed.height // 10
    assert lapsed["p_churn"][:tenth].mean() > 2 * lapsed["p_churn"][-tenth:].mean()
