"""What a table holds where a champion is lacking."""

from __future__ import annotations

import pytest

from seq_ml.schema import PUBLISHED, USER_PROFILES
from seq_ml.tables.publish import contract_problem, predict_table
from tests.data import AS_OF
from tests.tasks.churn.test_task import task_data


def test_profiles_are_published_without_a_champion(objects):
    asked = []

    def data_for(version):
        asked.append(version)
        return task_data()

    rows, missing = predict_table(objects, USER_PROFILES.name, data_for, AS_OF, run_id="r")
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

    rows, missing = predict_table(objects, name, data_for, AS_OF, run_id="r")
    assert asked == [None], "tasks of one table share what they read"
    assert rows.is_empty()
    assert rows.schema == PUBLISHED[name].polars_schema()
    assert missing
