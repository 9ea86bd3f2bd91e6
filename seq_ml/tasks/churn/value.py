"""What a user will order, by how the closed window carried the run-rate on; at risk; deciles."""

from __future__ import annotations

import polars as pl


def decile(p: pl.Expr) -> pl.Expr:
    """1 to 10 (highest) by rank among the users with a probability; equal ones share a rank."""
    rank = p.rank("average") - 1
    return (rank * 10 // p.count() + 1).cast(pl.UInt8)


def carried_on(closed: pl.DataFrame, what: str, share: float) -> tuple[float, float]:
    """Return kept and lost of `with_amounts` for "orders" or "spend"."""

    def ratio(label: int, unknown: float) -> float:
        rows = closed.filter("eligible", label=label)
        rate = float(rows[f"{what}_window"].sum()) * share
        return float(rows[f"next_{what}"].sum()) / rate if rate else unknown

    return ratio(0, 1.0), ratio(1, 0.0)


def expected_orders(closed: pl.DataFrame, share: float) -> pl.Expr:
    """Return expected orders of the horizon by the rule of `with_amounts`."""
    kept, lost = carried_on(closed, "orders", share)
    return pl.col("orders_window") * share * ((1 - pl.col("p")) * kept + pl.col("p") * lost)


def with_amounts(
    frame: pl.DataFrame, closed: pl.DataFrame, *, share: float, priced: bool
) -> pl.DataFrame:
    """Add what is expected of users with a probability, and what is at risk.

    frame: the features of every user, margin_share (f64?), eligible, p (f64?) and expected_spend
    (f64; `seq_ml.tasks.behaviour.spend`), which stays where there is a p, since no window judges
    the others, and where amounts are known (priced).  closed: the labels of the latest closed
    window (`OrderChurnTask.labels`).  share: the horizon over the window that features read.

    The closed window says how the run-rate of the window carries on: `kept` = orders ÷ run-rate
    among those who did not churn, `lost` among those who did, and the same of spend. Then expected
    orders = run-rate × ((1 − p) × kept + p × lost), and value at risk = p × run-rate × (kept −
    lost). Spend is net of returns: of who gave back more than they spent nothing is at risk.
    """
    kept, lost = carried_on(closed, "spend", share)
    return frame.with_columns(
        value_at_risk=pl.when(priced).then(
            pl.col("p") * pl.col("spend_window").clip(0) * share * max(kept - lost, 0.0)
        ),
        expected_orders=expected_orders(closed, share),
        expected_spend=pl.when(priced & pl.col("p").is_not_null()).then(
            pl.col("expected_spend").clip(0)
        ),
    ).with_columns(margin_at_risk=pl.col("value_at_risk") * pl.col("margin_share"))
