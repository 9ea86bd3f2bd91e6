"""The named rules about single rows: what makes a staged event unfit to be published.

Most rules are generated from the contract `seq_ml.schema.EVENTS` (required values, ranges); the
others know the business (`seq_ml.business`), its behaviours, its money and the clock. A rule
is a Polars expression, so all of them run in one vectorised pass; the order of the list is the
order in which a row is judged, and the first rule that a row breaks is the one that the quarantine
names. What every name means, and what to do about it, stands in `seq_ml.clean.rules.catalogue`.
A change of what a rule decides raises `seq_ml.business.RULES_VERSION`: every day is cleaned anew.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

import polars as pl

from seq_ml.clean.currencies import if_own
from seq_ml.roles import BROWSING, COUPON
from seq_ml.schema import EVENTS, SUBSCRIPTIONS, polars_dtype

if TYPE_CHECKING:
    from datetime import date

    from seq_ml.business import Business
    from seq_ml.schema import Column, Table

NORMALISED = ("text", "query")
MISFILED = "misfiled"
NO_TIME = ("0001-01-01", "1899-12-30", "1900-01-01", "1970-01-01", "9999-12-31")
"""Days on which systems begin or end to count: written where a time is not known."""


@dataclass(frozen=True)
class Rule:
    """One reason to reject a row.

    `failed` is a Boolean expression over the staged frame (null counts as "not failed"), `value` a
    String expression with what was found.
    """

    name: str
    column: str
    failed: pl.Expr
    value: pl.Expr


def row_rules(business: Business, *, first_day: date) -> list[Rule]:
    """Return the rules that look at one row alone, in the order in which they are judged.

    They expect rows that went through `prepared`. first_day: events before this UTC day are older
    than the business knows of (a broken clock).
    """
    limits = business.cleaning
    time, landed = pl.col("event_time"), pl.col("landed_at")
    shown = time.dt.to_string("iso:strict")
    kind = pl.col("event_type")
    currency, foreign = pl.col("currency"), pl.col("currency") != business.currency
    rules = []
    for column in EVENTS.columns:
        rules += contract_rules(column)
        if column.name == "event_type":
            rules.append(Rule("behaviour", column.name, kind.is_in([*business.roles]).not_(), kind))
    rules += [
        _above("quantity", limits.max_quantity, pl.col("quantity")),
        _above("unit_price", limits.max_unit_price, if_own("unit_price", business.currency)),
        Rule(
            "currency",
            "currency",
            foreign & currency.str.contains(r"^[A-Z]{3}$").not_(),
            currency,
        ),
        Rule("no_time", "event_time", _has_no_time(time), shown),
        Rule(
            "future",
            "event_time",
            time > landed + timedelta(minutes=limits.future_tolerance_minutes),
            shown,
        ),
        Rule("before_first_day", "event_time", time.dt.date() < first_day, shown),
        Rule(MISFILED, "event_time", time.dt.date() != pl.col("event_date"), shown),
    ]
    if limits.lateness_days is not None:
        late = landed - time > timedelta(days=limits.lateness_days)
        rules.append(Rule("too_late", "event_time", late, shown))
    return rules


def _has_no_time(time: pl.Expr) -> pl.Expr:
    """Return where an instant lies on a day of NO_TIME in any time zone: on it, or just before."""
    days = pl.lit(pl.Series(NO_TIME).str.to_date().implode())
    return time.dt.date().is_in(days) | (time + timedelta(hours=14)).dt.date().is_in(days)


def _above(name: str, limit: float, known: pl.Expr) -> Rule:
    return Rule("absurd", name, known > limit, pl.col(name).cast(pl.String))


def first_failing(rules: list[Rule]) -> pl.Expr:
    """Return the position of the first rule that a row breaks (u8), null when it breaks none."""
    if not rules:
        return pl.lit(None, dtype=pl.UInt8)
    return pl.coalesce(
        pl.when(rule.failed).then(pl.lit(position, pl.UInt8)) for position, rule in enumerate(rules)
    )


def contract_rules(column: Column) -> list[Rule]:
    """Return the rules that one column of a contract implies."""
    name, value = column.name, pl.col(column.name)
    shown = value.cast(pl.String)
    rules = []
    if not column.nullable:
        missing = value.is_null() | (value == "") if column.dtype == "str" else value.is_null()
        rules.append(Rule("required", name, missing, shown))
    if column.allowed:
        rules.append(Rule("allowed", name, value.is_in(column.allowed).not_(), shown))
    if column.dtype in {"f32", "f64"}:
        rules.append(Rule("finite", name, value.is_finite().not_(), shown))
    if column.minimum is not None:
        rules.append(Rule("minimum", name, value < column.minimum, shown))
    if column.maximum is not None:
        rules.append(Rule("maximum", name, value > column.maximum, shown))
    return rules


def reference_rules(table: Table) -> list[Rule]:
    """Return the rules of a reference table, in the order in which a row is judged."""
    rules = [rule for column in table.columns for rule in contract_rules(column)]
    if table.name == SUBSCRIPTIONS.name:
        start = pl.col("started_at")
        for name, failed in (
            ("renews_or_ends_at", pl.col("renews_or_ends_at") <= start),
            ("cancelled_at", pl.col("cancelled_at") < start),
        ):
            shown = pl.col(name).dt.to_string("iso:strict")
            rules.append(Rule("before_start", name, failed, shown))
    return rules


# --- what is put right before a row is judged -----------------------------------------------------


def prepared(frame: pl.DataFrame, business: Business) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Normalise texts and currencies and fill what the contract says is filled.

    Returns the rows, and for each filled column a Boolean one that tells where it was filled
    (no column where nothing was).
    """
    changes = normalised([name for name in NORMALISED if frame[name].null_count() < frame.height])
    if not (frame["currency"] == business.currency).all():
        changes.append(_code("currency"))
    frame = frame.with_columns(changes)
    gaps = {column.name: gap for column, gap in _gaps(business) if frame[column.name].null_count()}
    filled = frame.select(**gaps)
    values = {
        name: pl.lit(value).cast(polars_dtype(EVENTS[name].dtype))
        for name, value in _fill_values(business).items()
        if name in gaps
    }
    frame = frame.with_columns(
        pl.when(filled[name]).then(value).otherwise(pl.col(name)).alias(name)
        for name, value in values.items()
    )
    return frame, filled


