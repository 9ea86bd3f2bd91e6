"""Publish a table: what the champions predict as of an instant, stamped, checked, in one commit.

A table holds one snapshot per `as_of`; publishing the same instant again replaces its snapshot.
"""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING

import polars as pl

from seq_ml.registry.rounds import not_judged
from seq_ml.registry.versions import NoChampionError, load_champion
from seq_ml.storage.contracts import SchemaError, check_key, conform
from seq_ml.storage.tables import at_instant
from seq_ml.tasks.registered import filled_by
from seq_ml.tasks.task import NotEnoughHistoryError

if TYPE_CHECKING:
    from collections.abc import Callable

    from seq_ml.schema import Table
    from seq_ml.storage.objects import ObjectStore
    from seq_ml.storage.tables import TableStore
    from seq_ml.tasks.candidate import Champion
    from seq_ml.tasks.data import TaskData
    from seq_ml.tasks.task import Task

NULL_WHY = re.compile(r"\b[Nn]ull (without (?:prices|items)\b[^.;]*)")
"""How a contract says that a column lives by what the events themselves carry.

What an optional file would add (stock, costs, campaigns), or an encoder, no table lacks: a word
that is said of every table says nothing of any.
"""
NO_CHAMPION = "none"
"""Version of rows that a task has without one."""


class TasksFailedError(RuntimeError):
    """Tasks of a table failed where they should have predicted; the message names each error."""

    def __init__(self, failed: dict[str, Exception]) -> None:
        errors = (f"{task}: {type(error).__name__}: {error}" for task, error in failed.items())
        super().__init__("; ".join(errors))


def predict_table(
    objects: ObjectStore,
    name: str,
    data_for: Callable[[str | None], TaskData],
    as_of: datetime,
    *,
    run_id: str,
) -> tuple[pl.DataFrame, dict[str, str], dict[str, Exception]]:
    """Return the rows of a table and, for each task that could not predict, why or its error.

    A task that nobody asked for (`Entry.lives_by`) has no rows and no reason. One that fails takes
    none of the others' rows away.  data_for gives what tasks read with the encoder of a version,
    that the champion was trained on, with the "current" one, or with none; KeyError where it is
    gone.
    """
    entries = filled_by(name)
    data_for = cache(data_for)
    parts, missing, failed = [], {}, {}
    for entry in entries:
        if entry.lives_by and not entry.applies(data_for(None)):
            continue
        task = entry.load()
        rows: pl.DataFrame | None
        version = source = NO_CHAMPION
        try:
            champion = load_champion(objects, task)
            data = _as_read(data_for, task, champion)
            windows = champion.periods
            if windows is not None and not windows.like(data.periods):
                # What it learnt is of its own windows, whatever the rule says by now.
                data = replace(data, periods=windows)
            rows = task.rows(data, as_of, task.serving(data, as_of), champion)
            version, source = champion.version, champion.model.name
        except (NoChampionError, NotEnoughHistoryError) as reason:
            missing[entry.name] = not_judged(objects, entry.name) or str(reason)
            rows = _without_champion(task, data_for, as_of)
        except pl.exceptions.ColumnNotFoundError as column:
            missing[entry.name] = (
                f"{task.name}: version {champion.version} reads the column '{column}', which this "
                "code no longer makes: train anew."
            )
            rows = _without_champion(task, data_for, as_of)
        except Exception as error:  # noqa: BLE001 - told, and raised again where all is published
            failed[entry.name] = error
            continue
        if rows is not None:
            parts.append(stamp(rows, as_of, version=version, source=source, run_id=run_id))
    if not parts:
        return pl.DataFrame(schema=entries[0].table.polars_schema()), missing, failed
    return pl.concat(parts, how="diagonal"), missing, failed


def without_model(objects: ObjectStore, name: str) -> list[str]:
    """Name the tasks of a table that a baseline fills as no model could be fitted, and why."""
    said = []
    for entry in filled_by(name):
        with suppress(NoChampionError):
            report = load_champion(objects, entry.load()).report
            if report.get("best_model", "") is None:
                said.append(f"{entry.name}: {report['verdict'].removesuffix('.')}")
    return said


def _as_read(
    data_for: Callable[[str | None], TaskData], task: Task, champion: Champion
) -> TaskData:
    """Return what the champion reads, with its own encoder; NoChampionError where that is gone."""
    if champion.encoder is None:
        return data_for("current" if task.encoder_names else None)
    try:
        return data_for(champion.encoder)
    except (KeyError, FileNotFoundError) as error:
        raise NoChampionError(
            f"{task.name}: version {champion.version} reads the encoder {champion.encoder}, which "
            "is gone: train anew."
        ) from error


def _without_champion(
    task: Task, data_for: Callable[[str | None], TaskData], as_of: datetime
) -> pl.DataFrame | None:
    try:
        return task.rows_without_champion(data_for(None), as_of)
    except NotEnoughHistoryError:
        return None


def empty_columns(rows: pl.DataFrame, table: Table) -> str:
    """Name the columns that no event of the logs could fill, with what the contract says of it."""
    empty: dict[str, list[str]] = {}
    for column in table.columns:
        why = NULL_WHY.search(column.description)
        if why and (column.name not in rows.columns or rows[column.name].is_null().all()):
            empty.setdefault(why[1], []).append(column.name)
    return "; ".join(f"{', '.join(names)} (null {why})" for why, names in empty.items())


def lacking(rows: pl.DataFrame, table: Table, data: TaskData, as_of: datetime) -> dict[str, int]:
    """Count what a table's rows lack, by task and name of what it is; all 0 where all is there.

    A task without a row refused, and says why; it lacks nobody.
    """
    return {
        f"{entry.name}_{what}": count
        for entry in filled_by(table.name)
        if not entry.of(rows).is_empty()
        for what, count in entry.lacking(rows, data, as_of).items()
    }


def stamp(
    rows: pl.DataFrame, as_of: datetime, *, version: str, source: str, run_id: str
) -> pl.DataFrame:
    """Add the stamp columns; a `source` that the task already set by row stays."""
    columns = {
        "as_of": pl.lit(as_of).cast(pl.Datetime("us", "UTC")),
        "model_version": pl.lit(version),
        "run_id": pl.lit(run_id),
        "created_at": pl.lit(datetime.now(UTC)).cast(pl.Datetime("us", "UTC")),
    }
    if "source" not in rows.columns:
        columns["source"] = pl.lit(source)
    return rows.with_columns(**columns)


def contract_problem(rows: pl.DataFrame, table: Table) -> str:
    """Return what breaks the table's contract, or an empty text."""
    try:
        check_key(conform(rows, table), table)
    except (SchemaError, pl.exceptions.PolarsError) as error:
        return str(error)
    return ""


def publish_snapshot(tables: TableStore, table: Table, rows: pl.DataFrame, as_of: datetime) -> int:
    """Replace the snapshot of `as_of` in one commit; return the table's version.

    rows have passed `contract_problem`.
    """
    return tables.overwrite(
        table.name, conform(rows, table).sort(table.key), predicate=at_instant("as_of", as_of)
    )
