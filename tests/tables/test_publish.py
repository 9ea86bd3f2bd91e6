"""What a table holds where a champion is lacking."""

from __future__ import annotations

import json

import polars as pl
import pytest

from seq_ml.periods import Periods
from seq_ml.schema import CHURN_PREDICTIONS, PUBLISHED, USER_PROFILES
from seq_ml.storage.layout import champion_key, model_prefix
from seq_ml.storage.tables import TableStore
from seq_ml.tables.predict import Predicted, TasksFailedError, caveats, predict_table
from seq_ml.tables.publish import lacking, publish_snapshot
from seq_ml.tasks.churn.task import DeclineTask, SilenceTask
from tests.data import AS_OF
from tests.tasks.churn.test_task import task_data
from tests.tasks.cut import cut_by


@pytest.fixture
def predict(objects, tmp_path):
    """Predict a table and read all of its rows."""

    def made(table, data_for) -> tuple[pl.DataFrame, Predicted]:
        found = predict_table(objects, table, data_for, AS_OF, "r", tmp_path)
        nothing = pl.LazyFrame(schema=table.polars_schema())
        return pl.concat([nothing, *found.parts]).collect(), found

    return made


def test_profiles_are_published_without_a_champion(predict):
    asked = []

    def data_for(version):
        asked.append(version)
        return task_data()

    rows, found = predict(USER_PROFILES, data_for)
    assert asked == [None], "no encoder is loaded"
    assert found.missing == {"spend": "spend: no model was promoted yet; train one first."}
    assert rows.height == 60
    assert rows["clv_expected"].null_count() == rows.height
    assert rows.select("model_version", "source").unique().rows() == [("none", "rules")]


@pytest.mark.parametrize("name", ["churn_predictions", "ad_predictions"])
def test_other_tables_have_no_row_without_a_champion(predict, name):
    asked = []

    def data_for(version):
        asked.append(version)
        return task_data()

    rows, found = predict(PUBLISHED[name], data_for)
    assert asked == [None], "tasks of one table share what they read"
    assert rows.is_empty()
    assert found.missing


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


def test_a_champion_of_older_code_is_a_refusal_and_no_crash(objects, predict):
    features = ["recency_days", "orders_91d", "spend_91d"]
    state = {"features": features, "intercept": 0.0}
    numbers = {name: [1.0] * 3 for name in ("mean", "scale", "weights", "rate", "lacking")}
    by_hand(objects, "rfm_logistic", {**state, **numbers}, {"encoder": None})
    rows, found = predict(CHURN_PREDICTIONS, lambda _: task_data())
    assert rows.is_empty()
    assert "version v1 reads the column" in found.missing["churn_silence"]
    assert "train anew" in found.missing["churn_silence"]


def test_a_champion_is_served_with_the_windows_it_learnt(objects, predict):
    state = {"column": "recency_days", "missing": 0.0, "centre": 20.0, "slope": 0.1}
    young = Periods(window_days=28, silence_active_weeks=4, silence_weeks=3, history_days=70)
    lineage = {"encoder": None, "periods": young.as_json()}
    by_hand(objects, "recency", {**state, "intercept": -1.0}, lineage)
    rows, _ = predict(CHURN_PREDICTIONS, lambda _: task_data())
    assert rows["horizon_days"].unique().to_list() == [21]
    assert set(rows.drop_nulls("rests_on")["rests_on"]) == {
        "70 days of history, 21 days ahead, recency"
    }


def test_a_definition_that_crashes_takes_no_other_one_away(objects, predict, monkeypatch):
    state = {"column": "recency_days", "missing": 0.0, "centre": 20.0, "slope": 0.1}
    by_hand(objects, "recency", {**state, "intercept": -1.0}, {"encoder": None})

    def crash(*_):
        raise ZeroDivisionError("no week has a day")

    monkeypatch.setattr(DeclineTask, "rows", crash)
    by_hand(objects, "recency", {**state, "intercept": -1.0}, {"encoder": None}, "churn_decline")
    rows, found = predict(CHURN_PREDICTIONS, lambda _: task_data())
    assert rows["label_def"].unique().to_list() == ["silence"]
    assert found.missing == {}
    assert (
        str(TasksFailedError(found.failed)) == "churn_decline: ZeroDivisionError: no week has a day"
    )


