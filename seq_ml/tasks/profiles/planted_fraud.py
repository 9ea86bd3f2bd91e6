"""Does the anomaly score find fraud? Plant it into copies of real users and look.

Nobody hands over labelled fraud with their logs, so five patterns are planted, seeded, into copies
of users drawn from the data itself, about 1 % of all users, of random strength. The copies go
through the same features and the same score as everybody else. Real users count as honest, which
they may not all be: the precision is a lower bound.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from seq_ml.metrics.bootstrap import resample
from seq_ml.metrics.estimate import Draws, Estimate
from seq_ml.roles import COUPON
from seq_ml.schema import EVENTS
from seq_ml.tasks.behaviour.visits import ORDER, read_visits, with_orders
from seq_ml.tasks.profiles.anomalies import (
    ANOMALY_FEATURES,
    Usual,
    anomalies,
    anomaly_features,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from numpy.typing import NDArray

    from seq_ml.periods import Periods
    from seq_ml.tasks.data import TaskData

    Rows = list[dict[str, Any]]

PLANTED_SHARE = 0.01
FEWEST_ORDERS = 2
"""A copied user has at least so many orders in the window: there must be something to bend."""
PLANTINGS, RESAMPLES = 4, 50
"""Plantings of each pattern, and resamples of the users of each planting."""
PREFIX = "planted "
MIXED = "all five mixed"
PUBLISHED = "published score"
SMALL_QUANTILE = 0.05
"""Card testers pay a fifth up to the whole of this quantile of the orders' values."""


@dataclass(frozen=True)
class Setting:
    """What a pattern needs to know: instant, window, worth of a small order, behaviours.

    days: of the window. refund: the behaviour that undoes a conversion.
    """

    as_of: datetime
    small: float
    rng: np.random.Generator
    days: int
    conversions: tuple[str, ...]
    refund: str

    def bought(self, row: dict[str, Any]) -> bool:
        """Tell whether an event is a conversion."""
        return row["event_type"] in self.conversions

    def paid(self, row: dict[str, Any]) -> bool:
        """Tell whether an event is a conversion that cost something."""
        return self.bought(row) and bool(row["unit_price"]) and bool(row["quantity"])

    def orders(self, rows: Rows) -> dict[tuple[Any, ...], Rows]:
        """Return the conversions by order, in the order of time."""
        found: dict[tuple[Any, ...], Rows] = {}
        for row in filter(self.bought, rows):
            found.setdefault(_order(row), []).append(row)
        return found


def bulk_buy(rows: Rows, setting: Setting) -> Rows:
    """One to three lines become 24 to 96 units of the same item."""
    rng = setting.rng
    lines = [i for i, row in enumerate(rows) if setting.paid(row)]
    for i in rng.choice(lines, size=min(len(lines), int(rng.integers(1, 4))), replace=False):
        rows[i] = rows[i] | {"quantity": float(rng.integers(24, 97))}
    return rows


def coupon_abuse(rows: Rows, setting: Setting) -> Rows:
    """Coupons pay 50 to 90 % of most orders, and every such order redeems one to three."""
    rng = setting.rng
    out: Rows = []
    abused = {order: rng.random() < 0.7 for order in setting.orders(rows)}
    redeemed = set()
    for row in rows:
        order = _order(row)
        if not setting.paid(row) or not abused[order]:
            out.append(row)
            continue
        share = rng.uniform(0.5, 0.9)
        saved = share * row["unit_price"] * row["quantity"]
        out.append(
            row
            | {
                "unit_price": (1 - share) * row["unit_price"],
                "discount": (row["discount"] or 0.0) + saved,
                "coupon_discount": (row["coupon_discount"] or 0.0) + saved,
            }
        )
        if order not in redeemed:
            redeemed.add(order)
            coupon = {"event_type": COUPON, "item_id": None, "quantity": None}
            price = {"unit_price": None, "discount": None, "coupon_discount": None}
            out += [row | coupon | price for _ in range(int(rng.integers(1, 4)))]
    return out


def refund_abuse(rows: Rows, setting: Setting) -> Rows:
    """Of what was bought 30 to 70 % is brought back within two weeks."""
    rng = setting.rng
    share = rng.uniform(0.3, 0.7)
    back: Rows = []
    for row in rows:
        at = row["event_time"] + timedelta(days=float(rng.uniform(0.1, 14)))
        if setting.bought(row) and rng.random() < share and at < setting.as_of:
            refund = {"event_type": setting.refund, "event_time": at, "session_id": None}
            back.append(row | refund)
    return rows + back


