"""Item texts: what they say, when it was known, each distinct text read once, offline."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
import pytest
import torch

from seq_ml import schema
from seq_ml.encoder.data.texts import ItemTexts, described, make_item_texts, text_files
from seq_ml.language.text_model import SHIPPED, TextModel, load_language, load_tokenizer
from seq_ml.tokens.vocabulary import Vocabulary

if TYPE_CHECKING:
    from pathlib import Path

NOW = datetime(2017, 6, 1, tzinfo=UTC)


def catalogue(*rows: dict[str, object]) -> pl.DataFrame:
    """Catalogue rows with some values given."""
    sound = {"is_merchandise": True, "valid_from": NOW - timedelta(days=9), "brand": "National"}
    blank = dict.fromkeys(schema.ITEMS.names)
    types = schema.ITEMS.polars_schema()
    return pl.DataFrame([blank | sound | row for row in rows], schema=types)


def words(items: pl.DataFrame, bought: list[str]) -> Vocabulary:
    events = pl.DataFrame(
        {"user_id": "u", "item_id": bought, "event_time": NOW - timedelta(days=1),
         "event_type": "view", "unit_price": 1.0, "quantity": 1.0}
    )  # fmt: skip
    return Vocabulary.fit([events.lazy()], items, before=NOW, min_users=1)


def test_a_text_says_what_the_catalogue_knew_before_the_cut():
    items = catalogue(
        {"item_id": "a", "title": "APPLE", "category": "FRUIT", "description": " 1 LB "},
        {"item_id": "a", "title": "PEAR", "category": "FRUIT", "valid_from": NOW},
        {"item_id": "b"},
        {"item_id": "c", "title": "", "category": "MILK"},
        {"item_id": "d", "title": "LATER", "valid_from": NOW},
    )
    found = described(items.sample(fraction=1, shuffle=True, seed=1), NOW)
    assert found.rows() == [
        ("a", "FRUIT", "APPLE, 1 LB, National, FRUIT"),
        ("b", None, ""),
        ("c", "MILK", "National, MILK"),
    ]


def test_each_token_has_its_text_and_a_unit_vector():
    items = catalogue(
        {"item_id": "a", "title": "KETCHUP", "category": "SAUCES"},
        {"item_id": "b", "title": "KETCHUP", "category": "SAUCES"},
        {"item_id": "c"},
    )
    vocabulary = words(items, ["a", "b", "c"])
    texts = make_item_texts(vocabulary, items, before=NOW, pretrained=SHIPPED)
    said = dict(zip(vocabulary.tokens, texts.texts, strict=True))
    assert said["category", "SAUCES"] == "SAUCES"
    assert said["item", "a"] == said["item", "b"] == "KETCHUP, National, SAUCES"
    assert said["item", "c"] == ""
    assert texts.vectors.shape == (4, 384)
    norm = np.linalg.norm(texts.vectors, axis=1)
    np.testing.assert_allclose(norm, [float(text != "") for text in texts.texts], atol=1e-5)


def test_vectors_tell_meaning_and_do_not_depend_on_company():
    model = TextModel(SHIPPED)
    alone = model.vectors(["frozen pizza"])
    many = model.vectors(["pizza, deep frozen, family size", "", "car battery", "frozen pizza"])
    np.testing.assert_allclose(alone[0], many[3], atol=0.01)  # bf16 where the machine has it
    assert many[3] @ many[0] > many[3] @ many[2] + 0.2
    assert not many[1].any()


def test_the_cache_gives_the_same_vectors_without_reading_again(tmp_path, monkeypatch):
    said = ["apple", "pear", "apple"]
    fresh = TextModel(SHIPPED, tmp_path).vectors(said)
    read: list[str] = []
    tell = TextModel._read

    def look(self, texts):
        read.extend(texts)
        return tell(self, texts)

    monkeypatch.setattr(TextModel, "_read", look)
    np.testing.assert_array_equal(TextModel(SHIPPED, tmp_path).vectors(said), fresh)
    assert read == []
    TextModel(SHIPPED, tmp_path).vectors([*said, "plum"])
    assert read == ["plum"]
    assert [path.suffix for path in tmp_path.iterdir()] == [".safetensors"]


@pytest.mark.parametrize("name", ["no/such-model", "../nowhere"])
def test_a_model_that_is_not_there_is_told_in_a_sentence(name):
    with pytest.raises(ValueError, match=f"'{name}' cannot be loaded.*safetensors"):
        TextModel(name).vectors(["apple"])


def small_model(folder: Path) -> str:
    """Save a language model of one layer with the shipped tokenizer."""
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    tokenizer = load_tokenizer(SHIPPED)
    shape = BertConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=32,
    )  # fmt: skip
    BertModel(shape).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def test_any_saved_model_reads_texts_and_another_cache(tmp_path):
    name = small_model(tmp_path / "model")
    found = TextModel(name, tmp_path / "cache").vectors(["apple", "pear"])
    assert found.shape == (2, 16)
    TextModel(SHIPPED, tmp_path / "cache").vectors(["apple"])
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_saved_texts_come_back_with_the_language_model_without_weights(tmp_path):
    name = small_model(tmp_path / "model")
    texts = ItemTexts(("apple", ""), np.eye(2, 16, dtype=np.float32), name)
    (tmp_path / "encoder").mkdir()
    texts.save(tmp_path / "encoder")
    files = text_files(tmp_path / "encoder")
    assert {"texts.json", "texts.safetensors", "language/config.json"} <= set(files)
    back = ItemTexts.load(tmp_path / "encoder")
    assert back is not None
    assert back.texts == texts.texts
    assert back.version == texts.version
    assert load_language(back.source).config.hidden_size == 16
    assert (
        load_tokenizer(back.source)("apple pie")["input_ids"]
        == (load_tokenizer(SHIPPED)("apple pie")["input_ids"])
    )
    assert not list((tmp_path / "encoder").rglob("language/*.safetensors"))
    assert replace(texts, texts=("pear", "")).version != texts.version
    assert ItemTexts.load(tmp_path) is None
