"""A configuration as YAML with its meaning beside each key, to be copied and edited."""

from __future__ import annotations

from dataclasses import asdict
from textwrap import wrap
from typing import Any

import yaml
from pydantic import TypeAdapter

from seq_ml.encoder.config import EncoderConfig, Mechanics

WIDTH = 96


def config_yaml(config: EncoderConfig) -> str:
    """Return all keys with what they mean and may be; `load_config` reads it back as it is."""
    meanings = TypeAdapter(EncoderConfig).json_schema()
    shared = TypeAdapter(Mechanics).json_schema()[
        "properties"
    ]  # pydantic reads its texts here only
    values = asdict(config)
    parts = {"model": values.pop("model"), "training": values.pop("training")}
    lines = _lines(values, meanings, "")
    for name, part in parts.items():
        own = meanings["$defs"][type(getattr(config, name)).__name__]
        own["properties"] |= {key: known for key, known in shared.items() if key in part}
        lines += ["", f"# {own['description']}", f"{name}:", *_lines(part, own, "  ")]
    return "\n".join(lines) + "\n"


def _lines(values: dict[str, Any], meanings: dict[str, Any], indent: str) -> list[str]:
    """Comment and value of each key; meanings: its JSON schema."""
    lines = []
    for name, value in values.items():
        key = meanings["properties"][name]
        choices = key.get("enum") or key.get("items", {}).get("enum")
        said = [key.get("description", ""), f"One of: {', '.join(choices)}." if choices else ""]
        comment = wrap(" ".join(said).strip(), WIDTH - len(indent))
        plain = list(value) if isinstance(value, tuple) else value
        written = yaml.safe_dump(plain, default_flow_style=True, width=10_000)
        written = written.removesuffix("...\n").strip()
        lines += [*(f"{indent}# {line}" for line in comment), f"{indent}{name}: {written}"]
    return lines
