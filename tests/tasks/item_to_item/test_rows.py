"""Items beside an item: counts by hand, the same whatever the steps, and better than popularity."""

from __future__ import annotations

from datetime import timedelta

import polars as pl
import pytest

from seq_ml.periods import GROCER
from seq_ml.schema import ITEM_TO_ITEM
from seq_ml.tables.publish import checked, stamp
from seq_ml.tasks.behaviour.visits import merchandise_bought
from seq_ml.tasks.item_to_item import rows as company
from seq_ml.tasks.item_to_item.report import judge_company
from seq_ml.tasks.item_to_item.rows import ALTERNATIVE, TOGETHER, item_to_item
from tests.data import AS_OF, journey
from tests.tasks.recommendations.test_task import task_data

KINDS = pl.DataFrame({"item_id": ["tea", "milk", "soap", "chai"], "category": ["t", "m", "s", "t"]})


def baskets(*rows: tuple[str, str]) -> pl.DataFrame:
    """Purchases of (user, items of one basket, one letter each, or words)."""
    return pl.DataFrame(
        [
            {"user_id": user, "item_id": item, "basket": f"b{n}"}
            for n, (user, items) in enumerate(rows)
            for item in items.split()
        ]
    )


@pytest.fixture
def _small(monkeypatch):
    monkeypatch.setattr(company, "MIN_BASKETS", 2)
    monkeypatch.setattr(company, "MIN_BOTH", 2)


@pytest.fixture(scope="module")
def bought() -> pl.DataFrame:
    return merchandise_bought(task_data(), AS_OF)


@pytest.mark.usefixtures("_small")
def test_shares_and_lift_by_hand():
    rows = baskets(
        ("u", "tea milk"), ("v", "tea milk"), ("w", "tea soap"), ("w", "chai"), ("u", "chai"),
        ("v", "chai"), ("x", "soap"), ("x", "soap"), ("x", "soap"), ("y", "soap"),
    )  # fmt: skip
    found = item_to_item([rows], KINDS)
    # of three baskets with tea two hold milk; milk is in two of ten; tea and soap met only once
    assert found.filter(kind=TOGETHER).rows() == [
        ("milk", TOGETHER, 1, "tea", 1.0, 2, pytest.approx(2 / (3 * 2 / 10))),
        ("tea", TOGETHER, 1, "milk", pytest.approx(2 / 3), 2, pytest.approx(2 / (3 * 2 / 10))),
    ]
    # u, v and w bought tea and chai, never in one basket; five users in all
    assert found.filter(kind=ALTERNATIVE).rows() == [
        ("chai", ALTERNATIVE, 1, "tea", 1.0, 3, pytest.approx(5 / 3)),
        ("tea", ALTERNATIVE, 1, "chai", 1.0, 3, pytest.approx(5 / 3)),
    ]


@pytest.mark.usefixtures("_small")
def test_what_meets_by_chance_is_not_bought_together():
    rows = baskets(*[("u", "tea milk")] * 4, *[("v", "tea")] * 4, *[("w", "milk")] * 4)
    assert item_to_item([rows], KINDS).filter(kind=TOGETHER).is_empty()  # lift 4 · 12 / (8 · 8)


@pytest.mark.usefixtures("_small")
def test_a_basket_of_a_wholesaler_counts_no_pairs(monkeypatch):
    monkeypatch.setattr(company, "MAX_BASKET", 2)
    rows = baskets(*[("u", "tea milk soap")] * 5, ("v", "tea"), ("v", "tea"))
    assert item_to_item([rows], KINDS).is_empty()


def test_nothing_bought_gives_no_rows():
    empty = baskets(("u", "tea")).clear()
    found = item_to_item([empty], KINDS)
    assert found.is_empty()
    assert found.columns == list(company.COLUMNS)


def test_real_lists_fit_the_contract_and_do_not_depend_on_the_steps(bought, monkeypatch):
    catalogue = journey(households=60)["items"]
    found = item_to_item([bought], catalogue)
    assert set(found["kind"]) == {TOGETHER, ALTERNATIVE}
    assert found.select("item_id", "kind", "rank").is_duplicated().sum() == 0
    assert not (found["item_id"] == found["other_item_id"]).any()
    assert found["rank"].max() == company.TOP
    said = found.with_columns(rests_on=company.rests_on(GROCER))
    assert said["rests_on"][0] == "history, baskets and users counted, nothing predicted"
    stamped = stamp(said, AS_OF, version="counted", source="co-purchases", run_id="run")
    checked(stamped, ITEM_TO_ITEM)
    order = found.with_columns(step=pl.col("score").diff().over("item_id", "kind"))
    assert (order["step"].drop_nulls() <= 0).all()
    kinds = dict(catalogue.select("item_id", "category").iter_rows())
    pairs = found.filter(kind=ALTERNATIVE).select("item_id", "other_item_id").rows()
    assert all(kinds[one] == kinds[other] for one, other in pairs)

    shuffled = bought.sample(fraction=1, shuffle=True, seed=3)
    assert item_to_item([shuffled], catalogue).equals(found)
    some = [shuffled.filter(pl.col("user_id").hash(1) % 3 == part) for part in range(3)]
    assert item_to_item(some, catalogue).equals(found)
    monkeypatch.setattr(company, "ITEMS_AT_ONCE", 64)
    again = item_to_item([bought], catalogue)
    assert again.filter(kind=TOGETHER).equals(found.filter(kind=TOGETHER))


def test_the_check_tells_company_from_popularity():
    """Fifteen couples that always meet; four kinds of tea, each user has all but one of a kind."""
    couples = [(f"u{n % 20}", f"a{n % 15} b{n % 15} bread") for n in range(600)]
    has, turned = [], []
    for n in range(40):
        kind, lacking = n % 4, n // 4 % 4
        has += [(f"u{n}", f"t{4 * kind + k}") for k in range(4) if k != lacking for _ in range(9)]
        turned.append((f"u{n}", f"t{4 * kind + lacking}"))
    later = [(f"u{n % 20}", f"a{n % 15} b{n % 15}") for n in range(40)]
    before, after = baskets(*couples, *has), baskets(*later, *turned)
    items = before["item_id"].unique().sort()
    kinds = pl.DataFrame({"item_id": items, "category": items.str.slice(0, 1)})
    listed = item_to_item([before], kinds)
    for found in judge_company(listed, before, after, kinds, seed=7):
        assert found.lists.value == 1  # b beside a; the fourth tea beside the others of its kind
        assert found.popular.value < 0.7
        assert found.difference.low > 0
        assert found.difference.value == pytest.approx(1 - found.popular.value)
        assert found.asked == {TOGETHER: 80, ALTERNATIVE: 40}[found.kind]


def test_real_lists_are_judged_on_what_came_later(bought):
    cut = AS_OF - timedelta(days=60)
    before = bought.filter(pl.col("event_time") < cut)
    after = bought.filter(pl.col("event_time") >= cut)
    catalogue = journey(households=60)["items"]
    judged = judge_company(item_to_item([before], catalogue), before, after, catalogue, seed=7)
    assert [found.kind for found in judged] == [TOGETHER, ALTERNATIVE]
    for found in judged:
        assert 0 < found.popular.low < found.popular.high < 1
        assert found.difference.value == pytest.approx(found.lists.value - found.popular.value)
