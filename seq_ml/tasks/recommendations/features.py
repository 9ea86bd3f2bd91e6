"""How items sell, how users shop and how they buy a category, strictly from before an origin.

Plain counts, the features of the recommendations that no scorer gives.
"""

from __future__ import annotations

from math import log
from typing import TYPE_CHECKING

import polars as pl

from seq_ml.metrics.shrinkage import drawn
from seq_ml.periods import RECENT_DAYS
from seq_ml.tasks.recommendations.scorers import HALF_LIVES, LONGEST, days_before

if TYPE_CHECKING:
    from datetime import datetime

    from seq_ml.tasks.recommendations.scorers import History

AGAIN_PRIOR = 5
"""Owners of average habits that an item's share of purchases again is smoothed with."""

ITEM_FEATURES = (
    "item_buyers_7",
    "item_buyers_28",
    "item_buyers_all",
    "item_trend",
    "item_trend_7",
    "item_repeat_rate",
    "item_bought_again",
    "item_per_buyer",
    "item_interval",
    "item_new_buyers",
    "item_new_share",
    "item_age_days",
)
USER_FEATURES = (
    "user_days",
    "user_days_28",
    "user_last_days",
    "user_items",
    "user_items_per_day",
    "user_repeat_share",
)
CATEGORY_FEATURES = ("category_decayed", "category_last_days", "category_share", "category_due")


COUNTS = (
    "buyers_7",
    "buyers_28",
    "buyers_112",
    "buyers",
    "repeaters",
    "owners",
    "again",
    "count",
    "interval",
    "intervals",
    "new_buyers",
)
ADDED = {"age": pl.col("age").max(), **{name: pl.col(name).sum() for name in COUNTS}}
"""How the numbers of `item_counts` of different users add up."""


def item_counts(purchases: pl.DataFrame, history: History, origin: datetime) -> pl.DataFrame:
    """Count how each item sells to the users of a history: item_id, age (days), `COUNTS`.

    purchases: theirs. What each number is of: buyers of so many days and of all time, buyers who
    bought it again, owners who came again since (of whom so many bought it again), purchases, known
    intervals and their sum, new buyers.
    """
    windows = {f"buyers_{days}": days for days in (7, RECENT_DAYS, 4 * RECENT_DAYS)}
    age, buyer = pl.col("age"), pl.col("user_id")
    sold = (
        purchases.filter(pl.col("event_time") < origin)
        .with_columns(age=days_before(origin))
        .group_by("item_id")
        .agg(
            age.max(),
            **{
                name: buyer.filter(age <= days).n_unique().cast(pl.Int64)
                for name, days in windows.items()
            },
        )
    )
    pairs = history.pairs.with_columns(
        # Who had it before, and came again since: the habit as it is now, not over all time.
        owner=(pl.col("own_first_days") > RECENT_DAYS)
        & (pl.col("own_last_days").min().over("user") <= RECENT_DAYS),
        recent=pl.col("own_last_days") <= RECENT_DAYS,
    )
    interval = pl.col("own_interval").cast(pl.Float64)
    bought = pairs.group_by("item", maintain_order=True).agg(
        buyers=pl.len().cast(pl.Int64),
        repeaters=(pl.col("own_count") > 1).sum().cast(pl.Int64),
        owners=pl.col("owner").sum().cast(pl.Int64),
        again=(pl.col("owner") & pl.col("recent")).sum().cast(pl.Int64),
        count=pl.col("own_count").cast(pl.Float64).sum(),
        interval=interval.sum(),
        intervals=interval.count().cast(pl.Int64),
        new_buyers=(pl.col("own_first_days") <= RECENT_DAYS).sum().cast(pl.Int64),
    )
    items = pl.DataFrame({"item_id": history.items}, schema={"item_id": pl.String})
    items = items.with_row_index("item")
    return bought.join(items, on="item").join(sold, on="item_id").drop("item")


