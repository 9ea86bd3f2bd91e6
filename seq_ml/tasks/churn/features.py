"""How evenly and how broadly somebody shops: point-in-time features from the window of churn.

Beside what `seq_ml.tasks.behaviour.features` counts: whether the spend of all weeks was one big
order or a habit, whether the weeks grow emptier, and from how many categories somebody buys. Who
shops for everything, every week, stays; a large run-rate out of one week falls by itself.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import TYPE_CHECKING

import polars as pl

from seq_ml.metrics.calibration import logit
from seq_ml.tasks.behaviour.features import BEHAVIOUR_FEATURES, behaviour_features
from seq_ml.tasks.behaviour.orders_model import OrderHistory, Orders, order_history
from seq_ml.tasks.behaviour.visits import Behaviour, read_behaviour, with_orders

if TYPE_CHECKING:
    from datetime import date, datetime

    from seq_ml.tasks.data import TaskData

RHYTHM_FEATURES = (
    "empty_weeks",
    "empty_weeks_now",
    "week_spend_std",
    "typical_week_share",
    "best_week_share",
    "largest_order_share",
    "spend_slope",
    "orders_slope",
    "categories_window",
    "departments_window",
    "category_trend",
    "repeat_share",
)
"""Weeks are counted back from the origin, all of the window.

