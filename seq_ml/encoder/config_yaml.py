"""A configuration as YAML with its meaning beside each key, to be copied and edited."""

from __future__ import annotations

import ast
import inspect
from dataclasses import fields
from textwrap import wrap
from typing import Any, get_args, get_type_hints

from seq_ml.encoder.config import EncoderConfig, ModelConfig, TrainingConfig

WIDTH = 96


def config_yaml(config: EncoderConfig) -> str:
    """Return all keys with what they mean and may be; `load_config` reads it back as it is."""
    own = [entry.name for entry in fields(config) if entry.name not in ("model", "training")]
    meaning = _meanings(EncoderConfig)
    lines = [line for name in own for line in _lines(config, name, meaning, "")]
    for name, part, kind in (
        ("model", config.model, ModelConfig),
        ("training", config.training, TrainingConfig),
    ):
        meaning = _meanings(kind)
        lines += ["", f"# {inspect.getdoc(kind)}", f"{name}:"]
        for entry in fields(part):
            lines += _lines(part, entry.name, meaning, "  ")
    return "\n".join(lines) + "\n"


def _lines(
    config: EncoderConfig | ModelConfig | TrainingConfig,
    name: str,
    meanings: dict[str, str],
    indent: str,
) -> list[str]:
    """Comment and value of one key."""
    meaning = meanings.get(name, "")
    hint = get_type_hints(type(config))[name]
    choices = [choice for choice in get_args(hint) if isinstance(choice, str)]
    inner = get_args(hint)[0] if get_args(hint) else None
    choices += [choice for choice in get_args(inner) if isinstance(choice, str)]
    if choices:
        meaning = f"{meaning} One of: {', '.join(choices)}.".strip()
    comment = [f"{indent}# {line}" for line in wrap(meaning, WIDTH - len(indent))]
    return [*comment, f"{indent}{name}: {_value(getattr(config, name))}"]


def _value(value: Any) -> str:
    import yaml

    plain = list(value) if isinstance(value, tuple) else value
    written: str = yaml.safe_dump(plain, default_flow_style=True, width=10_000)
    return written.removesuffix("...\n").strip()


def _meanings(kind: type) -> dict[str, str]:
    """Return the docstrings that stand below the fields of a dataclass."""
    (body,) = ast.parse(inspect.getsource(kind)).body
    assert isinstance(body, ast.ClassDef)
    found = {}
    for entry, below in zip(body.body, body.body[1:], strict=False):
        if (
            isinstance(entry, ast.AnnAssign)
            and isinstance(entry.target, ast.Name)
            and isinstance(below, ast.Expr)
            and isinstance(below.value, ast.Constant)
        ):
            found[entry.target.id] = " ".join(str(below.value.value).split())
    return found
