"""Adding a task takes one module (tests/journeys/sixth_task.py) and one entry in the registry."""

from __future__ import annotations

import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from importlib import import_module
from typing import TYPE_CHECKING

import dagster as dg
import polars as pl
import pytest

from seq_ml.registry.rounds import verdicts
from seq_ml.schema import EVENTS, PUBLISHED
from seq_ml.sequences import cutoffs
from seq_ml.storage.contracts import check_key, conform
from seq_ml.storage.tables import TableStore
from seq_ml.tables.read import export_table, list_published
from seq_ml.tasks import registered as tasks
from tests.data import journey
from tests.journeys.sixth_task import ENTRY, NEXT_VISITS

if TYPE_CHECKING:
    from collections.abc import Iterator

AS_OF = datetime(2018, 1, 1, tzinfo=UTC)
NEW = ["next_visit_examples", "next_visit_model", "next_visit_report", "next_visits"]
LEAK_CHECKS = {"feature_time", "label_window", "duplicates", "prediction_time"}


@pytest.fixture
def location(monkeypatch) -> Iterator[dg.Definitions]:
    """The code location as it is after one more entry in the registry."""
    monkeypatch.setattr(tasks, "TASKS", (*tasks.TASKS, ENTRY))
    for name in [n for n in sys.modules if n.partition(".")[0] == "seq_assets"]:
        monkeypatch.delitem(sys.modules, name)
    yield import_module("seq_assets.definitions").defs
    for name in [n for n in sys.modules if n.partition(".")[0] == "seq_assets"]:
        del sys.modules[name]


@pytest.fixture
def shop(objects, server, monkeypatch) -> TableStore:
    """Eight weeks of clean events, as the stages before leave them, in a bucket of their own."""
    store = TableStore(objects)
    recent = pl.col("event_time").is_between(AS_OF - timedelta(weeks=8), AS_OF, closed="left")
    events = journey(households=60)["clean_events"].filter(recent)
    store.overwrite(EVENTS.name, events, partition_by=EVENTS.partition_by)
    cutoffs.record(store, cutoffs.CutOffs(AS_OF, AS_OF - timedelta(days=91)))
    for name, value in {
        "SEQLINE_BUCKET": objects.bucket,
        "AWS_ACCESS_KEY_ID": server.access_key,
        "AWS_SECRET_ACCESS_KEY": server.secret_key,
        "AWS_ENDPOINT_URL": str(server.endpoint),
    }.items():
        monkeypatch.setenv(name, value)
    return store


def test_one_entry_makes_assets_checks_and_jobs(location):
    graph = location.resolve_asset_graph()
    names = {key.to_user_string() for key in graph.get_all_asset_keys()}
    assert set(NEW) <= names
    checks = {
        (key.asset_key.to_user_string(), key.name): graph.get(key).blocking
        for key in graph.asset_check_keys
    }
    for check in LEAK_CHECKS:
        assert checks["next_visit_examples", check]
    assert checks["next_visit_model", "fitted_statistics"]
    assert checks["next_visits", "contract"]
    assert not checks["next_visits", "coverage"]
    retrain = location.resolve_job_def("retrain").asset_layer.executable_asset_keys
    daily = location.resolve_job_def("daily_tables").asset_layer.executable_asset_keys
    assert {dg.AssetKey(name) for name in NEW} <= set(retrain)
    assert dg.AssetKey("next_visits") in daily
    champion = dg.AssetKey("next_visit_champion")
    assert graph.get(champion).parent_keys == {dg.AssetKey("next_visit_report")}
    assert champion in graph.get(dg.AssetKey("next_visits")).parent_keys
    columns = graph.get(dg.AssetKey("next_visits")).metadata["dagster/column_schema"]
    assert [c.name for c in columns.columns] == NEXT_VISITS.names


