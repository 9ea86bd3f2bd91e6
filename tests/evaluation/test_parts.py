"""Every part earns its place, all windows decide, and units are those of the claim."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import polars as pl
import pytest

from seq_ml.evaluation.backtest import backtest, published_name, verdict
from seq_ml.evaluation.report import report_page
from seq_ml.metrics.estimate import Estimate
from seq_ml.metrics.probabilities import binary_metrics
from seq_ml.pages.page import markdown
from seq_ml.tasks.models.binary import ColumnScore, LogisticModel
from tests.evaluation.test_backtest import AS_OF, START, WEEK, Toy, toy_examples


class Extended(Toy):
    """One model, and the same with something more."""

    def __init__(self, more: str) -> None:
        self.more = more

    def candidates(self):
        return [
            ColumnScore("by_noise", "noise"),
            LogisticModel("plain", ["x"]),
            LogisticModel("extended", ["x", self.more], extends=("plain",)),
        ]


def with_more(seed: int = 0, users: int = 300) -> pl.DataFrame:
    """Examples with a second column that says as much as the first, and one that says nothing."""
    examples = toy_examples(users, seed, signal=1.0)
    rng = np.random.default_rng(seed)
    hint = 2 * examples["label"].to_numpy() + rng.normal(size=examples.height)
    return examples.with_columns(hint=pl.Series(hint), luck=pl.Series(rng.normal(size=len(hint))))


def test_what_adds_something_is_published():
    result = backtest(Extended("hint"), with_more(), as_of=AS_OF, seed=1)
    assert result.published.name == "extended"
    (part,) = result.parts
    assert (part.name, part.without, part.earned) == ("extended", "plain", True)
    assert part.validation.low > 0
    assert part.test.low > 0


@pytest.mark.parametrize("seed", range(4))
def test_what_adds_nothing_is_not_even_where_it_looks_better(seed):
    task = Extended("luck")
    result = backtest(task, with_more(seed), as_of=AS_OF, seed=1)
    assert result.published.name == "plain"
    (part,) = result.parts
    assert not part.earned
    text = markdown(report_page(result, task))
    assert "What each part adds" in text
    assert part.validation.signed() in text
    assert part.test.signed() in text
    assert result.metrics_json()["parts"][0]["earned"] is False


@pytest.mark.parametrize(("of", "published"), [("hint", "extended"), ("luck", "plain")])
def test_an_encoder_that_saw_the_validation_window_is_judged_on_the_test_alone(of, published):
    task, saw = Extended("encoder"), START + 4 * WEEK
    examples = with_more().with_columns(encoder=of)
    if of == "luck":  # it knows the validation window by heart, and nothing else
        known = pl.when(split="validation").then(4 * pl.col("label")).otherwise("luck")
        examples = examples.with_columns(encoder=known)
    result = backtest(task, examples, as_of=AS_OF, seed=1, encoder_saw=saw)
    assert result.published.name == published
    for part in result.parts:
        assert (part.name, part.on) == ("extended", "test")
        assert np.isnan(part.validation.value), "what it has seen is no evidence"
    examples = with_more().with_columns(encoder=of)
    honest = backtest(task, examples, as_of=AS_OF, seed=1, encoder_saw=START)
    assert [part.on for part in honest.parts] == ["validation"]


SURE, UNSURE, WORSE = Estimate(0.2, 0.1, 0.3), Estimate(-0.1, -0.3, 0.1), Estimate(-0.2, -0.3, -0.1)


@pytest.mark.parametrize(
    ("newest", "pooled", "published", "said"),
    [
        (SURE, None, "m", "it beats the baseline 'b' by +0.2 roc_auc, 95 % interval [+0.1, +0.3]."),
        (UNSURE, SURE, "m", "over 3 windows; -0.1 in the newest."),
        (SURE, UNSURE, "b", "does not beat it beyond chance"),
        (WORSE, SURE, "b", "is worse than it beyond chance in the newest window"),
    ],
    ids=["no other window", "all decide", "one does not", "the newest may veto"],
)
def test_all_windows_decide_and_the_newest_may_veto(newest, pooled, published, said):
    assert published_name("m", "b", newest, pooled) == published
    roc_auc = binary_metrics()[0]
    assert said in verdict("m", "b", newest, roc_auc, pooled, 3)


class Campaigns(Toy):
    """The claim is about campaigns."""

    slices = ()

    def candidates(self):
        return [ColumnScore("by_noise", "noise"), LogisticModel("logistic", ["x"])]

    def cluster(self, examples):
        return examples["campaign_id"]


def in_campaigns(number: int) -> pl.DataFrame:
    examples = toy_examples(400)
    return examples.with_columns(campaign_id=pl.int_range(pl.len()) % number)


def test_of_one_campaign_alone_nothing_is_concluded():
    result = backtest(Campaigns(), in_campaigns(1), as_of=AS_OF, seed=1)
    assert result.published.name == "by_noise"
    assert "of too few to say how far that is chance" in result.verdict
    assert result.improvement is not None
    assert result.improvement.value > 0.2
    text = markdown(report_page(result, Campaigns()))
    assert "nan" not in text.lower()
    assert "1 campaign" in text


def test_of_few_campaigns_the_interval_is_that_of_few_and_of_many_that_of_the_users():
    widths = {}
    for number in (3, 40):
        result = backtest(Campaigns(), in_campaigns(number), as_of=AS_OF, seed=1)
        assert result.improvement is not None
        widths[number] = result.improvement.high - result.improvement.low
    users = backtest(Toy(), in_campaigns(3), as_of=AS_OF, seed=1).improvement
    assert users is not None
    assert widths[3] > 1.3 * (users.high - users.low)
    assert widths[40] < 1.6 * (users.high - users.low)


def test_weeks_are_drawn_in_spans_of_one_horizon():
    from seq_ml.tasks.inventory.metrics import week_blocks

    weeks = [START + timedelta(weeks=week) for week in (0, 1, 2, 3, 4, 0)]
    examples = pl.DataFrame({"origin": weeks}).with_columns(
        label_end=pl.col("origin") + timedelta(weeks=2)
    )
    assert week_blocks(examples).to_list() == [0, 0, 1, 1, 2, 0]
