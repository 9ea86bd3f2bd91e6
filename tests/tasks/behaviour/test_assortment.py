"""The range: what is discontinued three ways, what is new, what is bought again, by hand."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest

from seq_ml.business import Business
from seq_ml.schema import EVENTS, ITEMS, STOCK
from seq_ml.tasks.behaviour.assortment import (
    LEAST_SILENCE,
    Assortment,
    arrivals,
    discontinued,
    measure_new,
    measure_repeats,
    read_assortment,
    read_sales,
)
from seq_ml.tasks.behaviour.visits import merchandise_bought
from seq_ml.tasks.data import TaskData

DAY = timedelta(days=1)
START = datetime(2023, 1, 1, 12, tzinfo=UTC)
AS_OF = datetime(2024, 1, 1, tzinfo=UTC)


def sales(*rows: tuple[str, str, float]) -> pl.DataFrame:
    """clean_events of purchases: (user, item, days after START)."""
    events = [
        dict.fromkeys(EVENTS.names)
        | {
            "event_id": f"e{n}",
            "user_id": user,
            "item_id": item,
            "event_time": START + day * DAY,
            "event_type": "purchase",
            "quantity": 1.0,
            "event_date": (START + day * DAY).date(),
        }
        for n, (user, item, day) in enumerate(rows)
    ]
    return pl.DataFrame(events, schema=EVENTS.polars_schema())


def catalogue(*items: str, **columns: object) -> pl.DataFrame:
    """Items of category food, known since 2020."""
    rows = [
        dict.fromkeys(ITEMS.names)
        | {
            "item_id": item,
            "category": "food",
            "is_merchandise": True,
            "valid_from": datetime(2020, 1, 1, tzinfo=UTC),
        }
        | columns
        for item in items
    ]
    return pl.DataFrame(rows, schema=ITEMS.polars_schema())


def shop(events: pl.DataFrame, items: pl.DataFrame, **more: object) -> TaskData:
    empty = pl.DataFrame()
    return TaskData(events.lazy(), items, empty, empty, empty.lazy(), Business(), **more)


def gone(data: TaskData, as_of: datetime = AS_OF) -> dict[str, str]:
    return dict(discontinued(read_sales(data, as_of), data, as_of).iter_rows())


def every(item: str, gap: float, until: float = 364, since: float = 0) -> list:
    """The item sells to ever other users, each `gap` days."""
    return [(f"u{n}", item, day) for n, day in enumerate(np.arange(since, until, gap))]


OTHERS = [*every("milk", 1), *every("tea", 2)]
SHELF = catalogue("milk", "tea", "rusk")


def test_the_catalogue_ends_an_item_from_an_instant_on_and_brings_it_back():
    events = sales(*OTHERS, *every("rusk", 5))
    end = datetime(2023, 12, 1, tzinfo=UTC)
    ended = pl.concat([catalogue("milk", "tea"), catalogue("rusk", valid_until=end)])
    data = shop(events, ended)
    assert gone(data, end) == {"rusk": "ended"}
    assert gone(data, end - timedelta(microseconds=1)) == {}
    back = catalogue("rusk", valid_from=end + 10 * DAY)
    data = shop(events, pl.concat([ended, back]))
    assert gone(data, end + 10 * DAY) == {"rusk": "ended"}  # known from the next instant on
    assert gone(data) == {}


def test_none_in_stock_and_none_on_order_is_gone():
    counts = [("rusk", "a", 0, 0), ("rusk", "b", 0, 0), ("tea", "a", 0, 0), ("tea", "b", 0, 3)]
    names = ["item_id", "store_id", "on_hand", "on_order"]
    stock = pl.DataFrame(counts, schema=names, orient="row").with_columns(
        counted_at=pl.lit(AS_OF - DAY), **dict.fromkeys(STOCK.names[5:], pl.lit(None))
    )
    stock = stock.select(pl.col(n).cast(t) for n, t in STOCK.polars_schema().items())
    data = shop(sales(*OTHERS, *every("rusk", 5)), SHELF, stock=stock)
    assert gone(data) == {"rusk": "sold_out"}
    assert gone(data, AS_OF - DAY) == {}
    later = sales(("u", "rusk", (AS_OF - START) / DAY - 0.5))  # after the count: it came back
    assert gone(replace(data, events=pl.concat([data.events, later.lazy()]))) == {}


@pytest.mark.parametrize(
    ("gap", "until", "expected"),
    [
        (5, 260, {"rusk": "unsold"}),  # 52 sales, then none for 104 days
        (5, 364 - LEAST_SILENCE + 3, {}),  # silent for less than a quarter
        (40, 260, {}),  # so rare that the silence may be chance
        (5, 364, {}),
    ],
    ids=["silent beyond its rhythm", "silent for weeks", "always rare", "still sold"],
)
def test_an_item_is_gone_when_it_is_silent_beyond_its_own_rhythm(gap, until, expected):
    assert gone(shop(sales(*OTHERS, *every("rusk", gap, until)), SHELF)) == expected


def test_few_sales_say_as_much_as_those_of_the_category():
    """One sale of a fast category, then silence: dead. The same in a slow one: not known."""
    once = [("u", "rusk", 30)]
    fast = [row for n in range(20) for row in every(f"fast{n}", 1)]
    slow = [row for n in range(20) for row in every(f"slow{n}", 90)]
    names = [f"{speed}{n}" for speed in ("fast", "slow") for n in range(20)]
    items = catalogue("rusk", *names)
    once += [("v", "rusk", 31), ("w", "rusk", 33)]
    assert gone(shop(sales(*once, *fast), items)) == {"rusk": "unsold"}
    assert gone(shop(sales(*once, *slow), items)) == {}


def test_a_season_stops_the_clock_of_its_category_for_a_year():
    """Candles sell in winter only: none of them is gone in summer, nor while the shop is shut."""
    winter = [*every("red", 1, 60), *every("white", 1, 60)]
    items = pl.concat([SHELF, catalogue("red", "white", category="candles")])
    data = shop(sales(*OTHERS, *winter), items)
    assert gone(data) == {}
    later = [(user, item, day + 365) for user, item, day in OTHERS]
    data = shop(sales(*OTHERS, *winter, *later), items)
    assert gone(data, AS_OF + 200 * DAY) == {"red": "unsold", "white": "unsold"}
    shut = shop(sales(*OTHERS), SHELF)
    assert gone(shut, AS_OF + 360 * DAY) == {}


def test_an_item_alone_in_its_category_is_told_by_the_whole_business():
    items = pl.concat([SHELF.head(2), catalogue("rusk", category="alone")])
    assert gone(shop(sales(*OTHERS, *every("rusk", 5, 260)), items)) == {"rusk": "unsold"}


def repeats(events: pl.DataFrame, until: datetime = AS_OF):
    return measure_repeats(merchandise_bought(shop(events, SHELF), AS_OF + 900 * DAY), until)


def test_repeats_are_counted_among_those_who_had_something():
    days = [("u", "milk", day) for day in range(300, 330)]  # 29 of them again
    days += [("u", "tea", 340), ("new", "rusk", 341)]  # not again; had nothing before
    found = repeats(sales(*days)).share
    assert found.value == pytest.approx(29 / 30)
    assert found.low < 0.3, "all are of one user"
    later = sales(*days, *(("u", f"i{n}", 366 + n) for n in range(90)))
    assert repeats(later).share.value == pytest.approx(29 / 30)  # nothing from then on counts
    assert repeats(sales(*days[:15])).share is None
    assert repeats(sales(*days[:15])).offered, "too few to say otherwise"


def shares(*of_ten: float) -> pl.DataFrame:
    """A hundred conversions a day of people who have milk, so many of ten of them milk again."""
    had = [(f"u{n}", "milk", -400) for n in range(100)]
    again = [
        (f"u{n}", "milk" if n < 10 * tenths else f"i{day}-{n}", day)
        for day, tenths in enumerate(of_ten)
        for n in range(100)
    ]
    return sales(*had, *again)


def test_a_share_of_repeats_about_the_edge_changes_no_list_overnight():
    """What was clear last holds: the year's share goes up and down about a tenth for weeks."""
    about = [0.5, 1.4] * 20
    for first, offered in ((0, False), (3, True)):
        found = shares(*[first] * 5, *([3 - first] * 3 if first else [2.5] * 3), *about)
        days = [repeats(found, START + (day + 0.5) * DAY).offered for day in range(9, 47)]
        assert set(days) == {offered}, "as before"
    clear = shares(*[0] * 5, *[4] * 20)
    days = [repeats(clear, START + (day + 0.5) * DAY).offered for day in range(25)]
    assert days == sorted(days)
    assert (days[3], days[-1]) == (False, True)