def test_a_shard_that_fails_twice_takes_its_definition_away_and_the_third_run_is_whole(
    objects, predict, monkeypatch
):
    """No table of some shards: the rows of the night before stay, and another run has them all."""
    state = {"column": "recency_days", "missing": 0.0, "centre": 20.0, "slope": 0.1}
    by_hand(objects, "recency", {**state, "intercept": -1.0}, {"encoder": None})
    cut_by(10, monkeypatch)
    whole, _ = predict(CHURN_PREDICTIONS, lambda _: task_data())
    works, asked = SilenceTask.rows, []

    def third_shard_fails(self, shard, *rest):
        asked.append(shard)
        if len(asked) in (3, 6):
            raise OSError("no space left on the device")
        return works(self, shard, *rest)

    monkeypatch.setattr(SilenceTask, "rows", third_shard_fails)
    for _ in range(2):
        rows, found = predict(CHURN_PREDICTIONS, lambda _: task_data())
        assert rows.is_empty()
        assert "no space left" in str(TasksFailedError(found.failed))
    rows, found = predict(CHURN_PREDICTIONS, lambda _: task_data())
    assert found.failed == {}
    assert rows.drop("created_at").equals(whole.drop("created_at"))


def test_rows_of_many_shards_are_in_the_bucket_what_they_are_at_once(objects, predict, monkeypatch):
    state = {"column": "recency_days", "missing": 0.0, "centre": 20.0, "slope": 0.1}
    for task in ("churn_silence", "churn_decline"):
        by_hand(objects, "recency", {**state, "intercept": -1.0}, {"encoder": None}, task)
    tables, published = TableStore(objects), []
    for users in (1000, 10):
        cut_by(users, monkeypatch)
        rows, found = predict(CHURN_PREDICTIONS, lambda _: task_data())
        assert (len(found.parts) > 3) == (users == 10)
        publish_snapshot(tables, CHURN_PREDICTIONS, found.parts, AS_OF)
        there = tables.scan(CHURN_PREDICTIONS.name).select(rows.columns).collect()
        assert there.sort(CHURN_PREDICTIONS.key).equals(rows.sort(CHURN_PREDICTIONS.key))
        published.append(there.sort(CHURN_PREDICTIONS.key)["risk_decile"])
    assert published[0].equals(published[1])


def test_a_part_of_another_type_is_an_error_and_replaces_nothing(objects, predict):
    rows, _ = predict(USER_PROFILES, lambda _: task_data())
    tables = TableStore(objects)
    publish_snapshot(tables, USER_PROFILES, [rows.lazy()], AS_OF)
    version = tables.version(USER_PROFILES.name)
    other = rows.with_columns(pl.col("orders_total").cast(pl.Int16))
    with pytest.raises(Exception, match="orders_total"):
        publish_snapshot(tables, USER_PROFILES, [other.lazy()], AS_OF)
    assert tables.version(USER_PROFILES.name) == version


def test_a_table_says_why_a_baseline_fills_it_where_no_model_could_be_fitted(objects):
    state = {"column": "recency_days", "missing": 0.0, "centre": 20.0, "slope": 0.1}
    state["intercept"] = -1.0
    why = "The baseline 'recency' wins: no model could be fitted: trees: 7 are too few."
    for best, said in (("trees", []), (None, [f"churn_silence: {why.removesuffix('.')}"])):
        by_hand(objects, "recency", state, {"encoder": None}, best_model=best, verdict=why)
        assert caveats(objects, "churn_predictions") == said


def test_a_task_that_refused_lacks_nobody(data):
    buyers = data.events.filter(event_type="purchase").select("user_id").unique().collect()
    rows = buyers.head(-3).select("user_id", label_def=pl.lit("silence")).lazy()
    assert lacking(rows, CHURN_PREDICTIONS, data, AS_OF) == {"churn_silence_users": 3}
