"""Climb the ladder: train what it lacks, the lowest cut first, each going on from the one below.

Every encoder is published before the next one is trained: a run that was cut off finds it, and goes
on with the training that it was in.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from typing import TYPE_CHECKING

from seq_ml.encoder.ladder.foreseen import foreseen
from seq_ml.encoder.ladder.retraining import retrain
from seq_ml.encoder.ladder.rungs import Rung, read_ladder, record_rung
from seq_ml.encoder.objectives.questions import NothingToLearnError
from seq_ml.encoder.scoring.encoder import Encoder
from seq_ml.metrics.stability import stability_index
from seq_ml.sequences.read import read_by_shard
from seq_ml.storage.artifacts import current, fetch_folder
from seq_ml.storage.layout import ENCODER_PREFIX, SHARDS_PREFIX
from seq_ml.tokens.shards import NoSequencesError, write_shards
from seq_ml.tokens.store import vocabulary_at

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime
    from pathlib import Path

    import polars as pl

    from seq_ml.encoder.config import EncoderConfig
    from seq_ml.encoder.ladder.retraining import Retrained
    from seq_ml.storage.objects import ObjectStore
    from seq_ml.storage.tables import TableStore
    from seq_ml.tokens.vocabulary import Vocabulary

GUARD_USERS = 500
"""Users, at most, by whom a rung is compared with the one below it."""
GUARDED = ("p_silence", "orders_84d", "spend_mu_84d")
"""Columns by which: those that tasks build on."""
NEVER = 100_000
"""Days after which a rung is trained from scratch although there is one below."""


def climb(
    objects: ObjectStore,
    tables: TableStore,
    items: pl.DataFrame,
    config: EncoderConfig,
    cuts: Sequence[tuple[datetime, bool]],
    work: Path,
    *,
    silence_days: int,
    full_retrain_days: int,
    say: Callable[[str], None],
    should_stop: Callable[[], bool],
) -> list[Retrained]:
    """Train and publish an encoder for each cut; return the trainings.

    cuts: of `missing_cuts`, each with a vocabulary (`vocabularies_at`).  items: schema ITEMS.
    work: folder for checkpoints, copies and text vectors.  silence_days: that tasks ask about.
    full_retrain_days: as `choose_start` has it, of the newest encoder; rungs that stay go on from
    the one below whenever there is one, but for 0.

    A cut at which nothing can be learnt yet is passed over; NothingToLearnError where there is no
    other and no rung. A training that was stopped is the last one, and no rung. Raises as
    `pretrain` does; what was climbed stays.
    """
    rungs = read_ladder(objects)
    done: list[Retrained] = []
    for cut, fixed in cuts:
        below = [rung for rung in rungs if rung.cut <= cut]
        vocabulary = vocabulary_at(objects, cut)
        try:
            trained = retrain(
                objects,
                ENCODER_PREFIX,
                _shards_at(objects, tables, cut, vocabulary, config.max_events, work),
                vocabulary,
                items,
                config,
                work,
                newest=below[-1].version if below else None,
                full_retrain_days=full_retrain_days and (NEVER if fixed else full_retrain_days),
                say=say,
                should_stop=should_stop,
            )
        except (NoSequencesError, NothingToLearnError) as reason:
            if cut == cuts[-1][0] and not rungs:
                raise NothingToLearnError(str(reason)) from reason
            say(f"no rung at {cut:%Y-%m-%d}: {reason}")
            continue
        done.append(trained)
        if not trained.result.completed:
            break
        version = trained.result.training_id
        for name in trained.files:
            objects.put_file(f"{ENCODER_PREFIX}/{version}/{name}", trained.folder / name)
        lower = next((rung for rung in reversed(below) if rung.cut < cut), None)
        rung = Rung(cut, version, fixed)
        rungs = record_rung(objects, _guarded(objects, tables, rung, lower, silence_days, work))
    return done


def _shards_at(
    objects: ObjectStore,
    tables: TableStore,
    cut: datetime,
    vocabulary: Vocabulary,
    max_events: int,
    work: Path,
) -> Path:
    """Return the folder of the token shards at a cut: the published ones where they are of it.

    Raises NoSequencesError.
    """
    published = current(objects, SHARDS_PREFIX) or {}
    if (published.get("as_of"), published.get("vocabulary")) == (
        cut.isoformat(),
        vocabulary.version,
    ):
        return fetch_folder(objects, SHARDS_PREFIX, published["version"], work)
    folder = work / "shards_of_a_rung"  # not beside the checkpoints, which an erasure keeps
    shutil.rmtree(folder, ignore_errors=True)
    write_shards(read_by_shard(tables, as_of=cut, max_events=max_events), vocabulary, folder)
    return folder


def _guarded(
    objects: ObjectStore,
    tables: TableStore,
    rung: Rung,
    lower: Rung | None,
    silence_days: int,
    work: Path,
) -> Rung:
    """Return a rung with how stable it is beside the lower one: by what both foresee at its cut."""
    if lower is None:
        return rung
    encoders = [
        Encoder.load(fetch_folder(objects, ENCODER_PREFIX, each.version, work))
        for each in (lower, rung)
    ]
    longest = max(encoder.config.max_events for encoder in encoders)
    some = next(iter(read_by_shard(tables, as_of=rung.cut, max_events=longest))).head(GUARD_USERS)
    before, now = (
        foreseen(encoder, some, rung.cut, silence_days=silence_days) for encoder in encoders
    )
    if before is None or now is None:
        return rung
    both = before.select("user_id", *GUARDED).join(now, on="user_id", suffix=":now")
    psi = {
        name: stability_index(*(both[of].to_numpy() for of in (name, f"{name}:now")))
        for name in GUARDED
        if both.height and not both.select(name, f"{name}:now").null_count().sum_horizontal()[0]
    }
    return replace(rung, psi=psi)
