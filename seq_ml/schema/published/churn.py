"""Contract of `churn_predictions`: who will stop buying, or not renew."""

from __future__ import annotations

from seq_ml.schema.contract import Column, Table
from seq_ml.schema.published.stamp import STAMP

CHURN_PREDICTIONS = Table(
    "churn_predictions",
    "Who will stop buying, buy much less, or not renew a contract, per definition of churn.",
    (
        Column("user_id", "str", "User."),
        Column("label_def", "str", "Definition of churn: silence, decline or non_renewal."),
        Column("horizon_days", "i32", "Length of the label window after `as_of`."),
        Column(
            "window_days",
            "i32",
            "Days before `as_of` that features read and decline compares with; null for "
            "non_renewal and in rows of an earlier release.",
            True,
        ),
        Column(
            "eligible",
            "bool",
            "False when the definition does not apply to this user (non_renewal: no contract runs "
            "out within the horizon, or notice was given already).",
        ),
        Column(
            "p_churn",
            "f32",
            "Probability, or a score where rests_on says so: its level was off beyond chance in "
            "the window that judged it, and only its order holds; null when not eligible.",
            True,
            minimum=0,
            maximum=1,
        ),
        Column(
            "base_rate",
            "f32",
            "Share of churners in the latest closed window; null when nobody was eligible in it.",
            True,
            minimum=0,
            maximum=1,
        ),
        Column(
            "risk_decile",
            "i32",
            "10 = highest risk; null when not eligible.",
            True,
            minimum=1,
            maximum=10,
        ),
        Column(
            "risk_band",
            "str",
            "high: at least twice the base rate; low: below half of it; null without one or at 0.",
            True,
            allowed=("low", "medium", "high"),
        ),
        Column(
            "expected_orders",
            "f32",
            "Orders (non_renewal: renewals) expected in the horizon; judged in "
            "prediction_outcomes (non_renewal: as p_churn); null when not eligible.",
            True,
        ),
        Column(
            "expected_spend",
            "f64",
            "Spend expected within the horizon, net of returns, currency units; judged in "
            "prediction_outcomes (non_renewal: not judged); null when not eligible; null without "
            "prices.",
            True,
        ),
        Column(
            "value_at_risk",
            "f64",
            "p_churn × what who churns spends less within the horizon than who stays, net of "
            "returns (non_renewal: the price of the next term), currency units; not judged by "
            "itself; null when not eligible and without prices.",
            True,
        ),
        Column(
            "margin_at_risk",
            "f64",
            "value_at_risk × the margin share of what the user bought (of everybody, where the "
            "costs of less than half of it are known); not judged by itself; null without costs.",
            True,
        ),
        Column(
            "next_order_date",
            "date",
            "Business day of the next order, if it comes within the horizon: as likely before as "
            "after, which prediction_outcomes judges (next_order_p50); never in the past; null "
            "without an order in the window that features read. "
            "non_renewal: the day on which the contract runs out.",
            True,
        ),
        Column("top_reasons", "list[reason]", "Features that moved the probability most."),
        Column(
            "recommended_action",
            "str",
            "The configured action of the largest expected gain, null where none pays; by rule "
            "where none is configured, null at low risk.",
            True,
        ),
        Column(
            "expected_gain",
            "f64",
            "margin_at_risk, or value_at_risk without costs, × the action's save rate − its cost: "
            "as good as that rate, which the business assumed and nothing here judged; null "
            "without an action.",
            True,
        ),
        Column(
            "rests_on",
            "str",
            "Days of history and ahead, closed windows learnt from and judged on, and the method; "
            "null when not eligible.",
            True,
        ),
        *STAMP,
    ),
    key=("user_id", "label_def", "horizon_days", "as_of"),
)
