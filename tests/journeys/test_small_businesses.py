"""Businesses that lack something: a table gets smaller or refuses, and never says a wrong number.

Generated shops, every registered task on each: what comes out holds the contract,
has no NaN and no number that nobody can know; what does not come out says why in one sentence.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from seq_ml import schema
from seq_ml.evaluation.backtest import backtest
from seq_ml.evaluation.leakage import feature_time, known_before
from seq_ml.tables.publish import checked, stamp
from seq_ml.tasks.candidate import Champion
from seq_ml.tasks.registered import load_tasks, task_names
from seq_ml.tasks.task import NotEnoughHistoryError, check_examples
from tests.journeys.small_shops import PAIRS, SHOPS, START, shop_data

if TYPE_CHECKING:
    from datetime import datetime

    from seq_ml.tasks.data import TaskData

DAY = timedelta(days=1)


@cache
def published(name: str, task: str) -> pl.DataFrame | str:
    """The rows that the shop's table would hold, or the sentence that says why there are none."""
    shop = SHOPS[name]
    return table_of(shop_data(shop), shop.as_of, task)


def table_of(data: TaskData, as_of: datetime, task: str) -> pl.DataFrame | str:
    """What the task would publish of this data, or the sentence that says why nothing."""
    of, source = load_tasks()[task], "none"
    try:
        examples = of.examples(data, as_of)
        check_examples(examples, of, as_of)
        result = backtest(of, examples, as_of=as_of, seed=7)
        champion = Champion(result.published, "v", result.metrics_json())
        rows = of.rows(data, as_of, of.serving(data, as_of), champion)
        source = champion.model.name
        assert all(section.title for section in of.sections(data, result))
    except NotEnoughHistoryError as reason:
        rows = of.rows_without_champion(data, as_of)
        if rows is None:
            return str(reason)
    stamped = stamp(rows, as_of, version="v", source=source, run_id="r")
    checked(stamped, of.table)
    return stamped


@pytest.mark.parametrize(("name", "task"), PAIRS)
def test_a_smaller_table_or_a_clear_sentence(name, task):
    found = published(name, task)
    if isinstance(found, str):
        assert len(found) > 30, found
        assert " " in found
        assert not {"None", "{", "nan"} & set(found.replace("{", " { ").split()), found
        assert name != "ordinary", found
        return
    for column in found.select(pl.selectors.float()):
        assert column.drop_nulls().is_finite().all(), column.name
    for column in found.select(pl.selectors.starts_with("p_")):
        assert column.drop_nulls().is_between(0, 1, closed="none").all(), f"{column.name} is sure"
    quantiles = found.select(pl.selectors.matches(r"^demand_p\d\d$"))
    assert all(list(row) == sorted(row) for row in quantiles.iter_rows())
    assert name == "nobody yet" or found.height or task == "ads"


@pytest.mark.parametrize(
    ("name", "task"),
    [
        (name, task)
        for name in (
            "campaigns at nine in Auckland",
            "visits over midnight",
            "visits over a winter's midnight in summer",
        )
        for task in ("ads", "churn_silence")
    ]
    + [("older than a year", "spend")],
)
def test_the_clock_of_a_business_leaks_nothing(name, task):
    """Starts at any hour, clocks that are put forward, visits that go on after midnight."""
    shop, of = SHOPS[name], load_tasks()[task]
    data = shop_data(shop)
    examples = of.examples(data, shop.as_of)
    assert feature_time(of, data, examples, shop.as_of) == ""


@pytest.mark.parametrize("task", load_tasks())
def test_an_open_label_window_has_no_outcome(task):
    """A day after the prediction nothing is known yet: no row, and never a 0."""
    found = published("ordinary", task)
    shop, of = SHOPS["ordinary"], load_tasks()[task]
    assert isinstance(found, pl.DataFrame)
    until = shop.as_of + timedelta(days=1)
    assert of.outcomes(shop_data(shop), found, until).is_empty()


def money(name: str, task: str, columns: list[str]) -> pl.DataFrame:
    found = published(name, task)
    assert isinstance(found, pl.DataFrame), found
    return found.select(columns)


@pytest.mark.parametrize(
    ("task", "columns"),
    [
        ("ads", ["expected_revenue"]),
        ("churn_silence", ["expected_spend", "value_at_risk"]),
        ("spend", ["spend_total", "spend_91d", "aov", "clv_expected"]),
    ],
)
def test_without_prices_no_amount_of_money_is_known(task, columns):
    found = money("no prices", task, columns)
    assert found.height
    assert sum(found.null_count().row(0)) == found.height * found.width


