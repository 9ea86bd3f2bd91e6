"""Which part of the past moved a prediction that reads the encoder: leave one stretch out.

An embedding has no features a person could read. So the events of one stretch of time are taken
away, the encoder reads the rest again, and the change of the log-odds is the effect of that
stretch (occlusion, Zeiler & Fergus 2014). The effects need not add up to the embedding's own.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import polars as pl

from seq_ml.metrics.calibration import logit
from seq_ml.tasks.behaviour.embeddings import EMBEDDING, with_embeddings

if TYPE_CHECKING:
    from datetime import datetime

    import numpy as np
    from numpy.typing import NDArray

    from seq_ml.periods import Periods
    from seq_ml.tasks.data import TaskData

    Array = NDArray[np.float64]


def stretches(periods: Periods) -> list[tuple[int, int]]:
    """Return the stretches of the window as days before the origin, [first, last)."""
    ends = {periods.spans[span] for span in ("newest", "recent", "late", "window")}
    return list(pairwise(sorted({0, *ends})))


class Occluded:
    """A model that reads embeddings, explained by stretches of the past instead of by `embedding`.

    `top_reasons` takes it in place of the model, together with `examples`, which has the number of
    events of each stretch as a column of the reason's name.
    """

    def __init__(
        self, model: Any, examples: pl.DataFrame, data: TaskData, origin: datetime
    ) -> None:
        """Read the encoder once more per stretch; examples: with embeddings, all at `origin`."""
        self.model = model
        self.examples = examples
        self.effects: dict[str, Array] = {}
        whole = logit(model.predict(examples))
        days = (pl.lit(origin) - pl.col("event_time")).dt.total_seconds() / 86400.0
        for first, last in stretches(data.periods):
            name = f"events_{first}_to_{last}_days_ago"
            inside = (days >= first) & (days < last)
            counts = (
                data.events_before(origin)
                .filter(inside)
                .group_by("user_id")
                .agg(pl.len().cast(pl.Float64).alias(name))
                .collect()
            )
            self.examples = self.examples.join(
                counts, on="user_id", how="left", maintain_order="left"
            ).with_columns(pl.col(name).fill_null(0.0))
            rest = data.where(~inside)
            without = with_embeddings(examples.drop(EMBEDDING), rest, [origin])
            self.effects[name] = whole - logit(model.predict(without))

    def contributions(self, examples: pl.DataFrame) -> dict[str, Array]:
        """Return the model's effects, those of the embedding replaced by the stretches'.

        examples: the rows of `self.examples`, in the same order.
        """
        effects = self.model.contributions(examples)
        effects.pop(EMBEDDING, None)
        return {**effects, **self.effects}
