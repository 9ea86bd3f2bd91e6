"""What competes to be published: the interface of a model, and the champion that came of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from seq_ml.metrics.estimate import Estimate
from seq_ml.metrics.probabilities import ECE, LEVEL, SLOPE

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    import numpy as np
    import polars as pl
    from numpy.typing import NDArray

    from seq_ml.periods import Periods

OF_THE_ENCODER, OF_THE_LADDER = "encoder", "sequence"
"""How the names of the columns begin that one encoder makes, and of what the sequence model
foresaw, by the encoder that was there in time."""
A_SCORE = "a score whose order holds, not its level"
"""What probabilities are called that were off beyond chance in the window that judged them."""


class Model(Protocol):
    """A candidate: a baseline or a model, predicting from the columns of the examples."""

    name: str
    description: str
    """What it is, in a sentence of the report."""
    is_baseline: bool

    def fit(self, examples: pl.DataFrame) -> None:
        """Learn from labelled examples (a baseline may learn only its calibration)."""
        ...

    def predict(self, examples: pl.DataFrame) -> NDArray[np.float64]:
        """Return predictions [n] or [n, k], one row per example, in order."""
        ...

    def state(self) -> dict[str, Any]:
        """Everything that `predict` needs, as JSON values (no pickle)."""
        ...

    def restore(self, state: dict[str, Any]) -> None:
        """Take back what `state` returned."""
        ...


def extends(model: Model) -> tuple[str, ...]:
    """Name the candidates that a candidate adds something to: what it adds must earn its place."""
    return tuple(getattr(model, "extends", ()))


def off_beyond_chance(test: Mapping[str, Estimate]) -> str:
    """Say how a candidate's probabilities were off, by its metrics; "" where that may be chance.

    Each says so of one in forty (bins) to one in twenty (average, spread) that hold.
    """
    error, level, slope = test.get(ECE), test.get(LEVEL), test.get(SLOPE)
    if error is not None and error.low > 0:
        return f"calibration error {error}"
    if level is not None and (level.low > 0 or level.high < 0):
        return f"log-odds off by {level.signed()} on average"
    if slope is not None and (slope.low > 1 or slope.high < 1):
        too = "far apart" if slope.value < 1 else "close together"
        return f"log-odds too {too}: their slope is {slope}"
    return ""


def reads_encoder(model: Model) -> bool:
    """Tell whether a candidate reads columns that the encoder makes."""
    return _reads(model, OF_THE_ENCODER)


def reads_ladder(model: Model) -> bool:
    """Tell whether a candidate reads what the sequence model foresaw."""
    return _reads(model, OF_THE_LADDER)


def _reads(model: Model, beginning: str) -> bool:
    return any(name.startswith(beginning) for name in getattr(model, "features", ()))


@dataclass(frozen=True)
class Champion:
    """The published model with what the report found about it, and what it reads.

    encoder: the version whose columns it was fitted on, None where it reads none. periods: the
    windows of its features, None where the version does not say. fitted_before: where its own test
    window began.
    """

    model: Model
    version: str
    report: dict[str, Any] = field(default_factory=dict)
    encoder: str | None = None
    periods: Periods | None = None
    fitted_before: datetime | None = None

    @property
    def off(self) -> str:
        """How its probabilities were off where it was judged; "" where that may be chance."""
        judged = {c["name"]: c["test"] for c in self.report.get("candidates", ())}
        test = judged.get(self.model.name, {})
        told = {name: Estimate.of_json(test[name]) for name in (ECE, LEVEL, SLOPE) if name in test}
        return off_beyond_chance(told)

    def rests_on(self, horizon_days: int | None, history_days: int | None) -> str:
        """Say what a prediction rests on: history, horizon, closed windows and method."""
        windows = self.report.get("windows", {})
        test = windows.get("test")
        learnt = sum(part["origins"] for name, part in windows.items() if name != "test")
        parts = [] if history_days is None else [f"{history_days} days of history"]
        if horizon_days is not None:
            parts.append(f"{horizon_days} days ahead")
        if test is not None:
            plural = "" if learnt == 1 else "s"
            parts.append(f"learnt from {learnt} earlier window{plural}")
            parts.append(f"judged on {test['examples']:,} rows of the newest")
        parts.append(self.model.name)
        if self.off:
            parts.append(f"{A_SCORE} ({self.off})")
        return ", ".join(parts)
