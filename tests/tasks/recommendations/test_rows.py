"""Lists that people see: room for new items, filters, and somebody nobody knows."""

from __future__ import annotations

from datetime import timedelta

import polars as pl
import pytest

from seq_ml.business import Recommendations
from seq_ml.schema import STOCK
from seq_ml.tasks.behaviour.visits import first_seen, merchandise_bought
from seq_ml.tasks.recommendations.known import read_known
from seq_ml.tasks.recommendations.rows import published_lists
from tests.tasks.recommendations.test_task import ORIGIN, catalogue, purchases, task_data

DAY = timedelta(days=1)
ITEMS = [f"i{n}" for n in range(12)]


def scored(*rows: tuple[str, str, float, int]) -> pl.DataFrame:
    """Candidates of users who bought: (user, item, score, own_count)."""
    names = ["user_id", "item_id", "score", "own_count"]
    frame = pl.DataFrame(list(rows), schema=names, orient="row")
    return frame.with_columns(user_days=pl.lit(3.0), item_age_days=pl.lit(100.0))


def stock(*rows: tuple[str, str, float, float]) -> pl.DataFrame:
    """Counts of the day before: (item, store, on hand, on order)."""
    names = ["item_id", "store_id", "on_hand", "on_order"]
    frame = pl.DataFrame(list(rows), schema=names, orient="row")
    counted = frame.with_columns(
        counted_at=pl.lit(ORIGIN - DAY), **dict.fromkeys(STOCK.names[5:], pl.lit(None))
    )
    return counted.select(pl.col(n).cast(t) for n, t in STOCK.polars_schema().items())


def made(candidates: pl.DataFrame, events: pl.DataFrame, **terms_and_more) -> pl.DataFrame:
    names = Recommendations.model_fields
    terms = {k: v for k, v in terms_and_more.items() if k in names}
    more = {k: v for k, v in terms_and_more.items() if k not in names}
    more.setdefault("items", catalogue(*ITEMS))
    unseen = more.pop("unseen", None)
    said = Recommendations(**{"allow_repeats": True, "new_share": 0.0} | terms)
    data = task_data(events, said, **more)
    bought, seen = merchandise_bought(data, ORIGIN), first_seen(data, ORIGIN)
    known = read_known(data, bought, seen, ORIGIN, ORIGIN)
    return published_lists(candidates, known, unseen)


def shown(lists: pl.DataFrame, user: str) -> list[str]:
    return lists.filter(user_id=user).sort("rank")["item_id"].to_list()


BOUGHT = purchases(*(("u", item, ORIGIN - DAY) for item in ITEMS[:6]))
RANKED = scored(
    *(("u", item, 0.9 - n / 100, 1) for n, item in enumerate(ITEMS[:6])),
    *(("u", item, 0.1 - n / 100, 0) for n, item in enumerate(ITEMS[6:])),
)


def test_half_of_the_places_are_kept_for_new_items_and_the_order_is_by_score():
    lists = made(RANKED, BOUGHT, per_user=6)
    assert shown(lists, "u") == ["i0", "i1", "i2", "i6", "i7", "i8"]
    assert lists["rank"].to_list() == [1, 2, 3, 4, 5, 6]
    assert lists["segment"].null_count() == 6


def test_the_best_half_is_what_score_alone_says():
    best_new = RANKED.with_columns(
        score=pl.when(pl.col("own_count") == 0).then(0.95).otherwise("score")
    )
    lists = made(best_new, BOUGHT, per_user=6)
    assert shown(lists, "u") == ["i10", "i11", "i6", "i7", "i8", "i9"]


def test_denied_items_are_never_shown():
    lists = made(RANKED, BOUGHT, per_user=6, deny_items=("i0", "i7"))
    assert shown(lists, "u") == ["i1", "i2", "i3", "i6", "i8", "i9"]


def test_what_is_owned_is_not_shown_where_nobody_buys_again():
    lists = made(RANKED, BOUGHT, per_user=12, allow_repeats=False)
    assert set(shown(lists, "u")) == set(ITEMS[6:])  # and no popular own item fills up


