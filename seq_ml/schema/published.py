"""Tables that analysts read: one snapshot per `as_of`, appended."""

from __future__ import annotations

from seq_ml.schema.contract import Column, Table

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
