"""The language backbone: behaviour as text, a vector per event, trained along, reloaded offline."""

from __future__ import annotations

import shutil
from dataclasses import replace
from datetime import timedelta

import numpy as np
import polars as pl
import pytest
import torch

from seq_ml.encoder.config import PRESETS, EncoderConfig
from seq_ml.encoder.data.batches import collate, make_queries, mask_of, valid
from seq_ml.encoder.data.moments import moments_at
from seq_ml.encoder.data.texts import ItemTexts, make_item_texts
from seq_ml.encoder.data.windows import Window
from seq_ml.encoder.model.behaviour import BehaviourModel, hidden, until_question
from seq_ml.encoder.model.reads_text import MOST_TOKENS, LanguageBackbone
from seq_ml.encoder.scoring.encoder import Encoder
from seq_ml.encoder.training.optimizers import PRETRAINED_SHARE, make_optimizer
from seq_ml.encoder.training.pretrain import pretrain
from seq_ml.language.text_model import SHIPPED, load_tokenizer
from seq_ml.sequences.build import build_sequences
from seq_ml.tokens.shards import write_shards
from seq_ml.tokens.vocabulary import SPECIAL, Tokens, Vocabulary
from tests.data import AS_OF, journey
from tests.encoder.data.test_texts import small_model

CUT = AS_OF - timedelta(days=91)
HOUSEHOLDS = 12


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory) -> str:
    return small_model(tmp_path_factory.mktemp("pretrained"))


@pytest.fixture(scope="module")
def config(pretrained) -> EncoderConfig:
    tiny = PRESETS["tiny"]
    return replace(
        tiny,
        model=replace(tiny.model, backbone="language", pretrained=pretrained, context=24),
        training=replace(
            tiny.training, steps=6, windows=4, queries=2, evaluate_every=3, checkpoint_every=3,
            held_out_share=0.2,
        ),
    )  # fmt: skip


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    data = journey(HOUSEHOLDS)
    return Vocabulary.fit([data["clean_events"].lazy()], data["items"], before=CUT, min_users=3)


@pytest.fixture(scope="module")
def texts(vocabulary, pretrained) -> ItemTexts:
    return make_item_texts(
        vocabulary, journey(HOUSEHOLDS)["items"], before=CUT, pretrained=pretrained
    )


@pytest.fixture(scope="module")
def sequences() -> pl.DataFrame:
    events = journey(HOUSEHOLDS)["clean_events"].lazy()
    return build_sequences(events, as_of=CUT, max_events=512, shards=1)


@pytest.fixture(scope="module")
def tokens(vocabulary, sequences) -> Tokens:
    return vocabulary.encode(sequences)


@pytest.fixture(scope="module")
def backbone(config, vocabulary, texts) -> LanguageBackbone:
    torch.manual_seed(0)
    return LanguageBackbone(config.model, vocabulary, texts).eval()


def newest(tokens: Tokens, row: int, length: int) -> Window:
    stop = int(tokens.offset[row + 1])
    return Window(tokens, row, max(int(tokens.offset[row]), stop - length), stop)


def read(backbone: LanguageBackbone, events) -> list[str]:
    tokenizer = load_tokenizer(SHIPPED)
    found = backbone.sentences(events, valid(events))
    return [
        tokenizer.decode(row[: int(length)])
        for row, length in zip(found.token, found.length, strict=True)
    ]


def test_behaviour_is_told_as_text(backbone, vocabulary, texts, tokens):
    row = int(np.argmax(tokens.lengths))
    window = newest(tokens, row, 6)
    (text,) = read(backbone, collate([window]))
    assert text.startswith("[CLS]")
    assert text.endswith("[SEP]")
    assert "purchase :" in text
    assert "later" in text or "at once" in text
    for item in tokens.item[window.start : window.stop]:
        if item >= SPECIAL:
            assert texts.texts[item - SPECIAL].lower().split()[0].split(",")[0][:4] in text


def test_a_hidden_item_is_the_mask_and_a_tick_asks_what_is_next(backbone, vocabulary, tokens):
    windows = [newest(tokens, 0, 5), newest(tokens, 1, 3)]
    events = collate(windows)
    asked = read(backbone, hidden(events, torch.tensor([0]), torch.tensor([2])))
    assert asked[0].count("[MASK]") == 1
    assert "[MASK]" not in asked[1]
    ticks, moments = moments_at(windows, np.full(2, int(CUT.timestamp())), most=8)
    queries = make_queries(windows, moments, mask_of(vocabulary, ("purchase",)))
    for text in read(backbone, until_question(collate(windows, ticks), queries)):
        assert text.endswith("[SEP]")
        assert "later next :" in text


