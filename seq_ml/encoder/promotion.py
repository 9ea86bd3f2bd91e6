"""Which encoder is current: the candidate of a training replaces it where the gate lets it.

The candidate is the newest rung of the ladder that was cut at or before the training cut-off. One
that stays out costs nothing but its training: vectors, tasks and tables go on with the encoder
before.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

from seq_ml.encoder.evaluation.gate import Gate, judge
from seq_ml.encoder.evaluation.probe import CPU
from seq_ml.encoder.scoring.encoder import Encoder
from seq_ml.encoder.training.checkpoints import is_readable
from seq_ml.storage.artifacts import (
    CANDIDATE,
    POINTER,
    current,
    fetch_folder,
    is_forbidden,
    point,
)

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    import polars as pl

    from seq_ml.encoder.evaluation.probe import Width
    from seq_ml.storage.objects import ObjectStore


def promote(
    objects: ObjectStore,
    prefix: str,
    events: pl.LazyFrame,
    items: pl.DataFrame,
    *,
    end: datetime,
    conversions: Collection[str],
    work: Path,
    width: Width = CPU,
) -> Gate | None:
    """Judge the candidate below `prefix` beside the current encoder; make it current if it passes.

    events, items, end, conversions, width: as `judge` has them.  work: folder for copies.  Returns
    what the gate found, None where there is no candidate.
    """
    candidate, pointer = current(objects, prefix, CANDIDATE), current(objects, prefix)
    if candidate is None:
        return None
    if pointer is not None and pointer["version"] == candidate["version"]:
        return Gate(candidate["version"], None, "it is the current one already")
    new = Encoder.load(fetch_folder(objects, prefix, candidate["version"], work))
    rival = None if pointer is None else _rival(objects, prefix, pointer, new, work)
    gate = judge(new, rival, events, items, end=end, conversions=conversions, width=width)
    if gate.passed:
        point(objects, prefix, POINTER, candidate | {"gate": gate.as_json()})
    return gate


def _rival(
    objects: ObjectStore, prefix: str, pointer: dict[str, Any], new: Encoder, work: Path
) -> Encoder | None:
    """Return the current encoder, where it may stay; None where nothing holds the new one back.

    It may not where an erased person was in its data, where it was fitted on later events (somebody
    went back in time), and where an earlier release trained it that this one cannot read.
    """
    version = str(pointer["version"])
    late = datetime.fromisoformat(pointer["fitted_before"]) > new.fitted_before
    if late or is_forbidden(objects, prefix, version):
        return None
    try:
        folder = fetch_folder(objects, prefix, version, work)
        return Encoder.load(folder) if is_readable(folder) else None
    except (KeyError, FileNotFoundError):
        return None
