"""What a search may change: ranges and choices, checked against the configuration."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import yaml
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from seq_ml.encoder.config import CHECKED, EncoderConfig, UnusableError, changed, load_config

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from optuna.distributions import BaseDistribution

FIXED = {
    "": ("name", "min_users", "max_events"),
    "model.": ("context", "interest"),
    "training.": (
        "next_event", "next_basket", "masked_item", "masked_span", "queries", "horizon_days",
        "masked", "mask_share", "held_out_share", "evaluate_every", "seed",
    ),
}  # fmt: skip
"""What decides the data or the questions, or when they are asked."""


@dataclass(frozen=True)
class Search:
    """What is searched; `space` says what keys like training.learning_rate are drawn from.

    A choice is JSON in there, because Optuna takes no lists; `values_of` reads it.
    """

    config: EncoderConfig
    space: Mapping[str, BaseDistribution]
    trials: int = 20
    seed: int = 7


@dataclass(frozen=True)
class _File:
    """The YAML file of a search."""

    __pydantic_config__: ClassVar = CHECKED
    config: str = "small"
    space: dict[str, Any] = field(default_factory=dict)
    trials: int = Search.trials
    seed: int = Search.seed


def load_search(path: Path) -> Search:
    """Read the YAML file of a search; ValueError names an unknown or unusable key."""
    file = changed(_File(), yaml.safe_load(path.read_text()), where=str(path))
    if not file.space:
        raise ValueError(f"{path}: expected a key 'space' with what to search")
    config = load_config(file.config)
    space = {
        key: _domain(config, key, value, f"{path}: {key}") for key, value in file.space.items()
    }
    return Search(config, space, file.trials, file.seed)


def values_of(drawn: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the configuration takes, of what Optuna drew."""
    return {
        key: json.loads(value) if isinstance(value, str) else value for key, value in drawn.items()
    }


def changed_by(
    config: EncoderConfig, chosen: Mapping[str, Any], where: str = "trial"
) -> EncoderConfig:
    """Return `config` with keys like training.learning_rate changed; raises as `changed` does."""
    values: dict[str, Any] = {}
    for key, value in chosen.items():
        part, _, name = key.rpartition(".")
        (values.setdefault(part, {}) if part else values)[name] = value
    return changed(config, values, where=where)


def _domain(config: EncoderConfig, key: str, value: Any, where: str) -> BaseDistribution:
    """Check one entry of the space against the configuration."""
    part, dot, name = key.rpartition(".")
    if name in FIXED.get(part + dot, ()):
        raise ValueError(
            f"{where}: cannot be searched, because trials with several of its values would be "
            "judged on other data or other questions"
        )
    match value:
        case list():
            tried = value
        case {"low": low, "high": high, **more} if more.keys() <= {"log"}:
            tried = [low, high]
        case _:
            raise ValueError(f"{where}: expected a list of choices, or low, high and perhaps log")
    for choice in tried:
        with suppress(UnusableError):  # whether values fit together is seen in the trial
            changed_by(config, {key: choice}, where)
    try:
        if isinstance(value, list):
            return CategoricalDistribution([json.dumps(choice) for choice in value])
        old = getattr(getattr(config, part) if part else config, name)
        return IntDistribution(**value) if isinstance(old, int) else FloatDistribution(**value)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: {error}") from error