def test_what_is_gone_is_not_shown():
    counted = stock(
        ("i0", "ALL", 0, 0),  # gone
        ("i1", "a", 0, 0),
        ("i1", "b", 2, 0),  # another store has it
        ("i2", "ALL", 0, 5),  # comes
    )
    lists = made(RANKED, BOUGHT, per_user=6, stock=counted)
    assert shown(lists, "u")[:3] == ["i1", "i2", "i3"]
    assert "i0" not in shown(lists, "u")


def test_a_count_of_later_is_not_known_yet():
    later = stock(("i0", "ALL", 0, 0)).with_columns(counted_at=pl.lit(ORIGIN))
    lists = made(RANKED, BOUGHT, per_user=6, stock=later)
    assert shown(lists, "u")[0] == "i0"


def other_category(*items: str) -> pl.DataFrame:
    return catalogue(*ITEMS).with_columns(
        category=pl.when(pl.col("item_id").is_in(items))
        .then(pl.lit("tea"))
        .otherwise(pl.lit("food"))
    )


def strangers(**values: str) -> pl.DataFrame:
    """Events of a user who never bought."""
    event = purchases(("new", "i11", ORIGIN - DAY)).with_columns(event_type=pl.lit("view"))
    blank = event.with_columns(item_id=pl.lit(None, dtype=pl.String))
    return blank.with_columns(**{name: pl.lit(value) for name, value in values.items()})


@pytest.mark.parametrize(
    ("seen", "dimension", "segment", "first"),
    [
        ({"item_id": "i11"}, "category", "tea", ["i10", "i9"]),
        ({"store_id": "s2", "channel": "web"}, "store_id", "s2", ["i3"]),
        ({"channel": "app"}, "channel", "app", ["i2"]),
        ({"channel": "mail"}, "all", "all", []),
        ({}, "all", "all", []),
    ],
    ids=["category looked at", "store", "channel", "channel without a sale", "nothing known"],
)
def test_a_new_user_gets_what_is_popular_in_the_segment_then_among_all(
    seen, dimension, segment, first
):
    sold = purchases(
        *((f"u{n}", "i10", ORIGIN - DAY) for n in range(2)),
        ("u3", "i9", ORIGIN - DAY),
        *((f"u{n}", item, ORIGIN - DAY) for n in range(5) for item in ("i0", "i1")),
    )
    elsewhere = purchases(("u9", "i3", ORIGIN - DAY)).with_columns(store_id=pl.lit("s2"))
    by_app = purchases(("u8", "i2", ORIGIN - DAY)).with_columns(channel=pl.lit("app"))
    events = pl.concat([sold, elsewhere, by_app, strangers(**seen)])
    candidates = scored(("u0", "i0", 0.5, 1))
    lists = made(candidates, events, per_user=4, items=other_category("i9", "i10", "i11"))
    mine = lists.filter(user_id="new").sort("rank")
    among_all = [item for item in ("i0", "i1", "i10", "i2") if item not in first]
    assert mine["item_id"].to_list() == [*first, *among_all][:4]
    assert mine["segment"].to_list() == ([segment] * len(first) + ["all"] * 4)[:4]
    assert mine["dimension"].to_list() == ([dimension] * len(first) + ["all"] * 4)[:4]
    assert mine["score"].to_list() == [0, -1, -2, -3]


def test_a_short_list_is_filled_with_what_is_popular_below_the_scores():
    events = pl.concat([BOUGHT, purchases(("v", "i0", ORIGIN - DAY))])
    lists = made(scored(("u", "i5", 0.2, 1), ("v", "i0", 0.3, 1)), events, per_user=3)
    assert shown(lists, "u") == ["i5", "i0", "i1"]
    assert shown(lists, "v") == ["i0", "i1", "i2"]
    filled = lists.filter(user_id="u").sort("rank")
    assert filled["segment"].to_list() == [None, "all", "all"]
    assert filled["score"].is_sorted(descending=True)


def test_everybody_with_an_event_is_covered():
    events = pl.concat([BOUGHT, strangers(), purchases(("late", "i1", ORIGIN))])
    lists = made(RANKED, events, per_user=4)
    assert set(lists["user_id"]) == {"u", "new"}  # "late" came at the cut-off
    assert lists.group_by("user_id").len()["len"].to_list() == [4, 4]
    assert not lists.select("user_id", "item_id").is_duplicated().any()
