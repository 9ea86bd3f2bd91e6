"""Examples as the models of 0/1 labels read them: a matrix, its columns, the rows to learn from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from seq_ml.tasks.task import NotEnoughHistoryError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Array = NDArray[np.float64]


SMALLEST_CLASS = 3
"""With fewer examples of either class no curve can be fitted at all."""
RATE, PER_VARIABLE, PENALISED, TREES = 5, 10, 50, 100
"""So many users of the rarer class at least are asked of a rate, of each coefficient of a
regression, of a penalised regression on any number of features, and of trees.

Fewer make a candidate whose numbers are chance. 10 a coefficient is the old rule (Peduzzi et al.
1996), too few where nothing is penalised (van Smeden et al. 2019, Riley et al. 2019); trees need
far more than regressions (van der Ploeg et al. 2014). They only say what may compete: what is
published must still beat the best of the rates and columns beyond chance.
"""


def enough(model: Any, examples: pl.DataFrame, unit: str) -> None:
    """Raise NotEnoughHistoryError where a candidate asks for more of the rarer class.

    model: its `fewest`, if it has one. examples: what the published one is fitted on; the rows of a
    user at several origins are one user.
    """
    fewest = getattr(model, "fewest", 0)
    if not fewest:
        return
    of_class = [examples.filter(label=label)[unit].n_unique() for label in (0, 1)]
    if min(of_class) < fewest:
        raise NotEnoughHistoryError(
            f"{model.name}: {of_class[1]} {unit.removesuffix('_id')}s with a positive label and "
            f"{of_class[0]} with a negative one are too few to learn from; it needs {fewest} of "
            "either"
        )


def matrix(examples: pl.DataFrame, features: Sequence[str]) -> Array:
    """Return the features as f64 [n, features], NaN where null."""
    return np.column_stack([examples[name].cast(pl.Float64).to_numpy() for name in features])


def training_labels(examples: pl.DataFrame, name: str) -> Array:
    """Return the labels f64 [n]; NotEnoughHistoryError when they are few."""
    label = examples["label"].cast(pl.Float64).to_numpy()
    positives = int(label.sum())
    if min(positives, len(label) - positives) < SMALLEST_CLASS:
        raise NotEnoughHistoryError(
            f"{name}: {positives} positives among {len(label)} examples are too few to learn from"
        )
    return label
