"""Read text files as streams of UTF-8, and CSV and JSON lines from them, in bounded memory."""

from __future__ import annotations

import codecs
import csv
import io
import json
from threading import Lock
from typing import TYPE_CHECKING, Any, BinaryIO

import polars as pl
import pyarrow as pa
import pyarrow.csv

from seq_ml.schema.staged import ERROR, ROW_ERROR

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


BLOCK = 4_000_000
"""Bytes that are parsed at once. Arrow reads up to 32 blocks ahead, so it bounds the memory."""
LONGEST_RECORD = 16_000_000
"""Bytes; a file with a longer record is refused."""
LONGEST_HEADER = 1_000_000
END = b"\x00the end\x00"
"""A last line for the CSV parser: where it does not come out, an open quote swallowed it."""
OTHER_FORMATS = {
    b"\x1f\x8b": "gzip data: add .gz to its name",
    b"\x28\xb5\x2f\xfd": "zstd data: add .zst to its name",
    b"PAR1": "a Parquet file: rename it to .parquet",
    b"PK\x03\x04": "a zip archive or a spreadsheet: unpack or export it",
    b"\xff\xfe": "UTF-16: write `encoding: utf-16` in its mapping entry",
    b"\xfe\xff": "UTF-16: write `encoding: utf-16` in its mapping entry",
}


class UnreadableFileError(ValueError):
    """A file cannot be read at all; the message says why and what to do."""


class LongRecordError(ValueError):
    """A record does not fit into the block that was asked for."""


class Text(io.RawIOBase):
    """A text file of any encoding as a stream of valid UTF-8 without byte order mark."""

    def __init__(self, name: str, content: BinaryIO, encoding: str) -> None:
        self.name = name
        self.content = content
        self.encoding = encoding
        self.decoder = codecs.getincrementaldecoder(encoding)()
        self.is_utf8 = codecs.lookup(encoding).name in ("utf-8", "utf-8-sig", "ascii")
        self.lines = 0
        self.waiting = b""
        self.started = self.ended = False
        self.reading = Lock()

    def readable(self) -> bool:
        """Tell that it can be read."""
        return True

    def read(self, size: int = -1) -> bytes:
        """Return about `size` bytes, b"" at the end; UnreadableFileError for what is no text."""
        with self.reading:
            return self._read(size)

    def stop(self) -> None:
        """End the text here: Arrow's own thread, which reads ahead, leaves the file alone then."""
        with self.reading:
            self.waiting, self.ended = b"", True

    def _read(self, size: int) -> bytes:
        if self.waiting:
            size = len(self.waiting) if size < 0 else size
            part, self.waiting = self.waiting[:size], self.waiting[size:]
            return part
        while not self.ended:
            raw = self.content.read(size)
            self.ended = not raw
            if not self.started:
                raw = self._first(raw)
            text = self._decoded(raw)
            self.lines += text.count("\n")
            part = raw if self.is_utf8 else text.encode()
            if part:
                return part
        return b""

    def push_back(self, part: bytes) -> None:
        """Let the next `read` return `part`."""
        self.waiting = part + self.waiting

    def _first(self, raw: bytes) -> bytes:
        self.started = True
        if self.is_utf8:
            raw = raw.removeprefix(codecs.BOM_UTF8)
            kind = next(
                (kind for magic, kind in OTHER_FORMATS.items() if raw[:4].startswith(magic)), ""
            )
            if not kind and b"\x00" in raw[:1000]:
                kind = "UTF-16 or no text at all: write `encoding: utf-16-le` in its mapping entry"
            if kind:
                raise UnreadableFileError(f"{self.name} is {kind}.")
        return raw

    def _decoded(self, raw: bytes) -> str:
        try:
            text = self.decoder.decode(raw, final=self.ended)
        except UnicodeDecodeError as error:
            line = self.lines + 1 + error.object[: error.start].count(b"\n")
            byte = error.object[error.start]
            advice = (
                "write the encoding of the file in its mapping entry, like `encoding: cp1252`"
                if self.is_utf8
                else "the mapping entry names the wrong encoding"
            )
            raise UnreadableFileError(
                f"{self.name}, line {line}: byte 0x{byte:02x} is no {self.encoding.upper()}; "
                f"{advice}, or mend the line and upload it again."
            ) from error
        return text.removeprefix("\ufeff") if not self.lines else text