def test_without_prices_nobody_is_put_into_a_segment_of_big_spenders():
    found = published("no prices", "spend")
    assert isinstance(found, pl.DataFrame)
    assert not set(found["segment"]) & {"champions", "big_baskets"}


def test_without_prices_nobody_is_said_to_spend_less():
    assert isinstance(published("no prices", "churn_decline"), str)


@pytest.mark.parametrize("name", ["no promotions file", "an old promotion plan"])
def test_without_a_promotion_plan_the_table_says_so(name):
    found = published(name, "inventory")
    assert isinstance(found, pl.DataFrame)
    assert not found["promo_known"].any()


@pytest.mark.parametrize(
    "name",
    [
        "no campaigns",
        "only purchases",
        "only views",
        "one campaign that runs",
        "contacts are not told",
    ],
)
def test_without_campaigns_nobody_is_contacted(name):
    said = str(published(name, "ads"))
    assert "0 closed campaigns" in said or "no campaigns were dropped" in said


@pytest.mark.parametrize("task", ["churn_silence", "churn_decline", "inventory"])
@pytest.mark.parametrize("name", ["only views", "only refund", "only add_to_cart"])
def test_without_a_purchase_there_is_neither_churn_nor_demand(name, task):
    assert isinstance(published(name, task), str)


def test_campaigns_of_the_first_weeks_are_counted_and_not_used():
    said = published("two months old", "ads")
    assert "1 closed campaigns with contacts, 0 of them started 28 days or more after" in str(said)


def test_where_nobody_responds_no_probability_is_invented():
    assert "base_rate: 0 users with a positive label" in str(published("nobody responds", "ads"))


def test_what_comes_back_makes_no_demand_negative():
    found, bought = published("most comes back", "inventory"), published("ordinary", "inventory")
    assert isinstance(found, pl.DataFrame)
    assert isinstance(bought, pl.DataFrame)
    assert found["demand_mean"].min() >= 0
    assert found["demand_mean"].sum() == pytest.approx(bought["demand_mean"].sum())


def test_who_gives_back_more_than_they_buy_has_no_spend_that_falls():
    assert "kept more than they gave back" in str(published("most comes back", "churn_decline"))
    found = published("most comes back", "spend")
    assert isinstance(found, pl.DataFrame)
    assert found["spend_total"].min() < 0
    assert found["clv_expected"].drop_nulls().min() is None or found["clv_expected"].min() >= 0


def test_profiles_of_people_who_only_look_know_no_order():
    found = published("only views", "spend")
    assert isinstance(found, pl.DataFrame)
    seen = shop_data(SHOPS["only views"]).events.select("user_id").unique().collect()
    assert set(found["user_id"]) == set(seen["user_id"])
    assert set(found["orders_total"]) == {0}
    assert set(found["spend_total"]) == {0.0}
    unknown = ("first_order_at", "last_order_at", "aov", "recency_days", "clv_expected")
    assert all(found[column].null_count() == found.height for column in unknown)


def test_where_there_are_no_coupons_a_click_is_the_response():
    found = published("clicks and no coupons", "ads")
    assert isinstance(found, pl.DataFrame)
    assert set(found["response_type"]) == {"ad_click"}
    assert found["p_response"].n_unique() > 1


@pytest.mark.parametrize("task", load_tasks())
def test_behaviours_by_any_other_name_make_the_same_table(task):
    own, ordinary = published("own names", task), published("ordinary", task)
    assert isinstance(own, pl.DataFrame)
    assert isinstance(ordinary, pl.DataFrame)
    own, ordinary = (  # but for the words
        found.drop("created_at", "reason", strict=False) for found in (own, ordinary)
    )
    assert_frame_equal(own, ordinary, check_row_order=False)


@pytest.mark.parametrize("task", ["recommendations", "inventory"])
def test_item_tables_of_orders_without_items_say_what_to_log(task):
    assert "purchases before 2023-10-28 says of which item it is" in str(
        published("no items", task)
    )
    assert str(published("no items", task)).endswith("log item_id with purchases.")


@pytest.mark.parametrize("task", ["churn_silence", "ads", "spend"])
def test_tables_of_users_need_no_items(task):
    users = [
        found["user_id"].n_unique()
        for found in map(published, ("no items", "ordinary"), [task] * 2)
    ]
    assert users[0] == users[1] > 0


@pytest.mark.parametrize("task", SHOPS["never converts"].of)
def test_a_conversion_that_never_happens_is_one_sentence_with_what_there_is(task):
    said = str(published("never converts", task))
    assert said.startswith(f"{task}: no subscribe before 2023-10-28; the logs hold 2,")
    assert " purchase, " in said
    assert "`business.conversion`" in said