def test_only_the_newest_events_fit_and_the_older_keep_their_own_vector(backbone, tokens):
    row = int(np.argmax(tokens.lengths))
    events = collate([newest(tokens, row, 120)])
    found = backbone.sentences(events, valid(events))
    assert found.token.shape[1] <= MOST_TOKENS
    told = sorted(set(found.event[0].tolist()) - {-1})
    assert told == list(range(told[0], 120))
    assert told[0] > 0
    embedded = torch.randn(1, 120, backbone.project.out_features)
    with torch.no_grad():
        states = backbone(events, embedded, valid(events), causal=False)
    torch.testing.assert_close(states[:, : told[0]], backbone.norm(embedded[:, : told[0]]))
    moved = (states - backbone.norm(embedded)).abs().amax(2)[0]
    assert (moved[told[0] :] > 1e-4).all()


def test_padding_and_company_change_nothing(backbone, tokens):
    short, long = newest(tokens, 0, 4), newest(tokens, int(np.argmax(tokens.lengths)), 20)
    both = collate([short, long])
    alone = collate([short])
    embedded = torch.randn(2, 20, backbone.project.out_features)
    with torch.no_grad():
        together = backbone(both, embedded, valid(both), causal=False)[0, :4]
        single = backbone(alone, embedded[:1, :4], valid(alone), causal=False)[0]
    torch.testing.assert_close(together, single, rtol=1e-4, atol=1e-5)


def test_reading_in_parts_gives_the_same_gradients(backbone, tokens, monkeypatch):
    events = collate([newest(tokens, row, 8) for row in range(4)])
    embedded = torch.randn(4, 8, backbone.project.out_features)
    weight = backbone.language.get_input_embeddings().weight

    def gradient() -> torch.Tensor:
        states = backbone(events, embedded, valid(events), causal=False)
        return torch.autograd.grad((states[valid(events)] ** 3).sum(), weight)[0]

    whole = gradient()
    assert whole.abs().sum() > 0
    monkeypatch.setattr("seq_ml.encoder.model.reads_text.TOKENS_AT_ONCE", 1)
    torch.testing.assert_close(gradient(), whole, rtol=1e-3, atol=1e-5)


def test_it_trains_scores_and_reloads_without_the_language_model(
    config, vocabulary, texts, sequences, tmp_path
):
    name = tmp_path / "model"
    shutil.copytree(texts.source, name)
    texts = replace(texts, source=str(name))
    shards = tmp_path / "shards"
    write_shards([sequences], vocabulary, shards)
    result = pretrain(shards, vocabulary, config, tmp_path / "encoder", texts=texts)
    assert result.completed
    shutil.rmtree(name)

    encoder = Encoder.load(tmp_path / "encoder")
    start = BehaviourModel(config.model, vocabulary, replace(texts, source=config.model.pretrained))
    learnt = encoder.model.backbone.language.state_dict()
    moved = [
        not torch.equal(tensor, learnt[key])
        for key, tensor in start.backbone.language.state_dict().items()
    ]
    assert any(moved)

    events = journey(HOUSEHOLDS)["clean_events"].lazy()
    users = sequences["user_id"].to_list()[:4]
    ids, scores = encoder.item_scores(events, CUT, users)
    past = events.filter(pl.col("event_time") < CUT)
    np.testing.assert_array_equal(encoder.item_scores(past, CUT, users)[1], scores)
    assert scores.shape == (4, len(ids))
    assert np.isfinite(scores).all()
    assert scores.std(axis=0).max() > 0  # users differ
    assert not list((tmp_path / "encoder" / "language").glob("*.safetensors"))


def test_the_language_model_learns_slower_than_what_is_new(config, vocabulary, texts):
    model = BehaviourModel(config.model, vocabulary, texts)
    optimizer = make_optimizer(model.named_parameters(), config.training)
    share = {id(p): group["share"] for group in optimizer.param_groups for p in group["params"]}
    for name, parameter in model.named_parameters():
        expected = PRETRAINED_SHARE if name.startswith("backbone.language.") else 1.0
        assert share[id(parameter)] == expected


def test_the_shipped_model_reads_the_users_of_a_shop(vocabulary, texts, sequences, config):
    model = replace(config.model, pretrained=SHIPPED, context=16)
    encoder = Encoder(
        BehaviourModel(model, vocabulary, replace(texts, source=SHIPPED)),
        vocabulary,
        replace(config, model=model),
        version="none",
        fitted_before=CUT,
    )
    found, vectors = encoder.embed(sequences[:3], CUT)
    assert found == sequences["user_id"].to_list()[:3]
    assert vectors.shape == (3, model.dim)
    assert np.linalg.norm(vectors[0] - vectors[1]) > 1e-3


def test_texts_without_a_language_model_are_refused(config, vocabulary, texts):
    with pytest.raises(ValueError, match="make_item_texts"):
        BehaviourModel(config.model, vocabulary, replace(texts, source=""))
    with pytest.raises(ValueError, match="give it the texts"):
        BehaviourModel(config.model, vocabulary)
