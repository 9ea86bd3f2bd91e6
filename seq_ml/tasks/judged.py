"""What judging a task found: windows, candidates with intervals, slices, folds, the verdict."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from seq_ml.metrics.estimate import Estimate

if TYPE_CHECKING:
    import polars as pl
    from numpy.typing import NDArray

    from seq_ml.metrics.metric import Metric
    from seq_ml.tasks.candidate import Model


@dataclass(frozen=True)
class Window:
    """The examples of one split: how many, of how many units and origins, and of which time."""

    examples: int
    units: int
    origins: int
    first_origin: datetime
    last_origin: datetime
    last_label_end: datetime

    def as_json(self) -> dict[str, Any]:
        """Return counts and ISO instants."""
        return _as_json(self)


@dataclass(frozen=True)
class Judged:
    """One candidate: metrics on validation, and on test with intervals; `left_out` says why not.

    gain: of a model over the best baseline by the primary metric on test, paired; positive is
    better. pooled: the same over all windows of the walk-forward together, of what predicts some
    rows beside the best model.
    """

    name: str
    description: str
    is_baseline: bool
    validation: dict[str, float]
    test: dict[str, Estimate]
    left_out: str | None = None
    gain: Estimate | None = None
    pooled: Estimate | None = None


@dataclass(frozen=True)
class Part:
    """What a candidate adds to the same one without it, paired, positive is better.

    validation, test: the increment there. earned: whether it may be published for it; `on` says
    which window that rests on. pooled: over all windows of the walk-forward together, of what the
    sequence model adds.
    """

    name: str
    without: str
    validation: Estimate
    test: Estimate
    earned: bool
    on: str = "validation"
    pooled: Estimate | None = None


@dataclass(frozen=True)
class Slice:
    """Primary test metric of model and baseline on the rows where `column` is `value`.

    improvement: paired, positive is better; None where no model could be fitted (then `model` is
    the baseline again).
    """

    column: str
    value: str
    examples: int
    model: Estimate
    baseline: Estimate
    improvement: Estimate | None = None


@dataclass(frozen=True)
class Fold:
    """The whole protocol again at an earlier `as_of`: choose, refit, judge once.

    model, baseline: the best ones on that fold's own validation; published: what would have been.
    Values are of the primary metric on that fold's own test window (NaN without a model).
    improvement: paired, positive is better. note: what differed from the newest round.
    """

    as_of: datetime
    model: str | None
    baseline: str
    published: str
    model_value: Estimate
    baseline_value: Estimate
    improvement: Estimate | None
    examples: int
    note: str = ""


@dataclass(frozen=True)
class Backtest:
    """Everything that was found about a task's candidates; `published` is fitted and ready."""

    task: str
    title: str
    as_of: datetime
    primary: Metric
    windows: dict[str, Window]
    selection: str
    candidates: tuple[Judged, ...]
    model: str | None
    baseline: str
    improvement: Estimate | None
    published: Model
    verdict: str
    slices: tuple[Slice, ...]
    test: pl.DataFrame
    predictions: dict[str, NDArray[np.float64]]
    fitted: dict[str, Model]
    """Every candidate that could be fitted, as it was judged."""
    parts: tuple[Part, ...] = ()
    walk_forward: tuple[Fold, ...] = ()
    """Earlier folds, newest first; their test windows do not overlap this one or each other."""
    pooled: Estimate | None = None
    """Mean improvement over this test window and those of the earlier folds with a model."""

    def metrics_json(self) -> dict[str, Any]:
        """Return the findings as JSON values: what `metrics.json` of a version holds."""
        return {
            "task": self.task,
            "as_of": self.as_of.isoformat(),
            "primary_metric": self.primary.name,
            "higher_is_better": self.primary.higher_is_better,
            "verdict": self.verdict,
            "published": self.published.name,
            "published_is_baseline": self.published.is_baseline,
            "best_model": self.model,
            "best_baseline": self.baseline,
            "improvement": self.improvement.as_json() if self.improvement else None,
            "selection": self.selection,
            "windows": {name: window.as_json() for name, window in self.windows.items()},
            "candidates": [
                {
                    "name": c.name,
                    "is_baseline": c.is_baseline,
                    "validation": {k: _number(v) for k, v in c.validation.items()},
                    "test": {k: v.as_json() for k, v in c.test.items()},
                    "left_out": c.left_out,
                    "gain": c.gain.as_json() if c.gain else None,
                    "pooled_gain": c.pooled.as_json() if c.pooled else None,
                }
                for c in self.candidates
            ],
            "parts": [_as_json(part) for part in self.parts],
            "slices": [_as_json(part) for part in self.slices],
            "walk_forward": [_as_json(fold) for fold in self.walk_forward],
            "pooled_improvement": self.pooled.as_json() if self.pooled else None,
        }


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _as_json(part: Window | Part | Slice | Fold) -> dict[str, Any]:
    """Return the fields as JSON values: estimates as three numbers, instants as ISO text."""
    return {
        name: value.as_json()
        if isinstance(value, Estimate)
        else value.isoformat()
        if isinstance(value, datetime)
        else value
        for name, value in vars(part).items()
    }
