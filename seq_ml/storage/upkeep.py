"""Upkeep of the bucket: merge small files, delete what nothing refers to any more.

`plan` looks and changes nothing; each of its steps says what it would do and is done by `apply`.
Contents never change: what a reader of a table sees is the same before and after.

* Tables that grow by many small appends are compacted, partition by partition.
* Files of table versions older than `history_days` are deleted (Delta's vacuum). A younger version
  can be read and restored.
* Token shards, encoders and models that no pointer names (current, champion, the versions that a
  rollback may go back to, challenger) are deleted when they are older than `history_days`; local
  copies of deleted versions too.
* Data Docs older than `docs_days`; rows in quarantine older than `quarantine_days` when it is set.

Raw drops are never touched. A step is one commit, or deletes only what nothing refers to: a crash
leaves nothing half done, and the next plan finds what is left. A step whose table or folder changed
since it was planned is left for the next time.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from math import ceil
from typing import TYPE_CHECKING, Any

import polars as pl

from seq_ml.schema.stages import UPKEEP
from seq_ml.storage.artifacts import CANDIDATE, POINTER
from seq_ml.storage.layout import (
    DOCS_PREFIX,
    ENCODER_PREFIX,
    LADDER_KEY,
    MODELS_PREFIX,
    SHARDS_PREFIX,
    challenger_key,
    champion_key,
    model_prefix,
)
from seq_ml.storage.opened import LOG
from seq_ml.storage.tables import all_tables

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from seq_ml.settings import Settings
    from seq_ml.storage.objects import ObjectInfo, ObjectStore
    from seq_ml.storage.tables import TableStore

COMPACTED = (
    "staged_",
    "drop_ledger",
    "cleaning_counts",
    "reopened_partitions",
    "validations",
    "user_ids",
    "erased",
)
"""Names, or beginnings of names, of the tables that appends cut into small files.

No others, on purpose. Where whole tables or whole days are replaced (clean_events, sequences,
quarantine, reference and published tables) there are few files to merge; and a replacement that
began before a compaction and ends after it would leave the old rows in place beside the new ones:
deltalake 1.6 sees a conflict there only for SQL predicates, as those of the tables above.
"""
MANY_FILES = 8
"""A partition with so many files below half of TARGET_BYTES is compacted."""
TARGET_BYTES = 128_000_000
DONE, CHANGED = "done", "changed meanwhile; left for the next time"


@dataclass(frozen=True)
class Step:
    """One thing to do: where, what, files and bytes before and after (estimates for compaction)."""

    target: str
    action: str
    files_before: int
    bytes_before: int
    files_after: int
    bytes_after: int
    do: Callable[[], str] = field(repr=False, compare=False)
    """Does it; returns the outcome in words."""


def plan(objects: ObjectStore, settings: Settings, home: Path, now: datetime) -> list[Step]:
    """Return what there is to do, compaction first; nothing is changed.

    home: folder with this machine's working copies (`work/`) and sites (`site/`).
    """
    kept_since = now - timedelta(days=settings.history_days)
    steps: list[Step] = []
    old_files: list[Step] = []
    for store, name, listed in all_tables(objects):
        if name.startswith(COMPACTED):
            steps += _compaction(store, name)
        if name == "quarantined_events" and settings.quarantine_days:
            until = now - timedelta(days=settings.quarantine_days)
            steps += _old_quarantine(store, name, until)
        old_files += _old_versions(store, name, listed, settings.history_days)
    docs_since = now - timedelta(days=settings.docs_days)
    return [
        *steps,
        *old_files,
        *_old_artifacts(objects, home / "work", kept_since),
        *_old_docs(objects, home / DOCS_PREFIX, docs_since),
    ]


def apply(steps: Sequence[Step], on_progress: Callable[[str], None] = lambda _: None) -> list[str]:
    """Do the steps in order; return each one's outcome (DONE, or why it was left)."""
    outcomes = []
    for step in steps:
        outcomes.append(step.do())
        on_progress(f"{step.target}: {step.action}: {outcomes[-1]}")
    return outcomes


def report(steps: Sequence[Step], outcomes: Sequence[str] | None = None) -> pl.DataFrame:
    """Return the steps as a table (schema UPKEEP); without outcomes it is a dry run's."""
    rows = [
        {**{n: getattr(step, n) for n in UPKEEP.names[:-1]}, "outcome": outcome}
        for step, outcome in zip(steps, outcomes or ["planned"] * len(steps), strict=True)
    ]
    return pl.DataFrame(rows, schema=UPKEEP.polars_schema())


