"""One round of a task: examples → judged candidates → a version → perhaps a new champion.

Each step leaves its result in the bucket, so that the next one can run in another process:

    examples/<task>.parquet        labelled examples
    examples/<task>.json           as_of, encoder, or why there are none
    models/<task>/<version>/       what `save_model` writes
    models/<task>/challenger.json  the version of this round, and how it met the champion
"""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

import polars as pl

from seq_ml.evaluation import leakage
from seq_ml.evaluation.backtest import backtest
from seq_ml.evaluation.walk_forward import walk_forward
from seq_ml.pages.page import Section
from seq_ml.registry.meeting import ALPHA, Meeting, meet
from seq_ml.registry.versions import (
    Decision,
    Version,
    load_champion,
    promote,
    save_model,
    version_of,
)
from seq_ml.schema import INPUT_TABLES
from seq_ml.storage.layout import EXAMPLES_PREFIX, challenger_key
from seq_ml.tasks.candidate import reads_encoder
from seq_ml.tasks.registered import task_names
from seq_ml.tasks.task import NotEnoughHistoryError

if TYPE_CHECKING:
    from seq_ml.business import Business
    from seq_ml.registry.meeting import Encoders
    from seq_ml.settings import Settings
    from seq_ml.storage.objects import ObjectStore
    from seq_ml.storage.tables import TableStore
    from seq_ml.tasks.data import SequenceModel, TaskData
    from seq_ml.tasks.judged import Backtest
    from seq_ml.tasks.task import Task

FORMAT = 8
"""Raised when code changes what a training round computes from the same data."""


MEETING = (
    "Champion and challenger predict the rows of this test window, each with the encoder and the "
    "windows that it was fitted on. The interval of the k-th such look at one champion leaves out "
    f"{ALPHA:.1%} / (k (k + 1)) at each end, so that all looks together err with chance "
    f"{ALPHA:.1%} at most. Who is better on the whole, but worse on a slice beyond chance, stays "
    "out, and so does a version that was rolled back. Tables read the champion."
)


class LeakageError(ValueError):
    """A candidate knew the test window; nothing of this round may be published."""


def _no_encoder(version: str) -> SequenceModel | None:
    raise KeyError(version)


def make_examples(
    objects: ObjectStore, task: Task, data: TaskData, as_of: datetime
) -> pl.DataFrame:
    """Write and return the labelled examples of a task.

    Raises NotEnoughHistoryError, and writes why: nothing will be judged this time.
    """
    facts = {
        "as_of": as_of.isoformat(),
        "encoder": data.encoder.version if data.encoder else None,
        "encoder_saw": data.encoder.fitted_before.isoformat() if data.encoder else None,
        "periods": data.periods.as_json(),
        "refused": None,
    }
    try:
        examples = task.examples(data, as_of)
    except NotEnoughHistoryError as reason:
        _write(objects, _examples_key(task), {**facts, "refused": str(reason)})
        _write(objects, challenger_key(task.name), {"version": None, "reason": str(reason)})
        raise
    buffer = io.BytesIO()
    examples.write_parquet(buffer)
    objects.put(_frame_key(task), buffer.getvalue())
    _write(objects, _examples_key(task), facts)
    return examples


def find_leaks(
    examples: pl.DataFrame, task: Task, data: TaskData, as_of: datetime
) -> dict[str, str]:
    """Return what each check of the examples found by its name, an empty text where all is well."""
    return {
        "feature_time": leakage.feature_time(task, data, examples, as_of),
        "label_window": leakage.label_window(task, examples, as_of),
        "duplicates": leakage.duplicates(task, examples),
        "prediction_time": leakage.prediction_time(task, examples, data),
    }


def judge(
    objects: ObjectStore,
    task: Task,
    data: TaskData,
    lineage: dict[str, Any],
    encoders: Encoders = _no_encoder,
) -> tuple[Backtest, Version]:
    """Fit and judge every candidate on the written examples, then on those of earlier dates.

    What would be published meets the champion; encoders gives the champion's own encoder by its
    version, KeyError where it is gone.  Returns what was found, and the version that it was saved
    as. Raises NotEnoughHistoryError when there is nothing to judge, LeakageError when the published
    candidate was fitted on its test rows; the challenger pointer then names no version.
    """
    facts = _read(objects, _examples_key(task))
    try:
        result = _backtest(objects, task, data, facts)
    except (NotEnoughHistoryError, LeakageError) as reason:
        _write(objects, challenger_key(task.name), {"version": None, "reason": str(reason)})
        raise
    if remark := task.remark(result):
        result = replace(result, verdict=f"{result.verdict} {remark}")
    encoder = facts["encoder"] if reads_encoder(result.published) else None
    lineage = {**lineage, "encoder": encoder, "periods": facts["periods"]}
    name = version_of(task, result)
    meeting = meet(
        objects, task, name, result, data, encoders, partial(load_champion, objects, task)
    )
    fate = _fate(meeting, name, result)
    sections = [
        Section("Champion and challenger", f"{fate}\n\n{MEETING}"),
        Section("Windows", data.periods.said()),
        *task.sections(data, result),
    ]
    version = save_model(objects, task, result, lineage, sections, fate)
    _write(
        objects,
        challenger_key(task.name),
        {
            "version": version.name,
            "encoder": encoder,
            "verdict": result.verdict,
            "meeting": meeting.as_json(),
        },
    )
    return result, version


