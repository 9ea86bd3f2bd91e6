"""Published predictions meet what happened: once, only when known, and again when days change."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import dagster as dg
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from seq_ml.schema import (
    CHURN_PREDICTIONS,
    EVENTS,
    PREDICTION_OUTCOMES,
)
from seq_ml.sequences import cutoffs
from seq_ml.settings import home
from seq_ml.storage.contracts import SchemaError
from seq_ml.tables import outcomes_summary
from seq_ml.tables.outcomes import judge_outcomes
from seq_ml.tables.outcomes_page import outcomes_page
from seq_ml.tables.publish import checked, publish_snapshot
from seq_ml.tables.states import recorded_state
from tests.tables.quiet import ENTRY, FIRST, WEEKS, Quiet, clean, judge, judged, publish, rows
from tests.tasks.cut import cut_by

if TYPE_CHECKING:
    from seq_ml.storage.tables import TableStore
    from seq_ml.tasks.data import TaskData


def by_hand(data: TaskData, as_of: datetime, days: int) -> set[str]:
    """Who bought nothing from `as_of` on for so many days."""
    events = data.events.collect()
    users = set(events.filter(pl.col("event_time") < as_of)["user_id"])
    later = events.filter(
        (pl.col("event_type") == "purchase")
        & (pl.col("event_time") >= as_of)
        & (pl.col("event_time") < as_of + timedelta(days=days))
    )
    return users - set(later["user_id"])


def test_outcomes_are_what_a_hand_count_says(objects, tables, data):
    clean(tables, data)
    publish(tables, data, FIRST)
    publish(tables, data, FIRST + 4 * WEEKS)
    found = judge(objects, data, FIRST + 2 * WEEKS)
    outcomes = judged(tables)
    assert outcomes.schema == PREDICTION_OUTCOMES.polars_schema()
    assert set(outcomes["as_of"]) == {FIRST}, "the later snapshot's windows are open"
    assert found.judged == {("quiet", FIRST): outcomes.height}
    assert found.closes == {"quiet": FIRST + 5 * WEEKS}
    predicted = rows(data, FIRST).filter("eligible")
    assert outcomes.height == predicted.height
    for days in (56, 70):
        users = predicted.filter(horizon_days=days)["user_id"].to_list()
        of_length = outcomes.filter(pl.col("user_id").is_in(users))
        away = of_length.filter(pl.col("realised") == 1)["user_id"]
        assert set(away) == by_hand(data, FIRST, days) & set(users)
        assert set(of_length["window_end"]) == {FIRST + timedelta(days=days)}
    assert set(outcomes["model_version"]) == {"v1"}
    assert set(outcomes["source"]) == {"rfm_logistic"}
    assert outcomes["item_id"].null_count() == outcomes.height
    assert (outcomes["window_end"] <= outcomes["judged_at"]).all()


def test_an_open_window_gives_no_row_and_says_when_it_closes(objects, tables, data):
    clean(tables, data)
    publish(tables, data, FIRST)
    until = FIRST + timedelta(days=60)
    for _ in range(2):
        found = judge(objects, data, until)
        assert found.closes == {"quiet": FIRST + timedelta(days=70)}
    short = judged(tables)
    assert set(short["window_end"]) == {FIRST + WEEKS}, "those of 70 days are open"
    assert judge(objects, data, FIRST + timedelta(days=55)).closes == {"quiet": FIRST + WEEKS}
    judge(objects, data, FIRST + timedelta(days=70))
    assert judged(tables).height > short.height


def test_a_second_round_writes_nothing(objects, tables, data):
    clean(tables, data)
    publish(tables, data, FIRST)
    until = FIRST + 2 * WEEKS
    judge(objects, data, until)
    before, version = judged(tables), tables.version(PREDICTION_OUTCOMES.name)
    assert judge(objects, data, until + WEEKS).judged == {}
    assert tables.version(PREDICTION_OUTCOMES.name) == version
    assert judged(tables).equals(before)
    objects.delete(["outcomes/state.json"])  # a round that was cut off before its last write
    judge(objects, data, until)
    assert judged(tables).drop("judged_at").equals(before.drop("judged_at"))


def test_a_snapshot_judged_some_users_at_a_time_is_judged_alike_in_one_commit(
    objects, tables, data, monkeypatch
):
    clean(tables, data)
    publish(tables, data, FIRST)
    publish(tables, data, FIRST + WEEKS)
    until = FIRST + 2 * WEEKS
    whole = judge(objects, replace(data), until)
    at_once = judged(tables).drop("judged_at")
    told = outcomes_summary.summary(tables.scan(PREDICTION_OUTCOMES.name))
    version = tables.version(PREDICTION_OUTCOMES.name)
    objects.delete(["outcomes/state.json"])
    cut_by(5, monkeypatch)
    monkeypatch.setattr(outcomes_summary, "ROWS_AT_ONCE", 10)
    assert replace(data).shard_count == 8
    assert judge(objects, replace(data), until) == whole
    assert tables.version(PREDICTION_OUTCOMES.name) == version + 2, "a commit for each snapshot"
    assert_frame_equal(judged(tables).drop("judged_at"), at_once)
    assert_frame_equal(outcomes_summary.summary(tables.scan(PREDICTION_OUTCOMES.name)), told)


@pytest.mark.slow
def test_late_data_and_a_new_snapshot_are_judged_again(objects, tables, data):
    clean(tables, data)
    publish(tables, data, FIRST)
    until = FIRST + 2 * WEEKS
    judge(objects, data, until)
    away = judged(tables).filter(realised=1.0)["user_id"].sort()
    assert len(away), "nobody stayed away: the test shows nothing"
    late = (
        data.events.filter(event_type="purchase")
        .head(1)
        .collect()
        .with_columns(
            user_id=pl.lit(away[0]),
            event_time=pl.lit(FIRST + timedelta(days=3)).cast(pl.Datetime("us", "UTC")),
            event_date=pl.lit((FIRST + timedelta(days=3)).date()),
        )
    )
    tables.append(EVENTS.name, late, partition_by=EVENTS.partition_by)
    more = replace(data, events=pl.concat([data.events, late.lazy()]))
    assert judge(objects, more, until).judged
    assert judged(tables).filter(user_id=away[0])["realised"].to_list() == [0.0]
    publish(tables, data, FIRST, version="v2")
    judge(objects, more, until)
    assert set(judged(tables)["model_version"]) == {"v2"}
    assert judged(tables).height == rows(data, FIRST).filter("eligible").height
    after = late.with_columns(event_date=pl.lit((until + WEEKS).date()))
    tables.append(EVENTS.name, after, partition_by=EVENTS.partition_by)
    assert not judge(objects, more, until).judged, "a day after the windows changes nothing"


def test_a_model_that_was_chosen_later_is_not_judged(objects, tables, data):
    clean(tables, data)
    publish(tables, data, FIRST)
    config = {"as_of": (FIRST + WEEKS).isoformat()}
    objects.put("models/quiet/v1/config.json", json.dumps(config).encode())
    for _ in range(2):
        found = judge(objects, data, FIRST + 2 * WEEKS)
        assert found.hindsight == {("quiet", FIRST): rows(data, FIRST).height}
        assert found.judged == {}
    assert judged(tables).is_empty()
    page = outcomes_page(judged(tables).lazy(), found, FIRST + 2 * WEEKS)
    assert "Not judged" in [section.title for section in page.sections]
    assert f"{rows(data, FIRST).height:,} rows" in dict(page.facts).values()


def republish(tables: TableStore, rows: pl.DataFrame) -> None:
    part = checked(rows, CHURN_PREDICTIONS).lazy()
    publish_snapshot(tables, CHURN_PREDICTIONS, [part], FIRST)


def test_outcomes_never_outlive_the_rows_that_they_belong_to(objects, tables, data):
    clean(tables, data)
    until = FIRST + 2 * WEEKS
    config = {"as_of": (FIRST + WEEKS).isoformat()}
    objects.put("models/quiet/later/config.json", json.dumps(config).encode())
    for version, expected in (("v1", {"v1"}), ("later", set()), ("v2", {"v2"})):
        publish(tables, data, FIRST, version=version)
        changed = judge(objects, data, until).judged
        assert changed == {("quiet", FIRST): judged(tables).height}
        assert set(judged(tables)["model_version"]) == expected
        written = tables.version(PREDICTION_OUTCOMES.name)
        assert judge(objects, data, until).judged == {}
        assert tables.version(PREDICTION_OUTCOMES.name) == written
    longer = tables.scan(CHURN_PREDICTIONS.name).collect()
    soon = pl.lit(datetime.now(UTC)).cast(pl.Datetime("us", "UTC"))
    longer = longer.with_columns(horizon_days=pl.lit(200, pl.Int32), created_at=soon)
    republish(tables, longer)
    assert judge(objects, data, until).closes == {"quiet": FIRST + timedelta(days=200)}
    assert judged(tables).is_empty(), "the windows of what is published now are open"


def test_rows_of_later_models_are_left_out_and_the_others_judged(objects, tables, data):
    clean(tables, data)
    publish(tables, data, FIRST)
    mixed = tables.scan(CHURN_PREDICTIONS.name).collect().sort("user_id")
    late = mixed["user_id"].unique().sort()[:5]
    of_late = pl.when(pl.col("user_id").is_in(late.implode())).then(pl.lit("later"))
    mixed = mixed.with_columns(model_version=of_late.otherwise("model_version"))
    republish(tables, mixed)
    config = {"as_of": (FIRST + WEEKS).isoformat()}
    objects.put("models/quiet/later/config.json", json.dumps(config).encode())
    found = judge(objects, data, FIRST + 2 * WEEKS)
    assert found.hindsight == {("quiet", FIRST): 5}
    assert set(judged(tables)["model_version"]) == {"v1"}


def test_what_was_written_after_its_window_is_named(objects, tables, data):
    clean(tables, data)
    publish(tables, data, FIRST)
    until = FIRST + 2 * WEEKS
    assert judge(objects, data, until).replayed == (("quiet", FIRST),), "written years later"
    forecast = tables.scan(CHURN_PREDICTIONS.name).collect()
    soon = pl.lit(FIRST + timedelta(hours=5)).cast(pl.Datetime("us", "UTC"))
    republish(tables, forecast.with_columns(created_at=soon))
    found = judge(objects, data, until)
    assert found.replayed == ()
    page = outcomes_page(judged(tables).lazy(), found, until)
    assert "Written after the fact" not in [section.title for section in page.sections]


def test_outcomes_of_the_future_are_refused(objects, tables, data):
    clean(tables, data)
    publish(tables, data, FIRST)
    entry = replace(ENTRY, task="tests.tables.quiet:Early")
    with pytest.raises(ValueError, match="whose window ends after"):
        judge_outcomes(objects, data, FIRST + timedelta(days=60), [entry])


def test_two_outcomes_of_one_prediction_are_refused(objects, tables, data, monkeypatch):
    clean(tables, data)
    publish(tables, data, FIRST)
    once = Quiet.outcomes
    monkeypatch.setattr(Quiet, "outcomes", lambda *a: pl.concat([once(*a), once(*a)]))
    with pytest.raises(SchemaError, match="repeat the key"):
        judge(objects, data, FIRST + 2 * WEEKS)


def test_a_snapshot_can_be_published_again_beside_others(tables, data):
    for as_of in (FIRST, FIRST + WEEKS, FIRST, FIRST + WEEKS):
        publish(tables, data, as_of)
    counted = tables.scan(CHURN_PREDICTIONS.name).group_by("as_of").len().sort("as_of").collect()
    assert counted.rows() == [
        (as_of, 2 * rows(data, as_of).height) for as_of in (FIRST, FIRST + WEEKS)
    ]


@pytest.fixture
def step(objects, server, tables, data, monkeypatch):
    """The step of the table, as of an instant; the only snapshot is that of FIRST."""
    from seq_assets.outcomes import prediction_outcomes
    from seq_assets.resources import Storage

    clean(tables, data)
    publish(tables, data, FIRST)
    for name, value in {
        "SEQLINE_BUCKET": objects.bucket,
        "AWS_ACCESS_KEY_ID": server.access_key,
        "AWS_SECRET_ACCESS_KEY": server.secret_key,
        "AWS_ENDPOINT_URL": str(server.endpoint),
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("seq_assets.outcomes.TASKS", (ENTRY,))

    def run(as_of):
        cutoffs.record(tables, cutoffs.CutOffs(as_of, FIRST))
        return dg.materialize(
            [prediction_outcomes],
            resources={"storage": Storage()},
            instance=dg.DagsterInstance.ephemeral(),
            raise_on_error=False,
        )

    return run


def told(objects) -> tuple[str, str, int]:
    state = recorded_state(objects, PREDICTION_OUTCOMES.name)
    assert state is not None
    return state.state, state.why, state.rows


@pytest.mark.slow
def test_the_asset_writes_table_page_and_plots(step, objects, tables):
    done = step(FIRST + timedelta(days=60))
    assert done.success
    metadata = done.asset_materializations_for_node("prediction_outcomes")[0].metadata
    assert metadata["dagster/row_count"].value == judged(tables).height > 0
    assert told(objects) == ("published", "", judged(tables).height)
    assert metadata["next_quiet"].value == (FIRST + timedelta(days=70)).isoformat()
    assert "data:image/svg+xml" in metadata["plot_quiet_p_churn"].value
    page = (home() / "site" / "reports" / "outcomes.html").read_text()
    assert metadata["verdict"].value.split(".")[0] in page
    said = page + "".join(str(value.value) for value in metadata.values())
    assert not [user for user in judged(tables)["user_id"] if user in said]


def test_until_a_window_has_passed_the_table_is_refused(step, objects):
    done = step(FIRST + timedelta(days=50))
    assert done.success
    assert not done.asset_materializations_for_node("prediction_outcomes")
    why = "No window has passed yet. The first one, of quiet, closes 2017-07-27."
    assert told(objects) == ("refused", why, 0)


def test_a_round_that_fails_is_told(step, objects, monkeypatch):
    entry = replace(ENTRY, task="tests.tables.quiet:Early")
    monkeypatch.setattr("seq_assets.outcomes.TASKS", (entry,))
    assert not step(FIRST + timedelta(days=60)).success
    state, why, rows = told(objects)
    assert (state, rows) == ("failed", 0)
    assert "whose window ends after" in why


def test_rows_that_cannot_be_judged_make_the_table_smaller(step, objects, tables, data):
    later = FIRST + timedelta(days=1)
    publish(tables, data, later, version="late")
    content = {"as_of": (later + WEEKS).isoformat()}
    objects.put("models/quiet/late/config.json", json.dumps(content).encode())
    assert step(later + timedelta(days=60)).success
    state, why, _ = told(objects)
    count = rows(data, later).height
    assert (state, why) == (
        "smaller", f"{count:,} rows of models chosen after their date are not judged"
    )  # fmt: skip
