"""Versions of models in the bucket, and the one that is published: the champion.

    models/<task>/<version>/model.json      name and state of the model
                            metrics.json    what the backtest found
                            config.json     windows, seed, lineage
                            report.html     the same for people
                            model_card.md   with use, limits and the way back, in Markdown
    models/<task>/champion.json             which version is published, and the ones before it

A version is the hash of what the model is (name, state, windows): the same data, config and seed
give the same version, and a version is never written twice with different content. The champion
pointer is one small object, changed only by a conditional write: of two writers one loses and says
so. No pickle: a state is JSON values.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from seq_ml.evaluation.report import report_page
from seq_ml.pages.page import html, markdown
from seq_ml.periods import Periods
from seq_ml.registry.model_card import code_version, model_card
from seq_ml.storage.layout import champion_key, model_prefix
from seq_ml.storage.objects import ObjectChangedError
from seq_ml.tasks.candidate import Champion, reads_encoder

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from seq_ml.metrics.estimate import Estimate
    from seq_ml.pages.page import Section
    from seq_ml.registry.meeting import Meeting
    from seq_ml.storage.objects import ObjectStore
    from seq_ml.tasks.candidate import Model
    from seq_ml.tasks.judged import Backtest
    from seq_ml.tasks.task import Task

VERSION_DIGITS = 16
KEPT_HISTORY = 50
"""Versions that the pointer remembers for rollback."""
CHANGED = "somebody else changed the champion since they met; the next round meets the new one"
LOOKS = ("looks", "looked_at")
"""What the pointer says of the challengers that its version has met: how many, and the last one."""


class NoChampionError(LookupError):
    """No version of the task was promoted yet, or none is left to go back to."""


@dataclass(frozen=True)
class Version:
    """A saved version: its name, and the report and the card of what was judged, as text."""

    name: str
    markdown: str
    html: str
    card: str


@dataclass(frozen=True)
class Decision:
    """What `promote` did: whether the pointer moved, which version it names now, and why."""

    promoted: bool
    champion: str
    reason: str
    improvement: Estimate | None = None
    compared: bool = True
    """Whether champion and challenger met, where there were two."""


def save_model(
    objects: ObjectStore,
    task: Task,
    result: Backtest,
    lineage: Mapping[str, Any] | None = None,
    sections: Sequence[Section] = (),
    fate: str = "",
) -> Version:
    """Write the published model of a backtest as a version and return what it says.

    lineage: JSON values that say where it comes from (data versions, encoder); the code's version
    is added. It is not part of the hash; the first writer's stays. sections: what `task.sections`
    adds to the report; fate: whether it becomes the champion. A version that is already there is
    left untouched.
    """
    model = result.published
    windows = {name: window.as_json() for name, window in result.windows.items()}
    version = version_of(task, result)
    origin = {"code": code_version(), **(lineage or {})}
    config = {
        "task": task.name,
        "version": version,
        "model": model.name,
        "is_baseline": model.is_baseline,
        "as_of": result.as_of.isoformat(),
        "fitted_before": result.windows["test"].first_origin.isoformat(),
        "windows": windows,
        "lineage": origin,
    }
    report = report_page(result, task, sections, {**origin, "version": version}, fate)
    said = Version(version, markdown(report), html(report), model_card(task, report, config))
    prefix = model_prefix(task.name, version)
    if objects.exists(f"{prefix}/model.json"):
        return said
    objects.put(f"{prefix}/metrics.json", _json(result.metrics_json()))
    objects.put(f"{prefix}/config.json", _json(config))
    objects.put(f"{prefix}/report.html", said.html.encode())
    objects.put(f"{prefix}/model_card.md", said.card.encode())
    # Last: whoever sees the model sees all of the version.
    objects.put(f"{prefix}/model.json", _json(_state(result)))
    return said


def version_of(task: Task, result: Backtest) -> str:
    """Return the name of the version that the published model of a backtest is."""
    windows = {name: window.as_json() for name, window in result.windows.items()}
    identity = _json({"task": task.name, "windows": windows, **_state(result)})
    return hashlib.sha256(identity).hexdigest()[:VERSION_DIGITS]


def load_model(objects: ObjectStore, task: Task, version: str) -> Champion:
    """Restore a version; KeyError when there is none or the code no longer has its candidate."""
    prefix = model_prefix(task.name, version)
    stored = json.loads(objects.get(f"{prefix}/model.json"))
    report = json.loads(objects.get(f"{prefix}/metrics.json"))
    config = config_of(objects, task.name, version)
    lineage = config["lineage"]
    model = _candidate(task, stored["name"])
    model.restore(stored["state"])
    # Releases of before named the encoder of the day, whether or not the model read it.
    encoder = lineage.get("encoder") if reads_encoder(model) else None
    windows = lineage.get("periods")
    return Champion(
        model,
        version,
        report,
        encoder,
        None if windows is None else Periods.of_json(windows),
        datetime.fromisoformat(config["fitted_before"]) if "fitted_before" in config else None,
    )


def load_champion(objects: ObjectStore, task: Task) -> Champion:
    """Restore the published version.

    Raises NoChampionError before the first promotion, and where other code saved the version in a
    shape that this one cannot read: the next round promotes another.
    """
    version = champion_version(objects, task)
    try:
        return load_model(objects, task, version)
    except (KeyError, ValueError) as error:
        raise NoChampionError(
            f"{task.name}: version {version} cannot be read ({error}): other code saved it; train "
            "anew."
        ) from error


def champion_version(objects: ObjectStore, task: Task) -> str:
    """Return the version that is published; NoChampionError before the first promotion."""
    pointer, _ = _pointer(objects, task)
    return str(pointer["version"])


def promote(
    objects: ObjectStore, task: Task, version: str, meeting: Meeting, *, at: datetime
) -> Decision:
    """Let a challenger replace the champion if it should; meeting: theirs.

    The rules, in order:

    1. no champion yet: promoted. The same version: nothing changes. A version that was rolled back
       stays out.
    2. the champion was fitted on later data than the challenger: it stays.
    3. they met: the challenger replaces the champion when it is better beyond chance, by as much
       certainty as this look may ask for (see `seq_ml.registry.meeting`).
    4. they could not meet, which the reason says: the challenger stands on its own. It replaces the
       champion when it beats the best baseline, or when the champion cannot serve any more.

    Somebody who changed the pointer since they met comes first: nothing is promoted.
    """
    if meeting.champion is not None:
        pointer, etag = _pointer(objects, task)
        current = str(pointer["version"])
        if version == current:
            return Decision(promoted=False, champion=current, reason="already the champion")
        if version in pointer["rejected"]:
            return Decision(promoted=False, champion=current, reason="was rolled back")
        if etag != meeting.pointer:
            return Decision(promoted=False, champion=current, reason=CHANGED, compared=False)
    wins = not config_of(objects, task.name, version)["is_baseline"]
    promoted, reason = meeting.verdict(wins=wins, metric=task.primary_metric)
    compared = not meeting.apart
    if meeting.champion is None:
        body = {**_entry(version, at, reason), "history": [], "rejected": []}
    elif promoted:
        kept = ("version", "promoted_at", "reason", *LOOKS)
        before = {k: pointer[k] for k in kept if k in pointer}
        body = {
            **_entry(version, at, reason),
            "history": [before, *pointer["history"]][:KEPT_HISTORY],
            "rejected": pointer["rejected"],
        }
    elif compared:
        body = {**pointer, **dict(zip(LOOKS, (meeting.look, version), strict=True))}
    else:
        return Decision(promoted, meeting.champion, reason, compared=False)
    try:
        objects.put(
            champion_key(task.name),
            _json(body),
            if_match=meeting.pointer,
            if_absent=meeting.champion is None,
        )
    except ObjectChangedError:
        now = champion_version(objects, task)
        return Decision(promoted=False, champion=now, reason=CHANGED, compared=False)
    return Decision(promoted, body["version"], reason, meeting.improvement, compared)


def rollback(objects: ObjectStore, task: Task) -> str:
    """Publish the version before the champion again and return it.

    The version that is left is remembered as rejected: `promote` will not bring it back. Raises
    NoChampionError when there is no earlier version, ObjectChangedError when another writer won.
    """
    pointer, etag = _pointer(objects, task)
    if not pointer["history"]:
        raise NoChampionError(f"{task.name}: there is no version before {pointer['version']}.")
    previous, *older = pointer["history"]
    body = {
        **previous,
        "history": older,
        "rejected": sorted({*pointer["rejected"], pointer["version"]}),
    }
    objects.put(champion_key(task.name), _json(body), if_match=etag)
    return str(previous["version"])


def _state(result: Backtest) -> dict[str, Any]:
    return {"name": result.published.name, "state": result.published.state()}


def _candidate(task: Task, name: str) -> Model:
    for candidate in task.candidates():
        if candidate.name == name:
            return candidate
    raise KeyError(f"{task.name} has no candidate '{name}' any more")


def config_of(objects: ObjectStore, task: str, version: str) -> dict[str, Any]:
    """Return the windows and the lineage of a version; KeyError when it is gone."""
    config: dict[str, Any] = json.loads(objects.get(f"{model_prefix(task, version)}/config.json"))
    return config


def _pointer(objects: ObjectStore, task: Task) -> tuple[dict[str, Any], str]:
    try:
        body, etag = objects.get_with_etag(champion_key(task.name))
    except KeyError as error:
        raise NoChampionError(
            f"{task.name}: no model was promoted yet; train one first."
        ) from error
    return json.loads(body), etag


def _entry(version: str, at: datetime, reason: str) -> dict[str, Any]:
    return {"version": version, "promoted_at": at.isoformat(), "reason": reason}


def _json(values: Mapping[str, Any]) -> bytes:
    """Canonical JSON: the same values, the same bytes; NaN is refused."""
    return json.dumps(values, sort_keys=True, indent=1, allow_nan=False).encode()
