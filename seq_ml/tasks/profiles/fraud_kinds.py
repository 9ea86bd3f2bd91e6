"""Does the anomaly score find fraud that it was not made for? Invented people, alerts on a budget.

`planted_fraud` bends the features that are scored, so it says how well the score finds what it was
made for. Here nobody is copied: people are invented who buy what the shop sells, at the paces that
its users have, and what they are after decides the rest. Five kinds that the literature describes,
none of which has a feature of its own:

- account takeover: an ordinary account, then a day of the dearest goods, sent elsewhere (Kawase et
  al. 2019, "Internet fraud: the case of account takeover in online marketplace");
- linked accounts: one person under many names takes a welcome offer again and again, no coupon
  (Douceur 2002, "The Sybil attack");
- brushing: orders that only count, one cheap item over and over, to lift its seller (Xu et al.
  2015, "E-commerce reputation manipulation");
- reseller: reduced goods, several units each, in many ordinary orders (Antia et al. 2004,
  "Competing with gray markets");
- triangulation: orders for another shop's customers with stolen cards, one item each (as the
  Merchant Risk Council describes it).

So many users are alerted as somebody can look at, ALERTED of all. Real users count as honest.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from seq_ml.metrics.estimate import Estimate, share_estimate, wilson
from seq_ml.schema import EVENTS
from seq_ml.tasks.behaviour.visits import read_visits
from seq_ml.tasks.profiles.anomalies import anomaly_features
from seq_ml.tasks.profiles.planted_fraud import scores

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from seq_ml.tasks.data import TaskData

    Rows = list[dict[str, Any]]

ALERTED = 0.01
"""Share of the users that are looked at."""
INVENTED_SHARE, TIMES = 0.005, 2
"""Invented people of a kind, as a share of all users: half of the alerts; how often each kind is
tried."""
LINES = 5_000
"""Lines that the goods are drawn from."""
NAME = "invented "


@dataclass(frozen=True)
class Market:
    """What the invented people find: goods from cheap to dear, stores, and others' usual pace.

    paces: orders in the window, and sizes: lines of an order, of users drawn at random. days: of
    the window.
    """

    goods: Rows
    stores: list[str | None]
    paces: list[int]
    sizes: list[int]
    days: int
    as_of: datetime
    rng: np.random.Generator

    def between(self, low: float, high: float) -> float:
        """Draw a number."""
        return float(self.rng.uniform(low, high))

    def many(self, low: int, high: int) -> int:
        """Draw a count, both ends included."""
        return int(self.rng.integers(low, high + 1))

    def any_of(self, what: list[Any]) -> Any:
        """Draw one."""
        return what[int(self.rng.integers(len(what)))]

    def order(
        self, ago: float, lines: int, *, dear: tuple[float, float] = (0.0, 1.0), **changed: Any
    ) -> Rows:
        """Return one order, so many days ago, of goods between two quantiles of the price."""
        at, store = self.as_of - timedelta(days=ago), self.any_of(self.stores)
        first, last = (int(end * (len(self.goods) - 1)) for end in dear)
        same = {"event_time": at, "session_id": f"{ago:.9f}", "store_id": store, "quantity": 1.0}
        return [
            self.goods[self.many(first, last)] | same | {"discount": 0.0} | changed
            for _ in range(lines)
        ]

    def usual(self) -> Rows:
        """Return the orders of somebody ordinary."""
        home, rows = self.any_of(self.stores), []
        for _ in range(self.any_of(self.paces)):
            lines = self.any_of(self.sizes)
            rows += self.order(self.between(1, self.days), lines, store_id=home)
        return rows


def reduced(row: dict[str, Any], share: float) -> dict[str, Any]:
    """Take a share off the price of a line."""
    off = share * row["unit_price"]
    saved = off * row["quantity"]
    return row | {"unit_price": row["unit_price"] - off, "discount": saved}


def account_takeover(market: Market) -> list[Rows]:
    """Two to four large orders of the dearest 5 % within 36 hours, after an ordinary life."""
    since, rows = market.between(2, 14), market.usual()
    for _ in range(market.many(2, 4)):
        ago = since - market.between(0, 1.5)
        rows += market.order(ago, market.many(5, 12), dear=(0.95, 1.0))
    return [rows]


def linked_accounts(market: Market) -> list[Rows]:
    """Six to ten accounts of a month in one store: one to three orders each, 30 % off."""
    home, accounts = market.any_of(market.stores), []
    for _ in range(market.many(6, 10)):
        account: Rows = []
        for _ in range(market.many(1, 3)):
            bought = market.order(market.between(1, 30), market.many(2, 5), store_id=home)
            account += [reduced(row, 0.3) for row in bought]
        accounts.append(account)
    return accounts


def brushing(market: Market) -> list[Rows]:
    """12 to 25 orders of one cheap item in one store."""
    (item,), rows = market.order(0.0, 1, dear=(0.0, 0.5)), []
    for _ in range(market.many(12, 25)):
        (order,) = market.order(market.between(1, market.days), 1)
        rows.append(order | {name: item[name] for name in ("item_id", "unit_price", "store_id")})
    return [rows]


def reseller(market: Market) -> list[Rows]:
    """8 to 15 orders of four to eight lines in one store, three to six units each, 20 % off."""
    home, rows = market.any_of(market.stores), []
    for _ in range(market.many(8, 15)):
        ago, lines = market.between(1, market.days), market.many(4, 8)
        bought = market.order(ago, lines, store_id=home)
        rows += [reduced(row | {"quantity": float(market.many(3, 6))}, 0.2) for row in bought]
    return [rows]


def triangulation(market: Market) -> list[Rows]:
    """15 to 30 orders of one item of the dearer half each, all by one store."""
    home, rows = market.any_of(market.stores), []
    for _ in range(market.many(15, 30)):
        ago = market.between(1, market.days / 2)
        rows += market.order(ago, 1, dear=(0.5, 1.0), store_id=home)
    return [rows]


KINDS: dict[str, Callable[[Market], list[Rows]]] = {
    kind.__name__: kind
    for kind in (account_takeover, linked_accounts, brushing, reseller, triangulation)
}


@dataclass(frozen=True)
class Caught:
    """What a budget of alerts caught of one kind, by each score.

    people: invented, in all trials. recall: share of them among the alerted, by people (of linked
    accounts by person). precision: share of the alerts that are invented people.
    """

    kind: str
    people: int
    recall: dict[str, Estimate]
    precision: dict[str, Estimate]


def find_invented(data: TaskData, as_of: datetime, *, seed: int) -> list[Caught]:
    """Invent people of each kind beside the real users, and alert ALERTED of all by each score.

    Returns nothing where nothing has a price or nobody ordered twice.
    """
    visits = read_visits(data.events_before(as_of, days=data.periods.window_days), data.business)
    honest = anomaly_features(visits, data, as_of)
    market = _market(data, visits, as_of)
    if market is None:
        return []
    caught = []
    for number, (name, kind) in enumerate(KINDS.items()):
        drawn = (np.random.default_rng((seed, number, time)) for time in range(TIMES))
        trials = [_trial(kind, market(rng), honest, data) for rng in drawn]
        caught.append(_caught(name, trials))
    return caught


def _market(
    data: TaskData, visits: pl.DataFrame, as_of: datetime
) -> Callable[[np.random.Generator], Market] | None:
    """Read what every market holds, for whoever has a generator; None where none can be held."""
    bought = data.events_before(as_of, days=data.periods.window_days).filter(
        data.business.of_role("conversion"), pl.col("unit_price") > 0
    )
    goods = bought.sort("unit_price", "event_id").collect()
    paces = visits.group_by("user_id").len().sort("user_id")["len"].to_list()
    if not goods.height or max(paces, default=0) < 2:
        return None
    goods = goods.gather_every(-(-goods.height // LINES)).with_columns(coupon_discount=0.0)
    return partial(
        Market,
        goods.to_dicts(),
        visits["store_id"].unique().sort().to_list(),
        paces,
        visits["lines"].to_list(),
        data.periods.window_days,
        as_of,
    )


Trial = dict[str, tuple[list[int], list[int], int]]
"""Score → alerted accounts of each person, their accounts, and how many were alerted."""


def _trial(
    kind: Callable[[Market], list[Rows]], market: Market, honest: pl.DataFrame, data: TaskData
) -> Trial:
    wanted, accounts = max(round(INVENTED_SHARE * honest.height), 1), []
    people: list[int] = []
    while len(people) < wanted:
        theirs = kind(market)
        people += [len(people) and people[-1] + 1] * len(theirs)
        accounts += theirs
    rows = [
        row | {"user_id": f"{NAME}{n}", "event_id": f"{NAME}{n} {i}"}
        for n, account in enumerate(accounts)
        for i, row in enumerate(account)
    ]
    events = pl.LazyFrame(rows, schema=EVENTS.polars_schema())
    theirs_only = replace(data, events=events, files=(), whole=data.whole or data)
    invented = anomaly_features(read_visits(events, data.business), theirs_only, market.as_of)
    owner = dict(zip((f"{NAME}{n}" for n in range(len(accounts))), people, strict=True))
    features = pl.concat([honest, invented])
    names, alerts = features["user_id"].to_list(), max(round(ALERTED * features.height), 1)
    sizes = np.bincount(people)
    judged = {}
    for name, score in (scores(features) | _simple(features)).items():
        top = np.argsort(-score, kind="stable")[:alerts]
        hits = np.bincount(
            [owner[names[i]] for i in top if names[i] in owner], minlength=len(sizes)
        )
        judged[name] = (hits.tolist(), sizes.tolist(), alerts)
    return judged


def _simple(features: pl.DataFrame) -> dict[str, Any]:
    return {"most orders": features["orders_window"].to_numpy()}


def _caught(kind: str, trials: list[Trial]) -> Caught:
    recall, precision, people = {}, {}, 0
    for name in trials[0]:
        hits, sizes = (
            np.concatenate([np.array(trial[name][part], dtype=float) for trial in trials])
            for part in (0, 1)
        )
        alerts, people = sum(trial[name][2] for trial in trials), len(sizes)
        share = float(hits.sum()) / alerts
        recall[name] = share_estimate(hits, sizes)
        precision[name] = Estimate(share, *wilson(share, alerts))
    return Caught(kind, people, recall, precision)