def order_burst(rows: Rows, setting: Setting) -> Rows:
    """8 to 20 of the user's own orders again, all within one hour."""
    rng = setting.rng
    orders = list(setting.orders(rows).values())
    start = setting.as_of - timedelta(days=float(rng.uniform(1, setting.days - 1)))
    extra: Rows = []
    for n in range(int(rng.integers(8, 21))):
        at = start + timedelta(minutes=float(rng.uniform(0, 60)))
        again = orders[int(rng.integers(len(orders)))]
        extra += [row | {"event_time": at, "session_id": f"burst {n}"} for row in again]
    return rows + extra


def card_testing(rows: Rows, setting: Setting) -> Rows:
    """8 to 25 orders of one line each, tiny amounts, one to three minutes apart."""
    rng = setting.rng
    line = next(filter(setting.bought, rows))
    at = setting.as_of - timedelta(days=float(rng.uniform(1, setting.days - 1)))
    extra: Rows = []
    for n in range(int(rng.integers(8, 26))):
        at += timedelta(minutes=float(rng.uniform(1, 3)))
        tiny = {"quantity": 1.0, "unit_price": float(rng.uniform(0.2, 1)) * setting.small}
        free = {"discount": 0.0, "coupon_discount": 0.0}
        extra.append(line | tiny | free | {"event_time": at, "session_id": f"test {n}"})
    return rows + extra


def _order(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(row[name] for name in ORDER)


PATTERNS: dict[str, Callable[[Rows, Setting], Rows]] = {
    pattern.__name__: pattern
    for pattern in (bulk_buy, coupon_abuse, refund_abuse, order_burst, card_testing)
}

BENT = {
    "bulk_buy": ("units_max", "order_value_max", "spend_window"),
    "coupon_abuse": ("coupon_share", "coupons_redeemed_window"),
    "refund_abuse": ("refund_share", "refunds_window"),
    "order_burst": ("orders_per_day_max", "quick_orders_window", "orders_window", "spend_window"),
    "card_testing": ("orders_per_day_max", "quick_orders_window", "orders_window"),
}
"""Features that each pattern bends: the reason of a found one should name one of them."""


@dataclass(frozen=True)
class Found:
    """How well one pattern (or all, mixed) was found.

    base_rate: share of planted among all users.  precision: average precision of each score, with
    the 95 % interval over plantings and resampled users.  named: share of the planted that were
    given a reason (they are among the most unusual) whose reason is a feature that the pattern
    bent.  reached: share of the planted that were given a reason.
    """

    pattern: str
    base_rate: float
    precision: dict[str, Estimate]
    reached: float
    named: float


def find_planted(data: TaskData, as_of: datetime, *, seed: int) -> list[Found]:
    """Plant every pattern alone, then all mixed, and measure what each score finds.

    Returns no rows when no user of the data has enough orders to be copied.
    """
    visits = read_visits(data.events_before(as_of, days=data.periods.window_days), data.business)
    honest = anomaly_features(visits, data, as_of)
    count = max(round(PLANTED_SHARE * honest.height), 1)
    settings = {name: [name] for name in PATTERNS} | {MIXED: list(PATTERNS)}
    seeds = {
        pattern: [1000 * seed + 100 * number + planting for planting in range(PLANTINGS)]
        for number, pattern in enumerate(settings)
    }
    chosen = {user for of in seeds.values() for one in of for user in _drawn(visits, count, one)[0]}
    if not chosen:
        return []
    # their events are read once: each planting copies some of them
    theirs = data.of(pl.Series(sorted(chosen)))
    held = theirs.events_before(as_of, days=data.periods.window_days).collect().lazy()
    data = replace(theirs, events=held)
    results = []
    for pattern, names in settings.items():
        plantings = []
        for drawn in seeds[pattern]:
            events, planted = plant(data, visits, as_of, names, count=count, seed=drawn)
            orders = read_visits(events, data.business)
            copies = anomaly_features(orders, replace(data, events=events, files=()), as_of)
            plantings.append((pl.concat([honest, copies]), planted))
        results.append(_found(pattern, plantings, data.periods, seed))
    return results


def _found(
    pattern: str, plantings: Sequence[tuple[pl.DataFrame, list[str]]], periods: Periods, seed: int
) -> Found:
    precisions: dict[str, list[NDArray[np.float64]]] = {}
    shares, total, given, named = [], 0, 0, 0
    for number, (features, patterns) in enumerate(plantings):
        is_planted = features["user_id"].str.starts_with(PREFIX).to_numpy()
        shares.append(is_planted.mean())
        count = len(is_planted)
        drawn = np.vstack([np.ones(count), *resample(count, seed + number, RESAMPLES)])
        for name, score in scores(features).items():
            precisions.setdefault(name, []).append(average_precision(is_planted, score, drawn))
        usual = Usual.of(features)
        reasons = anomalies(features, usual, periods)["anomaly_reason"]
        explained = reasons.is_not_null().to_numpy() & is_planted
        strongest = usual.deviations(features).argmax(axis=1)
        for row in np.flatnonzero(explained):
            bent = BENT[patterns[int(features["user_id"][int(row)].removeprefix(PREFIX))]]
            given, named = given + 1, named + (ANOMALY_FEATURES[strongest[row]] in bent)
        total += len(patterns)
    return Found(
        pattern,
        float(np.mean(shares)),
        {
            name: Draws(float(np.stack(of)[:, 0].mean()), np.stack(of)[:, 1:].ravel()).estimate()
            for name, of in precisions.items()
        },
        given / total,
        named / max(given, 1),
    )


def average_precision(
    positive: NDArray[np.bool_], score: NDArray[np.float64], counts: NDArray[Any]
) -> NDArray[np.float64]:
    """Return the average precision under each row of `counts` (how often a user counts) [draws].

    The same as scikit-learn's with `sample_weight`, for all draws in one pass; NaN without a
    positive.
    """
    order = np.argsort(-score, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(score[order])), len(score) - 1)  # of equal scores
    weights = counts[:, order].astype(np.float64)
    found = np.cumsum(weights * positive[order], axis=1)[:, ends]
    seen = np.cumsum(weights, axis=1)[:, ends]
    gained = np.diff(found, axis=1, prepend=0.0)
    with np.errstate(invalid="ignore"):  # no positive was drawn
        precision = np.divide(found, seen, out=np.zeros_like(found), where=seen > 0)
        return np.asarray((gained * precision).sum(axis=1) / found[:, -1])


