"""Byte search: where an id or a pseudonym still occurs, also inside packed and columnar files.

Every object is searched as it lies there; gz and zst are unpacked on the way, and of Parquet the
values of all columns are looked at besides the raw bytes (the footer holds smallest and largest
values). Memory is bounded: files are read in blocks, Parquet in batches of rows.
"""

from __future__ import annotations

import io
import json
import re
import shutil
import tempfile
import zlib
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from seq_ml.ingest.files.packing import BLOCK, ending, packing, unpacked

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from seq_ml.storage.objects import ObjectInfo, ObjectStore

SHORTEST_ID = 6
"""A shorter id occurs everywhere by chance (a quantity, a price): its bytes prove nothing."""

LETTER = rb"[0-9A-Za-z]"
OVERLAP = 512
IN_MEMORY_BYTES = 32_000_000
PARQUET_ROWS = 65_536
PACKED_ERRORS = (OSError, EOFError, zlib.error, pa.ArrowException, ValueError)


@dataclass(frozen=True)
class Needle:
    """What to look for: whole words (ids as texts) and raw bytes (ids as in the token shards)."""

    words: tuple[str, ...]
    pattern: re.Pattern[bytes]
    forms: tuple[bytes, ...]
    """Every spelling without its surroundings: where none is, the pattern need not be tried."""

    @classmethod
    def of(cls, *words: str) -> Needle:
        """Look for ids: also escaped as in JSON and HTML, in UTF-16, and hex digits as raw bytes.

        A word counts only where no letter or digit stands beside it: u-12 is not in u-123.
        """
        parts, forms = [], set()
        for word in words:
            plain = {text.encode() for text in (word, escape(word), json.dumps(word)[1:-1])}
            little, big = word.encode("utf-16-le"), word.encode("utf-16-be")
            for form, before, after in (
                *((form, LETTER, LETTER) for form in plain),
                (little, LETTER + rb"\x00", LETTER + rb"\x00"),
                (big, rb"\x00" + LETTER, rb"\x00" + LETTER),
            ):
                parts.append(rb"(?<!%b)%b(?!%b)" % (before, re.escape(form), after))
            forms |= {*plain, little, big}
            if re.fullmatch("[0-9a-f]{32}", word):
                forms.add(raw := bytes.fromhex(word))
                parts.append(re.escape(raw))
        return cls(words, re.compile(b"|".join(sorted(parts)) or rb"(?!)"), tuple(sorted(forms)))

    def may_be_in(self, content: bytes) -> bool:
        """Tell quickly whether some form is there; False is certain."""
        return any(form in content for form in self.forms)


def search_bucket(
    objects: ObjectStore, needle: Needle, work: Path, *, prefix: str = ""
) -> dict[str, int]:
    """Return for each object of the bucket in which the needle occurs how often, by key.

    A key that names the needle counts too. work: folder for objects too large for memory.
    """
    places = {}
    for info in objects.list(prefix):
        with opened(objects, info, work) as file:
            hits = search_file(info.key, file, needle)
        hits += len(needle.pattern.findall(info.key.encode()))
        if hits:
            places[info.key] = hits
    return places


def search_folder(folder: Path, needle: Needle) -> dict[str, int]:
    """Return for each file below `folder` in which the needle occurs how often, by its path."""
    places = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and not p.is_symlink()):
        try:
            with path.open("rb") as file:
                hits = search_file(path.name, file, needle)
        except FileNotFoundError:  # a server's own file that it has just replaced
            continue
        if hits:
            places[path.relative_to(folder).as_posix()] = hits
    return places


@contextmanager
def opened(objects: ObjectStore, info: ObjectInfo, work: Path) -> Iterator[BinaryIO]:
    """Open an object for reading and seeking: in memory when small, else as a temporary file."""
    if info.size <= IN_MEMORY_BYTES:
        yield io.BytesIO(objects.get(info.key))
        return
    work.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=work) as file:
        objects.client.download_fileobj(objects.bucket, info.key, file)
        file.seek(0)
        yield file


def search_file(name: str, file: BinaryIO, needle: Needle) -> int:
    """Count the needle in a file: in its bytes, and in its content when it is packed."""
    hits = count(file, needle)
    file.seek(0)
    is_parquet, is_packed = ending(name) == ".parquet", bool(packing(name))
    try:
        if is_parquet and not is_packed:
            return hits + _in_parquet(file, needle)
        if is_packed:
            with unpacked(name, file) as content:
                if not is_parquet:
                    return hits + count(content, needle, packed=True)
                with tempfile.TemporaryFile() as whole:
                    shutil.copyfileobj(content, whole)
                    return hits + _in_parquet(whole, needle)
    except PACKED_ERRORS:
        return hits  # what cannot be unpacked was searched as it lies there
    return hits


def count(file: BinaryIO, needle: Needle, *, packed: bool = False) -> int:
    """Count the needle in a stream; of a broken `packed` one, in what can be unpacked."""
    hits = position = counted = 0
    rest = b""
    # a broken file's `read` would keep back what it had unpacked before the break
    read = file.read1 if packed and isinstance(file, io.BufferedIOBase) else file.read
    while True:
        try:
            block = read(BLOCK)
        except PACKED_ERRORS:
            if not packed:
                raise
            block = b""
        window = rest + block
        # whether a word ends at the window's end, only the next block can tell
        sure = len(window) - OVERLAP if block else len(window)
        for match in needle.pattern.finditer(window) if needle.may_be_in(window) else ():
            if position + match.start() >= counted and match.end() <= sure:
                hits += 1
                counted = position + match.end()
        if not block:
            return hits
        start = max(0, len(window) - 2 * OVERLAP)
        position, rest = position + start, window[start:]


def _in_parquet(file: BinaryIO, needle: Needle) -> int:
    hits = 0
    for batch in pq.ParquetFile(file).iter_batches(batch_size=PARQUET_ROWS):
        for column in batch.columns:
            hits += sum(_in_array(flat, needle) for flat in _flat(column))
    return hits


def _flat(column: Any) -> Iterator[Any]:
    """Yield the plain arrays of a column: inside lists, structs, maps and dictionaries."""
    kind = column.type
    if pa.types.is_struct(kind):
        for part in column.flatten():
            yield from _flat(part)
    elif pa.types.is_map(kind):
        yield from _flat(column.keys)
        yield from _flat(column.items)
    elif pa.types.is_nested(kind):
        yield from _flat(column.flatten())
    elif pa.types.is_dictionary(kind):
        yield from _flat(column.dictionary)
    else:
        yield column


def _in_array(array: Any, needle: Needle) -> int:
    kind = array.type
    if pa.types.is_integer(kind):
        numbers = [int(word) for word in needle.words if re.fullmatch("[0-9]{1,18}", word)]
        texts = pa.array(numbers, pa.int64())
        return int(pc.sum(pc.is_in(array.cast(pa.int64(), safe=False), texts)).as_py() or 0)
    if not (
        pa.types.is_string(kind)
        or pa.types.is_large_string(kind)
        or pa.types.is_string_view(kind)
        or pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
    ):
        return 0
    binary = array.cast(pa.large_binary())
    values = binary.buffers()[2]  # all of them, one after the other
    if values is None or not needle.may_be_in(values.to_pybytes()):
        return 0
    likely = [binary.filter(pc.match_substring(binary, form)) for form in needle.forms]
    return sum(bool(needle.pattern.search(v)) for part in likely for v in part.to_pylist())
