"""Land files as drops: upload what is new or changed, then mark each folder as complete."""

from __future__ import annotations

import hashlib
import itertools
from typing import TYPE_CHECKING

from seq_ml.ingest.mapping.source import MappingError, parse_mapping
from seq_ml.sources import completejourney
from seq_ml.storage.layout import DROPS_PREFIX, MARKER, SOURCES_PREFIX, is_hidden
from seq_ml.storage.objects import ONE_PUT_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from datetime import date
    from pathlib import Path

    from seq_ml.storage.objects import ObjectStore


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
    below = ((path.relative_to(folder).as_posix(), path) for path in files)
    return _land(objects, mapping.name, below, say)


def land_demo_history(objects: ObjectStore, say: Callable[[str], None]) -> int:
    """Land Complete Journey but for its last days; return how many files changed."""
    _keep_mapping(objects, "completejourney", completejourney.mapping_text())
    reference = completejourney.write_reference()
    files = itertools.chain(_demo_days(last=False), reference)
    return _land(objects, "completejourney", files, say)


def land_demo_days(objects: ObjectStore, say: Callable[[str], None]) -> int:
    """Land the last days of Complete Journey; return how many files changed."""
    return _land(objects, "completejourney", _demo_days(last=True), say)


def _demo_days(*, last: bool) -> Iterable[tuple[str, bytes]]:
    newest: date = completejourney.last_day()
    for day, path, content in completejourney.write_days():
        if ((newest - day).days < completejourney.LAST_DAYS) == last:
            yield path, content


def _land(
    objects: ObjectStore,
    source: str,
    files: Iterable[tuple[str, Path | bytes]],
    say: Callable[[str], None],
) -> int:
    """Upload what is new or changed, and mark its folders; return how many files changed."""
    prefix = f"{DROPS_PREFIX}/{source}/"
    etags = {info.key: info.etag for info in objects.list(prefix)}
    keys, changed = [], 0
    for path, content in files:
        keys.append(prefix + path)
        changed += _put(objects, prefix + path, content, etags.get(prefix + path))
    for folder in sorted({key.rsplit("/", 1)[0] for key in keys}):
        if f"{folder}/{MARKER}" not in etags:
            objects.put(f"{folder}/{MARKER}", b"")
    say(f"  {len(keys)} files, {changed} new or changed")
    return changed


def _put(objects: ObjectStore, key: str, content: Path | bytes, etag: str | None) -> bool:
    """Upload a file unless the bucket holds the same content; tell whether it was uploaded."""
    if isinstance(content, bytes):
        digest = hashlib.md5(content, usedforsecurity=False).hexdigest()
    else:
        with content.open("rb") as file:
            digest = hashlib.file_digest(file, "md5").hexdigest()
    if etag == digest:
        return False
    if isinstance(content, bytes) or content.stat().st_size <= ONE_PUT_BYTES:
        objects.put(key, content if isinstance(content, bytes) else content.read_bytes())
        return True
    if etag is not None and objects.metadata(key).get("md5") == digest:
        return False
    objects.put_file(key, content, {"md5": digest})  # whose etag will be another
    return True


def _keep_mapping(objects: ObjectStore, name: str, text: str) -> None:
    key = f"{SOURCES_PREFIX}/{name}.yaml"
    try:
        if objects.get(key) == text.encode():
            return
    except KeyError:
        pass
    objects.put(key, text.encode())
