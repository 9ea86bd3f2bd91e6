"""What is known about a user and a campaign before a contact: features strictly before an origin.

Three parts: the user's behaviour (`seq_ml.tasks.behaviour.features`), their answers to earlier
campaigns, and how the campaign's offers meet what they buy. The strongest of the last part is how
many of the offers cover an item that the user has paid with a coupon before. Counts over a year
come with a rate per quarter of the known history, which means the same in early campaigns as in
late.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import polars as pl

from seq_ml.metrics.shrinkage import drawn
from seq_ml.periods import RECENT_DAYS, WINDOW_DAYS
from seq_ml.roles import COUPON
from seq_ml.tasks.behaviour.features import BEHAVIOUR_FEATURES, behaviour_features
from seq_ml.tasks.behaviour.visits import Behaviour, read_behaviour

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from seq_ml.business import Business
    from seq_ml.tasks.data import TaskData

HALF_LIFE_DAYS = 60
"""A purchase of an offered item counts half after so many days in `offers_decayed`."""
USER_PRIOR = 2.0
TYPE_PRIOR = 50.0
"""Contacts by which the response rate of a user, of a campaign type, is drawn to the mean."""

RESPONSE_FEATURES = (
    "user_response_rate",
    "campaigns_received",
    "days_since_response",
    "type_response_rate",
    "redemptions_long",
    "redemption_days_long",
    "campaigns_redeemed_long",
    "redemptions_rate",
)
OFFER_FEATURES = (
    "offers",
    "campaign_items",
    "campaign_days",
    "item_spend_window",
    "item_orders_window",
    "item_share_window",
    "item_lines_long",
    "item_coupons_long",
    "offers_bought_window",
    "offers_decayed",
    "offers_with_coupon_long",
    "offers_with_coupon_rate",
)
FEATURES = (*BEHAVIOUR_FEATURES, *RESPONSE_FEATURES, *OFFER_FEATURES)
MOST_USERS = 50_000
"""Of more users a sample is learnt from and judged: of a hundred contacts few are answered."""
SLICES = ("campaign_type", "responded_before", "history")


@dataclass(frozen=True)
class AdHistory:
    """What is known strictly before as_of.

    contacts: user_id, campaign_id, campaign_type, start_at, end_at, contacted_at, responded_at
    (first response, null without one). impressions, responses: user_id, campaign_id, at, day
    (business day) of every one.
    item_lines: user_id, item (code), at, spend, coupon (bool); conversions of offered items.
    codes: campaign_id, item (code), offer_id. first_seen: user_id, first_seen (the first own event;
    a contact is none).
    """

    behaviour: Behaviour
    contacts: pl.DataFrame
    impressions: pl.DataFrame
    responses: pl.DataFrame
    item_lines: pl.DataFrame
    codes: pl.DataFrame
    first_seen: pl.DataFrame
    response_type: str
    business: Business
    sampled: AdHistory | None = None
    """That of the sample whose rates stand for those of everybody, where it is another one."""

    @property
    def everybody(self) -> AdHistory:
        """The history that the rates of everybody are taken from."""
        return self.sampled or self


def sample(data: TaskData) -> TaskData:
    """Return the data of those who stand for everybody: some MOST_USERS users, all if fewer."""
    return data.some(MOST_USERS)


def read_ad_history(data: TaskData, as_of: datetime) -> AdHistory:
    """Reduce the events strictly before `as_of` to what the features need; the data keep it.

    Of many users a sample says which behaviour is a response, and how often there is one.
    """
    some = sample(data)
    sampled = None if some is data else read_ad_history(some, as_of)
    history: AdHistory = data.keep(("ads", as_of), lambda data: _read(data, as_of, sampled))
    return history


def _read(data: TaskData, as_of: datetime, sampled: AdHistory | None) -> AdHistory:
    events = data.events_before(as_of)
    touches = (
        events.filter(
            pl.col("campaign_id").is_not_null(),
            data.business.of_role("exposure", "response", "conversion"),
        )
        .select(
            "user_id",
            "campaign_id",
            "event_type",
            at="event_time",
            day=pl.col("event_time").dt.convert_time_zone(data.business.timezone).dt.date(),
        )
        .collect()
        .sort("at", "user_id", "campaign_id")
    )
    response_type = sampled.response_type if sampled else the_response(touches, data.business)
    impressions, responses = (
        touches.filter(which).drop("event_type")
        for which in (data.business.of_role("exposure"), pl.col("event_type") == response_type)
    )
    # One row per contact that could work: made, and answered, before the campaign was over.
    contacts = (
        first_touch(impressions, "contacted_at")
        .join(
            first_touch(responses, "responded_at"),
            on=["user_id", "campaign_id"],
            how="left",
        )
        .join(data.campaigns, on="campaign_id", how="inner")
        .filter(pl.col("contacted_at") < pl.col("end_at"))
        .with_columns(
            responded_at=pl.when(pl.col("responded_at") < pl.col("end_at")).then("responded_at")
        )
        .sort("start_at", "campaign_id", "user_id")
    )
    # Only purchases of items that some campaign offers; as codes, which are joined at every origin.
    offered = data.campaign_items.select(pl.col("item_id").unique().sort()).with_row_index("item")
    item_lines = (
        events.filter(data.business.of_role("conversion"))
        .join(offered.lazy(), on="item_id", how="inner")
        .select(
            "user_id",
            "item",
            at="event_time",
            spend=(pl.col("quantity") * pl.col("unit_price")).fill_null(0.0),
            coupon=pl.col("coupon_discount").fill_null(0.0) > 0,
        )
        .collect()
    )
    return AdHistory(
        read_behaviour(data, as_of),
        contacts,
        impressions,
        responses,
        item_lines,
        data.campaign_items.join(offered, on="item_id", how="inner"),
        events.filter(~data.business.of_role("exposure"), pl.col("propensity").is_null())
        .group_by("user_id")
        .agg(first_seen=pl.col("event_time").min())
        .collect(),
        response_type,
        data.business,
        sampled,
    )


def the_response(touches: pl.DataFrame, business: Business) -> str:
    """Return the behaviour that counts as a response: the first of these that a campaign is behind.

    A shop with coupons is judged by redemptions; clicks stand in where there are none, after the
    responses that the business names itself, and conversions where nobody logs a response.
    """
    own = [name for name in business.behaviours if name in business.named("response")]
    named = (COUPON, *own, *business.named("response"), *business.named("conversion"))
    seen = set(touches["event_type"])
    return next((name for name in named if name in seen), "ad_click")


def first_touch(touches: pl.DataFrame, name: str) -> pl.DataFrame:
    """Return the first `at` of each user and campaign, called `name`."""
    return touches.group_by("user_id", "campaign_id").agg(pl.col("at").min().alias(name))


def ad_features(
    history: AdHistory, users: pl.Series, campaigns: Sequence[dict[str, Any]]
) -> pl.DataFrame:
    """Features of `users` for campaigns of one start, from events strictly before it.

    Behaviour of the business day on which a campaign starts is not looked at, whatever the hour:
    it is kept by day. campaigns: rows of CAMPAIGNS with the same `start_at`, at least one. Returns
    user_id, campaign_id, origin, SLICES and FEATURES, campaign by campaign, each sorted by user_id.
    """
    origin: datetime = campaigns[0]["start_at"]
    business, long = history.business, history.behaviour.periods.spans["long"]
    earlier = _contacts_before(history, origin)
    midnight = business.midnight(business.day_of(origin))
    people = behaviour_features(history.behaviour, midnight, users)
    year = (pl.col("at") < origin) & (pl.col("at") >= origin - timedelta(days=long))
    for part in (_answers(earlier, history.responses.filter(year), origin), history.first_seen):
        people = people.join(part, on="user_id", how="left", maintain_order="left")
    lines = history.item_lines.filter(year).join(people, on="user_id", how="semi")
    return pl.concat([_of_campaign(history, people, lines, campaign) for campaign in campaigns])


def _contacts_before(history: AdHistory, origin: datetime) -> pl.DataFrame:
    """Return the contacts before the origin, with the responses that came before it."""
    return history.contacts.filter(pl.col("contacted_at") < origin).with_columns(
        responded_at=pl.when(pl.col("responded_at") < origin).then("responded_at")
    )


def _of_campaign(
    history: AdHistory, people: pl.DataFrame, lines: pl.DataFrame, campaign: dict[str, Any]
) -> pl.DataFrame:
    """Complete what is known of people by what one campaign offers them.

    lines: item_lines of the year before the origin.
    """
    origin: datetime = campaign["start_at"]
    earlier = _contacts_before(history.everybody, origin)
    # Rates of few contacts are drawn to the rate of all. That of the type counts campaigns that are
    # over: where responses are still to come it would be too low.
    overall = earlier["responded_at"].count() / max(earlier.height, 1)
    over = earlier.filter(
        (pl.col("end_at") <= origin)
        & pl.col("campaign_type").eq_missing(pl.lit(campaign["campaign_type"], dtype=pl.String))
    )
    covered = history.codes.filter(pl.col("campaign_id") == campaign["campaign_id"])
    periods = history.behaviour.periods
    bought = _items_bought(lines, covered, origin, periods.window_days)
    frame = people.join(bought, on="user_id", how="left", maintain_order="left")
    # A count that is missing is 0; how long ago something was that never was stays unknown.
    counted = [name for name in (*RESPONSE_FEATURES, *OFFER_FEATURES) if name in frame.columns]
    counted.remove("days_since_response")
    # Counts of up to a year are also told per quarter of the history that there is.
    received = pl.col("campaigns_received")
    first_seen = history.everybody.first_seen["first_seen"]
    begin: datetime | None = first_seen.min()  # type: ignore[assignment]
    known_days = (origin - begin).total_seconds() / 86400.0 if begin else 0.0
    quarters = min(max(known_days, 1.0), periods.spans["long"]) / WINDOW_DAYS
    return (
        frame.with_columns(pl.col(counted).fill_null(0).cast(pl.Float64))
        .with_columns(
            campaign_id=pl.lit(campaign["campaign_id"], dtype=pl.String),
            campaign_type=pl.lit(campaign["campaign_type"], dtype=pl.String),
            origin=pl.lit(origin, dtype=pl.Datetime("us", "UTC")),
            responded_before=pl.when(pl.col("responded") > 0)
            .then(pl.lit("yes"))
            .otherwise(pl.lit("no")),
            history=_history_length(origin),
            user_response_rate=drawn(
                pl.col("responded").fill_null(0), received, overall, USER_PRIOR
            ),
            type_response_rate=pl.lit(
                drawn(over["responded_at"].count(), over.height, overall, TYPE_PRIOR)
            ),
            offers=pl.lit(float(covered["offer_id"].n_unique())),
            campaign_items=pl.lit(float(covered["item"].n_unique())),
            campaign_days=pl.lit((campaign["end_at"] - origin).total_seconds() / 86400.0),
            item_share_window=pl.when(pl.col("spend_window") > 0).then(
                pl.col("item_spend_window") / pl.col("spend_window")
            ),
            redemptions_rate=pl.col("redemptions_long") / quarters,
            offers_with_coupon_rate=pl.col("offers_with_coupon_long") / quarters,
        )
        .select("user_id", "campaign_id", "origin", *SLICES, *FEATURES)
    )


def _answers(earlier: pl.DataFrame, year: pl.DataFrame, origin: datetime) -> pl.DataFrame:
    """How each user answered the contacts before the origin; year: responses of the year before."""
    since = (pl.lit(origin) - pl.col("responded_at").max()).dt.total_seconds() / 86400.0
    of_contacts = earlier.group_by("user_id").agg(
        campaigns_received=pl.len(),
        responded=pl.col("responded_at").count(),
        days_since_response=since,
    )
    of_responses = year.group_by("user_id").agg(
        redemptions_long=pl.len(),
        redemption_days_long=pl.col("day").n_unique(),
        campaigns_redeemed_long=pl.col("campaign_id").n_unique(),
    )
    return of_contacts.join(of_responses, on="user_id", how="full", coalesce=True)


def _items_bought(
    lines: pl.DataFrame, covered: pl.DataFrame, origin: datetime, window_days: int
) -> pl.DataFrame:
    """How the offers of one campaign meet the purchases of the year before the origin, per user.

    Sums are rounded: the order of the rows is not kept, and may not show.
    """
    age = (pl.lit(origin) - pl.col("at")).dt.total_seconds() / 86400.0
    recent = pl.col("age") <= window_days
    lines = lines.join(covered, on="item", how="semi").with_columns(age=age)
    of_items = lines.group_by("user_id").agg(
        item_spend_window=pl.col("spend").filter(recent).sum().round(3),
        item_orders_window=pl.col("at").filter(recent).n_unique(),
        item_lines_long=pl.len(),
        item_coupons_long=pl.col("coupon").sum(),
    )
    decay = (0.5 ** (pl.col("age") / HALF_LIFE_DAYS)).sum()
    of_offers = (
        lines.group_by("user_id", "item")
        .agg(bought=recent.any(), coupon=pl.col("coupon").any(), decayed=decay)
        .join(covered.select("item", "offer_id"), on="item", how="inner")
        .group_by("user_id", "offer_id")
        .agg(pl.col("bought").any(), pl.col("coupon").any(), pl.col("decayed").sum())
        .group_by("user_id")
        .agg(
            offers_bought_window=pl.col("bought").sum(),
            offers_decayed=pl.col("decayed").sum().round(6),
            offers_with_coupon_long=pl.col("coupon").sum(),
        )
    )
    return of_items.join(of_offers, on="user_id", how="left")


def _history_length(origin: datetime) -> pl.Expr:
    """Time since the user's first event: a slice of the report."""
    days = (pl.lit(origin) - pl.col("first_seen")).dt.total_days()
    names = ["new: up to 4 weeks", "5 to 13 weeks", "14 to 26 weeks", "over 26 weeks"]
    lengths = days.cut([RECENT_DAYS, WINDOW_DAYS, 2 * WINDOW_DAYS], labels=names)
    return lengths.cast(pl.String).fill_null(names[0])  # who has done nothing yet is new
