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
        Column(
            "p_response",
            "f32",
            "Probability, or a score where rests_on says so: its level was off beyond chance in "
            "the window that judged it, and only its order holds.",
            minimum=0,
            maximum=1,
        ),
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
            "Probability of the same without a contact; null where uplift is.",
            True,
            minimum=0,
            maximum=1,
        ),
        Column(
            "uplift",
            "f32",
            "What a contact adds to the probability, learnt from decisions made by chance; null "
            "without a randomised hold-out, and where its order was no better than chance on "
            "later campaigns (Qini).",
            True,
            minimum=-1,
            maximum=1,
        ),
        Column(
            "expected_revenue",
            "f64",
            "uplift where it is known, else p_response (is_gross), × value of a response (mean "
            "spend of that day less the share that usually comes back, the same for everybody), "
            "currency units; not judged by itself; null without prices.",
            True,
        ),
        Column(
            "expected_margin",
            "f64",
            "expected_revenue × the margin share of what the user bought (of everybody, where the "
            "costs of less than half of it are known): decisions go by it, or by the revenue "
            "where it is null; not judged by itself; null without costs.",
            True,
        ),
        Column("expected_cost", "f64", "Cost of one contact, currency units."),
        Column("rank", "i32", "1 = highest expected profit within the campaign.", minimum=1),
        Column(
            "decision",
            "str",
            "send: contact, expected_margin (else expected_revenue) is above expected_cost and the "
            "budget lasts; explore: contact, by chance; hold: do not contact (again, or not yet).",
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
        Column(
            "is_gross",
            "bool",
            "True: revenue and margin are those of all responses, with those that come without a "
            "contact, for no hold-out tells them apart: a send may pay less than it says. False: "
            "they are what a contact adds. Null in rows of an earlier release.",
            True,
        ),
        Column(
            "rests_on",
            "str",
            "Days of history, closed windows learnt from and judged on, and the method of "
            "p_response; null in rows of an earlier release.",
            True,
        ),
        *STAMP,
    ),
    key=("user_id", "campaign_id", "as_of"),
)
