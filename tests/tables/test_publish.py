"""What a table holds where a champion is lacking."""

from __future__ import annotations

import json

import polars as pl
import pytest

from seq_ml.periods import Periods
from seq_ml.schema import CHURN_PREDICTIONS, PUBLISHED, USER_PROFILES
from seq_ml.storage.layout import champion_key, model_prefix
from seq_ml.tables.publish import (
    TasksFailedError,
    contract_problem,
    lacking,
    predict_table,
    without_model,
)
from seq_ml.tasks.churn.task import DeclineTask
from tests.data import AS_OF
from tests.tasks.churn.test_task import task_data


def test_profiles_are_published_without_a_champion(objects):
    asked = []

    def data_for(version):
        asked.append(version)
        return task_data()

    rows, missing, _ = predict_table(objects, USER_PROFILES.name, data_for, AS_OF, run_id="r")
    assert asked == [None], "no encoder is loaded"
    assert missing == {"spend": "spend: no model was promoted yet; train one first."}
    assert contract_problem(rows, USER_PROFILES) == ""
    assert rows.height == 60
    assert rows["clv_expected"].null_count() == rows.height
    assert rows.select("model_version", "source").unique().rows() == [("none", "rules")]


@pytest.mark.parametrize("name", ["churn_predictions", "ad_predictions"])
def test_other_tables_have_no_row_without_a_champion(objects, name):
    asked = []

    def data_for(version):
        asked.append(version)
        return task_data()

    rows, missing, _ = predict_table(objects, name, data_for, AS_OF, run_id="r")
    assert asked == [None], "tasks of one table share what they read"
    assert rows.is_empty()
    assert rows.schema == PUBLISHED[name].polars_schema()
    assert missing


def by_hand(
    objects, name: str, state: dict, lineage: dict, task: str = "churn_silence", **report: object
) -> None:
    """A champion as some release left it in the bucket."""
    files = {
        f"{model_prefix(task, 'v1')}/model.json": {"name": name, "state": state},
        f"{model_prefix(task, 'v1')}/metrics.json": {"candidates": [], **report},
        f"{model_prefix(task, 'v1')}/config.json": {"lineage": lineage},
        champion_key(task): {"version": "v1"},
    }
    for key, content in files.items():
        objects.put(key, json.dumps(content).encode())


def test_a_champion_of_older_code_is_a_refusal_and_no_crash(objects):
    features = ["recency_days", "orders_91d", "spend_91d"]
    state = {"features": features, "intercept": 0.0}
    numbers = {name: [1.0] * 3 for name in ("mean", "scale", "weights", "rate", "lacking")}
    by_hand(objects, "rfm_logistic", {**state, **numbers}, {"encoder": None})
    rows, missing, _ = predict_table(
        objects, "churn_predictions", lambda _: task_data(), AS_OF, run_id="r"
    )
    assert rows.is_empty()
    assert "version v1 reads the column" in missing["churn_silence"]
    assert "train anew" in missing["churn_silence"]


def test_a_champion_is_served_with_the_windows_it_learnt(objects):
    state = {"column": "recency_days", "missing": 0.0, "centre": 20.0, "slope": 0.1}
    young = Periods(window_days=28, silence_active_weeks=4, silence_weeks=3, history_days=70)
    lineage = {"encoder": None, "periods": young.as_json()}
    by_hand(objects, "recency", {**state, "intercept": -1.0}, lineage)
    rows, *_ = predict_table(objects, "churn_predictions", lambda _: task_data(), AS_OF, run_id="r")
    assert rows["horizon_days"].unique().to_list() == [21]
    assert set(rows.drop_nulls("rests_on")["rests_on"]) == {
        "70 days of history, 21 days ahead, recency"
    }


def test_a_definition_that_crashes_takes_no_other_one_away(objects, monkeypatch):
    state = {"column": "recency_days", "missing": 0.0, "centre": 20.0, "slope": 0.1}
    by_hand(objects, "recency", {**state, "intercept": -1.0}, {"encoder": None})

    def crash(*_):
        raise ZeroDivisionError("no week has a day")

    monkeypatch.setattr(DeclineTask, "rows", crash)
    by_hand(objects, "recency", {**state, "intercept": -1.0}, {"encoder": None}, "churn_decline")
    rows, missing, failed = predict_table(
        objects, "churn_predictions", lambda _: task_data(), AS_OF, run_id="r"
    )
    assert rows["label_def"].unique().to_list() == ["silence"]
    assert missing == {}
    assert str(TasksFailedError(failed)) == "churn_decline: ZeroDivisionError: no week has a day"


def test_a_table_says_why_a_baseline_fills_it_where_no_model_could_be_fitted(objects):
    state = {"column": "recency_days", "missing": 0.0, "centre": 20.0, "slope": 0.1}
    state["intercept"] = -1.0
    why = "The baseline 'recency' is published: no model could be fitted: trees: 7 are too few."
    for best, said in (("trees", []), (None, [f"churn_silence: {why.removesuffix('.')}"])):
        by_hand(objects, "recency", state, {"encoder": None}, best_model=best, verdict=why)
        assert without_model(objects, "churn_predictions") == said


def test_a_task_that_refused_lacks_nobody(data):
    buyers = data.events.filter(event_type="purchase").select("user_id").unique().collect()
    rows = buyers.head(-3).select("user_id", label_def=pl.lit("silence"))
    assert lacking(rows, CHURN_PREDICTIONS, data, AS_OF) == {"churn_silence_users": 3}
