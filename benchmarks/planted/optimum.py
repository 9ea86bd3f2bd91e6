"""What can be known of a planted log: the forward filter of the hidden chain, and what follows.

The state of a user (hot, normal, fading, gone; usual or coupon-sensitive: eight in all) is hidden;
its distribution given every event before an origin is carried forward day by day (`believed`).
Whatever else a future event depends on is seen: which items of the circle were bought last, how
long ago each staple was. So its probability is a mean over the states of what a backward recursion
says of each: nothing is approximated and nothing is drawn. The numbers of the generator are taken
as known; a model has to learn them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from benchmarks.planted.world import (
    BRANDS,
    CADENCES,
    EARLY,
    FADING,
    FIRST_IMPULSE,
    FIRST_STAPLE,
    IMPULSE,
    IMPULSES,
    ITEMS,
    ONCE_DUE,
    RING,
    RINGS,
    STATES,
    STAY,
    Planted,
    impulse_shares,
    is_due,
    redeems,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.planted.log import Log
    from benchmarks.planted.world import Floats, Integers

NOBODY = RING
"""Place of the last but one item where there was none yet."""


def believed(log: Log, origins: Sequence[int], told: float | None = None) -> list[Floats]:
    """Distribution of each user's state at each origin [users, 2 × STATES], from all before it.

    origins: days, ascending. told: `Planted.told`; .5 is blind to the order of events. Of users who
    join later: all 0.
    """
    planted, visits = log.planted, log.visits
    told = planted.told if told is None else told
    steps = np.kron(np.eye(2), planted.chain)
    kinds = np.array([1 - planted.sensitive, planted.sensitive])
    first = np.outer(kinds, planted.begins).ravel()
    belief = np.zeros((planted.users, 2 * STATES))
    bounds = np.searchsorted(visits.day, np.arange(planted.days + 1))
    found = []
    for day in range(max(origins)):
        if day in origins:
            found.append(belief.copy())
        today = slice(bounds[day], bounds[day + 1])
        user = visits.user[today]
        rate = planted.visits(day).ravel()
        belief = belief @ steps
        came = belief[user] * rate
        came[log.joined[user] == day] = first
        belief *= 1 - rate
        seen = _order_seen(log, today, told) * _coupon_seen(log, today, day)
        belief[user] = came * seen
        belief /= np.maximum(belief.sum(axis=1, keepdims=True), 1e-300)
    return [*found, belief]


def _order_seen(log: Log, today: slice, told: float) -> Floats:
    """Likelihood of the orders of events in each state [visits, 2 × STATES]."""
    looks = log.visits.looks[today]
    in_order = np.arange(log.visits.fading.shape[1]) < looks[:, None]
    fading = (log.visits.fading[today] & in_order).sum(axis=1)[:, None]
    fades = np.tile(np.arange(STATES) == FADING, 2)
    p = np.where(fades, told, 1 - told)
    return np.asarray(p**fading * (1 - p) ** (looks[:, None] - fading))


def _coupon_seen(log: Log, today: slice, day: int) -> Floats:
    """Likelihood of a coupon, redeemed or not, in each state [visits, 2 × STATES]."""
    p = np.repeat(redeems(day), STATES)
    return np.where(log.visits.redeemed[today, None], p, 1 - p)


def silence(planted: Planted, belief: Floats, origin: int, days: int) -> Floats:
    """Probability of no visit on `days` days from the origin on [users]."""
    left = np.ones(2 * STATES)
    for steps, rate in _backward(planted, origin, days):
        left = steps @ ((1 - rate) * left)
    return np.asarray(belief @ left)


def purchases(
    log: Log, belief: Floats, origin: int, days: int, follows: float | None = None
) -> Floats:
    """Probability that each item is bought on `days` days from the origin on [users, ITEMS].

    follows: `Planted.follows`; 0 is blind to the rule of the cycle.
    """
    follows = log.planted.follows if follows is None else follows
    users = np.flatnonzero(log.joined < origin)
    p = np.zeros((log.planted.users, ITEMS))
    before, last, stocked = _seen(log, origin)
    for ring in range(RINGS):
        mine = users[log.ring[users] == ring]
        never = _cycle(log, ring, follows, origin, days)[:, before[mine], last[mine]]
        items = slice(ring * RING, (ring + 1) * RING)
        p[mine, items] = 1 - np.einsum("us,sui->ui", belief[mine], never)
    for category, cadence in enumerate(CADENCES):
        age = origin - stocked[users, category]
        never = _staple(log.planted, cadence, origin, days)
        never = never[:, np.minimum(age, cadence)]
        item = FIRST_STAPLE + category * BRANDS + log.brand[users, category]
        p[users, item] = 1 - np.einsum("us,su->u", belief[users], never)
    p[users, FIRST_IMPULSE:] = 1 - belief[users] @ _impulse(log.planted, origin, days)
    return p


def _seen(log: Log, origin: int) -> tuple[Integers, Integers, Integers]:
    """Last but one and last place of each user's circle, and the last day of each staple."""
    visits, users = log.visits, log.planted.users
    before, last = np.full(users, NOBODY), np.full(users, -1)
    stocked = np.full((users, len(CADENCES)), -1)
    bounds = np.searchsorted(visits.day, np.arange(origin + 1))
    for day in range(origin):
        today = slice(bounds[day], bounds[day + 1])
        user, bought = visits.user[today], visits.bought[today]
        switched = (bought != last[user]) & (last[user] >= 0)
        before[user] = np.where(switched, last[user], before[user])
        last[user] = bought
        stocked[user] = np.where(visits.staples[today], day, stocked[user])
    return before, last, stocked


