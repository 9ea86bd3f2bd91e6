"""Metrics of demand forecasts: ratios of sums, and what is drawn to say how far they are chance."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from seq_ml.metrics.bootstrap import ratio_of_sums
from seq_ml.metrics.forecasts import pinball
from seq_ml.metrics.metric import Metric
from seq_ml.tasks.inventory.distribution import MEAN, QUANTILE_COLUMN
from seq_ml.tasks.inventory.models import LEVELS

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Array = NDArray[np.float64]
    Parts = Callable[[Array, Array], tuple[Array, Array]]

SEGMENTS = ("regular", "sparse", *LEVELS[1:])
"""Items that sell at least a unit a week, the others; series of a store; categories."""


def demand_metrics() -> list[Metric]:
    """Quantile loss of all items; per segment that, error and bias of the mean, and coverage."""
    items = SEGMENTS[:2]
    metrics = [
        _ratio_metric(
            "wql",
            items,
            _quantile_loss,
            "Weighted quantile loss of items: 2 × pinball loss / demand, mean over the quantiles.",
        )
    ]
    for segment in SEGMENTS:
        of = f"({segment})"
        metrics += [
            _ratio_metric(f"wql_{segment}", (segment,), _quantile_loss, f"Quantile loss {of}."),
            _ratio_metric(f"wape_{segment}", (segment,), _error, f"Σ|error| / Σdemand {of}."),
            _ratio_metric(
                f"bias_{segment}", (segment,), _bias, f"Σerror / Σdemand {of}; 0 is best."
            ),
            _ratio_metric(
                f"coverage_90_{segment}",
                (segment,),
                _coverage,
                f"Share of demand at or below p90 {of}; 0.9 is best.",
                higher=True,
            ),
        ]
    return metrics


def _ratio_metric(
    name: str, segments: tuple[str, ...], parts: Parts, description: str, *, higher: bool = False
) -> Metric:
    """Build a metric Σ numerator / Σ denominator as one value per item.

    The value of an item is R + (its numerator − R · its denominator) / mean denominator, R the
    ratio: their mean is R, and resampling them is the bootstrap of the ratio to first order
    (Davison & Hinkley 1997, section 2.7), much faster than the ratio of every resample.
    """

    def function(examples: pl.DataFrame, predictions: Array) -> pl.DataFrame:
        label = examples["label"].cast(pl.Float64).to_numpy()
        numerator, denominator = parts(label, predictions)
        frame = examples.select(
            unit="item_id",
            wanted=pl.col("segment").is_in(segments),
        ).with_columns(numerator=pl.Series(numerator), denominator=pl.Series(denominator))
        sums = (
            frame.filter("wanted")
            .group_by("unit", maintain_order=True)
            .agg(pl.col("numerator", "denominator").sum())
            .sort("unit")
        )
        whole = float(sums["denominator"].sum())
        if not whole:
            return pl.DataFrame(schema={"unit": pl.String, "value": pl.Float64})
        ratio = float(sums["numerator"].sum()) / whole
        rest = pl.col("numerator") - ratio * pl.col("denominator")
        return sums.select("unit", value=ratio + rest * sums.height / whole)

    def wanted(examples: pl.DataFrame, predictions: Array) -> tuple[Array, Array]:
        above, below = parts(examples["label"].cast(pl.Float64).to_numpy(), predictions)
        counts = examples["segment"].is_in(segments).to_numpy()
        return above * counts, below * counts

    return Metric(
        name,
        higher,
        function,
        per_unit=True,
        description=description,
        weighted=ratio_of_sums(wanted),
    )


def week_blocks(examples: pl.DataFrame) -> pl.Series:
    """Return which span of one horizon each example's weeks lie in [rows].

    What happens in a week happens to all items, and the windows of neighbouring weeks overlap: so
    the bootstrap draws such spans beside the items.
    """
    origin = pl.col("origin")
    length = (pl.col("label_end") - origin).max().dt.total_seconds()
    since = (origin - origin.min()).dt.total_seconds()
    return examples.select((since // length).cast(pl.Int64)).to_series()


def _quantile_loss(label: Array, predicted: Array) -> tuple[Array, Array]:
    losses = [2 * pinball(label, predicted[:, c], q) for q, c in QUANTILE_COLUMN.items()]
    return np.mean(losses, axis=0), label


def _error(label: Array, predicted: Array) -> tuple[Array, Array]:
    return np.abs(predicted[:, MEAN] - label), label


def _bias(label: Array, predicted: Array) -> tuple[Array, Array]:
    return predicted[:, MEAN] - label, label


def _coverage(label: Array, predicted: Array) -> tuple[Array, Array]:
    inside = label <= predicted[:, QUANTILE_COLUMN[0.9]] + 1e-9
    return inside.astype(np.float64), np.ones(len(label))
