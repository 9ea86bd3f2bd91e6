"""The next basket of each user: items in falling order, how many of them, and on which day.

The order is that of the recommendations: a ranker of its own, fitted on what the next basket held,
was no better (F1 at the basket's size −0.0007 ± 0.0017 on Complete Journey), so there is none. The
size is the median of the user's baskets, the day that of
`seq_ml.tasks.behaviour.orders_model.next_order`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from seq_ml.tasks.behaviour.orders_model import next_order

if TYPE_CHECKING:
    from datetime import datetime

    from seq_ml.business import Business
    from seq_ml.periods import Periods

UNTRIED = "catalogue"
"""Source of the recommendations that nobody bought yet."""
POSITIONS = 10
"""Items of a basket that are named: of 20 recommendations so many are the best by score alone."""


def next_baskets(
    recommended: pl.DataFrame,
    purchases: pl.DataFrame,
    as_of: datetime,
    business: Business,
    periods: Periods,
) -> pl.DataFrame:
    """Return the next basket of every user with recommendations.

    recommended: user_id, rank, item_id, score, p_purchase, rests_on, source (of RECOMMENDATIONS).
    purchases: user_id, item_id, basket, event_time, day. Returns user_id, position (i32), item_id,
    score (f32, falling), p_purchase, in_basket (bool: among the first expected_size), expected_size
    (i32), null without an earlier order, and expected_date (business day, if an order comes within
    the horizon of the recommendations), null without one in the window, rests_on, source; sorted by
    user_id and position.
    """
    expected = expectations(purchases, as_of, business, periods)
    return (
        # What nobody bought yet has no score of its own to be named by.
        recommended.filter(pl.col("source") != UNTRIED)
        .sort("user_id", "rank")
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
            expected_date="next_order_date",
            rests_on="rests_on",
            source="source",
        )
    )


def expectations(
    purchases: pl.DataFrame, as_of: datetime, business: Business, periods: Periods
) -> pl.DataFrame:
    """Return user_id, size (i32, distinct items) and next_order_date of everybody's next basket.

    purchases: as in `next_baskets`; those at or after `as_of` are ignored.
    """
    past = purchases.filter(pl.col("event_time") < as_of)
    days = next_order(past, business.day_of(as_of), periods.recommend_days, periods.window_days)
    return (
        past.group_by("user_id", "basket")
        .agg(size=pl.col("item_id").n_unique())
        .group_by("user_id")
        .agg(pl.col("size").median().round().clip(1).cast(pl.Int32))
        .join(days, on="user_id", how="left")
        .sort("user_id")
    )
