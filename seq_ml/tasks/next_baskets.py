"""The next basket of each user: items in falling order, how many of them, and on which day.

The order is that of the recommendations: a ranker of its own, fitted on what the next basket held,
was no better (F1 at the basket's size −0.0007 ± 0.0017 on Complete Journey), so there is none. The
size is the median of the user's baskets. The day is the median wait of somebody who orders at
random every g days on average, given that an order comes within the horizon at all (a truncated
exponential); chosen on three earlier months, where half the gap lost to everybody's median wait.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from seq_ml.evaluation.bootstrap import mean_estimate

if TYPE_CHECKING:
    from datetime import datetime

    from numpy.typing import NDArray

    from seq_ml.evaluation.bootstrap import Estimate

POSITIONS = 10
"""Items of a basket that are named: of 20 recommendations so many are the best by score alone."""


def next_baskets(
    recommended: pl.DataFrame,
    purchases: pl.DataFrame,
    as_of: datetime,
    *,
    horizon_days: int,
    timezone: str,
) -> pl.DataFrame:
    """Return the next basket of every user with recommendations.

    recommended: user_id, rank, item_id, score, p_purchase, source (schema RECOMMENDATIONS).
    purchases: user_id, item_id, basket, event_time, day. Returns user_id, position (i32), item_id,
    score (f32, falling), p_purchase, in_basket (bool: among the first expected_size), expected_size
    (i32) and expected_date (date, in the business's time zone, if an order comes within the
    horizon), both null without an earlier order, source; sorted by user_id and position.
    """
    expected = expectations(purchases, as_of, horizon_days).with_columns(
        expected_date=(pl.lit(as_of) + pl.duration(seconds=86_400 * pl.col("wait_days")))
        .dt.convert_time_zone(timezone)
        .dt.date()
    )
    return (
        recommended.sort("user_id", "rank")
        .with_columns(position=pl.int_range(1, pl.len() + 1, dtype=pl.Int32).over("user_id"))
        .filter(pl.col("position") <= POSITIONS)
        .join(expected, on="user_id", how="left", maintain_order="left")
        .select(
            "user_id",
            "position",
            "item_id",
            "score",
            "p_purchase",
            in_basket=pl.col("position") <= pl.col("size"),
            expected_size="size",
            expected_date="expected_date",
            source="source",
        )
    )


def expectations(purchases: pl.DataFrame, as_of: datetime, horizon_days: float) -> pl.DataFrame:
    """Return user_id, size (i32, distinct items) and wait_days (f64) of everybody's next basket.

    purchases: as in `next_baskets`; those at or after `as_of` are ignored. The mean gap counts the
    time since the last order too: who has long been silent is not expected within days.
    """
    past = purchases.filter(pl.col("event_time") < as_of)
    sizes = (
        past.group_by("user_id", "basket")
        .agg(size=pl.col("item_id").n_unique())
        .group_by("user_id")
        .agg(pl.col("size").median().round().clip(1).cast(pl.Int32))
    )
    since = (pl.lit(as_of) - pl.col("event_time").min()).dt.total_seconds() / 86_400
    gap, comes = pl.col("gap"), 1 - (-horizon_days / pl.col("gap")).exp()
    return (
        past.group_by("user_id")
        .agg(gap=since / pl.col("day").n_unique())
        .select("user_id", wait_days=-gap * (1 - comes / 2).log())
        .join(sizes, on="user_id")
        .sort("user_id")
    )


# --- judged on the next basket --------------------------------------------------------------------


@dataclass(frozen=True)
class Baskets:
    """How lists met the next basket: means over users who bought again within the horizon."""

    users: int
    quality: dict[str, dict[str, Estimate]]
    """Candidate → precision, recall, f1 at the expected size."""
    lead: dict[str, Estimate]
    """Candidate → F1 of the first candidate minus its own, paired."""
    days_off: dict[str, Estimate]
    """Forecast of the day → mean absolute error, days."""
    items_off: dict[str, Estimate]
    """Forecast of the size → mean absolute error, items."""


def judge_baskets(
    lists: dict[str, pl.DataFrame],
    purchases: pl.DataFrame,
    origin: datetime,
    end: datetime,
    *,
    seed: int,
) -> Baskets | None:
    """Judge ranked lists of items on each user's first basket in [origin, end).

    lists: candidate → user_id, item_id, place (0 = best). purchases: as in `next_baskets`. As many
    items are named as the user is expected to buy, at most `POSITIONS`. The day and the size are
    compared with the median wait and size of everybody in as long a window before. None when nobody
    bought in both.
    """
    expected = expectations(purchases, origin, (end - origin).total_seconds() / 86_400)
    truth = _first_baskets(purchases, origin, end).join(expected, on="user_id")
    earlier = _first_baskets(purchases, origin - (end - origin), origin)
    if not truth.height or not earlier.height:
        return None
    users = truth.select("user_id", "items", k=pl.col("size").clip(1, POSITIONS)).sort("user_id")
    scores = {name: _overlap(found, users) for name, found in lists.items()}
    first = next(iter(scores.values()))
    days, sizes = truth["days"].to_numpy(), truth["items"].list.len().to_numpy()
    usual = earlier["items"].list.len().to_numpy()
    return Baskets(
        users.height,
        {
            name: {metric: mean_estimate(values, seed=seed) for metric, values in found.items()}
            for name, found in scores.items()
        },
        {
            name: mean_estimate(first["f1"] - found["f1"], seed=seed)
            for name, found in scores.items()
        },
        {
            name: mean_estimate(np.abs(days - forecast), seed=seed)
            for name, forecast in (
                ("of the user", truth["wait_days"].to_numpy()),
                ("median of everybody", np.median(earlier["days"].to_numpy())),
            )
        },
        {
            name: mean_estimate(np.abs(sizes - forecast), seed=seed)
            for name, forecast in (
                ("of the user", truth["size"].to_numpy()),
                ("median of everybody", np.median(usual)),
            )
        },
    )


def _first_baskets(purchases: pl.DataFrame, start: datetime, end: datetime) -> pl.DataFrame:
    """First basket of each user in [start, end): user_id, items (list), days (after the start)."""
    inside = purchases.filter(pl.col("event_time").is_between(start, end, closed="left"))
    first = (
        inside.sort("event_time", "basket")
        .unique("user_id", keep="first", maintain_order=True)
        .select(
            "user_id",
            "basket",
            days=(pl.col("event_time") - pl.lit(start)).dt.total_seconds() / 86_400,
        )
    )
    return (
        inside.join(first, on=["user_id", "basket"])
        .group_by("user_id")
        .agg(items=pl.col("item_id").unique().sort(), days=pl.col("days").first())
        .sort("user_id")
    )


def _overlap(found: pl.DataFrame, users: pl.DataFrame) -> dict[str, NDArray[np.float64]]:
    """Precision, recall and F1 of each of the sorted users [n]."""
    hits = (
        found.join(users, on="user_id")
        .filter(pl.col("place") < pl.col("k"))
        .group_by("user_id")
        .agg(hits=pl.col("item_id").is_in(pl.col("items")).sum(), named=pl.len())
    )
    counted = users.join(hits, on="user_id", how="left", maintain_order="left").select(
        pl.col("hits", "named").fill_null(0).cast(pl.Float64),
        size=pl.col("items").list.len().cast(pl.Float64),
    )
    hit, named, size = (counted[name].to_numpy() for name in ("hits", "named", "size"))
    return {
        "precision": hit / np.maximum(named, 1),
        "recall": hit / size,
        "f1": 2 * hit / (named + size),
    }
