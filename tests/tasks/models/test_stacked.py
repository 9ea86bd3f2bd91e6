"""A stack takes what predictions add, keeps the model where they add nothing, and says so."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from seq_ml.evaluation.backtest import backtest
from seq_ml.evaluation.report import report_page
from seq_ml.metrics.calibration import logit, sigmoid
from seq_ml.pages.page import markdown
from seq_ml.tasks.models.binary import ColumnScore, LogisticModel
from seq_ml.tasks.models.recalibrated import Recalibrated
from seq_ml.tasks.models.stacked import RIDGE, Stacked, ridge
from seq_ml.tasks.task import NotEnoughHistoryError
from tests.evaluation.test_backtest import AS_OF, START, WEEK, Toy, toy_examples


def stacked() -> Stacked:
    return Stacked("stacked", Recalibrated(LogisticModel("plain", ["x"])), ["q"], "The stack.")


def foretold(truth: bool, seed: int = 0, users: int = 400) -> pl.DataFrame:
    """Toy examples with a probability of the label: one that knows more than `x`, or a rumour."""
    examples = toy_examples(users, seed, signal=1.0)
    rng = np.random.default_rng(seed)
    hint = 2.0 * truth * (examples["label"].to_numpy() - 0.5) + rng.normal(size=examples.height)
    return examples.with_columns(q=pl.Series(sigmoid(hint - 1)))


class Foretold(Toy):
    """The model alone, and with the predictions."""

    def candidates(self):
        tabular = Recalibrated(LogisticModel("plain", ["x"]))
        return [ColumnScore("by_noise", "noise"), tabular, Stacked("stacked", tabular, ["q"], "S.")]


@pytest.mark.parametrize(("truth", "published"), [(True, "stacked"), (False, "plain")])
def test_predictions_are_published_only_where_they_add_something(truth, published):
    result = backtest(Foretold(), foretold(truth), as_of=AS_OF, seed=1)
    assert result.published.name == published
    (part,) = result.parts
    assert (part.name, part.without, part.on) == ("stacked", "plain", "validation")
    text = markdown(report_page(result, Foretold()))
    for increment in (part.validation, part.test):
        assert increment.signed() in text, "also where it is refused"


def test_rows_without_predictions_keep_the_probability_of_the_model():
    examples = foretold(truth=True)
    late = pl.col("origin") >= START + WEEK
    some = examples.with_columns(q=pl.when(late).then("q"))
    model = stacked()
    model.fit(some)
    p, alone = model.predict(some), model.model.predict(some)
    known = some["q"].is_not_null().to_numpy()
    assert np.array_equal(p[~known], alone[~known])
    assert (p[known] != alone[known]).all()
    effects = model.contributions(some)
    assert set(effects) == {"x", "q"}
    assert not effects["q"][~known].any()
    moved = logit(p[known]) - sum(effect[known] for effect in effects.values())
    assert np.ptp(moved) < 1e-6, "effects add up in log-odds"


@pytest.mark.parametrize("lacking", ["column", "values"])
def test_without_predictions_there_is_no_stack(lacking):
    examples = foretold(truth=True)
    nothing = pl.lit(None, dtype=pl.Float64)
    examples = examples.drop("q") if lacking == "column" else examples.with_columns(q=nothing)
    result = backtest(Foretold(), examples, as_of=AS_OF, seed=1)
    assert result.published.name == "plain"
    (left_out,) = [c.left_out for c in result.candidates if c.name == "stacked"]
    assert ("there is no q" if lacking == "column" else "too few to learn from") in left_out
    with pytest.raises(NotEnoughHistoryError):
        stacked().fit(examples)


def test_a_stack_is_the_same_after_it_was_kept():
    examples = foretold(truth=True)
    model, again = stacked(), stacked()
    model.fit(examples)
    again.restore(model.state())
    assert np.array_equal(again.predict(examples), model.predict(examples))
    one = examples.head(1)
    assert np.array_equal(model.predict(one), model.predict(examples)[:1])


def test_the_ridge_pulls_towards_the_model_as_it_is():
    rng = np.random.default_rng(5)
    own, hint = rng.normal(size=(2, 4000))
    label = (rng.random(4000) < sigmoid(0.3 + own + 0.5 * hint)).astype(float)
    columns = np.column_stack([own, hint])
    intercept, more, weight = ridge(columns, own, label)
    assert (intercept, more, weight) == pytest.approx((0.3, 0.0, 0.5), abs=0.1)
    few = ridge(columns[:40], own[:40], label[:40])
    assert abs(few[2]) < 0.3, f"the penalty {RIDGE} outweighs forty rows"
    assert ridge(np.column_stack([own, np.full(4000, 2.0)]), own, label)[2] == 0.0
