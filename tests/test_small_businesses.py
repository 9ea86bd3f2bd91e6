"""Businesses that lack something: a table gets smaller or refuses, and never says a wrong number.

Generated shops, every registered task and the profiles on each: what comes out holds the contract,
has no NaN and no number that nobody can know; what does not come out says why in one sentence.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cache

import numpy as np
import polars as pl
import pytest

from seq_ml import schema
from seq_ml.business import Business
from seq_ml.evaluation.backtest import backtest
from seq_ml.tables.publish import contract_problem, stamp
from seq_ml.tables.tasks import load_tasks
from seq_ml.tasks.profiles import user_profiles
from seq_ml.tasks.task import Champion, NotEnoughHistoryError, TaskData, check_examples

START = datetime(2023, 1, 1, tzinfo=UTC)
PROFILES = "user_profiles"


@dataclass(frozen=True)
class Shop:
    """What a business has: how many users and items, for how many days, and which files."""

    users: int = 40
    items: int = 15
    days: int = 300
    prices: bool = True
    purchases: bool = True
    views: bool = True
    campaigns: bool = True
    coupons: bool = True
    promotions: bool = True

    @property
    def as_of(self) -> datetime:
        return START + timedelta(days=self.days)


SHOPS = {
    "ordinary": Shop(),
    "no promotions file": Shop(promotions=False),
    "no campaigns": Shop(campaigns=False),
    "clicks and no coupons": Shop(coupons=False),
    "no prices": Shop(prices=False),
    "only purchases": Shop(views=False, campaigns=False),
    "only views": Shop(purchases=False, campaigns=False),
    "ten users": Shop(users=10),
    "one item": Shop(items=1),
    "three weeks old": Shop(days=21),
    "three days old": Shop(days=3),
    "one user": Shop(users=1),
    "nobody yet": Shop(users=0),
}


@cache
def shop_data(shop: Shop) -> TaskData:
    """Users with habits of their own: how often they come, what they like, when they left."""
    rng = np.random.default_rng(5)
    events: list[dict[str, object]] = []
    item_ids = [f"i{n:02d}" for n in range(shop.items)]
    price = dict(zip(item_ids, rng.uniform(1, 30, shop.items).round(2).tolist(), strict=True))
    campaigns = [
        (f"c{n}", START + timedelta(days=40 * n + 10), START + timedelta(days=40 * n + 35))
        for n in range((shop.days + 40) // 40)
    ]
    response = "coupon_redeem" if shop.coupons else "ad_click"
    for number in range(shop.users):
        user, gap = f"u{number:03d}", float(rng.uniform(2, 14))
        left = shop.days if rng.random() < 0.7 else float(rng.uniform(0, shop.days))
        favourites = rng.choice(item_ids, size=min(6, shop.items), replace=False)
        day, visit = float(rng.uniform(0, gap)), 0
        while day < left:
            at = START + timedelta(days=day)
            kinds = ["view"] * 2 * shop.views + ["purchase"] * 2 * shop.purchases
            for step, kind in enumerate(kinds):
                item = str(rng.choice(favourites if rng.random() < 0.8 else item_ids))
                bought = kind == "purchase"
                saved = 0.5 if bought and rng.random() < 0.2 else 0.0
                events.append(
                    {
                        "user_id": user,
                        "session_id": f"{user}-{visit}",
                        "event_type": kind,
                        "item_id": item,
                        "event_time": at + timedelta(minutes=step),
                        "quantity": float(rng.integers(1, 4)) if bought else None,
                        "unit_price": price[item] if bought and shop.prices else None,
                        "discount": saved if bought and shop.prices else None,
                        "coupon_discount": saved if bought and shop.prices else None,
                        "store_id": "s1" if bought else None,
                    }
                )
            day, visit = day + float(rng.exponential(gap)), visit + 1
        for campaign, start, _ in campaigns if shop.campaigns else ():
            if rng.random() < 0.7 and start < shop.as_of:
                events.append(_touch(user, campaign, "ad_impression", start))
                if rng.random() < 0.15 + 0.4 * (number % 3 == 0):
                    at = start + timedelta(days=float(rng.uniform(1, 24)))
                    events.append(_touch(user, campaign, response, at))
    known = [event for event in events if event["event_time"] < shop.as_of]
    weeks = pl.date_range(START.date(), shop.as_of.date(), "1w", eager=True) + timedelta(days=1)
    shown = pl.DataFrame({"week_start": weeks}).join(
        pl.DataFrame({"item_id": item_ids[::3]}, schema={"item_id": pl.String}), how="cross"
    )
    return TaskData(
        events=_frame(
            [
                {"event_id": f"e{n}", "event_date": event["event_time"].date(), **event}
                for n, event in enumerate(known)
            ],
            schema.EVENTS,
        )
        .sort("event_time", "event_id")
        .lazy(),
        items=_frame(
            [
                {
                    "item_id": item,
                    "title": f"Article {item}",
                    "category": f"k{n % 4}",
                    "department": f"d{n % 2}",
                    "is_merchandise": True,
                    "valid_from": START - timedelta(days=1),
                }
                for n, item in enumerate(item_ids)
            ],
            schema.ITEMS,
        ),
        campaigns=_frame(
            [
                {"campaign_id": name, "campaign_type": "mail", "start_at": start, "end_at": end}
                for name, start, end in campaigns
                if shop.campaigns
            ],
            schema.CAMPAIGNS,
        ),
        campaign_items=_frame(
            [
                {"campaign_id": name, "item_id": item, "offer_id": f"o{item}"}
                for name, *_ in campaigns
                for item in item_ids[:5]
                if shop.campaigns and shop.coupons
            ],
            schema.CAMPAIGN_ITEMS,
        ),
        promotions=_frame(
            shown.with_columns(store_id=pl.lit("s1"), display=pl.lit("front")).to_dicts()
            if shop.promotions
            else [],
            schema.PROMOTIONS,
        ).lazy(),
        business=Business(),
    )


def _touch(user: str, campaign: str, kind: str, at: datetime) -> dict[str, object]:
    return {"user_id": user, "event_type": kind, "event_time": at, "campaign_id": campaign}


def _frame(rows: list[dict[str, object]], table: schema.Table) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=table.polars_schema())


@cache
def published(name: str, task: str) -> pl.DataFrame | str:
    """The rows that the shop's table would hold, or the sentence that says why there are none."""
    shop = SHOPS[name]
    data, as_of = shop_data(shop), shop.as_of
    try:
        if task == PROFILES:
            rows, table, source = user_profiles(data, as_of), schema.USER_PROFILES, "rules"
        else:
            of = load_tasks()[task]
            examples = of.examples(data, as_of)
            check_examples(examples, of, as_of)
            result = backtest(of, examples, as_of=as_of, seed=7)
            champion = Champion(result.published, "v", result.metrics_json())
            rows = of.rows(data, as_of, of.serving_examples(data, as_of), champion)
            table, source = of.table, champion.model.name
            assert all(section.title for section in of.sections(data, result))
    except NotEnoughHistoryError as reason:
        return str(reason)
    stamped = stamp(rows, as_of, version="v", source=source, run_id="r")
    assert contract_problem(stamped, table) == ""
    return stamped