def young(events: pl.DataFrame, items: pl.DataFrame = SHELF, as_of: datetime = AS_OF):
    """Share of conversions of new items, and which items came when (days after START)."""
    data = shop(events, items)
    sales = read_sales(data, as_of)
    range_ = read_assortment(sales, data, as_of)
    bought = merchandise_bought(data, AS_OF + 900 * DAY).with_columns(range_.product)
    born = arrivals(sales, range_)
    came = {item: (day - START) / DAY for item, day in born.iter_rows()}
    return measure_new(bought, born, as_of, data.periods), came


def test_new_items_are_young_by_the_catalogue_or_by_a_sudden_first_sale():
    old = [(f"u{day}", "milk", day) for day in range(100, 364)]
    few = [("u", "tea", 340), ("u", "tea", 350), ("u", "tea", 363)]
    share, came = young(sales(*old, *few))
    assert (share.value, came) == (0, {}), "one buyer may come by chance"
    some = [(f"v{n}", "tea", 340 + 2 * n) for n in range(12)]  # first sold 24 days before
    share, came = young(sales(*old, *some))
    assert (share.value, came) == (pytest.approx(12 / 102), {"tea": 340})
    assert share.low < share.value < share.high
    dated = pl.concat([catalogue("milk"), catalogue("tea", valid_from=START + 330 * DAY)])
    share, came = young(sales(*old, *few), dated)
    assert share.value == pytest.approx(2 / 93)  # the last: 33 days old
    assert came == {"tea": 330}
    exported = catalogue("milk", "tea", valid_from=START + 360 * DAY)
    assert young(sales(*old, *few), exported)[1] == {}, "sold before its date: that says nothing"
    everything = sales(*(("u", f"i{n}", n) for n in range(40)))  # sold first in a new log
    assert young(everything, as_of=START + 28 * DAY) == (None, {})


