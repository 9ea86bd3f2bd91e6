"""Leakage checks: the real tasks pass on real data, and every planted leak is refused."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cache

import numpy as np
import polars as pl
import pytest

from seq_assets.checks import LEAKS
from seq_ml.business import Business
from seq_ml.evaluation import leakage
from seq_ml.evaluation.backtest import backtest
from seq_ml.registry.rounds import LeakageError, find_leaks, judge, make_examples
from seq_ml.registry.versions import NoChampionError, champion_version
from seq_ml.tasks.behaviour.features import RECENCY
from seq_ml.tasks.churn.task import SilenceTask
from seq_ml.tasks.data import TaskData
from seq_ml.tasks.models.binary import ColumnScore
from seq_ml.tasks.registered import load_tasks, task_names
from seq_ml.tasks.task import NotEnoughHistoryError
from tests.data import AS_OF, journey
from tests.journeys.small_shops import monthly_terms

DAY = timedelta(days=1)


@cache
def data(items: int | None = None) -> TaskData:
    """60 households; with `items` only what they bought of so many items."""
    frames = journey(households=60)
    events = frames["clean_events"]
    if items is not None:
        often = events["item_id"].drop_nulls().value_counts().sort("count", "item_id")
        events = events.filter(pl.col("item_id").is_in(often["item_id"].tail(items).implode()))
    return TaskData(
        events.lazy(),
        frames["items"],
        frames["campaigns"],
        frames["campaign_items"],
        frames["promotions"].lazy(),
        Business(timezone="America/New_York"),
    )


def data_for(name: str) -> TaskData:
    if name == "churn_non_renewal":
        users = data().events.select(pl.col("user_id").unique().sort()).collect()["user_id"]
        terms = monthly_terms(users.to_list(), datetime(2017, 1, 1, tzinfo=UTC), AS_OF)
        return replace(data(), subscriptions=terms)
    return data(items=100) if name == "inventory" else data()  # its time grows with the items


@cache
def churn_examples() -> pl.DataFrame:
    return SilenceTask().examples(data(), AS_OF)


def leaks(task, examples=None, at=None) -> dict[str, str]:
    """What the checks found, without those that found nothing."""
    given = at or data()
    rows = task.examples(given, AS_OF) if examples is None else examples
    return {name: said for name, said in find_leaks(rows, task, given, AS_OF).items() if said}


@pytest.mark.parametrize("name", task_names())
def test_no_task_leaks(name):
    assert leaks(load_tasks()[name], at=data_for(name)) == {}


def test_the_graph_names_the_checks_that_are_made():
    assert set(find_leaks(churn_examples(), SilenceTask(), data(), AS_OF)) == set(LEAKS)


# --- features of the future -----------------------------------------------------------------------


class SeesTomorrow(SilenceTask):
    """A window that is a week too long on the wrong side."""

    def examples(self, data, as_of):
        frame = super().examples(data, as_of)
        events = data.events_before(as_of).select("user_id", "event_time").collect()
        soon = frame.select("user_id", "origin").join(events, on="user_id")
        since = pl.col("event_time") - pl.col("origin")
        soon = soon.filter((since >= timedelta()) & (since < 7 * DAY))
        met = soon.select("user_id", "origin", met=1.0).unique()
        return (
            frame.join(met, on=["user_id", "origin"], how="left", maintain_order="left")
            .with_columns(orders_window=pl.col("orders_window") + pl.col("met").fill_null(0.0))
            .drop("met")
        )


class KnowsTheRate(SilenceTask):
    """A statistic over all examples, those of the test window among them."""

    def examples(self, data, as_of):
        frame = super().examples(data, as_of)
        return frame.with_columns(
            spend_window=pl.col("spend_window") - pl.col("spend_window").mean()
        )


class NewestCatalogue(SilenceTask):
    """Joins the catalogue as it is now, not as it was."""

    def serving(self, data, as_of, units=None):
        served, size = super().serving(data, as_of, units), float(data.items.height)
        return replace(served, examples=served.examples.with_columns(range_size=pl.lit(size)))

    def examples(self, data, as_of):
        size = float(data.items.height)
        return super().examples(data, as_of).with_columns(range_size=pl.lit(size))


def test_a_feature_of_the_label_window_is_refused():
    found = leaks(SeesTomorrow())
    assert set(found) == {"feature_time"}
    assert "'orders_window'" in found["feature_time"]
    assert "at or after the origin" in found["feature_time"]


def test_a_statistic_over_all_examples_is_refused():
    assert "'spend_window'" in leaks(KnowsTheRate())["feature_time"]


def test_a_catalogue_of_later_is_refused():
    assert leaks(NewestCatalogue()) == {}, "all items were listed before the first origin"
    late = data().items.with_columns(
        valid_from=pl.when(pl.int_range(pl.len()) % 2 == 0)
        .then(pl.lit(AS_OF - DAY))
        .otherwise("valid_from")
    )
    assert (
        "'range_size'" in leaks(NewestCatalogue(), at=replace(data(), items=late))["feature_time"]
    )


def test_what_is_merchandise_may_be_known_later():
    """It says what is asked, not what happened: fuel is no item to recommend, whenever listed."""
    late = data().items.with_columns(valid_from=pl.lit(AS_OF - DAY))
    assert not late["is_merchandise"].all()
    assert leaks(load_tasks()["recommendations"], at=replace(data(), items=late)) == {}


def test_a_null_that_was_filled_from_the_future_is_refused():
    frame = pl.DataFrame({"a": [None, 1.0, None], "b": [0.0, 1.0, None]})
    assert leakage._unequal(frame["a"], frame["b"]).to_list() == [True, False, False]
    vectors = pl.Series([[1.0, 2.0], None, [1.0, 2.0]]), pl.Series([[1.0, 2.0], None, [1.0, 3.0]])
    assert leakage._unequal(*vectors).to_list() == [False, False, True]


# --- windows, copies, the encoder -----------------------------------------------------------------


def test_scores_that_are_equal_but_for_rounding_may_change_places():
    ranks = pl.Series("encoder_rank", [18, 19, 3, None, None])
    served = pl.Series("encoder_rank:served", [19, 18, 5, None, 2])
    assert leakage._unequal(ranks, served).to_list() == [False, False, True, False, True]


def test_a_label_window_that_reaches_into_the_test_is_refused():
    examples = churn_examples()
    late = pl.when(split="fit").then(pl.lit(AS_OF)).otherwise("label_end")
    found = leaks(SilenceTask(), examples.with_columns(label_end=late))
    assert set(found) == {"label_window"}
    assert "'fit'" in found["label_window"]
    open_window = examples.with_columns(pl.col("label_end") + DAY)
    assert "after as_of" in leaks(SilenceTask(), open_window)["label_window"]


def test_an_example_in_two_splits_is_refused():
    examples = churn_examples()
    test = examples.filter(split="test").head(5)
    again = pl.concat([examples, test.with_columns(split=pl.lit("fit"))])
    assert "5 examples repeat" in leaks(SilenceTask(), again)["duplicates"]
    moved = test.with_columns(pl.col("origin", "label_end") - 250 * DAY, split=pl.lit("fit"))
    found = leaks(SilenceTask(), pl.concat([examples, moved]))
    assert set(found) == {"duplicates"}
    assert "5 examples are in two splits" in found["duplicates"]


def test_a_life_that_repeats_itself_is_no_copy():
    examples = churn_examples()
    fit = examples.filter(split="fit", origin=examples.filter(split="fit")["origin"].max())
    weeks = [fit.with_columns(pl.col("origin", "label_end") - k * 7 * DAY) for k in range(40, 43)]
    test = fit.with_columns(split=pl.lit("test"), origin=AS_OF - DAY, label_end=AS_OF)
    assert (
        leakage.duplicates(SilenceTask(), pl.concat([*weeks, test], how="vertical_relaxed")) == ""
    )


class LateEncoder:
    """Vectors of the newest state of the data, and a fit that saw the test window."""

    version = "late"

    def __init__(self, fitted_before: datetime, *, peeks: bool = False) -> None:
        self.fitted_before, self.peeks = fitted_before, peeks

    def user_embeddings(self, events, as_of):
        raise NotImplementedError

    def item_scores(self, events, as_of, user_ids):
        """More of the items that the user buys; with `peeks` also of those bought from as_of on."""
        known = events if self.peeks else events.filter(pl.col("event_time") < as_of)
        bought = known.filter(event_type="purchase").group_by("user_id", "item_id").len().collect()
        counts = {(user, item): count for user, item, count in bought.rows()}
        items = sorted(journey(households=60)["items"]["item_id"].head(500))
        scores = [[counts.get((user, item), 0) for item in items] for user in user_ids]
        return items, np.array(scores, dtype=np.float32)


def test_an_encoder_that_was_fitted_on_the_test_window_is_refused():
    seen = replace(data(), encoder=LateEncoder(AS_OF - DAY))
    found = leakage.prediction_time(SilenceTask(), churn_examples(), seen)
    assert "after the first test origin" in found
    early = LateEncoder(datetime(2017, 9, 1, tzinfo=UTC))
    fine = replace(data(), encoder=early)
    assert leakage.prediction_time(SilenceTask(), churn_examples(), fine) == ""
    assert leakage.prediction_time(SilenceTask(), churn_examples(), data()) == ""


@pytest.mark.parametrize("peeks", [False, True], ids=["honest", "peeks"])
def test_an_encoder_that_reads_past_its_instant_is_refused(peeks):
    encoder = LateEncoder(datetime(2017, 9, 1, tzinfo=UTC), peeks=peeks)
    found = leaks(load_tasks()["recommendations"], at=replace(data(), encoder=encoder))
    assert set(found) == ({"feature_time"} if peeks else set())


# --- statistics of the test rows ------------------------------------------------------------------


class Transductive(ColumnScore):
    """Learns the mean of whatever it is asked about."""

    def predict(self, examples):
        self.mean = float(examples[RECENCY].mean())
        return super().predict(examples)

    def state(self):
        return {**super().state(), "mean": self.mean}


class Ranks(ColumnScore):
    """A prediction that depends on who else is asked about."""

    def predict(self, examples):
        p = super().predict(examples)
        return p / p.max() / 2


class WithTransductive(SilenceTask):
    def candidates(self):
        return [Transductive("transductive", RECENCY)]


class WithRanks(SilenceTask):
    def candidates(self):
        return [Ranks("ranks", RECENCY)]


@pytest.mark.slow
@pytest.mark.parametrize("name", task_names())
def test_no_published_model_depends_on_the_test_rows(name):
    task = load_tasks()[name]
    examples = task.examples(data_for(name), AS_OF)
    result = backtest(task, examples, as_of=AS_OF, seed=7)
    assert leakage.fitted_statistics(task, examples, result, seed=7) == ""


@pytest.mark.parametrize("share", [1, 0.4], ids=["all examples", "some of them"])
def test_a_model_that_learns_from_the_test_rows_is_refused(share):
    most = int(share * churn_examples().height)
    for task, said in ((SilenceTask(), ""),
                       (WithTransductive(), "the state of 'transductive' changes"),
                       (WithRanks(), "a prediction of 'ranks' changes")):  # fmt: skip
        result = backtest(task, churn_examples(), as_of=AS_OF, seed=7)
        found = leakage.fitted_statistics(task, churn_examples(), result, seed=7, most=most)
        assert said in found
        assert bool(said) == bool(found)


class Choosy(Ranks):
    """Cannot be fitted to ten users."""

    def fit(self, examples):
        if examples["user_id"].n_unique() <= leakage.REFITTED_UNITS:
            raise NotEnoughHistoryError("too few")
        super().fit(examples)


class WithChoosy(SilenceTask):
    def candidates(self):
        return [Choosy("choosy", RECENCY)]


def test_examples_of_too_few_units_to_fit_to_give_way_to_all():
    result = backtest(WithChoosy(), churn_examples(), as_of=AS_OF, seed=7)
    found = leakage.fitted_statistics(WithChoosy(), churn_examples(), result, seed=7, most=1)
    assert "a prediction of 'choosy' changes" in found


def test_nothing_of_a_leaking_round_can_be_published(objects):
    task = WithTransductive()
    make_examples(objects, task, data(), AS_OF)
    with pytest.raises(LeakageError, match="transductive"):
        judge(objects, task, data(), {})
    assert not list(objects.list(f"models/{task.name}/champion"))
    with pytest.raises(NoChampionError):
        champion_version(objects, task)
