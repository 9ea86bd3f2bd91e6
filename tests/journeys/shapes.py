"""Twelve small businesses as their teams would hand them over: raw files and a mapping each.

`SHAPES[name].make()` returns the files by name, `write` puts them into a folder. All is seeded.
Each log holds what an honest model can find: customers who come at their own rhythm, more regularly
than chance, and fade; tastes that last, shared by those who like the same things.
"""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    Files = dict[str, pl.DataFrame]

SEED = 20


@dataclass(frozen=True)
class Shape:
    """One business: the ten lines that explain its files, and what makes these."""

    mapping: str
    make: Callable[[], Files]


def write(files: Files, folder: Path) -> None:
    """Write files by their names: csv, jsonl, jsonl.gz."""
    for path, rows in files.items():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        text = rows.write_csv() if path.endswith(".csv") else rows.write_ndjson()
        raw = text.encode()
        target.write_bytes(gzip.compress(raw, mtime=0) if path.endswith(".gz") else raw)


# --- how people live ------------------------------------------------------------------------------


def visits(
    rng: np.random.Generator,
    users: int,
    start: datetime,
    days: int,
    *,
    rhythm: float,
    spread: float = 0.6,
    regularity: float = 3.0,
    lifetime: float | None = None,
    joined: float = 0.5,
    weekdays: tuple[int, ...] = tuple(range(7)),
) -> pl.DataFrame:
    """Return (user, at, nth) of everybody's visits from `start` on, in the order of time.

    rhythm: median days between visits, of one user's own exp(spread × normal) times that.
    regularity: shape of the gamma that draws a gap (1: by chance alone). lifetime: mean days until
    a user stays away for good; None: nobody does. joined: share of users who join on the way.
    weekdays: those on which the business is open (0 = Monday), which come later otherwise; a day
    of the log costs the tests more than a hundred rows.
    """
    own = rhythm * np.exp(spread * rng.normal(size=users))
    late = rng.random(users) < joined
    first = np.where(late, rng.uniform(0, 0.8 * days, users), rng.uniform(0, 1, users) * own)
    left = np.full(users, np.inf) if lifetime is None else rng.exponential(lifetime, users)
    count = int(2 * days / own.min()) + 8
    gaps = rng.gamma(regularity, 1 / regularity, (users, min(count, 2000))) * own[:, None]
    at = first[:, None] + np.concatenate([np.zeros((users, 1)), np.cumsum(gaps, axis=1)], axis=1)
    wait = np.array(
        [min((day - start.weekday() - n) % 7 for day in weekdays) for n in range(7)]
    )  # by the weekday of a day after `start`: until it is open
    at = np.floor(at)
    at += wait[at.astype(np.int64) % 7]
    user, nth = np.nonzero((at < days) & (at <= (first + left)[:, None]))
    # the hour of the day is that of people: noon to evening
    day = at[user, nth]
    hour = np.clip(rng.normal(16, 3, len(user)), 7, 22.9)
    seconds = ((day * 24 + hour) * 3600).astype(np.int64)
    return (
        pl.DataFrame(
            {"user": user, "nth": nth, "at": pl.Series(seconds).cast(pl.Duration("ms")) * 1000}
        )
        .with_columns(at=pl.lit(start) + pl.col("at"))
        .sort("at", "user")
    )


