"""The page of outcomes: whether promises held, with intervals over users, nobody named."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from seq_ml.pages.page import html
from seq_ml.tables.outcomes import Round
from seq_ml.tables.outcomes_page import outcomes_page
from seq_ml.tables.outcomes_summary import summary
from tests.tables.quiet import FIRST, WEEKS, clean, judge, judged, publish


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
