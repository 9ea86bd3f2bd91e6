"""A world whose sequential signal is planted: who fades shows in the order of events alone.

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

`benchmarks.planted.log` lets the users live, `benchmarks.planted.rows` writes down what the product
reads of it, `benchmarks.planted.optimum` says what can be known.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import numpy as np

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