def _fate(meeting: Meeting, version: str, result: Backtest) -> str:
    """Say in the report whether this version replaces the champion."""
    if version == meeting.champion:
        return "It is the champion."
    wins = not result.published.is_baseline
    promoted, reason = meeting.verdict(wins=wins, metric=result.primary.name)
    ends = "becomes the champion" if promoted else "does not become the champion"
    return f"It {ends}: {reason}."


def _backtest(objects: ObjectStore, task: Task, data: TaskData, facts: dict[str, Any]) -> Backtest:
    """Judge the written examples, and those of earlier dates. facts: what was written beside."""
    if facts["refused"]:
        raise NotEnoughHistoryError(facts["refused"])
    examples, seed = _load_examples(objects, task), data.seed
    saw = facts.get("encoder_saw")
    result = backtest(
        task,
        examples,
        as_of=datetime.fromisoformat(facts["as_of"]),
        seed=seed,
        encoder_saw=None if saw is None else datetime.fromisoformat(saw),
    )
    result = walk_forward(task, data, result, examples, seed=seed)
    if leak := leakage.fitted_statistics(task, examples, result, seed=seed):
        raise LeakageError(leak)
    return result


def promote_challenger(objects: ObjectStore, task: Task) -> Decision | None:
    """Let the newest challenger replace the champion if it should; None when there is none."""
    try:
        challenger = _read(objects, challenger_key(task.name))
    except KeyError:
        return None  # the task is new: it was not judged yet
    if challenger["version"] is None:
        return None
    meeting = Meeting.of_json(challenger["meeting"])
    decision = promote(objects, task, challenger["version"], meeting, at=datetime.now(UTC))
    if decision.champion != challenger["version"]:
        stays = f"The champion {decision.champion} stays: {decision.reason}."
        _write(objects, challenger_key(task.name), {**challenger, "stays": stays})
    return decision


def _load_examples(objects: ObjectStore, task: Task) -> pl.DataFrame:
    return pl.read_parquet(io.BytesIO(objects.get(_frame_key(task))))


def _frame_key(task: Task) -> str:
    return f"{EXAMPLES_PREFIX}/{task.name}.parquet"


def _examples_key(task: Task) -> str:
    return f"{EXAMPLES_PREFIX}/{task.name}.json"


def _write(objects: ObjectStore, key: str, values: dict[str, Any]) -> None:
    objects.put(key, json.dumps(values, indent=1, sort_keys=True).encode())


def _read(objects: ObjectStore, key: str) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(objects.get(key))
    return values


def verdicts(objects: ObjectStore) -> dict[str, str]:
    """Return each task's newest verdict, and whether the champion stays although."""
    said = {}
    for name in task_names():
        try:
            challenger = _read(objects, challenger_key(name))
        except KeyError:
            continue
        verdict = challenger.get("verdict") or f"not judged: {challenger.get('reason')}"
        said[name] = " ".join(filter(None, (verdict, challenger.get("stays"))))
    return said


def not_judged(objects: ObjectStore, task: str) -> str:
    """Return why a task was not judged last; an empty text where it was, or never was."""
    try:
        return str(_read(objects, challenger_key(task)).get("reason", ""))
    except KeyError:
        return ""


def data_version(tables: TableStore, settings: Settings, business: Business, as_of: str) -> str:
    """Return a hash of everything that decides a training round: data, business, settings."""
    state: dict[str, Any] = {
        "format": FORMAT,
        "as_of": as_of,
        "preset": settings.preset,
        "seed": settings.seed,
        "shards": settings.shards,
        # how the files were read shows in the tables' versions
        "business": business.model_dump(mode="json"),
    }
    for table in INPUT_TABLES.values():
        state[table.name] = tables.version(table.name) if tables.exists(table.name) else None
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()[:16]
