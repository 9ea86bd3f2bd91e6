"""One training of the ladder: on from the encoder below where that is allowed; and its report.

A training that was cancelled or killed goes on from its newest checkpoint; the same data and
configuration are trained only once. `climbing` publishes what comes out; `offer` makes one of the
rungs the candidate that `promotion` judges.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from seq_ml.encoder.data.texts import text_files, texts_to_read
from seq_ml.encoder.evaluation.report import encoder_report
from seq_ml.encoder.scoring.encoder import Encoder
from seq_ml.encoder.training.growth import choose_start
from seq_ml.encoder.training.logs import progress
from seq_ml.encoder.training.pretrain import TrainingResult, pretrain
from seq_ml.storage.artifacts import CANDIDATE, current, fetch_folder, point
from seq_ml.tokens.shards import MANIFEST, Manifest

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    import polars as pl

    from seq_ml.encoder.config import EncoderConfig
    from seq_ml.storage.objects import ObjectStore
    from seq_ml.tokens.vocabulary import Vocabulary

FILES = ("config.json", "model.safetensors", "training.json", "vocabulary.json")


@dataclass(frozen=True)
class Retrained:
    """A training, complete or stopped.

    origin: what it continued from, or why from scratch.  files: of `folder`, which are the encoder
    when it is complete.
    """

    result: TrainingResult
    origin: str
    folder: Path
    files: tuple[str, ...]


def retrain(
    objects: ObjectStore,
    prefix: str,
    shards: Path,
    vocabulary: Vocabulary,
    items: pl.DataFrame,
    config: EncoderConfig,
    work: Path,
    *,
    newest: str | None,
    full_retrain_days: int,
    say: Callable[[str], None],
    should_stop: Callable[[], bool],
) -> Retrained:
    """Train on the shards, from an encoder below `prefix` or from scratch.

    shards: folder of `write_shards`, of this vocabulary.  items: schema ITEMS.  work: folder for
    checkpoints, copies and text vectors.  newest, full_retrain_days: as `choose_start` has them.
    Raises as `pretrain` does.
    """
    manifest = Manifest.from_bytes((shards / MANIFEST).read_bytes())
    texts = texts_to_read(
        config.model,
        vocabulary,
        items,
        before=datetime.fromisoformat(manifest.as_of),
        cache=work / "text_vectors",
    )
    start, origin = choose_start(
        objects,
        prefix,
        work,
        vocabulary,
        config,
        newest=newest,
        full_retrain_days=full_retrain_days,
    )
    say(f"training {origin}")
    folder = work / "encoder" / "training"
    result = pretrain(
        shards,
        vocabulary,
        config,
        folder,
        texts=texts,
        start=start,
        on_step=progress(say),
        should_stop=should_stop,
    )
    files = FILES if texts is None else (*FILES, *text_files(folder))
    return Retrained(result, origin, folder, files)


def offer(
    objects: ObjectStore,
    prefix: str,
    version: str,
    events: pl.LazyFrame,
    conversions: Sequence[str],
    work: Path,
) -> dict[str, Any]:
    """Make a published encoder the candidate; return the report on it.

    events: schema EVENTS, reaching beyond its cut-off.  conversions: behaviours that count as
    bought.  See `encoder_report`.  Whether it becomes current, `promotion` decides. One that is the
    candidate already is not judged again.
    """
    candidate = current(objects, prefix, CANDIDATE)
    if candidate is not None and candidate["version"] == version:
        return dict(candidate["report"])
    folder = fetch_folder(objects, prefix, version, work)
    encoder = Encoder.load(folder)
    report = encoder_report(
        encoder,
        events,
        encoder.fitted_before,
        start=_start_of(objects, prefix, folder, work),
        conversions=conversions,
    )
    facts = {"fitted_before": encoder.fitted_before.isoformat(), "report": report}
    point(objects, prefix, CANDIDATE, {"version": version, **facts})
    return report


def _start_of(objects: ObjectStore, prefix: str, folder: Path, work: Path) -> Encoder | None:
    """Return the encoder that the one in `folder` went on from; None if from scratch, or gone."""
    version = json.loads((folder / "training.json").read_text())["continued_from"]
    if version is None or not objects.exists(f"{prefix}/{version}/training.json"):
        return None
    return Encoder.load(fetch_folder(objects, prefix, version, work))