def _cycle(log: Log, ring: int, follows: float, origin: int, days: int) -> Floats:
    """Probability that a place is not bought [2 × STATES, last but one, last, place]."""
    switch = np.full((RING + 1, RING, RING), 1 / (RING - 1))
    rule = log.rule[ring]
    known = np.arange(RING)[:, None] != np.arange(RING)
    ruled = (rule[..., None] == np.arange(RING)) & known[..., None]
    switch[:RING] = (1 - follows) * switch[:RING] + follows * ruled
    switch[:, np.arange(RING), np.arange(RING)] = 0.0
    other = 1.0 - np.eye(RING)
    left = np.ones((2 * STATES, RING + 1, RING, RING))
    for steps, rate in _backward(log.planted, origin, days):
        stays = STAY * left * other  # [.., last, place]: the last one is not the place
        # after a switch to x the last one is the last but one: left[state, last, x, place]
        moves = np.einsum("abx,xi,sbxi->sabi", switch, other, left[:, :RING])
        visited = stays + (1 - STAY) * moves
        r = rate[:, None, None, None]
        left = np.tensordot(steps, (1 - r) * left + r * visited, axes=1)
    return left


def _staple(planted: Planted, cadence: int, origin: int, days: int) -> Floats:
    """Probability that an own staple is not bought [2 × STATES, days since it was: 0 … cadence].

    From the cadence on it is due whatever its age.
    """
    ages = np.arange(cadence + 1)
    buys = np.where(is_due(ages, cadence), ONCE_DUE, EARLY)
    older = np.minimum(ages + 1, cadence)
    left = np.ones((2 * STATES, cadence + 1))
    for steps, rate in _backward(planted, origin, days):
        left = steps @ ((1 - rate[:, None] * buys) * left[:, older])
    return left


def _impulse(planted: Planted, origin: int, days: int) -> Floats:
    """Probability that an impulse item is not bought [2 × STATES, IMPULSES]."""
    left = np.ones((2 * STATES, IMPULSES))
    for steps, rate in _backward(planted, origin, days):
        left = steps @ ((1 - rate[:, None] * IMPULSE * impulse_shares()) * left)
    return left


def _backward(planted: Planted, origin: int, days: int) -> list[tuple[Floats, Floats]]:
    """Step of the chain and visits of each day, the last one first."""
    steps = np.kron(np.eye(2), planted.chain)
    ahead = range(origin + days - 1, origin - 1, -1)
    return [(steps, planted.visits(day).ravel()) for day in ahead]
