"""What to do about a user at risk: the configured action that pays, else a rule of thumb.

An action's effect was never measured here: its save rate is the business's own assumption
(`Business.churn.actions`). So expected_gain = p_churn × value × save_rate − cost, where
p_churn × value is the table's `margin_at_risk`, or `value_at_risk` where no cost is known, is as
good as that assumption and no better.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

if TYPE_CHECKING:
    from collections.abc import Sequence

    from seq_ml.business import Action

AT_STAKE = ("margin_at_risk", "value_at_risk")
"""What an action may save, the first that is known."""


def much(frame: pl.DataFrame) -> float | None:
    """Return from where on a value is in the top fifth of those at stake; None without any.

    frame: what `suggest` reads, of everybody or of a sample.
    """
    limit: float | None = frame.select(pl.coalesce(*AT_STAKE).quantile(0.8)).item()
    return limit


def suggest(
    frame: pl.DataFrame, actions: Sequence[Action], much_at_stake: float | None
) -> pl.DataFrame:
    """Add recommended_action (str?) and expected_gain (f64?, currency units) to `frame`.

    frame: value_at_risk and margin_at_risk (f64?, currency units), risk_band,
    gap_overdue and coupon_orders_window. With actions: the one of the largest gain above zero, the
    first one of equal ones; without a value or a paying action both columns are null. Without
    actions: by rule, and the gain is null. much_at_stake: see `much`.
    """
    if not actions:
        return frame.with_columns(
            recommended_action=_by_rule(much_at_stake), expected_gain=pl.lit(None, dtype=pl.Float64)
        )
    value = pl.coalesce(*AT_STAKE)
    gains = [value * action.save_rate - action.cost for action in actions]
    best = pl.max_horizontal(*gains)
    pays = best > 0
    named = pl.coalesce(
        *(
            pl.when(gain == best).then(pl.lit(action.name))
            for gain, action in zip(gains, actions, strict=True)
        )
    )
    return frame.with_columns(
        recommended_action=pl.when(pays).then(named), expected_gain=pl.when(pays).then(best)
    )


def _by_rule(much_at_stake: float | None) -> pl.Expr:
    """Suggest more personal actions the more is at stake.

    High risk: a personal offer where the value at risk is in the top fifth of those with a
    probability; a coupon for who used one in the window; else a reminder. Medium risk: a
    reminder when the user is later than usual.
    """
    at_stake = pl.coalesce(*AT_STAKE) >= pl.lit(much_at_stake, dtype=pl.Float64)
    high = pl.col("risk_band") == "high"
    return (
        pl.when(high & at_stake)
        .then(pl.lit("personal offer"))
        .when(high & (pl.col("coupon_orders_window") > 0))
        .then(pl.lit("coupon"))
        .when(high)
        .then(pl.lit("reminder"))
        .when((pl.col("risk_band") == "medium") & (pl.col("gap_overdue") > 1))
        .then(pl.lit("reminder"))
    )
