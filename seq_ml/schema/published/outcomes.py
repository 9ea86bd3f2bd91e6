"""Contract of `prediction_outcomes`: what became of the predictions."""

from __future__ import annotations

from seq_ml.schema.contract import Column, Table

PREDICTION_OUTCOMES = Table(
    "prediction_outcomes",
    "What became of published predictions, once their label window has passed.",
    (
        Column("task", "str", "Task that made the prediction."),
        Column("table", "str", "Published table that holds it."),
        Column("user_id", "str", "User; null where the prediction is not about one.", True),
        Column("item_id", "str", "Item; null where the prediction is not about one.", True),
        Column("store_id", "str", "Store; null where the prediction is not about one.", True),
        Column("campaign_id", "str", "Campaign; null where the prediction is not about one.", True),
        Column("label_def", "str", "Definition of the label; null where there is only one.", True),
        Column(
            "target",
            "str",
            "Column of the published table that was predicted; clv_interval: clv_p10 to clv_p90; "
            "next_order_p50: days until next_order_date, of whom an order came from in time.",
        ),
        Column("as_of", "datetime", "Cut-off of the prediction (UTC)."),
        Column("model_version", "str", "Version that made the prediction."),
        Column("source", "str", "What produced the row: a model or a baseline."),
        Column(
            "predicted",
            "f64",
            "What was published, in the target's own unit; of an interval its share.",
        ),
        Column(
            "realised",
            "f64",
            "What happened in the window; 0 or 1 for a probability or an interval.",
        ),
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
