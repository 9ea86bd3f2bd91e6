"""A tiny trained encoder, labels to tune it on, and the settings of every method."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

import polars as pl

from seq_ml.encoder.config import PRESETS
from seq_ml.encoder.finetuning.config import FineTuning
from seq_ml.encoder.scoring.encoder import Encoder
from seq_ml.encoder.training.pretrain import pretrain
from seq_ml.sequences.build import build_sequences
from seq_ml.tokens.shards import write_shards
from seq_ml.tokens.vocabulary import Vocabulary
from tests.data import AS_OF, journey

if TYPE_CHECKING:
    from pathlib import Path


TEST = AS_OF - timedelta(days=42)
VALIDATION = TEST - timedelta(days=30)
FIT = [VALIDATION - timedelta(days=30 + 14 * n) for n in range(3)]
BRIEFLY = {
    "steps": 12,
    "examples": 16,
    "evaluate_every": 3,
    "warmup_steps": 1,
    "learning_rate": 1e-2,
    "threads": 1,
}
SETTINGS = {
    "full": FineTuning(method="full", **BRIEFLY),
    "frozen": FineTuning(method="frozen", **BRIEFLY),
    "partial": FineTuning(
        method="partial", layers=("backbone.blocks.0.feed_forward", "bias"), **BRIEFLY
    ),
    "lora": FineTuning(method="lora", **BRIEFLY),
    "adalora": FineTuning(method="adalora", **BRIEFLY),
    "adapter": FineTuning(method="adapter", bottleneck=4, **BRIEFLY),
    "prefix": FineTuning(method="prefix", prefix=3, **BRIEFLY),
}


def trained_encoder(folder: Path, backbone: str = "causal", *, repeat_head: bool = True) -> Encoder:
    config = PRESETS["tiny"]
    config = replace(
        config,
        model=replace(config.model, backbone=backbone, repeat_head=repeat_head),
        training=replace(config.training, steps=10, threads=1),
    )
    events, items = journey()["clean_events"].lazy(), journey()["items"]
    vocabulary = Vocabulary.fit([events], items, before=TEST, min_users=config.min_users)
    sequences = build_sequences(events, as_of=TEST, max_events=config.max_events, shards=1)
    write_shards([sequences], vocabulary, folder / "shards")
    pretrain(folder / "shards", vocabulary, config, folder)
    return Encoder.load(folder)


def labels(origins) -> pl.DataFrame:
    """Whether a household buys little in the 30 days after each origin."""
    events = journey()["clean_events"].filter(event_type="purchase")
    users = events.select(pl.col("user_id").unique().sort())
    frames = []
    for origin in origins:
        end = origin + timedelta(days=30)
        window = events.filter(pl.col("event_time") >= origin, pl.col("event_time") < end)
        counted = users.join(window.group_by("user_id").len(), on="user_id", how="left")
        frames.append(
            counted.select(
                "user_id",
                origin=pl.lit(origin),
                label_end=pl.lit(end),
                label=(pl.col("len").fill_null(0) < 40).cast(pl.Float64),
            )
        )
    return pl.concat(frames)
