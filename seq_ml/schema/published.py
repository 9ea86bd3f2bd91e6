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
        Column(
            "rank",
            "i32",
            "1 = best. Half of the rows are kept for items new for the user.",
            minimum=1,
        ),
        Column(
            "rec_type",
            "str",
            "Why it is in the list; all but buy_again are new for the user.",
            allowed=("for_you", "buy_again", "new", "bought_together", "fallback"),
        ),
        Column("item_id", "str", "Item recommended."),
        Column("score", "f32", "Comparable within one user's list only."),
        Column(
            "p_purchase",
            "f32",
            "Calibrated probability of a purchase within horizon_days; null for fallback rows.",
            True,
            minimum=0,
            maximum=1,
        ),
        Column("horizon_days", "i32", "Days after `as_of` that p_purchase speaks of."),
        Column("reason", "str", "One sentence."),
        Column("reason_items", "list[str]", "Items of the user's past behind it, strongest first."),
        Column("is_fallback", "bool", "True when nothing personal was known: it is popular."),
        Column(
            "in_stock",
            "bool",
            "False: none left, but ordered. Null: never counted. What is gone is not shown.",
            True,
        ),
        *STAMP,
    ),
    key=("user_id", "rank", "as_of"),
)

ITEM_TO_ITEM = Table(
    "item_to_item",
    "What goes into the same basket as an item, and what its buyers take instead of it.",
    (
        Column("item_id", "str", "Item."),
        Column(
            "kind",
            "str",
            "bought_together: in the same basket. alternative: of the same category.",
            allowed=("bought_together", "alternative"),
        ),
        Column("rank", "i32", "1 = best, within item and kind.", minimum=1),
        Column("other_item_id", "str", "The other item."),
        Column(
            "score",
            "f64",
            "Share of the item's baskets (alternative: buyers) that have the other one too.",
            minimum=0,
            maximum=1,
        ),
        Column("both", "i64", "Baskets (alternative: buyers) with both items.", minimum=0),
        Column("lift", "f64", "`both` over what chance would give.", minimum=0),
        *STAMP,
    ),
    key=("item_id", "kind", "rank", "as_of"),
)

NEXT_BASKETS = Table(
    "next_baskets",
    "What the next basket of each user will hold, how many items, and on which day.",
    (
        Column("user_id", "str", "User."),
        Column("position", "i32", "1 = surest; no item comes twice.", minimum=1),
        Column("item_id", "str", "Item."),
        Column("score", "f32", "Falls with the position; comparable within one user only."),
        Column(
            "p_purchase",
            "f32",
            "Probability of a purchase within the horizon of the recommendations.",
            True,
            minimum=0,
            maximum=1,
        ),
        Column("in_basket", "bool", "Among the first expected_size; null without an order.", True),
        Column("expected_size", "i32", "Distinct items; null without an order.", True),
        Column(
            "expected_date",
            "date",
            "Business day of it, if it comes within the horizon; null without an order.",
            True,
        ),
        *STAMP,
    ),
    key=("user_id", "position", "as_of"),
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
        Column(
            "expected_spend",
            "f64",
            "Spend expected within the horizon, currency units; null without prices.",
            True,
        ),
        Column(
            "value_at_risk",
            "f64",
            "p_churn × what who churns spends less within the horizon than who stays, currency "
            "units.",
            True,
        ),
        Column(
            "next_order_date", "date", "Last order plus the usual interval; past = overdue.", True
        ),
        Column("top_reasons", "list[reason]", "Features that moved the probability most."),
        Column(
            "recommended_action",
            "str",
            "The configured action of the largest expected gain; by rule where none is configured.",
            True,
        ),
        Column(
            "expected_gain",
            "f64",
            "value_at_risk × the action's assumed save rate − its cost; null without an action.",
            True,
        ),
        *STAMP,
    ),
    key=("user_id", "label_def", "horizon_days", "as_of"),
)