def tastes(
    rng: np.random.Generator, users: int, items: int, *, kinds: int = 6, sharp: float = 2.0
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return how much each user likes each item (log-odds), and the kind of each item.

    Users like one or two kinds; within a kind their likings share two more dimensions. A few items
    are popular with everybody.
    """
    kind = rng.integers(0, kinds, items)
    liking = rng.normal(size=(users, kinds)) @ np.eye(kinds)[kind].T
    finer = rng.normal(size=(users, 2)) @ rng.normal(size=(2, items))
    return sharp * (0.7 * liking + 0.5 * finer) + rng.normal(size=items), kind


def chosen(
    rng: np.random.Generator, odds: NDArray[np.float64], counts: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Draw `counts[r]` different items for each row of `odds` [rows, items]; (row, item) pairs."""
    most = max(int(counts.max()), 1)
    row_of, item_of = [], []
    for first in range(0, len(odds), 4096):
        part = odds[first : first + 4096]
        drawn = np.argsort(-(part + rng.gumbel(size=part.shape)), axis=1)[:, :most]
        row, place = np.nonzero(np.arange(most) < counts[first : first + 4096, None])
        row_of.append(row + first)
        item_of.append(drawn[row, place])
    return np.concatenate(row_of), np.concatenate(item_of)


def baskets(
    rng: np.random.Generator, visits: pl.DataFrame, odds: NDArray[np.float64], mean: float
) -> pl.DataFrame:
    """Return the visits with an item a row, by the users' liking [users, items]: 1 + Poisson."""
    counts = 1 + rng.poisson(mean - 1, visits.height)
    row, item = chosen(rng, odds[visits["user"].to_numpy()], counts)
    return visits[row].with_columns(visit=pl.Series(row), item=pl.Series(item))


def apart(rows: pl.DataFrame, seconds: int) -> pl.DataFrame:
    """Return the rows with those of a visit so many seconds apart, not all at its first."""
    place = pl.int_range(pl.len()).over("visit")
    return rows.with_columns(pl.col("at") + pl.duration(seconds=seconds * place))


def steps(
    rng: np.random.Generator, visits: pl.DataFrame, kinds: dict[str, float], mean: float
) -> pl.DataFrame:
    """Return the visits with 1 + Poisson steps each, some seconds apart, of the `kinds` by odds."""
    counts = 1 + rng.poisson(mean - 1, visits.height)
    rows = visits.with_row_index("visit")[np.repeat(np.arange(visits.height), counts)]
    shares = np.array(list(kinds.values()))
    drawn = rng.choice(list(kinds), size=rows.height, p=shares / shares.sum())
    pause = pl.Series(rng.exponential(40, rows.height)).cum_sum()
    return rows.with_columns(action=pl.Series(drawn), pause=pause).with_columns(
        at=pl.col("at")
        + pl.duration(seconds=(pl.col("pause") - pl.col("pause").first()).over("visit"))
    )


def ids(prefix: str, column: str) -> pl.Expr:
    """Return the business's own ids of a column of numbers."""
    number = pl.col(column).cast(pl.String).str.zfill(5)
    return pl.format("{}{}", pl.lit(prefix), number).alias(column)


def stamp(form: str, column: str = "at") -> pl.Expr:
    """Return the times of a column as the team's system writes them."""
    return pl.col(column).dt.strftime(form)


def prices(rng: np.random.Generator, items: int, middle: float) -> NDArray[np.float64]:
    """Draw a list price for each item."""
    return np.round(middle * np.exp(0.6 * rng.normal(size=items)), 2)


# --- the twelve -----------------------------------------------------------------------------------


def orders(users: int = 260, weekdays: tuple[int, ...] = (0, 2, 4)) -> Files:
    """Orders of a British gift shop, 2009 to 2010: customer, time, pieces, amount; no item."""
    rng = np.random.default_rng(SEED)
    came = visits(
        rng, users, datetime(2009, 6, 1), 273,
        rhythm=16, spread=0.8, lifetime=140, joined=0.6, weekdays=weekdays,
    )  # fmt: skip
    usual = 25 * np.exp(0.7 * rng.normal(size=users))
    pieces = 1 + rng.poisson(6, came.height)
    amount = usual[came["user"].to_numpy()] * (0.4 + pieces / 10) * rng.gamma(8, 1 / 8, came.height)
    return {
        "orders.csv": came.select(
            customer_no=ids("C", "user"),
            ordered_on=stamp("%d/%m/%Y %H:%M"),
            pieces=pl.Series(pieces),
            amount=pl.Series(np.round(amount, 2)),
        )
    }


def ratings(users: int = 180, films: int = 110, days: int = 120) -> Files:
    """Stars that members of a film club gave, each film once; no purchase anywhere."""
    rng = np.random.default_rng(SEED)
    came = visits(rng, users, datetime(2021, 1, 4), days, rhythm=9, lifetime=days)
    odds, genre = tastes(rng, users, films, sharp=1.6)
    seen = baskets(rng, came, odds, 5).unique(["user", "item"], keep="first", maintain_order=True)
    liking = odds[seen["user"].to_numpy(), seen["item"].to_numpy()]
    stars = np.clip(np.round(3.2 + 0.5 * liking + 0.7 * rng.normal(size=seen.height)), 1, 5)
    return {
        "ratings.jsonl": seen.select(
            member="user",
            film=ids("f", "item"),
            stars=pl.Series(stars),
            ts=pl.col("at").dt.epoch("s"),
        ),
        "films.csv": pl.DataFrame(
            {"film": np.arange(films), "genre": [f"genre {kind}" for kind in genre]}
        ).select(ids("f", "film"), pl.format("Film {}", "film").alias("name"), "genre"),
    }


def click_stream() -> Files:
    """A portal of flats: steps of its own names, and few calls asked for, of no certain flat."""
    rng = np.random.default_rng(SEED)
    users, flats = 260, 100
    came = visits(rng, users, datetime(2024, 3, 4), 100, rhythm=5, lifetime=45)
    kinds = {"open_details": 6, "filter_results": 3, "see_photos": 2, "keep_flat": 0.7}
    path = steps(rng, came, kinds, 6)
    odds, _ = tastes(rng, users, flats)
    _, flat = chosen(rng, odds[path["user"].to_numpy()], np.ones(path.height, np.int64))
    about = pl.col("action") != "filter_results"
    path = path.with_columns(flat=pl.when(about).then(pl.Series(flat)))
    # who keeps flats and comes again soon asks for a call
    kept = path.group_by("visit").agg(
        pl.col("user", "nth").first(),
        pl.col("at").max() + timedelta(seconds=50),
        kept=(pl.col("action") == "keep_flat").sum(),
    )
    chance = 0.005 + 0.05 * (kept["kept"] > 0) * (kept["nth"] > 2)
    asked = kept.sort("visit").filter(pl.Series(rng.random(kept.height)) < chance)
    asked = asked.with_columns(action=pl.lit("ask_for_call"))
    path = pl.concat([path, asked], how="diagonal_relaxed").sort("at", "user")
    return {
        "clicks/2024.jsonl.gz": path.select(
            visitor=ids("v", "user"),
            visit=ids("s", "visit"),
            happened=stamp("%Y-%m-%dT%H:%M:%S.%3fZ"),
            event="action",
            flat=ids("flat-", "flat"),
        )
    }


def grocery() -> Files:
    """Baskets of a grocer's app: what was in them, and no price."""
    rng = np.random.default_rng(SEED)
    users, goods = 70, 60
    came = visits(
        rng, users, datetime(2022, 5, 2), 210,
        rhythm=7, lifetime=400, joined=0.3, weekdays=(0, 2, 4, 5),
    )  # fmt: skip
    odds, aisle = tastes(rng, users, goods, kinds=8)
    usual = rng.random((users, goods)) < 0.08  # what a household always needs
    bought = baskets(rng, came, odds + 3.5 * usual, 5)
    return {
        "baskets.csv": bought.select(
            household=ids("h", "user"),
            basket=ids("b", "visit"),
            day=stamp("%Y-%m-%d %H:%M:%S"),
            product=ids("p", "item"),
        ),
        "products.csv": pl.DataFrame(
            {"product": np.arange(goods), "aisle": [f"aisle {kind}" for kind in aisle]}
        ).select(ids("p", "product"), pl.format("Product {}", "product").alias("name"), "aisle"),
    }


def fashion() -> Files:
    """Two orders a year for two years; a new catalogue each half-year; a third comes back."""
    rng = np.random.default_rng(SEED)
    users, styles, sizes, seasons = 300, 30, 3, 4
    start, half = datetime(2022, 3, 1), 182
    came = visits(
        rng, users, start, 4 * half,
        rhythm=170, spread=0.4, regularity=4, lifetime=900, weekdays=(4,),
    )  # fmt: skip
    season = pl.Series((came["at"] - start).dt.total_days() // half)
    odds, group = tastes(rng, users, styles * seasons)
    size = rng.integers(0, sizes, users)
    now = season.to_numpy()[:, None] == np.arange(styles * seasons) // styles
    row, style = chosen(
        rng,
        np.where(now, odds[came["user"].to_numpy()], -50.0),
        1 + rng.poisson(1.2, came.height),
    )
    listed = prices(rng, styles * seasons, 60)
    sold = came[row].with_columns(
        order=pl.Series(row),
        style=pl.Series(style),
        size=pl.Series(size[came["user"].to_numpy()[row]]),
        price=pl.Series(listed[style]),
        booked=pl.lit("sale"),
    )
    back = sold.filter(pl.Series(rng.random(sold.height)) < 0.3)
    back = back.with_columns(
        at=pl.col("at") + pl.duration(days=7 * pl.Series(1 + rng.integers(0, 3, back.height))),
        booked=pl.lit("return"),
    )
    lines = pl.concat([sold, back]).filter(pl.col("at") < start + timedelta(days=4 * half))
    article = pl.format("{}-{}", ids("s", "style"), pl.col("size"))
    variants = pl.DataFrame({"style": np.arange(styles * seasons)}).join(
        pl.DataFrame({"size": np.arange(sizes)}), how="cross"
    )
    return {
        "lines.csv": lines.sort("at", "user", "style").select(
            account=ids("k", "user"),
            order_no=ids("o", "order"),
            booked="booked",
            at=stamp("%Y-%m-%d %H:%M:%S"),
            article=article,
            pieces=pl.lit(1),
            price="price",
        ),
        "articles.csv": variants.select(
            article=article,
            style=ids("s", "style"),
            name=pl.format("Style {}", "style"),
            range=pl.Series([f"range {group[style]}" for style in variants["style"]]),
            price=pl.Series(listed[variants["style"].to_numpy()]),
            listed_from=(pl.lit(start) + pl.duration(days=(pl.col("style") // styles) * half)),
        ).with_columns(stamp("%Y-%m-%d", "listed_from")),
    }


def marketplace() -> Files:
    """Second-hand goods: 200 looks for one that is bought."""
    rng = np.random.default_rng(SEED)
    users, offers = 200, 120
    came = visits(rng, users, datetime(2024, 2, 1), 75, rhythm=4, lifetime=60)
    odds, kind = tastes(rng, users, offers, kinds=10)
    seen = apart(baskets(rng, came, odds, 9), 40)
    asked = prices(rng, offers, 40)
    liking = odds[seen["user"].to_numpy(), seen["item"].to_numpy()]
    chance = np.exp(0.5 * liking)
    bought = seen.filter(pl.Series(rng.random(seen.height) < chance / chance.mean() / 200))
    bought = bought.with_columns(pl.col("at") + timedelta(minutes=9), deal=pl.lit("sold"))
    log = pl.concat([seen.with_columns(deal=pl.lit("shown")), bought])
    price = pl.Series(asked[log["item"].to_numpy()])
    return {
        "log.jsonl.gz": log.with_columns(price=price)
        .sort("at", "user", "item")
        .select(
            who=pl.struct(id=ids("m", "user")),
            session="visit",
            ms=pl.col("at").dt.epoch("ms"),
            what="deal",
            offer=ids("o", "item"),
            price=pl.when(pl.col("deal") == "sold").then("price"),
        ),
        "offers.csv": pl.DataFrame(
            {"offer": np.arange(offers), "kind": [f"kind {k}" for k in kind], "price": asked}
        ).select(ids("o", "offer"), pl.format("Offer {}", "offer").alias("title"), "kind", "price"),
    }


def wholesale() -> Files:
    """A wholesaler's 200 customers, of whom some thirty have gone."""
    rng = np.random.default_rng(SEED)
    users, goods = 200, 50
    came = visits(
        rng, users, datetime(2023, 1, 2), 266,
        rhythm=18, spread=0.5, lifetime=1300, joined=0.2, weekdays=(1,),
    )  # fmt: skip
    odds, group = tastes(rng, users, goods)
    need = rng.random((users, goods)) < 0.1
    bought = baskets(rng, came, odds + 3 * need, 3)
    size = np.exp(0.8 * rng.normal(size=users))
    pieces = 1 + rng.poisson(20 * size[bought["user"].to_numpy()])
    listed = prices(rng, goods, 15)
    return {
        "invoices.csv": bought.select(
            customer=ids("D", "user"),
            invoice=ids("R", "visit"),
            date=stamp("%Y-%m-%d"),
            sku=ids("", "item"),
            units=pl.Series(pieces),
            net=pl.Series(np.round(pieces * listed[bought["item"].to_numpy()], 2)),
        ),
        "skus.csv": pl.DataFrame(
            {"sku": np.arange(goods), "group": [f"group {k}" for k in group], "list": listed}
        ).select(ids("", "sku"), pl.format("Part {}", "sku").alias("name"), "group", "list"),
    }


def subscriptions() -> Files:
    """A monthly plan of software: invoices, and use, which fades before somebody cancels."""
    rng = np.random.default_rng(SEED)
    users, start, days = 160, datetime(2023, 1, 2), 280
    began = 14 * np.sort(rng.integers(0, 0.85 * days / 14, users))
    months = 1 + rng.geometric(1 / 11, users)
    fee = rng.choice([9.0, 19.0, 49.0], users, p=[0.5, 0.35, 0.15])
    row, month = np.nonzero(np.arange(16) < months[:, None])
    paid = pl.DataFrame(
        {"user": row, "month": month, "day": began[row] + 28 * month, "fee": fee[row]}
    )
    use = visits(rng, users, start, days, rhythm=5, joined=0, weekdays=(0, 3))
    ends = began + 28 * months
    since = (use["at"] - start).dt.total_seconds() / 86_400
    left = pl.Series(ends[use["user"].to_numpy()]) - since
    keep = pl.Series(rng.random(use.height)) < (left / 75).clip(0, 1)
    use = use.filter(keep & (since > pl.Series(began[use["user"].to_numpy()])))
    use = steps(rng, use, {"open_board": 5, "write_card": 3, "ask_help": 0.3}, 2)
    terms = paid.filter(pl.col("day") < days).sort("day", "user")
    at = pl.lit(start) + pl.duration(days="day", hours=8)
    cancelled = pl.col("month") + 1 == pl.Series(months[terms["user"].to_numpy()])
    plan = pl.col("fee").replace_strict({9.0: "solo", 19.0: "team", 49.0: "firm"})
    return {
        "invoices.csv": terms.select(
            account=ids("acc", "user"), paid_at=at.dt.strftime("%Y-%m-%d %H:%M:%S"), amount="fee"
        ),
        "terms.csv": terms.with_columns(begins=at).select(
            account=ids("acc", "user"),
            plan=plan,
            begins=stamp("%Y-%m-%d", "begins"),
            ends=(pl.col("begins") + timedelta(days=28)).dt.strftime("%Y-%m-%d"),
            fee="fee",
            notice=pl.when(cancelled).then(
                (pl.col("begins") + timedelta(days=21)).dt.strftime("%Y-%m-%d")
            ),
        ),
        "use.jsonl": use.sort("at", "user").select(
            account=ids("acc", "user"), at=stamp("%Y-%m-%dT%H:%M:%SZ"), did="action"
        ),
    }


def currencies() -> Files:
    """A shop that sells in euro, dollar and pound, each customer in the own currency."""
    rng = np.random.default_rng(SEED)
    users, goods = 140, 30
    came = visits(rng, users, datetime(2023, 3, 1), 210, rhythm=12, lifetime=180, weekdays=(1, 4))
    odds, group = tastes(rng, users, goods)
    bought = baskets(rng, came, odds, 2)
    money = rng.choice(["EUR", "USD", "GBP"], users, p=[0.5, 0.3, 0.2])
    factor = {"EUR": 1.0, "USD": 1.1, "GBP": 0.86}
    listed = prices(rng, goods, 30)
    own = pl.Series(money[bought["user"].to_numpy()])
    amount = pl.Series(listed[bought["item"].to_numpy()]) * own.replace_strict(factor)
    weeks = pl.DataFrame({"week": np.arange(31)}).join(
        pl.DataFrame({"money": ["USD", "GBP"]}), how="cross"
    )
    drift = 1 + 0.02 * pl.Series(rng.normal(size=weeks.height))
    return {
        "orders.csv": bought.select(
            buyer=ids("b", "user"),
            order=ids("o", "visit"),
            at=stamp("%Y-%m-%d %H:%M:%S"),
            article=ids("a", "item"),
            pieces=pl.lit(1),
            price=amount.round(2),
            money=own,
        ),
        "rates.csv": weeks.select(
            day=(pl.lit(datetime(2023, 2, 27)) + pl.duration(weeks="week")).dt.strftime("%Y-%m-%d"),
            money="money",
            in_eur=(drift / pl.col("money").replace_strict(factor)).round(4),
        ),
        "articles.csv": pl.DataFrame(
            {"article": np.arange(goods), "group": [f"group {k}" for k in group], "eur": listed}
        ).select(
            ids("a", "article"), pl.format("Good {}", "article").alias("name"), "group", "eur"
        ),
    }


def bookings() -> Files:
    """Stays in hotels: looked for, opened, booked, sometimes cancelled."""
    rng = np.random.default_rng(SEED)
    users, hotels = 150, 30
    came = visits(
        rng, users, datetime(2023, 1, 9), 280,
        rhythm=28, spread=0.5, lifetime=700, weekdays=(5,),
    )  # fmt: skip
    path = steps(rng, came, {"look_around": 2, "open_hotel": 5}, 4)
    odds, town = tastes(rng, users, hotels)
    _, hotel = chosen(rng, odds[path["user"].to_numpy()], np.ones(path.height, np.int64))
    path = path.with_columns(hotel=pl.when(pl.col("action") == "open_hotel").then(pl.Series(hotel)))
    last = path.filter(pl.col("action") == "open_hotel").group_by("visit", maintain_order=True)
    booked = last.last().with_columns(pl.col("at") + timedelta(minutes=4), action=pl.lit("book"))
    booked = booked.filter(pl.Series(rng.random(booked.height)) < 0.6)
    rate = prices(rng, hotels, 90)
    nights = 1 + rng.poisson(1.5, booked.height)
    booked = booked.with_columns(
        nights=pl.Series(nights), rate=pl.Series(rate[booked["hotel"].to_numpy()])
    )
    undone = booked.filter(pl.Series(rng.random(booked.height)) < 0.12).with_columns(
        pl.col("at") + timedelta(days=7), action=pl.lit("cancel")
    )
    log = pl.concat([path, booked, undone], how="diagonal_relaxed").sort("at", "user")
    log = log.filter(pl.col("at") < datetime(2023, 10, 16))
    return {
        "log.csv": log.select(
            guest=ids("g", "user"),
            visit=ids("v", "visit"),
            time=stamp("%Y-%m-%d %H:%M:%S"),
            step="action",
            hotel=ids("h", "hotel"),
            nights="nights",
            rate="rate",
        ),
        "hotels.csv": pl.DataFrame(
            {"hotel": np.arange(hotels), "town": [f"town {k}" for k in town]}
        ).select(ids("h", "hotel"), pl.format("Hotel {}", "hotel").alias("name"), "town"),
    }


def young() -> Files:
    """A shop that opened three weeks ago."""
    rng = np.random.default_rng(SEED)
    users, goods = 300, 40
    came = visits(rng, users, datetime(2024, 9, 2), 21, rhythm=6, joined=0.8, lifetime=40)
    odds, group = tastes(rng, users, goods)
    seen = apart(baskets(rng, came, odds, 3), 60).with_columns(kind=pl.lit("look"))
    bought = seen.filter(pl.Series(rng.random(seen.height)) < 0.35)
    bought = bought.with_columns(pl.col("at") + timedelta(minutes=6), kind=pl.lit("buy"))
    listed = prices(rng, goods, 20)
    log = pl.concat([seen, bought]).sort("at", "user", "item")
    return {
        "shop.csv": log.select(
            client=ids("c", "user"),
            visit=ids("v", "visit"),
            at=stamp("%Y-%m-%d %H:%M:%S"),
            kind="kind",
            good=ids("g", "item"),
            price=pl.Series(listed[log["item"].to_numpy()]),
        ),
        "goods.csv": pl.DataFrame(
            {"good": np.arange(goods), "group": [f"group {k}" for k in group], "price": listed}
        ).select(ids("g", "good"), pl.format("Good {}", "good").alias("name"), "group", "price"),
    }


def streaming() -> Files:
    """Plays of films and series, several a day; nobody pays for one."""
    rng = np.random.default_rng(SEED)
    users, titles = 70, 70
    came = visits(rng, users, datetime(2024, 4, 1), 92, rhythm=1.2, lifetime=200, joined=0.4)
    odds, genre = tastes(rng, users, titles, kinds=8)
    again = rng.random((users, titles)) < 0.03
    played = apart(baskets(rng, came, odds + 3 * again, 2), 2700)
    played = played.filter(pl.col("at") < datetime(2024, 4, 1) + timedelta(days=92))
    seconds = 600 + 3000 * rng.random(played.height)
    played = played.with_columns(seconds=pl.Series(seconds.astype(int)))
    return {
        "plays.jsonl": played.sort("at", "user").select(
            profile=ids("p", "user"),
            started=pl.col("at").dt.epoch("ms"),
            title=ids("t", "item"),
            seconds="seconds",
        ),
        "titles.csv": pl.DataFrame(
            {"title": np.arange(titles), "genre": [f"genre {k}" for k in genre]}
        ).select(ids("t", "title"), pl.format("Title {}", "title").alias("name"), "genre"),
    }


SHAPES = {
    "orders without items": Shape(
        """
name: gifts
timezone: Europe/London
business: {timezone: Europe/London, currency: GBP}
files:
  - match: "orders.csv"
    table: events
    columns:
      user_id: customer_no
      event_type: {value: purchase}
      event_time: {column: ordered_on, time: "%d/%m/%Y %H:%M"}
      quantity: pieces
      unit_price: {divide: [amount, pieces]}
""",
        orders,
    ),
    "ratings only": Shape(
        """
name: filmclub
business: {conversion: rate}
files:
  - match: "ratings.jsonl"
    table: events
    columns:
      user_id: member
      item_id: film
      event_type: {value: rate}
      event_time: {column: ts, time: epoch_s}
      rating: stars
  - match: "films.csv"
    table: items
    columns: {item_id: film, title: name, category: genre}
""",
        ratings,
    ),
    "click-stream with own names": Shape(
        """
name: flats
timezone: Europe/Vienna
business: {timezone: Europe/Vienna, conversion: ask_for_call}
behaviours: {open_details: browse, see_photos: browse, filter_results: search, keep_flat: intent}
files:
  - match: "clicks/*"
    table: events
    columns:
      user_id: visitor
      session_id: visit
      event_time: happened
      event_type: event
      item_id: flat
""",
        click_stream,
    ),
    "orders without prices": Shape(
        """
name: grocer
files:
  - match: "baskets.csv"
    table: events
    columns:
      user_id: household
      session_id: basket
      event_type: {value: purchase}
      event_time: day
      item_id: product
  - match: "products.csv"
    table: items
    columns: {item_id: product, title: name, category: aisle}
""",
        grocery,
    ),
    "fashion": Shape(
        """
name: fashion
business: {currency: EUR}
files:
  - match: "lines.csv"
    table: events
    columns:
      user_id: account
      session_id: order_no
      event_type: {column: booked, values: {sale: purchase, return: refund}}
      event_time: at
      item_id: article
      quantity: pieces
      unit_price: price
  - match: "articles.csv"
    table: items
    columns:
      item_id: article
      product_id: style
      title: name
      category: range
      price: price
      valid_from: listed_from
""",
        fashion,
    ),
    "marketplace": Shape(
        """
name: market
business: {currency: EUR}
files:
  - match: "log.jsonl.gz"
    table: events
    columns:
      user_id: who.id
      session_id: session
      event_type: {column: what, values: {shown: view, sold: purchase}}
      event_time: {column: ms, time: epoch_ms}
      item_id: offer
      unit_price: price
  - match: "offers.csv"
    table: items
    columns: {item_id: offer, title: title, category: kind, price: price}
""",
        marketplace,
    ),
    "B2B": Shape(
        """
name: wholesale
business: {currency: EUR}
files:
  - match: "invoices.csv"
    table: events
    columns:
      user_id: customer
      session_id: invoice
      event_type: {value: purchase}
      event_time: date
      item_id: sku
      quantity: units
      unit_price: {divide: [net, units]}
  - match: "skus.csv"
    table: items
    columns: {item_id: sku, title: name, category: group, price: list}
""",
        wholesale,
    ),
    "monthly subscriptions": Shape(
        """
name: boards
business: {currency: EUR, conversion: invoice_paid}
behaviours: {open_board: browse, write_card: intent, ask_help: service}
files:
  - match: "invoices.csv"
    table: events
    columns:
      user_id: account
      event_type: {value: invoice_paid}
      event_time: paid_at
      quantity: {value: 1}
      unit_price: amount
  - match: "use.jsonl"
    table: events
    columns: {user_id: account, event_type: did, event_time: at}
  - match: "terms.csv"
    table: subscriptions
    columns:
      user_id: account
      plan: plan
      started_at: begins
      renews_or_ends_at: ends
      price: fee
      cancelled_at: notice
""",
        subscriptions,
    ),
    "three currencies": Shape(
        """
name: world
business: {currency: EUR}
files:
  - match: "orders.csv"
    table: events
    columns:
      user_id: buyer
      session_id: order
      event_type: {value: purchase}
      event_time: at
      item_id: article
      quantity: pieces
      unit_price: price
      currency: money
  - match: "articles.csv"
    table: items
    columns: {item_id: article, title: name, category: group, price: eur}
  - match: "rates.csv"
    table: exchange_rates
    columns: {date: day, from_currency: money, to_currency: {value: EUR}, rate: in_eur}
""",
        currencies,
    ),
    "bookings": Shape(
        """
name: hotels
business: {currency: EUR, conversion: booking}
behaviours: {cancellation: return}
files:
  - match: "log.csv"
    table: events
    columns:
      user_id: guest
      session_id: visit
      event_type:
        column: step
        values: {look_around: search, open_hotel: view, book: booking, cancel: cancellation}
      event_time: time
      item_id: hotel
      quantity: nights
      unit_price: rate
  - match: "hotels.csv"
    table: items
    columns: {item_id: hotel, title: name, category: town}
""",
        bookings,
    ),
    "three weeks old": Shape(
        """
name: young
business: {currency: EUR}
files:
  - match: "shop.csv"
    table: events
    columns:
      user_id: client
      session_id: visit
      event_type: {column: kind, values: {look: view, buy: purchase}}
      event_time: at
      item_id: good
      unit_price: price
  - match: "goods.csv"
    table: items
    columns: {item_id: good, title: name, category: group, price: price}
""",
        young,
    ),
    "streaming": Shape(
        """
name: films
business: {conversion: play}
files:
  - match: "plays.jsonl"
    table: events
    columns:
      user_id: profile
      event_type: {value: play}
      event_time: {column: started, time: epoch_ms}
      item_id: title
  - match: "titles.csv"
    table: items
    columns: {item_id: title, title: name, category: genre}
""",
        streaming,
    ),
}
