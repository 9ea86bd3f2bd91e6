"""Versioned folders in the bucket (token shards, encoders), with a pointer to the current one.

A folder is uploaded under its version first; the pointer moves last, in one write, so a reader
never sees half a folder.
"""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from seq_ml.storage.objects import ObjectStore

POINTER = "current.json"
CANDIDATE = "candidate.json"
"""Pointer to what may become current once it is judged."""
FORBIDDEN = "forbidden"
"""Object in the folder of a version that nothing may continue."""


def publish_folder(
    objects: ObjectStore,
    prefix: str,
    version: str,
    folder: Path,
    *,
    files: Sequence[str],
    pointer: str = POINTER,
    **facts: Any,
) -> int:
    """Upload the named files of `folder` as `prefix/version`, make it current; return the bytes.

    pointer: CANDIDATE, for what is not current yet.  facts: JSON values to keep in the pointer
    (as_of, metrics …).
    """
    size = 0
    for name in files:
        size += objects.put_file(f"{prefix}/{version}/{name}", folder / name)
    point(objects, prefix, pointer, {"version": version, **facts})
    return size


def point(objects: ObjectStore, prefix: str, pointer: str, content: dict[str, Any]) -> None:
    """Move a pointer, in one write.  content: the version, and facts about it."""
    text = json.dumps(content, indent=1, sort_keys=True)
    objects.put(f"{prefix}/{pointer}", text.encode())


def current(objects: ObjectStore, prefix: str, pointer: str = POINTER) -> dict[str, Any] | None:
    """Return the pointer's content (version and facts), None when nothing was published."""
    try:
        content: dict[str, Any] = json.loads(objects.get(f"{prefix}/{pointer}"))
    except KeyError:
        return None
    return content


def note(objects: ObjectStore, prefix: str, **facts: Any) -> None:
    """Add facts to the pointer; what is current stays. Nothing where nothing is."""
    pointer = current(objects, prefix)
    if pointer is not None:
        point(objects, prefix, POINTER, {**pointer, **facts})


def forbid(objects: ObjectStore, prefix: str, version: str) -> None:
    """Let nothing continue from a version any more: an erased person was in its data."""
    objects.put(f"{prefix}/{version}/{FORBIDDEN}", b"")


def is_forbidden(objects: ObjectStore, prefix: str, version: str) -> bool:
    """Tell whether `forbid` was said of a version."""
    return objects.exists(f"{prefix}/{version}/{FORBIDDEN}")


def fetch_folder(objects: ObjectStore, prefix: str, version: str, work: Path) -> Path:
    """Return a local copy of a published folder, downloaded once."""
    folder = work / prefix / version
    complete = folder / ".complete"
    if not complete.exists():
        shutil.rmtree(folder, ignore_errors=True)
        objects.download(f"{prefix}/{version}", folder)
        complete.touch()
    return folder