def normalised(columns: list[str]) -> list[pl.Expr]:
    """Return the free texts in Unicode NFC, white space collapsed and stripped, empty as null."""
    return [
        text.replace("", None)
        for text in (
            pl.col(name).str.normalize("NFC").str.replace_all(r"\s+", " ").str.strip_chars()
            for name in columns
        )
    ]


def _code(name: str) -> pl.Expr:
    return pl.col(name).str.strip_chars().str.to_uppercase().replace("", None)


def is_browsing(business: Business) -> pl.Expr:
    """Return where double clicks and bots are looked for (`seq_ml.roles.BROWSING`)."""
    return business.of_role(*BROWSING) & (pl.col("event_type") != COUPON)


def _gaps(business: Business) -> list[tuple[Column, pl.Expr]]:
    """Return the columns that are filled, each with where."""
    gaps = []
    for column in EVENTS.columns:
        if column.if_missing in {"keep", "reject", "derive"}:
            continue
        gap = pl.col(column.name).is_null()
        if column.missing_for:
            names = [n for n, role in business.roles.items() if {n, role} & {*column.missing_for}]
            gap &= pl.col("event_type").is_in(names).fill_null(value=False)
        gaps.append((column, gap))
    return gaps


def _fill_values(business: Business) -> dict[str, str]:
    return {
        column.name: (
            str(getattr(business, column.name)) if column.missing == "business" else column.missing
        )
        for column, _ in _gaps(business)
    }
