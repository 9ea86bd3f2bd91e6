"""How files are packed: their names tell, and their content is read and written through it."""

from __future__ import annotations

import gzip
import io
from contextlib import contextmanager
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, BinaryIO

import pyarrow as pa

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BLOCK = 1 << 20


def ending(name: str) -> str:
    """Return what a name ends in without its packing, in lower case, like `.csv`."""
    path = PurePosixPath(name.lower())
    return PurePosixPath(path.stem).suffix if packing(name) else path.suffix


def packing(name: str) -> str:
    """Return .gz, .zst or "" for a file that is not packed."""
    suffix = PurePosixPath(name.lower()).suffix
    return suffix if suffix in (".gz", ".zst") else ""


@contextmanager
def unpacked(name: str, file: BinaryIO) -> Iterator[BinaryIO]:
    """Open the content of a file that may be packed; the file itself stays open."""
    kind = packing(name)
    if kind == ".gz":
        with gzip.open(file) as content:
            yield content  # type: ignore[misc]
    elif kind == ".zst":
        with pa.input_stream(_Borrowed(file), compression="zstd") as stream:
            yield io.BufferedReader(stream, BLOCK)
    else:
        yield file


@contextmanager
def packed(name: str, target: Path) -> Iterator[BinaryIO]:
    """Open a file for writing in the packing that a name tells."""
    kind = packing(name)
    if kind == ".gz":
        with target.open("wb") as raw, gzip.GzipFile(fileobj=raw, mode="wb", mtime=0) as out:
            yield out  # type: ignore[misc]
    elif kind == ".zst":
        with pa.output_stream(str(target), compression="zstd") as out:
            yield out
    else:
        with target.open("wb") as out:
            yield out


class _Borrowed(io.RawIOBase):
    """A file that stays open when its reader is closed (Arrow closes what it reads from)."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._file.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)
