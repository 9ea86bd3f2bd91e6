"""Few users: what may compete, what is published, what is refused; and intervals that are wide."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from seq_ml.evaluation.backtest import backtest
from seq_ml.metrics.bootstrap import bootstrap, mean_estimate
from seq_ml.metrics.estimate import FEW, Draws
from seq_ml.metrics.probabilities import binary_metrics
from seq_ml.tasks.churn.value import decile
from seq_ml.tasks.models.binary import BoostedTrees, ColumnScore, LogisticModel
from seq_ml.tasks.models.rates import ShrunkenRate
from seq_ml.tasks.task import NotEnoughHistoryError
from tests.evaluation.test_backtest import AS_OF, Toy, toy_examples

FEATURES = ("x", "noise", "recency", "orders", "spend")


class Small(Toy):
    """A customer base of two hundred: rates, one column, three, all, and trees."""

    def candidates(self):
        return [
            ColumnScore("by_x", "x", "One column."),
            ShrunkenRate("base_rate", None, "The same for everybody."),
            LogisticModel("three", FEATURES[:3]),
            LogisticModel("all", (*FEATURES, "one_more")),
            BoostedTrees("trees", FEATURES, rounds=20),
        ]


def customers(churners: int, users: int = 200) -> pl.DataFrame:
    """The same few churn, told by x, in every window: so many users, whatever the rows."""
    examples = toy_examples(users)
    number = examples["user_id"].str.slice(1).cast(pl.Int64)
    label = (number < churners).cast(pl.Float64)
    rng = np.random.default_rng(3)
    more = {name: rng.normal(size=examples.height) for name in (*FEATURES[2:], "one_more")}
    return examples.with_columns(
        label=label, x=2 * label + rng.normal(size=examples.height), **more
    )


@pytest.mark.parametrize(
    ("churners", "compete"),
    [
        (7, {"base_rate"}),
        (12, {"base_rate", "by_x"}),
        (30, {"base_rate", "by_x", "three"}),
        (60, {"base_rate", "by_x", "three", "all"}),
        (100, {"base_rate", "by_x", "three", "all", "trees"}),
    ],
)
def test_what_may_compete_follows_from_the_users_of_the_rarer_class(churners, compete):
    result = backtest(Small(), customers(churners), as_of=AS_OF, seed=7)
    assert {c.name for c in result.candidates if not c.left_out} == compete
    left_out = {c.name: c.left_out for c in result.candidates if c.left_out}
    if "trees" in left_out:
        assert left_out["trees"] == (
            f"trees: {churners} users with a positive label and {200 - churners} with a negative "
            "one are too few to learn from; it needs 100 of either"
        )
    if compete == {"base_rate"}:
        assert result.verdict == (
            "The baseline 'base_rate' wins: no model could be fitted: three: 7 users with "
            "a positive label and 193 with a negative one are too few to learn from; it needs 30 "
            "of either."
        )
        p = result.predictions["base_rate"]
        assert p.tolist() == pytest.approx([7 / 200] * 200, rel=0.05)


def test_below_five_the_refusal_names_the_minimum():
    said = (
        "toy: no baseline could be fitted: base_rate: 4 users with a positive label and 196 with a "
        "negative one are too few to learn from; it needs 5 of either."
    )
    with pytest.raises(NotEnoughHistoryError) as refusal:
        backtest(Small(), customers(4), as_of=AS_OF, seed=7)
    assert str(refusal.value) == said


def test_a_rate_of_few_is_drawn_to_the_common_one():
    rng = np.random.default_rng(5)
    n = {"a": 2000, "b": 2000, "c": 8}
    truth = {"a": 0.1, "b": 0.3, "c": 0.2}
    rows = [(g, float(rng.random() < truth[g])) for g in n for _ in range(n[g])]
    examples = pl.DataFrame(rows, schema=["plan", "label"], orient="row").with_columns(
        label=pl.when(plan="c").then(1.0).otherwise("label")  # all eight of them
    )
    model = ShrunkenRate("plan_rate", "plan", "The plan's rate.")
    model.fit(examples)
    asked = pl.DataFrame({"plan": ["a", "b", "c", "new", None]})
    a, b, c, new, none = model.predict(asked)
    assert a == pytest.approx(0.1, abs=0.02)
    assert b == pytest.approx(0.3, abs=0.03)
    assert 0.3 < c < 0.9, "eight of eight is not certain"
    assert new == none == model.pooled
    again = ShrunkenRate("plan_rate", "plan", "")
    again.restore(model.state())
    assert again.predict(asked).tolist() == [a, b, c, new, none]
    # Groups that differ no more than by chance have one rate.
    alike = examples.with_columns(label=pl.Series(rng.permutation(examples["label"].to_numpy())))
    model.fit(alike)
    assert np.ptp(model.predict(asked)) < 0.02


def test_intervals_of_few_hold_the_truth_as_often_as_they_say():
    """Means of eight skewed values, 300 times: plain percentiles hold it in far fewer than 95 %."""
    rng = np.random.default_rng(11)
    held, plain = 0, 0
    for seed in range(300):
        values = rng.gamma(4.0, size=8)
        found = mean_estimate(values, seed=seed, resamples=200)
        held += found.low <= 4.0 <= found.high
        draws = rng.choice(values, (200, 8)).mean(axis=1)
        bare = Draws(float(values.mean()), draws).estimate()
        plain += bare.low <= 4.0 <= bare.high
    assert plain / 300 < 0.92
    assert held / 300 > 0.93


def test_the_rarer_class_says_how_wide_an_interval_is():
    rng = np.random.default_rng(2)
    auc = binary_metrics()[:1]
    for positives in (6, FEW):
        label = (np.arange(400) < positives).astype(float)
        examples = pl.DataFrame({"user_id": np.arange(400), "label": label})
        p = {"model": 1 / (1 + np.exp(-label - rng.normal(size=400)))}
        draws = bootstrap(auc, examples, p, unit="user_id", seed=7)["model"]["roc_auc"]
        assert draws.units == positives
        wide, bare = draws.estimate(), Draws(draws.value, draws.resampled).estimate()
        wider = (wide.high - wide.low) / (bare.high - bare.low)
        assert (wider > 1.15) == (positives < FEW)
        assert (wider == 1) == (positives == FEW)


def test_equal_probabilities_stand_in_one_decile():
    frame = pl.DataFrame({"p": [0.3] * 200 + [None]})
    assert frame.select(decile(pl.col("p"))).to_series().unique().to_list() == [None, 5]
    frame = pl.DataFrame({"p": np.linspace(0.01, 0.99, 200)})
    assert frame.select(decile(pl.col("p"))).to_series().value_counts()["count"].to_list() == (
        [20] * 10
    )