def scores(features: pl.DataFrame) -> dict[str, NDArray[np.float64]]:
    """Return what is published and what it must beat: scores [users], higher is more unusual."""
    from sklearn.ensemble import IsolationForest

    x = features.select(ANOMALY_FEATURES).to_numpy()
    spread = np.where(x.std(axis=0) > 0, x.std(axis=0), 1.0)
    forest = IsolationForest(n_estimators=100, max_samples=min(256, len(x)), random_state=0).fit(x)
    return {
        PUBLISHED: Usual.of(features).deviations(features).max(axis=1),
        "isolation forest": -forest.score_samples(x),
        "largest z-score": ((x - x.mean(axis=0)) / spread).max(axis=1),
        "largest spend": features["spend_window"].to_numpy(),
    }


def plant(
    data: TaskData,
    visits: pl.DataFrame,
    as_of: datetime,
    patterns: Sequence[str],
    *,
    count: int,
    seed: int,
) -> tuple[pl.LazyFrame, list[str]]:
    """Return the events of `count` planted users and, for each, its pattern (in turn).

    visits: the orders of the window. Users are called PREFIX0 … in order. Empty when no user has
    enough paid orders.
    """
    chosen, rng = _drawn(visits, count, seed)
    if not len(chosen):
        return pl.LazyFrame(schema=EVENTS.polars_schema()), []
    paid = visits.filter(pl.col("spend") > 0)
    small = float(paid["spend"].quantile(SMALL_QUANTILE) or 0.0)
    days = data.periods.window_days
    recent = with_orders(data.events_before(as_of, days=days), data.business)
    own = recent.filter(pl.col("user_id").is_in(sorted(set(chosen)))).collect()
    by_user = {
        str(key[0]): part.sort("event_time", "event_id").to_dicts()
        for key, part in own.group_by("user_id")
    }
    conversions = data.business.named("conversion")
    setting = Setting(as_of, small, rng, days, conversions, data.business.named("return")[0])
    rows: Rows = []
    names = [patterns[i % len(patterns)] for i in range(count)]
    for i, (user, name) in enumerate(zip(chosen, names, strict=True)):
        bent = PATTERNS[name](list(by_user[user]), setting)
        rows += [row | {"user_id": f"{PREFIX}{i}"} for row in bent]
    return pl.LazyFrame(rows, schema=EVENTS.polars_schema()), names


def _drawn(visits: pl.DataFrame, count: int, seed: int) -> tuple[NDArray[Any], np.random.Generator]:
    """Draw who is copied, none where nobody has enough paid orders; and who draws on."""
    rng = np.random.default_rng(seed)
    orders = visits.filter(pl.col("spend") > 0).group_by("user_id").len()
    buyers = orders.filter(pl.col("len") >= FEWEST_ORDERS)["user_id"].sort().to_numpy()
    if not len(buyers):
        return buyers, rng
    return rng.choice(buyers, size=count, replace=count > len(buyers)), rng
