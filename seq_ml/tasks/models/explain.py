"""What moved a prediction: effects by feature, and the strongest of them as reasons."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Array = NDArray[np.float64]


SHOWN = 3
"""Reasons of a prediction."""
REASON = {"feature": pl.String, "value": pl.Float64, "effect": pl.Float64}


def top_reasons(
    model: Any,
    examples: pl.DataFrame,
    named: Callable[[str], str] = str,
) -> pl.Series:
    """Return for each example the list of its strongest features, strongest first.

    Each is {"feature", "value" (null for a text, or when missing), "effect" (log-odds
    against the average example)}: the dtype "reason" of `seq_ml.schema`. model: fitted, with
    `contributions`. named: what people call a feature.
    """
    effects: dict[str, Array] = model.contributions(examples)
    if not effects or examples.is_empty():  # one rate for everybody, or nobody
        return pl.Series([[]] * examples.height, dtype=pl.List(pl.Struct(REASON)))
    names = list(effects)
    shown = pl.Series([named(name) for name in names])
    table = np.column_stack([effects[name] for name in names])
    values = np.column_stack([_numbers(examples[name]) for name in names])
    strongest = np.argsort(-np.abs(table), axis=1, kind="stable")[:, :SHOWN]
    places = []
    for columns in strongest.T:
        one, effect = (
            np.take_along_axis(of, columns[:, None], axis=1)[:, 0] for of in (values, table)
        )
        value = pl.Series(one).fill_nan(None)
        place = pl.DataFrame([shown.gather(columns), value, pl.Series(effect)], schema=REASON)
        places.append(place.to_struct())
    return pl.select(pl.concat_list(places)).to_series()


def _numbers(column: pl.Series) -> Array:
    """Return the values [n], NaN where there is none that could be shown."""
    if column.dtype.is_nested() or column.dtype == pl.String:
        return np.full(len(column), np.nan)
    return column.cast(pl.Float64).to_numpy()