def read_csv(
    text: Text, separator: str, wanted: set[str] | None, block: int = BLOCK
) -> Iterator[pl.DataFrame]:
    """Yield the records of a CSV file with a header (RFC 4180), all columns as texts.

    A record with too many or too few fields is a row with ROW_ERROR. Blank lines are no records.
    Raises LongRecordError for a record of more than `block` bytes.
    """
    names = _header(text, separator)
    if names is None:
        return
    bad: list[tuple[int, str]] = []
    ended = False

    def ragged(row: Any) -> str:
        nonlocal ended
        if row.text == END.decode():
            ended = True
        else:
            bad.append((row.number, f"{row.actual_columns} fields instead of {len(names)}"))
        return "skip"

    # a wanted column that is not there is the mapping's business: show it what there is
    chosen = [n for n in names if n in wanted] if wanted and wanted <= set(names) else names
    empty = pl.DataFrame(schema=dict.fromkeys(chosen, pl.String))
    number = 1
    try:
        for frame in _records(text, separator, names, chosen, ragged, block):
            if len(names) == 1 and frame.height and frame[-1, 0] == END.decode():
                frame, ended = frame.head(-1), True
            # the parser reads ahead: only the ragged rows whose turn it is belong to this batch
            frame = _with_bad(frame, bad, number)
            number += frame.height
            if frame.height:
                yield frame
    except pa.ArrowInvalid as error:
        if "straddling object" not in str(error):
            raise
        endless = block >= LONGEST_RECORD
        raise (_endless(text.name, number + len(bad)) if endless else LongRecordError()) from error
    finally:
        text.stop()
    if bad:  # the last rows of all were ragged
        frame = _with_bad(empty, bad, number)
        number += frame.height
        yield frame
    if not ended:
        raise UnreadableFileError(
            f"{text.name}, row {number - 1}: a quote is opened there and never closed; the rest of "
            "the file cannot be told apart. Mend it and upload it again."
        )
    if number == 1:
        yield empty


def _records(
    text: Text,
    separator: str,
    names: list[str],
    chosen: list[str],
    ragged: Callable[[Any], str],
    block: int,
) -> Iterator[pl.DataFrame]:
    """Yield the records that have as many fields as `names`, of the columns `chosen`, as texts."""
    for batch in pa.csv.open_csv(
        _Ended(text),
        read_options=pa.csv.ReadOptions(block_size=block, column_names=names, use_threads=False),
        parse_options=pa.csv.ParseOptions(
            delimiter=separator, newlines_in_values=True, invalid_row_handler=ragged
        ),
        convert_options=pa.csv.ConvertOptions(
            check_utf8=False,
            column_types=dict.fromkeys(names, pa.string()),
            include_columns=chosen,
            null_values=[""],
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
        ),
    ):
        frame = pl.from_arrow(batch)
        assert isinstance(frame, pl.DataFrame)
        yield frame


class _Ended(io.RawIOBase):
    """A text with END as a line of its own after it."""

    def __init__(self, text: Text) -> None:
        self.text = text
        self.ended = False

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        parts, missing = [], size
        while missing > 0 and (part := self.text.read(missing)):
            parts.append(part)
            missing -= len(part)
        if missing > 0 and not self.ended:
            self.ended = True
            parts.append(b"\n" + END + b"\n")
        block = b"".join(parts)
        if block.endswith(b"\r") and len(block) > 1:
            # Arrow drops a line feed that begins a block after such an end, in quotes too
            self.text.push_back(b"\r")
            block = block[:-1]
        return block


def _header(text: Text, separator: str) -> list[str] | None:
    """Take the names of the columns from the stream; None when it is empty."""
    start = b""
    while True:
        part = text.read(LONGEST_HEADER)
        start = (start + part).lstrip(b"\r\n")
        end = _first_line_end(start)
        if end is not None or not part:
            break
        if len(start) > LONGEST_HEADER:
            raise UnreadableFileError(
                f"{text.name}: the first line is longer than {LONGEST_HEADER:,} bytes; a CSV file "
                "begins with the names of its columns."
            )
    if not start.strip():
        return None
    line = start[:end].decode()
    text.push_back(start[len(start[:end]) :])
    names = next(csv.reader(io.StringIO(line, newline=""), delimiter=separator))
    if len(names) == 1:
        for other, word in ((",", "','"), (";", "';'"), ("\t", '"\\t"'), ("|", "'|'")):
            if other in names[0]:
                raise UnreadableFileError(
                    f"{text.name} has one column, '{names[0][:80]}', which looks like several: "
                    f"write `separator: {word}` in its mapping entry."
                )
    unique: list[str] = []
    for name in names:
        copies = sum(n == name or n.startswith(f"{name}_duplicated_") for n in unique)
        unique.append(f"{name}_duplicated_{copies - 1}" if copies else name)
    return unique


def _first_line_end(start: bytes) -> int | None:
    """Return where the first line break outside of quotes is."""
    quoted = False
    for position, byte in enumerate(start):
        if byte == 0x22:
            quoted = not quoted
        elif byte in b"\r\n" and not quoted:
            return position
    return None


def _with_bad(frame: pl.DataFrame, bad: list[tuple[int, str]], first: int) -> pl.DataFrame:
    """Put the rows of `bad` (number in the file, reason) where they belong, and forget them."""
    end, taken = first + frame.height, 0
    while taken < len(bad) and bad[taken][0] <= end:
        end += 1
        taken += 1
    if not taken:
        return frame
    rows = pl.DataFrame(
        {
            "\x00number": [number for number, _ in bad[:taken]],
            ROW_ERROR: [
                {"rule": "ragged", "column": None, "value": reason} for _, reason in bad[:taken]
            ],
        },
        schema={"\x00number": pl.Int64, ROW_ERROR: ERROR},
    )
    del bad[:taken]
    numbers = pl.int_range(first, end, eager=True)
    good = numbers.filter(~numbers.is_in(rows["\x00number"].implode()))
    both = pl.concat([frame.with_columns(good.alias("\x00number")), rows], how="diagonal")
    return both.sort("\x00number").drop("\x00number")


