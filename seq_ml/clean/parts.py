"""Clean days into Parquet files on local disk, in bounded memory whatever the days' sizes.

Small days are cleaned together, ROWS_AT_ONCE rows or less. A larger day is first sorted into slices
of its users on disk, which are cleaned one by one with the same result: every rule sees either one
row, or all rows of a user's day, or all rows of an event_id on that day. Only the last may lie in
several slices; such ids are found first, by 8 bytes a row, and decided beforehand. What has to fit
into memory is one user's day.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from seq_ml.clean.clean import Cleaned, clean_events, judge
from seq_ml.clean.rules.duplicates import id_hash, identities
from seq_ml.ingest.spool import room_below
from seq_ml.schema import EVENTS, QUARANTINED
from seq_ml.schema.stages import COUNTS, RULE_COUNTS
from seq_ml.storage.contracts import conform
from seq_ml.storage.portions import portions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from datetime import date
    from pathlib import Path

    from seq_ml.business import Business
    from seq_ml.schema import Table

ROWS_AT_ONCE = 1_500_000
"""Rows in memory at once (about 1.1 GB); more rows are cleaned in several steps."""

ROW_GROUP = 131_072
"""Rows of a row group: what a reader of the files has in memory at least."""


@dataclass(frozen=True)
class CleanPart:
    """Days that were cleaned into a folder.

    folder: `clean_events/`, `quarantined_events/` (`<day>-<n>.parquet`, each of one day) and
    `clean_counts/`, none for an empty table; schemas EVENTS, QUARANTINED, COUNTS. The files have no
    statistics: these leave NaN out, and DuckDB would conclude that all values are fine.
    rules: schema RULE_COUNTS.
    """

    folder: Path
    days: list[date]
    counts: pl.DataFrame
    rules: pl.DataFrame

    def files(self, table: Table, days: Sequence[date]) -> dict[date, list[Path]]:
        """Return the files of the given days; none for a day without rows."""
        return {
            day: sorted((self.folder / table.name).glob(f"{day}-*.parquet")) for day in sorted(days)
        }


def clean_part(
    staged: Callable[[Sequence[date]], pl.LazyFrame],
    sizes: dict[date, int],
    folder: Path,
    *,
    first_day: date,
    business: Business,
) -> CleanPart:
    """Clean days into `folder`, see `clean_events`; the sizes of the steps change nothing.

    staged: returns the staged rows of days. sizes: how many each of the days has. folder: a new
    one.
    """
    folder.mkdir(parents=True)
    counts, rules = [], []
    for number, cleaned in enumerate(
        _cleaned(staged, sizes, folder / "slices", first_day, business)
    ):
        for table, frame in ((EVENTS, cleaned.events), (QUARANTINED, cleaned.quarantined)):
            _write_days(conform(frame, table), folder / table.name, number)
        counts.append(cleaned.counts)
        rules.append(cleaned.rules)
    by_file = _summed(counts, COUNTS)
    if by_file.height:
        write_file(by_file, folder / COUNTS.name / "0.parquet")
    return CleanPart(folder, sorted(sizes), by_file, _summed(rules, RULE_COUNTS))


def write_file(frame: pl.DataFrame, path: Path) -> None:
    """Write one Parquet file of a part."""
    with room_below(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        frame.write_parquet(
            path,
            compression="zstd",
            compression_level=1,
            statistics=False,
            row_group_size=ROW_GROUP,
        )


def _cleaned(
    staged: Callable[[Sequence[date]], pl.LazyFrame],
    sizes: dict[date, int],
    scratch: Path,
    first_day: date,
    business: Business,
) -> Iterator[Cleaned]:
    for step in portions(sorted(sizes), sizes.__getitem__, ROWS_AT_ONCE):
        slices = -(-sum(sizes[day] for day in step) // ROWS_AT_ONCE)
        if slices <= 1:
            yield clean_events(staged(step), first_day=first_day, business=business)
            continue
        spilled = _spill(staged(step), slices, scratch)
        _decide_shared_ids(spilled, scratch, first_day, business)
        for number, rows in spilled.items():
            decided = sorted(scratch.glob(f"shared-{number}-*.parquet"))
            yield clean_events(
                rows,
                first_day=first_day,
                business=business,
                decided=pl.read_parquet(decided) if decided else None,
            )
        shutil.rmtree(scratch)


def _slice(slices: int) -> pl.Expr:
    """Slice of a row, u64 in [0, slices): by user; rows without one are broken and go anywhere."""
    user = pl.when(pl.col("user_id").is_not_null()).then(pl.col("user_id").hash())
    return user.fill_null(pl.col("row_number").hash()) % slices


def _spill(rows: pl.LazyFrame, slices: int, folder: Path) -> dict[int, pl.LazyFrame]:
    """Sort the rows into slices on disk, in one streaming pass; return those that have rows."""
    with room_below(folder.parent):
        rows.sink_parquet(
            pl.PartitionBy(folder, key=_slice(slices).alias("slice"), include_key=False),
            compression="lz4",
            statistics=False,
            row_group_size=ROW_GROUP,
            mkdir=True,
        )
    files = {number: sorted(folder.glob(f"slice={number}/*")) for number in range(slices)}
    return {
        number: pl.scan_parquet(paths, hive_partitioning=False)
        for number, paths in files.items()
        if paths
    }


def _decide_shared_ids(
    spilled: dict[int, pl.LazyFrame], folder: Path, first_day: date, business: Business
) -> None:
    """Decide about the ids that rows of several slices have: files `shared-<slice>-<n>.parquet`."""
    bits = max(max(spilled).bit_length(), 1)
    key = id_hash() & (2 ** (64 - bits) - 1)
    with_id = {
        number: rows.filter(pl.col("event_id").is_not_null()) for number, rows in spilled.items()
    }
    shift, one = np.uint64(bits), np.uint64(1)
    packed = np.concatenate(
        [
            (rows.select(key).collect().to_series().to_numpy() << shift) | np.uint64(number)
            for number, rows in with_id.items()
        ]
    )
    packed.sort()
    step = packed[1:] ^ packed[:-1]  # below 2^bits: the same id; not 0: in another slice
    shared = np.unique(packed[1:][(step != 0) & (step < 2**bits)] >> shift)
    last = ((shared + one) << shift) - one  # after the shift, which may have wrapped to 0
    many = np.searchsorted(packed, last, "right") - np.searchsorted(packed, shared << shift, "left")
    groups = -(-int(many.sum()) // ROWS_AT_ONCE)
    del packed, step
    for group in range(groups):
        ids = pl.Series(shared[group::groups]).implode()
        sharing = [
            rows.filter(key.is_in(ids)).collect().with_columns(slice=pl.lit(number))
            for number, rows in with_id.items()
        ]
        judged = judge(pl.concat(sharing), business, first_day=first_day)
        decided = identities(judged.frame.filter(judged.outcome.is_null()))
        for (number,), rows in decided.partition_by("slice", as_dict=True).items():
            write_file(rows, folder / f"shared-{number}-{group}.parquet")


def _write_days(frame: pl.DataFrame, folder: Path, number: int) -> None:
    """Write a frame that is sorted by event_date, a file for each day."""
    start = 0
    for day, rows in frame.group_by("event_date", maintain_order=True).len().rows():
        write_file(frame.slice(start, rows), folder / f"{day}-{number:05d}.parquet")
        start += rows


def _summed(frames: list[pl.DataFrame], table: Table) -> pl.DataFrame:
    """Add up the counts of the steps, which may share days."""
    numbers = pl.col("^rows.*$").sum()
    empty = pl.DataFrame(schema=table.polars_schema())
    return pl.concat([empty, *frames]).group_by(table.key).agg(numbers).sort(table.key)
