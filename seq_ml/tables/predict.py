"""What the champions of a table predict as of an instant, some users at a time.

However many users there are, those of one shard are in memory: their rows go to a local file, and
a table's snapshot is read from these files again when it is published.
"""

from __future__ import annotations

import shutil
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cache
from typing import TYPE_CHECKING

import polars as pl

from seq_ml.registry.rounds import not_judged
from seq_ml.registry.versions import NoChampionError, load_champion
from seq_ml.storage.by_user import ByUser
from seq_ml.tables.publish import checked, stamp
from seq_ml.tasks.candidate import A_SCORE
from seq_ml.tasks.registered import filled_by
from seq_ml.tasks.task import NotEnoughHistoryError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from datetime import datetime
    from pathlib import Path

    from seq_ml.schema import Table
    from seq_ml.storage.objects import ObjectStore
    from seq_ml.tasks.candidate import Champion
    from seq_ml.tasks.data import TaskData
    from seq_ml.tasks.registered import Entry
    from seq_ml.tasks.task import Task

    DataFor = Callable[[str | None], TaskData]

NO_CHAMPION = "none"
"""Version of rows that a task has without one."""


class TasksFailedError(RuntimeError):
    """Tasks of a table failed where they should have predicted; the message names each error."""

    def __init__(self, failed: dict[str, Exception]) -> None:
        errors = (f"{task}: {type(error).__name__}: {error}" for task, error in failed.items())
        super().__init__("; ".join(errors))


@dataclass
class Predicted:
    """The rows of a table in parts that share no key, each as `checked` returns them.

    missing: for each task that could not predict, why; failed: the error of one that should have.
    """

    parts: list[pl.LazyFrame] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)
    failed: dict[str, Exception] = field(default_factory=dict)


@dataclass
class _Filling:
    """One task that fills a table: what it reads, who predicts, and the files of its rows."""

    task: Task
    data: TaskData
    champion: Champion | None
    files: dict[int, Path] = field(default_factory=dict)

    def rows(self, shard: TaskData, as_of: datetime, run_id: str) -> pl.DataFrame | None:
        """Return the stamped rows of a shard; None where there are none without a champion."""
        if self.champion is None:
            rows = self.task.rows_without_champion(shard, as_of)
            version = source = NO_CHAMPION
        else:
            rows = self.task.rows(shard, as_of, self.task.serving(shard, as_of), self.champion)
            version, source = self.champion.version, self.champion.model.name
        return None if rows is None else stamp(rows, as_of, version, source, run_id)


