"""What a generated business is: its files, and the mapping that explains them."""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import polars as pl

    Files = dict[str, pl.DataFrame]


@dataclass(frozen=True)
class Shape:
    """One business: the ten lines that explain its files, and what makes these."""

    mapping: str
    make: Callable[[], Files]


def write(files: Files, folder: Path) -> None:
    """Write files by their names: csv, jsonl, jsonl.gz."""
    for path, rows in files.items():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        text = rows.write_csv() if path.endswith(".csv") else rows.write_ndjson()
        raw = text.encode()
        target.write_bytes(gzip.compress(raw, mtime=0) if path.endswith(".gz") else raw)
