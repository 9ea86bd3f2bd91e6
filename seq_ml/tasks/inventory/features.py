"""Features of a forecast of demand at a week's beginning, from the weeks before it.

A series is an item, an item in one store, or a category. Weeks end with the day before `as_of`, in
the business time zone; only complete weeks count. Everything at an origin is computed from the
weeks before it; the promotion plan of the target weeks is the one exception, kept in columns of its
own (`PLAN_FEATURES`).
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from seq_ml.periods import MEMORY_WEEKS
from seq_ml.tasks.inventory.panel import Panel, regular
from seq_ml.tasks.inventory.promotions import promotion_features

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

YEAR_WEEKS = 52
"""Weeks from a week to the same week of the next year."""
QUANTILES = (0.1, 0.5, 0.9, 0.95)
SIZES = (0.5, 0.8)
"""Shares of the units up to which series, the largest first, are head and mid."""
PROMOTED_SHARE = 0.25
"""From this share of stores on display or in the mailer on, a target week counts as promoted."""
BASE_FEATURES = (
    "log_level",
    *(f"lag_{lag}" for lag in range(1, 5)),
    *(f"ma_{weeks}" for weeks in (4, 8, 13, MEMORY_WEEKS)),
    *(f"{name}_13" for name in ("sd", "max", "min", "median")),
    "sold_share_13",
    "sold_share_26",
    "weeks_since_sale",
    "last_year",
    "category_trend",
    "total_trend",
    "month_start_days",
    "log_price",
    *(f"discount_{when}" for when in ("lag_1", "lag_2", "13", "promoted")),
    *(f"{name}_lag_{lag}" for name in ("display", "mailer") for lag in (1, 2)),
    "display_13",
    "mailer_13",
    "unpromoted_level",
    "promoted_level",
)
PLAN_FEATURES = (
    *(f"{name}_{of}" for of in ("plan", "plan_1", "plan_change") for name in ("display", "mailer")),
    "plan_level",
    "similar_weeks",
    "similar_level",
    "group_similar_level",
    "category_similar_level",
)


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
    # Of what did not sell in the memory nothing is expected. What series have in common is counted
    # over all that sold, wanted or not: a sample gets the features that it has in the whole.
    sold_at_all = panel.only(total > 0)
    alive = total > 0
    if wanted is not None:
        alive &= wanted
    among_sold = alive[total > 0]
    past, everyone, panel = past[alive], panel, panel.only(alive)

    # Half the newest weeks and half all: quick to follow, slow to forget. Half a unit more keeps
    # the ratios of rare sellers finite.
    scale = horizon * (0.5 * _mean(past, 8) + 0.5 * _mean(past, MEMORY_WEEKS)) + 0.5
    week_scale = scale / horizon
    columns = {"scale": scale, "log_level": np.log(scale), **_own_weeks(past, week_scale)}
    columns["last_year"] = _last_year(panel, week + gap, horizon) / scale

    # What moves everything, or the category, is told apart from what moves the series alone.
    everything = everyone.units[:, max(0, week - 13) : week].sum(axis=0, dtype=np.float64)
    trend = everything[-2:].mean() / max(everything.mean(), 1e-9)
    columns["total_trend"] = np.full(len(past), trend)
    columns["category_trend"] = _category_trend(everyone, week)[alive]
    # Shopping goes with the calendar month: target days in the first week of one.
    days = [panel.weeks[week + gap] + timedelta(days=d) for d in range(7 * horizon)]
    columns["month_start_days"] = np.full(len(past), sum(day.day <= 7 for day in days), dtype=float)

    columns |= _price_features(panel, week, past)
    promotions = promotion_features(sold_at_all, week, horizon, memory, gap=gap)
    columns |= {
        name: values[among_sold] / (week_scale if name.endswith("_level") else 1)
        for name, values in promotions.items()
    }
    columns |= _past_sums(past, horizon) | _intermittence(past)

    # A plan of some of the target weeks only would read as "not promoted" in the others.
    planned = bool(panel.planned[week + gap : week + gap + horizon].all())
    plan = np.maximum(columns["display_plan"], columns["mailer_plan"])
    # A history shorter than the memory begins with empty weeks; `memory_weeks` says how many.
    history = np.zeros((len(past), MEMORY_WEEKS), dtype=np.float32)
    history[:, MEMORY_WEEKS - memory :] = past
    return panel.keys.with_columns(
        segment=pl.Series(np.where(regular(panel, week), "regular", "sparse"), dtype=pl.String),
        promo_known=pl.lit(planned),
        promoted=pl.Series(plan >= PROMOTED_SHARE) & planned,
        size=_size(total[total > 0]).filter(pl.Series(among_sold)),
        history=pl.Series(history, dtype=pl.Array(pl.Float32, MEMORY_WEEKS)),
        memory_weeks=pl.lit(memory, dtype=pl.Int32),
        **{name: pl.Series(values, dtype=pl.Float32) for name, values in columns.items()},
    )


def _mean(past: Array, weeks: int) -> Array:
    return np.asarray(past[:, -weeks:].mean(axis=1))


def _own_weeks(past: Array, week_scale: Array) -> dict[str, Array]:
    """Level, spread and gaps of the series' own weeks, units over `week_scale`."""
    recent, sold = past[:, -13:], past > 0
    columns = {f"lag_{lag}": past[:, -lag] / week_scale for lag in range(1, 5)}
    for weeks in (4, 8, 13, MEMORY_WEEKS):
        columns[f"ma_{weeks}"] = _mean(past, weeks) / week_scale
    for name, of in (("sd", np.std), ("max", np.max), ("min", np.min), ("median", np.median)):
        columns[f"{name}_13"] = of(recent, axis=1) / week_scale
    columns["sold_share_13"] = sold[:, -13:].mean(axis=1)
    columns["sold_share_26"] = sold.mean(axis=1)
    columns["weeks_since_sale"] = np.argmax(sold[:, ::-1], axis=1).astype(np.float64)
    return columns


