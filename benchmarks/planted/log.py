"""A log whose sequential signal is planted: who fades shows in the order of events alone.

Users are hot, normal, fading or gone, by a Markov chain with daily steps. Who visits looks at
things (view, add_to_cart, remove_from_cart of one item, once or twice) and then buys. Normal and
fading users visit alike, and all that is counted of them is alike: only the order differs. A fading
user puts an item into the cart and takes it out again with probability `q`; anybody else takes out
what lay there before and puts it back with that probability. Beside that:

* the cycle: each user has a circle of eight items and buys one of them at every visit, the same one
  as before or another one. Which other one follows from the two last ones together (with
  probability 2q − 1, else by chance); either of them alone says nothing.
* cadence: each user has an own item of each staple category, bought again once so many days of the
  category have passed.
* impulse: now and then anything of a few.
* coupon-sensitive users come more often in coupon weeks (every fourth), else less, and redeem.

`seq_ml.schema` EVENTS and ITEMS are what the product reads; `benchmarks.planted.optimum` says what
can be known.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from seq_ml import schema

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Integers = NDArray[np.int64]
    Flags = NDArray[np.bool_]

FIRST_DAY = datetime(2025, 1, 6, tzinfo=UTC)
"""A Monday."""

HOT, NORMAL, FADING, GONE = range(4)
STATES = 4
CHAIN = (
    (1 - 1 / 30, 1 / 30, 0.0, 0.0),
    (1 / 60, 1 - 1 / 60 - 1 / 40, 1 / 40, 0.0),
    (0.0, 1 / 40, 1 - 1 / 40 - 1 / 8, 1 / 8),
    (0.0, 0.0, 0.0, 1.0),
)
"""Daily steps, from row to column."""
NULL_CHAIN = (
    (1.0, 0.0, 0.0, 0.0),
    (0.0, 1 - 1 / 60, 0.0, 1 / 60),
    (0.0, 0.0, 1.0, 0.0),
    (0.0, 0.0, 0.0, 1.0),
)
"""Normal or gone: how long ago somebody came says all."""
BEGINS, NULL_BEGINS = (0.25, 0.75, 0.0, 0.0), (0.0, 1.0, 0.0, 0.0)
VISITS = (0.40, 0.20, 0.20, 0.0)
"""Probability of a visit on a day, by state."""
SENSITIVE = 0.3
"""Share of users who are coupon-sensitive."""
COUPON_WEEKS = 4
MORE, LESS = 1.6, 0.8
"""What coupon weeks and the others do to the visits of a sensitive user: on average nothing."""
REDEEMS = ((0.02, 0.10), (0.05, 0.80))
"""Probability that a visit redeems a coupon: usual and sensitive users, other and coupon weeks."""

RINGS, RING = 6, 8
"""Circles of items, and the items of each."""
STAY = 0.4
"""Probability that a visit buys the item of the circle that the last one bought."""
CADENCES = (7, 14, 28)
"""Days of the staple categories."""
BRANDS = 6
"""Items of a staple category."""
DUE = 0.7
"""Share of its cadence after which a staple is due."""
EARLY, ONCE_DUE = 0.05, 0.80
"""Probability that a visit buys a staple, before it is due and after."""
IMPULSES, IMPULSE = 12, 0.15
"""Items bought on impulse, and the probability of one at a visit."""
MOST_LOOKS = 2
"""Items looked at, at one visit."""
JOINED_BEFORE = 0.3
"""Share of users who come on the first day; the others join evenly over all days."""

LIFE, ORDER, BASKETS, ROWS, TABLE = range(5)
"""Streams of chance: who visits when is the same whatever `q` is."""


@dataclass(frozen=True)
class Planted:
    """Size and signal of a log.

    q: how sure the order of events tells fading from normal, and (as 2q − 1) how often the cycle
    keeps its rule; .5 tells nothing. shuffled: the events of a session in an order by chance, the
    same ones. null: nobody is hot, fading or sensitive, and `q` is .5: counts suffice.
    """

    users: int = 2_500
    q: float = 0.9
    shuffled: bool = False
    null: bool = False
    seed: int = 7
    days: int = 168

    @property
    def told(self) -> float:
        """What the order tells where anything can be read from it."""
        return 0.5 if self.shuffled or self.null else self.q

    @property
    def follows(self) -> float:
        """Probability that a switch keeps the rule of the cycle."""
        return 0.0 if self.null else 2 * self.q - 1

    @property
    def chain(self) -> Floats:
        """Daily steps of the state [from, to]."""
        return np.array(NULL_CHAIN if self.null else CHAIN)

    @property
    def begins(self) -> Floats:
        """Distribution of the state on the day that somebody joins [states]."""
        return np.array(NULL_BEGINS if self.null else BEGINS)

    @property
    def sensitive(self) -> float:
        """Share of coupon-sensitive users."""
        return 0.0 if self.null else SENSITIVE

    def visits(self, day: int) -> Floats:
        """Probability of a visit [usual or sensitive, states]."""
        usual = np.array(VISITS)
        return np.stack([usual, usual * (MORE if is_coupon_day(day) else LESS)])

    def at(self, day: int) -> datetime:
        """Midnight at which a day begins."""
        return FIRST_DAY + timedelta(days=day)

    def stream(self, which: int) -> np.random.Generator:
        """Chance for one purpose."""
        return np.random.default_rng([self.seed, which])

    def generate(self) -> Log:
        """Let the users live, day by day."""
        return _live(self)


def is_coupon_day(day: int) -> bool:
    """Tell whether a day is in a coupon week, the last of every four."""
    return day // 7 % COUPON_WEEKS == COUPON_WEEKS - 1


def redeems(day: int) -> Floats:
    """Probability that a visit redeems a coupon [usual or sensitive]."""
    return np.array(REDEEMS)[:, int(is_coupon_day(day))]


def is_due(age: Integers, cadence: int) -> Flags:
    """Tell whether a staple is due, so many days after it was bought."""
    return age >= DUE * cadence


def impulse_shares() -> Floats:
    """Share of each item among those bought on impulse."""
    shares = 1 / np.arange(1, IMPULSES + 1)
    return np.asarray(shares / shares.sum())


# items by number: the circles, the staples, the impulses
FIRST_STAPLE = RINGS * RING
FIRST_IMPULSE = FIRST_STAPLE + len(CADENCES) * BRANDS
ITEMS = FIRST_IMPULSE + IMPULSES


@dataclass(frozen=True)
class Visits:
    """Visits, by day and then by user, all [visits] unless said otherwise.

    looks: items looked at; fading [visits, MOST_LOOKS]: whether in a fading user's order.
    switched: place in the user's circle of the item bought. staples [visits, categories]: bought
    or not. impulse: number among the impulse items, −1 none.
    """

    day: Integers
    user: Integers
    looks: Integers
    fading: Flags
    redeemed: Flags
    bought: Integers
    staples: Flags
    impulse: Integers


@dataclass(frozen=True)
class Log:
    """What happened; the states are forgotten.

    joined: first day of each user, who visits on it. ring: circle of each user. brand [users,
    categories]: own item of each staple category. rule [circles, last but one, last]: the place
    that follows.
    """

    planted: Planted
    joined: Integers
    ring: Integers
    brand: Integers
    rule: Integers
    visits: Visits

    @cached_property
    def user_ids(self) -> list[str]:
        """Pseudonyms [users]."""
        numbers = range(self.planted.users)
        return [hashlib.blake2b(str(n).encode(), digest_size=16).hexdigest() for n in numbers]

    @cached_property
    def item_ids(self) -> list[str]:
        """Ids [ITEMS]."""
        return [f"i{number:03d}" for number in range(ITEMS)]

    def came(self, begin: int, end: int) -> Flags:
        """Whether each user visited on days [begin, end)."""
        day, came = self.visits.day, np.zeros(self.planted.users, dtype=bool)
        came[self.visits.user[(day >= begin) & (day < end)]] = True
        return came

    def had(self, begin: int, end: int) -> Flags:
        """Whether each user bought each item on days [begin, end) [users, ITEMS]."""
        had = np.zeros((self.planted.users, ITEMS), dtype=bool)
        visit, item = self._lines()
        inside = (self.visits.day[visit] >= begin) & (self.visits.day[visit] < end)
        had[self.visits.user[visit[inside]], item[inside]] = True
        return had

    def _lines(self) -> tuple[Integers, Integers]:
        """Visit and item of everything bought."""
        visits, every = self.visits, np.arange(len(self.visits.day))
        staple, category = np.nonzero(visits.staples)
        brand = self.brand[visits.user[staple], category]
        impulse = np.flatnonzero(visits.impulse >= 0)
        return np.concatenate([every, staple, impulse]), np.concatenate(
            [
                self.ring[visits.user] * RING + visits.bought,
                FIRST_STAPLE + category * BRANDS + brand,
                FIRST_IMPULSE + visits.impulse[impulse],
            ]
        )

    def items(self) -> pl.DataFrame:
        """The catalogue, schema ITEMS."""
        names = [f"circle {n // RING}" for n in range(FIRST_STAPLE)]
        names += [f"staple {n // BRANDS}" for n in range(len(CADENCES) * BRANDS)]
        names += ["impulse"] * IMPULSES
        frame = pl.DataFrame(
            {
                "item_id": self.item_ids,
                "category": names,
                "department": [name.partition(" ")[0] for name in names],
                "price": self._prices,
                "is_merchandise": True,
                "valid_from": FIRST_DAY - timedelta(days=1),
            }
        )
        return _conform(frame, schema.ITEMS)

    @cached_property
    def _prices(self) -> Floats:
        return np.round(self.planted.stream(TABLE).lognormal(1.5, 0.3, ITEMS), 2)

    def events(self) -> pl.DataFrame:
        """The log, schema EVENTS, sorted by time; sessions have at most one a user and day."""
        rng, visits = self.planted.stream(ROWS), self.visits
        count = len(visits.day)
        began = visits.day * 86_400 + rng.integers(8 * 3600, 20 * 3600, count)
        looks = self._looks(rng)
        looks["second"] = (
            began[looks["visit"]] + 45 * looks["slot"] + rng.integers(0, 30, len(looks["slot"]))
        )
        paid = began + 45 * 3 * visits.looks + 60
        redeemed = np.flatnonzero(visits.redeemed)
        visit, item = self._lines()
        prices = self._prices[item]
        coupon = np.where(visits.redeemed[visit], np.round(0.2 * prices, 2), 0.0)
        bought = len(visit)
        columns = {
            "visit": np.concatenate([looks["visit"], redeemed, visit]),
            "kind": np.concatenate(
                [looks["kind"], np.full(len(redeemed), COUPON), np.full(bought, PURCHASE)]
            ),
            "item": np.concatenate([looks["item"], np.full(len(redeemed), -1), item]),
            "second": np.concatenate([looks["second"], paid[redeemed], paid[visit]]),
        }
        frame = pl.DataFrame(columns).with_columns(
            user=pl.Series(visits.user[columns["visit"]]),
            amounts=pl.int_range(pl.len()) - (pl.len() - bought),
        )
        frame = frame.sort("second", "user", "kind", "item")
        return _conform(self._named(frame, prices, coupon), schema.EVENTS)

    def _looks(self, rng: np.random.Generator) -> dict[str, Integers]:
        """Visit, slot, kind and item of each event of browsing."""
        visits = self.visits
        visit, look = np.nonzero(np.arange(MOST_LOOKS) < visits.looks[:, None])
        item = self.ring[visits.user[visit]] * RING + rng.integers(0, RING, len(visit))
        kinds = np.where(visits.fading[visit, look, None], FADING_ORDER, USUAL_ORDER)
        slot = 3 * look[:, None] + np.arange(3)
        events = {
            "visit": np.repeat(visit, 3),
            "slot": slot.ravel(),
            "kind": kinds.ravel(),
            "item": np.repeat(item, 3),
        }
        if self.planted.shuffled:
            mixed = np.lexsort([rng.random(len(events["visit"])), events["visit"]])
            events["kind"], events["item"] = events["kind"][mixed], events["item"][mixed]
        return events

    def _named(self, frame: pl.DataFrame, prices: Floats, coupon: Floats) -> pl.DataFrame:
        line = pl.when(pl.col("amounts") >= 0).then("amounts")
        items = pl.Series(self.item_ids, dtype=pl.String)
        second = pl.duration(seconds="second")
        day = pl.Series(self.visits.day).gather(frame["visit"])
        return frame.select(
            event_id=pl.format("e{}", pl.int_range(pl.len()).cast(pl.String).str.zfill(9)),
            user_id=pl.Series(self.user_ids, dtype=pl.String).gather(frame["user"]),
            session_id=pl.format("{}-{}", "user", day),
            event_type=pl.Series(KINDS).gather(frame["kind"]),
            item_id=items.gather(frame.select(pl.when(pl.col("item") >= 0).then("item"))["item"]),
            event_time=pl.lit(FIRST_DAY) + second,
            quantity=pl.when(pl.col("amounts") >= 0).then(1.0),
            unit_price=pl.Series(prices - coupon).gather(frame.select(line)["amounts"]),
            discount=pl.Series(coupon).gather(frame.select(line)["amounts"]),
            coupon_discount=pl.Series(coupon).gather(frame.select(line)["amounts"]),
            event_date=(pl.lit(FIRST_DAY) + second).dt.date(),
        )


KINDS = ("view", "add_to_cart", "remove_from_cart", "coupon_redeem", "purchase")
COUPON, PURCHASE = 3, 4
USUAL_ORDER, FADING_ORDER = np.array([0, 2, 1]), np.array([0, 1, 2])


def _conform(frame: pl.DataFrame, table: schema.Table) -> pl.DataFrame:
    return frame.select(
        pl.col(name).cast(kind) if name in frame.columns else pl.lit(None, kind).alias(name)
        for name, kind in table.polars_schema().items()
    )


def _rules(rng: np.random.Generator) -> Integers:
    """A rule for each circle [circles, last but one, last].

    Given the last place alone, whatever was before leads to each other place once.
    """
    rule = np.full((RINGS, RING, RING), -1)
    for ring in range(RINGS):
        for last in range(RING):
            others = np.delete(np.arange(RING), last)
            rule[ring, others, last] = rng.permutation(others)
    return rule


def _live(planted: Planted) -> Log:
    life, order, baskets = (planted.stream(which) for which in (LIFE, ORDER, BASKETS))
    users, every = planted.users, np.arange(planted.users)
    joined = np.where(life.random(users) < JOINED_BEFORE, 0, life.integers(0, planted.days, users))
    kind = (life.random(users) < planted.sensitive).astype(np.int64)
    ring = baskets.integers(0, RINGS, users)
    brand = baskets.integers(0, BRANDS, (users, len(CADENCES)))
    rule = _rules(planted.stream(TABLE))
    steps, begins = planted.chain.cumsum(axis=1), planted.begins.cumsum()
    state = np.full(users, GONE)
    shopper = _Shopper(users, ring, rule, planted.follows)
    days: list[Visits] = []
    for day in range(planted.days):
        moved, comes = life.random(users), life.random(users)
        old = (moved[:, None] >= steps[state]).sum(axis=1)
        new = (moved[:, None] >= begins).sum(axis=1)
        state = np.where(joined == day, new, np.where(joined < day, old, state))
        rate = planted.visits(day)[kind, state]
        user = every[(joined == day) | ((joined < day) & (comes < rate))]
        looks = 1 + life.integers(0, MOST_LOOKS, len(user))
        redeemed = life.random(len(user)) < redeems(day)[kind[user]]
        fades = np.where(state[user] == FADING, planted.q, 1 - planted.q)
        chance = order.random((len(user), MOST_LOOKS))
        fading = chance < (0.5 if planted.null else fades[:, None])
        bought, staples, impulse = shopper.buys(baskets, user, day)
        days.append(
            Visits(np.full(len(user), day), user, looks, fading, redeemed, bought, staples, impulse)
        )
    visits = Visits(*(np.concatenate(part) for part in zip(*map(_parts, days), strict=True)))
    return Log(planted, joined, ring, brand, rule, visits)


def _parts(visits: Visits) -> list[NDArray]:
    return list(vars(visits).values())


class _Shopper:
    """What is bought at a visit, from what the same user bought before."""

    def __init__(self, users: int, ring: Integers, rule: Integers, follows: float) -> None:
        self.ring, self.rule, self.follows = ring, rule, follows
        self.before, self.last = np.full(users, -1), np.full(users, -1)
        self.stocked = np.full((users, len(CADENCES)), -1000)

    def buys(
        self, rng: np.random.Generator, user: Integers, day: int
    ) -> tuple[Integers, Flags, Integers]:
        """Return the place in the circle, the staples and the impulse of each visitor."""
        count = len(user)
        before, last = self.before[user], self.last[user]
        place = _other(last, rng.integers(0, RING - 1, count))
        ruled = (rng.random(count) < self.follows) & (before >= 0)
        place = np.where(ruled, self.rule[self.ring[user], before, last], place)
        place = np.where(rng.random(count) < STAY, last, place)
        place = np.where(last < 0, rng.integers(0, RING, count), place)
        self.before[user] = np.where(place != last, last, before)
        self.last[user] = place

        age = day - self.stocked[user]
        due = np.stack([is_due(age[:, n], days) for n, days in enumerate(CADENCES)], axis=1)
        staples = rng.random(due.shape) < np.where(due, ONCE_DUE, EARLY)
        staples |= (last < 0)[:, None]  # the first visit buys some of each
        self.stocked[user] = np.where(staples, day, self.stocked[user])
        impulse = np.searchsorted(impulse_shares().cumsum(), rng.random(count))
        impulse = np.where(rng.random(count) < IMPULSE, np.minimum(impulse, IMPULSES - 1), -1)
        return place, staples, impulse


def _other(place: Integers, chance: Integers) -> Integers:
    """Any other place of a circle; chance: [0, RING − 1)."""
    return (place + 1 + chance) % RING
