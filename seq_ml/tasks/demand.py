"""Weekly demand per item as a dense panel, and the features of a forecast at a week's beginning.

Weeks are business weeks (Monday to Sunday in the business time zone); only complete weeks count.
Everything at an origin is computed from the weeks before it; the promotion plan of the weeks after
it is the one exception, kept in columns of its own (`PLAN_FEATURES`).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

if TYPE_CHECKING:
    from datetime import datetime

    from numpy.typing import NDArray

    from seq_ml.tasks.task import TaskData

MEMORY_WEEKS = 26
"""Weeks before an origin that features look at, and within which an item must have been sold."""
MIN_WEEKS = 13
"""Complete weeks needed before the first origin."""
REGULAR_UNITS_PER_WEEK = 1.0
"""From this mean over the memory on an item is "regular", below it "sparse"."""
QUANTILES = (0.1, 0.5, 0.9, 0.95)

BASE_FEATURES = (
    "log_level",
    "lag_1",
    "lag_2",
    "lag_3",
    "lag_4",
    "ma_4",
    "ma_8",
    "ma_13",
    "ma_26",
    "sd_13",
    "max_13",
    "sold_share_13",
    "sold_share_26",
    "weeks_since_sale",
    "category_trend",
    "total_trend",
    "month_start_days",
    "display_lag_1",
    "display_lag_2",
    "mailer_lag_1",
    "mailer_lag_2",
    "display_13",
    "mailer_13",
    "unpromoted_level",
    "promoted_level",
)
PLAN_FEATURES = (
    "display_plan",
    "mailer_plan",
    "display_plan_1",
    "mailer_plan_1",
    "display_plan_change",
    "mailer_plan_change",
    "plan_level",
)


@dataclass(frozen=True)
class Panel:
    """Units [items, weeks] (f32) of merchandise; display, mailer: share of stores [items, weeks].

    items: sorted ids. weeks: Mondays, those of `units` first, then the following ones up to the
    horizon. planned [weeks]: whether the promotions table has any row of the week. category: code
    per item, −1 when unknown.
    """

    items: pl.Series
    weeks: list[date]
    units: NDArray[np.float32]
    display: NDArray[np.float32]
    mailer: NDArray[np.float32]
    planned: NDArray[np.bool_]
    category: NDArray[np.int64]

    @property
    def n_weeks(self) -> int:
        """Number of complete weeks of demand."""
        return int(self.units.shape[1])


def build_panel(data: TaskData, as_of: datetime, horizon: int) -> Panel:
    """Count the weekly units of every item of merchandise in the complete weeks before `as_of`."""
    zone = data.business.timezone
    day = pl.col("event_time").dt.convert_time_zone(zone).dt.date()
    catalogue = data.items_known(as_of).select("item_id", "category", "is_merchandise")
    other = catalogue.filter(~pl.col("is_merchandise")).select("item_id").lazy()
    purchases = data.events_before(as_of).filter(pl.col("event_type") == "purchase")
    first = purchases.select(day.min()).collect().item()
    last_day = data.business.day_of(as_of)
    stop = last_day - timedelta(days=last_day.weekday())
    start = stop if first is None else first + timedelta(days=-first.weekday() % 7)
    n_weeks = max(0, (stop - start).days // 7)
    weekly = (
        purchases.filter(pl.col("item_id").is_not_null())
        .join(other, on="item_id", how="anti")
        .with_columns(week=(day - pl.lit(start)).dt.total_days().floordiv(7))
        .filter(pl.col("week").is_between(0, n_weeks - 1))
        .group_by("item_id", "week")
        # Whole units add up exactly in f64, in any order.
        .agg(units=pl.col("quantity").fill_null(1.0).sum())
        .collect()
    )
    items = weekly["item_id"].unique().sort()
    weeks = [start + timedelta(weeks=week) for week in range(n_weeks + horizon)]
    position = pl.DataFrame({"item_id": items}).with_row_index("item")
    cells = weekly.join(position, on="item_id")
    units = np.zeros((len(items), n_weeks), dtype=np.float32)
    units[cells["item"].to_numpy(), cells["week"].to_numpy()] = cells["units"].to_numpy()
    codes = position.join(catalogue, on="item_id", how="left", maintain_order="left")["category"]
    category = codes.rank("dense").cast(pl.Int64).fill_null(0).to_numpy() - 1
    display, mailer, planned = _promotions(data.promotions, position, weeks)
    return Panel(items, weeks, units, display, mailer, planned, category)


def _promotions(
    promotions: pl.LazyFrame, position: pl.DataFrame, weeks: list[date]
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_]]:
    """Shares of the week's stores with the item on display, and in the mailer; weeks with rows."""
    display = np.zeros((position.height, len(weeks)), dtype=np.float32)
    mailer = np.zeros_like(display)
    planned = np.zeros(len(weeks), dtype=bool)
    if not weeks:
        return display, mailer, planned
    inside = promotions.filter(pl.col("week_start").is_between(weeks[0], weeks[-1]))
    # Two passes: one plan of both would keep the millions of rows in memory between them.
    stores_by_week = (
        inside.group_by("week_start")
        .agg(stores=pl.col("store_id").n_unique())
        .collect(engine="streaming")
    )
    shares = (
        inside.group_by("item_id", "week_start")
        .agg(display=pl.col("display").count(), mailer=pl.col("mailer").count())
        .collect(engine="streaming")
        .join(stores_by_week, on="week_start")
        .with_columns(week=(pl.col("week_start") - pl.lit(weeks[0])).dt.total_days().floordiv(7))
    )
    planned[shares["week"].unique().to_numpy()] = True
    shares = shares.join(position, on="item_id")
    place = (shares["item"].to_numpy(), shares["week"].to_numpy())
    stores = shares["stores"].to_numpy()
    display[place] = shares["display"].to_numpy() / stores
    mailer[place] = shares["mailer"].to_numpy() / stores
    return display, mailer, planned


