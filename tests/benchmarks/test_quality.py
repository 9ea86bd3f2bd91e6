"""The quality benchmark: metrics by hand, splits without leaks, order kept, counts as published."""

from __future__ import annotations

from datetime import datetime, timedelta
from math import log2

import numpy as np
import polars as pl
import polars.testing
import pytest

from benchmarks.quality import ablation, blended, joined, metrics, simple
from benchmarks.quality.metrics import difference, interval, over_seeds, per_user
from benchmarks.quality.ours import canonical_events, catalogue
from benchmarks.quality.peers.common import ten_best
from benchmarks.quality.splits import (
    MONTHS,
    Split,
    leave_one_out,
    next_month,
    read_complete_journey,
    read_split,
)
from benchmarks.quality.table import BEGIN, END, keep, table, write_document
from seq_ml.encoder.config import PRESETS

MONDAY = datetime(2017, 3, 6)


def ratings(users: int = 40, items: int = 30) -> pl.DataFrame:
    """Events of ML-100K's shape: sorted by (user, time), most of a user's times tie."""
    random = np.random.default_rng(1)
    rows = [
        (user, int(item), MONDAY + timedelta(hours=int(place) // 4))
        for user in range(users)
        for place, item in enumerate(random.permutation(items)[: random.integers(14, items)])
    ]
    return pl.DataFrame(rows, schema=["user", "item", "time"], orient="row")


@pytest.fixture(scope="module")
def baskets() -> pl.DataFrame:
    return read_complete_journey("cj-product")


def scored(users: list[int], truth: list[tuple[int, int, bool]], *, repeats: bool = True) -> Split:
    history = pl.DataFrame({"user": users, "item": [0] * len(users)}, schema_overrides=IDS)
    frame = pl.DataFrame(
        truth, schema={"user": pl.Int32, "item": pl.Int32, "novel": pl.Boolean}, orient="row"
    )
    items = pl.DataFrame({"item": range(30), "category": ["c"] * 30})
    return Split("toy", history, frame, items, repeats, "2017-12-01")


IDS = {"user": pl.Int32, "item": pl.Int32}


def test_metrics_are_those_computed_by_hand():
    split = scored([1, 2, 3], [(1, 4, False), (1, 7, True), (2, 9, True), (3, 20, False)])
    lists = pl.DataFrame(
        {
            "user": pl.Series([1, 2, 3], dtype=pl.Int32),
            "repeats": [[4, 0, 7, *range(10, 17)], [*range(10, 19), 9], [*range(10)]],
            "novel": [[0, 7, *range(10, 18)], [9, *range(10, 19)], [*range(10)]],
        }
    )
    one = per_user(lists, split).row(0, named=True)
    assert one["repeats_hr"] == 1
    assert one["repeats_recall"] == 1
    best = 1 + 1 / log2(3)
    assert one["repeats_ndcg"] == pytest.approx((1 + 1 / log2(4)) / best, abs=1e-6)
    assert one["novel_ndcg"] == pytest.approx(1 / log2(3), abs=1e-6)
    two = per_user(lists, split).row(1, named=True)
    assert two["repeats_ndcg"] == pytest.approx(1 / log2(11), abs=1e-6)
    assert two["novel_ndcg"] == 1
    three = per_user(lists, split).row(2, named=True)
    assert three["repeats_hr"] == three["repeats_ndcg"] == 0
    assert three["novel_hr"] is None  # nothing new came: this user says nothing about novelty


def test_recall_and_ndcg_count_a_truth_longer_than_the_list():
    split = scored([1], [(1, item, True) for item in range(20)])
    lists = pl.DataFrame({"user": pl.Series([1], dtype=pl.Int32), "novel": [list(range(10))]})
    row = per_user(lists, split).row(0, named=True)
    assert row["novel_ndcg"] == pytest.approx(1)
    assert row["novel_recall"] == 0.5
    assert "repeats_ndcg" not in row


@pytest.mark.parametrize("lists", [[[1] * 10, [2] * 10], [list(range(10))]], ids=["same", "absent"])
def test_lists_that_cannot_be_judged_are_refused(lists):
    split = scored([1, 2], [(1, 4, True), (2, 4, True)])
    users = pl.Series(range(1, len(lists) + 1), dtype=pl.Int32)
    with pytest.raises(ValueError, match=r"different items|2 are asked for"):
        per_user(pl.DataFrame({"user": users, "novel": lists}), split)


def test_seeds_are_averaged_by_user_before_the_interval():
    seeds = [
        pl.DataFrame({"user": [1, 2], "novel_ndcg": values}) for values in ([0.0, 1.0], [1.0, 1.0])
    ]
    mean = over_seeds(seeds)
    assert mean["novel_ndcg"].to_list() == [0.5, 1]
    theirs = pl.DataFrame({"user": [2, 1], "novel_ndcg": [0.5, 0.0]})
    gap = difference(mean, theirs, "novel_ndcg")
    assert (gap.mean, gap.low, gap.high) == (0.5, 0.5, 0.5)  # paired by user, not by place


def test_the_interval_covers_the_standard_error():
    values = np.random.default_rng(0).normal(0.1, 0.25, 900)
    found = interval(values)
    error = values.std() / 30
    assert found.mean == pytest.approx(values.mean())
    assert found.high - found.low == pytest.approx(2 * 1.96 * error, rel=0.05)
    assert interval(values) == found


def test_ten_best_are_sorted_leave_out_what_was_had_and_break_ties_by_number():
    scores = np.arange(30, dtype=np.float32)[None].repeat(2, 0)
    scores[1, :] = 0
    best = ten_best(scores, [[29, 27], []])
    assert best[0].tolist() == [28, *range(26, 17, -1)]
    assert len(set(best[1].tolist())) == 10
    assert best[1].tolist() == sorted(best[1].tolist())


@pytest.mark.parametrize("part", ["valid", "test"])
def test_leave_one_out_leaves_the_last_event_out_and_keeps_the_order(part):
    events = ratings()
    split = leave_one_out(events, part)
    left = {"test": 1, "valid": 2}[part]
    assert split.users == list(range(40))
    assert split.truth.height == 40
    assert split.truth["novel"].all()
    learnt = split.history.filter("learnt")
    for user, mine in events.group_by("user", maintain_order=True):
        whole = mine["item"].to_list()  # every item is learnt from, so numbers are the items
        read = split.history.filter(pl.col("user") == user[0])
        assert read["item"].to_list() == whole[:-left]
        assert read["position"].to_list() == list(range(len(whole) - left))
        assert learnt.filter(pl.col("user") == user[0])["item"].to_list() == whole[:-2]
        assert split.truth.filter(pl.col("user") == user[0])["item"].to_list() == [whole[-left]]


def test_an_item_that_nobody_learnt_is_no_candidate_but_its_user_counts():
    events = ratings()
    last = pl.int_range(pl.len()).over("user") == pl.len().over("user") - 1
    events = events.with_columns(
        item=pl.when(last & (pl.col("user") == 3)).then(999).otherwise("item")
    )
    split = leave_one_out(events, "test")
    assert split.items.height == 30
    assert split.truth.filter(pl.col("user") == 3)["item"].to_list() == [-1]
    assert len(split.users) == 40


@pytest.mark.parametrize("part", ["valid", "test"])
def test_next_month_has_nothing_of_it_in_the_history(baskets, part):
    split = next_month(baskets, "cj-product", part)
    cut, _ = MONTHS[part]
    assert split.history["time"].max() < cut
    assert str(cut.date()) == split.cut
    assert split.history.group_by("user").len()["len"].min() >= 10
    assert split.history.select("user", "position").is_duplicated().any() is False
    ordered = split.history.sort("user", "position")
    assert ordered.select(
        pl.col("time").diff().over("user").drop_nulls().min()
    ).item() >= timedelta(0)
    assert ordered.select("user", "basket", "item").is_unique().all()
    had = split.history.select("user", "item").unique().with_columns(had=pl.lit(True))
    joined = split.truth.join(had, on=["user", "item"], how="left")
    assert joined.filter(pl.col("novel") == pl.col("had").is_not_null()).is_empty()
    assert split.truth.select("user", "item").is_unique().all()


def test_the_counts_are_the_published_ones(baskets):
    split = next_month(baskets, "cj-product", "test")
    assert split.items.height == 9_695
    assert len(split.users) == 1_987
    assert split.truth.group_by("user").len()["len"].median() == 31
    novel = split.truth.filter("novel").group_by("user").len()
    assert (novel.height, novel["len"].median()) == (1_942, 17)
    rows = read_complete_journey("cj-category")
    assert next_month(rows, "cj-category", "test").items.height == 282


def test_a_basket_is_in_random_but_fixed_order(baskets):
    again = read_complete_journey("cj-product")
    assert baskets.equals(again)
    inside = baskets.select(pl.col("item").diff().over("user", "basket").drop_nulls() > 0)
    assert 0.45 < inside.to_series().mean() < 0.55


def test_our_events_sort_into_the_explicit_order():
    split = leave_one_out(ratings(), "test")
    events = canonical_events(split).with_columns(position=split.history["position"])
    mixed = events.sample(fraction=1, shuffle=True, seed=2).sort(
        "user_id", "event_time", "event_id"
    )
    assert mixed.equals(mixed.sort("user_id", "position"))
    assert catalogue(split)["item_id"].is_unique().all()


def test_ease_over_users_is_ease_over_items():
    counts = simple.Counts(leave_one_out(ratings(), "test"))
    learnt, read = counts.bought(learnt=True).toarray(), counts.bought().toarray()
    inverse = np.linalg.inv(learnt.T @ learnt + 3 * np.eye(learnt.shape[1]))
    weights = -inverse / np.diag(inverse)
    np.fill_diagonal(weights, 0)
    np.testing.assert_allclose(simple.ease(counts, 3, 0), read @ weights, atol=1e-4)


def test_a_run_is_kept_and_tabled_beside_a_saved_one(tmp_path):
    split, valid = (leave_one_out(ratings(), part) for part in ("test", "valid"))
    split.write(tmp_path / "ml-100k" / "test")
    valid.write(tmp_path / "ml-100k" / "valid")
    assert read_split(tmp_path / "ml-100k" / "test").history.equals(split.history)
    for name in ("item-knn", "popularity"):
        simple.run(tmp_path, "ml-100k", name)
    keep(tmp_path, tmp_path / "results")
    ours = tmp_path / "results" / "ml-100k"
    (ours / "popularity").rename(ours / "seqline")
    text = table(tmp_path / "results")
    assert "**seqline**" in text
    assert "| item-knn | 1 |" in text
    document = tmp_path / "page.md"
    document.write_text(f"# Page\n\n{BEGIN}\nold\n{END}\nend\n")
    write_document(text, document)
    assert document.read_text() == f"# Page\n\n{BEGIN}\n{text}{END}\nend\n"


def test_our_runner_writes_what_the_table_reads(tmp_path):
    from dataclasses import replace

    from benchmarks.quality.ours import run

    split = leave_one_out(ratings(), "test")
    tiny = PRESETS["tiny"]
    training = replace(tiny.training, steps=3, threads=1)
    report = run(split, tmp_path / "out", replace(tiny, training=training), tmp_path)
    outcome = per_user(pl.read_parquet(tmp_path / "out" / "lists.parquet"), split)
    assert outcome.height == 40
    assert outcome.columns == ["user", *(f"novel_{metric}" for metric in metrics.METRICS)]
    assert report["sequences_per_cpu_second"] > 0


def test_the_likeliest_weights_are_those_that_drew_the_truth():
    random = np.random.default_rng(3)
    scores = random.normal(size=(4000, 12, 2)).astype(np.float32)
    free = random.random((4000, 12)) < 0.8
    free[:, 0] = True
    chance = np.exp(scores @ np.array([0.5, 2.0])) * free
    drawn = random.random((4000, 1)) * chance.sum(1, keepdims=True)
    truth = (chance.cumsum(1) < drawn).sum(1)
    truth[:200] = -1  # an item that is no candidate says nothing
    loss, weights = blended.most_likely(scores, free, truth)
    np.testing.assert_allclose(weights, [0.5, 2.0], atol=0.12)
    assert loss < np.log(free.sum(1)).mean()


def test_the_joined_encoder_and_the_encoder_alone_are_both_written(tmp_path):
    from dataclasses import replace

    valid, test = (leave_one_out(ratings(), part) for part in ("valid", "test"))
    tiny = replace(PRESETS["tiny"], min_users=1)
    config = replace(tiny, training=replace(tiny.training, steps=3, threads=1))
    out, alone = tmp_path / "joined", tmp_path / "alone"
    report = blended.run(valid, test, out, alone, config, tmp_path)
    for folder in (out, alone):
        lists = pl.read_parquet(folder / "lists.parquet")
        assert per_user(lists, test).height == 40
        assert {len(novel) for novel in lists["novel"].to_list()} == {10}
    assert report["ease_penalty"] in blended.PENALTIES
    # a test event decides nothing but the outcome: with others the lists are the same
    moved = test.truth.with_columns(item=pl.lit(0, pl.Int32))
    again = replace(test, truth=moved)
    blended.run(valid, again, tmp_path / "again", alone, config, tmp_path)
    pl.testing.assert_frame_equal(
        pl.read_parquet(out / "lists.parquet"), pl.read_parquet(tmp_path / "again/lists.parquet")
    )


def test_an_ablation_compares_the_seeds_that_both_settings_have(tmp_path):
    split = leave_one_out(ratings(), "valid")
    settings = list(ablation.SETTINGS)[:2]
    for name, seeds in zip(settings, ((1, 2), (2,)), strict=True):
        for seed in seeds:
            out = tmp_path / ablation.folder(name) / f"seed-{seed}"
            out.mkdir(parents=True)
            lists = pl.DataFrame({"user": pl.Series(split.users, dtype=pl.Int32)}).with_columns(
                novel=pl.lit(list(range(seed, seed + 10)))
            )
            lists.write_parquet(out / "lists.parquet")
            (out / "run.json").write_text('{"training_cpu_seconds": 60.0}')
    text = ablation.table(split, tmp_path)
    assert f"| {settings[0]} | 2 |" in text
    assert f"| +0.0000 [+0.0000, +0.0000] | {settings[0]} | 60 |" in text


def test_the_joined_ranker_fills_both_lists_better_than_popularity(baskets, tmp_path):
    split = next_month(baskets.filter(pl.col("user") <= 250), "cj-product", "valid")
    joined.run(split, tmp_path, tmp_path, seed=1, config=None)
    lists = pl.read_parquet(tmp_path / "lists.parquet")
    had = split.history.select("user", item="item").unique()
    again = lists.explode("novel").join(had, left_on=["user", "novel"], right_on=["user", "item"])
    assert again.is_empty()
    popular = simple.popularity(simple.Counts(split), 100_000)
    by_count = pl.DataFrame(
        {"user": pl.Series(split.users, dtype=pl.Int32), "repeats": list(ten_best(popular))}
    )
    ours = per_user(lists, split)["repeats_ndcg"].mean()
    assert ours > per_user(by_count, split)["repeats_ndcg"].mean() + 0.1
