"""From probabilities to rows of `churn_predictions`: bands, money, the next order, the action."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import polars as pl

from seq_ml.schema import CHURN_PREDICTIONS
from seq_ml.tasks.churn.actions import suggest
from seq_ml.tasks.churn.value import carried_on, decile, expected

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from seq_ml.business import Action


def explained(
    examples: pl.DataFrame, model: Any, reasons: Callable[[pl.DataFrame], list[Any]]
) -> pl.DataFrame:
    """Add p (f64) and top_reasons to the examples; null and none where one is not eligible."""
    covered = examples.filter("eligible")
    p, why = (model.predict(covered), reasons(covered)) if covered.height else ([], [])
    predicted = covered.select(
        "user_id",
        p=pl.Series(p, dtype=pl.Float64),
        top_reasons=pl.Series(why, dtype=CHURN_PREDICTIONS.polars_schema()["top_reasons"]),
    )
    return examples.join(predicted, on="user_id", how="left", maintain_order="left").with_columns(
        pl.col("top_reasons").fill_null([])
    )


def table_rows(
    frame: pl.DataFrame,
    closed: pl.DataFrame,
    next_orders: pl.DataFrame,
    *,
    label_def: str,
    horizon_days: int,
    share: float,
    actions: Sequence[Action],
    priced: bool,
    rests_on: str,
) -> pl.DataFrame:
    """Return the rows of one definition, sorted by user.

    frame: the features of every user, margin_share (f64?), eligible, p (f64?) and top_reasons.
    closed: the labels of the latest closed window (`ChurnTask.labels`).  next_orders: `next_order`.
    priced: whether amounts are known.  share: the horizon over the window that features read.
    rests_on: what a probability rests on.

    The closed window says the base rate and how the run-rate of the window carries on:
    `kept` = spend ÷ run-rate among those who did not churn, `lost` among those who did, `rest`
    among the users the definition does not cover. Then expected = run-rate × ((1 − p) × kept +
    p × lost), or run-rate × rest without a p. The same for orders. Value at risk = p × run-rate ×
    (kept − lost). Where nobody was eligible in the closed window the base rate is null, and where
    it is null or 0 there is no band. Spend is net of returns: of who gave back more than they spent
    nothing is expected, and nothing is at risk.
    """
    kept, lost, _ = carried_on(closed, "spend", share)
    frame = frame.join(next_orders, on="user_id", how="left").with_columns(
        value_at_risk=pl.when(priced).then(
            pl.col("p") * pl.col("spend_window").clip(0) * share * max(kept - lost, 0.0)
        ),
        expected_orders=expected(closed, "orders", share),
        expected_spend=pl.when(priced).then(expected(closed, "spend", share).clip(0)),
    )
    frame = frame.with_columns(margin_at_risk=pl.col("value_at_risk") * pl.col("margin_share"))
    return rated(
        frame,
        closed,
        label_def=label_def,
        horizon_days=horizon_days,
        actions=actions,
        rests_on=rests_on,
    )


def rated(
    frame: pl.DataFrame,
    closed: pl.DataFrame,
    *,
    label_def: str,
    horizon_days: int,
    actions: Sequence[Action],
    rests_on: str,
) -> pl.DataFrame:
    """Add base rate, decile, band and action; return the rows of one definition, sorted by user.

    frame: what `suggest` reads, eligible, top_reasons, the expected amounts and next_order_date.
    closed: eligible and label of the latest closed window.
    """
    base_rate = pl.lit(closed.filter("eligible")["label"].mean(), dtype=pl.Float64)
    band = (
        pl.when(pl.col("p") >= 2 * base_rate)
        .then(pl.lit("high"))
        .when(pl.col("p") < 0.5 * base_rate)
        .then(pl.lit("low"))
        .when(pl.col("p").is_not_null())
        .then(pl.lit("medium"))
    )
    frame = frame.with_columns(
        risk_decile=decile(pl.col("p")), risk_band=pl.when(base_rate > 0).then(band)
    )
    return (
        suggest(frame, actions)
        .select(
            "user_id",
            label_def=pl.lit(label_def),
            horizon_days=pl.lit(horizon_days, dtype=pl.Int32),
            eligible="eligible",
            p_churn=pl.col("p").cast(pl.Float32),
            base_rate=base_rate.cast(pl.Float32),
            risk_decile="risk_decile",
            risk_band="risk_band",
            expected_orders=pl.col("expected_orders").cast(pl.Float32),
            expected_spend="expected_spend",
            value_at_risk="value_at_risk",
            margin_at_risk="margin_at_risk",
            next_order_date="next_order_date",
            top_reasons="top_reasons",
            recommended_action="recommended_action",
            expected_gain="expected_gain",
            rests_on=pl.when("eligible").then(pl.lit(rests_on)),
        )
        .sort("user_id")
    )
