"""Contracts of the tables that analysts read: one snapshot per `as_of`, appended."""

from __future__ import annotations

from seq_ml.schema.published.ads import AD_PREDICTIONS
from seq_ml.schema.published.churn import CHURN_PREDICTIONS
from seq_ml.schema.published.inventory import INVENTORY_PREDICTIONS
from seq_ml.schema.published.outcomes import PREDICTION_OUTCOMES
from seq_ml.schema.published.profiles import USER_PROFILES
from seq_ml.schema.published.recommendations import ITEM_TO_ITEM, NEXT_BASKETS, RECOMMENDATIONS
from seq_ml.schema.published.stamp import STAMP

__all__ = [
    "AD_PREDICTIONS",
    "CHURN_PREDICTIONS",
    "INVENTORY_PREDICTIONS",
    "ITEM_TO_ITEM",
    "NEXT_BASKETS",
    "PREDICTION_OUTCOMES",
    "PUBLISHED",
    "RECOMMENDATIONS",
    "STAMP",
    "USER_PROFILES",
]

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
