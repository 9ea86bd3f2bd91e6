"""Take one person out of what was derived from events and lies outside the Delta tables.

Token shards, the tasks' labelled examples, and the pages that show examples of values. And name the
models that were trained on the person: a model holds no row, but whoever was asked to erase one
decides whether to train it anew.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from safetensors.numpy import load, save

from seq_ml.erasure.search import opened
from seq_ml.storage.artifacts import POINTER, current, publish_folder
from seq_ml.storage.layout import EXAMPLES_PREFIX, MODELS_PREFIX, SHARDS_PREFIX
from seq_ml.tokens.shards import MANIFEST, Manifest

if TYPE_CHECKING:
    from seq_ml.storage.objects import ObjectStore

BATCH_ROWS = 65_536


def erase_from_shards(objects: ObjectStore, user: str, work: Path) -> int:
    """Publish the current token shards without the user, delete all versions that hold the user.

    user: pseudonym. Returns the number of events in the shards that were taken out of the current
    version. Old versions go as a whole: only the current one is read again.
    """
    pointer = current(objects, SHARDS_PREFIX) or {}
    removed = 0
    versions = {
        info.key[len(SHARDS_PREFIX) + 1 :].partition("/")[0]
        for info in objects.list(f"{SHARDS_PREFIX}/")
        if not info.key.endswith(f"/{POINTER}")
    }
    for version in sorted(versions):
        prefix = f"{SHARDS_PREFIX}/{version}"
        with tempfile.TemporaryDirectory(dir=work) as folder:
            events = 0
            for info in objects.list(f"{prefix}/"):
                if not info.key.endswith(".safetensors"):
                    continue
                body = objects.get(info.key)
                if bytes.fromhex(user) in body:
                    data, lost = _without_user(body, user)
                    events += lost
                    (Path(folder) / info.key.rsplit("/", 1)[-1]).write_bytes(data)
            if not events:
                continue
            if version == pointer.get("version"):
                _republish(objects, prefix, pointer, Path(folder))
                removed = events
        objects.delete_prefix(f"{prefix}/")
    return removed


def _without_user(body: bytes, user: str) -> tuple[bytes, int]:
    """Return a shard's bytes without the user, and the number of events that went."""
    arrays = load(body)
    theirs = (arrays["user"] == np.frombuffer(bytes.fromhex(user), dtype=np.uint8)).all(axis=1)
    lengths = np.diff(arrays["offset"])
    of_event = np.repeat(theirs, lengths)
    kept: dict[str, Any] = {name: array[~of_event] for name, array in arrays.items()
                            if name not in ("user", "offset")}  # fmt: skip
    kept["user"] = arrays["user"][~theirs]
    kept["offset"] = np.concatenate([[0], np.cumsum(lengths[~theirs])]).astype(np.int64)
    return save({name: kept[name] for name in arrays}), int(of_event.sum())


def _republish(objects: ObjectStore, prefix: str, pointer: dict[str, Any], folder: Path) -> None:
    """Publish a version of the shards in which the files of `folder` replace the old ones."""
    manifest = Manifest.from_bytes(objects.get(f"{prefix}/{MANIFEST}"))
    shards = []
    for shard in manifest.shards:
        path = folder / shard.file
        if not path.exists():
            objects.client.download_file(objects.bucket, f"{prefix}/{shard.file}", str(path))
            shards.append(shard)
            continue
        data = path.read_bytes()
        arrays = load(data)
        changed = replace(
            shard,
            sha256=hashlib.sha256(data).hexdigest(),
            users=len(arrays["user"]),
            events=int(arrays["offset"][-1]),
        )
        if changed.users:
            shards.append(changed)
    if not shards:
        objects.delete([f"{SHARDS_PREFIX}/{POINTER}"])
        return
    new = replace(
        manifest,
        users=sum(shard.users for shard in shards),
        events=sum(shard.events for shard in shards),
        shards=tuple(shards),
    )
    (folder / MANIFEST).write_bytes(new.to_bytes())
    facts = {name: value for name, value in pointer.items() if name != "version"}
    files = [*(shard.file for shard in shards), MANIFEST]
    publish_folder(objects, SHARDS_PREFIX, new.version, folder, files=files, **facts)


def erase_from_examples(objects: ObjectStore, user: str, work: Path) -> int:
    """Take the user's rows out of the tasks' labelled examples; return how many."""
    removed = 0
    for info in objects.list(f"{EXAMPLES_PREFIX}/"):
        if not info.key.endswith(".parquet"):
            continue
        with opened(objects, info, work) as file, tempfile.TemporaryDirectory(dir=work) as folder:
            source = pq.ParquetFile(file)
            if "user_id" not in source.schema_arrow.names:
                continue
            target, lost = Path(folder) / "examples.parquet", 0
            with pq.ParquetWriter(target, source.schema_arrow, compression="zstd") as writer:
                for batch in source.iter_batches(batch_size=BATCH_ROWS):
                    stays = pc.not_equal(batch["user_id"], pa.scalar(user, batch["user_id"].type))
                    kept = batch.filter(pc.fill_null(stays, fill_value=True))
                    lost += batch.num_rows - kept.num_rows
                    writer.write_batch(kept)
            if lost:
                objects.put_file(info.key, target)
        removed += lost
    return removed


def models_that_saw(objects: ObjectStore, seen: pl.DataFrame) -> list[str]:
    """Return the encoders and task models whose training data held events of the person.

    seen: event_time and landed_at of the person's events. A model saw one that had landed before
    the model was written and happened before the instant that its training data ended.
    """
    saw = []
    for info in objects.list(f"{MODELS_PREFIX}/"):
        _, task, *version, name = info.key.split("/")
        if not version or name not in ("training.json", "config.json"):
            continue
        facts = json.loads(objects.get(info.key))
        if "fitted_before" not in facts:
            continue  # an encoder's configuration: its training.json has the cut-off
        before = datetime.fromisoformat(facts["fitted_before"])
        theirs = (pl.col("event_time") < before) & (pl.col("landed_at") <= info.modified_at)
        if seen.filter(theirs).height:
            saw.append(f"{task}/{version[0]}")
    return sorted(set(saw))
