"""One round of a task: examples → judged candidates → a version → perhaps a new champion.

Each step leaves its result in the bucket, so that the next one can run in another process:

    examples/<task>.parquet        labelled examples
    examples/<task>.json           as_of, encoder, or why there are none
    models/<task>/<version>/       what `save_model` writes, and report.html
    models/<task>/challenger.json  the version of this round
"""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import polars as pl

from seq_ml.evaluation.backtest import Backtest, backtest
from seq_ml.evaluation.report import report_html, report_markdown
from seq_ml.registry.versions import (
    Decision,
    NoChampionError,
    champion_version,
    promote,
    save_model,
)
from seq_ml.tasks.task import NotEnoughHistoryError, check_examples

if TYPE_CHECKING:
    from seq_ml.storage.objects import ObjectStore
    from seq_ml.tasks.task import SequenceModel, Task, TaskData


@dataclass(frozen=True)
class Judgement:
    """A judged round: the version that was saved, the findings, the report in both forms."""

    version: str
    result: Backtest
    markdown: str
    html: str


def make_examples(
    objects: ObjectStore, task: Task, data: TaskData, as_of: datetime
) -> pl.DataFrame | str:
    """Write the labelled examples of a task; return them, or why the history is too short."""
    facts = {
        "as_of": as_of.isoformat(),
        "encoder": data.encoder.version if data.encoder else None,
        "refused": None,
    }
    try:
        examples = task.examples(data, as_of)
    except NotEnoughHistoryError as reason:
        _write(objects, _examples_key(task), {**facts, "refused": str(reason)})
        return str(reason)
    buffer = io.BytesIO()
    examples.write_parquet(buffer)
    objects.put(_frame_key(task), buffer.getvalue())
    _write(objects, _examples_key(task), facts)
    return examples


def check_round(
    examples: pl.DataFrame, task: Task, as_of: datetime, encoder: SequenceModel | None
) -> str:
    """Return what breaks the temporal rule, or an empty text."""
    try:
        check_examples(examples, task, as_of)
    except ValueError as error:
        return str(error)
    first_test = examples.filter(pl.col("split") == "test")["origin"].min()
    if encoder is None or not isinstance(first_test, datetime):
        return ""
    if encoder.fitted_before > first_test:
        return (
            f"{task.name}: the encoder was fitted on events up to {encoder.fitted_before}, "
            f"after the first test origin {first_test}"
        )
    return ""


def judge(
    objects: ObjectStore, task: Task, lineage: dict[str, Any], *, seed: int
) -> Judgement | str:
    """Fit and judge every candidate on the written examples; save what is to be published.

    Returns why when there is nothing to judge. The challenger pointer then names no version.
    """
    facts = _read(objects, _examples_key(task))
    if facts["refused"]:
        _write(objects, _challenger_key(task), {"version": None, "reason": facts["refused"]})
        return str(facts["refused"])
    examples = _load_examples(objects, task)
    as_of = datetime.fromisoformat(facts["as_of"])
    try:
        result = backtest(task, examples, as_of=as_of, seed=seed)
    except NotEnoughHistoryError as reason:
        _write(objects, _challenger_key(task), {"version": None, "reason": str(reason)})
        return str(reason)
    version = save_model(objects, task, result, {**lineage, "encoder": facts["encoder"]})
    html = report_html(result, task)
    objects.put(f"models/{task.name}/{version}/report.html", html.encode())
    _write(
        objects,
        _challenger_key(task),
        {"version": version, "encoder": facts["encoder"], "verdict": result.verdict},
    )
    return Judgement(version, result, report_markdown(result, task), html)


def promote_challenger(objects: ObjectStore, task: Task, *, seed: int) -> Decision | None:
    """Let the newest challenger replace the champion if it wins; None when there is none."""
    challenger = _read(objects, _challenger_key(task))
    if challenger["version"] is None:
        return None
    test = _load_examples(objects, task).filter(pl.col("split") == "test")
    try:
        comparable = champion_encoder(objects, task) == challenger["encoder"]
    except NoChampionError:
        comparable = True
    return promote(
        objects,
        task,
        challenger["version"],
        test,
        at=datetime.now(UTC),
        seed=seed,
        comparable=comparable,
    )


def champion_encoder(objects: ObjectStore, task: Task) -> str | None:
    """Return the encoder version that the champion's features come from, None when it uses none.

    Raises NoChampionError before the first promotion.
    """
    version = champion_version(objects, task)
    lineage = _read(objects, f"models/{task.name}/{version}/config.json")["lineage"]
    found: str | None = lineage.get("encoder")
    return found


def _load_examples(objects: ObjectStore, task: Task) -> pl.DataFrame:
    return pl.read_parquet(io.BytesIO(objects.get(_frame_key(task))))


def _frame_key(task: Task) -> str:
    return f"examples/{task.name}.parquet"


def _examples_key(task: Task) -> str:
    return f"examples/{task.name}.json"


def _challenger_key(task: Task) -> str:
    return f"models/{task.name}/challenger.json"


def _write(objects: ObjectStore, key: str, values: dict[str, Any]) -> None:
    objects.put(key, json.dumps(values, indent=1, sort_keys=True).encode())


def _read(objects: ObjectStore, key: str) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(objects.get(key))
    return values
