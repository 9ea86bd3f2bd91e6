"""The vocabulary in the bucket: every version stays, a pointer names the newest.

The newest is extended, never replaced, as long as its settings hold: ids keep their meaning from
one training to the next. An encoder carries its own copy, so what is published stays readable.
"""

from __future__ import annotations

import json
from datetime import datetime
from itertools import takewhile
from typing import TYPE_CHECKING, Any

from seq_ml.storage.artifacts import POINTER, current, note
from seq_ml.storage.layout import VOCABULARY_PREFIX
from seq_ml.tokens.vocabulary import Vocabulary

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    import polars as pl

    from seq_ml.storage.objects import ObjectStore


def update_vocabulary(
    objects: ObjectStore,
    parts: Iterable[pl.LazyFrame],
    items: pl.DataFrame,
    *,
    before: datetime,
    min_users: int,
    timezone: str,
) -> tuple[Vocabulary, bool]:
    """Extend the newest vocabulary by what was seen until `before`, and publish the result.

    A new one is fitted when there is none, when its settings are others, or when the newest has
    seen events from `before` on (somebody went back in time). Arguments as in `Vocabulary.fit`.
    Returns the vocabulary, and whether it extends the one before.
    """
    old = newest_vocabulary(objects)
    extends = old is not None and old.can_extend(
        before=before, min_users=min_users, timezone=timezone
    )
    if old is not None and extends:
        vocabulary = old.extend(parts, items, before=before)
    else:
        vocabulary = Vocabulary.fit(
            parts, items, before=before, min_users=min_users, timezone=timezone
        )
    objects.put(f"{VOCABULARY_PREFIX}/{vocabulary.version}.json", vocabulary.to_bytes())
    pointer = {
        "version": vocabulary.version,
        "extends": old.version if old is not None and extends else None,
        "fitted_before": before.isoformat(),
        "tokens": len(vocabulary),
    }
    objects.put(
        f"{VOCABULARY_PREFIX}/{POINTER}", json.dumps(pointer, indent=1, sort_keys=True).encode()
    )
    return vocabulary, extends


def vocabularies_at(
    objects: ObjectStore,
    cuts: Sequence[datetime],
    parts: Callable[[datetime], Iterable[pl.LazyFrame]],
    items: pl.DataFrame,
    *,
    min_users: int,
    timezone: str,
) -> list[tuple[Vocabulary, bool]]:
    """Return what `update_vocabulary` does at each cut, each extending the one below it.

    cuts: ascending. parts: returns the events before an instant.  What was fitted at a cut before,
    by a run that was cut off, is not fitted again.
    """
    if not cuts:
        return []
    settings: dict[str, Any] = {"min_users": min_users, "timezone": timezone}
    before = (current(objects, VOCABULARY_PREFIX) or {}).get("cuts", {})
    newest = newest_vocabulary(objects)
    if newest is None or not newest.can_extend(before=cuts[-1], **settings):
        before = {}
    there = [before[name] for name in takewhile(before.__contains__, map(datetime.isoformat, cuts))]
    found = [(load_vocabulary(objects, version), True) for version in there]
    found += [
        update_vocabulary(objects, parts(cut), items, before=cut, **settings)
        for cut in cuts[len(there) :]
    ]
    versions = (vocabulary.version for vocabulary, _ in found)
    at = dict(zip(map(datetime.isoformat, cuts), versions, strict=True))
    note(objects, VOCABULARY_PREFIX, cuts=at)
    return found


def vocabulary_at(objects: ObjectStore, cut: datetime) -> Vocabulary:
    """Return the vocabulary that `vocabularies_at` fitted at a cut; KeyError when there is none."""
    pointer = current(objects, VOCABULARY_PREFIX) or {}
    return load_vocabulary(objects, pointer["cuts"][cut.isoformat()])


def newest_vocabulary(objects: ObjectStore) -> Vocabulary | None:
    """Return the vocabulary that the pointer names, None before the first one."""
    pointer = current(objects, VOCABULARY_PREFIX)
    return load_vocabulary(objects, pointer["version"]) if pointer else None


def load_vocabulary(objects: ObjectStore, version: str) -> Vocabulary:
    """Return one version; KeyError when it is not there."""
    return Vocabulary.from_bytes(objects.get(f"{VOCABULARY_PREFIX}/{version}.json"))
