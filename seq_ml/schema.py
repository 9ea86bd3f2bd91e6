"""The contract of every table: the one place that spells a column name, its type and its meaning.

From here come the Polars schemas, the Great Expectations suites, the column schemas of the Dagster
UI, the table reference in the README and the generators of the tests. Importing this module
imports nothing heavy: `Table.polars_schema()` loads Polars when it is called.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import polars as pl

EVENT_TYPES = (
    "view",
    "search",
    "click",
    "add_to_cart",
    "remove_from_cart",
    "wishlist",
    "purchase",
    "refund",
    "ad_impression",
    "ad_click",
    "coupon_redeem",
    "rate",
    "review",
    "contact",
)


@dataclass(frozen=True)
class Column:
    """One column: its dtype in Polars' words, its meaning, and what a valid value is."""

    name: str
    dtype: str
    description: str
    nullable: bool = False
    allowed: tuple[str, ...] | None = None
    minimum: float | None = None
    maximum: float | None = None
    missing: str = ""
    """What cleaning does without a value: "reject", "keep", "derive", "business" (the business'
    own value of that name), else the value that it fills in. Empty: keep if nullable, else reject.
    """
    missing_for: tuple[str, ...] = ()
    """Event types that a filled value is limited to; empty: all."""

    @property
    def if_missing(self) -> str:
        """What cleaning does without a value (see `missing`)."""
        return self.missing or ("keep" if self.nullable else "reject")


@dataclass(frozen=True)
class Table:
    """One table: name, meaning, columns, the key that is unique, and the partition column."""

    name: str
    description: str
    columns: tuple[Column, ...]
    key: tuple[str, ...]
    partition_by: str | None = None

    @property
    def names(self) -> list[str]:
        """Column names in order."""
        return [column.name for column in self.columns]

    def __getitem__(self, name: str) -> Column:
        """Return the column called `name`; KeyError when there is none."""
        for column in self.columns:
            if column.name == name:
                return column
        raise KeyError(name)

    def polars_schema(self) -> pl.Schema:
        """Return the schema as Polars dtypes."""
        import polars as pl

        return pl.Schema({c.name: polars_dtype(c.dtype) for c in self.columns})

    def markdown(self) -> str:
        """Render the reference table of the README."""
        rows = ["| column | type | meaning |", "|---|---|---|"]
        rows += [
            f"| `{c.name}`{' (key)' if c.name in self.key else ''} "
            f"| {c.dtype}{'?' if c.nullable else ''} | {c.description} |"
            for c in self.columns
        ]
        return "\n".join(rows)


def polars_dtype(name: str) -> Any:
    """Translate a dtype's name ("str", "f64", "datetime", "list[str]" …) to the Polars dtype."""
    import polars as pl

    scalar = {
        "str": pl.String,
        "bool": pl.Boolean,
        "f32": pl.Float32,
        "f64": pl.Float64,
        "i32": pl.Int32,
        "i64": pl.Int64,
        "date": pl.Date,
        "datetime": pl.Datetime("us", "UTC"),
        "reason": pl.Struct({"feature": pl.String, "value": pl.Float64, "effect": pl.Float64}),
        "tag": pl.Struct({"tag": pl.String, "evidence": pl.String}),
    }
    if name.startswith("list["):
        return pl.List(polars_dtype(name[5:-1]))
    return scalar[name]


# --- what a team drops: events and what is known about items, campaigns and promotions ------------

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
        Column("event_type", "str", "Behaviour type.", allowed=EVENT_TYPES),
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
            missing_for=("purchase", "refund", "add_to_cart"),
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
        Column("title", "str", "Name shown to people.", True),
        Column("description", "str", "Longer text.", True),
        Column("category", "str", "The category used for fall-backs and segments.", True),
        Column("department", "str", "The level above the category.", True),
        Column("brand", "str", "Brand or maker.", True),
        Column("price", "f64", "List price, currency units.", True, minimum=0),
        Column("is_merchandise", "bool", "False for fuel, coupons, fees: never forecast or shown."),
        Column("valid_from", "datetime", "From when on this row was known (UTC)."),
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

INPUT_TABLES = {
    "events": EVENTS,
    "items": ITEMS,
    "campaigns": CAMPAIGNS,
    "campaign_items": CAMPAIGN_ITEMS,
    "promotions": PROMOTIONS,
}

# --- what happened to a drop ----------------------------------------------------------------------