def predict_table(
    objects: ObjectStore,
    table: Table,
    data_for: DataFor,
    as_of: datetime,
    run_id: str,
    folder: Path,
) -> Predicted:
    """Return the rows of a table, which lie in `folder`; what was there goes.

    A task that nobody asked for (`Entry.lives_by`) has no rows and no reason. One that fails takes
    none of the others' rows away. data_for gives what tasks read with the encoder of a version,
    that the champion was trained on, with the "current" one, or with none; KeyError where it is
    gone. Raises SchemaError where rows break the contract of the table.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    made, data_for = Predicted(), cache(data_for)
    filling = {
        entry.name: _opened(objects, entry, data_for, made)
        for entry in filled_by(table.name)
        if not entry.lives_by or entry.applies(data_for(None))
    }
    fallen = _fill(filling, table, as_of, run_id, folder, made)
    for name, reason in fallen.items():
        made.missing[name] = not_judged(objects, name) or reason
        filling[name] = _Filling(filling[name].task, data_for(None), None)
    _fill({name: filling[name] for name in fallen}, table, as_of, run_id, folder, made)
    filled = [one for name, one in filling.items() if name not in made.failed]
    made.parts = _parts(filled, table, as_of, folder)
    return made


def caveats(objects: ObjectStore, name: str) -> list[str]:
    """Say which tasks of a table have no model, and why, and whose probabilities are scores."""
    said = []
    for entry in filled_by(name):
        with suppress(NoChampionError):
            champion = load_champion(objects, entry.load())
            if champion.report.get("best_model", "") is None:
                said.append(f"{entry.name}: {champion.report['verdict'].removesuffix('.')}")
            if champion.off:
                said.append(f"{entry.name}: {A_SCORE}: {champion.off}")
    return said


def _opened(objects: ObjectStore, entry: Entry, data_for: DataFor, made: Predicted) -> _Filling:
    """Load the champion of a task, and what it reads."""
    task = entry.load()
    try:
        champion = load_champion(objects, task)
        data = _as_read(data_for, task, champion)
    except NoChampionError as reason:
        made.missing[entry.name] = not_judged(objects, entry.name) or str(reason)
        return _Filling(task, data_for(None), None)
    except Exception as error:  # noqa: BLE001 - told, and raised again where all is published
        made.failed[entry.name] = error
        return _Filling(task, data_for(None), None)
    windows = champion.periods
    if windows is not None and not windows.like(data.periods):
        # What it learnt is of its own windows, whatever the rule says by now.
        data = replace(data, periods=windows)
    return _Filling(task, data, champion)


def _as_read(data_for: DataFor, task: Task, champion: Champion) -> TaskData:
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


def _fill(
    filling: dict[str, _Filling],
    table: Table,
    as_of: datetime,
    run_id: str,
    folder: Path,
    made: Predicted,
) -> dict[str, str]:
    """Write the rows of the tasks that did not fail, shard by shard.

    Returns why a champion cannot predict, by task.
    """
    fallen: dict[str, str] = {}
    for number, shards in enumerate(_shards(list(filling.values()))):
        for name, one in filling.items():
            if name in fallen or name in made.failed:
                continue
            try:
                rows = one.rows(shards[id(one.data)], as_of, run_id)
            except NotEnoughHistoryError as reason:
                if one.champion is not None:
                    fallen[name] = str(reason)
                continue
            except pl.exceptions.ColumnNotFoundError as column:
                version = one.champion.version if one.champion else NO_CHAMPION
                fallen[name] = (
                    f"{name}: version {version} reads the column '{column}', which this code no "
                    "longer makes: train anew."
                )
                continue
            except Exception as error:  # noqa: BLE001 - told, and raised again
                made.failed[name] = error
                continue
            if rows is not None and rows.height:
                one.files[number] = folder / f"{name}-{number:05d}.parquet"
                checked(rows, table).write_parquet(one.files[number])
    return fallen


def _shards(filling: Sequence[_Filling]) -> Iterator[dict[int, TaskData]]:
    """Yield the shards of the tasks' data: tasks that read the same data share what they read."""
    by_user = all(one.task.by_user for one in filling)
    walks = {id(one.data): one.data.shards() if by_user else iter([one.data]) for one in filling}
    for shards in zip(*walks.values(), strict=True):
        # one that is all there is stays what it is: others read it too, or a part of it
        held = (shard.held() if shard.whole else shard for shard in shards)
        yield dict(zip(walks, held, strict=True))


def _parts(
    filling: Sequence[_Filling], table: Table, as_of: datetime, folder: Path
) -> list[pl.LazyFrame]:
    """Return the rows of all tasks, a part for each shard, completed by what only all rows tell."""
    by_shard: dict[int, list[pl.LazyFrame]] = {}
    for one in filling:
        told = None
        if len(one.files) > 1:
            # one scan of many files: a hundred scans at once may wait for each other's threads
            every = pl.scan_parquet(list(one.files.values()))
            told = one.task.across(every, one.data, as_of)
        if told is not None:
            key = [name for name in table.key if name in told.columns]
            others = [name for name in told.columns if name not in key]
            types = table.polars_schema()
            told = told.cast({name: types[name] for name in told.columns})
            cut = ByUser(told.lazy(), one.data.shard_count, folder / f"{one.task.name}-told")
        for number, path in one.files.items():
            rows = pl.scan_parquet(path)
            if told is not None:
                of_all = cut.shard(number)
                rows = rows.drop(others).join(of_all, on=key, how="left").select(table.names)
            by_shard.setdefault(number, []).append(rows)
    return [pl.concat(rows).sort(table.key) for _, rows in sorted(by_shard.items())]
