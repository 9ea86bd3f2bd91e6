"""Token shards: one safetensors file per user shard and a manifest, read by memory map.

The arrays are stored without padding (values and offsets). The manifest is written last: a folder
with a manifest is complete. Same sequences and vocabulary give byte-identical files.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING

import numpy as np
from safetensors.numpy import save

from seq_ml.tokens.vocabulary import Tokens, Vocabulary

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from datetime import datetime
    from pathlib import Path

    import polars as pl
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


class NoSequencesError(ValueError):
    """There is nobody to write shards of."""


def write_shards(parts: Iterable[pl.DataFrame], vocabulary: Vocabulary, folder: Path) -> Manifest:
    """Encode sequences into a folder of shards, one part in memory at a time.

    parts: schema SEQUENCE_SNAPSHOT, users of one shard each, in the order of (shard, user_id).
    Raises NoSequencesError without any, ValueError when the parts are of several as_of or shards.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for old in (folder / MANIFEST, *folder.glob("shard-*.safetensors")):
        old.unlink(missing_ok=True)
    shards: list[Shard] = []
    instants: list[datetime] = []
    for (number, instant), pieces in itertools.groupby(parts, key=_belonging):
        file = f"shard-{number:05d}.safetensors"
        if (instants and instant != instants[0]) or (shards and file <= shards[-1].file):
            raise ValueError(
                f"Token shards need sequences of one as_of in the order of their shards: {file} "
                f"of {instant} came after {shards[-1].file} of {instants[0]}"
            )
        tokens = Tokens.concat([vocabulary.encode(piece.sort("user_id")) for piece in pieces])
        data = save({field.name: getattr(tokens, field.name) for field in fields(Tokens)})
        (folder / file).write_bytes(data)
        digest = hashlib.sha256(data).hexdigest()
        shards.append(Shard(file, digest, len(tokens.user), len(tokens.item)))
        instants.append(instant)
    if not shards:
        raise NoSequencesError("Token shards need sequences of at least one user")
    manifest = Manifest(
        as_of=instants[0].isoformat(),
        vocabulary=vocabulary.version,
        users=sum(shard.users for shard in shards),
        events=sum(shard.events for shard in shards),
        shards=tuple(shards),
    )
    partial = folder / f"{MANIFEST}.partial"
    partial.write_bytes(manifest.to_bytes())
    partial.replace(folder / MANIFEST)
    return manifest


def _belonging(part: pl.DataFrame) -> tuple[int, datetime]:
    """Return the one shard and the one as_of of a part."""
    return part["shard"].unique().item(), part["as_of"].unique().item()


def read_shards(folder: Path) -> tuple[Manifest, list[Tokens]]:
    """Map the shards of a folder into memory, in the order of the manifest.

    Raises FileNotFoundError without a manifest, BrokenShardError for a file that does not hold
    what the manifest says.
    """
    manifest = Manifest.from_bytes((folder / MANIFEST).read_bytes())
    return manifest, [_memory_map(folder / s.file, s.sha256) for s in manifest.shards]


def _memory_map(path: Path, sha256: str) -> Tokens:
    """Map one safetensors file: a u64 with the header's length, the JSON header, the arrays.

    The hash is taken through the same map, so what it reads is not read from the disk again.
    """
    kinds = {"U8": np.uint8, "I32": np.int32, "F32": np.float32, "I64": np.int64}
    content = np.memmap(path, np.uint8, "r")
    digest = hashlib.sha256(content.data).hexdigest()
    if digest != sha256:
        raise BrokenShardError(f"{path}: hash {digest[:12]}, the manifest says {sha256[:12]}")
    size = 8 + int.from_bytes(content[:8].tobytes(), "little")
    header = json.loads(content[8:size].tobytes())
    arrays: dict[str, NDArray[np.generic]] = {}
    for field in fields(Tokens):
        entry = header[field.name]
        begin, end = (size + offset for offset in entry["data_offsets"])
        arrays[field.name] = content[begin:end].view(kinds[entry["dtype"]]).reshape(entry["shape"])
    return Tokens(**arrays)  # type: ignore[arg-type]


def length_buckets(
    lengths: NDArray[np.int64], *, max_tokens: int, max_rows: int
) -> Iterator[NDArray[np.int64]]:
    """Cut rows into batches of similar length, longest first, so that little is padding.

    lengths: i64 [rows].  Yields row numbers; a batch has at most `max_rows` rows and, padded to its
    longest row, at most `max_tokens` tokens (but at least one row).

    >>> batches = length_buckets(np.array([2, 9, 8]), max_tokens=18, max_rows=100)
    >>> [rows.tolist() for rows in batches]
    [[1, 2], [0]]
    """
    order = np.argsort(-lengths, kind="stable")
    start = 0
    while start < len(order):
        longest = max(1, int(lengths[order[start]]))
        rows = max(1, min(max_rows, max_tokens // longest))
        yield order[start : start + rows]
        start += rows
