"""Published predictions meet what happened: once, only when known, and again when days change."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import dagster as dg
import numpy as np
import polars as pl
import pytest

from seq_ml.business import Business
from seq_ml.pages.page import html
from seq_ml.schema import (
    AD_PREDICTIONS,
    CAMPAIGNS,
    CHURN_PREDICTIONS,
    EVENTS,
    PREDICTION_OUTCOMES,
    USER_PROFILES,
)
from seq_ml.sequences import cutoffs
from seq_ml.settings import home
from seq_ml.storage.tables import SchemaError
from seq_ml.tables.outcomes import Round, judge_outcomes, summary
from seq_ml.tables.outcomes_page import outcomes_page
from seq_ml.tables.publish import publish_snapshot, stamp
from seq_ml.tasks.data import TaskData
from seq_ml.tasks.registered import TASKS, Entry
from seq_ml.tasks.task import Task
from tests.data import journey

SPEND = next(entry for entry in TASKS if entry.name == "spend")
FIRST = datetime(2017, 6, 1, 4, tzinfo=UTC)
WEEKS = timedelta(weeks=8)


class Quiet(Task):
    """No purchase within `horizon_days`; half of its rows look two weeks further."""

    name = "quiet"
    title = "Who stays away"
    table = CHURN_PREDICTIONS
    key = ("user_id",)
    unit = "user_id"
    primary_metric = "roc_auc"

    def examples(self, data, as_of):
        raise NotImplementedError

    def serving(self, data, as_of, units=None):
        raise NotImplementedError

    def candidates(self):
        raise NotImplementedError

    def metrics(self):
        raise NotImplementedError

    def rows(self, data, as_of, serving, champion):
        raise NotImplementedError

    def outcomes(self, data, predictions, until):
        ends = pl.col("as_of") + pl.duration(days="horizon_days")
        closed = predictions.filter("eligible").with_columns(window_end=ends)
        closed = closed.filter(pl.col("window_end") <= until)
        bought = data.events.filter(event_type="purchase").select("user_id", "event_time").collect()
        inside = closed.join(bought, on="user_id").filter(
            pl.col("event_time") >= pl.col("as_of"), pl.col("event_time") < pl.col("window_end")
        )
        return closed.select(
            "user_id",
            "label_def",
            "horizon_days",
            target=pl.lit("p_churn"),
            predicted=pl.col("p_churn").cast(pl.Float64),
            realised=(~pl.col("user_id").is_in(inside["user_id"].implode())).cast(pl.Float64),
            window_end="window_end",
        )


class Early(Quiet):
    """Tells outcomes of windows that are still open."""

    def outcomes(self, data, predictions, until):
        return super().outcomes(data, predictions, until + WEEKS)


ENTRY = Entry(
    "quiet",
    "tests.tables.test_outcomes:Quiet",
    CHURN_PREDICTIONS,
    "who stays away",
    plot="p_churn",
    rows=("label_def", "silence"),
)


@pytest.fixture(scope="module")
def data() -> TaskData:
    frames = journey(40)
    return TaskData(
        events=frames["clean_events"].lazy(),
        items=frames["items"],
        campaigns=frames["campaigns"],
        campaign_items=frames["campaign_items"],
        promotions=frames["promotions"].lazy(),
        business=Business(timezone="America/New_York"),
    )


def rows(data: TaskData, as_of: datetime) -> pl.DataFrame:
    """A prediction for everybody seen before, half of them for eight weeks, half for ten."""
    users = data.events_before(as_of).select(pl.col("user_id").unique().sort()).collect()
    n = users.height
    return users.with_columns(
        label_def=pl.lit("silence"),
        horizon_days=pl.Series([56 if i % 2 else 70 for i in range(n)], dtype=pl.Int32),
        eligible=pl.Series([i != 0 for i in range(n)]),
        p_churn=pl.Series(np.linspace(0.05, 0.4, n), dtype=pl.Float32),
        base_rate=pl.lit(0.1, dtype=pl.Float32),
        risk_decile=pl.lit(None, dtype=pl.Int32),
        risk_band=pl.lit(None, dtype=pl.String),
        expected_orders=pl.lit(1.0, dtype=pl.Float32),
        expected_spend=pl.lit(1.0),
        value_at_risk=pl.lit(None, dtype=pl.Float64),
        next_order_date=pl.lit(None, dtype=pl.Date),
        top_reasons=pl.lit([], dtype=CHURN_PREDICTIONS.polars_schema()["top_reasons"]),
        recommended_action=pl.lit(None, dtype=pl.String),
        expected_gain=pl.lit(None, dtype=pl.Float64),
    )


def publish(tables, data: TaskData, as_of: datetime, version: str = "v1") -> None:
    stamped = stamp(rows(data, as_of), as_of, version=version, source="rfm_logistic", run_id="r")
    other = stamped.with_columns(label_def=pl.lit("decline"))
    missing = [c for c in CHURN_PREDICTIONS.names if c not in stamped.columns]
    both = pl.concat([stamped, other]).with_columns(
        pl.lit(None, dtype=CHURN_PREDICTIONS.polars_schema()[c]).alias(c) for c in missing
    )
    publish_snapshot(tables, CHURN_PREDICTIONS, both.select(CHURN_PREDICTIONS.names), as_of)


def clean(tables, data: TaskData) -> None:
    """The days of clean_events, whose files tell whether one changed."""
    tables.append(EVENTS.name, data.events.collect(), partition_by=EVENTS.partition_by)


def judge(objects, data: TaskData, until: datetime):
    return judge_outcomes(objects, data, until, [ENTRY])


def judged(tables) -> pl.DataFrame:
    return tables.scan(PREDICTION_OUTCOMES.name).sort(PREDICTION_OUTCOMES.key).collect()


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
    publish_snapshot(tables, CHURN_PREDICTIONS, longer, FIRST)
    assert judge(objects, data, until).closes == {"quiet": FIRST + timedelta(days=200)}
    assert judged(tables).is_empty(), "the windows of what is published now are open"


def test_rows_of_later_models_are_left_out_and_the_others_judged(objects, tables, data):
    clean(tables, data)
    publish(tables, data, FIRST)
    mixed = tables.scan(CHURN_PREDICTIONS.name).collect().sort("user_id")
    late = mixed["user_id"].unique().sort()[:5]
    of_late = pl.when(pl.col("user_id").is_in(late.implode())).then(pl.lit("later"))
    mixed = mixed.with_columns(model_version=of_late.otherwise("model_version"))
    publish_snapshot(tables, CHURN_PREDICTIONS, mixed, FIRST)
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
    publish_snapshot(tables, CHURN_PREDICTIONS, forecast.with_columns(created_at=soon), FIRST)
    found = judge(objects, data, until)
    assert found.replayed == ()
    page = outcomes_page(judged(tables).lazy(), found, until)
    assert "Written after the fact" not in [section.title for section in page.sections]


def profile_rows(data: TaskData, as_of: datetime) -> pl.DataFrame:
    """user_profiles of everybody seen before, with a spend forecast for all but the first."""
    users = data.events_before(as_of).select(pl.col("user_id").unique().sort()).collect()
    n = users.height
    schema = USER_PROFILES.polars_schema()
    known = users.with_columns(
        as_of=pl.lit(as_of),
        created_at=pl.lit(as_of),
        model_version=pl.lit("none"),
        source=pl.lit("rules"),
        clv_source=pl.lit("own_rate"),
        clv_horizon_days=pl.lit(56),
        clv_expected=pl.Series([None, *np.linspace(10, 900, n - 1)]),
        clv_p10=pl.Series([None, *np.linspace(0, 300, n - 1)]),
        clv_p90=pl.Series([None, *np.linspace(300, 2000, n - 1)]),
    )
    return known.select(
        (pl.col(name) if name in known.columns else pl.lit(None)).cast(dtype).alias(name)
        for name, dtype in schema.items()
    )


def test_the_spend_that_profiles_expect_is_judged(objects, tables, data):
    clean(tables, data)
    profiles = profile_rows(data, FIRST)
    tables.append(USER_PROFILES.name, profiles)
    waiting = judge_outcomes(objects, data, FIRST + WEEKS - timedelta(hours=1), [SPEND])
    assert waiting.closes == {"spend": FIRST + WEEKS}
    found = judge_outcomes(objects, data, FIRST + WEEKS, [SPEND])
    outcomes = judged(tables)
    assert found.judged == {("spend", FIRST): outcomes.height}
    assert outcomes.height == 2 * (profiles.height - 1)
    assert set(outcomes["source"]) == {"own_rate"}, "what made the forecast, not the profile"
    window = data.events_between(FIRST, FIRST + WEEKS).filter(event_type="purchase").collect()
    spent = {}
    for user, quantity, price in window.select("user_id", "quantity", "unit_price").rows():
        spent[user] = spent.get(user, 0.0) + quantity * (price or 0.0)
    by_user = {row["user_id"]: row for row in profiles.iter_rows(named=True)}
    assert spent, "nobody bought: the test shows nothing"
    for row in outcomes.iter_rows(named=True):
        mine, profile = spent.get(row["user_id"], 0.0), by_user[row["user_id"]]
        if row["target"] == "clv_expected":
            assert row["predicted"] == profile["clv_expected"]
            assert row["realised"] == pytest.approx(mine, abs=0.01)
        else:
            assert (row["target"], row["predicted"]) == ("clv_interval", 0.8)
            assert row["realised"] == (profile["clv_p10"] <= mine <= profile["clv_p90"])
    version = tables.version(PREDICTION_OUTCOMES.name)
    assert judge_outcomes(objects, data, FIRST + 2 * WEEKS, [SPEND]).judged == {}
    assert tables.version(PREDICTION_OUTCOMES.name) == version
    page = outcomes_page(outcomes.lazy(), found, FIRST + WEEKS)
    titles = [section.title for section in page.sections]
    assert titles == ["spend: clv_expected", "spend: clv_interval"]
    amounts, inside = page.sections
    assert amounts.rows[0][-2:] == ("error", "saved")
    assert inside.rows[1][4] == "0.8"
    assert len(inside.figures) == 1, "a constant has no curve"


def ad_events(*contacts: tuple[str, str, datetime]) -> pl.DataFrame:
    """clean_events of contacts (user, campaign, instant), each answered a day later."""
    day = timedelta(days=1)
    touches = [
        (user, campaign, at + n * day, kind)
        for user, campaign, at in contacts
        for n, kind in enumerate(("ad_impression", "coupon_redeem"))
    ]
    return pl.DataFrame(
        [
            {
                **dict.fromkeys(EVENTS.names),
                "event_id": f"{campaign}{n}",
                "user_id": user,
                "campaign_id": campaign,
                "event_time": at,
                "event_type": kind,
                "event_date": at.date(),
            }
            for n, (user, campaign, at, kind) in enumerate(touches)
        ],
        schema=EVENTS.polars_schema(),
    )


def test_a_campaign_whose_contacts_come_later_than_another_ones_is_judged_too(
    objects, tables, data
):
    ads = next(entry for entry in TASKS if entry.name == "ads")
    week = timedelta(weeks=1)
    campaigns = pl.DataFrame(
        [
            dict.fromkeys(CAMPAIGNS.names)
            | {"campaign_id": name, "start_at": FIRST + start * week, "end_at": FIRST + end * week}
            for name, start, end in (("early", 0, 2), ("late", 2, 4))
        ],
        schema=CAMPAIGNS.polars_schema(),
    )
    names = AD_PREDICTIONS.polars_schema()
    row = dict.fromkeys(names) | {
        "user_id": "u",
        "as_of": FIRST,
        "created_at": FIRST,
        "model_version": "v1",
        "source": "logistic",
        "p_response": 0.25,
        "response_type": "coupon_redeem",
    }
    both = [row | {"campaign_id": name} for name in ("early", "late")]
    tables.append(AD_PREDICTIONS.name, pl.DataFrame(both, schema=names))
    early = ad_events(("u", "early", FIRST + timedelta(days=1)))
    late = ad_events(("u", "late", FIRST + 2 * week))

    def judge_ads(events: pl.DataFrame, until: datetime) -> Round:
        known = replace(data, events=events.lazy(), campaigns=campaigns)
        return judge_outcomes(objects, known, until, [ads])

    tables.append(EVENTS.name, early, partition_by=EVENTS.partition_by)
    assert judge_ads(early, FIRST + week).closes == {"ads": FIRST + 2 * week}
    assert judge_ads(early, FIRST + 2 * week).closes == {"ads": FIRST + 4 * week}
    assert judged(tables)["campaign_id"].to_list() == ["early"]
    tables.append(EVENTS.name, late, partition_by=EVENTS.partition_by)
    assert judge_ads(pl.concat([early, late]), FIRST + 4 * week).closes == {}
    assert judged(tables)["campaign_id"].to_list() == ["early", "late"]


def test_outcomes_of_the_future_are_refused(objects, tables, data):
    clean(tables, data)
    publish(tables, data, FIRST)
    entry = replace(ENTRY, task="tests.tables.test_outcomes:Early")
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


@pytest.mark.slow
def test_the_asset_writes_table_page_and_plots(objects, server, tables, data, monkeypatch):
    from seq_assets.outcomes import prediction_outcomes
    from seq_assets.resources import Storage

    clean(tables, data)
    publish(tables, data, FIRST)
    cutoffs.record(tables, cutoffs.CutOffs(FIRST + timedelta(days=60), FIRST))
    for name, value in {
        "SEQLINE_BUCKET": objects.bucket,
        "AWS_ACCESS_KEY_ID": server.access_key,
        "AWS_SECRET_ACCESS_KEY": server.secret_key,
        "AWS_ENDPOINT_URL": str(server.endpoint),
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("seq_assets.outcomes.TASKS", (ENTRY,))
    done = dg.materialize(
        [prediction_outcomes],
        resources={"storage": Storage()},
        instance=dg.DagsterInstance.ephemeral(),
    )
    assert done.success
    metadata = done.asset_materializations_for_node("prediction_outcomes")[0].metadata
    assert metadata["dagster/row_count"].value == judged(tables).height > 0
    assert metadata["next_quiet"].value == (FIRST + timedelta(days=70)).isoformat()
    assert "data:image/svg+xml" in metadata["plot_quiet_p_churn"].value
    page = (home() / "site" / "reports" / "outcomes.html").read_text()
    assert metadata["verdict"].value.split(".")[0] in page
    said = page + "".join(str(value.value) for value in metadata.values())
    assert not [user for user in judged(tables)["user_id"] if user in said]


def outcome_rows(users: int, per_user: int, rate: float, predicted: float) -> pl.DataFrame:
    """Rows of PREDICTION_OUTCOMES: what happened is the same for all rows of a user."""
    happened = np.repeat(np.random.default_rng(0).random(users) < rate, per_user)
    n = users * per_user
    return pl.DataFrame(
        {
            "task": ["quiet"] * n,
            "table": "churn_predictions",
            "user_id": np.repeat([f"u{i:04}" for i in range(users)], per_user),
            "item_id": [f"i{i}" for i in range(n)],
            "store_id": pl.Series([None] * n, dtype=pl.String),
            "campaign_id": pl.Series([None] * n, dtype=pl.String),
            "label_def": "silence",
            "target": "p_churn",
            "as_of": FIRST,
            "model_version": "v1",
            "source": "logistic",
            "predicted": predicted,
            "realised": happened.astype(float),
            "window_end": FIRST + WEEKS,
            "judged_at": FIRST + WEEKS,
        }
    )


def test_the_summary_keeps_a_users_rows_together():
    one = summary(outcome_rows(400, 1, 0.3, 0.3).lazy()).row(0, named=True)
    many = summary(outcome_rows(400, 10, 0.3, 0.3).lazy()).row(0, named=True)
    assert one["realised"] == pytest.approx(many["realised"])
    assert one["difference"] == pytest.approx(one["realised"] - 0.3)
    error = np.sqrt(one["realised"] * (1 - one["realised"]) / 399)
    assert one["high"] - one["difference"] == pytest.approx(1.96 * error)
    assert many["high"] == pytest.approx(one["high"]), "ten rows of a user say no more than one"
    assert (many["rows"], many["units"]) == (4000, 400)
    assert one["held"]
    assert not summary(outcome_rows(400, 1, 0.3, 0.6).lazy())["held"].item()
    assert summary(outcome_rows(1, 3, 0.3, 0.3).lazy())["held"].item() is None


def test_predictions_that_differ_widely_but_rightly_have_a_narrow_interval():
    rng = np.random.default_rng(1)
    demand = rng.gamma(0.5, 100, 500)
    rows = outcome_rows(500, 1, 0.3, 0.3).with_columns(
        predicted=pl.Series(demand), realised=pl.Series(rng.poisson(demand).astype(float))
    )
    found = summary(rows.lazy()).row(0, named=True)
    assert found["held"]
    assert found["high"] - found["low"] < 0.1 * rows["realised"].std()
    short = summary(rows.with_columns(pl.col("realised") * 0.9).lazy())
    assert not short["held"].item(), "a tenth less is seen although items differ by hundreds"


def test_the_error_is_held_against_one_number_for_everybody():
    rng = np.random.default_rng(3)
    demand = rng.gamma(0.5, 100, 500)
    happened = demand + rng.normal(0, 10, 500)
    frame = outcome_rows(500, 1, 0.3, 0.3).with_columns(realised=pl.Series(happened))
    found = summary(frame.with_columns(predicted=pl.Series(demand)).lazy()).row(0, named=True)
    error = np.mean((happened - demand) ** 2)
    assert found["error"] == pytest.approx(np.sqrt(error))
    assert found["saved"] == pytest.approx(1 - error / np.mean((happened - demand.mean()) ** 2))
    assert found["saved_low"] < found["saved"] < found["saved_high"] < 1
    same = summary(frame.with_columns(predicted=demand.mean()).lazy()).row(0, named=True)
    assert same["saved"] == pytest.approx(0)
    wrong = frame.with_columns(predicted=pl.Series(rng.permutation(demand)))
    assert summary(wrong.lazy())["saved_high"].item() < 0, "worse than one number for everybody"
    exact = frame.with_columns(predicted=1.0, realised=pl.lit(1.0))
    assert summary(exact.lazy())["saved"].item() is None
    share = summary(frame.with_columns(target=pl.lit("clv_interval")).lazy()).row(0, named=True)
    assert (share["error"], share["saved"]) == (None, None)


def test_a_quantile_promises_a_share():
    rng = np.random.default_rng(2)
    happened = rng.poisson(3.0, 600).astype(float)
    frame = outcome_rows(600, 1, 0.3, 0.3).with_columns(
        target=pl.lit("demand_p90"), realised=pl.Series(happened)
    )
    right = summary(frame.with_columns(predicted=5.0).lazy()).row(0, named=True)
    assert right["predicted"] == 0.9
    assert right["realised"] == pytest.approx((happened <= 5).mean())
    assert right["held"]
    assert summary(frame.with_columns(predicted=50.0).lazy())["held"].item(), "more is no less"
    assert not summary(frame.with_columns(predicted=3.0).lazy())["held"].item()
    page = outcomes_page(frame.with_columns(predicted=5.0).lazy(), Round(), FIRST + WEEKS)
    assert html(page).count("<svg") == 1


@pytest.mark.slow
def test_the_page_says_whether_promises_held_and_names_nobody(objects, tables, data):
    clean(tables, data)
    empty = judge(objects, data, FIRST)
    page = outcomes_page(judged(tables).lazy(), empty, FIRST)
    assert page.headline == "Nothing to judge yet"
    publish(tables, data, FIRST)
    waiting = judge(objects, data, FIRST)
    page = outcomes_page(judged(tables).lazy(), waiting, FIRST)
    assert page.headline == "No window has passed yet"
    assert "2017-07-27" in page.verdict
    found = judge(objects, data, FIRST + 2 * WEEKS)
    text = html(outcomes_page(judged(tables).lazy(), found, FIRST + 2 * WEEKS))
    assert "newest predictions held on average" in text
    assert text.count("<svg") == 2
    assert "nan" not in text.lower()
    assert not [user for user in judged(tables)["user_id"] if user in text]
