"""Generated shops that lack something: what a business may be like in its first years.

`SHOPS` by name; `shop_data` makes the data of one. Tests ask every task about them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from seq_ml import schema
from seq_ml.business import Business
from seq_ml.roles import STANDARD
from seq_ml.tasks.data import TaskData
from seq_ml.tasks.registered import load_tasks

if TYPE_CHECKING:
    from collections.abc import Callable

START = datetime(2023, 1, 1, tzinfo=UTC)
ALL = tuple(load_tasks())
ON_ONE_DAY = START + pl.col("event_time").dt.time().cast(pl.Duration)


def unchanged(data: TaskData) -> TaskData:
    return data


def events_with(**columns: pl.Expr) -> Callable[[TaskData], TaskData]:
    """Other columns of every event, the order kept by time."""

    def change(data: TaskData) -> TaskData:
        events = data.events.with_columns(**columns)
        events = events.with_columns(event_date=pl.col("event_time").dt.date())
        return replace(data, events=events.sort("event_time", "event_id"))

    return change


def without(*kinds: str) -> Callable[[TaskData], TaskData]:
    """No event of these types."""

    def change(data: TaskData) -> TaskData:
        return replace(data, events=data.events.filter(~pl.col("event_type").is_in(kinds)))

    return change


OWN_NAMES = {"purchase": "booking", "view": "look", "ad_impression": "letter_sent"}


def with_own_names(data: TaskData) -> TaskData:
    """The same events, called as the business calls them."""
    events = data.events.with_columns(pl.col("event_type").replace(OWN_NAMES))
    own = {"look": "browse", "letter_sent": "exposure"}
    business = data.business.model_copy(update={"conversion": ("booking",), "behaviours": own})
    return replace(data, events=events, business=business)


def with_conversion(name: str) -> Callable[[TaskData], TaskData]:
    """Another behaviour is what the business lives by."""

    def change(data: TaskData) -> TaskData:
        return replace(data, business=data.business.model_copy(update={"conversion": (name,)}))

    return change


def rated_once(data: TaskData) -> TaskData:
    """Ratings are all there is: one per user and item, as many as cleaning makes of them."""
    nothing = dict.fromkeys(("unit_price", "discount", "coupon_discount"), pl.lit(None, pl.Float64))
    first = data.events.filter(event_type="purchase").unique(
        ["user_id", "item_id"], keep="first", maintain_order=True
    )
    rated = first.with_columns(event_type=pl.lit("rate"), rating=4.0, quantity=1.0, **nothing)
    return with_conversion("rate")(replace(data, events=rated))


def only_running(data: TaskData) -> TaskData:
    """One campaign, and it is not over."""
    return replace(data, campaigns=data.campaigns.tail(1))


def no_offers(data: TaskData) -> TaskData:
    return replace(data, campaign_items=data.campaign_items.clear())


def old_plan(data: TaskData) -> TaskData:
    """The promotion plan ends two months before the newest day."""
    weeks = data.promotions.filter(pl.col("week_start") < START.date() + timedelta(days=240))
    return replace(data, promotions=weeks)


def sold_back(data: TaskData) -> TaskData:
    """Nine of ten purchases come back on the next day, and more of them than were bought."""
    refunds = data.events.filter(
        pl.col("event_type") == "purchase", pl.col("event_id").hash(0) % 10 > 0
    ).with_columns(
        pl.format("r{}", "event_id").alias("event_id"),
        pl.lit("refund").alias("event_type"),
        pl.col("event_time") + timedelta(days=1),
        pl.col("quantity") * 2,
    )
    return events_with()(replace(data, events=pl.concat([data.events, refunds])))


def at_nine(data: TaskData) -> TaskData:
    """Campaigns begin and end at 9:00 of Auckland's summer."""
    hours = timedelta(hours=20)
    campaigns = data.campaigns.with_columns(pl.col("start_at") + hours, pl.col("end_at") + hours)
    touches = pl.col("campaign_id").is_not_null()
    moved = pl.when(touches).then(pl.col("event_time") + hours).otherwise("event_time")
    return events_with(event_time=moved)(replace(data, campaigns=campaigns))


def visits_at(hours: int, minutes: int) -> Callable[[TaskData], TaskData]:
    """Every visit begins at this time (UTC) and ends some minutes later."""
    begin = pl.col("event_time").min().over("session_id")
    start = begin.dt.truncate("1d") + timedelta(hours=hours, minutes=minutes)
    visit = pl.col("session_id").is_not_null()
    moved = pl.col("event_time") - begin + start
    return events_with(event_time=pl.when(visit).then(moved).otherwise("event_time"))


