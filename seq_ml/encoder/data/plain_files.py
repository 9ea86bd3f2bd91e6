"""Canonical events and items from Parquet and CSV files, for a training without the pipeline.

What the files must hold is the contract (`seq_ml.schema`: EVENTS, ITEMS); columns that may be empty
may also be missing. Your own logs under other names come in through a source mapping instead
(docs/sources.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING

import polars as pl
from polars_hash import CryptographicHashingNameSpace as Hashing

from seq_ml.ingest.mapping.source import Origin, nearest
from seq_ml.ingest.mapping.values import reading
from seq_ml.schema import EVENTS, ITEMS, LABELS

if TYPE_CHECKING:
    from pathlib import Path

    from seq_ml.schema import Column, Table

ENDINGS = (".parquet", ".csv", ".csv.gz")
FILLED = ("event_id", "event_date", "is_merchandise", "valid_from")
"""Required columns of the contract that a file may leave out or empty."""
PSEUDONYM = "^[0-9a-f]{32}$"


class BadFileError(ValueError):
    """A file is not what the contract says; the message names file, column and what to do."""


@dataclass(frozen=True)
class PlainEvents:
    """Events of some files, schema EVENTS, under ids that the encoder takes.

    The encoder knows users by 32 hex digits. Ids of another form are hashed to that form (which
    protects nobody: a pseudonym needs a key), and `named` leads back to them.
    """

    frame: pl.LazyFrame
    source_ids: pl.LazyFrame | None

    def named(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Give rows with a `user_id` the ids that stand in the files; the order stays."""
        if self.source_ids is None:
            return rows
        ids = pl.col("user_id").replace_strict(*self._pairs, return_dtype=pl.String)
        return rows.with_columns(ids)

    def known(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Give rows with a `user_id` of the files the ids that the encoder knows."""
        return rows if self.source_ids is None else rows.with_columns(_hashed())

    @cached_property
    def _pairs(self) -> tuple[pl.Series, pl.Series]:
        """Ids that the encoder knows, and those of the files."""
        assert self.source_ids is not None
        source = self.source_ids.unique().collect(engine="streaming")
        return source.select(_hashed()).to_series(), source.to_series()


def plain_files(place: Path) -> list[Path]:
    """Return the Parquet and CSV files of a folder (and below), sorted; or the one file.

    Raises BadFileError when there is none.
    """
    files = [place] if place.is_file() else sorted(place.rglob("*"))
    files = [path for path in files if path.name.endswith(ENDINGS)]
    if not files:
        raise BadFileError(f"{place}: expected a file, or a folder of files, {', '.join(ENDINGS)}")
    return files


def plain_events(place: Path) -> PlainEvents:
    """Open the events of a file or folder; everything is checked in one pass.

    Times without a zone are UTC.  Raises BadFileError.
    """
    number = pl.col("number").cast(pl.String).str.zfill(12)
    frame = (
        _whole(_checked(place, EVENTS), EVENTS)
        .with_row_index("number")  # the place in the file breaks ties in time
        .with_columns(
            event_id=pl.coalesce("event_id", number), event_date=pl.col("event_time").dt.date()
        )
        .drop("number")
    )
    foreign = ~pl.col("user_id").str.contains(PSEUDONYM)
    if not frame.select(foreign.any()).collect(engine="streaming").item():
        return PlainEvents(frame, None)
    return PlainEvents(frame.with_columns(_hashed()), frame.select("user_id"))


def plain_items(place: Path | None) -> pl.DataFrame:
    """Read the catalogue, schema ITEMS; without a place an empty one.

    A row without `valid_from` was always known.  Raises BadFileError.
    """
    if place is None:
        return pl.DataFrame(schema=ITEMS.polars_schema())
    filled = {"is_merchandise": True, "valid_from": datetime(1970, 1, 1, tzinfo=UTC)}
    items = _whole(_checked(place, ITEMS), ITEMS)
    return items.with_columns(pl.col(name).fill_null(v) for name, v in filled.items()).collect()


def plain_labels(place: Path, *, known_by: datetime) -> pl.DataFrame:
    """Read labels of your own, schema LABELS, user ids as the file writes them.

    known_by: when the answers were known where `label_end` does not say it.  Raises BadFileError.
    """
    labels = _whole(_checked(place, LABELS), LABELS).collect()
    twice = labels.filter(labels.select(LABELS.key).is_duplicated())
    if twice.height:
        user, origin = twice.select(LABELS.key).row(0)
        raise BadFileError(f"{place}: user {user} has several labels at {origin:%Y-%m-%d %H:%M}")
    return labels.with_columns(pl.col("label_end").fill_null(known_by))


def _hashed() -> pl.Expr:
    return Hashing(pl.col("user_id")).sha2_256().str.slice(0, 32)


def _whole(frame: pl.LazyFrame, table: Table) -> pl.LazyFrame:
    """All columns of the contract, in order; missing ones are null."""
    present = frame.collect_schema().names()
    kinds = table.polars_schema().items()
    return frame.select(
        pl.col(name) if name in present else pl.lit(None, kind).alias(name) for name, kind in kinds
    )


def _checked(place: Path, table: Table) -> pl.LazyFrame:
    """Typed columns of all files; BadFileError names the first value that is not valid."""
    frames = []
    for path in plain_files(place):
        raw = _scan(path)
        try:
            columns = _columns(path, raw.collect_schema().names(), table)
            typed = [_typed(column, raw) for column in columns]
            _check_values(path, raw.select(*typed, pl.all().name.prefix("raw ")), columns)
        except pl.exceptions.PolarsError as error:
            reason = str(error).splitlines()[0]
            raise BadFileError(f"{path}: cannot be read: {reason}") from error
        frames.append(raw.select(typed))
    return pl.concat(frames, how="diagonal")


def _scan(path: Path) -> pl.LazyFrame:
    """Open one file; CSV as text, so that an id keeps its leading zeros."""
    if path.name.endswith(".parquet"):
        return pl.scan_parquet(path, hive_partitioning=False)
    return pl.scan_csv(path, infer_schema=False)


def _columns(path: Path, names: list[str], table: Table) -> list[Column]:
    """Columns of the contract that a file has; BadFileError for unknown and missing ones."""
    for name in names:
        if name not in table.names:
            missing = [other for other in table.names if other not in names]
            raise BadFileError(
                f"{path}: unknown column '{name}'{nearest(name, missing)} Rename or drop it."
            )
    for column in table.columns:
        if not (column.name in names or column.nullable or column.name in FILLED):
            raise BadFileError(
                f"{path}: column '{column.name}' is missing ({column.description}); the file has: "
                f"{', '.join(names)}"
            )
    return [column for column in table.columns if column.name in names]


def _typed(column: Column, raw: pl.LazyFrame) -> pl.Expr:
    """Read a column as ingest would, null where a value is none of its type."""
    how = reading(column, Origin(column=column.name), raw.head(0).collect(), "UTC")
    return (how.value if how.thorough is None else how.thorough).alias(column.name)


def _check_values(path: Path, both: pl.LazyFrame, columns: list[Column]) -> None:
    """BadFileError for the first column with a value that is missing or not valid.

    both: the typed columns, and the raw ones under "raw <name>".
    """
    wrong = {column.name: _is_wrong(column) for column in columns}
    sums = both.select(test.sum().alias(name) for name, test in wrong.items())
    counts = sums.collect(engine="streaming")
    for column in columns:
        if count := counts[column.name].item():
            first = both.with_row_index("row", 1).filter(wrong[column.name]).head(1)
            row, value = first.select("row", f"raw {column.name}").collect().row(0)
            problem = "is missing" if value is None else f"'{value}' is not {column.dtype}"
            more = f" ({count:,} such rows)" if count > 1 else ""
            raise BadFileError(f"{path}: row {row}: {column.name} {problem}{more}")


def _is_wrong(column: Column) -> pl.Expr:
    """Say whether a value is missing where it must not be, or of another type."""
    typed, raw = pl.col(column.name), pl.col(f"raw {column.name}")
    wrong = typed.is_null() & raw.is_not_null()
    if not column.nullable and column.name not in FILLED:
        wrong = wrong | typed.is_null()
    return wrong
