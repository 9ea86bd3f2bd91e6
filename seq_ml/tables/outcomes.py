"""Outcomes: when a label window has passed, published predictions meet what happened.

Every snapshot of every published table is looked at in each round. A snapshot whose windows are
still open gives no row; one whose windows closed is judged once, and again only when the snapshot
was published anew or days of its past changed (late data). So a second round with nothing new
writes nothing, and outcomes always belong to the rows that are published now. What a round found
out about each snapshot is kept in `outcomes/state.json`.

A prediction is made before what it speaks of. Rows whose model was chosen on data after their
`as_of` are never judged, and counted (`Round.hindsight`); snapshots that saw nothing behind their
`as_of` but were written only after their windows had closed are judged and named
(`Round.replayed`).
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from itertools import chain
from typing import TYPE_CHECKING, Any

import polars as pl
from polars import selectors

from seq_ml.clean.days import clean_days
from seq_ml.registry.versions import config_of
from seq_ml.schema import PREDICTION_OUTCOMES
from seq_ml.storage.by_user import ByUser
from seq_ml.storage.contracts import check_key, conform
from seq_ml.storage.layout import OUTCOMES_KEY
from seq_ml.storage.tables import TableStore, at_instant

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import date

    from seq_ml.storage.objects import ObjectStore
    from seq_ml.tasks.data import TaskData
    from seq_ml.tasks.registered import Entry
    from seq_ml.tasks.task import Task

IDENTITY = ("user_id", "item_id", "store_id", "campaign_id", "label_def")


@dataclass(frozen=True)
class Round:
    """What one round did: rows written by (task, as_of), what is open, what cannot be judged.

    closes: task → the end of the first label window that is still open. hindsight: rows of
    (task, as_of) that are not judged, because their model was chosen on data after `as_of`: their
    hits prove nothing. replayed: judged snapshots (task, as_of) that were written after the last of
    their closed windows.
    """

    judged: dict[tuple[str, datetime], int] = field(default_factory=dict)
    closes: dict[str, datetime] = field(default_factory=dict)
    hindsight: dict[tuple[str, datetime], int] = field(default_factory=dict)
    replayed: tuple[tuple[str, datetime], ...] = ()

    @property
    def without(self) -> str:
        """Say which rows are not judged; "" where all are that can be."""
        rows = sum(self.hindsight.values())
        return f"{rows:,} rows of models chosen after their date are not judged" if rows else ""


def judge_outcomes(
    objects: ObjectStore, data: TaskData, until: datetime, entries: Sequence[Entry]
) -> Round:
    """Bring `prediction_outcomes` up to date with what is known before `until`.

    data: what happened; its events are complete before `until`. entries: the tasks and the tables
    they fill. The outcomes of one snapshot are replaced in one commit; a round that is cut off is
    finished by the next one. Of many users those of one shard are in memory at a time.
    """
    tables = TableStore(objects)
    if not tables.exists(PREDICTION_OUTCOMES.name):
        tables.append(
            PREDICTION_OUTCOMES.name, pl.DataFrame(schema=PREDICTION_OUTCOMES.polars_schema())
        )
    state = _read_state(objects)
    days = _history_hashes(tables)
    done = Round()
    replayed = []
    for entry in entries:
        if not tables.exists(entry.table.name):
            continue
        task = entry.load()
        for as_of, written in _snapshots(tables, entry):
            key = f"{entry.name} {as_of.isoformat()}"
            snapshot = state.get(key, {})
            published = written.isoformat()
            if (
                snapshot.get("published") != published
                or not snapshot["ends"]
                or "rows" not in snapshot
            ):
                windows = _window_ends(task, _parts(tables, entry, data, as_of))
                snapshot = state[key] = {"published": published, "ends": windows}
            ends = [datetime.fromisoformat(end) for end in snapshot["ends"]]
            closed = [end for end in ends if end <= until]
            if len(closed) < len(ends):
                first_open = ends[len(closed)]
                done.closes[entry.name] = min(first_open, done.closes.get(entry.name, first_open))
            seen = _seen(tables, entry, days, closed)
            if snapshot.get("seen") != seen:
                late = _in_hindsight(objects, tables, entry, as_of) if closed else []
                honest = ~pl.col("model_version").is_in(late)
                parts = _parts(tables, entry, data, as_of) if closed else iter(())
                rows = (
                    _outcomes(task, part, predictions.filter(honest), as_of, until)
                    for part, predictions in parts
                )
                count = _replace(tables, rows, entry, as_of)
                if count is not None:
                    done.judged[entry.name, as_of] = count
                late_rows = _count(tables, entry, as_of, ~honest) if late else 0
                snapshot |= {"seen": seen, "rows": count or 0, "hindsight": late_rows}
            if snapshot["hindsight"]:
                done.hindsight[entry.name, as_of] = snapshot["hindsight"]
            if closed and snapshot["rows"] and written >= closed[-1]:
                replayed.append((entry.name, as_of))
    objects.put(OUTCOMES_KEY, json.dumps(state, indent=1, sort_keys=True).encode())
    return replace(done, replayed=tuple(replayed))


# --- one snapshot ---------------------------------------------------------------------------------


def _snapshots(tables: TableStore, entry: Entry) -> list[tuple[datetime, datetime]]:
    """Return each `as_of` of a published table, and when its rows were written."""
    return (
        tables.scan(entry.table.name)
        .group_by("as_of")
        .agg(pl.col("created_at").max())
        .sort("as_of")
        .collect()
        .rows()
    )


def _predictions(tables: TableStore, entry: Entry, as_of: datetime) -> pl.LazyFrame:
    """Rows of one snapshot that the task filled, without lists (vectors, reasons): many bytes."""
    rows = tables.scan(entry.table.name).filter(pl.col("as_of") == as_of)
    return entry.of(rows.select(~selectors.nested()))


def _count(tables: TableStore, entry: Entry, as_of: datetime, which: pl.Expr) -> int:
    rows = _predictions(tables, entry, as_of).filter(which)
    return int(rows.select(pl.len()).collect().item())


def _parts(
    tables: TableStore, entry: Entry, data: TaskData, as_of: datetime
) -> Iterator[tuple[TaskData, pl.DataFrame]]:
    """Yield a snapshot's rows, sorted, some users at a time, with the data of these users.

    All at once where there are few, and where a table does not speak of users.
    """
    rows, key = _predictions(tables, entry, as_of), list(entry.table.key)
    if data.shard_count == 1 or "user_id" not in key:
        yield data, rows.collect().sort(key)
        return
    cut = ByUser(rows, data.shard_count)
    for number, shard in enumerate(data.shards()):
        yield shard, cut.shard(number).collect().sort(key)


def _window_ends(task: Task, parts: Iterator[tuple[TaskData, pl.DataFrame]]) -> list[str]:
    """Return when the label windows of a snapshot end (ISO, sorted, distinct)."""
    ends = {
        end
        for data, predictions in parts
        if predictions.height
        for end in task.window_ends(data, predictions).unique()
    }
    return [end.isoformat() for end in sorted(ends)]


def _outcomes(
    task: Task, data: TaskData, predictions: pl.DataFrame, as_of: datetime, until: datetime
) -> pl.DataFrame:
    """Rows of PREDICTION_OUTCOMES of one snapshot; ValueError where a task breaks its contract."""
    if predictions.is_empty():
        return pl.DataFrame(schema=PREDICTION_OUTCOMES.polars_schema())
    outcomes = task.outcomes(data, predictions, until)
    if late := outcomes.filter(pl.col("window_end") > until).height:
        raise ValueError(
            f"{task.name}: {late} outcomes of {as_of:%Y-%m-%d} whose window ends after {until}"
        )
    key = [name for name in task.table.key if name != "as_of" and name in outcomes.columns]
    copied = [
        name
        for name in ("model_version", "source", *IDENTITY)
        if name in predictions.columns and name not in outcomes.columns
    ]
    outcomes = outcomes.with_columns(pl.col(name).cast(predictions.schema[name]) for name in key)
    rows = outcomes.join(
        predictions.select(*key, *copied),
        on=key,
        how="left",
        nulls_equal=True,
        validate="m:1",
    )
    rows = rows.with_columns(
        *(
            pl.lit(None, dtype=pl.String).alias(name)
            for name in IDENTITY
            if name not in rows.columns
        ),
        task=pl.lit(task.name),
        table=pl.lit(task.table.name),
        as_of=pl.lit(as_of),
        judged_at=pl.lit(datetime.now(UTC)),
    )
    rows = conform(rows.select(PREDICTION_OUTCOMES.names), PREDICTION_OUTCOMES)
    check_key(rows, PREDICTION_OUTCOMES)
    return rows.sort(PREDICTION_OUTCOMES.key)


def _replace(
    tables: TableStore, parts: Iterator[pl.DataFrame], entry: Entry, as_of: datetime
) -> int | None:
    """Replace the outcomes of a snapshot in one commit, also by none; return how many there are.

    None where there was none before either.
    """
    table, rows = PREDICTION_OUTCOMES, 0
    of_snapshot = f"task = '{entry.name}' AND {at_instant('as_of', as_of)}"
    there = (part for part in parts if part.height)
    first = next(there, None)
    if first is None:
        old = tables.scan(table.name).filter(task=entry.name, as_of=as_of)
        if old.head(1).collect().is_empty():
            return None
        tables.overwrite(
            table.name, pl.DataFrame(schema=table.polars_schema()), predicate=of_snapshot
        )
        return 0

    def counted() -> Iterator[pl.DataFrame]:
        nonlocal rows
        for part in chain([first], there):
            rows += part.height
            yield part

    tables.overwrite_rows(table, counted(), predicate=of_snapshot)
    return rows


def _in_hindsight(
    objects: ObjectStore, tables: TableStore, entry: Entry, as_of: datetime
) -> list[str]:
    """Return the versions among a snapshot's rows that were judged after its `as_of`."""
    late = []
    versions = _predictions(tables, entry, as_of).select(pl.col("model_version").unique().sort())
    for version in versions.collect(engine="streaming").to_series():
        try:
            config = config_of(objects, entry.name, version)
        except KeyError:
            continue  # upkeep deletes old versions; a version so old was not trained later
        if datetime.fromisoformat(config["as_of"]) > as_of:
            late.append(version)
    return late