DROP_LEDGER = Table(
    "drop_ledger",
    "Every object ever dropped: rows read = kept + duplicates + quarantined, once it is clean.",
    (
        Column("key", "str", "Object key in the bucket."),
        Column("etag", "str", "Content tag of the object; a corrected re-upload has a new one."),
        Column("size", "i64", "Bytes."),
        Column("landed_at", "datetime", "Last modification of the object (UTC)."),
        Column("source", "str", "Name of the source mapping.", True),
        Column("table", "str", "Input table that the rows belong to.", True),
        Column(
            "status",
            "str",
            "started → ingested → clean; or refused, with the reason.",
            allowed=("started", "ingested", "clean", "refused", "deleted"),
        ),
        Column("reason", "str", "Why a file was refused and what to do.", True),
        Column("mapping", "str", "Version of the mapping's entry that read the file.", True),
        Column("rows_read", "i64", "Records in the file (a row may carry several).", minimum=0),
        Column("rows_kept", "i64", "Rows published.", True, minimum=0),
        Column("rows_duplicate", "i64", "Rows dropped as re-sent.", True, minimum=0),
        Column("rows_quarantined", "i64", "Rows set aside with a reason.", True, minimum=0),
        Column("partitions", "list[str]", "Days (events) or weeks (promotions) touched."),
        Column("recorded_at", "datetime", "When this ledger row was written (UTC)."),
    ),
    key=("key",),
)

QUARANTINED = Table(
    "quarantined_events",
    "Every rejected row, with the rule that rejected it, the file, the row and the value.",
    (
        Column("table", "str", "Input table that the row was meant for."),
        Column("source_file", "str", "Object key of the drop."),
        Column("row_number", "i64", "Row in the file from 1, without the header.", minimum=1),
        Column("part", "i32", "Which of the events of that row, from 0.", minimum=0),
        Column("rule", "str", "Name of the rule."),
        Column("column", "str", "Offending column of the contract.", True),
        Column("value", "str", "Value as found.", True),
        Column("event_date", "date", "UTC day of the event; the day of arrival if it has none."),
    ),
    key=("source_file", "row_number", "part"),
    partition_by="event_date",
)

DAY_PROFILES = Table(
    "day_profiles",
    "What a day of clean_events looked like, in sums: what later days are compared with.",
    (
        Column("event_date", "date", "Day (UTC)."),
        Column(
            "metric",
            "str",
            "rows: with that value; nulls: without a value; priced: with a price above 0; "
            "log_price: sum of the natural logarithms of those prices.",
            allowed=("rows", "nulls", "priced", "log_price"),
        ),
        Column("column", "str", "Column of clean_events that the number is about."),
        Column(
            "value",
            "str",
            "Value of that column (rows), else the event type that the number is about.",
        ),
        Column("number", "f64", "The count or the sum."),
    ),
    key=("event_date", "metric", "column", "value"),
    partition_by="event_date",
)

# --- sequences and embeddings ---------------------------------------------------------------------

_LISTS = (
    Column("item_ids", "list[str]", "Items, null where the event has none."),
    Column("event_types", "list[str]", "Behaviour types."),
    Column("event_times", "list[datetime]", "Instants (UTC), ascending."),
    Column("quantities", "list[f64]", "Units."),
    Column("unit_prices", "list[f64]", "Currency units for one unit."),
)

USER_SEQUENCES = Table(
    "user_sequences",
    "Each user's behaviour as daily segments: all behaviour types of one UTC day in one sequence, "
    "ordered by (event_time, event_id). A segment depends on its day alone.",
    (
        Column("user_id", "str", "User."),
        Column("shard", "i32", "Shard: first 32 bits of the pseudonym modulo the shard count."),
        Column("segment_date", "date", "UTC day of the events; the partition."),
        Column("source", "str", "Shard count and fingerprint of the day's clean files."),
        Column("length", "i64", "Number of events in the lists.", minimum=1),
        *_LISTS,
    ),
    key=("user_id", "segment_date"),
    partition_by="segment_date",
)

SEQUENCE_SNAPSHOT = Table(
    "sequence_snapshot",
    "Each user's newest events before `as_of`, oldest first: what is read from the segments.",
    (
        Column("user_id", "str", "User."),
        Column("shard", "i32", "Shard: first 32 bits of the pseudonym modulo the shard count."),
        Column("as_of", "datetime", "Cut-off: events strictly before it."),
        *_LISTS,
        Column("length", "i64", "Number of events in the lists.", minimum=1),
        Column("total_events", "i64", "Events of the user before `as_of`, before truncation."),
    ),
    key=("user_id", "as_of"),
)

ITEM_EMBEDDINGS = Table(
    "item_embeddings",
    "The encoder's vector of each item in the vocabulary.",
    (
        Column("item_id", "str", "Item."),
        Column("embedding", "list[f32]", "Vector of fixed length."),
        Column("model_version", "str", "Encoder version."),
    ),
    key=("item_id",),
)

