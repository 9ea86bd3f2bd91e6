"""Land files as drops: upload what is new or changed, then mark each folder as complete."""

from __future__ import annotations

import hashlib
import itertools
from typing import TYPE_CHECKING

from seq_ml.ingest.mapping.source import MappingError, parse_mapping
from seq_ml.sources import completejourney
from seq_ml.storage.layout import DROPS_PREFIX, MARKER, SOURCES_PREFIX, is_hidden

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from datetime import date
    from pathlib import Path

    from seq_ml.storage.objects import ObjectStore

ONE_PUT_BYTES = 64_000_000
"""Larger files go up in parts; their etag is no plain MD5, so the MD5 is kept beside them."""


def land_folder(
    objects: ObjectStore, folder: Path, mapping_text: str, origin: str, say: Callable[[str], None]
) -> int:
    """Land every file below `folder` as a drop of the mapping's source; return how many changed.

    Raises MappingError when the mapping is wrong, or when no file fits it.
    """
    mapping = parse_mapping(mapping_text, origin)
    files = sorted(
        path
        for path in folder.rglob("*")
        if path.is_file() and not is_hidden(path.relative_to(folder).as_posix())
    )
    fitting = [p for p in files if mapping.file_for(p.relative_to(folder).as_posix())]
    if not fitting:
        patterns = ", ".join(entry.match for entry in mapping.files)
        raise MappingError(
            f"None of the {len(files)} files below {folder} fits a pattern of {origin} ({patterns})"
        )
    _keep_mapping(objects, mapping.name, mapping_text)
    prefix = f"{DROPS_PREFIX}/{mapping.name}/"
    there = _listing(objects, prefix)
    changed = 0
    for path in files:
        key = prefix + path.relative_to(folder).as_posix()
        changed += _put_file(objects, path, key, there.get(key))
    _mark(objects, (prefix + p.relative_to(folder).as_posix() for p in files), there)
    say(f"  {len(files)} files, {changed} new or changed")
    return changed


def land_demo_history(objects: ObjectStore, say: Callable[[str], None]) -> int:
    """Land Complete Journey but for its last days; return how many files changed."""
    _keep_mapping(objects, "completejourney", completejourney.mapping_text())
    reference = completejourney.write_reference()
    return _land_demo(objects, itertools.chain(_demo_days(last=False), reference), say)


def land_demo_days(objects: ObjectStore, say: Callable[[str], None]) -> int:
    """Land the last days of Complete Journey; return how many files changed."""
    return _land_demo(objects, _demo_days(last=True), say)


def _demo_days(*, last: bool) -> Iterable[tuple[str, bytes]]:
    newest: date = completejourney.last_day()
    for day, path, content in completejourney.write_days():
        if ((newest - day).days < completejourney.LAST_DAYS) == last:
            yield path, content


def _land_demo(
    objects: ObjectStore, files: Iterable[tuple[str, bytes]], say: Callable[[str], None]
) -> int:
    prefix = f"{DROPS_PREFIX}/completejourney/"
    there = _listing(objects, prefix)
    keys, changed = [], 0
    for path, content in files:
        keys.append(prefix + path)
        if there.get(prefix + path) != hashlib.md5(content, usedforsecurity=False).hexdigest():
            objects.put(prefix + path, content)
            changed += 1
    _mark(objects, keys, there)
    say(f"  {len(keys)} files, {changed} new or changed")
    return changed


def _keep_mapping(objects: ObjectStore, name: str, text: str) -> None:
    key = f"{SOURCES_PREFIX}/{name}.yaml"
    try:
        if objects.get(key) == text.encode():
            return
    except KeyError:
        pass
    objects.put(key, text.encode())


def _listing(objects: ObjectStore, prefix: str) -> dict[str, str]:
    return {info.key: info.etag for info in objects.list(prefix)}


def _put_file(objects: ObjectStore, path: Path, key: str, etag: str | None) -> bool:
    """Upload a file unless the bucket holds the same content; tell whether it was uploaded."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "md5").hexdigest()
    if etag == digest:
        return False
    if path.stat().st_size <= ONE_PUT_BYTES:
        objects.put(key, path.read_bytes())
        return True
    if etag is not None and objects.metadata(key).get("md5") == digest:
        return False
    objects.put_large(key, path, {"md5": digest})
    return True


def _mark(objects: ObjectStore, keys: Iterable[str], there: dict[str, str]) -> None:
    """Put `_SUCCESS` into every folder that has none yet."""
    for folder in sorted({key.rsplit("/", 1)[0] for key in keys}):
        marker = f"{folder}/{MARKER}"
        if marker not in there:
            objects.put(marker, b"")
