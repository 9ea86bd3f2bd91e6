"""What a user will spend, by how the closed window carried the run-rate on; classes of users."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

if TYPE_CHECKING:
    from datetime import datetime

    from seq_ml.tasks.data import TaskData


def decile(p: pl.Expr) -> pl.Expr:
    """1 to 10 (highest) by rank among the users with a probability; equal ones share a rank."""
    rank = p.rank("average") - 1
    return (rank * 10 // p.count() + 1).cast(pl.UInt8)


def steps(column: str, ends: tuple[int, int], what: str) -> pl.Expr:
    """Three classes of a count, named."""
    low, high = ends
    return (
        pl.when(pl.col(column) <= low)
        .then(pl.lit(f"up to {low} {what}"))
        .when(pl.col(column) <= high)
        .then(pl.lit(f"{low + 1} to {high} {what}"))
        .otherwise(pl.lit(f"more than {high} {what}"))
    )


def carried_on(closed: pl.DataFrame, what: str, share: float) -> tuple[float, float, float]:
    """Return kept, lost and rest of `ChurnTask.rows` for "orders" or "spend".

    share: horizon over window.
    """

    def ratio(rows: pl.DataFrame, unknown: float) -> float:
        rate = float(rows[f"{what}_window"].sum()) * share
        return float(rows[f"next_{what}"].sum()) / rate if rate else unknown

    return (
        ratio(closed.filter(pl.col("eligible") & (pl.col("label") == 0)), 1.0),
        ratio(closed.filter(pl.col("eligible") & (pl.col("label") == 1)), 0.0),
        ratio(closed.filter(~pl.col("eligible")), 1.0),
    )


def expected(closed: pl.DataFrame, what: str, share: float) -> pl.Expr:
    """Return expected orders or spend of the horizon by the rule of `rows`."""
    kept, lost, rest = carried_on(closed, what, share)
    ratio = ((1 - pl.col("p")) * kept + pl.col("p") * lost).fill_null(rest)
    return pl.col(f"{what}_window") * share * ratio


def has_prices(data: TaskData, as_of: datetime) -> bool:
    """Whether any conversion before `as_of` has a price: without one no amount is known."""
    priced = data.events_before(as_of).filter(
        data.business.of_role("conversion"), pl.col("unit_price").is_not_null()
    )
    return priced.head(1).collect().height > 0