@dataclass(frozen=True)
class Shop:
    """What a business has: how many users and items, for how many days, and which files."""

    users: int = 40
    items: int = 15
    days: int = 300
    prices: bool = True
    purchases: bool = True
    views: bool = True
    campaigns: bool = True
    coupons: bool = True
    promotions: bool = True
    zone: str = "UTC"
    change: Callable[[TaskData], TaskData] = unchanged
    """What is different about its data, once they are made."""
    of: tuple[str, ...] = ALL
    """Whose tables are looked at."""

    @property
    def as_of(self) -> datetime:
        return Business(timezone=self.zone).midnight(START.date() + timedelta(days=self.days))


SHOPS = {
    "ordinary": Shop(),
    "own names": Shop(change=with_own_names),
    "no items": Shop(
        change=events_with(item_id=pl.lit(None, pl.String)),
        of=("recommendations", "churn_silence", "inventory", "ads", "spend"),
    ),
    "ratings only": Shop(
        items=60,
        change=rated_once,
        of=("recommendations", "churn_silence", "churn_decline", "spend"),
    ),
    "never converts": Shop(
        change=with_conversion("subscribe"),
        of=("recommendations", "churn_silence", "churn_decline", "inventory"),
    ),
    "no promotions file": Shop(promotions=False),
    "no campaigns": Shop(campaigns=False),
    "clicks and no coupons": Shop(coupons=False),
    "no prices": Shop(prices=False),
    "only purchases": Shop(views=False, campaigns=False),
    "only views": Shop(purchases=False, campaigns=False),
    "ten users": Shop(users=10),
    "one item": Shop(items=1),
    "three weeks old": Shop(days=21),
    "three days old": Shop(days=3),
    "one user": Shop(users=1),
    "nobody yet": Shop(users=0),
    "ten users and one item": Shop(users=10, items=1),
    "two months old": Shop(days=60),
    "one day": Shop(days=1, change=events_with(event_time=ON_ONE_DAY)),
    "all on one old day": Shop(change=events_with(event_time=ON_ONE_DAY)),
    "one campaign that runs": Shop(of=("ads",), change=only_running),
    "campaigns without offers": Shop(of=("ads",), change=no_offers),
    "nobody responds": Shop(of=("ads",), change=without("coupon_redeem")),
    "contacts are not told": Shop(of=("ads",), change=without("ad_impression")),
    "no catalogue": Shop(
        of=("recommendations", "inventory", "spend"),
        change=lambda data: replace(data, items=data.items.clear()),
    ),
    "an old promotion plan": Shop(of=("inventory",), change=old_plan),
    "most comes back": Shop(of=("churn_decline", "inventory", "spend"), change=sold_back),
    "campaigns at nine in Auckland": Shop(
        of=("ads", "churn_silence"), zone="Pacific/Auckland", change=at_nine
    ),
    "visits over midnight": Shop(of=("ads", "churn_silence"), change=visits_at(23, 57)),
    "visits over a winter's midnight in summer": Shop(
        days=330, of=("ads", "churn_silence"), zone="America/New_York", change=visits_at(4, 57)
    ),
    "no sessions and no stores": Shop(
        of=("churn_silence", "spend"),
        change=events_with(session_id=pl.lit(None, pl.String), store_id=pl.lit(None, pl.String)),
    ),
    "older than a year": Shop(users=60, days=400, zone="Pacific/Auckland", of=("spend",)),
    "free of charge": Shop(
        of=("ads", "churn_decline", "spend"),
        change=events_with(unit_price=0 * pl.col("unit_price")),
    ),
} | {
    f"only {kind}": Shop(users=10, campaigns=False, change=events_with(event_type=pl.lit(kind)))
    for kind in STANDARD
    if kind not in ("purchase", "view")
}
PAIRS = [(name, task) for name, shop in SHOPS.items() for task in shop.of]


