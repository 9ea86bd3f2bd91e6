"""Contract of `ad_predictions`: who will respond to a campaign."""

from __future__ import annotations

from seq_ml.schema.contract import Column, Table
from seq_ml.schema.published.stamp import STAMP

AD_PREDICTIONS = Table(
    "ad_predictions",
    "How likely each user is to respond to each campaign that runs after `as_of`.",
    (
        Column("user_id", "str", "User."),
        Column("campaign_id", "str", "Campaign."),
        Column("p_response", "f32", "Calibrated probability.", minimum=0, maximum=1),
        Column("response_type", "str", "What counts as a response: coupon_redeem or ad_click."),
        Column(
            "horizon_hours",
            "i32",
            "Length of the response window: what is left of the campaign, all of it before its "
            "start.",
        ),
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
            "uplift where it is known, else p_response, × value of a response (spend of that day "
            "less the share that usually comes back), currency units; null without prices.",
            True,
        ),
        Column(
            "expected_margin",
            "f64",
            "expected_revenue × the margin share of what the user bought (of everybody, where the "
            "costs of less than half of it are known): decisions go by it; null without costs.",
            True,
        ),
        Column("expected_cost", "f64", "Cost of one contact, currency units."),
        Column("rank", "i32", "1 = highest expected profit within the campaign.", minimum=1),
        Column(
            "decision",
            "str",
            "send: contact, it pays and the budget lasts; explore: contact, by chance; hold: do "
            "not contact (again, or not yet).",
            allowed=("send", "hold", "explore"),
        ),
        Column(
            "propensity",
            "f32",
            "Probability that this snapshot contacts the user for this campaign; 0 after a contact "
            "and before the day on which it starts.",
            minimum=0,
            maximum=1,
        ),
        *STAMP,
    ),
    key=("user_id", "campaign_id", "as_of"),
)