def read_jsonl(text: Text, wanted: set[str] | None) -> Iterator[pl.DataFrame]:
    """Yield the records of a file with one JSON object per line; blank lines are none.

    A line that is no object is a row with ROW_ERROR, unless it is the last and has no end.
    wanted: columns, or fields of them (`a.b`), that must not be lost to a row of another shape.
    """
    rest, number, part = b"", 1, text.read(BLOCK)
    while part:
        following = text.read(BLOCK)
        rest += part
        cut = rest.rfind(b"\n") + 1 if following else len(rest)
        lines, rest, part = rest[:cut], rest[cut:], following
        if len(rest) > LONGEST_RECORD:
            raise _endless(text.name, number + lines.count(b"\n"))
        if lines.strip():
            frame = _objects(lines, text.name, number, wanted, last=not following)
            number += frame.height
            yield frame


def _objects(
    lines: bytes, name: str, number: int, wanted: set[str] | None, *, last: bool
) -> pl.DataFrame:
    """Parse whole lines; one by one when something is wrong with any of them."""
    try:
        frame = pl.read_ndjson(io.BytesIO(lines), infer_schema_length=None)
        sound = not any(_is_text_instead(frame.schema, want) for want in wanted or ())
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException):
        sound = False
    if not sound:
        frame = _objects_one_by_one(lines, name, number, last=last)
    return frame


def _is_text_instead(schema: pl.Schema, want: str) -> bool:
    """Tell whether a nested field is wanted of what some row made a plain text."""
    head = want.partition(".")[0]
    return want not in schema and head != want and schema.get(head) == pl.String


def _objects_one_by_one(lines: bytes, name: str, number: int, *, last: bool) -> pl.DataFrame:
    """Parse each line with Python: all plain values become texts, so that none contradicts another.

    Of a column that holds lists (or objects) in some rows, other rows must hold them too.
    """
    if number == 1 and lines.lstrip().startswith(b"["):
        raise UnreadableFileError(
            f"{name} holds a JSON array: write one object per line, without brackets around them."
        )
    kinds: dict[str, type] = {}
    good, errors = [], []
    texts = [line for line in lines.split(b"\n") if line.strip()]
    for place, line in enumerate(texts):
        value, reason = _object(line, kinds)
        if reason and last and place == len(texts) - 1 and not lines.endswith(b"\n"):
            raise ValueError(f"row {number + place} ends in the middle: {reason}")
        good.append(json.dumps(value))
        errors.append({"rule": "not_json", "column": None, "value": reason} if reason else None)
    if number == 1 and all(errors):
        raise UnreadableFileError(f"{name} holds no JSON: write one object per line.")
    frame = pl.read_ndjson(io.BytesIO("\n".join(good).encode()), infer_schema_length=None)
    failed = pl.Series(ROW_ERROR, errors, dtype=ERROR)
    return frame.with_columns(failed) if failed.null_count() < len(failed) else frame


def _object(line: bytes, kinds: dict[str, type]) -> tuple[dict[str, Any], str | None]:
    """Return the object of a line with its plain values as texts, or {} and what is wrong."""
    try:
        value = json.loads(line, parse_int=str, parse_float=_whole, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        place = f" at character {error.pos + 1}" if isinstance(error, json.JSONDecodeError) else ""
        return {}, f"{getattr(error, 'msg', error)}{place}"
    if not isinstance(value, dict):
        return {}, f"{type(value).__name__} instead of an object"
    value = {key: _as_text(one) for key, one in value.items()}
    for key, one in value.items():
        if one is not None and kinds.setdefault(key, type(one)) is not type(one):
            words: dict[type, str] = {dict: "an object", list: "a list", str: "a plain value"}
            return {}, f"'{key}' holds {words[type(one)]}, and {words[kinds[key]]} in other rows"
    return value, None


def _as_text(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _as_text(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_as_text(one) for one in value]
    return str(value).lower() if isinstance(value, bool) else value


def _whole(number: str) -> str:
    """Return the text of a number; that of 12 for 12.0, as elsewhere."""
    value = float(number)
    return str(int(value)) if value.is_integer() and abs(value) < 2**53 else number


def _no_constant(word: str) -> None:
    raise ValueError(f"{word} is no JSON")


def _endless(name: str, row: int) -> UnreadableFileError:
    return UnreadableFileError(
        f"{name}, row {row} is longer than {LONGEST_RECORD:,} bytes: a quote or a line end is "
        "missing. Mend it and upload it again."
    )
