"""Forecasts over another time than the judged one: what an item with its own lead time must last.

Such a series is forecast over its own whole weeks: its season, its plan and its past sums are those
of these weeks. How far off the forecast is was judged over one horizon only. A level that is known
as well as the mean of n weeks is off by σ²h(1 + h/n) over h weeks: demand itself adds up like time,
but an error of the level is made again in every week (Prak, Teunter and Syntetos 2017, "On the
calculation of safety stocks when demand is forecasted"). n is what the past errors of the series'
own levels say, over one week and over many.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from seq_ml.periods import MEMORY_WEEKS
from seq_ml.tasks.inventory.panel import LEAST_WEEKS
from seq_ml.tasks.inventory.stock import days_covered

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from numpy.typing import NDArray

    from seq_ml.tasks.data import TaskData
    from seq_ml.tasks.inventory.panel import Panel

    Array = NDArray[np.float64]


@dataclass(frozen=True)
class OwnHorizons:
    """What the rows of series with a lead time of their own are made of.

    examples: as those of the judged horizon, `horizon_weeks` is their own. level_weeks: n above.
    """

    examples: pl.DataFrame
    level_weeks: float


def own_weeks(data: TaskData, as_of: datetime, horizon: int) -> pl.DataFrame:
    """Return item_id, store_id and weeks (whole) of the series that are not ordered for `horizon`.

    At most as many as a forecast can look back on and see two spans.
    """
    weeks = (pl.col("days") / 7).ceil().cast(pl.Int64).clip(1, MEMORY_WEEKS - 1)
    own = days_covered(data, as_of).select("item_id", "store_id", weeks=weeks)
    return own.filter(pl.col("weeks") != horizon)


def wanted_at(
    own: pl.DataFrame, panel: Panel, wanted: NDArray[np.bool_] | None
) -> Iterator[tuple[int, NDArray[np.bool_]]]:
    """Yield each own horizon, and which series of the panel it is of [series]."""
    on = ["item_id", "store_id"]
    weeks = panel.keys.join(own, on=on, how="left", maintain_order="left")["weeks"]
    weeks = weeks.clip(upper_bound=panel.n_weeks - 1)  # of a young shop
    for horizon in weeks.drop_nulls().unique().sort():
        of = (weeks == horizon).fill_null(value=False).to_numpy()
        yield horizon, of if wanted is None else of & wanted


def level_weeks(panel: Panel, week: int, horizon: int) -> float:
    """Return the weeks n that the level of a series is as good as the mean of, 1 to the memory.

    Of levels forecast over one and over `horizon` weeks (fewer in a young shop) at origins that far
    apart: the second errors are R times the first ones, and R (1 + 1/n) = h (1 + h/n). Errors are
    measured by what a Poisson demand of the level would be off.
    """
    ahead = min(horizon, week - LEAST_WEEKS)
    if ahead < 2:
        return float(MEMORY_WEEKS)
    near = far = 0.0
    for origin in range(week - ahead, LEAST_WEEKS - 1, -ahead):
        past = panel.units[:, max(0, origin - MEMORY_WEEKS) : origin].astype(np.float64)
        level = 0.5 * past[:, -8:].mean(axis=1) + 0.5 * past.mean(axis=1)
        sold = panel.units[:, origin : origin + ahead].astype(np.float64)
        alive = level > 0
        level, sold = level[alive], sold[alive]
        near += float((((sold - level[:, None]) ** 2).mean(axis=1) / level).sum())
        far += float(((sold.sum(axis=1) - ahead * level) ** 2 / level).sum())
    if far <= ahead * near:
        return float(MEMORY_WEEKS)
    ratio = far / near
    return float(np.clip((ahead**2 - ratio) / (ratio - ahead), 1, MEMORY_WEEKS))
