"""Let the users of a planted world live, day by day: who visited when, and what was bought."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.planted.world import (
    BASKETS,
    BRANDS,
    CADENCES,
    EARLY,
    FADING,
    FIRST_IMPULSE,
    FIRST_STAPLE,
    GONE,
    IMPULSE,
    IMPULSES,
    ITEMS,
    JOINED_BEFORE,
    LIFE,
    MOST_LOOKS,
    ONCE_DUE,
    ORDER,
    RING,
    RINGS,
    STAY,
    TABLE,
    Planted,
    impulse_shares,
    is_due,
    redeems,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from benchmarks.planted.world import Flags, Integers


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
        visit, item = self.lines()
        inside = (self.visits.day[visit] >= begin) & (self.visits.day[visit] < end)
        had[self.visits.user[visit[inside]], item[inside]] = True
        return had

    def lines(self) -> tuple[Integers, Integers]:
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


def generate(planted: Planted) -> Log:
    """Make a log; the same world gives the same one."""
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