def test_the_sixth_table_is_judged_published_and_read_like_the_others(location, shop, tmp_path):
    result = dg.materialize(
        list(location.assets),
        selection=dg.AssetSelection.assets(*NEW),
        resources=location.resources,
        instance=dg.DagsterInstance.ephemeral(),
    )
    assert result.success
    passed = {
        (e.asset_key.to_user_string(), e.check_name): e.passed
        for e in result.get_asset_check_evaluations()
    }
    assert all(passed.values()), passed
    assert {name for asset, name in passed if asset == "next_visit_examples"} == LEAK_CHECKS

    rows = shop.scan("next_visits").collect()
    assert rows.schema == NEXT_VISITS.polars_schema()
    check_key(conform(rows, NEXT_VISITS), NEXT_VISITS)
    users = shop.scan(EVENTS.name).select("user_id").unique().collect()
    assert set(rows["user_id"]) == set(users["user_id"])
    assert rows["as_of"].unique().to_list() == [AS_OF]
    assert rows["p_visit"].is_between(0, 1).all()
    assert rows["p_visit"].n_unique() > 5

    made = {one.asset_key.to_user_string(): one.metadata for one in materialized(result)}
    report = made["next_visit_report"]["report"]
    verdict = verdicts(shop.objects)["next_visit"]
    assert verdict in report.value
    assert "95 % interval" in verdict
    assert "recency (baseline" in report.value
    assert "first version" in made["next_visit_champion"]["version"].value

    (listed,) = list_published(shop.objects)
    assert (listed["name"], listed["rows"]) == ("next_visits", rows.height)
    assert (listed["state"], listed["why"]) == ("published", "")
    out = tmp_path / "visits.parquet"
    settings = import_module("seq_ml.settings").load_settings()
    assert export_table(shop.objects, settings, "next_visits", out) == rows.height


def test_a_history_that_is_too_short_is_told_and_nothing_fails(location, shop):
    """The examples say why, nothing is judged, and the table refuses with the same reason."""
    events = shop.scan(EVENTS.name).filter(pl.col("event_time") >= AS_OF - timedelta(weeks=2))
    shop.overwrite(EVENTS.name, events.collect(), partition_by=EVENTS.partition_by)
    result = dg.materialize(
        list(location.assets),
        selection=dg.AssetSelection.assets(*NEW),
        resources=location.resources,
        instance=dg.DagsterInstance.ephemeral(),
    )
    assert result.success
    failed = {e.check_name for e in result.get_asset_check_evaluations() if not e.passed}
    assert failed == {"coverage"}
    said = "next_visit: there is no event before"
    refused = {
        one.asset_key.to_user_string(): one.metadata["refused"].value
        for one in (
            event.asset_observation_data.asset_observation
            for event in result.all_events
            if event.event_type_value == "ASSET_OBSERVATION"
        )
    }
    assert refused.keys() == {"next_visit_examples", "next_visits"}
    assert all(said in why for why in refused.values())
    assert materialized(result) == []
    assert said in verdicts(shop.objects)["next_visit"]
    (listed,) = list_published(shop.objects)
    assert (listed["rows"], listed["version"], listed["state"]) == (0, None, "refused")
    assert said in listed["why"]


def materialized(result: dg.ExecuteInProcessResult) -> list[dg.AssetMaterialization]:
    return [
        event.step_materialization_data.materialization
        for event in result.all_events
        if event.is_step_materialization
    ]


def test_an_entry_that_names_another_task_is_refused():
    wrong = replace(ENTRY, name="next_visits_of_all")
    with pytest.raises(TypeError, match=r"'next_visits_of_all'.*'next_visit'"):
        wrong.load()


def test_the_registry_and_its_tasks_agree():
    for entry in tasks.TASKS:
        task = entry.load()
        assert entry.plot in task.table.names
        assert not entry.rows or entry.rows[0] in task.table.names
        assert task.table.name in PUBLISHED
    assert [e.name for e in tasks.filled_by("churn_predictions")] == [
        "churn_silence",
        "churn_decline",
        "churn_non_renewal",
    ]
    assert tasks.filled_by("item_to_item") == ()


def test_rows_of_a_shared_table_belong_to_one_task_and_are_counted_for_it():
    from tests.evaluation.test_leakage import data

    silence, decline, _ = tasks.filled_by("churn_predictions")
    buyers = data().events.filter(event_type="purchase").select("user_id").unique().collect()
    rows = buyers.select("user_id", label_def=pl.lit("silence"))
    as_of = datetime(2018, 1, 2, tzinfo=UTC)
    rows = rows.lazy()
    assert silence.lacking(rows, data(), as_of) == {"users": 0}
    assert silence.lacking(rows.head(buyers.height - 3), data(), as_of) == {"users": 3}
    assert decline.lacking(rows, data(), as_of) == {"users": buyers.height}
