"""Token shards: one safetensors file per user shard and a manifest, read by memory map.

The arrays are stored without padding (values and offsets). The manifest is written last: a folder
with a manifest is complete. Same sequences and vocabulary give byte-identical files.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
from safetensors.numpy import save

from seq_ml.tokens.vocabulary import Tokens, Vocabulary

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

MANIFEST = "manifest.json"


class BrokenShardError(ValueError):
    """A shard file does not hold what the manifest says; write the shards again."""


@dataclass(frozen=True)
class Shard:
    """One file of the manifest."""

    file: str
    sha256: str
    users: int
    events: int


@dataclass(frozen=True)
class Manifest:
    """What a folder of token shards holds; as_of is an ISO instant (UTC)."""

    as_of: str
    vocabulary: str
    users: int
    events: int
    shards: tuple[Shard, ...]

    @property
    def version(self) -> str:
        """Hash of the whole content, shard hashes included."""
        return hashlib.sha256(self.to_bytes()).hexdigest()[:16]

    def to_bytes(self) -> bytes:
        """Serialise as JSON."""
        return (json.dumps(asdict(self), indent=1, sort_keys=True) + "\n").encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Manifest:
        """Read what `to_bytes` wrote."""
        values = json.loads(data)
        return cls(**values | {"shards": tuple(Shard(**shard) for shard in values["shards"])})


def write_shards(sequences: pl.DataFrame, vocabulary: Vocabulary, folder: Path) -> Manifest:
    """Encode sequences (schema USER_SEQUENCES, at least one user) into a folder of shards.

    Raises ValueError for an empty frame and for sequences of several as_of.
    """
    if sequences["as_of"].n_unique() != 1:
        raise ValueError(
            f"Token shards need sequences of one as_of, found {sequences['as_of'].n_unique()} in "
            f"{sequences.height} users"
        )
    folder.mkdir(parents=True, exist_ok=True)
    for old in (folder / MANIFEST, *folder.glob("shard-*.safetensors")):
        old.unlink(missing_ok=True)
    shards = []
    for number in sorted(sequences["shard"].unique()):
        mine = sequences.filter(pl.col("shard") == number).sort("user_id")
        tokens = vocabulary.encode(mine)
        data = save({field.name: getattr(tokens, field.name) for field in fields(Tokens)})
        file = f"shard-{number:05d}.safetensors"
        (folder / file).write_bytes(data)
        digest = hashlib.sha256(data).hexdigest()
        shards.append(Shard(file, digest, mine.height, len(tokens.item)))
    manifest = Manifest(
        as_of=sequences["as_of"][0].isoformat(),
        vocabulary=vocabulary.version,
        users=sequences.height,
        events=sum(shard.events for shard in shards),
        shards=tuple(shards),
    )
    partial = folder / f"{MANIFEST}.partial"
    partial.write_bytes(manifest.to_bytes())
    partial.replace(folder / MANIFEST)
    return manifest


def read_shards(folder: Path) -> tuple[Manifest, list[Tokens]]:
    """Map the shards of a folder into memory, in the order of the manifest.

    Raises FileNotFoundError without a manifest, BrokenShardError for a file that does not hold
    what the manifest says.
    """
    manifest = Manifest.from_bytes((folder / MANIFEST).read_bytes())
    parts = []
    for shard in manifest.shards:
        with (folder / shard.file).open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != shard.sha256:
            raise BrokenShardError(
                f"{folder / shard.file}: hash {digest[:12]}, the manifest says {shard.sha256[:12]}"
            )
        parts.append(_memory_map(folder / shard.file))
    return manifest, parts


def _memory_map(path: Path) -> Tokens:
    """Map one safetensors file: a u64 with the header's length, the JSON header, the arrays."""
    kinds = {"U8": np.uint8, "I32": np.int32, "I64": np.int64}
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
    arrays: dict[str, NDArray[np.generic]] = {}
    for field in fields(Tokens):
        entry = header[field.name]
        begin, _ = entry["data_offsets"]
        shape = tuple(entry["shape"])
        arrays[field.name] = (
            np.memmap(path, kinds[entry["dtype"]], "r", 8 + size + begin, shape)
            if np.prod(shape)
            else np.empty(shape, kinds[entry["dtype"]])
        )
    return Tokens(**arrays)  # type: ignore[arg-type]


def length_buckets(
    lengths: NDArray[np.int64], *, max_tokens: int, max_rows: int
) -> Iterator[NDArray[np.int64]]:
    """Cut rows into batches of similar length, longest first, so that little is padding.

    lengths: i64 [rows].  Yields row numbers; a batch has at most `max_rows` rows and, padded to its
    longest row, at most `max_tokens` tokens (but at least one row).
    """
    order = np.argsort(-lengths, kind="stable")
    start = 0
    while start < len(order):
        longest = max(1, int(lengths[order[start]]))
        rows = max(1, min(max_rows, max_tokens // longest))
        yield order[start : start + rows]
        start += rows