ALL = (*load_tasks(), PROFILES)


@pytest.mark.parametrize("task", ALL)
@pytest.mark.parametrize("name", SHOPS)
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
    assert name == "nobody yet" or found.height or task == "ads"


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
        (PROFILES, ["spend_total", "spend_91d", "aov", "clv_expected"]),
    ],
)
def test_without_prices_no_amount_of_money_is_known(task, columns):
    found = money("no prices", task, columns)
    assert found.height
    assert sum(found.null_count().row(0)) == found.height * found.width


def test_without_prices_nobody_is_put_into_a_segment_of_big_spenders():
    found = published("no prices", PROFILES)
    assert isinstance(found, pl.DataFrame)
    assert not set(found["segment"]) & {"champions", "big_baskets"}


def test_without_prices_nobody_is_said_to_spend_less():
    assert isinstance(published("no prices", "churn_decline"), str)


def test_without_a_promotion_plan_the_table_says_so():
    found = published("no promotions file", "inventory")
    assert isinstance(found, pl.DataFrame)
    assert not found["promo_known"].any()


@pytest.mark.parametrize("name", ["no campaigns", "only purchases", "only views"])
def test_without_campaigns_nobody_is_contacted(name):
    assert "0 closed campaigns" in str(published(name, "ads"))


@pytest.mark.parametrize("task", ["churn_silence", "churn_decline", "inventory"])
def test_without_a_purchase_there_is_neither_churn_nor_demand(task):
    assert isinstance(published("only views", task), str)


def test_profiles_of_people_who_only_look_know_no_order():
    found = published("only views", PROFILES)
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


def test_a_young_business_is_not_told_what_its_users_will_spend():
    found = published("three weeks old", PROFILES)
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
