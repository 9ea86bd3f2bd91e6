"""The regular training in the pipeline: on from the current encoder where that is allowed.

A training that was cancelled or killed goes on from its newest checkpoint; the same data and
configuration are trained only once. What comes out is uploaded with a report of its quality, as the
candidate that `promotion` judges.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from seq_ml.encoder.data.texts import text_files, texts_to_read
from seq_ml.encoder.evaluation.report import encoder_report
from seq_ml.encoder.scoring.encoder import Encoder
from seq_ml.encoder.training.growth import choose_start
from seq_ml.encoder.training.logs import progress
from seq_ml.encoder.training.pretrain import TrainingResult, pretrain
from seq_ml.storage.artifacts import CANDIDATE, publish_folder
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

    origin: what it continued from (the encoder in `start`), or why from scratch.  files: of
    `folder`, which are the encoder when it is complete.
    """

    result: TrainingResult
    origin: str
    start: Path | None
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
    full_retrain_days: int,
    say: Callable[[str], None],
    should_stop: Callable[[], bool],
) -> Retrained:
    """Train on the shards, from the encoder that is current below `prefix` or from scratch.

    shards: folder of `write_shards`, of this vocabulary.  items: schema ITEMS.  work: folder for
    checkpoints, copies and text vectors.  full_retrain_days: as `choose_start` has it.  Raises as
    `pretrain` does.
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
        objects, prefix, work, vocabulary, config, full_retrain_days=full_retrain_days
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
    return Retrained(result, origin, start, folder, files)


def offer(
    objects: ObjectStore,
    prefix: str,
    trained: Retrained,
    events: pl.LazyFrame,
    conversions: Sequence[str],
) -> tuple[dict[str, Any], int]:
    """Report on a complete training and upload it as the candidate; return report and bytes.

    events: schema EVENTS, reaching beyond the training's cut-off.  conversions: behaviours that
    count as bought.  See `encoder_report`.  Whether it becomes current, `promotion` decides.
    """
    encoder = Encoder.load(trained.folder)
    start = None if trained.start is None else Encoder.load(trained.start)
    report = encoder_report(
        encoder, events, encoder.fitted_before, start=start, conversions=conversions
    )
    size = publish_folder(
        objects,
        prefix,
        trained.result.training_id,
        trained.folder,
        files=trained.files,
        pointer=CANDIDATE,
        fitted_before=encoder.fitted_before.isoformat(),
        from_scratch=trained.start is None,
        report=report,
    )
    return report, size
