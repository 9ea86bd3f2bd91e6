"""What a team drops: events, and what is known of items, campaigns, stock and subscriptions."""

from __future__ import annotations

from seq_ml.roles import COUNTED
from seq_ml.schema.contract import Column, Table

EVENTS = Table(
    "clean_events",
    "Validated behaviour events, one row per event, filed by their UTC day.",
    (
        Column(
            "event_id",
            "str",
            "`source:id` where the source gives one, else a keyed hash.",
            missing="derive",
        ),
        Column("user_id", "str", "Pseudonym: keyed hash of the source's user id (32 hex digits)."),
        Column("session_id", "str", "Visit, basket or order that the event belongs to.", True),
        Column(
            "event_type",
            "str",
            "Behaviour: a standard one (`seq_ml.roles`) or one of the business's own.",
        ),
        Column("item_id", "str", "Item of the catalogue.", True),
        Column("event_time", "datetime", "When it happened (UTC, microseconds)."),
        Column(
            "quantity",
            "f64",
            "Units.",
            True,
            minimum=0,
            maximum=1_000_000,
            missing="1",
            missing_for=(*COUNTED, "add_to_cart"),
        ),
        Column(
            "unit_price",
            "f64",
            "Currency units received for one unit.",
            True,
            minimum=0,
            maximum=1_000_000,
        ),
        Column("currency", "str", "ISO 4217 code.", True, missing="business"),
        Column("discount", "f64", "Price reduction of the whole event, currency units.", True),
        Column("coupon_discount", "f64", "The part of `discount` that coupons paid.", True),
        Column("store_id", "str", "Shop or site.", True),
        Column("channel", "str", "web, app, store, mail …", True),
        Column("campaign_id", "str", "Campaign behind the event.", True),
        Column("query", "str", "Search words.", True),
        Column("rating", "f64", "Rating given, in the source's scale.", True),
        Column("text", "str", "Review or message text.", True),
        Column(
            "propensity",
            "f64",
            "Probability (0 to 1) with which the campaign was going to be shown to the user: of an "
            "exposure, or of a behaviour that says it was held back.",
            True,
            minimum=0,
            maximum=1,
        ),
        Column("event_date", "date", "UTC day of `event_time`; the partition.", missing="derive"),
    ),
    key=("event_id", "event_date"),
    partition_by="event_date",
)

ITEMS = Table(
    "items",
    "The catalogue: one row per item and validity start.",
    (
        Column("item_id", "str", "Item of the catalogue."),
        Column(
            "product_id",
            "str",
            "Product that the item is a variant (size, colour) of: a list names one of them.",
            True,
        ),
        Column("title", "str", "Name shown to people.", True),
        Column("description", "str", "Longer text.", True),
        Column("category", "str", "The category used for fall-backs and segments.", True),
        Column("department", "str", "The level above the category.", True),
        Column("brand", "str", "Brand or maker.", True),
        Column("price", "f64", "List price, in the currency of the business.", True, minimum=0),
        Column(
            "unit_cost",
            "f64",
            "What one unit costs the business, in its currency: then decisions go by margin.",
            True,
            minimum=0,
        ),
        Column("is_merchandise", "bool", "False for fuel, coupons, fees: never forecast or shown."),
        Column("valid_from", "datetime", "From when on this row was known (UTC)."),
        Column(
            "valid_until",
            "datetime",
            "End of the item: from then on (UTC) it is neither shown nor ordered.",
            True,
        ),
    ),
    key=("item_id", "valid_from"),
)

CAMPAIGNS = Table(
    "campaigns",
    "Advertising campaigns with their running time.",
    (
        Column("campaign_id", "str", "Campaign."),
        Column("campaign_type", "str", "Kind of campaign.", True),
        Column("start_at", "datetime", "First instant (UTC)."),
        Column("end_at", "datetime", "First instant after the campaign (UTC)."),
    ),
    key=("campaign_id",),
)

CAMPAIGN_ITEMS = Table(
    "campaign_items",
    "Which items the offers (coupons) of a campaign cover.",
    (
        Column("campaign_id", "str", "Campaign."),
        Column("item_id", "str", "Item covered."),
        Column("offer_id", "str", "Coupon or offer."),
    ),
    key=("campaign_id", "offer_id", "item_id"),
)

