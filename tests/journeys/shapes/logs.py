"""Logs that lack what others have: items, sales, prices."""

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
    steps,
    tastes,
    visits,
)
from tests.journeys.shapes.shape import Shape

if TYPE_CHECKING:
    from tests.journeys.shapes.shape import Files


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
    kept = path.group_by("visit", maintain_order=True).agg(
        pl.col("user", "nth").first(),
        pl.col("at").max() + timedelta(seconds=50),
        kept=(pl.col("action") == "keep_flat").sum(),
    )
    chance = 0.005 + 0.05 * (kept["kept"] > 0) * (kept["nth"] > 2)
    asked = kept.filter(pl.Series(rng.random(kept.height)) < chance)
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
}
