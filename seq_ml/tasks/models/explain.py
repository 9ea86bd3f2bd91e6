"""What moved a prediction: effects by feature, and the strongest of them as reasons."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from seq_ml.tasks.models.examples import _width

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    Array = NDArray[np.float64]


SHOWN = 3
"""Reasons of a prediction."""


def by_feature(effects: Array, examples: pl.DataFrame, features: Sequence[str]) -> dict[str, Array]:
    """Split effects [n, columns] by feature, an embedding's columns added up."""
    widths = [_width(examples[name]) or 1 for name in features]
    summed = np.add.reduceat(effects, np.cumsum([0, *widths[:-1]]), axis=1)
    return {name: summed[:, i] for i, name in enumerate(features)}


def top_reasons(
    model: Any,
    examples: pl.DataFrame,
    named: Callable[[str], str] = str,
) -> list[list[dict[str, Any]]]:
    """Return for each example its strongest features, strongest first.

    Each is {"feature", "value" (None for an embedding, a text, or when missing), "effect" (log-odds
    against the average example)}: the dtype "reason" of `seq_ml.schema`. model: fitted, with
    `contributions`. named: what people call a feature.
    """
    effects: dict[str, Array] = model.contributions(examples)
    if not effects:  # one rate for everybody
        return [[] for _ in range(examples.height)]
    names = list(effects)
    shown = [named(name) for name in names]
    table = np.column_stack([effects[name] for name in names])
    strongest = np.argsort(-np.abs(table), axis=1, kind="stable")[:, :SHOWN]
    values = {
        name: [None] * examples.height
        if examples.schema[name].is_nested() or examples.schema[name] == pl.String
        else examples[name].cast(pl.Float64).to_list()
        for name in names
    }
    return [
        [
            {
                "feature": shown[column],
                "value": values[names[column]][row],
                "effect": float(table[row, column]),
            }
            for column in columns
        ]
        for row, columns in enumerate(strongest)
    ]
