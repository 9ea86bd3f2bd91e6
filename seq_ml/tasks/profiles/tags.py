"""Tags of users, each with the evidence in words and the events that back it.

A tag is a rule over the window; its events are the newest of those that the rule counted, so
whoever doubts a tag looks them up in `clean_events`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import polars as pl

from seq_ml.roles import COUPON

if TYPE_CHECKING:
    from datetime import datetime

    from seq_ml.periods import Periods
    from seq_ml.tasks.data import TaskData

FEWEST_ORDERS = 4
"""A share of fewer orders says nothing; only `coupon_user` needs none."""
EVENTS_SHOWN = 5
"""Events named per tag."""


@dataclass(frozen=True)
class Tag:
    """One rule. holds, evidence: over the profile's columns; events: over one user's events."""

    name: str
    meaning: str
    holds: pl.Expr
    evidence: pl.Expr
    events: pl.Expr


def _percent(share: str) -> pl.Expr:
    return (100 * pl.col(share)).round().cast(pl.Int64)


def _whole(count: str) -> pl.Expr:
    return pl.col(count).cast(pl.Int64)


def _of_orders(share: str, what: str) -> pl.Expr:
    return pl.format(f"{{}} % of {{}} orders {what}", _percent(share), _whole("orders_window"))


def tag_rules(periods: Periods) -> tuple[Tag, ...]:
    """Return all rules.

    The events are conversions and coupons, with `local` (the business' wall time) and `favourite`
    (the user's department with most spend) besides their own columns.
    """
    enough = pl.col("orders_window") >= FEWEST_ORDERS
    redeemed = pl.col("event_type") == COUPON
    bought = ~redeemed
    spent = pl.format(
        f"{{}} of {{}} spent in the last {periods.recent_days} days",
        pl.col("spend_recent").round(2),
        pl.col("spend_window").round(2),
    )
    late = pl.col("age_days") <= periods.recent_days
    return (
        Tag(
            "coupon_user",
            "redeemed a coupon",
            pl.col("coupons_redeemed_window") > 0,
            pl.format("{} coupons redeemed", _whole("coupons_redeemed_window")),
            redeemed,
        ),
        Tag(
            "bargain_hunter",
            "a quarter of the value or more was discounted",
            enough & (pl.col("discount_share_window") >= 0.25),
            pl.format("{} % of the value was discounted", _percent("discount_share_window")),
            bought & (pl.col("discount") > 0),
        ),
        Tag(
            "weekend_shopper",
            "60 % of the orders or more on Saturday and Sunday",
            enough & (pl.col("weekend_share") >= 0.6),
            _of_orders("weekend_share", "at weekends"),
            bought & (pl.col("local").dt.weekday() >= 6),
        ),
        Tag(
            "evening_shopper",
            "60 % of the orders or more after 18:00",
            enough & (pl.col("evening_share") >= 0.6),
            _of_orders("evening_share", "after 18:00"),
            bought & (pl.col("local").dt.hour() >= 18),
        ),
        Tag(
            "spends_less",
            f"spend a day of the last {periods.recent_days} days at most half of that before",
            enough & (pl.col("spend_trend") <= -0.7),
            spent,
            bought & ~late,
        ),
        Tag(
            "spends_more",
            f"spend a day of the last {periods.recent_days} days at least twice that before",
            enough & (pl.col("spend_trend") >= 0.7),
            spent,
            bought & late,
        ),
        Tag(
            "many_stores",
            "orders in four stores or more",
            enough & (pl.col("stores_window") >= 4),
            pl.format("{} stores", _whole("stores_window")),
            bought & pl.col("store_id").is_not_null(),
        ),
        Tag(
            "one_department",
            "60 % of the spend or more on one department",
            enough & (pl.col("favourite_share") >= 0.6),
            pl.format("{} % of spend on {}", _percent("favourite_share"), "favourite"),
            bought & (pl.col("department") == pl.col("favourite")),
        ),
    )


def with_tags(frame: pl.DataFrame, data: TaskData, as_of: datetime) -> pl.DataFrame:
    """Return `frame` with the column tags.

    frame: user_id and what the rules read of the window: orders_window, spend_recent, spend_window,
    coupons_redeemed_window, discount_share_window, weekend_share, evening_share, spend_trend,
    stores_window.
    """
    frame = frame.join(
        favourite_department(data, as_of), on="user_id", how="left", maintain_order="left"
    )
    rules = tag_rules(data.periods)
    held = frame.select("user_id", "favourite", *(r.holds.alias(r.name) for r in rules))
    frame = frame.join(
        _evidence(data, as_of, held, rules), on="user_id", how="left", maintain_order="left"
    )
    structs = [
        pl.when(rule.holds).then(
            pl.struct(
                tag=pl.lit(rule.name),
                evidence=rule.evidence,
                event_ids=pl.col(f"{rule.name}_events").fill_null([]),
            )
        )
        for rule in rules
    ]
    return frame.with_columns(tags=pl.concat_list(structs).list.drop_nulls())


def favourite_department(data: TaskData, as_of: datetime) -> pl.DataFrame:
    """Return user_id, favourite (department with most spend in the window) and its share."""
    departments = data.items_known(as_of).select("item_id", "department").drop_nulls()
    spend = (pl.col("quantity") * pl.col("unit_price")).fill_null(0.0)
    return (
        data.events_before(as_of, days=data.periods.window_days)
        .filter(data.business.of_role("conversion"))
        .join(departments.lazy(), on="item_id", how="inner")
        .group_by("user_id", "department")
        .agg(spend=spend.sum().round(3))
        .collect()
        .sort("user_id", "spend", "department", descending=[False, True, False])
        .group_by("user_id", maintain_order=True)
        .agg(
            favourite=pl.col("department").first(),
            favourite_share=pl.when(pl.col("spend").sum() > 0).then(
                pl.col("spend").first() / pl.col("spend").sum()
            ),
        )
    )


def _evidence(
    data: TaskData, as_of: datetime, held: pl.DataFrame, rules: tuple[Tag, ...]
) -> pl.DataFrame:
    """Return user_id and, for each rule, the newest events behind it: columns `<tag>_events`.

    held: user_id, favourite, and whether each rule holds.
    """
    tagged = held.filter(pl.any_horizontal(pl.exclude("user_id", "favourite")))
    departments = data.items_known(as_of).select("item_id", "department")
    read = ("user_id", "event_id", "event_type", "event_time", "item_id", "discount", "store_id")
    events = (
        data.events_before(as_of, days=data.periods.window_days)
        .filter(data.business.of_role("conversion") | (pl.col("event_type") == COUPON))
        .select(read)
        .join(tagged.lazy(), on="user_id", how="inner")
        .join(departments.lazy(), on="item_id", how="left")
        .with_columns(
            local=pl.col("event_time").dt.convert_time_zone(data.business.timezone),
            age_days=(pl.lit(as_of) - pl.col("event_time")).dt.total_seconds() / 86400.0,
        )
    )
    newest = pl.struct("event_time", "event_id")
    by_store = (
        events.filter("many_stores", pl.col("event_type") != COUPON)
        .drop_nulls("store_id")
        .group_by("user_id", "store_id")
        .agg(newest=newest.sort(descending=True).first())
        .group_by("user_id")
        .agg(many_stores_events=_newest(pl.col("newest")))
    )
    return (
        events.group_by("user_id")
        .agg(
            _newest(newest.filter(pl.col(rule.name) & rule.events)).alias(f"{rule.name}_events")
            for rule in rules
            if rule.name != "many_stores"
        )
        .join(by_store, on="user_id", how="left")
        .collect()
    )


def _newest(events: pl.Expr) -> pl.Expr:
    """Ids of the newest of structs (event_time, event_id), newest first."""
    return events.sort(descending=True).head(EVENTS_SHOWN).struct.field("event_id")
