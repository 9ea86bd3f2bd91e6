"""A table's step: what is published, told, or left as it was."""

from datetime import UTC, datetime, timedelta

import dagster as dg
import polars as pl
import pytest

from seq_assets.resources import Storage
from seq_assets.tables import MADE_OF, Snapshot, _asset_of
from seq_ml.schema import NEXT_BASKETS, RECOMMENDATIONS, STAMP, Column, Table
from seq_ml.sequences import cutoffs
from seq_ml.storage.layout import CUTOFFS_KEY
from seq_ml.storage.tables import TableStore
from seq_ml.tables.publish import checked, stamp
from seq_ml.tables.read import list_published
from seq_ml.tables.states import recorded_state

AS_OF = datetime(2018, 1, 1, tzinfo=UTC)
VISITS = Table(
    "recommendations",  # so that it is among those that are listed
    "Who comes.",
    (
        Column("user_id", "str", "User."),
        Column("p_visit", "f64", "Probability of a visit."),
        Column("because", "str", "Why; Null without prices.", True),
        *STAMP,
    ),
    key=("user_id", "as_of"),
)


def rows(**columns: object) -> pl.DataFrame:
    frame = pl.DataFrame({"user_id": ["ab" * 16, "cd" * 16], "p_visit": [0.5, 0.25]})
    frame = frame.with_columns(because=pl.lit(None, pl.String)).with_columns(**columns)
    return stamp(frame, AS_OF, version="v", source="m", run_id="r")


@pytest.fixture
def bucket(objects, server, monkeypatch) -> TableStore:
    """A bucket with nothing but the cut-offs, which the environment names."""
    store = TableStore(objects)
    cutoffs.record(store, cutoffs.CutOffs(AS_OF, AS_OF - timedelta(days=91)))
    for name, value in {
        "SEQLINE_BUCKET": objects.bucket,
        "AWS_ACCESS_KEY_ID": server.access_key,
        "AWS_SECRET_ACCESS_KEY": server.secret_key,
        "AWS_ENDPOINT_URL": str(server.endpoint),
    }.items():
        monkeypatch.setenv(name, value)
    return store


def run(make) -> dg.ExecuteInProcessResult:
    """Run the step of a table whose snapshot `make` returns."""
    asset = _asset_of(VISITS)(lambda *_: make())
    return dg.materialize(
        [asset], resources={"storage": Storage()}, instance=dg.DagsterInstance.ephemeral(),
        raise_on_error=False,
    )  # fmt: skip


def snapshot(frame: pl.DataFrame, **said: dict) -> Snapshot:
    parts = [checked(frame, VISITS).lazy()] if frame.height else []
    return Snapshot(parts, "p_visit", "users with events", **said)


def told(bucket: TableStore) -> tuple[str, str, int]:
    state = recorded_state(bucket.objects, VISITS.name)
    assert state is not None
    assert state.as_of == AS_OF
    return state.state, state.why, state.rows


def test_a_whole_snapshot_is_published(bucket):
    result = run(lambda: snapshot(rows(because=pl.lit("habit"))))
    assert result.success
    assert told(bucket) == ("published", "", 2)
    assert bucket.scan(VISITS.name).collect().height == 2


def test_a_smaller_one_says_which_task_and_which_columns_are_missing(bucket):
    missing = {"churn_decline": "churn_decline: no price is known."}
    result = run(lambda: snapshot(rows(), missing=missing))
    assert result.success
    why = "churn_decline: no price is known; no row has a value in because (null without prices)"
    assert told(bucket) == ("smaller", why, 2)
    (listed,) = list_published(bucket.objects)
    assert (listed["state"], listed["why"], listed["rows"]) == ("smaller", why, 2)


