"""The contract of every table: the one place that spells a column name, its type and its meaning.

From here come the Polars schemas, the Great Expectations suites, the column schemas of the Dagster
UI, the reference in docs/tables.md and the generators of the tests. Importing it imports nothing
heavy: `Table.polars_schema()` loads Polars when it is called.
"""

from seq_ml.schema.contract import Column, Table, polars_dtype
from seq_ml.schema.inputs import (
    CAMPAIGN_ITEMS,
    CAMPAIGNS,
    EVENTS,
    EXCHANGE_RATES,
    INPUT_TABLES,
    ITEMS,
    LABELS,
    PROMOTIONS,
    STOCK,
    SUBSCRIPTIONS,
)
from seq_ml.schema.published import (
    AD_PREDICTIONS,
    CHURN_PREDICTIONS,
    INVENTORY_PREDICTIONS,
    ITEM_TO_ITEM,
    NEXT_BASKETS,
    PREDICTION_OUTCOMES,
    PUBLISHED,
    RECOMMENDATIONS,
    STAMP,
    USER_PROFILES,
)
from seq_ml.schema.stages import (
    DAY_PROFILES,
    DROP_LEDGER,
    ITEM_EMBEDDINGS,
    QUARANTINED,
    SEQUENCE_PREDICTIONS,
    SEQUENCE_SNAPSHOT,
    USER_EMBEDDINGS,
    USER_SEQUENCES,
)

__all__ = [
    "AD_PREDICTIONS",
    "CAMPAIGNS",
    "CAMPAIGN_ITEMS",
    "CHURN_PREDICTIONS",
    "DAY_PROFILES",
    "DROP_LEDGER",
    "EVENTS",
    "EXCHANGE_RATES",
    "INPUT_TABLES",
    "INVENTORY_PREDICTIONS",
    "ITEMS",
    "ITEM_EMBEDDINGS",
    "ITEM_TO_ITEM",
    "LABELS",
    "NEXT_BASKETS",
    "PREDICTION_OUTCOMES",
    "PROMOTIONS",
    "PUBLISHED",
    "QUARANTINED",
    "RECOMMENDATIONS",
    "SEQUENCE_PREDICTIONS",
    "SEQUENCE_SNAPSHOT",
    "STAMP",
    "STOCK",
    "SUBSCRIPTIONS",
    "USER_EMBEDDINGS",
    "USER_PROFILES",
    "USER_SEQUENCES",
    "Column",
    "Table",
    "polars_dtype",
]
