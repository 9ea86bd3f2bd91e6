"""The prefixes of the bucket: where each kind of object lies."""

from __future__ import annotations

ENCODER_PREFIX = "models/encoder"
SHARDS_PREFIX = "tokens/shards"
DROPS_PREFIX = "drops/"
MARKER = "_SUCCESS"
ARRIVED_AT = "seqline-arrived-at"
"""Metadata of a drop that was rewritten: when its first version arrived (ISO, UTC)."""


def source_of(key: str) -> tuple[str, str]:
    """Split a drop's key into the source's name and the path below it."""
    name, _, path = key[len(DROPS_PREFIX) :].partition("/")
    return name, path


def is_hidden(path: str) -> bool:
    """Tell whether a path is no drop: a marker, or work in progress (`_temporary/`, `.git/`)."""
    return path.endswith("/") or any(part.startswith(("_", ".")) for part in path.split("/"))
