"""Weekly demand per series as a dense panel, and the features of a forecast at a week's beginning.

A series is an item, an item in one store, or a category. Weeks are business weeks (Monday to Sunday
in the business time zone); only complete weeks count. Everything at an origin is computed from the
weeks before it; the promotion plan of the target weeks is the one exception, kept in columns of its
own (`PLAN_FEATURES`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import date, timedelta
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from seq_ml.tasks.promotion_plan import promotion_features, promotion_shares

if TYPE_CHECKING:
    from datetime import datetime

    from numpy.typing import NDArray

    from seq_ml.tasks.task import TaskData

MEMORY_WEEKS = 26
"""Weeks before an origin that features look at, and within which an item must have been sold."""
YEAR_WEEKS = 52
"""Weeks from a week to the same week of the next year."""
MIN_WEEKS = 13
"""Complete weeks needed before the first origin."""
REGULAR_UNITS_PER_WEEK = 1.0
"""From this mean over the memory on an item is "regular", below it "sparse"."""
QUANTILES = (0.1, 0.5, 0.9, 0.95)
ALL_STORES = "ALL"
SIZES = (0.5, 0.8)
"""Shares of the units up to which series, the largest first, are head and mid."""
PROMOTED_SHARE = 0.25
"""From this share of stores on display or in the mailer on, a target week counts as promoted."""
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
    "min_13",
    "median_13",
    "sold_share_13",
    "sold_share_26",
    "weeks_since_sale",
    "last_year",
    "category_trend",
    "total_trend",
    "month_start_days",
    "log_price",
    "discount_lag_1",
    "discount_lag_2",
    "discount_13",
    "discount_promoted",
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
    "similar_weeks",
    "similar_level",
    "group_similar_level",
    "category_similar_level",
)


@dataclass(frozen=True)
class Panel:
    """Demand of series over weeks; all arrays f32 [series, weeks] unless said otherwise.

    keys: item_id, store_id, sorted. weeks: Mondays, those of `units` first, then the following ones
    up to the horizon. spend: paid, discount: taken off, currency units, both 0 where unknown.
    display, mailer: share of stores (over all `weeks`). planned [weeks]: whether the promotions
    table has any row of the week. category, group [series]: codes, −1 when unknown; a group is what
    has title, brand and category in common. categories: names by code, sorted.
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
        return Panel(
            self.keys.filter(pl.Series(rows)),
            self.weeks,
            self.units[rows],
            self.spend[rows],
            self.discount[rows],
            self.display[rows],
            self.mailer[rows],
            self.planned,
            self.category[rows],
            self.group[rows],
            self.categories,
        )

    def listed(self, catalogue: pl.DataFrame) -> Panel:
        """Return the panel with the categories and groups of a catalogue, one row per item."""
        text = pl.col("title", "brand", "category").fill_null("")
        found = self.keys.join(
            catalogue.select("item_id", "category", group=pl.concat_str(text, separator="\x1f")),
            on="item_id",
            how="left",
            maintain_order="left",
        )
        category, group = (
            found[name].rank("dense").cast(pl.Int64).fill_null(0).to_numpy() - 1
            for name in ("category", "group")
        )
        names = found["category"].drop_nulls().unique().sort().to_list()
        return replace(self, category=category, group=group, categories=names)