USER_EMBEDDINGS = Table(
    "user_embeddings",
    "The encoder's vector of each user at `as_of`.",
    (
        Column("user_id", "str", "User."),
        Column("as_of", "datetime", "Cut-off: events strictly before it."),
        Column("embedding", "list[f32]", "Vector of fixed length."),
        Column("model_version", "str", "Encoder version."),
    ),
    key=("user_id", "as_of"),
)

# --- published tables -----------------------------------------------------------------------------

STAMP = (
    Column("as_of", "datetime", "Cut-off (UTC): features strictly before it."),
    Column("model_version", "str", "Version in the registry that produced the row."),
    Column("source", "str", "What produced the row: the model, or the baseline that won."),
    Column("run_id", "str", "Dagster run."),
    Column("created_at", "datetime", "When the row was written (UTC)."),
)

RECOMMENDATIONS = Table(
    "recommendations",
    "What each user will want in the next 30 days, best first.",
    (
        Column("user_id", "str", "User."),
        Column("rank", "i32", "1 = best.", minimum=1),
        Column(
            "rec_type",
            "str",
            "Why it is in the list.",
            allowed=("for_you", "buy_again", "new", "bought_together", "fallback"),
        ),
        Column("item_id", "str", "Item recommended."),
        Column("score", "f32", "Comparable within one user's list only."),
        Column(
            "p_purchase",
            "f32",
            "Calibrated probability of a purchase within horizon_days.",
            True,
            minimum=0,
            maximum=1,
        ),
        Column("horizon_days", "i32", "Days after `as_of` that p_purchase speaks of."),
        Column("reason", "str", "One sentence."),
        Column("reason_items", "list[str]", "Items of the user's past behind it."),
        Column("is_fallback", "bool", "True when nothing personal was known."),
        Column("in_stock", "bool", "Null when no stock file is given.", True),
        *STAMP,
    ),
    key=("user_id", "rank", "as_of"),
)

CHURN_PREDICTIONS = Table(
    "churn_predictions",
    "Who will stop buying, or buy much less, per definition of churn.",
    (
        Column("user_id", "str", "User."),
        Column("label_def", "str", "Definition of churn: silence or decline."),
        Column("horizon_days", "i32", "Length of the label window after `as_of`."),
        Column("eligible", "bool", "False when the definition does not apply to this user."),
        Column(
            "p_churn",
            "f32",
            "Calibrated probability; null when not eligible.",
            True,
            minimum=0,
            maximum=1,
        ),
        Column("base_rate", "f32", "Share of churners in the latest closed window."),
        Column("risk_decile", "i32", "10 = highest risk.", True, minimum=1, maximum=10),
        Column("risk_band", "str", "low, medium, high.", True, allowed=("low", "medium", "high")),
        Column("expected_orders", "f32", "Orders expected within the horizon."),
        Column("expected_spend", "f64", "Spend expected within the horizon, currency units."),
        Column("value_at_risk", "f64", "p_churn × spend of as long a past window.", True),
        Column("next_order_date", "date", "Last order plus the usual interval.", True),
        Column("top_reasons", "list[reason]", "Features that moved the probability most."),
        Column("recommended_action", "str", "What to do.", True),
        Column("expected_gain", "f64", "Null: no effect of an action was measured yet.", True),
        *STAMP,
    ),
    key=("user_id", "label_def", "horizon_days", "as_of"),
)

INVENTORY_PREDICTIONS = Table(
    "inventory_predictions",
    "Demand over lead time plus review period, and what to reorder.",
    (
        Column("item_id", "str", "Item."),
        Column("store_id", "str", "Store, ALL for the whole business."),
        Column("lead_time_days", "i32", "Days from order to delivery."),
        Column("review_period_days", "i32", "Days between orders."),
        Column("service_level", "f32", "Probability of no stock-out aimed at."),
        Column("demand_mean", "f64", "Units expected over lead time + review.", minimum=0),
        Column("demand_p10", "f64", "Quantile 0.10 of demand, units.", minimum=0),
        Column("demand_p50", "f64", "Quantile 0.50 of demand, units.", minimum=0),
        Column("demand_p90", "f64", "Quantile 0.90 of demand, units.", minimum=0),
        Column("demand_p95", "f64", "Quantile 0.95 of demand, units.", minimum=0),
        Column("safety_stock", "f64", "order_up_to − demand_mean, not below 0.", minimum=0),
        Column("reorder_point", "f64", "Order when the inventory position falls to it.", minimum=0),
        Column("order_up_to", "f64", "Demand quantile at the service level.", minimum=0),
        Column("on_hand", "f64", "Null when no stock file is given.", True),
        Column("on_order", "f64", "Null when no stock file is given.", True),
        Column("inventory_position", "f64", "on_hand + on_order.", True),
        Column("recommended_order_qty", "f64", "Null without a stock file.", True, minimum=0),
        Column("order_by_date", "date", "Null when no stock file is given.", True),
        Column("days_of_cover", "f64", "Null when no stock file is given.", True),
        Column("stockout_prob", "f64", "Null when no stock file is given.", True),
        Column("expected_lost_units", "f64", "E[(demand − order_up_to)+], units.", minimum=0),
        Column(
            "demand_class",
            "str",
            "Syntetos–Boylan class (ADI 1.32, CV² 0.49).",
            allowed=("smooth", "erratic", "intermittent", "lumpy"),
        ),
        Column("is_censored", "bool", "True when stock-outs hid demand; null when unknown.", True),
        Column("promo_known", "bool", "True when the promotion plan of the horizon was used."),
        Column("backtest_wape", "f64", "Σ|error| / Σdemand of the segment in the backtest.", True),
        Column("backtest_bias", "f64", "Σerror / Σdemand of the segment in the backtest.", True),
        Column("backtest_cov90", "f64", "Share of demand at or below p90 in the backtest.", True),
        *STAMP,
    ),
    key=("item_id", "store_id", "as_of"),
)