# --- tables ---------------------------------------------------------------------------------------


def _compaction(store: TableStore, name: str) -> Iterator[Step]:
    table = store.delta(name)
    columns = table.metadata().partition_columns
    actions = store.files(name)
    if actions.is_empty():
        return
    by = [f"partition.{column}" for column in columns]
    small = actions.filter(pl.col("size_bytes") < TARGET_BYTES // 2).with_columns(one=pl.lit(0))
    crowded = (
        small.group_by("one", *by)
        .agg(files=pl.len(), bytes=pl.col("size_bytes").sum())
        .filter(pl.col("files") >= MANY_FILES)
    )
    if crowded.is_empty():
        return
    partitions = [str(value) for value in crowded[by[0]].sort()] if by else []

    chosen: Any = [(columns[0], "in", partitions)] if partitions else None

    def compact() -> None:
        store.delta(name).optimize.compact(chosen, target_size=TARGET_BYTES, max_concurrent_tasks=1)

    files, size = int(crowded["files"].sum()), int(crowded["bytes"].sum())
    after = sum(ceil(b / TARGET_BYTES) for b in crowded["bytes"])
    where = f"{len(partitions)} partitions" if partitions else "the table"
    yield Step(
        f"{store.prefix}/{name}", f"compact {where}", files, size, after, size, _commit(compact)
    )


def _commit(act: Callable[[], object]) -> Callable[[], str]:
    """Return a step of one commit: when somebody else's came first, it is left."""

    def do() -> str:
        from deltalake.exceptions import CommitFailedError

        try:
            act()
        except CommitFailedError:
            return CHANGED
        return DONE

    return do


def _old_quarantine(store: TableStore, name: str, until: datetime) -> Iterator[Step]:
    """Delete whole days whose events and last writing are both older than `until`."""
    actions = store.files(name)
    if actions.is_empty():
        return
    old = (
        actions.group_by(day=pl.col("partition.event_date"))
        .agg(
            files=pl.len(),
            bytes=pl.col("size_bytes").sum(),
            written=pl.col("modification_time").cast(pl.Int64).max(),
        )
        .filter(pl.col("day") < until.date(), pl.col("written") < int(until.timestamp() * 1000))
        .sort("day")
    )
    if old.is_empty():
        return
    days: list[date] = old["day"].to_list()
    listed = ", ".join(f"'{day}'" for day in days)
    delete = _commit(lambda: store.delta(name).delete(f"event_date IN ({listed})"))
    files, size = int(old["files"].sum()), int(old["bytes"].sum())
    action = f"delete {len(days)} days up to {days[-1]}"
    yield Step(f"{store.prefix}/{name}", action, files, size, 0, 0, delete)


def _old_versions(
    store: TableStore, name: str, listed: Mapping[str, int], history_days: int
) -> Iterator[Step]:
    """Delete the files that only versions older than `history_days` refer to.

    delta-rs says which (a file of a writer that has not committed yet is young, and not among
    them); they are deleted here, because its own vacuum adds two versions to the table each time.
    """
    table = store.delta(name)
    version = table.version()
    unused = table.vacuum(
        history_days * 24, dry_run=True, enforce_retention_duration=False, full=True
    )
    paths = [path for path in unused if path in listed]  # the log names deleted ones for a while
    if not paths:
        return
    prefix = f"{store.prefix}/{name}"

    def do() -> str:
        if store.version(name) != version:
            # what a restore has taken back into use must stay: look again
            used = set(store.delta(name).file_uris())
            if any(store.objects.uri(f"{prefix}/{path}") in used for path in paths):
                return CHANGED
        store.objects.delete(f"{prefix}/{path}" for path in paths)
        return DONE

    size = sum(listed[path] for path in paths)
    held = [(path, b) for path, b in listed.items() if not path.startswith(f"{LOG}/")]
    yield Step(
        prefix,
        f"delete files of versions older than {history_days} days",
        len(held),
        sum(b for _, b in held),
        len(held) - len(paths),
        sum(b for _, b in held) - size,
        do,
    )


# --- versioned folders, Data Docs and local copies ------------------------------------------------


def _old_artifacts(objects: ObjectStore, work: Path, since: datetime) -> Iterator[Step]:
    for prefix in sorted([SHARDS_PREFIX, *_model_folders(objects)]):
        kept = _referenced(objects, prefix)
        for version, listed in _versions(objects, prefix).items():
            if _last_change(listed) < since and version not in kept:
                yield _deletion(objects, prefix, version, "delete: nothing refers to it", listed)
        for folder in _local(work / prefix, since):
            if folder.name not in kept:
                yield _local_deletion(folder, work.parent, "delete the local copy")


def _old_docs(objects: ObjectStore, site: Path, since: datetime) -> Iterator[Step]:
    action = f"delete Data Docs of before {since:%Y-%m-%d}"
    for run, listed in _versions(objects, DOCS_PREFIX).items():
        if _last_change(listed) < since:
            yield _deletion(objects, DOCS_PREFIX, run, action, listed)
    for folder in _local(site, since):
        yield _local_deletion(folder, site.parent.parent, action)


def _referenced(objects: ObjectStore, prefix: str) -> set[str]:
    """Return the versions below `prefix` that a pointer names (see registry/versions.py).

    The versions of a task are those of its champion, of every earlier champion that a rollback may
    go back to, and of the challenger. An encoder is kept while one of these reads it, or as a rung
    of the ladder.
    """
    named = {str(_json(objects, f"{prefix}/{POINTER}").get("version"))}
    if prefix == SHARDS_PREFIX:
        return named
    if prefix != ENCODER_PREFIX:
        task = prefix.rpartition("/")[2]
        champion = _json(objects, champion_key(task))
        for entry in (champion, *champion.get("history", ()), _json(objects, challenger_key(task))):
            named.add(str(entry.get("version")))
        return named
    named.add(str(_json(objects, f"{prefix}/{CANDIDATE}").get("version")))
    named |= {str(rung["version"]) for rung in _json(objects, LADDER_KEY).get("rungs", ())}
    for folder in _model_folders(objects) - {prefix}:
        task = folder.rpartition("/")[2]
        named.add(str(_json(objects, challenger_key(task)).get("encoder")))
        for version in _referenced(objects, folder):
            config = _json(objects, f"{model_prefix(task, version)}/config.json")
            named.add(str(config.get("lineage", {}).get("encoder")))
    return named


def _json(objects: ObjectStore, key: str) -> dict[str, Any]:
    try:
        values: dict[str, Any] = json.loads(objects.get(key))
    except KeyError:
        return {}
    return values


def _model_folders(objects: ObjectStore) -> set[str]:
    return {f"{MODELS_PREFIX}/{name}" for name in _versions(objects, MODELS_PREFIX)}


def _versions(objects: ObjectStore, prefix: str) -> dict[str, list[ObjectInfo]]:
    """Return the objects of each folder directly below `prefix`."""
    folders: dict[str, list[ObjectInfo]] = {}
    for info in objects.list(f"{prefix}/"):
        name, slash, _ = info.key[len(prefix) + 1 :].partition("/")
        if slash:
            folders.setdefault(name, []).append(info)
    return folders


def _last_change(listed: Iterable[ObjectInfo]) -> datetime:
    return max(info.modified_at for info in listed)


def _deletion(
    objects: ObjectStore, prefix: str, version: str, action: str, listed: Sequence[ObjectInfo]
) -> Step:
    folder = f"{prefix}/{version}"
    planned = {(info.key, info.etag, info.modified_at) for info in listed}

    def do() -> str:
        now = {(info.key, info.etag, info.modified_at) for info in objects.list(f"{folder}/")}
        # published anew since, or named by a pointer again
        if not now <= planned or (
            prefix != DOCS_PREFIX and version in _referenced(objects, prefix)
        ):
            return CHANGED
        objects.delete(key for key, _, _ in now)
        return DONE

    return Step(folder, action, len(listed), sum(info.size for info in listed), 0, 0, do)


def _local(folder: Path, since: datetime) -> list[Path]:
    """Return the folders directly below `folder` in which nothing changed after `since`."""
    if not folder.is_dir():
        return []
    return [p for p in sorted(folder.iterdir()) if p.is_dir() and _changed(p) < since]


def _changed(folder: Path) -> datetime:
    newest = max(path.stat().st_mtime for path in (folder, *folder.rglob("*")))
    return datetime.fromtimestamp(newest, UTC)


def _local_deletion(folder: Path, home: Path, action: str) -> Step:
    sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]

    def do() -> str:
        shutil.rmtree(folder)
        return DONE

    name = f"{home.name}/{folder.relative_to(home)}"
    return Step(name, action, len(sizes), sum(sizes), 0, 0, do)