def item_features(counts: pl.DataFrame, items: list[str], catalogue: pl.DataFrame) -> pl.DataFrame:
    """Return item (position), item_id, category and the item features, one row per item.

    counts: of `item_counts`, of everybody. items: the ids in the order of the positions.
    """
    usual = counts.select(pl.col("again").sum() / pl.col("owners").sum().clip(1)).item()
    return (
        pl.DataFrame({"item_id": items}, schema={"item_id": pl.String})
        .with_row_index("item")
        .join(counts, on="item_id", how="left")
        .join(catalogue.select("item_id", "category"), on="item_id", how="left")
        .with_columns(
            item_age_days="age",
            item_buyers_7=pl.col("buyers_7").cast(pl.Float32),
            item_buyers_28=pl.col("buyers_28").cast(pl.Float32),
            item_buyers_all=pl.col("buyers").cast(pl.Float32),
            item_repeat_rate=(pl.col("repeaters") / pl.col("buyers")).cast(pl.Float32),
            item_bought_again=drawn(pl.col("again"), pl.col("owners"), usual, AGAIN_PRIOR),
            item_per_buyer=pl.col("count") / pl.col("buyers"),
            item_interval=pl.when(pl.col("intervals") > 0).then(
                pl.col("interval") / pl.col("intervals")
            ),
            item_new_buyers=pl.col("new_buyers").cast(pl.Float32),
        )
        .with_columns(
            item_trend=(pl.col("item_buyers_28") + 1)
            / (pl.col("buyers_112").cast(pl.Float32) / 4 + 1),
            item_trend_7=(pl.col("item_buyers_7") + 1) / (pl.col("item_buyers_28") / 4 + 1),
            item_new_share=pl.col("item_new_buyers") / (pl.col("item_buyers_28") + 1),
        )
        .drop("age", *COUNTS)
        .sort("item")
    )


def user_features(purchases: pl.DataFrame, history: History, origin: datetime) -> pl.DataFrame:
    """Return user (position), user_id and the user features, one row per user."""
    age = pl.col("age")
    half_life, pace = HALF_LIVES[1], history.pace
    memory = pace * half_life / log(2)  # days that decayed sums look back, in effect
    days = (
        purchases.filter(pl.col("event_time") < origin)
        .with_columns(age=days_before(origin))
        .group_by("user_id", "day")
        .agg(age.min())
        .group_by("user_id")
        .agg(
            age.min().alias("user_last_days"),
            user_days=pl.len().cast(pl.Float32),
            user_days_28=(age <= RECENT_DAYS).sum().cast(pl.Float32),
            tenure=age.max(),
            **{
                f"days_decayed_{h}": (0.5 ** (age.sort() / (pace * h))).sum()
                for h in HALF_LIVES[1:]
            },
        )
        .with_columns(pace=pl.col(f"days_decayed_{half_life}") / pl.col("tenure").clip(7, memory))
    )
    from_pairs = history.pairs.group_by("user", maintain_order=True).agg(
        user_items=pl.len().cast(pl.Float32),
        count=pl.col("own_count").sum(),
        norm=(pl.col(LONGEST) ** 2).sum().sqrt(),
    )
    return (
        pl.DataFrame({"user_id": history.users})
        .with_row_index("user")
        .join(from_pairs, on="user", how="left")
        .join(days, on="user_id", how="left")
        .with_columns(pl.col("user_days", "user_days_28", "user_items").fill_null(0))
        .with_columns(
            user_items_per_day=pl.col("count") / pl.col("user_days"),
            user_repeat_share=1 - pl.col("user_items") / pl.col("count"),
        )
        .drop("count")
    )


def category_features(history: History, items: pl.DataFrame) -> pl.DataFrame:
    """Return how the user buys the category: user, category and the category features."""
    return (
        history.pairs.join(items.select("item", "category"), on="item")
        .drop_nulls("category")
        .sort("user", "item")
        .group_by("user", "category", maintain_order=True)
        .agg(
            category_decayed=pl.col(LONGEST).sum(),
            category_last_days=pl.col("own_last_days").min(),
            first=pl.col("own_first_days").max(),
            count=pl.col("own_count").sum(),
        )
        .with_columns(
            category_due=pl.when(pl.col("count") > 1).then(
                pl.col("category_last_days")
                / ((pl.col("first") - pl.col("category_last_days")) / (pl.col("count") - 1) + 1)
            ),
            category_share=pl.col("category_decayed")
            / pl.col("category_decayed").sum().over("user"),
        )
        .drop("first", "count")
    )
