"""Who stays away for a month: constant, RFM, hand features, sequence, both, and the optimum.

The product's own task makes examples, candidates and stack. Everything is fitted on windows that
closed before the test origin; the encoder was fitted before the newest of them began, so that what
it foresees there is out of sample.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from benchmarks.planted import optimum
from benchmarks.planted.data import MONTH
from benchmarks.planted.shares import CEILING, CONSTANT, OPTIMUM, STACK, Judged, nats
from seq_ml.metrics.probabilities import log_loss, roc_auc
from seq_ml.tasks.churn.task import SilenceTask
from seq_ml.tasks.models.recalibrated import Recalibrated
from seq_ml.tasks.models.stacked import Stacked

if TYPE_CHECKING:
    from typing import Any

    from benchmarks.planted.log import Log
    from benchmarks.planted.world import Floats
    from seq_ml.encoder.scoring.encoder import Encoder
    from seq_ml.tasks.data import TaskData

RFM, BLIND, SEQUENCE = "rfm_logistic", "optimum blind to the order", "sequence"
HAND = ("logistic", "trees", "blend")
"""The product's candidates of hand features; the stack stands on the best of them in training."""
ORDER = (CONSTANT, RFM, *HAND, SEQUENCE, STACK, CEILING, BLIND, OPTIMUM)


def judge(log: Log, data: TaskData, encoder: Encoder) -> Judged:
    """Fit every arm, judge each on the newest window."""
    as_of = log.planted.at(log.planted.days)
    examples = with_known(foretold(SilenceTask().examples(data, as_of), data, encoder), log)
    test, past = (examples.filter((pl.col("split") == "test") == now) for now in (True, False))
    arms = {name: candidate(name) for name in (RFM, *HAND)}
    for model in arms.values():
        model.fit(past)
    hand = min(HAND, key=lambda name: _loss_across(arms[name], past))
    arms[STACK] = Stacked(STACK, arms[hand], [SEQUENCE], "")
    arms[CEILING] = Stacked(CEILING, arms[hand], [OPTIMUM], "")
    for name in (STACK, CEILING):
        arms[name].fit(past)

    label = labels(test)
    p = {CONSTANT: np.full(test.height, labels(past).mean())}
    p |= {name: model.predict(test) for name, model in arms.items()}
    p |= {name: test[name].to_numpy() for name in (SEQUENCE, BLIND, OPTIMUM)}
    loss = {name: nats(label, p[name]) for name in ORDER}
    return Judged("silence", loss, {name: roc_auc(label, p[name]) for name in ORDER}, hand)


def foretold(examples: pl.DataFrame, data: TaskData, encoder: Encoder) -> pl.DataFrame:
    """Add what the encoder foresees at the origins from its cut on; else null."""
    parts = [
        pl.DataFrame({"user_id": said.user_ids, SEQUENCE: said.silence(MONTH)}).with_columns(
            origin=pl.lit(origin, examples.schema["origin"])
        )
        for origin in examples["origin"].unique().sort()
        if origin >= encoder.fitted_before
        for sequences in encoder.sequences(data.events, origin)
        if (said := encoder.forecasts(sequences, origin)) is not None
    ]
    on = ["origin", "user_id"]
    return examples.join(pl.concat(parts), on=on, how="left", maintain_order="left")


def labels(examples: pl.DataFrame) -> Floats:
    return examples["label"].cast(pl.Float64).to_numpy()


def candidate(name: str) -> Any:
    """One of the product's candidates, its probabilities put right unless it is a baseline."""
    model = next(model for model in SilenceTask().candidates() if model.name == name)
    return model if name == RFM or isinstance(model, Recalibrated) else Recalibrated(model)


def _loss_across(model: Recalibrated, past: pl.DataFrame) -> float:
    """Log loss of what was said of the newest training window by the other half of the users."""
    newest = (past["origin"] == past["origin"].max()).to_numpy()
    return log_loss(labels(past)[newest], model.platt.predict(model.crossed[newest]))


def with_known(examples: pl.DataFrame, log: Log) -> pl.DataFrame:
    """Add what the events tell, and what they tell without their order, where SEQUENCE is there."""
    numbers = {user: place for place, user in enumerate(log.user_ids)}
    rows = examples.select(pl.col("user_id").replace_strict(numbers, return_dtype=pl.Int64))
    user = rows.to_series().to_numpy()
    day = (examples["origin"] - log.planted.at(0)).dt.total_days().to_numpy()
    asked = examples[SEQUENCE].is_not_null().to_numpy()
    days = sorted(set(day[asked].tolist()))
    columns = {}
    for name, told in ((BLIND, 0.5), (OPTIMUM, None)):
        p = np.full(examples.height, np.nan)
        for origin, belief in zip(days, optimum.believed(log, days, told), strict=True):
            there = day == origin
            p[there] = optimum.silence(log.planted, belief, origin, MONTH)[user[there]]
        columns[name] = pl.Series(p).fill_nan(None)
    return examples.with_columns(**columns)
