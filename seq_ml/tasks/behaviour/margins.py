"""What is left of users' spend after the cost of the goods, where the catalogue knows costs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

if TYPE_CHECKING:
    from datetime import datetime

    from seq_ml.tasks.data import TaskData

ENOUGH = 0.5
"""Of a user's spend must be of known cost, or the user's margin is that of all users."""


def margin_share(data: TaskData, as_of: datetime) -> float | None:
    """Return the margin over the spend of all users in the window before `as_of`.

    Of the conversions whose item has a `unit_cost` that was known before `as_of`; those without one
    are taken to leave the same. None when no cost is known, or nothing was spent on such items.
    """

    def of_all(data: TaskData) -> float | None:
        sums = [_lines(part, as_of).select("spend", "margin").sum() for part in data.shards()]
        spent, left = pl.concat(sums).sum().row(0)
        return left / spent if spent else None

    share: float | None = data.once(("margin_share", as_of), of_all)
    return share


def with_margin(users: pl.DataFrame, data: TaskData, as_of: datetime) -> pl.DataFrame:
    """Add margin_share (f64?) to rows with a user_id: what is left of a currency unit they spend.

    The user's own where half of their spend or more is of known cost, else `margin_share`.
    """
    everybody = pl.lit(margin_share(data, as_of), dtype=pl.Float64)
    own = (
        _lines(data, as_of)
        .group_by("user_id")
        .agg(pl.col("spend", "margin", "priced").sum())
        .filter(pl.col("spend") > 0, pl.col("spend") >= ENOUGH * pl.col("priced"))
        .select("user_id", own=pl.col("margin") / pl.col("spend"))
    )
    joined = users.join(own, on="user_id", how="left", maintain_order="left")
    return joined.with_columns(margin_share=pl.coalesce("own", everybody)).drop("own")


def _lines(data: TaskData, as_of: datetime) -> pl.DataFrame:
    """Return user_id, priced (spend of the line), and spend and margin where its cost is known."""
    costs = data.items_known(as_of).select("item_id", "unit_cost").drop_nulls("unit_cost")
    empty = dict.fromkeys(("priced", "spend", "margin"), pl.Float64)
    if costs.is_empty():
        return pl.DataFrame(schema={"user_id": pl.String, **empty})
    paid, cost = pl.col("unit_price"), pl.col("unit_cost")
    return (
        data.events_before(as_of, days=data.periods.window_days)
        .filter(data.business.of_role("conversion"), paid.is_not_null())
        .join(costs.lazy(), on="item_id", how="left", maintain_order="left")
        .select(
            "user_id",
            priced=pl.col("quantity") * paid,
            spend=pl.when(cost.is_not_null()).then(pl.col("quantity") * paid),
            margin=pl.col("quantity") * (paid - cost),
        )
        .collect()
    )