def test_where_ratings_are_the_conversion_users_have_tables_and_no_money():
    lists, profiles = (published("ratings only", task) for task in ("recommendations", "spend"))
    assert isinstance(lists, pl.DataFrame)
    assert isinstance(profiles, pl.DataFrame)
    assert lists["p_purchase"].drop_nulls().len()
    assert not lists["reason"].str.contains("(?i)bought|buy|sold").any()
    assert profiles["orders_total"].sum() > 0
    assert money("ratings only", "spend", ["spend_total", "aov"]).null_count().sum_horizontal()[0]
    assert "no rating before 2023-10-28 has a price" in str(
        published("ratings only", "churn_decline")
    )


def test_a_young_business_is_not_told_what_its_users_will_spend():
    found = published("three weeks old", "spend")
    assert isinstance(found, pl.DataFrame)
    assert found["clv_expected"].null_count() == found.height
    assert (found["spend_365d"] == found["spend_total"]).all()


def test_recommendations_of_one_item_are_that_item():
    found = published("one item", "recommendations")
    if isinstance(found, pl.DataFrame):
        assert set(found["item_id"]) == {"i00"}
        assert set(found["rank"]) == {1}


def test_campaigns_that_still_run_are_not_learnt_from():
    shop = SHOPS["ordinary"]
    task, data = load_tasks()["ads"], shop_data(shop)
    examples = task.examples(data, shop.as_of)
    still = data.campaigns.filter(pl.col("end_at") > shop.as_of)
    assert not examples.join(still, on="campaign_id", how="semi").height
    later = replace(data, campaigns=data.campaigns.with_columns(end_at=shop.as_of + timedelta(1)))
    with pytest.raises(NotEnoughHistoryError, match="0 closed campaigns"):
        task.examples(later, shop.as_of)


@cache
def told_later() -> tuple[TaskData, TaskData, datetime]:
    """A shop in mid-history, as its files are in the end and as they were then; and the instant.

    Returns, costs, variants, ends, stock and contracts: then as later, but for what came since.
    """
    data = shop_data(SHOPS["ordinary"])
    as_of = START + timedelta(days=270)
    soon = pl.lit(as_of + DAY, pl.Datetime("us", "UTC"))
    brought_back = pl.col("event_time") + 5 * DAY
    returns = (
        data.events.filter(event_type="purchase")
        .gather_every(7)
        .with_columns(
            event_type=pl.lit("refund"),
            event_id=pl.format("returned {}", "event_id"),
            event_time=brought_back,
            event_date=brought_back.dt.date(),
        )
    )
    number = pl.int_range(pl.len())
    then = data.items.with_columns(
        unit_cost=2.0 + number,
        product_id=pl.when(number < 2).then(pl.lit("both")),
        valid_until=as_of + pl.duration(days=2 * number - 9),
    )
    new = then.head(1).with_columns(item_id=pl.lit("new"), product_id=None, valid_until=None)
    later = then.with_columns(
        unit_cost=pl.lit(0.01), category=pl.lit("moved"), product_id=None, valid_until=None
    )
    counts = pl.DataFrame(
        {"item_id": ["i10", "i11"] * 2, "on_hand": [0.0, 9.0, 9.0, 0.0], "on_order": 0.0}
    ).with_columns(
        store_id=pl.lit("s1"),
        counted_at=pl.when(number < 2).then(soon - 2 * DAY).otherwise(soon),
    )
    stock = {n: pl.col(n) if n in counts.columns else None for n in schema.STOCK.names}
    ended = replace(
        data,
        events=pl.concat([data.events, returns]).sort("event_time", "event_id"),
        items=pl.concat(
            [then, new.with_columns(valid_from=soon - 6 * DAY), later.with_columns(valid_from=soon)]
        ),
        stock=counts.select(**stock).cast(schema.STOCK.polars_schema()),
    )
    before = known_before(ended, as_of, as_of)
    return ended, replace(before, items=before.items.filter(pl.col("valid_from") < as_of)), as_of


@pytest.mark.parametrize("task", task_names())
def test_no_published_row_knows_what_happened_later(task):
    ended, before, as_of = told_later()
    rows, honest = (table_of(data, as_of, task) for data in (ended, before))
    assert isinstance(rows, pl.DataFrame), rows
    assert rows.height
    assert_frame_equal(rows.drop("created_at"), honest.drop("created_at"), check_exact=True)
