"""Warm start: old rows stay, new ones begin near theirs, training resumes, forgetting is told."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.torch import load_file, save_file

from seq_ml.encoder.config import PRESETS
from seq_ml.encoder.data.order import Order, Replay, split_windows
from seq_ml.encoder.data.texts import ItemTexts
from seq_ml.encoder.evaluation.report import (
    encoder_report,
    gained_and_forgotten,
    report_markdown,
)
from seq_ml.encoder.model.behaviour import BehaviourModel
from seq_ml.encoder.scoring.encoder import Encoder
from seq_ml.encoder.training.growth import choose_start, continued, cut_back, grow, read_start
from seq_ml.encoder.training.pretrain import pretrain
from seq_ml.sequences.build import build_sequences
from seq_ml.storage.artifacts import (
    forbid,
    publish_folder,
)
from seq_ml.tokens.shards import read_shards, write_shards
from seq_ml.tokens.vocabulary import SPECIAL, Vocabulary
from tests.data import AS_OF, journey

if TYPE_CHECKING:
    from pathlib import Path

CUT = AS_OF - timedelta(days=60)
OLD_CUT = CUT - timedelta(days=31)
TINY = PRESETS["tiny"]
CONFIG = replace(
    TINY,
    training=replace(
        TINY.training,
        steps=20,
        warm_steps=0.5,
        held_out_share=0.0,  # nobody says that the start was better
        checkpoint_every=5,
        threads=1,
    ),
)
FILES = ("config.json", "model.safetensors", "training.json", "vocabulary.json")


def items() -> pl.DataFrame:
    """The catalogue, of which some categories become known after the old cut-off only."""
    frame = journey()["items"]
    late = frame["category"].drop_nulls().unique().sort().gather_every(4).implode()
    return frame.with_columns(
        valid_from=pl.when(pl.col("category").is_in(late))
        .then(pl.lit(OLD_CUT + timedelta(days=1)))
        .otherwise(pl.col("valid_from"))
    )


@pytest.fixture(scope="module")
def old_words() -> Vocabulary:
    events = journey()["clean_events"].lazy()
    return Vocabulary.fit([events], items(), before=OLD_CUT, min_users=TINY.min_users)


@pytest.fixture(scope="module")
def words(old_words) -> Vocabulary:
    return old_words.extend([journey()["clean_events"].lazy()], items(), before=CUT)


def shards_of(words: Vocabulary, cut: datetime, folder: Path) -> Path:
    events = journey()["clean_events"].lazy()
    sequences = build_sequences(events, as_of=cut, max_events=TINY.max_events, shards=2)
    write_shards(sequences.sort("shard").partition_by("shard"), words, folder)
    return folder


@pytest.fixture(scope="module")
def shards(words, tmp_path_factory) -> Path:
    return shards_of(words, CUT, tmp_path_factory.mktemp("shards"))


@pytest.fixture(scope="module")
def start(old_words, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("old")
    out = tmp_path_factory.mktemp("start")
    assert pretrain(shards_of(old_words, OLD_CUT, folder), old_words, CONFIG, out).completed
    return out


@pytest.fixture(scope="module")
def warm(shards, words, start, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("warm")
    assert pretrain(shards, words, CONFIG, out, start=start).completed
    return out


def grown(start: Path, words: Vocabulary, texts: ItemTexts | None = None) -> BehaviourModel:
    torch.manual_seed(1)
    model = BehaviourModel(CONFIG.model, words, texts)
    grow(model, read_start(start, words, CONFIG), words, texts)
    return model


def test_old_rows_are_bit_for_bit_the_same(start, old_words, words):
    assert len(words.categories) > len(old_words.categories)
    weights = grown(start, words).state_dict()
    old = load_file(start / "model.safetensors")
    assert weights.keys() == old.keys()
    larger = {name for name in old if weights[name].shape != old[name].shape}
    assert larger == {"item.weight", "fields.category.weight", "bias"}
    for name, tensor in old.items():
        assert torch.equal(weights[name][: len(tensor)], tensor)
        assert weights[name].isfinite().all()


def test_a_grown_encoder_knows_what_the_old_one_knew(start, words):
    old = Encoder.load(start)
    new = Encoder(grown(start, words), words, CONFIG, version="new", fitted_before=CUT)
    events = journey()["clean_events"].lazy()
    users = journey()["clean_events"]["user_id"].unique().sort().head(5).to_list()
    back = cut_back(new, old)
    assert back.version == "new"
    expected = old.item_scores(events, OLD_CUT, users)
    found = back.item_scores(events, OLD_CUT, users)
    assert found[0] == expected[0]
    np.testing.assert_array_equal(found[1], expected[1])


def test_a_new_behaviour_begins_as_the_mean_of_the_old_ones(start, words):
    own = replace(words, behaviours=(*words.behaviours, "letter"))
    model, weights = grown(start, own), load_file(start / "model.safetensors")
    old = weights["fields.behaviour.weight"]
    rows = model.state_dict()["fields.behaviour.weight"]
    assert torch.equal(rows[:-1], old)
    assert torch.allclose(rows[-1], old[1:].mean(dim=0))
    more = replace(CONFIG.model, interest=(*CONFIG.model.interest, "letter"))
    assert read_start(start, own, replace(CONFIG, model=more)).folder == start
    with pytest.raises(ValueError, match="behaviours differ"):
        read_start(start, replace(words, behaviours=words.behaviours[::-1]), CONFIG)


def test_a_new_item_begins_as_the_mean_of_its_category(start, old_words, words):
    rows = grown(start, words).item.weight.detach()
    category, old = words.token_categories, len(old_words)
    everything = rows[SPECIAL:old].mean(dim=0)
    seen = set()
    for token in range(old, len(words)):
        same = np.flatnonzero(category[SPECIAL:old] == category[token]) + SPECIAL
        known = bool(category[token] and len(same))
        expected = rows[same].mean(dim=0) if known else everything
        torch.testing.assert_close(rows[token], expected)
        seen.add(known)
    assert seen == {True, False}


def test_a_new_item_begins_as_its_nearest_texts_when_there_are_any(start, old_words, words):
    random = np.random.default_rng(0)
    vectors = random.normal(size=(len(words.tokens), 16)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    old, new = len(old_words.tokens), len(words.tokens) - 1
    vectors[new - 1] = vectors[:8].mean(axis=0) * 10  # nearest to the first eight
    vectors[8:old] -= 0.9 * vectors[8:old] @ vectors[[new - 1]].T * vectors[[new - 1]]
    vectors[new] = 0  # no text: as without texts
    texts = ItemTexts(("",) * len(words.tokens), vectors)
    rows = grown(start, words, texts).item.weight.detach()[SPECIAL:]
    nearest = np.argsort(-(vectors[:old] @ vectors[new - 1]))[:8]
    torch.testing.assert_close(rows[new - 1], rows[nearest].mean(dim=0))
    without = grown(start, words).item.weight.detach()[SPECIAL:]
    torch.testing.assert_close(rows[new], without[new])


def test_the_bias_of_new_items_is_their_share_of_users_beside_the_old_ones(start, old_words, words):
    model, old = grown(start, words), len(old_words.tokens)
    users = torch.tensor(old_words.users) + 0.5
    moved = (model.bias.detach()[:old] - torch.log(users / users.sum())).mean()
    torch.testing.assert_close(model.bias.detach()[old:], model.popularity[old:] + moved)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"tokens": 2}, "tokens"),
        ({"categories": 2}, "categories"),
        ({"price_edges": 1}, "price bands"),
        ({"quantity_edges": 1}, "quantity bands"),
    ],
    ids=["tokens", "categories", "prices", "quantities"],
)
def test_a_vocabulary_that_does_not_extend_the_old_one_is_refused(
    start, words, shards, tmp_path, change, what
):
    moved = {name: getattr(words, name)[step:] for name, step in change.items()}
    with pytest.raises(ValueError, match=f"does not extend that of encoder [0-9a-f]+: {what}"):
        read_start(start, replace(words, **moved), CONFIG)


def test_another_model_is_refused(start, words, shards, tmp_path):
    wider = replace(CONFIG, model=replace(CONFIG.model, dim=32))
    with pytest.raises(ValueError, match="another model configuration"):
        pretrain(shards, words, wider, tmp_path, start=start)
    for path in start.iterdir():
        if path.is_file():
            (tmp_path / path.name).write_bytes(path.read_bytes())
    weights = load_file(start / "model.safetensors")
    weights["query.0.weight"] = weights["query.0.weight"][:-1].clone()
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"query\.0\.weight of shape"):
        grown(tmp_path, words)
    facts = json.loads((start / "training.json").read_text()) | {"format": 0}
    (tmp_path / "training.json").write_text(json.dumps(facts))
    with pytest.raises(ValueError, match="another version of the training code"):
        read_start(tmp_path, words, CONFIG)


def test_a_warm_start_has_steps_of_its_own(start, warm, words):
    plan = continued(CONFIG)
    facts = json.loads((warm / "training.json").read_text())
    before = json.loads((start / "training.json").read_text())
    assert facts["step"] == plan.training.steps == 10
    assert facts["continued_from"] == before["training_id"]
    assert before["continued_from"] is None
    assert facts["scratch_before"] == before["fitted_before"] == OLD_CUT.isoformat()
    assert facts["fitted_before"] == CUT.isoformat()
    # what is published names the whole configuration, so that the next night can continue
    assert (warm / "config.json").read_bytes() == CONFIG.to_bytes()


def test_ten_warm_steps_are_five_and_five_bit_for_bit(shards, words, start, warm, tmp_path):
    steps: list[float] = []
    stopped = pretrain(
        shards, words, CONFIG, tmp_path, start=start,
        on_step=lambda metrics: steps.append(metrics["step"]),
        should_stop=lambda: len(steps) == 5,
    )  # fmt: skip
    assert not stopped.completed
    torch.rand(100)
    resumed = pretrain(
        shards, words, CONFIG, tmp_path, start=start,
        on_step=lambda metrics: steps.append(metrics["step"]),
    )  # fmt: skip
    assert steps == list(range(1, 11))
    assert (tmp_path / "model.safetensors").read_bytes() == (
        warm / "model.safetensors"
    ).read_bytes()
    again = pretrain(shards, words, CONFIG, tmp_path, start=start, on_step=pytest.fail)
    assert again.training_id == resumed.training_id
    scratch = pretrain(shards, words, CONFIG, tmp_path, should_stop=lambda: True)
    assert scratch.training_id != resumed.training_id
    assert scratch.step == 1


def test_a_training_that_makes_it_worse_keeps_the_start(shards, words, start, tmp_path):
    settings = replace(CONFIG.training, learning_rate=10.0, held_out_share=0.1, evaluate_every=5)
    wild = replace(CONFIG, training=settings)
    result = pretrain(shards, words, wild, tmp_path, start=start)
    assert result.best_step == 0
    before = grown(start, words).state_dict()
    for name, tensor in load_file(tmp_path / "model.safetensors").items():
        assert torch.equal(tensor, before[name])


def is_new(window) -> bool:
    return bool(window.tokens.time[window.stop - 1] >= OLD_CUT.timestamp())


@pytest.mark.parametrize(("share", "new"), [(0.0, 8), (0.25, 6), (0.5, 4), (1.0, 0)])
def test_batches_hold_their_share_of_old_windows(shards, share, new):
    config = replace(CONFIG, training=replace(CONFIG.training, replay_share=share))
    windows, _ = split_windows(read_shards(shards)[1], config)
    order, again = Replay(windows, config, OLD_CUT), Replay(windows, config, OLD_CUT)
    batches = [order.batch(step) for step in range(30)]
    for step in (17, 3, 29):
        assert again.batch(step) == batches[step]
    for batch in batches:
        assert len(batch) == 8
        assert sum(map(is_new, batch)) == new
    assert len({(w.row, w.start) for batch in batches for w in batch}) > 8


def test_a_training_that_continues_is_judged_on_new_windows(shards):
    config = replace(CONFIG, training=replace(CONFIG.training, held_out_share=0.3))
    parts = read_shards(shards)[1]
    _, everything = split_windows(parts, config)
    _, new = split_windows(parts, config, OLD_CUT)
    assert 0 < len(new) < len(everything)
    assert all(map(is_new, new))
    assert len(split_windows(parts, config, AS_OF)[1]) == len(everything)  # nothing is new


def test_old_windows_fill_the_batches_where_new_ones_are_few(shards):
    windows, _ = split_windows(read_shards(shards)[1], CONFIG)
    lasts = sorted(windows.window(n).tokens.time[windows.stop[n] - 1] for n in range(len(windows)))
    since = datetime.fromtimestamp(int(lasts[-3]), UTC)
    batch = Replay(windows, CONFIG, since).batch(0)
    new = [window.tokens.time[window.stop - 1] >= lasts[-3] for window in batch]
    assert (len(batch), sum(new)) == (8, 3)


@pytest.mark.parametrize("since", [OLD_CUT - timedelta(days=999), AS_OF], ids=["all", "none"])
def test_batches_are_whole_when_all_or_no_windows_are_new(shards, since):
    windows, _ = split_windows(read_shards(shards)[1], CONFIG)
    order = Replay(windows, CONFIG, since)
    assert order.batch(3) == Order(windows, CONFIG).batch(3)


def test_the_report_says_what_was_gained_and_what_forgotten(start, warm):
    events = journey()["clean_events"].lazy()
    old, new = Encoder.load(start), Encoder.load(warm)
    report = encoder_report(new, events, CUT, start=old)
    found = report["continued"]
    assert found["start"] == old.version
    assert found["new"]["from"] == CUT.isoformat()
    assert found["old"]["from"] == (OLD_CUT - timedelta(days=30)).isoformat()
    for slice_ in (found["new"], found["old"]):
        assert slice_["low"] <= slice_["difference"] <= slice_["high"]
        assert slice_["difference"] == pytest.approx(slice_["after"] - slice_["before"])
        assert slice_["losses_before"].keys() == {"next_basket"}
        assert slice_["losses_after"] != slice_["losses_before"]
    text = report_markdown(report)
    assert f"Continued from encoder {old.version}" in text
    assert "items it knows: forgetting | NDCG@10" in text
    # an encoder compared with itself gained nothing and forgot nothing
    same = gained_and_forgotten(old, old, events, OLD_CUT)
    assert {same[name]["difference"] for name in ("new", "old")} == {0.0}
    assert same["old"]["losses_before"] == same["old"]["losses_after"]


def test_the_start_is_the_encoder_below_as_long_as_it_fits(
    objects, start, warm, old_words, words, tmp_path
):
    newest: list[str | None] = [None]

    def choose(vocabulary=words, config=CONFIG, *, days=60):
        folder, reason = choose_start(
            objects, "models/encoder", tmp_path, vocabulary, config, newest=newest[-1],
            full_retrain_days=days,
        )  # fmt: skip
        return folder and json.loads((folder / "training.json").read_text())["training_id"], reason

    def publish(folder: Path) -> str:
        version = json.loads((folder / "training.json").read_text())["training_id"]
        publish_folder(objects, "models/encoder", version, folder, files=FILES)
        newest.append(version)
        return version

    assert choose() == (None, "from scratch: there is no encoder yet")
    first = publish(start)
    assert choose() == (first, f"continued from encoder {first}, fitted before 2017-10-02")
    assert choose(days=31) == (None, "from scratch: the last time that was 31 days of data ago")
    wider = replace(CONFIG, model=replace(CONFIG.model, dim=32))
    assert choose(config=wider)[0] is None
    assert "another model configuration" in choose(config=wider)[1]
    assert "does not extend" in choose(replace(words, price_edges=()))[1]
    assert (
        "so was the encoder of the same cut-off" in choose(old_words)[1]
    )  # the same training once more

    second = publish(warm)
    assert choose()[0] == first  # again the same training, so that nothing is trained twice
    later = replace(words, fitted_before=CUT + timedelta(days=7))
    assert choose(later)[0] == second
    assert choose(later, days=38)[0] is None  # counted from the last training from scratch
    earlier = replace(words, fitted_before=CUT - timedelta(days=1))
    assert "nothing is new to encoder" in choose(earlier)[1]
    forbid(objects, "models/encoder", second)
    assert "a person was erased" in choose(later)[1]
    assert choose()[0] == first  # whose data did not hold the person
    objects.delete_prefix(f"models/encoder/{first}/")
    assert "not there any more" in choose()[1]
