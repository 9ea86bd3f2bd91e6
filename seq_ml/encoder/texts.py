"""Texts of the vocabulary's items, and their vectors."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from safetensors.numpy import load_file, save_file

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

TEXTS, VECTORS = "texts.json", "texts.safetensors"


@dataclass(frozen=True)
class ItemTexts:
    """What is written about each token of a vocabulary, from SPECIAL on.

    texts: one per token, "" when nothing is known.  vectors: f32 [tokens, width], of unit length;
    zeros for an empty text.
    """

    texts: tuple[str, ...]
    vectors: NDArray[np.float32]

    @cached_property
    def version(self) -> str:
        """Hash of the whole content."""
        content = json.dumps(self.texts).encode() + self.vectors.tobytes()
        return hashlib.sha256(content).hexdigest()[:16]

    def save(self, folder: Path) -> None:
        """Write both files."""
        (folder / TEXTS).write_text(json.dumps(self.texts))
        save_file({"vectors": self.vectors}, folder / VECTORS)

    @classmethod
    def load(cls, folder: Path) -> ItemTexts | None:
        """Read what `save` wrote; None when there is nothing."""
        if not (folder / TEXTS).exists():
            return None
        texts = tuple(json.loads((folder / TEXTS).read_text()))
        return cls(texts, load_file(folder / VECTORS)["vectors"])