PROMOTIONS = Table(
    "promotions",
    "Promotion plan: items on display or in the mailer, per store and week.",
    (
        Column("item_id", "str", "Item promoted."),
        Column("store_id", "str", "Store."),
        Column("week_start", "date", "Monday of the business week."),
        Column("display", "str", "Place of the display, null when there is none.", True),
        Column("mailer", "str", "Place in the mailer, null when there is none.", True),
    ),
    key=("item_id", "store_id", "week_start"),
    partition_by="week_start",
)

STOCK = Table(
    "stock",
    "Counts of what lies in the shelves and what is under way (optional), newest row per item and "
    "store.",
    (
        Column("item_id", "str", "Item counted."),
        Column("store_id", "str", "Store; ALL for the whole business.", missing="ALL"),
        Column("counted_at", "datetime", "When it was counted (UTC)."),
        Column("on_hand", "f64", "Units on hand.", minimum=0),
        Column("on_order", "f64", "Units ordered and not yet delivered.", minimum=0, missing="0"),
        Column(
            "lead_time_days", "f64", "Days from order to delivery of this item.", True, minimum=0
        ),
        Column(
            "pack_size", "f64", "Units that one order line must be a multiple of.", True, minimum=0
        ),
        Column(
            "lead_time_sd_days",
            "f64",
            "Standard deviation of the lead time, days; null: it never varies.",
            True,
            minimum=0,
        ),
        Column("min_order_qty", "f64", "Units that an order has at least.", True, minimum=0),
        Column(
            "shelf_life_days",
            "f64",
            "Days from delivery until a unit cannot be sold any more.",
            True,
            minimum=0,
        ),
        Column(
            "shortage_cost_ratio",
            "f64",
            "What a unit too few costs over what a unit too many does: r makes r / (1 + r) the "
            "service level of this item.",
            True,
            minimum=0,
        ),
    ),
    key=("item_id", "store_id", "counted_at"),
)

SUBSCRIPTIONS = Table(
    "subscriptions",
    "Terms of subscriptions and contracts (optional), one row per term; a renewal is a new row, as "
    "is a date that moves.",
    (
        Column("user_id", "str", "Pseudonym: keyed hash of the source's user id (32 hex digits)."),
        Column(
            "subscription_id",
            "str",
            "Which one, where a user may hold several; MAIN: the only one.",
            missing="MAIN",
        ),
        Column("plan", "str", "What was agreed: the plan, the tariff, the product."),
        Column("started_at", "datetime", "First instant of the term (UTC)."),
        Column(
            "renews_or_ends_at",
            "datetime",
            "When the term runs out, as agreed at `known_at`, whatever was cancelled since (UTC); "
            "null: open-ended, there is no renewal to speak of.",
            True,
        ),
        Column("price", "f64", "Currency units for the whole term.", True, minimum=0),
        Column("currency", "str", "ISO 4217 code; null: the business's own.", True),
        Column("cancelled_at", "datetime", "When notice was given (UTC); null: it was not.", True),
        Column(
            "known_at",
            "datetime",
            "From when on this row was known (UTC): later than the start where the date moved or "
            "the term was entered late; null: from the start on.",
            True,
        ),
    ),
    key=("user_id", "subscription_id", "started_at", "known_at"),
)

EXCHANGE_RATES = Table(
    "exchange_rates",
    "What currencies were worth (optional): needed where events have prices in several.",
    (
        Column("date", "date", "Day of the rate; it holds until the next one, a week at most."),
        Column("from_currency", "str", "ISO 4217 code."),
        Column("to_currency", "str", "ISO 4217 code; either of the two is the business's own."),
        Column("rate", "f64", "Units of `to_currency` for one of `from_currency`.", minimum=1e-9),
    ),
    key=("date", "from_currency", "to_currency"),
)

LABELS = Table(
    "labels",
    "Answers of your own that a fine-tuning learns from: a yes or no of a user at an instant.",
    (
        Column("user_id", "str", "The user."),
        Column("origin", "datetime", "Only events before it are read (UTC)."),
        Column("label", "f64", "1: yes, 0: no.", minimum=0, maximum=1),
        Column("label_end", "datetime", "When the answer was known (UTC).", True),
    ),
    key=("user_id", "origin"),
)

INPUT_TABLES = {
    "events": EVENTS,
    "items": ITEMS,
    "campaigns": CAMPAIGNS,
    "campaign_items": CAMPAIGN_ITEMS,
    "promotions": PROMOTIONS,
    "stock": STOCK,
    "subscriptions": SUBSCRIPTIONS,
    "exchange_rates": EXCHANGE_RATES,
}