INVENTORY_PREDICTIONS = Table(
    "inventory_predictions",
    "Demand over lead time plus review period, and what to reorder.",
    (
        Column("item_id", "str", "Item; of level category `category:` and the category's name."),
        Column("store_id", "str", "Store, ALL for the whole business."),
        Column(
            "level",
            "str",
            "What the row speaks of: an item, one of the large items in one of the large stores, a "
            "category. The levels overlap: never add them up.",
            allowed=("item", "item_store", "category"),
        ),
        Column(
            "lead_time_days", "i32", "Days from order to delivery: of the stock count, else usual."
        ),
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
        Column(
            "recommended_order_qty",
            "f64",
            "Units that raise inventory_position to order_up_to, in whole packs; null without a "
            "stock file.",
            True,
            minimum=0,
        ),
        Column(
            "order_by_date",
            "date",
            "Day on which inventory_position is expected to fall to the reorder point (today when "
            "it has); null without a stock file or expected demand.",
            True,
        ),
        Column(
            "days_of_cover",
            "f64",
            "on_hand / demand a day; null without a stock file or expected demand.",
            True,
        ),
        Column(
            "stockout_prob",
            "f64",
            "P(demand > inventory_position) when nothing is ordered; null without a stock file.",
            True,
            minimum=0,
            maximum=1,
        ),
        Column(
            "expected_lost_units",
            "f64",
            "E[(demand − inventory_position)+] when nothing is ordered, units; without a stock "
            "file that above order_up_to.",
            minimum=0,
        ),
        Column(
            "demand_class",
            "str",
            "Syntetos–Boylan class (ADI 1.32, CV² 0.49).",
            allowed=("smooth", "erratic", "intermittent", "lumpy"),
        ),
        Column(
            "is_censored",
            "bool",
            "True when a stock count of the last 26 weeks found none on hand; null when unknown.",
            True,
        ),
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
        Column(
            "p_response_control",
            "f32",
            "Probability of the same without a contact; null without a randomised hold-out.",
            True,
            minimum=0,
            maximum=1,
        ),
        Column(
            "uplift",
            "f32",
            "What a contact adds to the probability, learnt from decisions made by chance; null "
            "without a randomised hold-out.",
            True,
            minimum=-1,
            maximum=1,
        ),
        Column(
            "expected_revenue",
            "f64",
            "uplift where it is known, else p_response, × value of a response, currency units; "
            "null without prices.",
            True,
        ),
        Column("expected_cost", "f64", "Cost of one contact, currency units."),
        Column("rank", "i32", "1 = highest expected profit within the campaign.", minimum=1),
        Column(
            "decision",
            "str",
            "send: contact, it pays and the budget lasts; explore: contact, by chance; hold: do "
            "not contact (again).",
            allowed=("send", "hold", "explore"),
        ),
        Column(
            "propensity",
            "f32",
            "Probability that this policy contacts the user for this campaign; 0 after a contact.",
            minimum=0,
            maximum=1,
        ),
        *STAMP,
    ),
    key=("user_id", "campaign_id", "as_of"),
)

