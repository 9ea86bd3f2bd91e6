"""Simulate shelves that are ordered up to a level: units on hand against unmet demand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

TARGETS = (0.5, 0.65, 0.75, 0.82, 0.88, 0.92, 0.95, 0.97, 0.985, 0.995)
"""Quantiles that the order-up-to level is tried at."""
SERVICES = ("95 % fill", "98 % fill", "5 % stock-outs")
"""How well demand is met, equally for all methods that are compared."""
SIMULATED_ITEMS = 1000


@dataclass(frozen=True)
class Shelves:
    """What happened per item, summed over the measured weeks [targets, items].

    on_hand: mean of a week's first and last stock; sold, asked: units; empty: weeks in which demand
    was not met; weeks: how many were measured.
    """

    on_hand: Array
    sold: Array
    asked: Array
    empty: Array
    weeks: int

    def curves(self, counts: Array) -> tuple[Array, Array, Array]:
        """Mean units on hand, fill rate, share of stock-outs [draws, targets].

        counts: how often each item counts [draws, items].
        """
        item_weeks = counts.sum(axis=1, keepdims=True) * self.weeks
        asked = np.maximum(counts @ self.asked.T, 1e-9)
        return (
            counts @ self.on_hand.T / item_weeks,
            counts @ self.sold.T / asked,
            counts @ self.empty.T / item_weeks,
        )


def simulate(order_up_to: Array, demand: Array, *, lead: int, review: int) -> Shelves:
    """Run the shelves of all items through the weeks.

    order_up_to: levels at the beginning of each week [targets, items, decisions]; demand: units
    [items, weeks], at least as many weeks as decisions. lead, review: whole weeks; the first
    lead + review weeks only warm up. The shelf begins full.
    """
    targets, items, decisions = order_up_to.shape
    weeks = min(demand.shape[1], decisions + lead)
    first = min(lead + review, weeks - 1)
    arriving = np.zeros((weeks + lead + 1, targets, items))
    on_hand = order_up_to[:, :, 0].astype(np.float64).copy()
    stock, sold, empty = (np.zeros((targets, items)) for _ in range(3))
    on_order = np.zeros_like(on_hand)
    for week in range(weeks):
        on_hand += arriving[week]
        on_order -= arriving[week]
        if week < decisions and week % review == 0:
            order = np.maximum(order_up_to[:, :, week] - on_hand - on_order, 0)
            if lead:
                arriving[week + lead] += order
                on_order += order
            else:
                on_hand += order
        met = np.minimum(on_hand, demand[:, week])
        if week >= first:
            stock += on_hand - met / 2
            sold += met
            empty += met < demand[:, week]
        on_hand -= met
    asked = demand[:, first:weeks].sum(axis=1)
    return Shelves(stock, sold, np.broadcast_to(asked, stock.shape), empty, weeks - first)


def at_service(shelves: Shelves, counts: Array) -> dict[str, Array]:
    """Mean units on hand at each of `SERVICES` [draws]; NaN where no target reaches it."""
    stock, fill, empty = shelves.curves(counts)
    reached = (
        _reached(fill, stock, 0.95),
        _reached(fill, stock, 0.98),
        _reached(-empty, stock, -0.05),
    )
    return dict(zip(SERVICES, reached, strict=True))


def _reached(service: Array, stock: Array, wanted: float) -> Array:
    """Stock [draws] at which the service curve [draws, targets] crosses `wanted`."""
    reached = np.full(len(service), np.nan)
    for draw, (curve, units) in enumerate(zip(service, stock, strict=True)):
        rising = np.maximum.accumulate(curve)
        if rising[0] <= wanted <= rising[-1]:
            reached[draw] = np.interp(wanted, rising, units)
    return reached
