"""What rungs of the ladder foresee, as rows of the table `sequence_predictions`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from seq_ml.encoder.ladder.rungs import serving_at
from seq_ml.encoder.scoring.encoder import Encoder
from seq_ml.periods import FORESEEN_DAYS
from seq_ml.schema import SEQUENCE_PREDICTIONS
from seq_ml.storage.artifacts import fetch_folder
from seq_ml.storage.contracts import conform
from seq_ml.storage.layout import ENCODER_PREFIX

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from datetime import datetime
    from pathlib import Path

    from seq_ml.encoder.ladder.rungs import Rung
    from seq_ml.storage.objects import ObjectStore

    Read = Callable[[datetime, int], Iterable[pl.DataFrame]]


def foreseen(
    encoder: Encoder, sequences: pl.DataFrame, origin: datetime, *, silence_days: int
) -> pl.DataFrame | None:
    """Return schema SEQUENCE_PREDICTIONS of users with an event before the origin.

    sequences: schema USER_SEQUENCES, read up to the origin. None where the encoder learnt from no
    conversion.
    """
    told = encoder.forecasts(sequences, origin)
    if told is None:
        return None
    nothing = np.full((len(told.user_ids), len(FORESEEN_DAYS)), np.nan)
    nothing_spent, mu, sigma = told.spend or (nothing, nothing, nothing)
    columns = {"p_silence": told.silence(silence_days), "wait_p50": told.median_wait()}
    for place, days in enumerate(FORESEEN_DAYS):
        columns |= {
            f"orders_{days}d": told.expected_orders(days),
            f"lines_{days}d": told.expected_lines(days),
            f"p_no_spend_{days}d": nothing_spent[:, place],
            f"spend_mu_{days}d": mu[:, place],
            f"spend_sigma_{days}d": sigma[:, place],
        }
    numbers = pl.DataFrame(columns).select(
        pl.when(pl.all().is_finite()).then(pl.all())  # no median wait, no price
    )
    frame = numbers.with_columns(
        user_id=pl.Series(told.user_ids, dtype=pl.String),
        origin=pl.lit(origin),
        rung=pl.lit(encoder.version),
        rung_cut=pl.lit(encoder.fitted_before),
        silence_days=pl.lit(silence_days),
    )
    return conform(frame, SEQUENCE_PREDICTIONS).sort("user_id")


def predictions(
    objects: ObjectStore,
    rungs: Sequence[Rung],
    origins: Iterable[datetime],
    read: Read,
    work: Path,
    *,
    silence_days: int,
) -> Iterator[pl.DataFrame]:
    """Yield what the rung that serves at each origin foresees there, some users at a time.

    read: returns sequences (schema USER_SEQUENCES) before an instant, of so many events at most.
    Of origins without a rung nothing comes.
    """
    served = [(origin, serving_at(rungs, origin)) for origin in sorted(origins)]
    encoder: Encoder | None = None
    for origin, rung in served:
        if rung is None:
            continue
        if encoder is None or encoder.version != rung.version:
            encoder = Encoder.load(fetch_folder(objects, ENCODER_PREFIX, rung.version, work))
        for part in read(origin, encoder.config.max_events):
            rows = foreseen(encoder, part, origin, silence_days=silence_days)
            if rows is not None and rows.height:
                yield rows