USER_PROFILES = Table(
    "user_profiles",
    "One row per user: what they did, what they will spend, which segment, what stands out.",
    (
        Column("user_id", "str", "User."),
        Column("first_order_at", "datetime", "First purchase (UTC).", True),
        Column("last_order_at", "datetime", "Last purchase before `as_of` (UTC).", True),
        Column("orders_total", "i64", "Orders (sessions with a purchase).", minimum=0),
        Column("orders_28d", "i64", "Orders in the last 28 days.", minimum=0),
        Column("orders_91d", "i64", "Orders in the last 91 days.", minimum=0),
        Column("orders_365d", "i64", "Orders in the last 365 days.", minimum=0),
        Column("spend_total", "f64", "Spend, currency units; null without prices.", True),
        Column("spend_28d", "f64", "Spend of the last 28 days; null without prices.", True),
        Column("spend_91d", "f64", "Spend of the last 91 days; null without prices.", True),
        Column("spend_365d", "f64", "Spend of the last 365 days; null without prices.", True),
        Column("aov", "f64", "Average order value.", True),
        Column("recency_days", "f64", "Days since the last order.", True),
        Column("tenure_days", "f64", "Days since the first order.", True),
        Column("avg_days_between_orders", "f64", "Mean gap between order days.", True),
        Column("std_days_between_orders", "f64", "Its standard deviation.", True),
        Column("active_days_91d", "i64", "Days with any event in the last 91 days.", minimum=0),
        Column("discount_share", "f64", "Discount / (spend + discount).", True),
        Column("coupons_used_91d", "i64", "Coupons redeemed in the last 91 days.", minimum=0),
        Column(
            "clv_horizon_days",
            "i32",
            "Days after `as_of` that clv_* speaks of: as far as the forecast could be judged.",
        ),
        Column(
            "clv_expected",
            "f64",
            "Expected spend of the next clv_horizon_days, currency units; null before the first "
            "order and while the history is too short to judge a forecast.",
            True,
            minimum=0,
        ),
        Column("clv_p10", "f64", "Its quantile 0.10.", True, minimum=0),
        Column("clv_p90", "f64", "Its quantile 0.90.", True, minimum=0),
        Column("clv_source", "str", "Forecast that produced clv_*: the winner of its test.", True),
        Column(
            "segment",
            "str",
            "First rule that holds: lost (no order in 91 days), new (first order within 28), "
            "champions (top fifth by spend and orders), at_risk (three usual intervals late), "
            "big_baskets (top fifth by spend), frequent_small (by orders), occasional (at most 3 "
            "orders in 91 days), regular.",
            allowed=(
                "lost",
                "new",
                "champions",
                "at_risk",
                "big_baskets",
                "frequent_small",
                "occasional",
                "regular",
            ),
        ),
        Column("segment_since", "date", "First as_of in this segment, without a break."),
        Column(
            "tags",
            "list[tag]",
            "What stands out in the last 91 days: tag, evidence in words, and event_ids of up to "
            "five of the events behind it, newest first.",
        ),
        Column("embedding", "list[f32]", "The encoder's vector, fixed length.", True),
        Column(
            "anomaly_score",
            "f32",
            "The most unusual feature's distance above the median; 1 = the distance of the 98th "
            "percentile.",
            minimum=0,
        ),
        Column("anomaly_reason", "str", "What is unusual about the 1 % most unusual users.", True),
        *STAMP,
    ),
    key=("user_id", "as_of"),
)

PREDICTION_OUTCOMES = Table(
    "prediction_outcomes",
    "What became of published predictions, once their label window has passed.",
    (
        Column("task", "str", "Task that made the prediction."),
        Column("table", "str", "Published table that holds it."),
        Column("user_id", "str", "User, where the prediction is about one.", True),
        Column("item_id", "str", "Item, where the prediction is about one.", True),
        Column("store_id", "str", "Store, where the prediction is about one.", True),
        Column("campaign_id", "str", "Campaign, where the prediction is about one.", True),
        Column("label_def", "str", "Definition of the label, where there are several.", True),
        Column("target", "str", "Column of the published table that was predicted."),
        Column("as_of", "datetime", "Cut-off of the prediction (UTC)."),
        Column("model_version", "str", "Version that made the prediction."),
        Column("source", "str", "What produced the row: a model or a baseline."),
        Column("predicted", "f64", "What was published, in the target's own unit."),
        Column("realised", "f64", "What happened in the window; 0 or 1 for a probability."),
        Column("window_end", "datetime", "End of the label window (UTC), never after judged_at."),
        Column("judged_at", "datetime", "When the row was written (UTC)."),
    ),
    key=(
        "task",
        "user_id",
        "item_id",
        "store_id",
        "campaign_id",
        "label_def",
        "target",
        "as_of",
    ),
)

PUBLISHED = {
    table.name: table
    for table in (
        RECOMMENDATIONS,
        ITEM_TO_ITEM,
        NEXT_BASKETS,
        CHURN_PREDICTIONS,
        INVENTORY_PREDICTIONS,
        AD_PREDICTIONS,
        USER_PROFILES,
    )
}
