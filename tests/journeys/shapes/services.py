"""Businesses without a till: stars, stays, plans, plays."""

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
