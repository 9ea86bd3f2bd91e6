"""The named cleaning rules: what makes a staged event unfit to be published.

Most rules are generated from the contract `seq_ml.schema.EVENTS` (required values, value sets,
ranges); two look at the clock, one at the pace of a user. A rule is a Polars expression, so all of
them run in one vectorised pass; the order of the list is the order in which a row is judged, and
the first rule that a row breaks is the one that the quarantine names.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import polars as pl

from seq_ml.schema import EVENTS

if TYPE_CHECKING:
    from datetime import date, timedelta

    from seq_ml.schema import Column

BOT_RULE = "bot_rate"

BROWSING = (
    "view",
    "search",
    "click",
    "add_to_cart",
    "remove_from_cart",
    "wishlist",
    "ad_click",
)
"""Behaviour that a person does one by one and a scraper in bulk: the only events of the bot rule.

Purchases, refunds and coupons come as whole baskets with one time stamp, impressions are sent by
the business, and ratings and reviews are often imported in bulk: none of them shows a bot.
"""

NORMALISED = ("text", "query")


@dataclass(frozen=True)
class Rule:
    """One reason to reject a row.

    `failed` is a Boolean expression over the staged frame (null counts as "not failed"), `value` a
    String expression with what was found, `meaning` one sentence for people.
    """

    name: str
    column: str
    failed: pl.Expr
    value: pl.Expr
    meaning: str


def row_rules(*, first_day: date, future_tolerance: timedelta) -> list[Rule]:
    """Return the rules that look at one row alone, in the order in which they are judged.

    first_day: events before this UTC day are older than the business knows of (a broken clock).
    future_tolerance: how much later than its file's arrival an event may claim to have happened.
    """
    rules = [rule for column in EVENTS.columns for rule in contract_rules(column)]
    time = pl.col("event_time")
    found = time.dt.to_string("iso:strict")
    return [
        *rules,
        Rule(
            "future",
            "event_time",
            time > pl.col("landed_at") + future_tolerance,
            found,
            f"The event is more than {future_tolerance} later than the arrival of its file.",
        ),
        Rule(
            "before_first_day",
            "event_time",
            time.dt.date() < first_day,
            found,
            f"The event is older than the first day, {first_day}.",
        ),
    ]


def first_failing(rules: list[Rule]) -> pl.Expr:
    """Return the position of the first rule that a row breaks (u8), null when it breaks none."""
    return pl.coalesce(
        pl.when(rule.failed).then(pl.lit(position, pl.UInt8)) for position, rule in enumerate(rules)
    )


def bot_minutes(events: pl.DataFrame, *, limit: int) -> pl.DataFrame:
    """Return `events` that lie in minutes in which their user browsed more than `limit` times.

    events: user_id, event_type, event_time and whatever else the caller needs. Returns only
    browsing events, with `rate` (u32) = the user's browsing events in that minute. The rate must be
    taken after duplicates are gone, or a file that is sent twice would look like a bot.
    """
    minute = pl.col("event_time").dt.truncate("1m")
    return (
        events.filter(pl.col("event_type").is_in(BROWSING))
        .with_columns(rate=pl.len().over("user_id", minute))
        .filter(pl.col("rate") > limit)
    )


def normalised(columns: tuple[str, ...] = NORMALISED) -> list[pl.Expr]:
    """Return the free texts in Unicode NFC, white space collapsed and stripped, empty as null."""
    return [
        text.replace("", None)
        for text in (
            pl.col(name).str.normalize("NFC").str.replace_all(r"\s+", " ").str.strip_chars()
            for name in columns
        )
    ]


def contract_rules(column: Column) -> list[Rule]:
    """Return the rules that one column of a contract implies."""
    name, value = column.name, pl.col(column.name)
    found = value.cast(pl.String)
    rules = []
    if not column.nullable:
        missing = value.is_null() | (value == "") if column.dtype == "str" else value.is_null()
        rules.append(Rule("required", name, missing, found, f"{name} is missing."))
    if column.allowed:
        strange = value.is_in(column.allowed).not_()
        options = ", ".join(column.allowed)
        rules.append(Rule("allowed", name, strange, found, f"{name} is none of {options}."))
    if column.dtype in {"f32", "f64"}:
        endless = value.is_finite().not_()
        rules.append(Rule("finite", name, endless, found, f"{name} is NaN or infinite."))
    if column.minimum is not None:
        low = value < column.minimum
        rules.append(Rule("minimum", name, low, found, f"{name} is below {column.minimum:g}."))
    if column.maximum is not None:
        high = value > column.maximum
        rules.append(Rule("maximum", name, high, found, f"{name} is above {column.maximum:g}."))
    return rules