def _past_sums(past: Array, horizon: int) -> dict[str, Array]:
    """Weekly means, and past sums over as many weeks: what the baselines forecast from."""
    columns = {"mean_8": _mean(past, 8), "mean_13": _mean(past, 13)}
    columns["sd_week_13"] = past[:, -13:].std(axis=1, ddof=1)
    columns["variance_26"] = past.var(axis=1, ddof=1)
    sums = np.lib.stride_tricks.sliding_window_view(past, horizon, axis=1).sum(axis=2)
    columns["sum_mean"] = sums.mean(axis=1)
    columns["sum_variance"] = sums.var(axis=1, ddof=1)
    columns["horizon_weeks"] = np.full(len(past), horizon, dtype=float)
    for q, values in zip(QUANTILES, np.quantile(sums, QUANTILES, axis=1), strict=True):
        columns[f"sum_q{round(100 * q)}"] = values
    return columns


def _intermittence(past: Array) -> dict[str, Array]:
    """Weeks between sales, and how unequal the sales are: variance over mean², of weeks that sold.

    Of a single week with a sale nothing is known about that: 0.
    """
    sold = past > 0
    count = sold.sum(axis=1)
    mean = past.sum(axis=1) / count
    spread = ((past - mean[:, None]) ** 2 * sold).sum(axis=1) / np.maximum(count - 1, 1)
    return {"adi": past.shape[1] / count, "cv2": spread / mean**2}


def _last_year(panel: Panel, target: int, horizon: int) -> Array:
    """Units of the target weeks a year before; NaN where the series had not been sold by then."""
    first = target - YEAR_WEEKS
    if first < 0:
        return np.full(len(panel.units), np.nan)
    units = panel.units[:, : first + horizon].astype(np.float64)
    return np.where(units.any(axis=1), units[:, first:].sum(axis=1), np.nan)


def _size(total: Array) -> pl.Series:
    """Head, mid or tail: the largest series with the first half of all units, up to 80 %, rest."""
    order = np.argsort(-total, kind="stable")
    before = np.empty(len(total))
    before[order] = np.cumsum(total[order]) - total[order]
    names = np.array(["head", "mid", "tail"])
    return pl.Series(names[np.digitize(before, np.array(SIZES) * total.sum())], dtype=pl.String)


def _price_features(panel: Panel, week: int, past: Array) -> dict[str, Array]:
    """List price (log), and the share of it that was taken off; NaN where no price is known."""
    memory = past.shape[1]
    spend, off = (
        a[:, week - memory : week].astype(np.float64) for a in (panel.spend, panel.discount)
    )
    promoted = np.maximum(panel.display, panel.mailer)[:, week - memory : week]

    def share(part: Array, whole: Array) -> Array:
        ratio = np.full(len(part), np.nan)
        np.divide(part, whole, out=ratio, where=whole > 0)
        return ratio

    def off_share(weeks: slice) -> Array:
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


def _category_trend(panel: Panel, week: int) -> Array:
    """Return per item: mean of its category's last two weeks over that of the last 13, smoothed."""
    recent = panel.units[:, max(0, week - 13) : week].astype(np.float64)
    code = panel.category + 1  # 0: unknown
    last = np.bincount(code, weights=recent[:, -2:].mean(axis=1))
    whole = np.bincount(code, weights=recent.mean(axis=1))
    trend = (last + 5) / (whole + 5)
    return np.asarray(trend[code])
