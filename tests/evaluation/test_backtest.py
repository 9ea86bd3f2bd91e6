"""Metrics against scikit-learn, the bootstrap, calibration, and the protocol of the backtest."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import polars as pl
import pytest

from seq_ml.evaluation.backtest import backtest
from seq_ml.evaluation.report import report_page
from seq_ml.metrics.bootstrap import bootstrap
from seq_ml.metrics.calibration import Platt, reliability
from seq_ml.metrics.metric import Metric
from seq_ml.metrics.probabilities import binary_metrics
from seq_ml.pages.page import html
from seq_ml.schema import CHURN_PREDICTIONS
from seq_ml.tasks.models.binary import Blend, BoostedTrees, ColumnScore, LogisticModel
from seq_ml.tasks.models.explain import top_reasons
from seq_ml.tasks.models.recalibrated import Recalibrated
from seq_ml.tasks.models.stacked import Stacked
from seq_ml.tasks.task import NotEnoughHistoryError, Task

START = datetime(2024, 1, 1, tzinfo=UTC)
WEEK = timedelta(days=7)
AS_OF = START + 5 * WEEK


class Toy(Task):
    """Label depends on `x`; `noise` says nothing."""

    name = "toy"
    title = "Toy <task>"
    table = CHURN_PREDICTIONS
    key = ("user_id",)
    unit = "user_id"
    primary_metric = "roc_auc"
    slices = ("group",)
    limits = ("It is a toy.",)

    def __init__(self, models: list[Any] | None = None) -> None:
        self.models = models

    def examples(self, data, as_of):
        raise NotImplementedError

    def serving(self, data, as_of, units=None):
        raise NotImplementedError

    def candidates(self):
        return [
            ColumnScore("by_noise", "noise", "Nothing but noise."),
            LogisticModel("logistic", ["x", "noise"]),
            BoostedTrees("trees", ["x", "noise"], rounds=20),
            Stacked("stacked", Recalibrated(LogisticModel("plain", ["x"])), ["sequence_p"], "S."),
        ]

    def metrics(self):
        return binary_metrics()

    def rows(self, data, as_of, serving, champion):
        raise NotImplementedError


def toy_examples(users: int = 150, seed: int = 0, signal: float = 2.0) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    frames = []
    for week, split in enumerate(("fit", "fit", "embargo", "validation", "test")):
        late = timedelta(days=1 if split == "embargo" else 0)  # overlaps validation
        x, noise = rng.normal(size=users), rng.normal(size=users)
        frames.append(
            pl.DataFrame(
                {
                    "user_id": [f"u{i:03}" for i in range(users)],
                    "split": split,
                    "origin": START + week * WEEK + late,
                    "label_end": START + (week + 1) * WEEK + late,
                    "x": x,
                    "noise": noise,
                    "group": np.where(noise > 0, "up", "down"),
                    "label": (rng.random(users) < 1 / (1 + np.exp(-signal * x))).astype(float),
                }
            )
        )
    return pl.concat(frames)


# --- calibration and bootstrap --------------------------------------------------------------------


def test_platt_finds_the_curve_and_keeps_the_mean():
    rng = np.random.default_rng(0)
    score = rng.normal(40, 20, 20_000)
    label = (rng.random(20_000) < 1 / (1 + np.exp(-(0.1 * score - 5)))).astype(float)
    platt = Platt()
    platt.fit(score, label)
    assert platt.slope == pytest.approx(0.1, abs=0.01)
    assert platt.predict(score).mean() == pytest.approx(label.mean(), abs=1e-3)
    assert Platt(**platt.state()).predict(score).tobytes() == platt.predict(score).tobytes()


def test_reliability_covers_every_example():
    bins = reliability(np.array([0.0, 1.0] * 50), np.linspace(0, 1, 100))
    assert sum(b.examples for b in bins) == 100
    assert [b.predicted for b in bins] == sorted(b.predicted for b in bins)


def _mean(examples, predictions):
    return pl.DataFrame({"unit": examples["user_id"], "value": predictions})


def test_bootstrap_of_a_mean_matches_its_standard_error_both_ways():
    rng = np.random.default_rng(3)
    values = rng.normal(size=400)
    examples = pl.DataFrame({"user_id": [f"u{i}" for i in range(400)], "label": 0.0})
    both = [
        Metric("mean", True, _mean, per_unit=True),
        Metric("same", True, lambda _, p: float(p.mean())),
    ]
    draws = bootstrap(both, examples, {"a": values, "b": values + 1}, unit="user_id", seed=1)
    estimate = draws["a"]["mean"].estimate()
    error = values.std() / 20
    assert estimate.value == pytest.approx(values.mean())
    assert estimate.high - estimate.low == pytest.approx(2 * 1.96 * error, rel=0.15)
    np.testing.assert_allclose(draws["a"]["mean"].resampled, draws["a"]["same"].resampled)
    difference = draws["b"]["mean"].minus(draws["a"]["mean"])
    assert (difference.low, difference.high) == pytest.approx((1.0, 1.0)), "pairs share all noise"


def test_bootstrap_keeps_the_rows_of_a_unit_together():
    examples = pl.DataFrame({"user_id": ["a"] * 50 + ["b"] * 50, "label": 0.0})
    values = np.repeat([0.0, 1.0], 50)
    draws = bootstrap(
        [Metric("mean", True, lambda _, p: float(p.mean()))],
        examples,
        {"x": values},
        unit="user_id",
        seed=0,
    )
    assert set(np.round(draws["x"]["mean"].resampled, 6)) == {0.0, 0.5, 1.0}


# --- candidates -----------------------------------------------------------------------------------


def _foretold(examples: pl.DataFrame) -> pl.DataFrame:
    """Examples with holes in `x`, and with probabilities of another model, not of everybody."""
    p = pl.Series(np.random.default_rng(0).random(examples.height))
    row = pl.int_range(pl.len())
    return examples.with_columns(
        x=pl.when(row % 7 != 0).then("x"), sequence_p=pl.when(row % 5 != 0).then(p)
    )


@pytest.mark.parametrize(
    "make",
    [
        lambda: ColumnScore("c", "x"),
        lambda: LogisticModel("l", ["x", "noise"]),
        lambda: BoostedTrees("t", ["x", "sequence_p"], rounds=10),
        lambda: Stacked("s", Recalibrated(LogisticModel("l", ["x"])), ["sequence_p"], "S."),
        lambda: Blend("b", [LogisticModel("l", ["x"]), BoostedTrees("t", ["x"], rounds=10)]),
    ],
)
def test_a_restored_candidate_predicts_bit_for_bit(make):
    examples = _foretold(toy_examples())
    model = make()
    model.fit(examples)
    again = make()
    again.restore(json.loads(json.dumps(model.state(), allow_nan=False)))
    before = model.predict(examples)
    assert again.predict(examples).tobytes() == before.tobytes()
    assert again.predict(examples[10:11])[0] == before[10], "alone or among others: the same"
    assert ((before > 0) & (before < 1)).all()
    second = make()
    second.fit(examples)
    assert second.state() == model.state()


def test_reasons_add_up_to_the_prediction():
    examples = _foretold(toy_examples())
    model = LogisticModel("l", ["x", "noise", "sequence_p"])
    model.fit(examples)
    effects = model.contributions(examples)
    p = model.predict(examples)
    np.testing.assert_allclose(
        sum(effects.values()) + model.intercept, np.log(p / (1 - p)), rtol=1e-8
    )
    reasons = top_reasons(model, examples)
    assert len(reasons) == examples.height
    assert {r["feature"] for row in reasons for r in row} <= {"x", "noise", "sequence_p"}
    assert all(abs(a["effect"]) >= abs(b["effect"]) for a, b, _ in reasons)


def test_too_few_of_a_class_is_said():
    examples = toy_examples().with_columns(label=pl.lit(0.0))
    with pytest.raises(NotEnoughHistoryError, match="0 positives"):
        LogisticModel("l", ["x"]).fit(examples)


# --- the protocol ---------------------------------------------------------------------------------


def test_the_model_wins_where_there_is_something_to_learn():
    result = backtest(Toy(), toy_examples(), as_of=AS_OF, seed=1)
    assert result.model in ("logistic", "trees")
    assert result.published.name == result.model
    assert result.improvement is not None
    assert result.improvement.low > 0
    left_out = {c.name: c.left_out for c in result.candidates if c.left_out}
    assert list(left_out) == ["stacked"]
    assert set(result.windows) == {"fit", "embargo", "validation", "test"}
    assert {s.value for s in result.slices} == {"up", "down"}
    assert json.loads(json.dumps(result.metrics_json(), allow_nan=False))


def test_many_rows_of_few_units_are_no_slice():
    examples = toy_examples()
    later = pl.duration(minutes=1 + pl.int_range(100))
    of_one = examples.filter(split="test").sample(100, with_replacement=True, seed=1)
    of_one = of_one.with_columns(
        origin=pl.col("origin") + later, user_id=pl.lit("u000"), group=pl.lit("one")
    )
    result = backtest(Toy(), pl.concat([examples, of_one]), as_of=AS_OF, seed=1)
    assert {s.value for s in result.slices} == {"up", "down"}, "one user has no interval"


def test_the_baseline_is_published_where_there_is_nothing_to_learn():
    result = backtest(Toy(), toy_examples(signal=0.0), as_of=AS_OF, seed=1)
    assert result.published.name == "by_noise"
    assert "baseline 'by_noise' wins" in result.verdict


def test_a_test_window_of_one_class_says_so():
    one_class = pl.when(pl.col("split") == "test").then(0.0).otherwise("label")
    result = backtest(Toy(), toy_examples().with_columns(label=one_class), as_of=AS_OF, seed=1)
    assert result.published.is_baseline
    assert result.verdict.endswith(f"as {Toy.primary_metric} is not defined there.")
    assert json.loads(json.dumps(result.metrics_json(), allow_nan=False))
    assert "nan" not in html(report_page(result, Toy())).lower()


def test_results_of_the_test_window_do_not_reach_a_fitted_candidate():
    examples = toy_examples()
    is_test = pl.col("split") == "test"
    other = examples.with_columns(
        label=pl.when(is_test).then(1 - pl.col("label")).otherwise("label"),
        x=pl.when(is_test).then(pl.col("x") * 3 + 1).otherwise("x"),
    )
    one, two = (backtest(Toy(), e, as_of=AS_OF, seed=1) for e in (examples, other))
    assert [c.validation for c in one.candidates] == [c.validation for c in two.candidates]
    assert (one.model, one.baseline) == (two.model, two.baseline)
    before = examples.filter(~is_test)
    chosen = {c.name: c for c in Toy().candidates()}[one.published.name]
    chosen.fit(before)
    assert one.published.state() == chosen.state()


def test_the_order_of_the_rows_and_a_trip_through_a_table_change_nothing():
    examples = _foretold(toy_examples())
    stored = examples.sample(fraction=1.0, shuffle=True, seed=3)
    one, two = (backtest(Toy(), e, as_of=AS_OF, seed=1) for e in (examples, stored))
    assert one.metrics_json() == two.metrics_json()
    assert not [c for c in one.candidates if c.left_out]


def test_without_validation_the_choice_is_made_on_other_users_and_said():
    examples = toy_examples().filter(pl.col("split").is_in(["fit", "test"]))
    result = backtest(Toy(), examples, as_of=AS_OF, seed=1)
    assert "other half of the user_ids" in result.selection
    assert result.improvement is not None


def test_the_temporal_rule_is_enforced():
    examples = toy_examples()
    with pytest.raises(ValueError, match="ends after as_of"):
        backtest(Toy(), examples, as_of=AS_OF - WEEK, seed=1)
    late = examples.with_columns(
        label_end=pl.when(split="embargo").then(START + 5 * WEEK).otherwise("label_end")
    )
    with pytest.raises(ValueError, match="of 'embargo' ends"):
        backtest(Toy(), late, as_of=AS_OF, seed=1)
    late = examples.filter(pl.col("split") != "validation").with_columns(
        label_end=pl.when(split="fit").then(START + 5 * WEEK).otherwise("label_end")
    )
    with pytest.raises(ValueError, match="of 'fit' ends"):
        backtest(Toy(), late, as_of=AS_OF, seed=1)
    with pytest.raises(NotEnoughHistoryError, match="no 'test' examples"):
        backtest(Toy(), examples.filter(pl.col("split") != "test"), as_of=AS_OF, seed=1)
