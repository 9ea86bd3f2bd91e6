"""What an analyst asks of the published tables: which are there, and give me one with my ids."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import polars as pl

from seq_ml.ingest.mapping.bucket import load_business
from seq_ml.privacy.pseudonyms import Pseudonyms
from seq_ml.schema import PREDICTION_OUTCOMES
from seq_ml.storage.tables import TableStore
from seq_ml.tables.states import recorded_state
from seq_ml.tasks.registered import published_tables

if TYPE_CHECKING:
    from datetime import date
    from pathlib import Path

    from seq_ml.settings import Settings
    from seq_ml.storage.objects import ObjectStore


class NoSuchTableError(LookupError):
    """The table or snapshot that was asked for is not there; the message says what is."""


def list_published(objects: ObjectStore) -> list[dict[str, Any]]:
    """Return name, rows, as_of (newest snapshot), version and uri of each published table.

    With `state`, `why` and `run_id` of the run that came to it last; a table that was never
    published is there when a run came to it, without a version.
    """
    tables = TableStore(objects)
    listed = []
    for name in _readable():
        last, there = recorded_state(objects, name), tables.exists(name)
        if not there and last is None:
            continue
        newest: dict[str, Any] = {"rows": 0, "as_of": None, "version": None, "uri": None}
        if there:
            snapshots = tables.scan(name).group_by("as_of").len("rows").sort("as_of").collect()
            newest |= next(iter(snapshots.tail(1).to_dicts()), {})
            newest |= {"version": tables.version(name), "uri": tables.uri(name)}
        said = {"state": "published", "why": "", "run_id": ""}
        if last:
            said = {"state": last.state, "why": last.why, "run_id": last.run_id}
        listed.append({"name": name, **newest, **said})
    return listed


def read_table(
    objects: ObjectStore, settings: Settings, name: str, day: date | None = None
) -> pl.DataFrame:
    """Return one snapshot of a published table, user pseudonyms replaced by the source's own ids.

    day: the business day whose beginning is the snapshot's `as_of`; default: the newest. Raises
    NoSuchTableError.
    """
    tables = TableStore(objects)
    if name not in _readable() or not tables.exists(name):
        published = ", ".join(n for n in _readable() if tables.exists(n)) or "none yet"
        raise NoSuchTableError(f"There is no published table '{name}'; there are: {published}.")
    frame = tables.scan(name)
    instants = frame.select("as_of").unique().collect().to_series().sort().to_list()
    if not instants:
        raise NoSuchTableError(f"The table {name} has no rows yet.")
    wanted = instants[-1]
    if day is not None:
        business = load_business(objects)
        wanted = business.midnight(day)
        if wanted not in instants:
            days = ", ".join(str(business.day_of(i)) for i in instants)
            raise NoSuchTableError(f"{name} has no snapshot as of {day}; there are: {days}.")
    return with_own_ids(objects, settings, frame.filter(pl.col("as_of") == wanted).collect())


def with_own_ids(objects: ObjectStore, settings: Settings, rows: pl.DataFrame) -> pl.DataFrame:
    """Replace the pseudonyms in `user_id` by the source's own ids; without that column, nothing.

    rows: of any table. A pseudonym whose way back is not known stays. Where an id may mean several
    people, a column `identity` says whose it is. Items, stores and campaigns have the source's ids
    already.
    """
    if "user_id" not in rows.columns:
        return rows
    pseudonyms = Pseudonyms(objects, settings)
    ids = pseudonyms.source_ids()
    joined = rows.join(ids, on="user_id", how="left", maintain_order="left")
    own = pl.coalesce("source_user_id", "user_id")
    joined = joined.with_columns(user_id=own).drop("source_user_id")
    if ids["identity"].n_unique() < 2:
        return joined.drop("identity")
    return joined.with_columns(pl.col("identity").fill_null(", ".join(sorted(pseudonyms.bare))))


def with_pseudonyms(objects: ObjectStore, settings: Settings, rows: pl.DataFrame) -> pl.DataFrame:
    """Replace the source's own ids in `user_id` by pseudonyms; rows of unknown users are left out.

    Raises ValueError where an id means several people.
    """
    ids = (
        Pseudonyms(objects, settings)
        .source_ids()
        .filter(pl.col("source_user_id").is_in(rows["user_id"].implode()))
    )
    twice = ids.filter(pl.col("source_user_id").is_duplicated())
    if twice.height:
        raise ValueError(f"user {twice['source_user_id'][0]} is several people, of several sources")
    found = rows.rename({"user_id": "source_user_id"}).join(ids, on="source_user_id")
    return found.select(rows.columns)


def export_table(
    objects: ObjectStore, settings: Settings, name: str, out: Path, day: date | None = None
) -> int:
    """Write what `read_table` returns to a Parquet file; return the rows written."""
    rows = read_table(objects, settings, name, day)
    out.parent.mkdir(parents=True, exist_ok=True)
    rows.write_parquet(out)
    return rows.height


def _readable() -> tuple[str, ...]:
    """Name what analysts read: the published tables and what became of them."""
    return (*published_tables(), PREDICTION_OUTCOMES.name)