def test_the_long_tail_of_a_range_that_never_changes_is_not_new():
    """Of 1,000 items most sell a few times a year: first sales are no news."""
    rng = np.random.default_rng(1)
    popularity = 1 / np.arange(1, 1001) ** 0.8
    chosen = rng.choice(1000, 3000, p=popularity / popularity.sum())
    users, days = rng.integers(0, 300, 3000), np.sort(rng.random(3000)) * 364
    lines = [(f"u{u}", f"i{i}", d) for u, i, d in zip(users, chosen, days, strict=True)]
    first = pl.DataFrame(lines, schema=["user", "item", "day"], orient="row").filter(
        pl.col("day") >= 364 - 91
    )
    assert first.height > 600
    share, came = young(sales(*lines), catalogue(*(f"i{n}" for n in range(1000))))
    assert share.value < 0.01
    assert share.high < 0.03
    assert len(came) < 5


def test_variants_are_one_product_which_goes_when_all_of_them_are_gone():
    end = AS_OF - DAY
    items = pl.concat(
        [
            catalogue("shirt-m", product_id="shirt", valid_until=end),
            catalogue("shirt-l", product_id="shirt"),
            catalogue("hat-m", "hat-l", product_id="hat", valid_until=end),
            catalogue("cup"),
        ]
    )
    data = shop(sales(("u", "cup", 3)), items)
    range_ = read_assortment(read_sales(data, AS_OF), data, AS_OF)
    assert range_.hidden.to_list() == ["hat", "hat-l", "hat-m", "shirt-m"]
    assert "shirt" in replace(range_, denied=("shirt-l",)).hidden
    assert range_.products["item_id"].sort().to_list() == ["cup", "hat", "shirt"]
    ids, scores = range_.scores_of_products(
        ["cup", "shirt-l", "hat-m", "shirt-m"], np.array([[1, 2, 3, 4]], dtype=np.float32)
    )
    assert dict(zip(ids, scores[0].tolist(), strict=True)) == {"cup": 1, "hat": 3, "shirt": 4}
    plain = Assortment(catalogue("cup"))
    assert plain.scores_of_products(["cup"], scores)[1] is scores
