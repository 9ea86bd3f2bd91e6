"""The drop ledger: what became of every object that was ever dropped.

An append-only Delta table: each change of state is one more row, so it is an audit trail as well;
the current state of a drop is its newest row. Beside it `cleaning_counts` says when, and by which
rules, each partition was last cleaned, and `reopened_partitions` which have to be cleaned again for
a reason that no drop tells.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any

import polars as pl

from seq_ml.schema import DROP_LEDGER
from seq_ml.schema.stages import CLEANING_COUNTS, REOPENED, STALE
from seq_ml.storage.contracts import conform

if TYPE_CHECKING:
    from collections.abc import Container, Iterable

    from seq_ml.storage.objects import ObjectInfo
    from seq_ml.storage.tables import TableStore

NUMBERS = ("rows_kept", "rows_duplicate", "rows_quarantined")
WHOLE = ""
"""The one partition of a table that has no partition column."""

CORRECTED = "corrected drop"
REMAPPED = "mapping changed"
NEW = "new drop"
RULES_CHANGED = "cleaning rules changed"


class Ledger:
    """Reads and extends the drop ledger."""

    def __init__(self, tables: TableStore) -> None:
        self.tables = tables

    def current(self) -> pl.DataFrame:
        """Return the newest row of each object, by key."""
        return _newest(self.history())

    def history(self) -> pl.DataFrame:
        """Return every row, oldest first."""
        return self.tables.scan_or_empty(DROP_LEDGER).collect().sort("recorded_at")

    def record(self, rows: Iterable[dict[str, Any]]) -> None:
        """Append states; `recorded_at` is now, what a row does not name is null."""
        frame = pl.DataFrame(list(rows), schema=DROP_LEDGER.polars_schema())
        if frame.height:
            frame = frame.with_columns(recorded_at=pl.lit(datetime.now(UTC)))
            self.tables.append(DROP_LEDGER.name, conform(frame, DROP_LEDGER))

    def reopen(self, table: str, partitions: Iterable[str], reason: str) -> None:
        """Have partitions cleaned again, whatever the drops say."""
        rows = pl.DataFrame({"partition": sorted(set(partitions))}, schema={"partition": pl.String})
        if rows.height:
            rows = rows.with_columns(
                table=pl.lit(table), reason=pl.lit(reason), reopened_at=pl.lit(datetime.now(UTC))
            )
            self.tables.append(REOPENED.name, conform(rows, REOPENED))

    def read_again(self, keys: Iterable[str]) -> None:
        """Have drops read anew by the next ingest, though neither they nor their mapping changed.

        Of one that is no longer there, the rows stay as they are.
        """
        drops = self.current().filter(pl.col("key").is_in(list(keys)))
        self.record(
            {**drop, **dict.fromkeys(NUMBERS), "status": "started"}
            for drop in drops.filter(pl.col("status").is_in(["ingested", "clean"])).to_dicts()
            if self.tables.objects.exists(drop["key"])
        )

    def without_mapping(self, names: Container[str]) -> list[str]:
        """Return the sources whose rows were taken in and that are none of `names` any more."""
        taken_in = self.current().filter(pl.col("rows_read") > 0)["source"].drop_nulls()
        return [source for source in taken_in.unique().sort() if source not in names]

    def unclean_partitions(self, table: str, version: str | None = None) -> list[str]:
        """Return the partitions (days, weeks) of a table that have to be cleaned.

        version: of the cleaning rules; partitions that others cleaned are open again. None: the
        rules that cleaned a partition do not matter.
        """
        return self.stale(table, version)["partition"].unique().sort().to_list()

    def stale(
        self, table: str, version: str | None = None, *, first_day: date | None = None
    ) -> pl.DataFrame:
        """Return why each open partition is open: partition, waiting_since, reason.

        first_day: of the business; days before it have no partition any more, and wait for nothing:
        what was published of them stays.

        One row per partition and reason, sorted; `waiting_since` is when the first such drop was
        recorded, or the rules or the partition itself changed.
        """
        history = self.history()
        drops = _newest(history).filter(_is_open() & (pl.col("table") == table))
        counts = self.counts(table)
        # a partition as a whole is the row without a file: when it was cleaned, by which rules
        seen = counts.filter(source_file="").select("partition", "cleaned_at", "version")
        late = pl.col("landed_at").dt.date() - pl.col("partition").str.to_date(strict=False)
        waiting = (
            drops.join(_before(history, drops), on="key", how="left", maintain_order="left")
            .explode("partitions")
            .rename({"partitions": "partition"})
            .join(seen, on="partition", how="left", maintain_order="left")
            .with_columns(covered=_covered().fill_null(value=False))
            # with none left, only the closing of the drop itself was cut off: do its days again
            .filter(~pl.col("covered") | pl.col("covered").all().over("key"))
            .select(
                "partition",
                waiting_since="recorded_at",
                reason=pl.when(pl.col("etag_before") != pl.col("etag"))
                .then(pl.lit(CORRECTED))
                .when(pl.col("mapping_before") != pl.col("mapping"))
                .then(pl.lit(REMAPPED))
                .when(late >= timedelta(days=2))
                .then(pl.format("late by {} days", late.dt.total_days()))
                .otherwise(pl.lit(NEW)),
            )
        )
        reasons = [waiting, self._reopened(table, seen)]
        if version is not None:
            other = pl.col("version").ne_missing(pl.lit(version))
            reasons.append(
                seen.filter(other).select(
                    "partition", waiting_since="cleaned_at", reason=pl.lit(RULES_CHANGED)
                )
            )
        return (
            pl.concat([frame.cast(STALE.polars_schema()) for frame in reasons])
            .filter(first_day is None or pl.col("partition") >= str(first_day))
            .group_by(STALE.key)
            .agg(pl.col("waiting_since").min())
            .select(STALE.names)
            .sort(STALE.key)
        )

    def complete_until(self, table: str, stale: pl.DataFrame) -> date | None:
        """Return the newest day up to which every day that got rows is clean; None: there is none.

        stale: as `stale()` returns it.
        """
        cleaned = self.counts(table)["partition"].str.to_date(strict=False).drop_nulls()
        waiting = stale["partition"].str.to_date(strict=False)
        first = waiting.min()
        complete = cleaned if first is None else cleaned.filter(cleaned < first)
        newest = complete.max()
        assert newest is None or isinstance(newest, date)
        return newest

    def clock(self) -> datetime:
        """Return the time of the newest row: rows staged until then are there to be read."""
        instants = [
            self.tables.scan_or_empty(table).select(pl.col(column).max()).collect().item()
            for table, column in ((DROP_LEDGER, "recorded_at"), (REOPENED, "reopened_at"))
        ]
        return max((instant for instant in instants if instant), default=datetime.now(UTC))

    def record_cleaning(
        self,
        table: str,
        partitions: Iterable[str],
        counts: pl.DataFrame,
        read_at: datetime,
        *,
        version: str = "",
    ) -> None:
        """Write down the counts of freshly cleaned partitions and close the drops they complete.

        counts: partition, source_file, rows_read, rows_kept, rows_duplicate, rows_quarantined.
        read_at: `clock()` before the partitions were read; a drop that was recorded later may
        have staged rows that the cleaning did not see, and stays open. version: of the rules.
        """
        partitions = sorted(set(partitions))
        if not partitions:
            return
        seen = pl.DataFrame({"partition": partitions}).with_columns(
            source_file=pl.lit(""), rows_read=0, rows_kept=0, rows_duplicate=0, rows_quarantined=0
        )
        frame = pl.concat([counts, seen], how="diagonal_relaxed").with_columns(
            table=pl.lit(table), cleaned_at=pl.lit(read_at), version=pl.lit(version)
        )
        listed = ", ".join(f"'{p}'" for p in partitions)
        self.tables.overwrite(
            CLEANING_COUNTS.name,
            conform(frame, CLEANING_COUNTS),
            predicate=f"\"table\" = '{table}' AND partition IN ({listed})",
        )
        self._close_drops(table, partitions)

    def counts(self, table: str) -> pl.DataFrame:
        """Return the counts of every cleaned partition of a table (schema CLEANING_COUNTS)."""
        return self.tables.scan_or_empty(CLEANING_COUNTS).filter(table=table).collect()

    def touched(self, keys: Iterable[str]) -> pl.DataFrame:
        """Return where rows of these objects may lie: distinct key, table, partition.

        From every row that the ledger ever had of them: it names the partitions before anything is
        staged there.
        """
        return (
            self.tables.scan_or_empty(DROP_LEDGER)
            .filter(pl.col("key").is_in(list(keys)) & pl.col("table").is_not_null())
            .select("key", "table", partition="partitions")
            .explode("partition")
            .unique()
            .collect()
            .sort("key", "table", "partition")
        )

    def _close_drops(self, table: str, cleaned: list[str]) -> None:
        """Close the drops all of whose partitions are clean; count again what others took over."""
        current = self.current().filter(pl.col("table") == table)
        # open drops that these partitions may complete, and closed ones that others took rows from
        keys = (
            current.select("key", partition="partitions")
            .explode("partition")
            .filter(pl.col("partition").is_in(cleaned))["key"]
        )
        drops = current.filter(
            pl.col("key").is_in(keys.implode()) & (_is_open() | pl.col("rows_kept").is_not_null())
        )
        counts = self.counts(table)
        seen = counts.filter(source_file="").select("partition", "cleaned_at")
        done = (
            drops.select("key", "recorded_at", "rows_kept", partition="partitions")
            .explode("partition")
            .join(seen, on="partition", how="left")
            .group_by("key")
            .agg(
                # a closed drop stays closed; a later one may have taken over some of its rows
                closed=_covered().fill_null(value=False).all()
                | pl.col("rows_kept").first().is_not_null()
            )
            .filter("closed")["key"]
        )
        # what is written down is what the partitions say today; only what changed gets a new row
        totals = (
            counts.filter(pl.col("source_file").is_in(done.implode()) & (pl.col("rows_read") > 0))
            .group_by(key="source_file")
            .agg(pl.col(NUMBERS).sum(), partitions=pl.col("partition").sort())
        )
        old = drops.filter(pl.col("key").is_in(done.implode())).sort("key")
        new = (
            old.drop(*NUMBERS, "partitions")
            .join(totals, on="key", how="left", maintain_order="left")
            .with_columns(
                pl.col(NUMBERS).fill_null(0),
                pl.col("partitions").fill_null(pl.lit([], dtype=pl.List(pl.String))),
                status=pl.col("status").replace("ingested", "clean"),
            )
            .select(old.columns)
        )
        self.record(
            after
            for before, after in zip(old.to_dicts(), new.to_dicts(), strict=True)
            if before != after
        )

    def _reopened(self, table: str, seen: pl.DataFrame) -> pl.DataFrame:
        return (
            self.tables.scan_or_empty(REOPENED)
            .filter(table=table)
            .collect()
            .join(seen, on="partition", how="left")
            .filter(~(pl.col("cleaned_at") >= pl.col("reopened_at")).fill_null(value=False))
            .select("partition", "reopened_at", "reason")
            .rename({"reopened_at": "waiting_since"})
        )


def describe(info: ObjectInfo) -> dict[str, Any]:
    """Return the ledger columns that the listing of an object gives."""
    return {"key": info.key, "etag": info.etag, "size": info.size, "landed_at": info.modified_at}


def carried(row: dict[str, Any] | None) -> dict[str, Any]:
    """Return what the next ledger row of an object keeps of its newest one.

    Until a new version is read, the rows of the earlier one stay; its partitions have to be cleaned
    again with whatever comes.
    """
    kept = row or {"table": None, "rows_read": 0, "partitions": []}
    return {name: kept[name] for name in ("table", "rows_read", "partitions")}


def partition_names(values: Iterable[date | None]) -> list[str]:
    """Return the ledger's names of partition values."""
    return sorted({WHOLE if v is None else v.isoformat() for v in values})


def _newest(history: pl.DataFrame) -> pl.DataFrame:
    return history.unique("key", keep="last", maintain_order=True).sort("key")


def _before(history: pl.DataFrame, drops: pl.DataFrame) -> pl.DataFrame:
    """Return what each of these drops was when its rows were last read before."""
    return (
        history.join(drops.select("key", now="recorded_at"), on="key")
        .filter(pl.col("status").is_in(["ingested", "clean"]))
        .filter(pl.col("recorded_at") < pl.col("now"))
        .sort("recorded_at")
        .unique("key", keep="last")
        .select("key", etag_before="etag", mapping_before="mapping")
    )


def _is_open() -> pl.Expr:
    settled = pl.col("status") != "started"
    return settled & pl.col("rows_kept").is_null() & (pl.col("partitions").list.len() > 0)


def _covered() -> pl.Expr:
    """Whether a partition was read after the drop was recorded."""
    return pl.col("cleaned_at") >= pl.col("recorded_at")
