"""Contracts that come up for renewal: what is known of each before, and whether it was renewed.

The terms of one subscription follow each other by their start: a later one replaces the one before,
also where they overlap (a change of plan). A term was renewed if the next one began at the latest
some days of grace after its own end, however late that was logged, or if its date was moved beyond
them. One whose date has passed without either is over: it was lost, and is asked about no more.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import polars as pl

from seq_ml.metrics.calibration import logit
from seq_ml.metrics.shrinkage import shrunken

if TYPE_CHECKING:
    from datetime import datetime

TERM_FEATURES = (
    "tenure_days",
    "terms_so_far",
    "term_days",
    "days_to_renewal",
    "price",
    "price_change",
    "plan_logit",
)
"""tenure_days: since the first term began. terms_so_far: this one included. term_days: its agreed
length. price: currency units of the term; price_change: log ratio to the term before. plan_logit:
log-odds of not being renewed among the plan's earlier terms, drawn to those of all plans."""
TERM = ("user_id", "subscription_id", "started_at")
"""What tells terms apart."""
RENEWAL = "renewal"
"""Which renewal it would be, in classes: what the tenure hazard counts by."""
END = pl.col("renews_or_ends_at")


def chained(terms: pl.DataFrame) -> pl.DataFrame:
    """Add what the other terms of the same subscription say; terms: of `TaskData.terms_known`.

    first_at, terms_so_far and price_change look back; next_at (start of the next term) looks ahead.
    """
    subscription = TERM[:2]
    price, start = pl.col("price"), pl.col("started_at")
    return (
        terms.sort(TERM)
        .with_columns(
            first_at=start.min().over(subscription),
            terms_so_far=start.cum_count().over(subscription).cast(pl.Float64),
            next_at=start.shift(-1).over(subscription),
            price_change=(price / price.shift().over(subscription)).log(),
        )
        .with_columns(pl.when(pl.col("price_change").is_finite()).then("price_change"))
    )


def due(chain: pl.DataFrame, origin: datetime, end: datetime) -> pl.DataFrame:
    """Return each user's first term that runs out in [origin, end) and was not cancelled before.

    chain: `chained` of the terms known at `origin`. Adds TERM_FEATURES and RENEWAL.
    """
    running = pl.col("next_at").is_null() & pl.col("cancelled_at").is_null()
    days = {
        "tenure_days": pl.lit(origin) - pl.col("first_at"),
        "term_days": END - pl.col("started_at"),
        "days_to_renewal": END - pl.lit(origin),
    }
    numbers = ["1", "2", "3", "4 to 6", "7 to 12", "13 and later"]
    number = pl.col("terms_so_far").cut([1, 2, 3, 6, 12], labels=numbers)
    return (
        chain.filter(running & (origin <= END) & (end > END))
        .sort("user_id", END, "subscription_id")
        .unique("user_id", keep="first", maintain_order=True)
        .with_columns(
            **{name: span.dt.total_seconds() / 86400.0 for name, span in days.items()},
            renewal=pl.format("renewal {}", number.cast(pl.String)),
        )
    )


def lost(asked: pl.DataFrame, chain: pl.DataFrame, grace_days: int) -> pl.DataFrame:
    """Return user_id and label, whether a term of `due` was not renewed, by all of `chain`."""
    fate = chain.select(*TERM, "next_at", moved_to=END)
    goes_on = (pl.col("moved_to") > END + timedelta(days=grace_days)).fill_null(value=True)
    return (
        asked.drop("next_at")
        .join(fate, on=TERM, how="left", maintain_order="left")
        .select("user_id", label=(_has_no_next(grace_days) & ~goes_on).cast(pl.Float64))
    )


def _has_no_next(grace_days: int) -> pl.Expr:
    return ~(pl.col("next_at") <= END + timedelta(days=grace_days)).fill_null(value=False)


def plan_logits(chain: pl.DataFrame, origin: datetime, grace_days: int) -> pl.DataFrame:
    """Return plan and plan_logit, from the terms whose fate was known before `origin`."""
    closed = chain.filter(END + timedelta(days=grace_days) < origin).with_columns(
        lost=_has_no_next(grace_days)
    )
    pooled = (len(closed.filter("lost")) + 0.5) / (closed.height + 1)
    rates = closed.group_by("plan").agg(lost=pl.col("lost").sum(), n=pl.len()).sort("plan")
    ones, n = (rates[name].cast(pl.Float64).to_numpy() for name in ("lost", "n"))
    return rates.select("plan", plan_logit=pl.Series(logit(shrunken(ones, n, pooled))))
