"""The planted log: its optimum holds, and what should tell nothing does not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import polars.testing
import pytest

from benchmarks.planted import optimum, rows
from benchmarks.planted.__main__ import judged
from benchmarks.planted.data import task_data
from benchmarks.planted.log import Log, generate
from benchmarks.planted.page import arms, outcome, summary
from benchmarks.planted.shares import Judged
from benchmarks.planted.world import FIRST_DAY, Planted
from seq_ml import schema
from seq_ml.encoder.config import PRESETS
from seq_ml.metrics.calibration import calibration_slope
from seq_ml.metrics.probabilities import roc_auc
from seq_ml.storage.contracts import check_key, conform
from seq_ml.tasks.churn.features import CHURN_FEATURES, churn_features, read_past
from seq_ml.tasks.models.binary import BoostedTrees

ORIGIN, MONTH = 140, 28
SMALL = Planted(users=400)
BROWSING = ("view", "add_to_cart", "remove_from_cart")
LOGS = ({}, {"q": 0.6}, {"shuffled": True}, {"null": True})


def visits_of(events: pl.DataFrame) -> pl.DataFrame:
    """Visits as the events tell them: user_id, day, looks, those in a fading user's order."""
    browsing = events.filter(pl.col("event_type").is_in(BROWSING))
    ends = browsing.with_columns(
        look=pl.int_range(pl.len()).over("session_id") // 3,
        place=pl.int_range(pl.len()).over("session_id") % 3,
    ).filter(pl.col("place") == 2)
    return (
        ends.group_by("user_id", day=(pl.col("event_time") - FIRST_DAY).dt.total_days())
        .agg(looks=pl.len(), fading=(pl.col("event_type") == "remove_from_cart").sum())
        .sort("day", "user_id")
    )


def silent(log: Log, origin: int = ORIGIN) -> tuple[np.ndarray, np.ndarray]:
    """Who came in the month before the origin, and which of all stay away in the month after."""
    return log.came(origin - MONTH, origin), ~log.came(origin, origin + MONTH)


def nats(label: np.ndarray, p: np.ndarray) -> np.ndarray:
    return -np.log(np.where(label, p, 1 - p))


def beyond_chance(gain: np.ndarray) -> float:
    """How many standard errors a mean gain is above zero."""
    return float(gain.mean() / (gain.std() / np.sqrt(len(gain))))


def test_events_and_items_are_what_the_product_reads():
    log = generate(SMALL)
    events, items = rows.events(log), rows.items(log)
    for frame, table in ((events, schema.EVENTS), (items, schema.ITEMS)):
        polars.testing.assert_frame_equal(conform(frame, table), frame)
        check_key(frame, table)
    assert events["event_time"].is_sorted()
    assert set(events["item_id"].drop_nulls()) <= set(items["item_id"])
    sold = events.filter(event_type="purchase")
    assert sold["session_id"].n_unique() == events["session_id"].n_unique() == len(log.visits.day)


def test_the_optimum_is_asked_about_no_more_than_the_events_tell():
    log = generate(SMALL)
    found = visits_of(rows.events(log))
    visits = log.visits
    told = pl.DataFrame(
        {
            "user_id": pl.Series(log.user_ids).gather(visits.user),
            "day": visits.day,
            "looks": visits.looks,
            "fading": (visits.fading & (np.arange(2) < visits.looks[:, None])).sum(axis=1),
        }
    )
    polars.testing.assert_frame_equal(
        found, told.sort("day", "user_id"), check_dtypes=False, check_column_order=False
    )
    bought = rows.events(log).filter(event_type="purchase").select("user_id", "item_id").unique()
    assert bought.height == log.had(0, SMALL.days).sum()


def test_the_same_seed_gives_the_same_log_and_another_one_does_not():
    frame = rows.events(generate(SMALL))
    polars.testing.assert_frame_equal(frame, rows.events(generate(SMALL)))
    assert not frame.equals(rows.events(generate(Planted(users=400, seed=8))))


@pytest.fixture(scope="module", params=LOGS, ids=str)
def large(request) -> Log:
    return generate(Planted(users=60_000, **request.param))


def test_the_optimum_is_calibrated(large):
    origins = (98, 119, ORIGIN)
    label, p = [], []
    for origin, belief in zip(origins, optimum.believed(large, origins), strict=True):
        eligible, quiet = silent(large, origin)
        label.append(quiet[eligible])
        p.append(optimum.silence(large.planted, belief, origin, MONTH)[eligible])
    label, p = np.concatenate(label).astype(float), np.concatenate(p)
    assert calibration_slope(label, p) == pytest.approx(1.0, abs=0.02)
    assert p.mean() == pytest.approx(label.mean(), abs=0.005)


def test_the_optimum_of_items_is_calibrated(large):
    (belief,) = optimum.believed(large, [ORIGIN])
    p = optimum.purchases(large, belief, ORIGIN, 14)
    had = large.had(ORIGIN, ORIGIN + 14)
    eligible, _ = silent(large)
    p, had = p[eligible], had[eligible]
    assert not had[p == 0].any()
    assert (p < 1).all()
    for items in (slice(0, 48), slice(48, 66), slice(66, 78)):  # circles, staples, impulses
        known = p[:, items] > 0
        label, said = had[:, items][known].astype(float), p[:, items][known]
        assert calibration_slope(label, said) == pytest.approx(1.0, abs=0.02)
        assert said.mean() == pytest.approx(label.mean(), rel=0.02)


