"""Contract of `inventory_predictions`: demand, and what to reorder."""

from __future__ import annotations

from seq_ml.schema.contract import Column, Table
from seq_ml.schema.published.stamp import STAMP

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
        Column(
            "service_level",
            "f32",
            "Probability of no stock-out aimed at: by the item's costs in the stock count, else "
            "usual.",
        ),
        Column(
            "demand_mean",
            "f64",
            "Units expected over lead time + review. It and its quantiles are judged in "
            "prediction_outcomes, and before, where backtest_* is not null.",
            minimum=0,
        ),
        Column("demand_p10", "f64", "Quantile 0.10 of demand, units.", minimum=0),
        Column("demand_p50", "f64", "Quantile 0.50 of demand, units.", minimum=0),
        Column("demand_p90", "f64", "Quantile 0.90 of demand, units.", minimum=0),
        Column("demand_p95", "f64", "Quantile 0.95 of demand, units.", minimum=0),
        Column("safety_stock", "f64", "order_up_to − demand_mean, not below 0.", minimum=0),
        Column("reorder_point", "f64", "Order when the inventory position falls to it.", minimum=0),
        Column(
            "order_up_to",
            "f64",
            "Demand quantile at the service level, or what is expected to sell within lead time + "
            "shelf life where that is less.",
            minimum=0,
        ),
        Column("on_hand", "f64", "Null when no stock file is given.", True),
        Column("on_order", "f64", "Null when no stock file is given.", True),
        Column("inventory_position", "f64", "on_hand + on_order; null as both.", True),
        Column(
            "recommended_order_qty",
            "f64",
            "Units that raise inventory_position to order_up_to, in whole packs and not below the "
            "least that can be ordered; null without a stock file.",
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
            "P(demand > inventory_position) when nothing is ordered, as the quantiles say; not "
            "judged by itself; null without a stock file.",
            True,
            minimum=0,
            maximum=1,
        ),
        Column(
            "expected_lost_units",
            "f64",
            "E[(demand − inventory_position)+] when nothing is ordered, units; without a stock "
            "file that above order_up_to; not judged by itself.",
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
        Column(
            "discontinued",
            "str",
            "Why nothing is ordered any more (all order columns are 0): ended by the catalogue, or "
            "unsold for longer than the item's rhythm; else null.",
            True,
            allowed=("ended", "unsold"),
        ),
        Column("promo_known", "bool", "True when the promotion plan of the horizon was used."),
        Column(
            "backtest_wape",
            "f64",
            "Σ|error| / Σdemand of the row's source in the backtest, over items like it (sold in "
            "most weeks or rarely, item in a store, category); null where it had none of them.",
            True,
        ),
        Column("backtest_bias", "f64", "The same: Σerror / Σdemand; null as above.", True),
        Column(
            "backtest_cov90",
            "f64",
            "The same: share of demand at or below p90; null as above.",
            True,
        ),
        *STAMP,
    ),
    key=("item_id", "store_id", "as_of"),
)
