"""From canonical events to what a training reads, in a folder of its own: vocabulary and shards.

The pipeline does the same on Delta tables, day by day (`seq_ml.sequences.segments`); here it is one
pass over plain files. Nothing at or after `as_of` is read.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

import polars as pl

from seq_ml.encoder.data.texts import texts_to_read
from seq_ml.sequences.build import LISTS, ROWS_AT_ONCE, build_sequences
from seq_ml.storage.portions import shard_of
from seq_ml.tokens.shards import MANIFEST, Manifest, write_shards
from seq_ml.tokens.vocabulary import Vocabulary

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime
    from pathlib import Path

    from seq_ml.encoder.config import EncoderConfig
    from seq_ml.encoder.data.texts import ItemTexts

VOCABULARY, ORIGIN = "vocabulary.json", "origin.json"


@dataclass(frozen=True)
class Prepared:
    """What `pretrain` reads: a folder of token shards, their vocabulary, and the items' texts."""

    shards: Path
    manifest: Manifest
    vocabulary: Vocabulary
    texts: ItemTexts | None


def prepare(
    events: pl.LazyFrame,
    items: pl.DataFrame,
    config: EncoderConfig,
    folder: Path,
    *,
    as_of: datetime,
    origin: str,
    extends: Vocabulary | None = None,
    timezone: str = "UTC",
) -> Prepared:
    """Fit the vocabulary and write token shards, of events and catalogue rows before `as_of`.

    events: schema EVENTS.  items: schema ITEMS.  origin: says which data this is; a folder that
    was made of the same is taken as it is.  extends: the vocabulary of an encoder to continue from,
    whose ids stay.  timezone: of the business.  Raises NoSequencesError without an event before
    `as_of`, ValueError when the vocabulary cannot be extended to it.
    """
    made_of = {
        "origin": origin,
        "as_of": as_of.isoformat(),
        "min_users": config.min_users,
        "max_events": config.max_events,
        "timezone": timezone,
        "extends": None if extends is None else extends.version,
    }
    if extends is not None and not extends.can_extend(
        before=as_of, min_users=config.min_users, timezone=timezone
    ):
        raise ValueError(
            f"Cannot continue an encoder of {extends.fitted_before:%Y-%m-%d %H:%M} UTC and "
            f"min_users {extends.min_users}: a later as-of and the same min_users are needed, "
            f"given {as_of:%Y-%m-%d %H:%M} UTC and {config.min_users}"
        )
    if not _is_made_of(folder, made_of):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        parts = _split(events, folder / "events", as_of)
        if extends is None:
            vocabulary = Vocabulary.fit(
                parts, items, before=as_of, min_users=config.min_users, timezone=timezone
            )
        else:
            vocabulary = extends.extend(parts, items, before=as_of)
        write_shards(_sequences(parts, as_of, config.max_events), vocabulary, folder)
        (folder / VOCABULARY).write_bytes(vocabulary.to_bytes())
        shutil.rmtree(folder / "events")
        (folder / ORIGIN).write_text(json.dumps(made_of, indent=1))
    vocabulary = Vocabulary.from_bytes((folder / VOCABULARY).read_bytes())
    cache = folder.parent / "text_vectors"
    texts = texts_to_read(config.model, vocabulary, items, before=as_of, cache=cache)
    manifest = Manifest.from_bytes((folder / MANIFEST).read_bytes())
    return Prepared(folder, manifest, vocabulary, texts)


def origin_of(files: Sequence[Path]) -> str:
    """Hash of names, sizes and times of some files: another one when one of them changed."""
    seen = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    return hashlib.sha256(json.dumps(seen).encode()).hexdigest()[:16]


def _is_made_of(folder: Path, made_of: dict[str, object]) -> bool:
    origin = folder / ORIGIN
    return origin.exists() and json.loads(origin.read_text()) == made_of


def _split(events: pl.LazyFrame, folder: Path, as_of: datetime) -> list[pl.LazyFrame]:
    """Write the events before `as_of` once, all of a user in one part of about ROWS_AT_ONCE."""
    past = events.filter(pl.col("event_time") < as_of)
    rows = past.select(pl.len()).collect(engine="streaming").item()
    shards = max(1, -(-rows // ROWS_AT_ONCE))
    past = past.select("user_id", "event_id", *LISTS.values(), shard=shard_of(shards))
    past.sink_parquet(
        pl.PartitionBy(folder, key="shard", include_key=True, approximate_bytes_per_file=None),
        mkdir=True,
    )
    places = sorted(folder.glob("shard=*"), key=lambda path: int(path.name.removeprefix("shard=")))
    return [pl.scan_parquet(place / "*.parquet", hive_partitioning=False) for place in places]


def _sequences(
    parts: Sequence[pl.LazyFrame], as_of: datetime, max_events: int
) -> Iterator[pl.DataFrame]:
    for part in parts:
        shard = part.select(pl.col("shard").first()).collect().item()
        built = build_sequences(part, as_of=as_of, max_events=max_events, shards=1)
        yield built.with_columns(shard=pl.lit(shard, pl.Int32))
