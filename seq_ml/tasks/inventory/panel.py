"""Weekly demand of items (× stores) as arrays: what every forecast of the inventory reads."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from seq_ml.periods import MEMORY_WEEKS
from seq_ml.tasks.behaviour.visits import merchandise
from seq_ml.tasks.inventory.stock import ALL_STORES
from seq_ml.tasks.inventory.stockouts import censored_weeks, unconstrain
from seq_ml.tasks.task import NotEnoughHistoryError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from numpy.typing import NDArray

    from seq_ml.tasks.data import TaskData

MIN_WEEKS, LEAST_WEEKS = 13, 4
"""Complete weeks before the first origin: so many where the history has them, and the fewest, which
the newest four weeks of the features need."""
REGULAR_UNITS_PER_WEEK = 1.0
"""From this mean over the memory on an item is "regular", below it "sparse"."""
MOST_UNITS = 1e12
"""Units of a series in a week up to which sums, squares and quantiles are numbers."""


@dataclass(frozen=True)
class Panel:
    """Demand of series over weeks, of stock-outs as expected.

    All arrays are f32 [series, weeks] unless said otherwise.

    keys: item_id, store_id, sorted. weeks: first days, those of `units` first, then the following
    ones up to the horizon. spend: paid, discount: taken off, currency units, both 0 where unknown.
    display, mailer: share of stores (over all `weeks`). planned [weeks]: whether the promotions
    table has rows of all its days. category, group [series]: codes, −1 when unknown; a group is
    what has title, brand and category in common. categories: names by code, sorted.
    """

    keys: pl.DataFrame
    weeks: list[date]
    units: NDArray[np.float32]
    spend: NDArray[np.float32]
    discount: NDArray[np.float32]
    display: NDArray[np.float32]
    mailer: NDArray[np.float32]
    planned: NDArray[np.bool_]
    category: NDArray[np.int64]
    group: NDArray[np.int64]
    categories: list[str]

    @property
    def n_weeks(self) -> int:
        """Number of complete weeks of demand."""
        return int(self.units.shape[1])

    def only(self, rows: NDArray[np.bool_]) -> Panel:
        """Return the panel of the series where `rows` [series] is true."""
        arrays = ("units", "spend", "discount", "display", "mailer", "category", "group")
        chosen: dict[str, Any] = {name: getattr(self, name)[rows] for name in arrays}
        return replace(self, keys=self.keys.filter(pl.Series(rows)), **chosen)

    def listed(self, catalogue: pl.DataFrame) -> Panel:
        """Return the panel with the categories and groups of a catalogue, one row per item."""
        text = pl.col("title", "brand", "category").fill_null("")
        named = self.keys.join(
            catalogue.select("item_id", "category", group=pl.concat_str(text, separator="\x1f")),
            on="item_id",
            how="left",
            maintain_order="left",
        )
        category, group = (
            named[name].rank("dense").cast(pl.Int64).fill_null(0).to_numpy() - 1
            for name in ("category", "group")
        )
        names = named["category"].drop_nulls().unique().sort().to_list()
        return replace(self, category=category, group=group, categories=names)


def build_panel(
    data: TaskData, as_of: datetime, horizon: int, *, pairs: pl.DataFrame | None = None
) -> Panel:
    """Count the weekly units of merchandise in the weeks that end with `as_of`, as known then.

    Of weeks that counts of stock say had nothing left, what was asked for is expected.

    pairs: item_id, store_id of the wanted series, else one series per item (store "ALL").
    """
    purchases, start, n_weeks = weekly_purchases(data, as_of)
    by = ["item_id"] if pairs is None else ["item_id", "store_id"]
    if pairs is not None:
        purchases = purchases.join(pairs.lazy(), on=by, how="semi")
    weekly = (
        purchases.group_by(*by, "week")
        # Whole units add up exactly in f64, in any order.
        .agg(pl.col("units", "spend", "discount").sum())
        .collect(engine="streaming")
    )
    _check_countable(weekly, start)
    keys = weekly.select(by).unique().sort(by)
    cells = weekly.join(keys.with_row_index("row"), on=by)
    if pairs is None:
        keys = keys.with_columns(store_id=pl.lit(ALL_STORES))
    weeks = [start + timedelta(weeks=week) for week in range(n_weeks + horizon)]
    place = (cells["row"].to_numpy(), cells["week"].to_numpy())
    units, spend, discount = np.zeros((3, keys.height, n_weeks), dtype=np.float32)
    for array, name in ((units, "units"), (spend, "spend"), (discount, "discount")):
        array[place] = cells[name].to_numpy()
    if not data.stock.is_empty():
        unconstrain(units, censored_weeks(data, as_of, keys, start, units), spend, discount)
    display, mailer, planned = promotion_shares(data, keys, weeks, each_store=pairs is not None)
    unlisted = np.full(keys.height, -1)
    panel = Panel(
        keys, weeks, units, spend, discount, display, mailer, planned, unlisted, unlisted, []
    )
    return panel.listed(data.items_known(as_of))


def _check_countable(weekly: pl.DataFrame, start: date) -> None:
    """Raise NotEnoughHistoryError where a series sold more than can be forecast."""
    if (huge := weekly.filter(pl.col("units") > MOST_UNITS).head(1)).height:
        item, week, units = huge.select("item_id", "week", "units").row(0)
        raise NotEnoughHistoryError(
            f"inventory: item {item} sold {units:.3g} units in the week of "
            f"{start + timedelta(weeks=week):%F}, no forecast counts more than {MOST_UNITS:.0e}: "
            "correct `quantity`, or lower `max_quantity` in the mapping, so that such rows are "
            "quarantined."
        )


def weekly_purchases(data: TaskData, as_of: datetime) -> tuple[pl.LazyFrame, date, int]:
    """Return merchandise bought (item_id, store_id, week, units, spend, discount).

    And the first day of week 0, and the number of complete weeks before `as_of`. Weeks end with
    the day before `as_of`, whatever weekday that is: what was sold since Monday counts as sold, and
    the window of a forecast begins now.
    """
    day = pl.col("event_time").dt.convert_time_zone(data.business.timezone).dt.date()
    events = data.events_before(as_of)
    conversions = events.filter(data.business.of_role("conversion"))
    first = conversions.select(pl.col("event_time").min()).collect().item()
    stop = data.business.day_of(as_of)
    first_day = None if first is None else data.business.day_of(first)
    n_weeks = 0 if first_day is None else (stop - first_day).days // 7
    start = stop - timedelta(weeks=n_weeks)
    units = pl.col("quantity").fill_null(1.0)
    weekly = (
        merchandise(events, data, as_of)
        .select(
            "item_id",
            "store_id",
            week=(day - pl.lit(start)).dt.total_days().floordiv(7),
            units=units,
            spend=(units * pl.col("unit_price")).fill_null(0.0),
            discount=pl.col("discount").fill_null(0.0),
        )
        .filter(pl.col("week").is_between(0, n_weeks - 1))
    )
    return weekly, start, n_weeks


def weeks_before(n_weeks: int, horizon: int) -> int:
    """Return the complete weeks before the first origin, of `n_weeks` in all.

    A young shop has fewer than `MIN_WEEKS`, so that three horizons remain to fit, choose and judge.
    """
    return max(LEAST_WEEKS, horizon + 1, min(MIN_WEEKS, n_weeks - 3 * horizon))


def regular(panel: Panel, week: int) -> NDArray[np.bool_]:
    """Return which series sold at least `REGULAR_UNITS_PER_WEEK` in the memory before a week."""
    past = panel.units[:, max(0, week - MEMORY_WEEKS) : week]
    return np.asarray(past.mean(axis=1, dtype=np.float64) >= REGULAR_UNITS_PER_WEEK)


def promotion_shares(
    data: TaskData, keys: pl.DataFrame, weeks: list[date], *, each_store: bool
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_]]:
    """Shares of the week's stores with the item on display, and in the mailer; planned weeks.

    keys: item_id, store_id. weeks: first days, at least one. each_store: the shares are of that
    store alone (0 or 1). Of a week that two weeks of the plan share each counts by its days.
    """
    display = np.zeros((keys.height, len(weeks)), dtype=np.float32)
    mailer = np.zeros_like(display)
    days = timedelta(days=6)
    inside = pl.col("week_start").is_between(weeks[0] - days, weeks[-1] + days)
    stores_by_week = data.plan("stores by week", _stores_by_week).filter(inside)
    if each_store:
        stores_by_week = stores_by_week.with_columns(stores=1)
        wanted = pl.col("item_id").is_in(keys["item_id"].unique().implode())
        promoted = _promoted(data.promotions.filter(wanted), "store_id")
    else:
        promoted = data.plan("items by week", _promoted)
    by = ["item_id", "store_id"] if each_store else ["item_id"]
    shares = (
        promoted.filter(inside)
        .join(keys.select(*by).with_row_index("row"), on=by)
        .join(stores_by_week, on="week_start")
    )
    covered = np.zeros(len(weeks))
    for at, place, part in _overlaps(stores_by_week["week_start"], weeks):
        np.add.at(covered, place, part[at])
    for at, place, part in _overlaps(shares["week_start"], weeks):
        cells = (shares["row"].to_numpy()[at], place)
        for share, name in ((display, "display"), (mailer, "mailer")):
            # A store with two displays of an item has two rows.
            of_stores = (shares[name] / shares["stores"]).clip(upper_bound=1.0).to_numpy()
            np.add.at(share, cells, (of_stores * part)[at])
    return display, mailer, covered > 1 - 1e-9


def _stores_by_week(promotions: pl.LazyFrame) -> pl.DataFrame:
    """Count the stores of each week_start."""
    pairs = promotions.select("week_start", "store_id").unique()
    return pairs.group_by("week_start").agg(stores=pl.len()).collect(engine="streaming")


def _promoted(promotions: pl.LazyFrame, *by: str) -> pl.DataFrame:
    """Count the rows with a display, and with a mailer, by item_id, week_start and more."""
    return (
        promotions.group_by("item_id", *by, "week_start")
        .agg(pl.col("display", "mailer").count())
        .collect(engine="streaming")
    )


def _overlaps(
    week_start: pl.Series, weeks: list[date]
) -> Iterator[tuple[NDArray[np.bool_], NDArray[np.int64], NDArray[np.float64]]]:
    """Yield which weeks of a plan reach into `weeks`, into which one, and with how much of it.

    The share is of all rows. At most two lie in one week of the plan.
    """
    after = (week_start - weeks[0]).dt.total_days().to_numpy()
    first, into = after // 7, after % 7 / 7
    for place, part in ((first, 1 - into), (first + 1, into)):
        at = (part > 0) & (place >= 0) & (place < len(weeks))
        yield at, place[at], part
