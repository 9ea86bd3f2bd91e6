"""The range in the lists: items nobody bought, what is gone, variants, repeats as people buy."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cache

import numpy as np
import polars as pl
import pytest
from scipy import sparse

from seq_ml.business import Business, Recommendations
from seq_ml.evaluation.backtest import backtest
from seq_ml.evaluation.leakage import feature_time
from seq_ml.ingest.mapping.values import ALWAYS_KNOWN
from seq_ml.periods import Periods
from seq_ml.schema import EVENTS, ITEMS, RECOMMENDATIONS
from seq_ml.storage.contracts import check_key
from seq_ml.tables.publish import checked, stamp
from seq_ml.tasks import data as task_data
from seq_ml.tasks.behaviour.assortment import read_assortment, read_sales, shelves
from seq_ml.tasks.behaviour.visits import first_seen, merchandise_bought
from seq_ml.tasks.candidate import Champion
from seq_ml.tasks.data import TaskData
from seq_ml.tasks.item_to_item.rows import TOGETHER, lists_beside
from seq_ml.tasks.recommendations import known as known_module
from seq_ml.tasks.recommendations.known import read_known
from seq_ml.tasks.recommendations.task import RecommendationTask
from seq_ml.tasks.recommendations.unseen import best_unseen

DAY = timedelta(days=1)
START = datetime(2023, 1, 1, tzinfo=UTC)
AS_OF = START + 300 * DAY
KINDS = ("dress", "boot")
NEW = {f"new{kind}{n}": kind for kind in KINDS for n in range(2)}


def item(item_id: str, kind: str, **columns: object) -> dict[str, object]:
    return (
        dict.fromkeys(ITEMS.names)
        | {
            "item_id": item_id,
            "title": f"{kind} {item_id}",
            "category": kind,
            "is_merchandise": True,
            "valid_from": START - 30 * DAY,
        }
        | columns
    )


def frame(rows: list[dict[str, object]]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=ITEMS.polars_schema())


@cache
def fashion(*, drops: bool = True, again: bool = False) -> TaskData:
    """Sixty users, each of one kind; every month new items of both kinds, rarely bought twice.

    drops: without them the range never changes. again: users buy three items of theirs for ever.
    """
    rng = np.random.default_rng(3)
    items, events = [], []
    for month in range(10):
        for kind in KINDS:
            for n in range(8 if drops or month == 0 else 0):
                since = START + ((30 * month - 3) * DAY if drops and month else -30 * DAY)
                items.append(item(f"{kind}{month}{n}", kind, valid_from=since))
    known_from = AS_OF - 5 * DAY
    items += [item(name, kind, valid_from=known_from) for name, kind in NEW.items()]
    items.append(item("later", "dress", valid_from=AS_OF))
    items.append(item("old", "dress", valid_from=AS_OF - 400 * DAY))
    items.append(item("fee", "dress", valid_from=known_from, is_merchandise=False))
    for number in range(60):
        kind = KINDS[number % 2]
        own = [f"{kind}0{n}" for n in rng.choice(8, 3, replace=False)]
        for day in np.sort(rng.uniform(0, 300, 30 if again else 12)):
            month = int(day // 30) if drops else 0
            months = [max(0, month - 1), month]
            chosen = own if again else [f"{kind}{m}{n}" for m in months for n in range(8)]
            events.append((f"u{number:02d}", str(rng.choice(chosen)), START + float(day) * DAY))
    return shop(frame(items), events)


def shop(items: pl.DataFrame, events: list[tuple[str, str, datetime]]) -> TaskData:
    rows = [
        dict.fromkeys(EVENTS.names)
        | {
            "event_id": f"e{n}",
            "user_id": user,
            "session_id": f"{user} {at:%F}",
            "item_id": bought,
            "event_time": at,
            "event_type": "purchase",
            "quantity": 1.0,
            "unit_price": 1.0,
            "event_date": at.date(),
        }
        for n, (user, bought, at) in enumerate(events)
    ]
    empty = pl.DataFrame()
    promotions = pl.DataFrame(schema={"week_start": pl.Date, "display": pl.String,
        "mailer": pl.String, "item_id": pl.String, "store_id": pl.String})  # fmt: skip
    log = pl.DataFrame(rows, schema=EVENTS.polars_schema()).sort("event_time").lazy()
    return TaskData(log, items, empty, empty, promotions.lazy(), Business())


def told(data: TaskData, **terms: object) -> TaskData:
    return replace(data, business=Business(recommendations=Recommendations(**terms)))


def published(data: TaskData, per_user: int = 10, **terms: object) -> pl.DataFrame:
    """The rows of a champion that ranks by popularity."""
    data, task = told(data, per_user=per_user, **terms), RecommendationTask()
    popular = next(c for c in task.candidates() if c.name == "popularity_28d")
    popular.restore({"column": popular.column, "scale": 1.0, "slope": 1.0, "intercept": -3.0})
    rows = task.rows(data, AS_OF, task.serving(data, AS_OF), Champion(popular, "v"))
    rows = stamp(rows, AS_OF, version="v", source="x", run_id="r")
    checked(rows, RECOMMENDATIONS)
    check_key(rows, RECOMMENDATIONS)
    return rows


def known(data: TaskData, origin: datetime = AS_OF, **terms: object):
    """What is measured at an origin, and what follows from it."""
    bought, seen = merchandise_bought(data, AS_OF), first_seen(data, AS_OF)
    return read_known(told(data, **terms), bought, seen, origin, origin)


def test_what_nobody_bought_enters_the_lists_by_category_and_text():
    rows = published(fashion())
    new = rows.filter(pl.col("item_id").is_in([*NEW, "later", "old", "fee"]))
    assert set(new["item_id"]) <= set(NEW)  # known, no dud, merchandise
    assert new["user_id"].n_unique() == 60
    liked = new["user_id"].str.slice(1).cast(pl.Int64) % 2
    assert [NEW[i] for i in new["item_id"]] == [KINDS[kind] for kind in liked]
    assert set(new["rec_type"]) == {"new"}
    assert set(new["source"]) == {"catalogue"}
    assert new["p_purchase"].null_count() == new.height
    assert not new["is_fallback"].any()
    assert new["reason"].str.starts_with("New in the range, like ").all()
    assert (new["reason_items"].list.len() == 2).all()
    falling = rows.sort("user_id", "rank").select(pl.col("score").diff().over("user_id"))
    assert falling.to_series().drop_nulls().max() <= 0


def test_their_share_follows_from_how_people_buy_or_is_set():
    drops, still = fashion(), fashion(drops=False)
    assert known(drops).new.value > 0.4
    assert known(drops).terms.new_share == min(known(drops).new.value, 0.5)
    assert known(still).new.value == 0
    rows = published(still).filter(pl.col("source") == "catalogue")
    assert rows["user_id"].n_unique() == rows.height == 60  # at least one where something is new
    assert set(rows["rank"]) == {10}  # and the last one
    assert "catalogue" not in published(still, new_share=0.0)["source"]
    two = published(still, new_share=0.2).filter(source="catalogue", user_id="u00")
    assert two["rank"].sort().to_list() == [5, 10]
    # The only place of a list is none of half of them, unless the business says so.
    assert "catalogue" not in published(still, per_user=1)["source"]
    assert set(published(still, per_user=1, new_share=1.0)["source"]) == {"catalogue"}


def test_at_the_beginning_of_a_log_what_is_first_sold_is_not_new():
    data = fashion(drops=False)
    young = replace(data, events=data.events.filter(pl.col("event_time") >= AS_OF - 20 * DAY))
    rows = published(young, new_share=0.0)
    assert "new" not in rows["rec_type"]
    assert not rows["reason"].str.contains("New in the range").any()


def test_nothing_after_the_origin_says_how_people_buy():
    data, origin = fashion(), AS_OF - 60 * DAY
    ended = replace(data, events=data.events.filter(pl.col("event_time") < origin))
    one, other = known(data, origin), known(ended, origin)
    assert (one.new, one.repeats) == (other.new, other.repeats)
    assert one.young.sort().equals(other.young.sort())


def test_the_order_of_the_others_stays():
    rows = published(fashion(drops=False), new_share=0.2)
    plain = published(fashion(drops=False), new_share=0.0)
    key = ["user_id", "item_id"]
    others = rows.filter(pl.col("source") != "catalogue").sort("user_id", "rank").select(key)
    assert others.height == 60 * 8
    kept = plain.sort("user_id", "rank").select(key).join(others, on=key, maintain_order="left")
    assert kept.equals(others)


def test_an_unseen_item_has_the_mean_of_what_the_user_took_up_of_its_group():
    """Half of the boots are of wood; who took up nothing gets what everybody did."""
    data = fashion(drops=False)
    wood = [f"boot0{n}" for n in range(4)]
    brand = pl.when(pl.col("item_id").is_in([*wood, "newboot1"])).then(pl.lit("wood"))
    items = data.items.with_columns(brand=brand.otherwise(pl.lit("steel")))
    unseen = known(replace(data, items=items), new_share=1.0).unseen()
    best = best_unseen(unseen, 2)
    first = dict(best.filter(place=0).select("user_id", "item_id").iter_rows())
    of_wood = np.isin(unseen.known, wood)
    for user, liked in zip(unseen.users, unseen.liked.toarray(), strict=True):
        if int(user[1:]) % 2:
            wooden = liked[of_wood].sum() > liked[~of_wood].sum()
            assert first[user] == ("newboot1" if wooden else "newboot0")
    assert set(first.values()) >= {"newboot0", "newboot1"}
    nothing = sparse.csr_matrix((1, len(unseen.known)))
    nobody = replace(unseen, users=["nobody"], liked=nothing)
    assert best_unseen(replace(nobody, everybody=nothing), 2).is_empty()
    more = replace(
        unseen, users=[*unseen.users, "nobody"], liked=sparse.vstack([unseen.liked, nobody.liked])
    )
    given = best_unseen(more, 2)
    assert given.filter(user_id="nobody").height == 2
    assert given.filter(pl.col("user_id") != "nobody").equals(best)


@pytest.mark.parametrize("again", [False, True], ids=["rarely again", "again and again"])
def test_repeats_are_offered_where_people_buy_again(again):
    data = fashion(drops=not again, again=again)
    assert (known(data).repeats.share.value >= 0.1) is again
    assert known(data).terms.repeats is again
    assert known(data, allow_repeats=not again).terms.repeats is not again
    rows = published(data)
    bought = data.events.select("user_id", "item_id").unique().collect()
    owned = rows.join(bought, on=["user_id", "item_id"], how="semi")
    assert bool(owned.height) is again


def test_what_is_gone_leaves_the_lists_from_its_end_on():
    data = fashion(drops=False, again=True)
    assert "dress00" in published(data)["item_id"]
    for end, there in ((AS_OF, False), (AS_OF + DAY, True)):
        ended = pl.when(pl.col("item_id") == "dress00").then(pl.lit(end))
        items = data.items.with_columns(valid_until=ended)
        assert ("dress00" in published(replace(data, items=items))["item_id"]) is there


def test_the_report_says_what_was_measured_and_judges_lists_with_and_without():
    data, task = told(fashion(), per_user=10), RecommendationTask()
    examples = task.examples(data, AS_OF)
    result = backtest(task, examples, as_of=AS_OF, seed=7)
    section = task.sections(data, result)[0]
    rows = {row[0]: row[1:] for row in section.rows}
    repeats, choice = rows["conversions that repeat what the user had"]
    share, low, high = (float(part.strip("[]%,")) for part in repeats.split())
    assert 0 < low < share < high < 10
    assert choice == "repeats are not offered"
    assert rows["conversions of items at most 28 days old"][1].endswith("% of the places")
    assert rows["conversions of items at most 28 days old"][0].count("%") == 3  # with an interval
    assert rows["ended by the catalogue"] == ("0 items", "never shown")
    value, lead = next(v for k, v in rows.items() if k.startswith("recall@10 of such items"))
    assert float(value.split()[0]) > 0
    assert lead.startswith("+")  # what nobody bought is in no list without
    assert "flatters" not in section.text
    assert feature_time(task, data, examples, AS_OF) == ""


@pytest.mark.parametrize("since", [ALWAYS_KNOWN, START - DAY], ids=["no date", "one date"])
def test_the_report_says_where_the_catalogue_cannot_say_what_was_known(since):
    known_from = pl.lit(since).cast(pl.Datetime("us", "UTC"))
    dateless = fashion().items.with_columns(valid_from=known_from)
    data, task = told(replace(fashion(), items=dateless), per_user=10), RecommendationTask()
    result = backtest(task, task.examples(data, AS_OF), as_of=AS_OF, seed=7)
    section = task.sections(data, result)[0]
    assert "flatters" in section.text


SIZES = ("s", "m", "l")


@cache
def sized() -> TaskData:
    """Thirty products in three sizes; each user wears one size and seldom buys the same again."""
    rng = np.random.default_rng(4)
    items = [
        item(f"p{n:02d}-{size}", KINDS[n % 2], product_id=f"p{n:02d}")
        for n in range(30)
        for size in SIZES
    ]
    items.append(item("new-s", "dress", product_id="new", valid_from=AS_OF - DAY))
    items.append(item("new-m", "dress", product_id="new", valid_from=AS_OF - DAY))
    events = []
    for number in range(60):
        size, products = SIZES[number % 3], rng.permutation(30)[:12]
        for n, day in zip(products, np.sort(rng.uniform(0, 300, 12)), strict=True):
            at = START + float(day) * DAY
            events += [(f"u{number:02d}", f"p{(n + side) % 30:02d}-{size}", at) for side in (0, 1)]
    return shop(frame(items), events)


def test_variants_count_as_one_product_and_a_list_names_one():
    data = sized()
    rows = published(data, allow_repeats=False)
    product = data.items.select("item_id", "product_id")
    named = rows.join(product, on="item_id")
    assert named.height == rows.height
    assert not named.select("user_id", "product_id").is_duplicated().any()
    bought = data.events.select("user_id", "item_id").unique().collect().join(product, on="item_id")
    # Who has a size of it has the product.
    assert named.join(bought, on=["user_id", "product_id"], how="semi").is_empty()
    assert set(rows.filter(pl.col("source") == "catalogue")["item_id"]) == {"new-m"}
    own = published(data, allow_repeats=True)
    again = own.filter(pl.col("rec_type") == "buy_again")
    sizes = again.select(pl.col("item_id").str.slice(-1), n=pl.col("user_id").str.slice(1))
    assert all(SIZES[int(n) % 3] == size for size, n in sizes.iter_rows())  # the user's own size
    assert (again["reason_items"].list.first() == again["item_id"]).all()


def company(data: TaskData) -> pl.DataFrame:
    bought = merchandise_bought(data, AS_OF)
    sales = read_sales(data, AS_OF)
    range_ = read_assortment(sales, data, AS_OF)
    return lists_beside([bought], sales.items, range_, shelves(data, AS_OF))


def test_products_keep_company_and_each_variant_has_the_list():
    data = sized()
    listed = company(data)
    assert listed.filter(kind=TOGETHER).height
    beside = {size: listed.filter(item_id=f"p05-{size}").drop("item_id").rows() for size in SIZES}
    assert beside["s"] == beside["m"] == beside["l"] != []
    products = listed.select("item_id", "kind", pl.col("other_item_id").str.slice(0, 3))
    assert not products.is_duplicated().any()
    ended = pl.when(pl.col("item_id").str.starts_with("p06")).then(pl.lit(AS_OF))
    data = replace(data, items=data.items.with_columns(valid_until=ended))
    without = company(data)
    assert not without["other_item_id"].str.starts_with("p06").any()
    assert without.filter(item_id="p05-s", kind=TOGETHER)["rank"].to_list() == list(
        range(1, without.filter(item_id="p05-s", kind=TOGETHER).height + 1)
    )


def test_what_is_popular_rests_on_the_days_that_were_counted():
    slow = replace(fashion(), periods=Periods(recent_days=98))
    popular = published(slow, per_user=100).filter("is_fallback")
    assert popular["reason"].str.contains("the last 28 days").all()
    assert popular["rests_on"].unique().to_list() == [
        "users of the last 28 days counted, nothing personal"
    ]


def test_what_the_business_denies_is_named_beside_nothing():
    assert company(sized())["other_item_id"].str.starts_with("p06").any()
    denied = tuple(f"p06-{size}" for size in SIZES)
    listed = company(told(sized(), deny_items=denied))
    assert listed.height
    assert not listed["other_item_id"].str.starts_with("p06").any()


def test_the_outcome_of_a_product_is_that_of_any_variant():
    data = sized()
    rows = pl.DataFrame(
        [("u00", 1, "p05-l", 0.5), ("u00", 2, "p06-l", 0.5)],
        schema=["user_id", "rank", "item_id", "p_purchase"],
        orient="row",
    ).with_columns(as_of=pl.lit(AS_OF), horizon_days=pl.lit(30))
    later = [("u00", "p05-s", AS_OF + DAY)]
    data = replace(data, events=pl.concat([data.events, shop(data.items, later).events]))
    found = RecommendationTask().outcomes(data, rows, AS_OF + 40 * DAY).sort("rank")
    assert found["realised"].to_list() == [1.0, 0.0]


def test_an_item_that_changes_category_counts_as_it_was_known_before_the_origin():
    data = fashion(drops=False, again=True)
    moved = frame([item("dress00", "boot", valid_from=AS_OF - 45 * DAY)])
    changed = replace(data, items=pl.concat([data.items, moved]))
    task = RecommendationTask()
    before, after = (task.examples(told(d), AS_OF) for d in (data, changed))
    key = ["origin", "user_id", "item_id"]
    early = pl.col("origin") < AS_OF - 45 * DAY
    assert after.filter(early).equals(before.filter(early))
    mine = (pl.col("item_id") == "dress00") & ~early & (pl.col("own_count") > 0)
    shares = [f.filter(mine).sort(key)["category_share"] for f in (before, after)]
    assert (shares[0] != shares[1]).any()
    assert feature_time(task, told(changed), after, AS_OF) == ""


def test_many_who_buy_without_items_have_no_lists_and_that_is_no_error(monkeypatch):
    monkeypatch.setattr(task_data, "USERS_A_SHARD", 10)
    monkeypatch.setattr(known_module, "REFERENCE_USERS", 20)
    data = fashion()
    users = data.events.select(pl.col("user_id").unique().sort()).collect().to_series()
    ids = [f"{(number * 2_654_435_761) % 2**32:08x}{'0' * 24}" for number in range(len(users))]
    data = replace(
        data,
        events=data.events.with_columns(
            user_id=pl.col("user_id").replace_strict(users, ids),
            item_id=pl.lit(None, pl.String),
        ),
    )
    shards = list(data.shards())
    assert len(shards) > 4
    assert [RecommendationTask().rows_without_champion(shard, AS_OF) for shard in shards] == [
        None
    ] * len(shards)
