"""Shops with a catalogue: fashion, wholesale, currencies, young."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from tests.journeys.shapes.drawing import (
    SEED,
    apart,
    baskets,
    chosen,
    ids,
    prices,
    stamp,
    tastes,
    visits,
)
from tests.journeys.shapes.shape import Shape

if TYPE_CHECKING:
    from tests.journeys.shapes.shape import Files


def fashion() -> Files:
    """Two orders a year for two years; a new catalogue each half-year; a third comes back."""
    rng = np.random.default_rng(SEED)
    users, styles, sizes, seasons = 240, 20, 3, 4
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


SHAPES = {
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
}
