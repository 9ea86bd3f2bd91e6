"""Texts of the vocabulary's items, and their vectors by a pretrained text model.

The text model (`TextModel`) is the shipped all-MiniLM-L6-v2 (Reimers and Gurevych 2019, Wang et al.
2020) or any other that `from_pretrained` takes; nothing is downloaded. A catalogue says the same
about many items (92,331 products of Complete Journey have 20,735 distinct texts), so each distinct
text is read once, and a cache keeps its vector for the next training.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import polars as pl
from safetensors.numpy import load_file, save_file

from seq_ml.language.text_model import LANGUAGE, MOST_CHARACTERS, TextModel, _loaded, load_tokenizer

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from seq_ml.encoder.config import ModelConfig
    from seq_ml.tokens.vocabulary import Vocabulary

    Vectors = NDArray[np.float32]

TEXTS, VECTORS = "texts.json", "texts.safetensors"
READ_COLUMNS = ("title", "description", "brand", "category")
"""Columns of the catalogue that make an item's text, in this order."""


@dataclass(frozen=True)
class ItemTexts:
    """What is written about each token of a vocabulary, from SPECIAL on.

    texts: one per token, "" when nothing is known.  vectors: f32 [tokens, width], of unit length;
    zeros for an empty text.  source: name or folder of the text model that made the vectors, which
    the language backbone starts from; "" without.
    """

    texts: tuple[str, ...]
    vectors: Vectors
    source: str = ""

    @cached_property
    def version(self) -> str:
        """Hash of texts and vectors."""
        content = json.dumps(self.texts).encode() + self.vectors.tobytes()
        return hashlib.sha256(content).hexdigest()[:16]

    def save(self, folder: Path) -> None:
        """Write the texts, the vectors, and the text model's configuration and tokenizer.

        With them, and with its own weights, an encoder loads without the text model.
        """
        (folder / TEXTS).write_text(json.dumps(self.texts))
        save_file({"vectors": self.vectors}, folder / VECTORS)
        if self.source and self.source != str(folder / LANGUAGE):
            from transformers import AutoConfig

            _loaded(AutoConfig, self.source).save_pretrained(folder / LANGUAGE)
            load_tokenizer(self.source).save_pretrained(folder / LANGUAGE)

    @classmethod
    def load(cls, folder: Path) -> ItemTexts | None:
        """Read what `save` wrote; None when there is nothing."""
        if not (folder / TEXTS).exists():
            return None
        texts = tuple(json.loads((folder / TEXTS).read_text()))
        language = folder / LANGUAGE
        source = str(language) if language.exists() else ""
        return cls(texts, load_file(folder / VECTORS)["vectors"], source)


def text_files(folder: Path) -> list[str]:
    """Names, relative to `folder`, of all files that `ItemTexts.save` wrote there."""
    files = [folder / TEXTS, folder / VECTORS, *sorted((folder / LANGUAGE).glob("*"))]
    return [str(path.relative_to(folder)) for path in files if path.exists()]


def make_item_texts(
    vocabulary: Vocabulary,
    items: pl.DataFrame,
    *,
    before: datetime,
    pretrained: str,
    cache: Path | None = None,
) -> ItemTexts:
    """Texts and vectors of all tokens: an item's from the catalogue, a category's is its name.

    items: schema ITEMS; only rows known before `before` are read.  pretrained, cache: as in
    `TextModel`.  Raises ValueError when the text model cannot be loaded.
    """
    known = dict(described(items, before).select("item_id", "text").iter_rows())
    texts = tuple(
        name if kind == "category" else known.get(name, "") for kind, name in vocabulary.tokens
    )
    return ItemTexts(texts, TextModel(pretrained, cache).vectors(texts), pretrained)


def texts_to_read(
    config: ModelConfig,
    vocabulary: Vocabulary,
    items: pl.DataFrame,
    *,
    before: datetime,
    cache: Path | None = None,
) -> ItemTexts | None:
    """Make the texts that a model of this configuration reads; None when it reads none."""
    if not config.text and config.backbone != "language":
        return None
    return make_item_texts(
        vocabulary, items, before=before, pretrained=config.pretrained, cache=cache
    )


def item_text() -> pl.Expr:
    """Text of a catalogue row; "" when at most the brand is known, which says too little."""
    columns = {name: pl.col(name).str.strip_chars().replace("", None) for name in READ_COLUMNS}
    something = [said.is_not_null() for name, said in columns.items() if name != "brand"]
    text = pl.concat_str(columns.values(), separator=", ", ignore_nulls=True)
    cut = text.str.slice(0, MOST_CHARACTERS)
    return pl.when(pl.any_horizontal(something)).then(cut).otherwise(pl.lit("")).alias("text")


def described(items: pl.DataFrame, before: datetime) -> pl.DataFrame:
    """Newest row of each item known before `before`: item_id, category, text; sorted by item_id."""
    return (
        items.filter(pl.col("valid_from") < before)
        .sort("item_id", "valid_from")
        .unique("item_id", keep="last", maintain_order=True)
        .select("item_id", "category", item_text())
    )