empty_weeks, empty_weeks_now: weeks without an order, in all and since the last one.
week_spend_std: currency units. typical_week_share: the median week times all weeks, over the spend:
1 is even, 0 means that most weeks are empty. best_week_share, largest_order_share: of the spend.
spend_slope, orders_slope: centre of gravity of the weeks, −0.5 (all in the oldest) to 0.5 (newest).
categories_window, departments_window: distinct ones bought from, as the catalogue named them when
they were bought; category_trend: those of the recent days over all; repeat_share: share of
item-days whose item was bought on another day too (1 − distinct items ÷ item-days).
"""
NO_ORDER = "no_order_logit"
"""Log-odds of no order within the horizon by BG/NBD (`seq_ml.tasks.behaviour.orders_model`), fitted
on the orders of the same window: a simple method that RFM does not beat, and a feature."""
CHURN_FEATURES = (*BEHAVIOUR_FEATURES, *RHYTHM_FEATURES, NO_ORDER)
MOST_USERS = 20_000
"""Of more users a sample is learnt from and judged."""


@dataclass(frozen=True)
class Past:
    """The reduced events, all strictly before the as_of they were made for.

    behaviour: of the whole past, it says who ever ordered.  lines: one row per user, business day
    and item: user_id, at (first purchase, UTC), item_id, category, department (null where the
    catalogue did not know the item yet).
    """

    behaviour: Behaviour
    lines: pl.DataFrame
    sampled: Past | None = None
    """That of the sample that stands for everybody, where it is another one."""
    fitted: dict[datetime, Orders | None] = field(default_factory=dict, compare=False)

    @property
    def everybody(self) -> Past:
        """The past of those who stand for everybody."""
        return self.sampled or self

    def rhythm(self, origin: datetime, day: date) -> Orders | None:
        """Return BG/NBD of everybody's orders of the window, fitted once for each origin.

        None where nobody ordered twice, which the model needs.
        """
        everybody = self.everybody
        if origin not in everybody.fitted:
            visits = everybody.behaviour.visits.filter(_inside(everybody.behaviour, origin))
            try:
                orders = Orders.fit(OrderHistory.of(order_history(visits, day)))
            except ValueError:
                orders = None
            everybody.fitted[origin] = orders
        return everybody.fitted[origin]


def sample(data: TaskData) -> TaskData:
    """Return the data of those who stand for everybody: some MOST_USERS users, all if fewer."""
    return data.some(MOST_USERS)


def read_past(data: TaskData, as_of: datetime, *, days: int | None = None) -> Past:
    """Reduce the events strictly before `as_of`; on request lines of the last `days` days only.

    The data keep it: all definitions of churn read the same.
    """
    some = sample(data)
    sampled = None if some is data else read_past(some, as_of, days=days)
    past: Past = data.keep(
        ("past", as_of, days), lambda data: replace(_read(data, as_of, days), sampled=sampled)
    )
    return past


def _read(data: TaskData, as_of: datetime, days: int | None) -> Past:
    # A line is of a whole day: the first one must not be cut short.
    since = days + 2 if days is not None else None
    lines = (
        with_orders(data.events_before(as_of, days=since), data.business)
        .filter(data.business.of_role("conversion"))
        .group_by("user_id", "item_id", "day")
        .agg(at=pl.col("event_time").min())
        .sort("at")
        .join_asof(
            data.items.lazy()
            .select(
                "item_id",
                # Categories are only counted, at every origin again: codes, not strings.
                pl.col("category", "department").cast(pl.Categorical),
                at="valid_from",
            )
            .sort("at", "item_id"),
            on="at",
            by="item_id",
            strategy="backward",
            check_sortedness=False,  # sorted just above; polars cannot see it per group
        )
        .select("user_id", "at", "item_id", "category", "department")
        .collect()
    )
    return Past(read_behaviour(data, as_of), lines)


def churn_features(
    past: Past, origin: datetime, users: pl.Series, *, day: date, horizon_days: int
) -> pl.DataFrame:
    """Return user_id and CHURN_FEATURES from the window strictly before `origin`.

    day: business day of `origin`. One row per user of `users`, sorted. Who did not buy in the
    window has null rhythm features.
    """
    periods, inside = past.behaviour.periods, _inside(past.behaviour, origin)
    frame = behaviour_features(past.behaviour, origin, users)
    for part in (
        _of_weeks(past.behaviour.visits.filter(inside), origin, -(-periods.window_days // 7)),
        _of_orders(past, origin, day, horizon_days),
        _of_items(past.lines.filter(inside), origin - timedelta(days=periods.recent_days)),
    ):
        frame = frame.join(part, on="user_id", how="left", maintain_order="left")
    return frame.select("user_id", *(pl.col(name).cast(pl.Float64) for name in CHURN_FEATURES))


def _inside(behaviour: Behaviour, origin: datetime) -> pl.Expr:
    start = origin - timedelta(days=behaviour.periods.window_days)
    return (pl.col("at") >= start) & (pl.col("at") < origin)


def _of_weeks(visits: pl.DataFrame, origin: datetime, count: int) -> pl.DataFrame:
    age = (pl.lit(origin) - pl.col("at")).dt.total_seconds() / 86400.0
    # An order at the very first instant of the window is 91 days old: still the oldest week.
    week = (age / 7).floor().cast(pl.Int64).clip(upper_bound=count - 1)
    weeks = [
        pl.col("spend").filter(pl.col("week") == n).sum().alias(f"spend_{n}") for n in range(count)
    ]
    # As a list: weeks without an order count as 0 in the median and the spread.
    spend = pl.concat_list(f"spend_{n}" for n in range(count))
    total = pl.col("total").clip(lower_bound=1.0)
    newness = (count - 1) / 2 - pl.col("week")
    return (
        visits.with_columns(week=week)
        .group_by("user_id", maintain_order=True)
        .agg(
            *weeks,
            total=pl.col("spend").sum(),
            largest=pl.col("spend").max(),
            gravity=(pl.col("spend") * newness).sum(),
            empty_weeks=count - pl.col("week").n_unique().cast(pl.Int64),
            empty_weeks_now=pl.col("week").min(),
            orders_slope=newness.mean() / (count - 1),
        )
        .with_columns(
            week_spend_std=spend.list.std(),
            typical_week_share=spend.list.median() * count / total,
            best_week_share=spend.list.max() / total,
            largest_order_share=pl.col("largest") / total,
            spend_slope=pl.col("gravity") / total / (count - 1),
        )
        .select("user_id", *RHYTHM_FEATURES[:8])
    )


def _of_orders(past: Past, origin: datetime, day: date, horizon_days: int) -> pl.DataFrame:
    """Return NO_ORDER; no rows where nobody ordered twice."""
    orders = past.rhythm(origin, day)
    if orders is None:
        return pl.DataFrame(schema={"user_id": pl.String, NO_ORDER: pl.Float64})
    users = order_history(past.behaviour.visits.filter(_inside(past.behaviour, origin)), day)
    p = orders.p_no_order(OrderHistory.of(users), horizon_days)
    # To nine digits: the last ones of an optimum depend on the machine's arithmetic.
    return pl.DataFrame({"user_id": users["user_id"], NO_ORDER: logit(p).round(9)})


def _of_items(lines: pl.DataFrame, recent: datetime) -> pl.DataFrame:
    late = pl.col("at") >= recent
    categories = pl.col("category").drop_nulls()
    return (
        lines.group_by("user_id", maintain_order=True)
        .agg(
            categories_window=categories.n_unique(),
            departments_window=pl.col("department").drop_nulls().n_unique(),
            late=pl.col("category").filter(late).drop_nulls().n_unique(),
            repeat_share=1 - pl.col("item_id").n_unique() / pl.len(),
        )
        .with_columns(
            category_trend=pl.col("late") / pl.col("categories_window").clip(lower_bound=1),
        )
        .select("user_id", *RHYTHM_FEATURES[8:])
    )
