"""Fine-tune to labels of people at origins, and say what that is worth.

People are split by their pseudonym: the weights are fitted to some, the best step is chosen on
others, and the report is of a third part that decided nothing. Beside the fine-tuned encoder stands
the same one with nothing fitted but the head (`frozen`), and the share of the labels alone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from seq_ml.encoder.config import changed
from seq_ml.encoder.finetuning.config import FineTuning
from seq_ml.encoder.finetuning.examples import binary_examples
from seq_ml.encoder.finetuning.training import Task, fine_tune
from seq_ml.metrics.bootstrap import DECIDING, mean_draws
from seq_ml.metrics.drawn_probabilities import EPSILON
from seq_ml.metrics.probabilities import roc_auc
from seq_ml.schema import LABELS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from seq_ml.encoder.finetuning.config import Method
    from seq_ml.encoder.finetuning.tuned import FineTuned
    from seq_ml.encoder.scoring.encoder import Encoder
    from seq_ml.metrics.estimate import Estimate

PARTS = {"fit": range(14), "validation": range(14, 17), "test": range(17, 20)}
"""Twentieths of the people in each part."""
PROBE: Method = "frozen"
SHARE = "share"
"""What stands beside: the encoder as it is with a head, and the share of yes among the labels."""


@dataclass(frozen=True)
class Worth:
    """What a fine-tuning is worth, told of people whose labels decided nothing.

    labels, people: of each part.  origins: first and last.  loss: mean over people, nats, of the
    method, of PROBE and of SHARE.  roc_auc: likewise, NaN of one class.  gain: of loss over PROBE;
    None where the method is that.
    """

    task: str
    method: str
    labels: dict[str, int]
    people: dict[str, int]
    origins: tuple[datetime, datetime]
    loss: dict[str, float]
    roc_auc: dict[str, float]
    gain: Estimate | None

    @property
    def verdict(self) -> str:
        """Return in a sentence whether the fine-tuned encoder is the one to use."""
        if self.gain is None:
            return "Nothing of the encoder was changed: this is the probe itself."
        text = f"{self.gain.value:+.4f} nats [{self.gain.low:+.4f}, {self.gain.high:+.4f}]"
        if self.gain.low > 0:
            return f"Fine-tuning pays: its loss is lower than the probe's by {text}."
        return f"Fine-tuning does not pay beyond chance: the probe's loss less its own is {text}."

    def as_json(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        numbers = {
            name: {key: None if np.isnan(value) else value for key, value in found.items()}
            for name, found in (("loss", self.loss), ("roc_auc", self.roc_auc))
        }
        return {
            "task": self.task,
            "method": self.method,
            "labels": self.labels,
            "people": self.people,
            "origins": [origin.isoformat() for origin in self.origins],
            **numbers,
            "gain": None if self.gain is None else self.gain.as_json(),
            "verdict": self.verdict,
        }


def load_settings(path: Path | None, method: str | None) -> FineTuning:
    """Return the settings of a YAML file, by default those of `FineTuning`; method: goes above it.

    Raises ValueError for an unknown key or value.
    """
    import yaml

    values: dict[str, Any] = {} if path is None else yaml.safe_load(path.read_text()) or {}
    if method is None:
        return changed(FineTuning(), values, where=str(path))
    where = "--method" if path is None else f"{path} and --method"
    return changed(FineTuning(), values | {"method": method}, where=where)


def check_labels(labels: pl.DataFrame, encoder: Encoder) -> None:
    """Refuse labels that this encoder cannot be fitted to honestly: ValueError in one sentence.

    labels: schema LABELS.
    """
    wrong = labels.filter(pl.col("label").is_null() | ~pl.col("label").is_in([0.0, 1.0]))
    if wrong.height:
        value, row = wrong["label"][0], wrong["origin"][0]
        raise ValueError(f"a label of {row:%Y-%m-%d} is {value}: expected 0 or 1")
    early = labels.filter(pl.col("origin") < encoder.fitted_before)
    if early.height:
        raise ValueError(
            f"{early.height:,} of {labels.height:,} labels have an origin before "
            f"{encoder.fitted_before:%Y-%m-%d %H:%M} UTC, the cut-off of encoder "
            f"{encoder.version}, which has seen what came after it: leave them out, or take an "
            f"encoder trained with --as-of {early['origin'].sort()[0]:%Y-%m-%d} or earlier"
        )


def tune(
    encoder: Encoder,
    events: pl.LazyFrame,
    labels: pl.DataFrame,
    settings: FineTuning,
    *,
    name: str,
    checkpoints: Path,
    on_step: Callable[[dict[str, float]], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> tuple[FineTuned, Worth] | None:
    """Fit an encoder to labels, or go on fitting it, and judge it; None when asked to stop.

    events: schema EVENTS.  labels: schema LABELS.  name: of the task.  checkpoints: folder.
    Raises as `check_labels`, `Task` and `fine_tune` do.
    """
    check_labels(labels, encoder)
    events = events.filter(pl.col("user_id").is_in(labels["user_id"].unique().implode()))
    last: datetime = labels["origin"].sort()[-1]
    events = events.filter(pl.col("event_time") < last).collect().lazy()
    parts = split(_readable(events, labels))
    if parts["test"].is_empty():
        raise ValueError(
            f"{name}: nobody is left to judge by; {labels['user_id'].n_unique():,} people have a "
            "label, and some hundred are needed that have an event before their origin"
        )
    tokens = encoder.tokens(events, last)
    fit, validation = (binary_examples(tokens, parts[part]) for part in ("fit", "validation"))
    task = Task(name, fit, validation)
    tuned: dict[str, FineTuned] = {}
    probe = replace(settings, method=PROBE, layers=())
    for plan in dict.fromkeys((settings, probe)):
        done = fine_tune(
            encoder, [task], plan, checkpoints=checkpoints, on_step=on_step, should_stop=should_stop
        )
        if done is None:
            return None
        tuned[plan.method] = done
    return tuned[settings.method], _judge(tuned, settings.method, events, parts, name)


def split(labels: pl.DataFrame) -> dict[str, pl.DataFrame]:
    """Return the labels of each part; a person is in one part alone, the same every time."""
    twentieth = pl.col("user_id").str.slice(0, 8).str.to_integer(base=16) % 20
    return {part: labels.filter(twentieth.is_in(list(of))) for part, of in PARTS.items()}


def _readable(events: pl.LazyFrame, labels: pl.DataFrame) -> pl.DataFrame:
    """Return the labels of people with an event before the origin."""
    began = events.group_by("user_id").agg(first=pl.col("event_time").min()).collect()
    known = labels.join(began, on="user_id").filter(pl.col("first") < pl.col("origin"))
    return known.select(LABELS.names).sort("origin", "user_id")


def _judge(
    tuned: dict[str, FineTuned],
    method: str,
    events: pl.LazyFrame,
    parts: dict[str, pl.DataFrame],
    name: str,
) -> Worth:
    test, fit = parts["test"], parts["fit"]
    predicted = {each: _predict(found, name, events, test) for each, found in tuned.items()}
    predicted[SHARE] = np.full(test.height, fit["label"].mean())
    label = test["label"].to_numpy()
    losses = {each: _nats(label, p) for each, p in predicted.items()}
    frame = pl.DataFrame({"user_id": test["user_id"], **losses})
    people = frame.group_by("user_id", maintain_order=True).mean()
    drawn = mean_draws(people.select(list(losses)).to_numpy(), seed=0, resamples=DECIDING)
    draws = dict(zip(losses, drawn, strict=True))
    every = pl.concat(parts.values())["origin"]
    return Worth(
        task=name,
        method=method,
        labels={part: rows.height for part, rows in parts.items()},
        people={part: rows["user_id"].n_unique() for part, rows in parts.items()},
        origins=(every.min(), every.max()),  # type: ignore[arg-type]
        loss={each: drawn.value for each, drawn in draws.items()},
        roc_auc={each: roc_auc(label, p) for each, p in predicted.items()},
        gain=None if method == PROBE else draws[PROBE].minus(draws[method]),
    )


def _predict(
    tuned: FineTuned, name: str, events: pl.LazyFrame, test: pl.DataFrame
) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return p of each row, as it is served: from the events before the row's origin."""
    frames = []
    for (origin,), rows in test.group_by("origin", maintain_order=True):
        assert isinstance(origin, datetime)
        theirs = events.filter(pl.col("user_id").is_in(rows["user_id"].implode()))
        users, p = tuned.predict(name, theirs, origin.astimezone(UTC))
        frames.append(pl.DataFrame({"user_id": users, "p": p}).with_columns(origin=pl.lit(origin)))
    found = pl.concat(frames).with_columns(pl.col("origin").cast(test.schema["origin"]))
    joined = test.join(found, on=["user_id", "origin"], how="left", maintain_order="left")
    return joined["p"].cast(pl.Float64).to_numpy()


def _nats(label: Any, p: Any) -> Any:
    """Return the loss of each row."""
    p = np.clip(p, EPSILON, 1 - EPSILON)
    return -(label * np.log(p) + (1 - label) * np.log1p(-p))
