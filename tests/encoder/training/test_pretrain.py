"""The encoder: no look ahead, padding without effect, resumable training, honest scores."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.torch import load_file

from seq_ml.encoder.config import PRESETS, EncoderConfig
from seq_ml.encoder.data.batches import collate, make_queries, mask_of
from seq_ml.encoder.data.moments import training_moments
from seq_ml.encoder.data.windows import Window, window_table
from seq_ml.encoder.evaluation.report import encoder_report, report_markdown
from seq_ml.encoder.model.behaviour import BehaviourModel
from seq_ml.encoder.objectives.questions import NothingToLearnError
from seq_ml.encoder.scoring.encoder import Encoder
from seq_ml.encoder.training.pretrain import DivergedError, Trainer, pretrain
from seq_ml.sequences.build import build_sequences
from seq_ml.tokens.shards import read_shards, write_shards
from seq_ml.tokens.vocabulary import SPECIAL, TICK, Tokens, Vocabulary
from tests.data import AS_OF, journey

if TYPE_CHECKING:
    from pathlib import Path

CUT = AS_OF - timedelta(days=91)
TINY = PRESETS["tiny"]


def shortened(steps: int, **changes) -> EncoderConfig:
    changes = {"evaluate_every": 5, "checkpoint_every": 5} | changes
    return replace(TINY, training=replace(TINY.training, steps=steps, **changes))


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    data = journey()
    events = data["clean_events"].lazy()
    return Vocabulary.fit([events], data["items"], before=CUT, min_users=TINY.min_users)


@pytest.fixture(scope="module")
def shards(vocabulary, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("shards")
    events = journey()["clean_events"].lazy()
    sequences = build_sequences(events, as_of=CUT, max_events=TINY.max_events, shards=2)
    write_shards(sequences.sort("shard").partition_by("shard"), vocabulary, folder)
    return folder


@pytest.fixture(scope="module")
def tokens(shards) -> Tokens:
    return read_shards(shards)[1][0]


@pytest.fixture(scope="module")
def encoder(shards, vocabulary, tmp_path_factory) -> Encoder:
    folder = tmp_path_factory.mktemp("encoder")
    assert pretrain(shards, vocabulary, TINY, folder).completed
    return Encoder.load(folder)


@pytest.fixture
def model(vocabulary) -> BehaviourModel:
    torch.manual_seed(0)
    return BehaviourModel(TINY.model, vocabulary).eval()


def whole(tokens: Tokens, row: int, length: int) -> Window:
    start = int(tokens.offset[row])
    return Window(tokens, row, start, start + length)


def without(events: pl.DataFrame, folder: Path) -> tuple[Path, Vocabulary]:
    """Shards and vocabulary of events that lack something."""
    vocabulary = Vocabulary.fit([events.lazy()], journey()["items"], before=CUT, min_users=3)
    sequences = build_sequences(events.lazy(), as_of=CUT, max_events=TINY.max_events, shards=1)
    write_shards([sequences], vocabulary, folder)
    return folder, vocabulary


@pytest.mark.parametrize(
    ("lacking", "said"),
    [
        (
            {"item_id": pl.lit(None, pl.String), "event_type": pl.lit("view")},
            "No event names an item that 3 users had to do with, and nobody came back for a purch",
        ),
        ({"event_type": pl.lit("contact")}, r"counts as interest \(view, .*purchase"),
        (
            {"event_time": pl.col("event_time").min().over("user_id")},
            "No item is named by something that users did after their first event",
        ),
    ],
    ids=["items", "conversions", "time"],
)
def test_what_nothing_can_be_learnt_from_is_refused_before_the_first_step(tmp_path, lacking, said):
    events = journey()["clean_events"].with_columns(**lacking)
    shards, vocabulary = without(events, tmp_path / "shards")
    with pytest.raises(NothingToLearnError, match=said):
        pretrain(shards, vocabulary, TINY, tmp_path / "encoder")
    assert not (tmp_path / "encoder").exists()


def test_orders_without_items_train_what_is_foreseen(tmp_path):
    events = journey()["clean_events"].with_columns(item_id=pl.lit(None, pl.String))
    shards, vocabulary = without(events, tmp_path / "shards")
    result = pretrain(shards, vocabulary, TINY, tmp_path / "encoder")
    assert result.completed
    assert "next_basket" not in result.held_out
    encoder = Encoder.load(tmp_path / "encoder")
    sequences = build_sequences(events.lazy(), as_of=CUT, max_events=TINY.max_events, shards=1)
    found = encoder.forecasts(sequences, CUT)
    assert found.user_ids == sequences["user_id"].to_list()
    bought = pl.col("event_type") == "purchase"
    last = (
        events.filter(bought, pl.col("event_time") < CUT)
        .group_by("user_id")
        .agg(pl.col("event_time").max())
    )
    recent = last.filter(pl.col("event_time") > CUT - timedelta(days=14))["user_id"].to_list()
    silent = dict(zip(found.user_ids, found.silence(28), strict=True))
    others = [p for user, p in silent.items() if user not in recent]
    assert np.mean([silent[user] for user in recent]) < np.mean(others)
    assert (found.expected_spend(28) > 0).all()


def test_one_user_with_all_events_in_a_day_is_read_and_says_something(tmp_path):
    events = journey()["clean_events"].filter(pl.col("event_type") == "purchase").head(3)
    times = [CUT - timedelta(hours=20), CUT - timedelta(hours=9), CUT - timedelta(hours=1)]
    events = events.with_columns(
        user_id=pl.lit("0" * 32),
        item_id=pl.lit("tea"),
        event_time=pl.Series(times, dtype=events.schema["event_time"]),
    )
    sequences = build_sequences(events.lazy(), as_of=CUT, max_events=64, shards=1)
    vocabulary = Vocabulary.fit([events.lazy()], journey()["items"], before=CUT, min_users=1)
    write_shards([sequences], vocabulary, tmp_path / "shards")
    config = shortened(5, held_out_share=0.0)
    assert pretrain(tmp_path / "shards", vocabulary, config, tmp_path / "encoder").completed
    encoder = Encoder.load(tmp_path / "encoder")
    assert np.isfinite(encoder.embed(sequences, CUT)[1]).all()


def test_a_step_that_can_ask_nothing_has_no_loss_and_changes_no_weight(model, vocabulary, tokens):
    first = Window(tokens, 0, 0, 1)
    until = int(tokens.time[0]) + 1
    trainer = Trainer(model.train(), vocabulary, shortened(1, masked_item=0.0), until=until)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    metrics = trainer.update([replace(first, stop=first.start + 1)])
    assert "loss" not in metrics
    assert trainer.step == 1
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, before[name])


def test_a_causal_position_does_not_see_later_events(model, tokens):
    row = int(np.argmax(tokens.lengths))
    events = collate([whole(tokens, row, 40)])
    changed = replace(events, item=events.item.clone(), gap=events.gap.clone())
    changed.item[0, 25:] = SPECIAL
    changed.gap[0, 25:] = 3
    with torch.no_grad():
        before, after = model(events, causal=True), model(changed, causal=True)
        both = model(changed, causal=False) - model(events, causal=False)
    torch.testing.assert_close(before[0, :25], after[0, :25], rtol=0, atol=0)
    assert (before[0, 25:] - after[0, 25:]).abs().min(dim=1).values.max() > 1e-4
    assert both[0, :25].abs().max() > 1e-4  # the masked-item task does look ahead


@pytest.mark.parametrize("causal", [True, False])
def test_padding_changes_nothing(model, tokens, causal):
    rows = np.argsort(tokens.lengths)
    short, long = whole(tokens, int(rows[-2]), 12), whole(tokens, int(rows[-1]), 60)
    with torch.no_grad():
        alone = model(collate([short]), causal=causal)[0]
        padded = model(collate([short, long]), causal=causal)[0, :12]
    torch.testing.assert_close(alone, padded, rtol=1e-5, atol=1e-6)


def test_targets_come_from_strictly_later_baskets(vocabulary, tokens):
    table = window_table([tokens], [np.arange(len(tokens.user))], TINY.model.context)
    windows = [table.window(number) for number in range(len(table))]
    random = np.random.default_rng(0)
    interesting, until = mask_of(vocabulary, ("purchase",)), int(CUT.timestamp())
    for window in windows:
        ticks, moments = training_moments(
            [window], until, context=64, items=3, causal=True, random=random
        )
        queries = make_queries([window], moments, interesting, horizon_days=30)
        user = slice(int(tokens.offset[window.row]), int(tokens.offset[window.row + 1]))
        time, item = tokens.time[user], tokens.item[user]
        events = collate([window], ticks)
        bought = interesting[tokens.behaviour[user]] & (item >= SPECIAL)
        place = {asked: number for number, asked in enumerate(queries.answered.tolist())}
        for number, moment in enumerate(moments.instant.tolist()):
            later = (time >= moment) & (time < moment + 30 * 86_400) & bought
            past = (time < moment) & bought
            assert (later.any() and moments.items[number]) == (number in place)
            if number in place:
                targets = queries.target_item[queries.target_query == place[number]]
                assert targets.tolist() == sorted(set(item[later].tolist()))
                own = queries.repeat_item[queries.repeat_query == place[number]]
                assert own.tolist() == sorted(set(item[past].tolist()))
            # what is read up to the question is all of the window before the moment
            read = events.item[0, : moments.position[number] + 1]
            seen = (time < moment) & (np.arange(user.start, user.stop) >= window.start)
            assert read[read != TICK].tolist() == item[seen].tolist()


def test_the_first_scores_are_popularity(vocabulary, tokens):
    config = replace(TINY.model, repeat_head=False)
    model = BehaviourModel(config, vocabulary)
    assert model.repeat is None
    by_users = sorted(range(len(vocabulary.users)), key=lambda token: vocabulary.users[token])
    assert (model.bias.detach()[by_users].diff() >= 0).all()
    assert model.bias.detach().exp().sum() == pytest.approx(1.0, abs=1e-3)


def test_ten_steps_are_five_and_five_bit_for_bit(shards, vocabulary, tmp_path):
    config = shortened(10)
    seen: list[float] = []
    pretrain(shards, vocabulary, config, tmp_path / "a", on_step=lambda m: seen.append(m["loss"]))
    first, second = [], []
    stopped = pretrain(
        shards,
        vocabulary,
        config,
        tmp_path / "b",
        on_step=lambda m: first.append(m["loss"]),
        should_stop=lambda: len(first) == 5,
    )
    assert not stopped.completed
    assert not (tmp_path / "b" / "training.json").exists()
    torch.rand(100)  # whatever happened in between to the global generator
    resumed = pretrain(
        shards, vocabulary, config, tmp_path / "b", on_step=lambda m: second.append(m["loss"])
    )
    assert resumed.completed
    assert len(second) == 5
    assert first + second == seen
    for file in ("model.safetensors", "config.json", "vocabulary.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    assert list((tmp_path / "b" / "tensorboard").rglob("events.out.tfevents*"))

    third: list[float] = []
    again = pretrain(
        shards, vocabulary, config, tmp_path / "b", on_step=lambda m: third.append(m["loss"])
    )
    assert third == []
    assert again.held_out == resumed.held_out


def test_a_killed_training_goes_on_from_the_newest_complete_checkpoint(
    shards, vocabulary, tmp_path
):
    config = shortened(10)
    pretrain(shards, vocabulary, config, tmp_path / "whole")

    def kill(metrics):
        if metrics["step"] == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pretrain(shards, vocabulary, config, tmp_path / "cut", on_step=kill)
    checkpoints = next((tmp_path / "cut" / "checkpoints").iterdir())
    assert [path.name for path in checkpoints.iterdir()] == ["step-00000005"]
    (checkpoints / "partial-00000008").mkdir()  # what a kill within a write leaves
    pretrain(shards, vocabulary, config, tmp_path / "cut")
    whole_weights = load_file(tmp_path / "whole" / "model.safetensors")
    for name, weights in load_file(tmp_path / "cut" / "model.safetensors").items():
        assert torch.equal(weights, whole_weights[name])


def test_nan_stops_naming_the_batch(shards, vocabulary, tmp_path):
    with pytest.raises(DivergedError, match=r"step \d+.*users [0-9a-f]{32}"):
        pretrain(shards, vocabulary, shortened(10, learning_rate=math.inf), tmp_path)
    assert not (tmp_path / "training.json").exists()


def test_other_vocabulary_is_refused(shards, vocabulary, tmp_path):
    with pytest.raises(ValueError, match="vocabulary"):
        pretrain(shards, replace(vocabulary, min_users=99), shortened(5), tmp_path)


def test_scores_do_not_depend_on_later_events(encoder):
    events = journey()["clean_events"]
    past = events.filter(pl.col("event_time") < CUT)
    users = past["user_id"].unique().sort().to_list()
    nobody = "f" * 32
    ids, scores = encoder.item_scores(events.lazy(), CUT, [nobody, *users])
    assert ids == list(encoder.vocabulary.item_tokens)
    assert scores.shape == (len(users) + 1, len(ids))
    assert scores.dtype == np.float32
    assert not scores[0].any()
    assert scores[1:].any(axis=1).all()
    _, again = encoder.item_scores(past.lazy(), CUT, [nobody, *users])
    np.testing.assert_array_equal(scores, again)
    _, few = encoder.item_scores(past.lazy(), CUT, users[:3])
    np.testing.assert_allclose(few, scores[1:4], rtol=1e-4, atol=1e-4)

    found, vectors = encoder.user_embeddings(events.lazy(), CUT)
    assert found == users
    assert vectors.shape == (len(users), TINY.model.dim)
    np.testing.assert_array_equal(vectors, encoder.user_embeddings(past.lazy(), CUT)[1])
    assert encoder.item_embeddings()[1].shape == (len(ids), TINY.model.dim)


def test_nobody_before_as_of(encoder):
    events = journey()["clean_events"].lazy()
    early = AS_OF - timedelta(days=2000)
    assert encoder.user_embeddings(events, early)[1].shape == (0, TINY.model.dim)
    assert not encoder.item_scores(events, early, ["0" * 32])[1].any()


def test_the_report_beats_popularity_and_refuses_seen_time(encoder):
    events = journey()["clean_events"].lazy()
    report = encoder_report(encoder, events, encoder.fitted_before)
    rankings = report["rankings"]
    assert rankings["encoder"]["ndcg"] > rankings["popularity_91d"]["ndcg"]
    assert all(math.isfinite(loss) for loss in report["held_out"].values())
    assert "| encoder |" in report_markdown(report)
    with pytest.raises(ValueError, match="fitted before"):
        encoder_report(encoder, events, CUT - timedelta(days=1))


def test_where_nobody_bought_the_report_has_no_ranking(encoder):
    events = journey()["clean_events"].filter(pl.col("event_time") < CUT).lazy()
    report = encoder_report(encoder, events, CUT, start=encoder)
    assert (report["users"], report["rankings"], report["held_out"]) == (0, {}, {})
    assert "by 0 users" in report_markdown(report)


def test_what_counts_as_bought_is_the_business_s_conversion(encoder):
    played = pl.col("event_type").replace({"purchase": "play"})
    events = journey()["clean_events"].with_columns(played).lazy()
    report = encoder_report(encoder, events, CUT, conversions=("play",))
    assert report["users"] > 0
    assert encoder_report(encoder, events, CUT)["users"] == 0