def demand_features(
    panel: Panel, week: int, horizon: int, sparse: NDArray[np.bool_] | None = None
) -> pl.DataFrame:
    """Return the features of every item sold in the memory before week number `week`.

    sparse: sparse items that are wanted [items], all when None.

    Columns: item_id, segment, level (units expected over the horizon, the scale of the others),
    `BASE_FEATURES`, `PLAN_FEATURES`, promo_known (the plan has rows of all target weeks), mean_8,
    mean_13, sd_week_13, variance_26 (weekly units), horizon_weeks, sum_q…, sum_mean, sum_variance
    (of the past sums over `horizon` weeks), adi and cv2 (Syntetos and
    Boylan). Sorted by item_id.
    """
    past = panel.units[:, max(0, week - MEMORY_WEEKS) : week].astype(np.float64)
    memory = past.shape[1]
    total = past.sum(axis=1)
    alive = total > 0
    if sparse is not None:
        alive &= sparse | (total >= REGULAR_UNITS_PER_WEEK * memory)
    past = past[alive]

    def mean(weeks: int) -> NDArray[np.float64]:
        return np.asarray(past[:, -weeks:].mean(axis=1))

    level = horizon * (0.5 * mean(8) + 0.5 * mean(MEMORY_WEEKS)) + 0.5
    week_level = level / horizon
    sold = past > 0
    last_sale = memory - 1 - np.argmax(sold[:, ::-1], axis=1)
    columns: dict[str, NDArray[np.float64]] = {"level": level, "log_level": np.log(level)}
    for lag in range(1, 5):
        columns[f"lag_{lag}"] = past[:, -lag] / week_level
    for weeks in (4, 8, 13, MEMORY_WEEKS):
        columns[f"ma_{weeks}"] = mean(weeks) / week_level
    recent = past[:, -13:]
    columns["sd_13"] = recent.std(axis=1) / week_level
    columns["max_13"] = recent.max(axis=1) / week_level
    columns["sold_share_13"] = sold[:, -13:].mean(axis=1)
    columns["sold_share_26"] = sold.mean(axis=1)
    columns["weeks_since_sale"] = (memory - 1 - last_sale).astype(np.float64)

    everything = panel.units[:, max(0, week - 13) : week].sum(axis=0, dtype=np.float64)
    trend = everything[-2:].mean() / max(everything.mean(), 1e-9)
    columns["total_trend"] = np.full(len(past), trend)
    columns["category_trend"] = _category_trend(panel, week)[alive]
    days = [panel.weeks[week] + timedelta(days=d) for d in range(7 * horizon)]
    columns["month_start_days"] = np.full(len(past), sum(day.day <= 7 for day in days), dtype=float)
    columns |= _promotion_features(panel, week, horizon, alive, past, week_level)

    columns["mean_8"], columns["mean_13"] = mean(8), mean(13)
    columns["sd_week_13"] = recent.std(axis=1, ddof=1)
    columns["variance_26"] = past.var(axis=1, ddof=1)
    sums = np.lib.stride_tricks.sliding_window_view(past, horizon, axis=1).sum(axis=2)
    columns["sum_mean"] = sums.mean(axis=1)
    columns["sum_variance"] = sums.var(axis=1, ddof=1)
    columns["horizon_weeks"] = np.full(len(past), horizon, dtype=float)
    for q, values in zip(QUANTILES, np.quantile(sums, QUANTILES, axis=1), strict=True):
        columns[f"sum_q{round(100 * q)}"] = values

    count = sold.sum(axis=1)
    columns["adi"] = memory / count
    positive_mean = past.sum(axis=1) / count
    spread = ((past - positive_mean[:, None]) ** 2 * sold).sum(axis=1) / np.maximum(count - 1, 1)
    columns["cv2"] = spread / positive_mean**2
    regular = mean(MEMORY_WEEKS) >= REGULAR_UNITS_PER_WEEK
    known = bool(panel.planned[week : week + horizon].all())
    return pl.DataFrame({"item_id": panel.items.filter(pl.Series(alive))}).with_columns(
        segment=pl.Series(np.where(regular, "regular", "sparse")),
        promo_known=pl.lit(known),
        **{name: pl.Series(values, dtype=pl.Float32) for name, values in columns.items()},
    )