@cache
def shop_data(shop: Shop) -> TaskData:
    """Users with habits of their own: how often they come, what they like, when they left."""
    rng = np.random.default_rng(5)
    events: list[dict[str, object]] = []
    item_ids = [f"i{n:02d}" for n in range(shop.items)]
    price = dict(zip(item_ids, rng.uniform(1, 30, shop.items).round(2).tolist(), strict=True))
    campaigns = [
        (f"c{n}", START + timedelta(days=40 * n + 10), START + timedelta(days=40 * n + 35))
        for n in range((shop.days + 40) // 40)
    ]
    response = "coupon_redeem" if shop.coupons else "ad_click"
    for number in range(shop.users):
        user, gap = f"u{number:03d}", float(rng.uniform(2, 14))
        left = shop.days if rng.random() < 0.7 else float(rng.uniform(0, shop.days))
        favourites = rng.choice(item_ids, size=min(6, shop.items), replace=False)
        day, visit = float(rng.uniform(0, gap)), 0
        while day < left:
            at = START + timedelta(days=day)
            kinds = ["view"] * 2 * shop.views + ["purchase"] * 2 * shop.purchases
            for step, kind in enumerate(kinds):
                item = str(rng.choice(favourites if rng.random() < 0.8 else item_ids))
                bought = kind == "purchase"
                saved = 0.5 if bought and rng.random() < 0.2 else 0.0
                events.append(
                    {
                        "user_id": user,
                        "session_id": f"{user}-{visit}",
                        "event_type": kind,
                        "item_id": item,
                        "event_time": at + timedelta(minutes=step),
                        "quantity": float(rng.integers(1, 4)) if bought else None,
                        "unit_price": price[item] if bought and shop.prices else None,
                        "discount": saved if bought and shop.prices else None,
                        "coupon_discount": saved if bought and shop.prices else None,
                        "store_id": "s1" if bought else None,
                    }
                )
            day, visit = day + float(rng.exponential(gap)), visit + 1
        for campaign, start, _ in campaigns if shop.campaigns else ():
            if rng.random() < 0.7 and start < shop.as_of:
                events.append(_touch(user, campaign, "ad_impression", start))
                if rng.random() < 0.15 + 0.4 * (number % 3 == 0):
                    at = start + timedelta(days=float(rng.uniform(1, 24)))
                    events.append(_touch(user, campaign, response, at))
    known = [event for event in events if event["event_time"] < shop.as_of]
    weeks = pl.date_range(START.date(), shop.as_of.date(), "1w", eager=True) + timedelta(days=1)
    shown = pl.DataFrame({"week_start": weeks}).join(
        pl.DataFrame({"item_id": item_ids[::3]}, schema={"item_id": pl.String}), how="cross"
    )
    data = TaskData(
        events=_frame(
            [
                {"event_id": f"e{n}", "event_date": event["event_time"].date(), **event}
                for n, event in enumerate(known)
            ],
            schema.EVENTS,
        )
        .sort("event_time", "event_id")
        .lazy(),
        items=_frame(
            [
                {
                    "item_id": item,
                    "title": f"Article {item}",
                    "category": f"k{n % 4}",
                    "department": f"d{n % 2}",
                    "is_merchandise": True,
                    "valid_from": START - timedelta(days=1),
                }
                for n, item in enumerate(item_ids)
            ],
            schema.ITEMS,
        ),
        campaigns=_frame(
            [
                {"campaign_id": name, "campaign_type": "mail", "start_at": start, "end_at": end}
                for name, start, end in campaigns
                if shop.campaigns
            ],
            schema.CAMPAIGNS,
        ),
        campaign_items=_frame(
            [
                {"campaign_id": name, "item_id": item, "offer_id": f"o{item}"}
                for name, *_ in campaigns
                for item in item_ids[:5]
                if shop.campaigns and shop.coupons
            ],
            schema.CAMPAIGN_ITEMS,
        ),
        promotions=_frame(
            shown.with_columns(store_id=pl.lit("s1"), display=pl.lit("front")).to_dicts()
            if shop.promotions
            else [],
            schema.PROMOTIONS,
        ).lazy(),
        business=Business(timezone=shop.zone),
        subscriptions=monthly_terms([f"u{n:03d}" for n in range(shop.users)], START, shop.as_of),
    )
    changed = shop.change(data)
    return replace(changed, events=changed.events_before(shop.as_of))


def monthly_terms(users: list[str], start: datetime, as_of: datetime) -> pl.DataFrame:
    """Terms of 30 days for each user; every other one stops some day, half of them with notice."""
    rows: list[dict[str, object]] = []
    for n, user in enumerate(users):
        terms = 1 + n * 7 % 11 if n % 2 else 1_000
        begin = start + timedelta(days=n % 30)
        while begin < as_of and terms:
            end, terms = begin + timedelta(days=30), terms - 1
            rows.append(
                {
                    "user_id": user,
                    "subscription_id": "MAIN",
                    "plan": "basic" if n % 3 else "pro",
                    "started_at": begin,
                    "renews_or_ends_at": end,
                    "price": 9.0 if n % 3 else 29.0,
                    "cancelled_at": None if terms or n % 4 == 1 else end - timedelta(days=5),
                }
            )
            begin = end
    return _frame(rows, schema.SUBSCRIPTIONS)


def _touch(user: str, campaign: str, kind: str, at: datetime) -> dict[str, object]:
    return {"user_id": user, "event_type": kind, "event_time": at, "campaign_id": campaign}


def _frame(rows: list[dict[str, object]], table: schema.Table) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=table.polars_schema())
