"""What was asked for in weeks that had nothing left: at least what was sold.

A count of nothing on hand censors its week, and those after it in which nothing was sold, until the
next count. Their demand is expected from the weeks before: E[D | D ≥ sold], D a Poisson number
around their mean. That is the expectation step of the EM algorithm for unconstraining demand
(Weatherford and Pölt 2002, "Better unconstraining of airline demand data in revenue management
systems"), taken once and of the past alone, so that what is known at an origin stays what it was.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from seq_ml.periods import MEMORY_WEEKS
from seq_ml.tasks.inventory.stock import ALL_STORES

if TYPE_CHECKING:
    from datetime import date, datetime

    from numpy.typing import NDArray

    from seq_ml.tasks.data import TaskData

    Units = NDArray[np.float32]
    Marks = NDArray[np.bool_]


def censored_weeks(
    data: TaskData, as_of: datetime, keys: pl.DataFrame, start: date, units: Units
) -> Marks:
    """Return the weeks [series, weeks] in which a series had nothing left, as known before `as_of`.

    keys: item_id, store_id; start: first day of week 0; units: sold [series, weeks]. The whole
    business (store "ALL") is judged by its own counts, and without one by those of its stores:
    nothing is left where none of them has anything.
    """
    day = pl.col("counted_at").dt.convert_time_zone(data.business.timezone).dt.date()
    counts = (
        data.stock.filter(pl.col("counted_at") < as_of)
        .with_columns(week=(day - pl.lit(start)).dt.total_days().floordiv(7).clip(lower_bound=-1))
        .filter(pl.col("week") < units.shape[1])
        .sort("counted_at")
        .group_by("item_id", "store_id", "week", maintain_order=True)
        .agg(empty=(pl.col("on_hand") <= 0).any(), last=(pl.col("on_hand") <= 0).last())
    )
    rows = keys.with_row_index("row")
    known, out = _spread(counts.join(rows, on=["item_id", "store_id"]), units)
    # Without a count of the whole business by then, the stores that were counted by then.
    whole = rows.filter(pl.col("store_id") == ALL_STORES).select("row", "item_id")
    stores = counts.filter(pl.col("store_id") != ALL_STORES).join(whole, on="item_id")
    told, empty = np.zeros((2, *units.shape), dtype=bool)
    filled = np.zeros(units.shape, dtype=bool)
    for _, of_store in stores.group_by("store_id"):
        by_store, none = _spread(of_store, units)
        told |= by_store
        filled |= by_store & ~none
    empty = told & ~filled
    return np.where(known, out, empty)


def _spread(counts: pl.DataFrame, units: Units) -> tuple[Marks, Marks]:
    """Return whether something is known of each week, and whether nothing was left [series, weeks].

    counts: row, week (−1: before week 0), empty (at any count of the week), last (at its last one).
    """
    state = np.full((len(units), units.shape[1] + 1), -1, dtype=np.int8)
    found = np.zeros(state.shape, dtype=bool)
    place = (counts["row"].to_numpy(), counts["week"].to_numpy() + 1)
    state[place], found[place] = counts["last"].to_numpy(), counts["empty"].to_numpy()
    counted = state >= 0
    newest = np.maximum.accumulate(np.where(counted, np.arange(state.shape[1]), 0), axis=1)
    carried = np.take_along_axis(state, newest, axis=1)
    # What sold without being counted was there again.
    still = (carried == 1)[:, 1:] & (units == 0)
    return (carried >= 0)[:, 1:], np.where(counted[:, 1:], found[:, 1:], still)


def unconstrain(units: Units, out: Marks, *money: Units) -> None:
    """Put what was expected in place of what was sold in censored weeks, in place.

    units, out, money [series, weeks]; money: amounts that go with units, at the usual price.
    """
    for week in np.flatnonzero(out.any(axis=0)):
        if not week:
            continue
        rows, before = np.flatnonzero(out[:, week]), slice(max(0, week - MEMORY_WEEKS), week)
        past = units[rows, before].astype(np.float64)
        sold = units[rows, week].astype(np.float64)
        asked = _at_least(past.mean(axis=1), sold)
        more = (asked - sold) / np.maximum(past.sum(axis=1), 1e-9)
        for amounts in money:
            amounts[rows, week] += more * amounts[rows, before].sum(axis=1, dtype=np.float64)
        units[rows, week] = asked


def _at_least(mean: NDArray[np.float64], sold: NDArray[np.float64]) -> NDArray[np.float64]:
    """E[D | D ≥ sold] of Poisson numbers D: mean · P(D ≥ sold − 1) / P(D ≥ sold)."""
    from scipy.stats import poisson

    reached = poisson.sf(np.ceil(sold) - 1, mean)
    asked = mean * poisson.sf(np.ceil(sold) - 2, mean) / np.maximum(reached, 1e-300)
    return np.asarray(np.where(reached > 1e-12, np.maximum(asked, sold), sold))
