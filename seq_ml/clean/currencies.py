"""Currencies: prices of clean events in the business's own, by the rate of their day, or unknown.

Clean events keep what was paid, in the currency it was paid in. What adds up money reads it through
here: an amount without a rate is null, so it is in no sum, and no two currencies are ever mixed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from seq_ml.schema import EVENTS, EXCHANGE_RATES

if TYPE_CHECKING:
    from seq_ml.storage.tables import TableStore

AMOUNTS = ("unit_price", "discount", "coupon_discount")
LONGEST_DAYS = 7
"""A rate holds so long: weekends and holidays have none, a month without one is a gap."""


def in_own_currency(events: pl.LazyFrame, rates: pl.DataFrame, own: str) -> pl.LazyFrame:
    """Return events whose AMOUNTS are in the currency `own`, null where no rate is known.

    events: schema EVENTS; `currency` stays what was paid in. rates: schema EXCHANGE_RATES. The rate
    is the newest one on or before the event's UTC day, at most LONGEST_DAYS old; of a pair that
    only the other direction knows, its inverse. Where every row is in `own`, nothing is done.
    """
    if not _foreign(events, own):
        return events
    first, last = events.select(
        first=pl.col("event_date").min(), last=pl.col("event_date").max()
    ).collect().row(0)  # fmt: skip
    known = factors_on(pl.date_range(first, last, eager=True), rates, own)
    factor = pl.when(_is_own(own)).then(1.0).otherwise(pl.col("factor"))
    return (
        events.join(known.lazy(), on=["currency", "event_date"], how="left", maintain_order="left")
        .with_columns(pl.col(name) * factor for name in AMOUNTS)
        .select(EVENTS.names)
    )


def factors_on(days: pl.Series, rates: pl.DataFrame, own: str) -> pl.DataFrame:
    """Return event_date, currency and factor: what one unit is worth in `own` on each of the days.

    days: ascending. One row per day and currency that is known then, sorted by day and currency.
    """
    factors = _factors(rates, own)
    return (
        pl.DataFrame({"event_date": days.cast(pl.Date)})
        .join(factors.select("currency").unique(), how="cross")
        .sort("event_date", "currency")
        .join_asof(
            factors.sort("event_date"),
            on="event_date",
            by="currency",
            strategy="backward",
            tolerance=f"{LONGEST_DAYS}d",
            check_sortedness=False,
        )
        .drop_nulls("factor")
    )


def if_own(price: str, own: str) -> pl.Expr:
    """Return a column of prices where they are in the currency `own` ("": any), else null."""
    return pl.when(_is_own(own)).then(price) if own else pl.col(price)


def unconverted(tables: TableStore, own: str) -> str:
    """Say which share of the priced events has no rate and is in no sum; "" where there is none."""
    events = tables.scan_or_empty(EVENTS)
    if not _foreign(events, own):
        return ""
    priced = events.filter(pl.col("unit_price").is_not_null())
    rates = tables.scan_or_empty(EXCHANGE_RATES).collect()
    lost = in_own_currency(priced, rates, own).filter(pl.col("unit_price").is_null())
    counts = lost.group_by("currency").len().sort("len", "currency", descending=[True, False])
    missing = counts.collect()
    if missing.is_empty():
        return ""
    share = missing["len"].sum() / priced.select(pl.len()).collect().item()
    names = ", ".join(missing["currency"].head(5))
    return (
        f"{share:.1%} of the events with a price are in currencies without a rate of their day "
        f"({names}) and in no sum of money: drop `exchange_rates` to {own}."
    )


def _is_own(own: str) -> pl.Expr:
    return pl.col("currency").is_null() | (pl.col("currency") == own)


def _foreign(events: pl.LazyFrame, own: str) -> bool:
    currencies = events.select(pl.col("currency").unique()).collect().to_series()
    return bool({*currencies.drop_nulls()} - {own})


def _factors(rates: pl.DataFrame, own: str) -> pl.DataFrame:
    """Return event_date, currency and factor: what one unit of it is worth in `own`."""
    source, target = (
        pl.col(name).str.strip_chars().str.to_uppercase()
        for name in ("from_currency", "to_currency")
    )
    day, rate = pl.col("date").alias("event_date"), pl.col("rate")
    direct = rates.filter(target == own).select(day, currency=source, factor=rate)
    inverse = rates.filter(source == own).select(day, currency=target, factor=1 / rate)
    both = pl.concat([direct, inverse])
    return both.unique(["event_date", "currency"], keep="first", maintain_order=True)
