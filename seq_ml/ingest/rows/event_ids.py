"""The ids of events: the source's own, or a keyed hash of the content."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl
from polars_hash import CryptographicHashingNameSpace as Hashing

if TYPE_CHECKING:
    from seq_ml.ingest.mapping.source import FileMapping, SourceMapping

ROW, LINE, KIND = "\x00row", "\x00line", "\x00kind"
"""Of each record: the number of its row, its line in the list, which of the entry's `events`."""
NO_VALUE, ESCAPE, BETWEEN = "\x00", "\x1e", "\x1f"
"""In the text that an id is made of."""
LATER = ("propensity",)
"""Columns that the contract gained later: they count only where they have a value, so that what was
sent before keeps its id."""


def event_ids(
    records: pl.DataFrame, mapping: SourceMapping, entry: FileMapping, secret: str
) -> pl.Expr:
    """Return ids that are the same whenever and wherever a row is sent again.

    The source's own id counts within the source; records that share their row's id are told apart
    by their place in it. Without one the id is a keyed hash of the content: equal records of a file
    have equal ids, until the clean stage numbers them.
    """
    origins = [columns.get("event_id") for columns in entry.records]
    own = pl.concat_str(pl.lit(f"{mapping.name}:"), "event_id")
    inner = f"{entry.lines}."
    if entry.lines and not all(
        any(name.startswith(inner) for name in origin.inputs) for origin in origins if origin
    ):
        own = pl.concat_str(own, pl.lit("/"), LINE)
    if entry.events:
        own = pl.concat_str(own, pl.lit("/"), KIND)
    if all(origins):
        return own
    # keyed (HMAC-SHA256, RFC 2104): the content names the user, and a plain hash of it could be
    # tried out with every possible user until it fits
    derived = Hashing(_content(records, entry)).hmac_sha256(key=secret).str.head(32)
    without = [kind for kind, origin in enumerate(origins) if origin is None]
    return pl.when(pl.col(KIND).is_in(without)).then(derived).otherwise(own)


def _content(records: pl.DataFrame, entry: FileMapping) -> pl.Expr:
    """Return each record's content as one text; different contents are different texts."""
    without = ("event_id", "event_date", *LATER)
    names = [n for n in entry.contract.names if n not in without]
    schema = records.schema
    strange = records.select(
        pl.col(name).str.contains(f"[{NO_VALUE}{ESCAPE}{BETWEEN}]").any()
        for name in names
        if schema[name] == pl.String
    ).row(0, named=True)
    parts: list[pl.Expr] = []
    fixed = ""
    for name in names:
        column, value = records[name], pl.col(name)
        if column.null_count() == len(column):  # the same text for all of them, free of charge
            fixed += NO_VALUE + BETWEEN
            continue
        if strange.get(name):
            for n, mark in enumerate((ESCAPE, NO_VALUE, BETWEEN)):
                value = value.str.replace_all(mark, f"{ESCAPE}{n}", literal=True)
        elif column.dtype.is_temporal():
            value = value.cast(pl.Int64)
        parts += [pl.lit(fixed), value.cast(pl.String).fill_null(NO_VALUE)]
        fixed = BETWEEN
    later = [pl.format(f"{name}={{}}{BETWEEN}", name).fill_null("") for name in LATER]
    return pl.concat_str(*parts, pl.lit(fixed), *later)
