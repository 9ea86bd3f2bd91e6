"""Scoring: the best items exactly, whatever the chunks; nothing at or after `as_of`."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from importlib.util import find_spec

import numpy as np
import polars as pl
import pytest
import torch

from seq_ml import schema
from seq_ml.encoder.config import PRESETS
from seq_ml.encoder.data.batches import collate, make_queries, mask_of
from seq_ml.encoder.data.moments import training_moments
from seq_ml.encoder.data.windows import window_table
from seq_ml.encoder.evaluation.streaming import Judged, evaluate
from seq_ml.encoder.model.behaviour import BehaviourModel
from seq_ml.encoder.scoring import encoder as scoring
from seq_ml.encoder.scoring import topk, vectors
from seq_ml.encoder.scoring.ann import ApproximateSearch
from seq_ml.encoder.scoring.catalogue import Catalogue, ColdItems, Own
from seq_ml.encoder.scoring.encoder import Encoder
from seq_ml.encoder.scoring.topk import best_items
from seq_ml.metrics.ranking import ndcg, per_unit, recall
from seq_ml.sequences.build import build_sequences
from seq_ml.tokens.vocabulary import DAY, SPECIAL, Vocabulary
from tests.data import AS_OF, journey

CUT = AS_OF - timedelta(days=91)
TINY = PRESETS["tiny"]
K = 10


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    data = journey()
    events = data["clean_events"].lazy()
    return Vocabulary.fit([events], data["items"], before=CUT, min_users=TINY.min_users)


@pytest.fixture(scope="module")
def sequences() -> pl.DataFrame:
    events = journey()["clean_events"].lazy()
    return build_sequences(events, as_of=CUT, max_events=TINY.max_events, shards=1)


def make_encoder(vocabulary, backbone="causal", *, repeat=True) -> Encoder:
    """An encoder with random weights: exactness does not need a trained one."""
    model = replace(TINY.model, backbone=backbone, repeat_head=repeat)
    config = replace(TINY, model=model)
    torch.manual_seed(3)
    network = BehaviourModel(model, vocabulary)
    with torch.no_grad():
        network.item.weight.normal_(std=0.3)
        if network.repeat is not None:
            network.repeat.outer.weight.normal_(std=0.3)
            network.repeat.direct.bias.fill_(5.0)  # own items come first
    return Encoder(network, vocabulary, config, version="random", fitted_before=CUT)


@pytest.fixture(scope="module")
def encoder(vocabulary) -> Encoder:
    return make_encoder(vocabulary)


def ranked(scores: np.ndarray, k: int = K) -> np.ndarray:
    """Places of the best, by score and then place, −1 for what may not be recommended."""
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.where(np.isneginf(np.take_along_axis(scores, order, 1)), -1, order)


def joined(batches):
    batches = list(batches)
    return (
        [user for batch in batches for user in batch.user_ids],
        np.concatenate([batch.places for batch in batches]),
        np.concatenate([batch.scores for batch in batches]),
    )


# --- the best items -------------------------------------------------------------------------------


@pytest.mark.parametrize("at_once", [256, 5_000, 1 << 20])
@pytest.mark.parametrize("items", [7, 64, 1_000])
def test_best_items_are_those_of_sorting_everything(items, at_once, monkeypatch):
    monkeypatch.setattr(topk, "SCORES_AT_ONCE", at_once)
    random = torch.Generator().manual_seed(items)
    # few distinct values: ties everywhere
    vectors = torch.randint(-2, 3, (items, 3), generator=random).float()
    users = torch.randint(-2, 3, (20, 3), generator=random).float()
    bias = torch.randint(-1, 2, (items,), generator=random).float()
    bias[torch.randperm(items, generator=random)[: items // 3]] = -torch.inf
    pairs = torch.randperm(20 * items, generator=random)[: 2 * items]
    score = torch.randint(-3, 4, (len(pairs),), generator=random).float()
    score[::3] = -torch.inf
    score[1::3] *= -0.0
    own = Own(pairs // items, pairs % items, score)
    catalogue = Catalogue([], vectors, bias, torch.empty(0))
    expected = (users @ vectors.T + bias).numpy()
    expected[own.user, own.place] = score.numpy()

    places, scores = best_items(catalogue, users, own, K)
    wanted = ranked(expected)
    np.testing.assert_array_equal(places[:, : wanted.shape[1]], wanted)
    assert (places[:, wanted.shape[1] :] == -1).all()
    found = places >= 0
    np.testing.assert_array_equal(scores[found], expected[np.nonzero(found)[0], places[found]])
    assert np.isneginf(scores[~found]).all()


@pytest.mark.parametrize("backbone", ["causal", "bidirectional", "gru"])
@pytest.mark.parametrize("repeat", [True, False])
def test_top_items_are_those_of_all_scores(vocabulary, sequences, backbone, repeat):
    encoder = make_encoder(vocabulary, backbone, repeat=repeat)
    events = journey()["clean_events"].lazy()
    ids, all_scores = encoder.item_scores(events, CUT, sequences["user_id"].to_list())
    users, places, scores = joined(encoder.top_items([sequences], CUT, k=K))
    assert users == sequences["user_id"].to_list()
    assert len(ids) == len(encoder.vocabulary.item_tokens)
    expected = np.take_along_axis(all_scores, ranked(all_scores), 1)
    np.testing.assert_allclose(scores, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(
        np.take_along_axis(all_scores, places, 1), expected, rtol=1e-5, atol=1e-5
    )


def test_chunks_batches_and_parts_change_nothing(encoder, sequences, monkeypatch):
    users, places, scores = joined(encoder.top_items([sequences], CUT, k=K))
    monkeypatch.setattr(topk, "SCORES_AT_ONCE", 4_000)
    monkeypatch.setattr(scoring, "USERS_AT_ONCE", 7)
    monkeypatch.setattr(scoring, "BATCH_TOKENS", {"cpu": 100})
    monkeypatch.setattr(scoring, "PAIRS_AT_ONCE", 5)
    parts = [encoder.vocabulary.encode(sequences[:20]), sequences[20:]]
    again = joined(encoder.top_items(parts, CUT, k=K))
    assert again[0] == users
    np.testing.assert_allclose(again[2], scores, rtol=1e-5, atol=1e-5)
    same = (again[1] == places).mean()
    assert same > 0.999  # sums in another order may swap neighbours


def test_seen_and_denied_items_do_not_come(encoder, sequences):
    interest = TINY.model.interest
    popular = [encoder.vocabulary.tokens[i][1] for i in encoder._item_tokens[:3]]
    deny = [*popular, "no such item"]
    for filter_seen in (False, True):
        for some in encoder.top_items([sequences], CUT, k=K, filter_seen=filter_seen, deny=deny):
            for items, row in zip(some.item_ids, sequences.iter_rows(named=True), strict=True):
                pairs = zip(row["item_ids"], row["event_types"], strict=True)
                seen = {item for item, kind in pairs if kind in interest}
                assert not set(items) & set(deny)
                assert bool(set(items) & seen) != filter_seen
                assert len(set(items)) == K


def test_cold_items_compete_and_nobody_gets_more_than_there_is(encoder, sequences):
    dim = TINY.model.dim
    zeros = np.zeros((2, dim), dtype=np.float32)
    cold = ColdItems(["cold a", "cold b"], zeros, np.full(2, 1e6, dtype=np.float32))
    known = list(encoder.vocabulary.item_tokens)
    several = encoder.top_items([sequences], CUT, k=4, cold=cold, deny=known[:-1])
    frame = pl.concat([some.frame() for some in several])
    assert frame["user_id"].unique().sort().to_list() == sequences["user_id"].to_list()
    for (_,), rows in frame.group_by("user_id"):
        assert rows["item_id"].to_list() == ["cold a", "cold b", known[-1]]  # ties: by place
        assert rows["rank"].to_list() == [1, 2, 3]


def test_nothing_at_or_after_as_of_is_read(encoder, sequences):
    events = journey()["clean_events"].lazy()
    early = CUT - timedelta(days=60)
    past = build_sequences(events, as_of=early, max_events=100_000, shards=1)
    whole = build_sequences(events, as_of=CUT, max_events=100_000, shards=1)
    expected = joined(encoder.top_items([past], early, k=K))
    for part in (whole, encoder.vocabulary.encode(whole)):
        found = joined(encoder.top_items([part], early, k=K))
        assert found[0] == expected[0]
        np.testing.assert_allclose(found[2], expected[2], rtol=1e-5, atol=1e-5)
    nobody = early - timedelta(days=3000)
    assert list(encoder.top_items([whole], nobody, k=K)) == []
    assert encoder.embed(whole, nobody)[1].shape == (0, TINY.model.dim)


def test_events_are_read_some_users_at_a_time(encoder, sequences, monkeypatch):
    events = journey()["clean_events"].lazy()
    users, vectors = encoder.user_embeddings(events, CUT)
    monkeypatch.setattr(scoring, "EVENTS_AT_ONCE", 2_000)
    assert len(list(encoder.sequences(events, CUT))) > 5
    again, found = encoder.user_embeddings(events, CUT)
    assert again == users == sequences["user_id"].to_list()
    np.testing.assert_allclose(found, vectors, rtol=1e-4, atol=1e-5)


def test_vectors_written_some_users_at_a_time_are_those_of_all_at_once(
    encoder, sequences, tables, monkeypatch
):
    parts = [sequences[start : start + 9] for start in range(0, len(sequences), 9)]
    assert len(parts) > 3
    frames = list(vectors.user_rows(encoder, parts, CUT))
    assert [len(frame) for frame in frames] == [len(sequences)]
    monkeypatch.setattr(vectors, "USERS_AT_ONCE", 18)
    for _ in range(2):  # the table comes into being, then is replaced
        tables.overwrite_whole(schema.USER_EMBEDDINGS, vectors.user_rows(encoder, parts, CUT))
        assert len(tables.files("user_embeddings")) == -(-len(parts) // 2)
        found = tables.scan("user_embeddings").sort("user_id").collect()
        assert found.equals(frames[0])
    users, whole = encoder.embed(sequences, CUT)
    assert users == found["user_id"].to_list()
    np.testing.assert_allclose(np.array(found["embedding"].to_list()), whole, rtol=1e-4, atol=1e-5)

    def broken():
        yield frames[0]
        raise ValueError("the second file is never made")

    with pytest.raises(ValueError, match="never made"):
        tables.overwrite_whole(schema.USER_EMBEDDINGS, broken())
    assert tables.scan("user_embeddings").sort("user_id").collect().equals(found)
    assert tables.version("user_embeddings") == 1


# --- approximate search ---------------------------------------------------------------------------


def test_approximate_search_holds_the_gate_or_is_exact(encoder, sequences, caplog):
    pytest.importorskip("faiss")
    exact = joined(encoder.top_items([sequences], CUT, k=K))
    found = joined(encoder.top_items([sequences], CUT, k=K, approximate=True))
    assert found[0] == exact[0]
    hits = [len(set(a) & set(b)) for a, b in zip(found[1].tolist(), exact[1].tolist(), strict=True)]
    assert np.mean(hits) / K >= 0.99
    same = found[1] == exact[1]
    np.testing.assert_allclose(found[2][same], exact[2][same], rtol=1e-4, atol=1e-4)

    random = torch.Generator().manual_seed(0)  # nothing is near anything: no cells can help
    vectors = torch.randn(5_000, 64, generator=random)
    nothing = torch.zeros(0, dtype=torch.int64)
    catalogue = Catalogue([], vectors, torch.zeros(5_000), torch.empty(0))
    users, own = torch.randn(30, 64, generator=random), Own(nothing, nothing, None)
    search = ApproximateSearch(catalogue)
    places, _ = search(catalogue, users, own, K)
    assert search.probes == 0
    assert "the search is exact instead" in caplog.text
    np.testing.assert_array_equal(places, best_items(catalogue, users, own, K)[0])


@pytest.mark.skipif(find_spec("faiss") is not None, reason="faiss is installed")
def test_approximate_search_says_what_it_needs(encoder, sequences):
    with pytest.raises(ImportError, match=r"seqline\[ann\]"):
        list(encoder.top_items([sequences], CUT, k=K, approximate=True))


# --- what the batches are made of -----------------------------------------------------------------


def slow_query(window, instant, interesting, horizon_days):
    """One question, item by item."""
    tokens = window.tokens
    begin, end = tokens.offset[window.row : window.row + 2]
    events = [
        (int(tokens.item[i]), int(tokens.time[i]))
        for i in range(begin, end)
        if interesting[tokens.behaviour[i]] and tokens.item[i] >= SPECIAL
    ]
    past = [event for event in events if event[1] < instant]
    until = instant + horizon_days * DAY
    targets = sorted({item for item, time in events if instant <= time < until})
    baskets = len({time for _, time in past})
    features = []
    for item in sorted({item for item, _ in past}):
        ages = [(instant - time) / DAY for other, time in past if other == item]
        interval = (ages[0] - ages[-1]) / max(len(ages) - 1, 1)
        features.append([
            np.log(len(ages)),
            *(np.log(sum(0.5 ** (age / days) for age in ages) + 0.01) for days in (7, 28, 112)),
            np.log(ages[-1] + 0.5),
            min(ages[-1] / interval, 4.0) if interval > 0 else 0.0,
            interval > 0,
            np.log(len(ages) / baskets),
            np.log(baskets),
        ])  # fmt: skip
    places = [i for i in range(window.start, window.stop) if tokens.time[i] < instant]
    return {
        "items": sorted({item for item, _ in past}),
        "features": np.array(features).reshape(-1, 9),
        "targets": targets,
        "position": len(places) - 1,
        "seconds": instant - int(tokens.time[places[-1]]),
    }


@pytest.mark.parametrize("horizon", [None, 20])
def test_questions_are_those_asked_one_by_one(vocabulary, sequences, horizon):
    tokens = vocabulary.encode(sequences)
    interesting = mask_of(vocabulary, TINY.model.interest)
    table = window_table([tokens], [np.arange(12)], 32)
    windows = [table.window(number) for number in range(0, len(table), 3)]
    until, random = int(CUT.timestamp()), np.random.default_rng(1)
    ticks, moments = training_moments(
        windows, until, context=32, items=3, causal=True, random=random
    )
    queries = make_queries(windows, moments, interesting, horizon_days=horizon)
    asked = [
        slow_query(windows[row], instant, interesting, horizon or 1)
        for row, instant in zip(moments.row.tolist(), moments.instant.tolist(), strict=True)
    ]
    assert queries.row.tolist() == moments.row.tolist()
    before = [
        ((ticks.row == row) & (ticks.instant < instant)).sum() + tick
        for row, instant, tick in zip(moments.row, moments.instant, moments.tick, strict=True)
    ]
    place = [slow["position"] + more for slow, more in zip(asked, before, strict=True)]
    assert queries.position.tolist() == place
    answered = [
        number
        for number, slow in enumerate(asked)
        if moments.items[number] and (slow["targets"] or horizon is None)
    ]
    assert queries.answered.tolist() == answered
    assert 10 < len(answered) <= len(asked)
    for number, slow in enumerate(asked[place] for place in answered):
        mine = queries.repeat_query == number
        assert queries.repeat_item[mine].tolist() == slow["items"]
        np.testing.assert_allclose(
            queries.repeat_features[mine].numpy(), slow["features"], rtol=1e-5, atol=1e-6
        )
        if horizon is not None:
            targets = queries.target_item[queries.target_query == number]
            assert targets.tolist() == slow["targets"]


@pytest.mark.parametrize("causal", [True, False])
def test_asking_at_some_positions_gives_their_states(encoder, sequences, causal):
    table = window_table([encoder.vocabulary.encode(sequences[:6])], [np.arange(6)], 32)
    windows = [table.window(number) for number in range(len(table))]
    events = collate(windows)
    rows = torch.tensor([0, 0, 3, 5])
    positions = torch.tensor([0, 4, 2, 7])
    with torch.no_grad():
        states = encoder.model(events, causal=causal)[rows, positions]
        found = encoder.model.states_at(events, rows, positions, causal=causal)
    torch.testing.assert_close(found, states)


# --- streaming evaluation -------------------------------------------------------------------------


def test_streamed_metrics_are_those_of_the_whole(encoder, sequences):
    events = journey()["clean_events"].lazy()
    own = sequences.select("user_id", item_id="item_ids").explode("item_id").unique()
    bought = pl.col("event_type") == "purchase"
    truth = (
        events.filter(bought, pl.col("event_time") >= CUT, pl.col("item_id").is_not_null())
        .select("user_id", "item_id")
        .unique()
        .join(own.lazy().with_columns(novel=False), on=["user_id", "item_id"], how="left")
        .with_columns(pl.col("novel").fill_null(value=True))
        .sort("user_id", "item_id")
        .collect()
    )
    parts = [(sequences[:30], truth), (sequences[30:], truth)]
    judged = evaluate(encoder, parts, CUT, k=K)
    ids, scores = encoder.item_scores(events, CUT, sequences["user_id"].to_list())
    for name, found in judged.items():
        wanted = truth.filter("novel") if name == "novel" else truth
        seen = own.select("user_id", "item_id", seen=True)
        examples = (
            pl.DataFrame({"user_id": sequences["user_id"]})
            .join(pl.DataFrame({"item_id": ids}), how="cross")
            .with_columns(score=scores.ravel())
            .join(
                wanted.select("user_id", "item_id", label=1), on=["user_id", "item_id"], how="left"
            )
            .join(wanted.group_by("user_id").len("relevant"), on="user_id", how="left")
            .join(seen, on=["user_id", "item_id"], how="left")
            .with_columns(pl.col("label", "relevant").fill_null(0))
        )
        if name == "novel":
            examples = examples.filter(pl.col("seen").is_null())
        settings = {"k": K, "unit": "user_id", "relevant": "relevant"}
        values = found.values.sort("user_id")
        for metric, function in (("ndcg", ndcg), ("recall", recall)):
            expected = per_unit(function, examples, examples["score"].to_numpy(), **settings)
            assert values["user_id"].to_list() == expected["unit"].to_list()
            np.testing.assert_allclose(values[metric], expected["value"], rtol=1e-6)
        assert found.means()["ndcg"] == pytest.approx(values["ndcg"].mean(), rel=1e-6)
        assert found.means()["users"] == values.height > 40


def test_hit_and_reciprocal_rank_by_hand():
    judged = Judged(3)
    places = np.array([[4, 2, 9], [1, -1, -1], [5, 6, 7], [0, 1, 2]])
    truth = np.array([[0, 9], [0, 3], [1, -1], [2, 5], [2, 7], [2, -1]]).T
    judged.add(["a", "b", "c", "d"], places, (truth[0], truth[1]))
    assert judged.values.rows() == [
        ("a", 1.0, 0.5, pytest.approx(0.5 / (1 + 1 / np.log2(3))), pytest.approx(1 / 3)),
        ("b", 0.0, 0.0, 0.0, 0.0),
        ("c", 1.0, pytest.approx(2 / 3), pytest.approx(1.5 / (1.5 + 1 / np.log2(3))), 1.0),
    ]


def test_seen_time_is_refused(encoder):
    with pytest.raises(ValueError, match="fitted on events up to"):
        evaluate(encoder, [], CUT - timedelta(days=1))
