"""Non-renewal: which contract is asked about, its label, no look ahead, the table, the refusals."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from functools import cache

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from seq_ml.business import Business, Churn
from seq_ml.evaluation.backtest import backtest
from seq_ml.evaluation.leakage import feature_time, fitted_statistics
from seq_ml.evaluation.walk_forward import walk_forward
from seq_ml.metrics.calibration import sigmoid
from seq_ml.schema import CHURN_PREDICTIONS, PREDICTION_OUTCOMES
from seq_ml.storage.contracts import check_key, conform
from seq_ml.tables.predict import predict_table
from seq_ml.tables.publish import stamp
from seq_ml.tasks import registered
from seq_ml.tasks.candidate import Champion
from seq_ml.tasks.churn.renewal import FEATURES, RenewalTask
from seq_ml.tasks.churn.terms import RENEWAL, chained
from seq_ml.tasks.models.rates import ShrunkenRate
from seq_ml.tasks.task import NotApplicableError, NotEnoughHistoryError, check_examples
from tests.tasks.churn.contracts import (
    AS_OF,
    DAY,
    MONTH,
    START,
    plays,
    subscribers,
    task_data,
    terms,
)
from tests.tasks.cut import cut_by, rows_of

TASK = RenewalTask()
ORIGIN = datetime(2024, 6, 1, tzinfo=UTC)


def term(user: str, start: int, end: int | None, **facts):
    """One term, in days from the origin."""
    until = None if end is None else ORIGIN + end * DAY
    return {"user_id": user, "started_at": ORIGIN + start * DAY, "renews_or_ends_at": until} | facts


def labelled(
    *rows, business: Business | None = None, by: datetime = ORIGIN + 90 * DAY
) -> dict[str, float]:
    """Labels of the window after the origin, by what is known `by` some day."""
    data = task_data(terms(*rows), business=business)
    chain = chained(data.terms_known(by))
    return dict(TASK.labels(data, chain, ORIGIN, 31).select("user_id", "label").iter_rows())


def test_the_label_is_no_next_term_within_the_grace():
    rows = [
        term("renewed", -20, 10), term("renewed", 10, 40),
        term("late", -20, 10), term("late", 17, 47),
        term("too late", -20, 10), term("too late", 18, 48),
        term("ended", -20, 10),
        term("cancelled", -20, 10, cancelled_at=ORIGIN + 2 * DAY),
        term("won back", -20, 10, cancelled_at=ORIGIN + 2 * DAY), term("won back", 12, 42),
        term("notice before", -20, 10, cancelled_at=ORIGIN - 1 * DAY),
        term("far", -20, 31),
        term("open-ended", -20, None),
        term("over", -50, -1),
        term("not yet", 0, 10),
    ]  # fmt: skip
    lost = {"renewed": 0, "late": 0, "too late": 1, "ended": 1, "cancelled": 1, "won back": 0}
    assert labelled(*rows) == lost
    patient = Business(churn=Churn(renewal_grace_days=8))
    assert labelled(*rows, business=patient) == {**lost, "too late": 0}


def test_terms_that_overlap_are_one_subscription_unless_they_have_ids():
    # An upgrade in mid-term replaces the old term: only the new date is asked about.
    assert labelled(term("up", -20, 10), term("up", -5, 25, plan="pro")) == {"up": 1}
    assert labelled(term("up", -20, 10), term("up", -5, 60, plan="pro")) == {}
    # One that comes later is not known yet: the old term is asked about, and goes on.
    assert labelled(term("up", -20, 10), term("up", 5, 60, plan="pro")) == {"up": 0}
    # Two side by side: the one that runs out first.
    two = [term("both", -20, 30, subscription_id="a"), term("both", -5, 25, subscription_id="b")]
    assert labelled(*two, term("both", 25, 55, subscription_id="b")) == {"both": 0}
    assert labelled(*two, term("both", 30, 60, subscription_id="a")) == {"both": 1}


def test_a_date_that_passed_without_a_later_term_is_lost_and_not_asked_about_again():
    rows = [term("over", -50, -3), term("asked", -20, 10)]
    assert labelled(*rows) == {"asked": 1}
    served = TASK.serving(task_data(terms(*rows)), ORIGIN).examples
    assert dict(served.select("user_id", "eligible").iter_rows()) == {"over": False, "asked": True}


def test_a_renewal_that_is_logged_late_counts_once_it_is_known():
    rows = [term("u", -20, 10), term("u", 10, 40, known_at=ORIGIN + 50 * DAY)]
    assert labelled(*rows, by=ORIGIN + 38 * DAY) == {"u": 1}
    assert labelled(*rows, by=ORIGIN + 51 * DAY) == {"u": 0}
    # Nor is the term that nobody knew of asked about, before or at its own date.
    then = ORIGIN + 20 * DAY
    assert not TASK.serving(task_data(terms(*rows)), then).examples["eligible"].any()
    assert TASK.serving(task_data(terms(*rows)), then).examples.equals(
        TASK.serving(task_data(terms(rows[0])), then).examples
    )


def test_a_date_that_moves_is_asked_about_where_it_lay_when_asked():
    first = term("u", -20, 10)
    moved = {"known_at": ORIGIN + 5 * DAY}
    assert labelled(first, term("u", -20, 40, **moved)) == {"u": 0}, "it goes on"
    assert labelled(first, term("u", -20, 15, **moved)) == {"u": 1}, "within the grace: it ends"
    assert labelled(first, term("u", -20, 7, **moved)) == {"u": 1}, "earlier than was agreed"
    assert labelled(first, term("u", -20, None, **moved)) == {"u": 0}, "open-ended by now"
    known = {"known_at": ORIGIN - 5 * DAY}
    assert labelled(first, term("u", -20, 40, **known)) == {}, "it does not run out any more"
    assert labelled(first, term("u", -20, 20, **known), term("u", 20, 50)) == {"u": 0}
    data = task_data(terms(first, term("u", -20, 20, **known), term("u", -20, 30, **moved)))
    served = TASK.serving(data, ORIGIN).examples
    assert served["days_to_renewal"].to_list() == [20]


def test_features_count_what_they_say():
    data = task_data(
        terms(
            term("u", -100, -40, price=10.0),
            term("u", -40, 20, price=15.0),
            term("free", -100, -40, price=0.0),
            term("free", -40, 20, price=5.0),
        )
    )
    served = TASK.serving(data, ORIGIN).examples
    assert served["eligible"].all()
    by_user = {row["user_id"]: row for row in served.to_dicts()}
    u = by_user["u"]
    assert (u["tenure_days"], u["terms_so_far"], u["term_days"]) == (100, 2, 60)
    assert (u["days_to_renewal"], u["price"], u[RENEWAL]) == (20, 15.0, "renewal 2")
    assert u["price_change"] == pytest.approx(0.405, abs=1e-3)
    assert u["other_events_window"] == 0, "no event at all"
    assert by_user["free"]["price_change"] is None
    # u and free were renewed: no one of two was lost.
    assert u["plan_logit"] < 0


def test_the_rate_of_a_plan_is_the_one_that_the_baseline_has():
    """What a handful of contracts say of a plan is drawn to all in one way only."""
    gone = [term(f"{plan}{n}", -40, -20, plan=plan) for plan, lost in (("a", 9), ("b", 2))
            for n in range(lost)]  # fmt: skip
    here = [row for plan, kept in (("a", 3), ("b", 12)) for n in range(kept)
            for row in (term(f"{plan}x{n}", -40, -20, plan=plan),
                        term(f"{plan}x{n}", -20, 10, plan=plan))]  # fmt: skip
    data = task_data(terms(*gone, *here))
    served = TASK.serving(data, ORIGIN).examples.drop_nulls("plan").unique("plan").sort("plan")
    fates = [1] * 9 + [0] * 3 + [1] * 2 + [0] * 12
    closed = pl.DataFrame({"plan": ["a"] * 12 + ["b"] * 14, "label": fates})
    rate = ShrunkenRate("plan_rate", "plan", "")
    rate.fit(closed)
    assert sigmoid(served["plan_logit"].to_numpy()) == pytest.approx(rate.predict(served))
    assert rate.rates["a"] < 9 / 12, "drawn to the others"


@cache
def judged():
    data = subscribers(400)
    examples = TASK.examples(data, AS_OF)
    return data, examples, backtest(TASK, examples, as_of=AS_OF, seed=7)


def test_examples_obey_the_temporal_rule_and_ask_every_contract_once():
    data, examples, result = judged()
    check_examples(examples, TASK, AS_OF)
    assert set(examples["split"]) == {"fit", "validation", "embargo", "test"}
    assert set(FEATURES) < set(examples.columns)
    assert examples.select("user_id", "renews_or_ends_at").is_unique().all()
    assert feature_time(TASK, data, examples, AS_OF) == ""
    assert fitted_statistics(TASK, examples, result, seed=7) == ""


def test_no_feature_knows_a_notice_or_a_term_at_or_after_its_origin():
    data, *_ = judged()
    origin = AS_OF - 100 * DAY
    before = data.subscriptions.filter(pl.col("started_at") < origin).with_columns(
        cancelled_at=pl.when(pl.col("cancelled_at") < origin).then("cancelled_at")
    )
    cut = task_data(before, data.events.filter(pl.col("event_time") < origin).collect())
    assert TASK.serving(data, origin).examples.equals(TASK.serving(cut, origin).examples)


def test_use_beats_the_rate_of_the_plan_and_the_hazard_of_the_tenure():
    data, examples, result = judged()
    assert result.baseline in {"plan_rate", "tenure_hazard", "base_rate"}
    assert result.published.name in {"trees", "logistic"}
    assert not result.published.is_baseline
    folds = walk_forward(TASK, data, result, examples, seed=7).walk_forward
    assert len(folds) == 2
    titles = [section.title for section in TASK.sections(data, result)]
    assert titles == ["Calibration before and after recalibration", "Which reasons lead"]


def published(name: str | None = None) -> pl.DataFrame:
    """Rows by the champion, or by a candidate fitted on everything."""
    data, examples, result = judged()
    model = result.published
    if name is not None:
        model = next(c for c in TASK.candidates() if c.name == name)
        model.fit(examples)
    rows = TASK.rows(data, AS_OF, TASK.serving(data, AS_OF), Champion(model, "v"))
    stamped = stamp(rows, AS_OF, version="v", source=model.name, run_id="r")
    table = conform(stamped, CHURN_PREDICTIONS)
    check_key(table, CHURN_PREDICTIONS)
    return table


def test_rows_fit_the_contract_and_speak_of_renewals():
    data, *_ = judged()
    rows = published()
    assert rows.height == data.subscriptions["user_id"].n_unique()
    asked, others = rows.filter("eligible"), rows.filter(~pl.col("eligible"))
    assert asked.height > 100
    assert others["p_churn"].null_count() == others.height
    for name in ("expected_orders", "expected_spend", "value_at_risk", "next_order_date"):
        assert others[name].count() == 0, name
    price = asked["value_at_risk"] / asked["p_churn"]
    assert set(price.round(2)) == {9.0, 29.0}
    renewals = 1 - asked["p_churn"]
    assert (asked["expected_orders"] - renewals).abs().max() < 1e-6
    assert (asked["expected_spend"] - renewals * price).abs().max() < 1e-4
    days = asked["next_order_date"]
    assert days.min() >= AS_OF.date()
    assert days.max() < (AS_OF + 31 * DAY).date()
    assert set(asked["risk_band"]) <= {"low", "medium", "high"}
    assert asked["top_reasons"].list.len().min() == 3


@pytest.mark.parametrize("name", ["plan_rate", "base_rate"])
def test_a_rate_can_be_published_too(name: str):
    asked = published(name).filter("eligible")
    assert asked["p_churn"].is_between(0.01, 0.5).all()
    assert asked["p_churn"].n_unique() == (2 if name == "plan_rate" else 1)
    reasons = asked["top_reasons"].to_list()[0]
    assert [one["feature"] for one in reasons] == (["plan"] if name == "plan_rate" else [])


def test_rows_of_some_users_at_a_time_are_those_of_all_at_once(monkeypatch):
    """Some parts have no contract at all."""
    data, examples, _ = judged()
    numbers = pl.col("user_id").str.slice(1).str.to_integer() * 2_654_435_761 % 2**32
    hashed = numbers.map_elements(lambda n: f"{n:08x}", return_dtype=pl.String)
    used = plays([(f"u{n:04d}", AS_OF - 5 * DAY) for n in range(400, 1200)])
    data = replace(
        data,
        events=pl.concat([data.events, used.lazy()]).with_columns(user_id=hashed),
        subscriptions=data.subscriptions.filter(numbers % 64 != 7).with_columns(user_id=hashed),
    )
    model = next(c for c in TASK.candidates() if c.name == "logistic_terms")
    model.fit(examples)
    whole = rows_of(TASK, replace(data), AS_OF, Champion(model, "v"))
    assert whole.height > 300
    cut_by(20, monkeypatch)
    assert replace(data).shard_count == 64
    assert_frame_equal(rows_of(TASK, replace(data), AS_OF, Champion(model, "v")), whole)


def test_outcomes_say_who_did_not_renew_once_the_grace_is_over():
    data, examples, _ = judged()
    before = AS_OF - 38 * DAY
    model = next(c for c in TASK.candidates() if c.name == "plan_rate")
    model.fit(examples.filter(pl.col("label_end") <= before))
    rows = TASK.rows(data, before, TASK.serving(data, before), Champion(model, "v"))
    rows = stamp(rows, before, version="v", source="plan_rate", run_id="r")
    assert TASK.outcomes(data, rows, AS_OF - 1 * DAY).is_empty()
    found = TASK.outcomes(data, rows, AS_OF)
    truth = examples.filter(split="test").select("user_id", "label").sort("user_id")
    assert found.select("user_id", "realised").rows() == truth.rows()
    assert set(found["window_end"]) == {AS_OF} == set(TASK.window_ends(data, rows))
    assert set(found.columns) <= {*PREDICTION_OUTCOMES.names, "horizon_days"}


def test_nobody_who_dropped_no_subscriptions_is_told_that_something_is_missing():
    data = task_data(terms().clear())
    with pytest.raises(NotApplicableError, match="no subscriptions were dropped"):
        TASK.examples(data, AS_OF)
    entry = next(e for e in registered.TASKS if e.name == TASK.name)
    assert not entry.applies(data)
    assert entry.lacking(pl.LazyFrame(schema=CHURN_PREDICTIONS.polars_schema()), data, AS_OF) == {
        "users": 0
    }


def test_a_table_has_no_word_of_a_task_that_nobody_asked_for(objects, tmp_path):
    data = task_data(terms().clear())
    missing = predict_table(
        objects, CHURN_PREDICTIONS, lambda _: data, AS_OF, "r", tmp_path
    ).missing
    assert set(missing) == {"churn_silence", "churn_decline"}
    data = subscribers(5)
    missing = predict_table(
        objects, CHURN_PREDICTIONS, lambda _: data, AS_OF, "r", tmp_path
    ).missing
    assert "churn_non_renewal" in missing


def test_it_refuses_with_what_is_lacking():
    never = terms({"user_id": "u", "started_at": START}, {"user_id": "v", "started_at": START})
    with pytest.raises(NotEnoughHistoryError, match="all 2 that began before 2025-03-01 are"):
        TASK.examples(task_data(never), AS_OF)
    young = terms(
        {"user_id": "u", "started_at": AS_OF - MONTH, "renews_or_ends_at": AS_OF - 1 * DAY}
    )
    with pytest.raises(NotEnoughHistoryError, match="needs contracts of 76 days before 2025-03-01"):
        TASK.examples(task_data(young), AS_OF)
    ended = terms(
        {"user_id": "u", "started_at": START, "renews_or_ends_at": START + MONTH},
        {"user_id": "v", "started_at": START, "renews_or_ends_at": START + 30 * MONTH},
    )
    with pytest.raises(NotEnoughHistoryError, match="no contract without notice ran out in the ne"):
        TASK.examples(task_data(ended), AS_OF)
    # One row a subscription, whose date an export moves without saying when: the past is gone.
    moving = terms(
        *({"user_id": f"left {n}", "started_at": START, "renews_or_ends_at": START + n * MONTH}
          for n in range(1, 15)),
        *({"user_id": f"here {n}", "started_at": START, "renews_or_ends_at": AS_OF + n * DAY}
          for n in range(1, 30)),
    )  # fmt: skip
    with pytest.raises(
        NotEnoughHistoryError, match="contracts that ran out was renewed: log a ren"
    ):
        TASK.examples(task_data(moving), AS_OF)