def build_panel(
    data: TaskData, as_of: datetime, horizon: int, *, pairs: pl.DataFrame | None = None
) -> Panel:
    """Count the weekly units of merchandise in the complete weeks before `as_of`, as known then.

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
        .sort(*by, "week")
        .collect()
    )
    if pairs is None:
        weekly = weekly.with_columns(store_id=pl.lit(ALL_STORES))
    keys = weekly.select("item_id", "store_id").unique().sort("item_id", "store_id")
    weeks = [start + timedelta(weeks=week) for week in range(n_weeks + horizon)]
    cells = weekly.join(keys.with_row_index("row"), on=["item_id", "store_id"])
    place = (cells["row"].to_numpy(), cells["week"].to_numpy())
    units, spend, discount = np.zeros((3, keys.height, n_weeks), dtype=np.float32)
    for array, name in ((units, "units"), (spend, "spend"), (discount, "discount")):
        array[place] = cells[name].to_numpy()
    display, mailer, planned = promotion_shares(
        data.promotions, keys, weeks, each_store=pairs is not None
    )
    unlisted = np.full(keys.height, -1)
    panel = Panel(
        keys, weeks, units, spend, discount, display, mailer, planned, unlisted, unlisted, []
    )
    return panel.listed(data.items_known(as_of))


def weekly_purchases(data: TaskData, as_of: datetime) -> tuple[pl.LazyFrame, date, int]:
    """Return merchandise bought (item_id, store_id, week, units, spend, discount).

    And the Monday of week 0, and the number of complete weeks before `as_of`.
    """
    day = pl.col("event_time").dt.convert_time_zone(data.business.timezone).dt.date()
    other = data.items_known(as_of).filter(~pl.col("is_merchandise")).select("item_id").lazy()
    purchases = data.events_before(as_of).filter(pl.col("event_type") == "purchase")
    first = purchases.select(pl.col("event_time").min()).collect().item()
    last_day = data.business.day_of(as_of)
    stop = last_day - timedelta(days=last_day.weekday())
    first_day = None if first is None else data.business.day_of(first)
    start = stop if first_day is None else first_day + timedelta(days=-first_day.weekday() % 7)
    n_weeks = max(0, (stop - start).days // 7)
    units = pl.col("quantity").fill_null(1.0)
    weekly = (
        purchases.filter(pl.col("item_id").is_not_null())
        .join(other, on="item_id", how="anti")
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


def regular(panel: Panel, week: int) -> NDArray[np.bool_]:
    """Return which series sold at least `REGULAR_UNITS_PER_WEEK` in the memory before a week."""
    past = panel.units[:, max(0, week - MEMORY_WEEKS) : week]
    return np.asarray(past.mean(axis=1, dtype=np.float64) >= REGULAR_UNITS_PER_WEEK)


def demand_features(
    panel: Panel,
    week: int,
    horizon: int,
    wanted: NDArray[np.bool_] | None = None,
    *,
    gap: int = 0,
) -> pl.DataFrame:
    """Return the features of every series sold in the memory before week number `week`.

    wanted: series that get a row [series], all when None; what series have in common is always of
    all. gap: weeks between the origin and the first of the `horizon` target weeks.

    Columns: item_id, store_id, segment, scale (units expected over the horizon: trees predict
    demand over it), `BASE_FEATURES`, `PLAN_FEATURES`, promo_known (the plan has rows of all target
    weeks), promoted (the plan promotes it in a quarter of the stores or more), size, mean_8,
    mean_13, sd_week_13, variance_26 (weekly units), horizon_weeks, history (weekly units of the
    memory, oldest first, Array), memory_weeks (how many of them there are), sum_q…, sum_mean,
    sum_variance (of the past sums over `horizon` weeks), adi and cv2 (Syntetos and Boylan). In the
    order of `panel.keys`.
    """
    past = panel.units[:, max(0, week - MEMORY_WEEKS) : week].astype(np.float64)
    memory = past.shape[1]
    total = past.sum(axis=1)
    sold_at_all = panel.only(total > 0)
    alive = total > 0
    if wanted is not None:
        alive &= wanted
    among_sold = alive[total > 0]
    past, everyone, panel = past[alive], panel, panel.only(alive)

    def mean(weeks: int) -> NDArray[np.float64]:
        return np.asarray(past[:, -weeks:].mean(axis=1))

    scale = horizon * (0.5 * mean(8) + 0.5 * mean(MEMORY_WEEKS)) + 0.5
    week_scale = scale / horizon
    sold = past > 0
    last_sale = memory - 1 - np.argmax(sold[:, ::-1], axis=1)
    columns: dict[str, NDArray[np.float64]] = {"scale": scale, "log_level": np.log(scale)}
    for lag in range(1, 5):
        columns[f"lag_{lag}"] = past[:, -lag] / week_scale
    for weeks in (4, 8, 13, MEMORY_WEEKS):
        columns[f"ma_{weeks}"] = mean(weeks) / week_scale
    recent = past[:, -13:]
    columns["sd_13"] = recent.std(axis=1) / week_scale
    columns["max_13"] = recent.max(axis=1) / week_scale
    columns["min_13"] = recent.min(axis=1) / week_scale
    columns["median_13"] = np.median(recent, axis=1) / week_scale
    columns["sold_share_13"] = sold[:, -13:].mean(axis=1)
    columns["sold_share_26"] = sold.mean(axis=1)
    columns["weeks_since_sale"] = (memory - 1 - last_sale).astype(np.float64)

    columns["last_year"] = _last_year(panel, week + gap, horizon) / scale

    everything = everyone.units[:, max(0, week - 13) : week].sum(axis=0, dtype=np.float64)
    trend = everything[-2:].mean() / max(everything.mean(), 1e-9)
    columns["total_trend"] = np.full(len(past), trend)
    columns["category_trend"] = _category_trend(everyone, week)[alive]
    days = [panel.weeks[week + gap] + timedelta(days=d) for d in range(7 * horizon)]
    columns["month_start_days"] = np.full(len(past), sum(day.day <= 7 for day in days), dtype=float)
    columns |= _price_features(panel, week, past)
    promotions = promotion_features(sold_at_all, week, horizon, memory, gap=gap)
    columns |= {
        name: values[among_sold] / (week_scale if name.endswith("_level") else 1)
        for name, values in promotions.items()
    }

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
    known = bool(panel.planned[week + gap : week + gap + horizon].all())
    plan = np.maximum(columns["display_plan"], columns["mailer_plan"])
    history = np.zeros((len(past), MEMORY_WEEKS), dtype=np.float32)
    history[:, MEMORY_WEEKS - memory :] = past
    return panel.keys.with_columns(
        segment=pl.Series(np.where(regular(panel, week), "regular", "sparse"), dtype=pl.String),
        promo_known=pl.lit(known),
        promoted=pl.Series(plan >= PROMOTED_SHARE) & known,
        size=_size(total[total > 0]).filter(pl.Series(among_sold)),
        history=pl.Series(history, dtype=pl.Array(pl.Float32, MEMORY_WEEKS)),
        memory_weeks=pl.lit(memory, dtype=pl.Int32),
        **{name: pl.Series(values, dtype=pl.Float32) for name, values in columns.items()},
    )


def _last_year(panel: Panel, target: int, horizon: int) -> NDArray[np.float64]:
    """Units of the target weeks a year before; NaN where the series had not been sold by then."""
    first = target - YEAR_WEEKS
    if first < 0:
        return np.full(len(panel.units), np.nan)
    units = panel.units[:, : first + horizon].astype(np.float64)
    return np.where(units.any(axis=1), units[:, first:].sum(axis=1), np.nan)


def _size(total: NDArray[np.float64]) -> pl.Series:
    """Head, mid or tail: the largest series with the first half of all units, up to 80 %, rest."""
    order = np.argsort(-total, kind="stable")
    before = np.empty(len(total))
    before[order] = np.cumsum(total[order]) - total[order]
    names = np.array(["head", "mid", "tail"])
    return pl.Series(names[np.digitize(before, np.array(SIZES) * total.sum())], dtype=pl.String)


def _price_features(
    panel: Panel, week: int, past: NDArray[np.float64]
) -> dict[str, NDArray[np.float64]]:
    """List price (log), and the share of it that was taken off; NaN where no price is known."""
    memory = past.shape[1]
    spend, off = (
        a[:, week - memory : week].astype(np.float64) for a in (panel.spend, panel.discount)
    )
    promoted = np.maximum(panel.display, panel.mailer)[:, week - memory : week]

    def share(part: NDArray[np.float64], whole: NDArray[np.float64]) -> NDArray[np.float64]:
        ratio = np.full(len(part), np.nan)
        np.divide(part, whole, out=ratio, where=whole > 0)
        return ratio

    def off_share(weeks: slice) -> NDArray[np.float64]:
        return share(off[:, weeks].sum(axis=1), (spend + off)[:, weeks].sum(axis=1))

    price = share((spend + off).sum(axis=1), past.sum(axis=1))
    return {
        "log_price": np.log(np.where(price > 0, price, np.nan)),
        "discount_lag_1": off_share(slice(-1, None)),
        "discount_lag_2": off_share(slice(-2, -1)),
        "discount_13": off_share(slice(-13, None)),
        "discount_promoted": share(
            (off * promoted).sum(axis=1), ((spend + off) * promoted).sum(axis=1)
        ),
    }


def _category_trend(panel: Panel, week: int) -> NDArray[np.float64]:
    """Return per item: mean of its category's last two weeks over that of the last 13, smoothed."""
    recent = panel.units[:, max(0, week - 13) : week].astype(np.float64)
    code = panel.category + 1  # 0: unknown
    last = np.bincount(code, weights=recent[:, -2:].mean(axis=1))
    whole = np.bincount(code, weights=recent.mean(axis=1))
    trend = (last + 5) / (whole + 5)
    return np.asarray(trend[code])