AD_PREDICTIONS = Table(
    "ad_predictions",
    "How likely each user is to respond to each campaign that runs after `as_of`.",
    (
        Column("user_id", "str", "User."),
        Column("campaign_id", "str", "Campaign."),
        Column("p_response", "f32", "Calibrated probability.", minimum=0, maximum=1),
        Column("response_type", "str", "What counts as a response: coupon_redeem or ad_click."),
        Column("horizon_hours", "i32", "Length of the response window: the campaign's duration."),
        Column("p_response_control", "f32", "Null without a randomised hold-out.", True),
        Column("uplift", "f32", "Null without a randomised hold-out.", True),
        Column("expected_revenue", "f64", "p_response × value of a response, currency units."),
        Column("expected_cost", "f64", "Cost of one contact, currency units."),
        Column("rank", "i32", "1 = highest expected profit within the campaign.", minimum=1),
        Column("decision", "str", "What to do.", allowed=("send", "hold", "explore")),
        Column(
            "propensity",
            "f32",
            "Probability that this policy contacts the user; log it with the outcome.",
            minimum=0,
            maximum=1,
        ),
        *STAMP,
    ),
    key=("user_id", "campaign_id", "as_of"),
)

USER_PROFILES = Table(
    "user_profiles",
    "One row per user: what they did, what they are worth, who resembles them.",
    (
        Column("user_id", "str", "User."),
        Column("first_order_at", "datetime", "First purchase (UTC).", True),
        Column("last_order_at", "datetime", "Last purchase before `as_of` (UTC).", True),
        Column("orders_total", "i64", "Orders (sessions with a purchase).", minimum=0),
        Column("orders_28d", "i64", "Orders in the last 28 days.", minimum=0),
        Column("orders_91d", "i64", "Orders in the last 91 days.", minimum=0),
        Column("orders_365d", "i64", "Orders in the last 365 days.", minimum=0),
        Column("spend_total", "f64", "Spend, currency units."),
        Column("spend_28d", "f64", "Spend of the last 28 days."),
        Column("spend_91d", "f64", "Spend of the last 91 days."),
        Column("spend_365d", "f64", "Spend of the last 365 days."),
        Column("aov", "f64", "Average order value.", True),
        Column("recency_days", "f64", "Days since the last order.", True),
        Column("tenure_days", "f64", "Days since the first order.", True),
        Column("avg_days_between_orders", "f64", "Mean gap between order days.", True),
        Column("std_days_between_orders", "f64", "Its standard deviation.", True),
        Column("active_days_91d", "i64", "Days with any event in the last 91 days.", minimum=0),
        Column("discount_share", "f64", "Discount / (spend + discount).", True),
        Column("coupons_used_91d", "i64", "Coupons redeemed in the last 91 days.", minimum=0),
        Column("clv_expected", "f64", "Expected spend of the next 365 days, currency units.", True),
        Column("clv_p10", "f64", "Its quantile 0.10.", True),
        Column("clv_p90", "f64", "Its quantile 0.90.", True),
        Column("segment", "str", "Name of the user's segment."),
        Column("segment_since", "date", "First as_of in this segment, without a break."),
        Column("tags", "list[tag]", "Tags with the events behind them."),
        Column("embedding", "list[f32]", "The encoder's vector, fixed length.", True),
        Column("anomaly_score", "f32", "Isolation forest: higher is more unusual."),
        Column("anomaly_reason", "str", "What is unusual about the 1 % most unusual users.", True),
        *STAMP,
    ),
    key=("user_id", "as_of"),
)

PUBLISHED = {
    table.name: table
    for table in (
        RECOMMENDATIONS,
        CHURN_PREDICTIONS,
        INVENTORY_PREDICTIONS,
        AD_PREDICTIONS,
        USER_PROFILES,
    )
}
