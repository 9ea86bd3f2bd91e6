"""What the product is given of a planted log: the data of its tasks, and an encoder of a cut."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import polars as pl

from benchmarks.planted import rows
from seq_ml import schema
from seq_ml.business import Business, Churn, Recommendations, Windows
from seq_ml.periods import choose_periods
from seq_ml.tasks.data import TaskData

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.planted.log import Log
    from seq_ml.encoder.config import EncoderConfig
    from seq_ml.encoder.scoring.encoder import Encoder

MONTH, FORTNIGHT = 28, 14
"""Days of silence, and within which an item should be bought."""
BUSINESS = Business(
    churn=Churn(silence_active_weeks=MONTH // 7, silence_weeks=MONTH // 7),
    recommendations=Recommendations(horizon_days=FORTNIGHT),
    windows=Windows(window_days=56),
)


def task_data(log: Log) -> TaskData:
    """The log as the tasks read it, without an encoder."""
    empty = {name: table.polars_schema() for name, table in schema.INPUT_TABLES.items()}
    return TaskData(
        rows.events(log).lazy(),
        rows.items(log),
        pl.DataFrame(schema=empty["campaigns"]),
        pl.DataFrame(schema=empty["campaign_items"]),
        pl.LazyFrame(schema=empty["promotions"]),
        BUSINESS,
        choose_periods(BUSINESS),
    )


def encoder_at(log: Log, data: TaskData, cut: int, config: EncoderConfig, folder: Path) -> Encoder:
    """Pre-train on what happened before a day, on one thread."""
    from seq_ml.encoder.config import for_business
    from seq_ml.encoder.data.prepare import prepare
    from seq_ml.encoder.scoring.encoder import Encoder
    from seq_ml.encoder.training.pretrain import pretrain

    config = for_business(config, data.business)
    config = replace(config, training=replace(config.training, threads=1))
    as_of, shards = log.planted.at(cut), folder / "shards"
    given = prepare(
        data.events,
        data.items,
        config,
        shards,
        as_of=as_of,
        origin=str(log.planted),
        timezone=data.business.timezone,
    )
    out = folder / "encoder"
    pretrain(given.shards, given.vocabulary, config, out, texts=given.texts)
    return Encoder.load(out)