# --- what is known already ------------------------------------------------------------------------


def _history_hashes(tables: TableStore) -> list[tuple[date, str]]:
    """Return each day of clean events with a hash of all days up to it."""
    running = hashlib.sha256()
    hashes = []
    for day, facts in clean_days(tables)[1].items():
        running.update(f"{day} {facts.fingerprint}\n".encode())
        hashes.append((day, running.hexdigest()[:16]))
    return hashes


def _seen(
    tables: TableStore, entry: Entry, days: list[tuple[date, str]], closed: list[datetime]
) -> dict[str, Any]:
    """Return what the outcomes of a snapshot rest on: another state is judged again."""
    hashed = _before(days, closed[-1]) if closed else ""
    seen: dict[str, Any] = {"closed": len(closed), "days": hashed}
    if entry.lives_by and tables.exists(entry.lives_by):  # its rows may come late, too
        seen[entry.lives_by] = tables.version(entry.lives_by)
    return seen


def _before(days: list[tuple[date, str]], end: datetime) -> str:
    """Return the hash of the days that hold events before `end`."""
    last = end.astimezone(UTC) - timedelta(microseconds=1)
    return next((digest for day, digest in reversed(days) if day <= last.date()), "")


def _read_state(objects: ObjectStore) -> dict[str, dict[str, Any]]:
    try:
        state: dict[str, dict[str, Any]] = json.loads(objects.get(OUTCOMES_KEY))
    except KeyError:
        return {}
    return state
