"""Labels for a fine-tuning: those of the churn tasks, at origins that the encoder has not seen."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import polars as pl
import pytest

from seq_ml.business import Business
from seq_ml.tasks.churn.labels import DEFINITIONS, labels_since
from seq_ml.tasks.data import TaskData
from seq_ml.tasks.task import NotEnoughHistoryError
from tests.encoder.evaluation.people import END, catalogue, log

NOTHING = pl.DataFrame()
EVENTS = log().with_columns(quantity=pl.lit(1.0))
SHOP = TaskData(EVENTS.lazy(), catalogue(), NOTHING, NOTHING, NOTHING.lazy(), Business())
WEEKS = replace(SHOP.periods, silence_weeks=3, decline_weeks=3, window_days=28)
SHOP = replace(SHOP, periods=WEEKS)


@pytest.mark.parametrize("definition", DEFINITIONS)
def test_they_are_the_labels_of_the_task_from_an_instant_on(definition):
    since = END - timedelta(days=60)
    labels = labels_since(definition, SHOP, END, since=since)
    origins = [END - timedelta(days=days) for days in (49, 35, 21)]
    assert labels["origin"].unique().sort().to_list() == origins
    assert (labels["label_end"] - labels["origin"]).unique().to_list() == [timedelta(days=21)]
    examples = DEFINITIONS[definition]().examples(SHOP, END)
    both = labels.join(examples, on=["user_id", "origin"], suffix="_task")
    newest = labels.filter(pl.col("origin") == origins[-1])
    assert both.filter(pl.col("origin") == origins[-1]).height == newest.height > 50
    assert (both["label"] == both["label_task"]).all()


def test_an_encoder_that_has_seen_all_origins_and_a_log_without_prices_are_refused():
    with pytest.raises(NotEnoughHistoryError, match="trained with --as-of 2025-06-10 or earlier"):
        labels_since("silence", SHOP, END, since=END - timedelta(days=20))
    free = replace(SHOP, events=EVENTS.with_columns(unit_price=pl.lit(None, pl.Float64)).lazy())
    with pytest.raises(NotEnoughHistoryError, match="nothing has a price"):
        labels_since("decline", free, END, since=END - timedelta(days=60))