def test_nobody_beats_the_optimum_beyond_chance():
    log = generate(Planted(users=20_000))
    seen, blind = (optimum.believed(log, [ORIGIN], told)[0] for told in (None, 0.5))
    eligible, quiet = silent(log)
    quiet = quiet[eligible]
    best, others = optimum.silence(log.planted, seen, ORIGIN, MONTH)[eligible], {}
    others["blind"] = optimum.silence(log.planted, blind, ORIGIN, MONTH)[eligible]
    for told in (0.8, 0.95):  # who takes the order for less, or more, than it tells
        belief = optimum.believed(log, [ORIGIN], told)[0]
        others[f"told {told}"] = optimum.silence(log.planted, belief, ORIGIN, MONTH)[eligible]
    odds = np.log(best / (1 - best))
    others["surer"] = 1 / (1 + np.exp(-1.1 * odds))
    for name, p in others.items():
        assert beyond_chance(nats(quiet, best) - nats(quiet, p)) < 2, name
    assert beyond_chance(nats(quiet, others["blind"]) - nats(quiet, best)) > 10


def test_the_order_tells_what_it_should_and_nothing_once_shuffled_or_at_one_half():
    """The newest visit before the origin ends in taking something out: who is silent then?"""
    excess = {}
    for name, planted in {
        ".9": Planted(users=4_000),
        ".5": Planted(users=4_000, q=0.5),
        "shuffled": Planted(users=4_000, shuffled=True),
    }.items():
        log = generate(planted)
        eligible, quiet = silent(log)
        events = rows.events(log).filter(
            pl.col("event_time") < planted.at(ORIGIN),
            pl.col("event_type").is_in(BROWSING),
        )
        ends = events.group_by("user_id").agg(pl.col("event_type").last())
        users = pl.DataFrame({"user_id": log.user_ids, "quiet": quiet}).filter(pl.Series(eligible))
        by = users.join(ends, on="user_id")
        taken = (by["event_type"] == "remove_from_cart").to_numpy()
        label = by["quiet"].to_numpy()
        gap = label[taken].mean() - label[~taken].mean()
        excess[name] = gap / np.sqrt(label.var() * (1 / taken.sum() + 1 / (~taken).sum()))
    assert excess[".9"] > 8
    assert abs(excess[".5"]) < 3
    assert abs(excess["shuffled"]) < 3


def test_counts_do_not_tell_the_order():
    """The product's features and trees find as much at .9 as at .5, and as much once shuffled."""
    auc = {}
    for name, planted in {
        ".9": Planted(users=2_500),
        ".5": Planted(users=2_500, q=0.5),
        "shuffled": Planted(users=2_500, shuffled=True),
    }.items():
        log = generate(planted)
        frames = {origin: examples(log, origin) for origin in (112, ORIGIN)}
        trees = BoostedTrees("trees", CHURN_FEATURES)
        trees.fit(frames[112])
        label = frames[ORIGIN]["label"].to_numpy()
        auc[name] = roc_auc(label, trees.predict(frames[ORIGIN]))
    assert auc[".9"] == pytest.approx(auc[".5"], abs=0.01)
    assert auc["shuffled"] == pytest.approx(auc[".9"], abs=1e-9)


def examples(log: Log, origin: int) -> pl.DataFrame:
    """Features of the product's silence at an origin, and the label."""
    data = task_data(log)
    at = log.planted.at(origin)
    eligible, quiet = silent(log, origin)
    users = pl.DataFrame({"user_id": log.user_ids, "label": quiet.astype(float)})
    users = users.filter(pl.Series(eligible))
    features = churn_features(
        read_past(data, at), at, users["user_id"], day=at.date(), horizon_days=MONTH
    )
    return features.join(users, on="user_id")


def test_shares_are_of_what_the_optimum_gains_over_the_constant():
    best, hand, stack = np.full(50, 1.0), np.full(50, 2.0), np.full(50, 1.6)
    loss = {"constant": np.full(50, 3.0), "hand": hand, "stack": stack, "optimum": best}
    of = Judged("toy", loss, dict.fromkeys(loss, 0.0), "hand")
    shares = [of.share(arm).value for arm in loss]
    assert shares == pytest.approx([0, 0.5, 0.7, 1])
    assert of.recovered("stack").value == pytest.approx(0.4)
    assert of.gain("hand", "stack").value == pytest.approx(0.4)


@pytest.mark.slow
def test_every_arm_is_judged_and_none_beats_the_optimum():
    config = PRESETS["tiny"]
    config = replace(config, training=replace(config.training, steps=20))
    found = judged(Planted(users=500), config, with_items=True)
    for of in found.values():
        assert set(of.loss) == set(of.measure) >= {"constant", of.hand, "sequence", "stack"}
        for arm in of.loss:
            assert not of.gain("optimum", arm).low > 0, arm
        assert of.share(of.hand).low > 0.2
    kept = outcome("now", Planted(users=500), config, found, 1.0)
    assert arms(kept).count("**stack**") == 2
    assert summary([kept]).count("500 users") == 2
