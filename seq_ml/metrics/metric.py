"""What a metric is: a number that judges predictions, with its name and its direction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Metric:
    """A number that judges predictions.

    `function` is called with labelled examples and predictions. That of a metric with `per_unit`
    returns one value per unit of the bootstrap (user, item …) as a frame (unit, value), whose mean
    is the metric; the others return the number itself, on every resample anew.  `weighted`, called
    with the same, returns what gives the numbers of many resamples at once, f64 [draws], from how
    often each of the examples was drawn (`seq_ml.metrics.bootstrap.Drawn`).  gaps: it
    gives vectors instead, f64 [draws, k], whose length is the metric but for the noise in it (see
    `seq_ml.metrics.bootstrap.length`).
    """

    name: str
    higher_is_better: bool
    function: Any
    per_unit: bool = False
    description: str = ""
    weighted: Any = None
    gaps: bool = False