def test_nothing_to_say_is_a_refusal_that_leaves_the_snapshot_of_the_day(bucket):
    assert run(lambda: snapshot(rows())).success
    version = bucket.version(VISITS.name)
    result = run(lambda: snapshot(rows().clear()))
    assert result.success
    assert not result.asset_materializations_for_node(VISITS.name)
    assert told(bucket) == (
        "refused", "nothing to say as of 2018-01-01: there are no users with events", 0
    )  # fmt: skip
    passed = {e.check_name: (e.passed, e.severity) for e in result.get_asset_check_evaluations()}
    assert passed["contract"][0]
    assert passed["coverage"] == (False, dg.AssetCheckSeverity.WARN)
    assert bucket.version(VISITS.name) == version
    listed = {row["name"]: row for row in list_published(bucket.objects)}
    assert listed["recommendations"]["rows"] == 2
    assert listed["recommendations"]["state"] == "refused"


def test_what_is_made_of_a_refused_table_is_told_too(bucket):
    assert {NEXT_BASKETS.name: RECOMMENDATIONS.name} == MADE_OF
    run(lambda: snapshot(rows().clear(), missing={"recommendations": "nobody bought an item."}))
    assert told(bucket)[:2] == ("refused", "nobody bought an item.")
    state = recorded_state(bucket.objects, NEXT_BASKETS.name)
    assert state is not None
    assert state.state == "refused"
    assert state.why == ("it is made of recommendations, which was refused: nobody bought an item.")
    assert [row["name"] for row in list_published(bucket.objects)] == [
        "recommendations", "next_baskets",
    ]  # fmt: skip


def test_rows_that_break_the_contract_are_neither_written_nor_materialized(bucket):
    broken = rows(user_id=pl.lit("ab" * 16))
    result = run(lambda: snapshot(broken))
    assert not result.success
    assert not result.asset_materializations_for_node(VISITS.name)
    (check,) = result.get_asset_check_evaluations()
    assert (check.check_name, check.passed) == ("contract", False)
    state, why, _ = told(bucket)
    assert state == "failed"
    assert why.startswith("SchemaError: recommendations: 1 rows repeat the key")
    assert "ab" * 16 not in why, "nobody's pseudonym"
    assert not bucket.exists(VISITS.name)


def test_an_error_is_told_and_the_step_fails(bucket):
    def make():
        raise ZeroDivisionError("no week has a day\nsecond line")

    assert not run(make).success
    assert told(bucket) == ("failed", "ZeroDivisionError: no week has a day", 0)


def test_a_task_that_fails_takes_none_of_the_others_rows_away_and_fails_the_step(bucket):
    failed = {"churn_decline": ZeroDivisionError("no week has a day")}
    result = run(lambda: snapshot(rows(because=pl.lit("habit")), failed=failed))
    assert not result.success
    assert len(result.asset_materializations_for_node(VISITS.name)) == 1
    why = "failed: churn_decline: ZeroDivisionError: no week has a day"
    assert told(bucket) == ("smaller", why, 2)
    assert bucket.scan(VISITS.name).collect().height == 2


def test_where_every_task_fails_nothing_is_refused(bucket):
    failed = {"churn_decline": ZeroDivisionError("no week has a day")}
    missing = {"churn_silence": "too little history."}
    result = run(lambda: snapshot(rows().clear(), missing=missing, failed=failed))
    assert not result.success
    why = "TasksFailedError: churn_decline: ZeroDivisionError: no week has a day"
    assert told(bucket) == ("failed", why, 0)


def test_cut_offs_that_cannot_be_read_fail_the_table(bucket):
    bucket.objects.put(CUTOFFS_KEY, b"{")
    assert not run(lambda: snapshot(rows())).success
    state = recorded_state(bucket.objects, VISITS.name)
    assert state is not None
    assert (state.state, state.as_of) == ("failed", None)
    assert state.why.startswith("JSONDecodeError: ")
    listed = {row["name"]: row["state"] for row in list_published(bucket.objects)}
    assert listed == {VISITS.name: "failed", NEXT_BASKETS.name: "refused"}
