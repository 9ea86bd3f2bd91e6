"""What the sequence model foresaw, as columns of examples: from its table, never from the model.

A row of the table was said at its origin by an encoder that had been trained before (a rung of the
ladder, `seq_ml.encoder.ladder.rungs`), so that examples of any split may read it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import polars as pl
from scipy.special import ndtr

from seq_ml.periods import FORESEEN_DAYS

if TYPE_CHECKING:
    from seq_ml.tasks.data import TaskData

FORETOLD = "sequence_p"
"""Column of an example: probability of its label, null where no rung was there in time."""


def predictions_for(examples: pl.DataFrame, data: TaskData) -> pl.DataFrame:
    """Return the examples with the columns of `sequence_predictions`, null where it has no row."""
    origins = examples["origin"].unique().implode()
    found = data.predictions.filter(pl.col("origin").is_in(origins)).collect()
    return examples.join(found, on=["origin", "user_id"], how="left", maintain_order="left")


def p_silent(predictions: pl.DataFrame, days: int) -> pl.Series:
    """Return the probability of no conversion within so many days; null where another was asked."""
    asked = pl.when(silence_days=days).then("p_silence")
    return predictions.select(asked.cast(pl.Float64)).to_series()


def p_spend_below(predictions: pl.DataFrame, amount: pl.Expr, days: int) -> pl.Series:
    """Return the probability of spending less than an amount within so many days.

    amount: of the predictions' columns. Spend is foreseen over FORESEEN_DAYS: the nearest span
    answers, and the amount is taken at its rate.
    """
    span = min(FORESEEN_DAYS, key=lambda span: abs(np.log(span / days)))
    names = [f"{what}_{span}d" for what in ("p_no_spend", "spend_mu", "spend_sigma")]
    columns = predictions.select(amount.alias("amount") * span / days, *names).cast(pl.Float64)
    least, nothing, mu, sigma = columns.to_numpy().T
    below = ndtr((np.log(np.maximum(least, 1e-6)) - mu) / sigma)
    p = np.where(least > 0, nothing + (1 - nothing) * below, 0.0)
    return pl.Series(np.where(np.isnan(nothing), np.nan, p)).fill_nan(None)
