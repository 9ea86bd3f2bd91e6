"""What a search may change: ranges and choices, checked against the configuration."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from seq_ml.encoder.config import EncoderConfig, changed, load_config

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import optuna

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
class Range:
    """Numbers from low to high, both included; log: even in their logarithm."""

    low: float
    high: float
    log: bool = False


@dataclass(frozen=True)
class Search:
    """What is searched; `space` maps keys like training.learning_rate to a range or to choices."""

    config: EncoderConfig
    space: Mapping[str, Range | list[Any]]
    trials: int = 20
    seed: int = 7


def load_search(path: Path) -> Search:
    """Read the YAML file of a search; ValueError names an unknown or unusable key."""
    import yaml

    values = yaml.safe_load(path.read_text())
    if not isinstance(values, dict) or not isinstance(values.get("space"), dict):
        raise ValueError(f"{path}: expected a key 'space' with what to search")  # noqa: TRY004
    known = [entry.name for entry in fields(Search)]
    for key in values:
        if key not in known:
            raise ValueError(f"{path}: unknown key '{key}'; known: {', '.join(known)}")
    config = load_config(values.pop("config", "small"))
    for name in ("trials", "seed"):
        if type(values.get(name, 1)) is not int:
            raise ValueError(f"{path}: {name} must be a whole number, found {values[name]!r}")
    space = {
        key: _domain(config, key, value, f"{path}: {key}")
        for key, value in values.pop("space").items()
    }
    return Search(config, space, **values)


class UnusableError(ValueError):
    """A combination of choices that no configuration allows."""


def changed_by(
    config: EncoderConfig, chosen: Mapping[str, Any], where: str = "trial"
) -> EncoderConfig:
    """Return `config` with keys like training.learning_rate changed.

    Raises UnusableError; a wrong name or type is told as being in `where`.
    """
    values: dict[str, Any] = {}
    for key, value in chosen.items():
        part, _, name = key.rpartition(".")
        (values.setdefault(part, {}) if part else values)[name] = value
    try:
        return changed(config, values, where=where)
    except ValueError as error:
        raise UnusableError(str(error)) from error


def _domain(config: EncoderConfig, key: str, value: Any, where: str) -> Range | list[Any]:
    """Check one entry of the space against the configuration."""
    part, dot, name = key.rpartition(".")
    if name in FIXED.get(part + dot, ()):
        raise ValueError(
            f"{where}: cannot be searched, because trials with several of its values would be "
            "judged on other data or other questions"
        )
    if isinstance(value, list):
        if not value:
            raise ValueError(f"{where}: expected at least one choice")
        for choice in value:
            _check(config, key, choice, where)
        return value
    if not isinstance(value, dict) or not {"low", "high"} <= set(value) <= {"low", "high", "log"}:
        raise ValueError(f"{where}: expected a list of choices, or low, high and perhaps log")
    domain = Range(**value)
    for bound in (domain.low, domain.high):
        _check(config, key, bound, where)
        if isinstance(bound, bool | str):
            raise ValueError(f"{where}: low and high must be numbers, found {bound!r}")  # noqa: TRY004
    if domain.low > domain.high or (domain.log and domain.low <= 0):
        raise ValueError(f"{where}: low must not be above high, and above 0 with log")
    return domain


def _check(config: EncoderConfig, key: str, value: Any, where: str) -> None:
    """Check name and type of one value; whether values fit together is seen in the trial."""
    try:
        changed_by(config, {key: value}, where)
    except UnusableError as error:
        if str(error).startswith(where):
            raise ValueError(str(error)) from error


def suggest(trial: optuna.Trial, wanted: Search, key: str, domain: Range | list[Any]) -> Any:
    """Let the sampler choose a value; whole numbers where the configuration has one."""
    if isinstance(domain, list):  # Optuna takes no lists as choices
        return json.loads(trial.suggest_categorical(key, [json.dumps(value) for value in domain]))
    part, _, name = key.rpartition(".")
    old = getattr(getattr(wanted.config, part) if part else wanted.config, name)
    if isinstance(old, int):
        return trial.suggest_int(key, int(domain.low), int(domain.high), log=domain.log)
    return trial.suggest_float(key, domain.low, domain.high, log=domain.log)
