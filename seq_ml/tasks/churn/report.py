"""What only churn's report says: how probabilities held, what is at stake, which reasons lead."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from seq_ml.metrics.calibration import calibration_error
from seq_ml.metrics.probabilities import brier, labels
from seq_ml.pages.page import Section
from seq_ml.tasks.models.recalibrated import Recalibrated

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from numpy.typing import NDArray

REASONS_SHOWN = 10


def calibration_section(model: Any, test: pl.DataFrame, rates: Mapping[datetime, Any]) -> Section:
    """Compare probabilities before and after recalibration, and show how the base rate moved.

    rates: share of churners at every closed origin, oldest first; the last one is the test's.
    """
    label = labels(test)
    after = model.predict(test)
    stages = [("as published", after)]
    if isinstance(model, Recalibrated):
        stages.insert(0, ("before recalibration", model.uncalibrated(test)))
    rows = [("probabilities", "mean", "observed", "ECE", "Brier score")]
    rows += [
        (name, f"{p.mean():.4f}", f"{label.mean():.4f}", f"{calibration_error(label, p):.4f}",
         f"{brier(label, p):.5f}")
        for name, p in stages
    ]  # fmt: skip
    past = [rate for rate in list(rates.values())[:-1] if rate is not None]
    text = (
        f"In the test window {label.mean():.1%} churned, where the probabilities say "
        f"{after.mean():.1%} on average."
    )
    if past:
        text += (
            f" In the {len(past)} earlier windows it was {min(past):.1%} to {max(past):.1%}, the "
            f"latest {past[-1]:.1%}: so far may the next window lie from the mean of the earlier "
            "ones, which is what the probabilities carry."
        )
    return Section("Calibration before and after recalibration", text, tuple(rows))


def value_section(
    test: pl.DataFrame, p: NDArray[np.float64], share: float, loss: float | None
) -> Section:
    """Show the value at risk by decile of p beside what was lost (currency units).

    Usual = the spend of as long a past window; at risk = p × usual × loss; lost = usual less what
    the churners still spent. share: horizon over window. loss: how much less of the usual spend
    churners spent than the others did, in the window before the test's; None without prices.
    """
    title = "Value at risk by decile, test window"
    if loss is None:
        return Section(title, "Not known: no order has a price.")
    decile = np.minimum(np.argsort(np.argsort(-p, kind="stable")) * 10 // max(len(p), 1), 9)
    usual = pl.col("spend_window") * share
    frame = (
        test.select("label", "next_spend", usual=usual)
        .with_columns(p=pl.Series(p), decile=pl.Series(10 - decile))
        .group_by("decile")
        .agg(
            users=pl.len(),
            p=pl.col("p").mean(),
            churned=pl.col("label").mean(),
            usual=pl.col("usual").sum(),
            at_risk=(pl.col("p") * pl.col("usual")).sum() * loss,
            lost=(pl.col("label") * (pl.col("usual") - pl.col("next_spend"))).sum(),
        )
        .sort("decile", descending=True)
    )
    total_risk, total_lost = float(frame["at_risk"].sum()), float(frame["lost"].sum())
    rows: list[tuple[str, ...]] = [
        ("decile of risk", "users", "mean p", "churned", "usual spend", "at risk", "lost")
    ]
    formats = ("", ",", ".3f", ".3f", ",.0f", ",.0f", ",.0f")
    rows += [tuple(map(format, of_decile, formats)) for of_decile in frame.iter_rows()]
    text = f"At risk in all: {total_risk:,.0f}; lost in the end: {total_lost:,.0f}."
    if total_lost > 0:
        top = float(frame.head(3)["lost"].sum()) / total_lost
        text += f" The three deciles of highest risk held {top:.0%} of what was lost."
    return Section(title, text, tuple(rows))


def reasons_section(explained: pl.Series) -> Section:
    """Show which features are named most as reasons (`explain.top_reasons` of the test rows)."""
    users = max(len(explained), 1)
    leading = (
        explained.to_frame("reason")
        .with_row_index("user")
        .explode("reason")
        .drop_nulls("reason")
        .with_columns(first=pl.col("user").is_first_distinct())
        .unnest("reason")
        .group_by("feature")
        .agg(
            named=pl.len() / users,
            first=pl.col("first").sum() / users,
            size=pl.col("effect").abs().mean(),
        )
        .sort("named", "feature", descending=[True, False])
        .head(REASONS_SHOWN)
        .rows()
    )
    rows = [("feature", "among the reasons of", "strongest reason of", "mean effect, log-odds")]
    rows += [
        (name, f"{named:.0%} of users", f"{first:.0%}", f"{size:.2f}")
        for name, named, first, size in leading
    ]
    text = f"'{leading[0][0]}' is named most often." if leading else "No reason could be given."
    return Section("Which reasons lead", text, tuple(rows))
