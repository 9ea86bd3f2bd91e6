"""Thirty nights of a shop: a new encoder each night, and no champion is replaced unmet."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from functools import cache

import numpy as np
import polars as pl
import pytest
from scipy.special import ndtri

from seq_ml.metrics.ranking import ranking_metrics
from seq_ml.registry.meeting import ALPHA, spent
from seq_ml.registry.rounds import judge, make_examples, promote_challenger
from seq_ml.registry.versions import champion_version, config_of, load_champion
from seq_ml.tasks.models.binary import ColumnScore, LogisticModel
from seq_ml.tasks.task import NotEnoughHistoryError
from tests.evaluation.test_backtest import START, Toy
from tests.registry.test_versions import no_data

USERS, NIGHTS, HORIZON, DAY = 300, 30, 7, timedelta(days=1)
FIRST = START + 40 * DAY
AXES = [f"encoder_{axis}" for axis in range(4)]


@cache
def taste() -> np.ndarray:
    """What only encoders see of each user."""
    return np.random.default_rng(1).normal(size=USERS)


@cache
def came(day: int) -> np.ndarray:
    """Who came on a day: the days of overlapping windows are the same."""
    chance = 1 / (1 + np.exp(3 - taste()))
    return np.random.default_rng((2, day)).random(USERS) < chance


class Turned:
    """An encoder that sees the taste, and turns it into numbers in its own way."""

    def __init__(self, version: str, fitted_before) -> None:
        self.version, self.fitted_before = version, fitted_before

    def user_embeddings(self, events, as_of):
        way = np.random.default_rng(int(self.version[1:])).normal(size=(1, 4))
        users = [f"u{i:03}" for i in range(USERS)]
        return users, (taste()[:, None] @ way).astype(np.float32)


class Nightly(Toy):
    """Who comes within a week; a column of noise, and what an encoder sees."""

    name = "nightly"
    slices = ()

    def __init__(self, *, encoder: bool = True) -> None:
        self.encoder = encoder

    def candidates(self):
        more = [LogisticModel("with_encoder", AXES)] if self.encoder else []
        return [ColumnScore("by_noise", "noise"), LogisticModel("on_noise", ["noise", "x"]), *more]

    def examples(self, data, as_of):
        if self.encoder and data.encoder is None:
            raise NotEnoughHistoryError("walk-forward: no encoder of then")
        parts = []
        for back, split in ((3, "fit"), (2, "validation"), (1, "test")):
            origin = as_of - back * HORIZON * DAY
            first = (origin - START).days
            rng = np.random.default_rng((3, first))
            label = np.any([came(first + day) for day in range(HORIZON)], axis=0)
            parts.append(
                pl.DataFrame(
                    {
                        "user_id": [f"u{i:03}" for i in range(USERS)],
                        "split": split,
                        "origin": origin,
                        "label_end": origin + HORIZON * DAY,
                        "x": rng.normal(size=USERS),
                        "noise": rng.normal(size=USERS),
                        "label": label.astype(float),
                    }
                )
            )
        frame = pl.concat(parts)
        if data.encoder is None:
            return frame
        users, vectors = data.encoder.user_embeddings(data.events, as_of)
        theirs = pl.DataFrame(vectors, schema=AXES).with_columns(user_id=pl.Series(users))
        return frame.join(theirs, on="user_id", maintain_order="left")


def nights(objects, task, number):
    """Train, judge and perhaps promote, night after night; return decisions and encoders."""
    kept, decisions = {}, []
    for night in range(number):
        as_of = FIRST + night * DAY
        encoder = Turned(f"e{night}", as_of - 2 * HORIZON * DAY)
        kept[encoder.version] = encoder
        data = replace(no_data(), encoder=encoder)
        make_examples(objects, task, data, as_of)
        judge(objects, task, data, {}, kept.__getitem__)
        decisions.append(promote_challenger(objects, task))
    return decisions, kept


def test_no_champion_is_replaced_without_a_paired_comparison(objects):
    task = Nightly()
    decisions, _ = nights(objects, task, NIGHTS)
    assert decisions[0].reason == "first version"
    for decision in decisions[1:]:
        assert decision.compared, decision.reason
        assert decision.improvement is not None
        assert decision.promoted == (decision.improvement.low > 0)
    # Each night's encoder sees the same, so none is better: with another's numbers the champion
    # would be worse than noise, with its own it is as good as any.
    assert sum(decision.promoted for decision in decisions[1:]) == 0
    config = config_of(objects, task.name, champion_version(objects, task))
    assert config["model"] == "with_encoder"
    assert config["lineage"]["encoder"] == "e0"
    assert load_champion(objects, task).encoder == "e0"


def test_what_reads_no_encoder_names_none_and_is_compared_whatever_encoders_come(objects):
    task = Nightly(encoder=False)
    decisions, _ = nights(objects, task, 3)
    assert [decision.compared for decision in decisions] == [True] * 3
    config = config_of(objects, task.name, champion_version(objects, task))
    assert config["lineage"]["encoder"] is None


def test_a_champion_whose_encoder_is_gone_is_replaced_and_it_is_said(objects):
    task = Nightly()
    decisions, kept = nights(objects, task, 1)
    kept.clear()
    as_of = FIRST + DAY
    data = replace(no_data(), encoder=Turned("e1", as_of - 2 * HORIZON * DAY))
    make_examples(objects, task, data, as_of)
    _, version = judge(objects, task, data, {}, kept.__getitem__)
    decision = promote_challenger(objects, task)
    assert (decision.promoted, decision.compared) == (True, False)
    assert "its encoder e0 is gone; it beats the best baseline on its own" in decision.reason
    assert decision.reason in version.markdown
    assert decision.champion != decisions[0].champion


@pytest.mark.parametrize("silence_weeks", [8, 9])
def test_a_champion_of_other_windows_is_asked_in_its_own(objects, silence_weeks):
    """The question is the same whatever else the windows are: they meet."""
    task = Nightly(encoder=False)
    for night, weeks in enumerate((8, silence_weeks)):
        data = no_data(periods=replace(no_data().periods, silence_weeks=weeks))
        make_examples(objects, task, data, FIRST + night * DAY)
        judge(objects, task, data, {})
        decision = promote_challenger(objects, task)
    assert decision.compared


class Longer(Nightly):
    """The length of the label window follows from the windows."""

    def examples(self, data, as_of):
        frame = super().examples(data, as_of)
        return frame.with_columns(pl.col("label_end") - (data.periods.silence_weeks - 8) * DAY)


@pytest.mark.parametrize("encoder", [True, False], ids=["beats the baseline", "is a baseline"])
def test_a_champion_that_answers_another_question_is_not_compared_and_it_is_said(objects, encoder):
    task = Longer(encoder=encoder)
    for night, weeks in enumerate((8, 9)):
        as_of = FIRST + night * DAY
        data = no_data(
            periods=replace(no_data().periods, silence_weeks=weeks),
            encoder=Turned("e0", FIRST - 2 * HORIZON * DAY) if encoder else None,
        )
        make_examples(objects, task, data, as_of)
        judge(objects, task, data, {})
        decision = promote_challenger(objects, task)
    assert not decision.compared
    assert "its windows ask another question" in decision.reason
    assert decision.promoted == encoder, "a baseline does not replace what cannot be compared"


class Scored:
    """Ranks by the score that the encoder gave."""

    name, description, is_baseline, features = "scored", "", False, ("encoder",)

    def fit(self, examples):
        pass

    def predict(self, examples):
        return examples["encoder"].to_numpy()

    def state(self):
        return {}

    def restore(self, state):
        pass


class Popular(Scored):
    """The same list for everybody."""

    name, is_baseline, features = "popular", True, ("popular",)

    def predict(self, examples):
        return examples["popular"].to_numpy()


class Lists(Nightly):
    """Each encoder names an item of its own and puts it first; what is wanted is that of e0."""

    name = "lists"
    key = ("user_id", "item_id")
    primary_metric = "mrr_at_10"
    encoder_names = True

    def candidates(self):
        return [Popular(), Scored()]

    def metrics(self):
        metrics = ranking_metrics(k=10, unit="user_id", relevant="n_relevant")
        return [m for m in metrics if m.name == self.primary_metric]

    def examples(self, data, as_of):
        if data.encoder is None:
            raise NotEnoughHistoryError("walk-forward: no encoder of then")
        items = pl.DataFrame({"item_id": ["a", "b", f"of {data.encoder.version}"]})
        users = super().examples(data, as_of).select("user_id", "split", "origin", "label_end")
        return users.join(items, how="cross").with_columns(
            label=(pl.col("item_id") == "of e0").cast(pl.Float64),
            encoder=pl.col("item_id").str.starts_with("of").cast(pl.Float64),
            popular=(pl.col("item_id") == "a").cast(pl.Float64),
            n_relevant=1,
        )


def test_what_only_one_encoder_names_is_at_the_end_of_the_others_list(objects):
    decisions, _ = nights(objects, Lists(), 2)
    decision = decisions[-1]
    assert decision.compared
    assert decision.improvement is not None
    # The champion's list has what is wanted first; the challenger does not know it: fourth place.
    assert decision.improvement.value == pytest.approx(1 / 4 - 1)
    assert not decision.promoted


def test_under_pure_chance_nearly_no_champion_is_ever_replaced():
    """Nights on windows of a week that overlap by six days, of two that are equally good."""
    rng, worlds, nights_ = np.random.default_rng(0), 4_000, 30
    days = rng.normal(size=(worlds, nights_ + HORIZON - 1))
    seen = np.stack([days[:, k : k + HORIZON].sum(axis=1) for k in range(nights_)], axis=1)
    z = seen / np.sqrt(HORIZON)
    bounds = -ndtri([spent(look) for look in range(1, nights_ + 1)])
    replaced = (z > bounds).any(axis=1).mean()
    assert 0.001 < replaced <= ALPHA
    naive = (z > -ndtri(ALPHA)).any(axis=1).mean()
    assert naive > 4 * ALPHA, "the same bound every night would err far more often"


class TwoSorts(Nightly):
    """From the second night on a hint tells the truth of the many, and the contrary of the few."""

    name = "two_sorts"
    slices = ("sort",)

    def candidates(self):
        return [ColumnScore("by_noise", "noise"), LogisticModel("on_hints", ["weak", "hint"])]

    def examples(self, data, as_of):
        few = (pl.int_range(pl.len()) % 5 == 0).over("split")
        says = pl.when(few).then(-3).otherwise(3) if data.seed > 7 else pl.lit(0)
        return (
            super()
            .examples(data, as_of)
            .with_columns(
                sort=pl.when(few).then(pl.lit("few")).otherwise(pl.lit("many")),
                weak=pl.col("label") + pl.col("x"),
                hint=says * pl.col("label") + pl.col("x").reverse(),
            )
        )


def test_a_challenger_that_is_worse_on_a_slice_stays_out(objects):
    task, decisions = TwoSorts(encoder=False), []
    for night, seed in enumerate((7, 8)):
        data = replace(no_data(), seed=seed)
        make_examples(objects, task, data, FIRST + night * DAY)
        judge(objects, task, data, {})
        decisions.append(promote_challenger(objects, task))
    assert decisions[-1].compared
    assert not decisions[-1].promoted
    assert "but worse where sort is 'few'" in decisions[-1].reason
