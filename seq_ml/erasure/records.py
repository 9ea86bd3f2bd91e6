"""Text files as records that keep their bytes: what is taken out leaves everything else as it was.

Records are told apart as the readers do it (RFC 4180 for csv, one line for JSON).
"""

from __future__ import annotations

import io
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO, TextIO

from seq_ml.ingest.files.packing import ending, packed, unpacked
from seq_ml.ingest.files.readers import SEPARATORS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from seq_ml.ingest.mapping.source import FileMapping


@dataclass(frozen=True)
class Layout:
    """How a text file is divided into records.

    separator: of a csv's fields; None: each line is a record and there is no header.
    """

    separator: str | None
    encoding: str = "latin-1"
    """Latin-1 stands for every encoding in which a line end is one byte: it keeps all bytes."""

    @classmethod
    def of(cls, key: str, entry: FileMapping | None) -> Layout:
        """Return the layout that the name and the mapping's entry tell."""
        separator = SEPARATORS.get(ending(key))
        if separator and entry is not None and entry.separator:
            separator = entry.separator
        encoding = entry.encoding.lower().replace("_", "-") if entry is not None else ""
        return cls(separator, encoding if encoding.startswith(("utf-16", "utf-32")) else "latin-1")

    def to_bytes(self, record: str) -> bytes:
        """Return a record as UTF-8, or as the bytes that it was read from."""
        return record.encode("latin-1" if self.encoding == "latin-1" else "utf-8")


def records(key: str, file: BinaryIO, layout: Layout) -> Iterator[tuple[int | None, str]]:
    """Yield the records with their line ends, and the number of each from 0.

    The header of a csv and blank lines have no number. Raises what unpacking raises.
    """
    separator = layout.separator
    number = 0 if separator is None else -1
    parts: list[str] = []
    inside = False
    with unpacked(key, file) as content, _text(content, layout) as lines:
        for line in lines:
            parts.append(line)
            if separator is not None and (inside or '"' in line):
                inside = _open_after(line, separator, inside=inside)
            if inside:
                continue
            record = "".join(parts)
            parts.clear()
            blank = not (record.strip("\r\n") if separator is not None else record.strip())
            yield (None if blank or number < 0 else number), record
            number += not blank
        if parts:
            yield number, "".join(parts)


def without(key: str, file: BinaryIO, target: Path, layout: Layout, numbers: set[int]) -> None:
    """Write the file without some of its records to `target`, in the same packing."""
    with packed(key, target) as raw, _text(raw, layout) as out:
        for number, record in records(key, file, layout):
            if number not in numbers:
                out.write(record)


def _open_after(line: str, separator: str, *, inside: bool) -> bool:
    """Tell whether a quoted field is open at the end of a line: a quote opens only at a field's
    beginning, and two quotes in a quoted field are one of its characters.
    """  # noqa: D205
    place = 0
    while True:
        if inside:
            quote = line.find('"', place)
            if quote < 0:
                return True
            place = quote + 1
            if line.startswith('"', place):
                place += 1
                continue
            inside = False
        elif line.startswith('"', place):
            inside = True
            place += 1
            continue
        place = line.find(separator, place) + 1
        if place == 0:
            return False


@contextmanager
def _text(raw: BinaryIO, layout: Layout) -> Iterator[TextIO]:
    newline = "\n" if layout.separator is None else ""  # "": a lone \r ends a line, too
    text = io.TextIOWrapper(raw, encoding=layout.encoding, newline=newline)
    try:
        yield text
    finally:
        text.flush()
        text.detach()  # whoever opened the bytes closes them
