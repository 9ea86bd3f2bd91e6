"""Contract of `user_profiles`: users as they are."""

from __future__ import annotations

from seq_ml.schema.contract import Column, Table
from seq_ml.schema.published.stamp import STAMP

USER_PROFILES = Table(
    "user_profiles",
    "One row per user: what they did, what they will spend, which segment, what stands out.",
    (
        Column("user_id", "str", "User."),
        Column("first_order_at", "datetime", "First conversion (UTC); null before it.", True),
        Column(
            "last_order_at",
            "datetime",
            "Last conversion before `as_of` (UTC); null before the first order.",
            True,
        ),
        Column(
            "orders_total",
            "i64",
            "Orders: sessions with a conversion, cut at business midnights.",
            minimum=0,
        ),
        Column("orders_28d", "i64", "Orders in the last 28 days.", minimum=0),
        Column("orders_91d", "i64", "Orders in the last 91 days.", minimum=0),
        Column("orders_365d", "i64", "Orders in the last 365 days.", minimum=0),
        Column(
            "spend_total",
            "f64",
            "Spend net of returns, currency units of the business; null without prices.",
            True,
        ),
        *(
            Column(
                f"spend_{days}d",
                "f64",
                f"Spend of the last {days} days net of the returns of these days, so perhaps below "
                "0; null without prices.",
                True,
            )
            for days in (28, 91, 365)
        ),
        Column(
            "aov",
            "f64",
            "Average value of an order as it was bought; null before the first order and without "
            "prices.",
            True,
        ),
        Column(
            "recency_days",
            "f64",
            "Days since the last order; null before the first order.",
            True,
        ),
        Column("tenure_days", "f64", "Days since the first order; null before it.", True),
        Column(
            "avg_days_between_orders",
            "f64",
            "Mean gap between order days; null before the second one.",
            True,
        ),
        Column(
            "std_days_between_orders",
            "f64",
            "Its standard deviation; null before the third order day.",
            True,
        ),
        Column("active_days_91d", "i64", "Days with any event in the last 91 days.", minimum=0),
        Column(
            "discount_share",
            "f64",
            "Discount / (spend + discount); null where both are 0 or unknown.",
            True,
        ),
        Column("coupons_used_91d", "i64", "Coupons redeemed in the last 91 days.", minimum=0),
        Column(
            "clv_horizon_days",
            "i32",
            "Days after `as_of` that clv_* speaks of: as far as the forecast could be judged.",
        ),
        Column(
            "clv_expected",
            "f64",
            "Expected spend of the next clv_horizon_days net of returns, currency units; null "
            "before the first order and while the history is too short to judge a forecast; "
            "judged in prediction_outcomes, its quantiles as clv_interval.",
            True,
            minimum=0,
        ),
        Column(
            "clv_margin",
            "f64",
            "clv_expected × the margin share of what the user bought (of everybody, where the "
            "costs of less than half of it are known); not judged by itself; null without costs.",
            True,
        ),
        Column("clv_p10", "f64", "Its quantile 0.10; null as clv_expected.", True, minimum=0),
        Column("clv_p90", "f64", "Its quantile 0.90; null as clv_expected.", True, minimum=0),
        Column(
            "clv_source",
            "str",
            "Forecast that produced clv_*: the winner of its test; null as clv_expected.",
            True,
        ),
        Column(
            "segment",
            "str",
            "First rule that holds over the business's windows (91 and 28 days where people come "
            "weekly): lost (no order in the window), new (first order in the recent days), "
            "champions (top fifth by spend and orders), at_risk (three usual intervals late), "
            "big_baskets (top fifth by spend), frequent_small (by orders), occasional (at most 3 "
            "orders in the window), regular.",
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
            "What stands out in the window: tag, evidence in words, and event_ids of up to "
            "five of the events behind it, newest first.",
        ),
        Column(
            "embedding",
            "list[f32]",
            "The encoder's vector, fixed length; null where the encoder has no vector of the user.",
            True,
        ),
        Column(
            "anomaly_score",
            "f32",
            "The most unusual feature's distance above the median; 1 = the distance of the 98th "
            "percentile. It knows bulk, coupons, refunds, bursts and tiny orders; of other fraud "
            "the report says what it finds.",
            minimum=0,
        ),
        Column(
            "anomaly_reason",
            "str",
            "What is unusual about the 1 % most unusual users; null for all others.",
            True,
        ),
        Column(
            "rests_on",
            "str",
            "What clv_* rests on: days of history and ahead, closed windows learnt from and "
            "judged on, and the method; null as clv_expected.",
            True,
        ),
        *STAMP,
    ),
    key=("user_id", "as_of"),
)