def _category_trend(panel: Panel, week: int) -> NDArray[np.float64]:
    """Return per item: mean of its category's last two weeks over that of the last 13, smoothed."""
    recent = panel.units[:, max(0, week - 13) : week].astype(np.float64)
    code = panel.category + 1  # 0: unknown
    last = np.bincount(code, weights=recent[:, -2:].mean(axis=1))
    whole = np.bincount(code, weights=recent.mean(axis=1))
    trend = (last + 5) / (whole + 5)
    return np.asarray(trend[code])


def _promotion_features(
    panel: Panel,
    week: int,
    horizon: int,
    alive: NDArray[np.bool_],
    past: NDArray[np.float64],
    week_level: NDArray[np.float64],
) -> dict[str, NDArray[np.float64]]:
    """Past promotions, the item's level with and without, and the plan of the target weeks."""
    memory = past.shape[1]
    columns: dict[str, NDArray[np.float64]] = {}
    shares = {"display": panel.display[alive], "mailer": panel.mailer[alive]}
    for name, share in shares.items():
        before = share[:, week - memory : week].astype(np.float64)
        plan = share[:, week : week + horizon].astype(np.float64)
        columns[f"{name}_lag_1"], columns[f"{name}_lag_2"] = before[:, -1], before[:, -2]
        columns[f"{name}_13"] = before[:, -13:].mean(axis=1)
        columns[f"{name}_plan"] = plan.mean(axis=1)
        columns[f"{name}_plan_1"] = plan[:, 0]
        columns[f"{name}_plan_change"] = columns[f"{name}_plan"] - columns[f"{name}_13"]
    # Level with and without promotion: means weighted by the share, shrunk to the overall mean.
    strength = np.maximum(shares["display"], shares["mailer"]).astype(np.float64)
    promoted, plan = strength[:, week - memory : week], strength[:, week : week + horizon]
    overall = past.mean(axis=1)
    with_it = ((past * promoted).sum(axis=1) + overall) / (promoted.sum(axis=1) + 1)
    without = ((past * (1 - promoted)).sum(axis=1) + overall) / ((1 - promoted).sum(axis=1) + 1)
    share = plan.mean(axis=1)
    columns["promoted_level"] = with_it / week_level
    columns["unpromoted_level"] = without / week_level
    columns["plan_level"] = (share * with_it + (1 - share) * without) / week_level
    return columns
