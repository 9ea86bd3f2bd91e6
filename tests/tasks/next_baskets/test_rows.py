"""The next basket: no item twice, falling scores, size and day by hand, and an honest check."""

from __future__ import annotations

from datetime import date, timedelta
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
import pytest

from seq_ml.business import Business
from seq_ml.periods import GROCER
from seq_ml.schema import NEXT_BASKETS
from seq_ml.tables.publish import checked, stamp
from seq_ml.tasks.behaviour.visits import merchandise_bought
from seq_ml.tasks.next_baskets.report import judge_baskets
from seq_ml.tasks.next_baskets.rows import POSITIONS, expectations, next_baskets
from tests.tasks.recommendations.test_task import ORIGIN, catalogue, purchases, task_data

if TYPE_CHECKING:
    from seq_ml.metrics.estimate import Estimate

DAY = timedelta(days=1)


def bought(*rows: tuple[str, str, float]) -> pl.DataFrame:
    """Merchandise bought: (user, item, days after the origin); one basket a day and user."""
    events = purchases(*((user, item, ORIGIN + days * DAY) for user, item, days in rows))
    items = catalogue(*sorted({item for _, item, _ in rows}))
    return merchandise_bought(task_data(events, items=items), ORIGIN + 90 * DAY)


def recommended(user: str, count: int) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "user_id": [user] * count,
            "rank": range(1, count + 1),
            "item_id": [f"i{n}" for n in range(count)],
            "score": [1 - n / 100 for n in range(count)],
            "p_purchase": [1 - n / 100 for n in range(count)],
            "source": ["ranker"] * count,
            "rests_on": ["a ranker"] * count,
        },
        schema_overrides={"rank": pl.Int32, "score": pl.Float32, "p_purchase": pl.Float32},
    )


def made(rows: pl.DataFrame, timezone: str) -> pl.DataFrame:
    return next_baskets(rows, HISTORY, ORIGIN, Business(timezone=timezone), GROCER)


HISTORY = bought(
    *(("u", item, -30) for item in ("a", "b")),
    *(("u", item, -20) for item in ("a", "b", "c", "d")),
    *(("u", item, -10) for item in ("a", "b", "c")),
    ("u", "late", 5),
)


def test_the_first_recommendations_size_and_day_by_hand():
    found = made(recommended("u", 20), "America/New_York")
    assert found["position"].to_list() == list(range(1, POSITIONS + 1))
    assert found["item_id"].to_list() == [f"i{n}" for n in range(POSITIONS)]
    assert found["score"].is_sorted(descending=True)
    assert set(found["rests_on"]) == {"a ranker"}
    assert found["in_basket"].to_list() == [True] * 3 + [False] * 7  # baskets of 2, 4 and 3
    assert found["expected_size"].unique().to_list() == [3]
    # 6 days after 31 May, the day of midnight UTC in New York; see the test of the waits
    assert found["expected_date"].unique().to_list() == [date(2017, 6, 6)]
    stamped = stamp(found, ORIGIN, version="v1", source="", run_id="run")
    checked(stamped, NEXT_BASKETS)


def test_what_nobody_bought_yet_is_in_no_basket():
    untried = pl.col("rank").is_in([2, 5])
    source = pl.when(untried).then(pl.lit("catalogue")).otherwise("source")
    rows = recommended("u", 20).with_columns(source=source)
    found = made(rows.with_columns(p_purchase=pl.when(~untried).then("p_purchase")), "UTC")
    assert found["position"].to_list() == list(range(1, POSITIONS + 1))
    assert found["item_id"].to_list() == [f"i{n}" for n in range(12) if n not in (1, 4)]
    assert found["p_purchase"].null_count() == 0


def test_who_never_ordered_has_items_but_neither_size_nor_day():
    found = made(recommended("new", 5), "UTC")
    assert found.height == 5
    for name in ("in_basket", "expected_size", "expected_date"):
        assert found[name].null_count() == 5


def test_waits_are_medians_of_random_orders_that_come_within_the_horizon():
    past = HISTORY.filter(pl.col("item_id") != "late")
    for days in (0, 30, 60):
        gap = (30 + days) / 3  # three order days; the silence since the last one counts
        at = ORIGIN + days * DAY
        (expected,) = expectations(past, at, Business(), GROCER)["next_order_date"]
        drawn = np.random.default_rng(1).exponential(gap, 400_000)
        assert (expected - at.date()).days == int(np.median(drawn[drawn < 30]))
    silent = expectations(past, ORIGIN + 90 * DAY, Business(), GROCER).row(0, named=True)
    assert (silent["size"], silent["next_order_date"]) == (3, None)  # the last is 100 days ago


def test_precision_recall_and_f1_by_hand():
    rows = [
        ("u", "a", -20), ("u", "b", -20), ("v", "a", -10), ("v", "b", -10),
        ("u", "a", 1), ("u", "c", 1), ("u", "d", 1), ("u", "b", 2),  # b: a later basket
        ("v", "b", 40),  # after the window
        ("w", "a", 3),  # unknown before the origin
    ]  # fmt: skip
    lists = {
        "ours": pl.DataFrame({"user_id": ["u"] * 3, "item_id": ["a", "c", "d"], "place": range(3)}),
        "none": pl.DataFrame({"user_id": ["u"], "item_id": ["z"], "place": [0]}),
    }
    found = judge_baskets(
        lists, bought(*rows), ORIGIN, ORIGIN + 30 * DAY, Business(), periods=GROCER, seed=1
    )
    assert found is not None
    assert found.users == 1
    ours = {name: estimate.value for name, estimate in found.quality["ours"].items()}
    assert ours == {"precision": 1.0, "recall": pytest.approx(2 / 3), "f1": pytest.approx(0.8)}
    assert found.quality["none"]["f1"].value == 0
    assert found.lead["none"].value == pytest.approx(0.8)
    assert found.off["items"]["of the user"].value == 1  # three items instead of two


def test_what_the_sequence_model_foresees_of_day_and_size_stands_beside_the_users_own():
    rows = [*(("u", item, -20) for item in "ab"), *(("u", item, -10) for item in "ab"),
            *(("u", item, 4) for item in "abc"), ("v", "a", -10), ("v", "b", 9)]  # fmt: skip
    lists = {"ours": pl.DataFrame({"user_id": ["u"], "item_id": ["a"], "place": [0]})}
    told = pl.DataFrame({"user_id": ["u"], "wait_p50": 5.0, "orders_28d": 2.0, "lines_28d": 5.0})
    model, paired = "foreseen by the sequence model", "of the user minus foreseen, paired"

    def off(foretold: pl.DataFrame) -> dict[str, dict[str, Estimate]]:
        found = judge_baskets(
            lists, bought(*rows), ORIGIN, ORIGIN + 30 * DAY, Business(), periods=GROCER, seed=1,
            foretold=foretold,
        )  # fmt: skip
        assert found is not None
        return found.off

    found = off(told)
    assert found["items"][model].value == found["items"][paired].value == 0.5
    assert found["days"][model].value == 2, "it came on the third"
    never = told.with_columns(wait_p50=pl.lit(None, dtype=pl.Float64))
    assert off(never)["days"][model].value == 27, "the horizon at most"
    assert model not in off(told.filter(user_id="nobody"))["days"]


def test_nobody_who_comes_again_is_no_check():
    found = judge_baskets(
        {}, HISTORY, ORIGIN + 30 * DAY, ORIGIN + 60 * DAY, Business(), periods=GROCER, seed=1
    )
    assert found is None
