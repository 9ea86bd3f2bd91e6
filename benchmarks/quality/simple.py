"""What counting reaches: popularity, own frequency, neighbours and EASE, tuned on validation.

    python -m benchmarks.quality.simple WORK_FOLDER DATA_SET [MODEL …]

Each model has a small grid; the setting with the best NDCG@10 on the split `valid` of the same data
set is fitted again on `test`, separately for repeats and for novel items. Written are
`runs/DATA_SET/MODEL/seed-0/{lists.parquet,run.json}` in the work folder.
"""

from __future__ import annotations

import json
import sys
import time
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from scipy import sparse

from benchmarks.quality.metrics import MODES, per_user
from benchmarks.quality.peers.common import ten_best
from benchmarks.quality.splits import read_split

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.quality.splits import Split

Scores = np.ndarray
DAY = 86_400e6


class Counts:
    """The history of a split as matrices [users, items]; rows are all users, learnt from or not."""

    def __init__(self, split: Split) -> None:
        history = split.history
        self.split = split
        self.shape = (history["user"].max() + 1, split.items.height)
        self.user = history["user"].to_numpy()
        self.item = history["item"].to_numpy()
        self.learnt = history["learnt"].to_numpy()
        last = history["time"].max()
        age = (pl.lit(last) - pl.col("time")).dt.total_microseconds() / DAY
        self.age = history.select(age).to_series().to_numpy()
        self.scored = np.array(split.users)

    def matrix(self, weights: np.ndarray, *, learnt: bool = False) -> sparse.csr_matrix:
        """Sum of the weights of a user's events of an item."""
        kept = self.learnt if learnt else slice(None)
        entries = (weights[kept], (self.user[kept], self.item[kept]))
        return sparse.csr_matrix(entries, shape=self.shape, dtype=np.float32)

    def bought(self, *, learnt: bool = False, power: float = 0) -> sparse.csr_matrix:
        """How often the user had the item, to some power; 0: 1 where the user had it."""
        matrix = self.matrix(np.ones(len(self.user)), learnt=learnt)
        matrix.data **= power
        return matrix

    def popularity(self) -> np.ndarray:
        """Events of each item."""
        return np.asarray(self.matrix(np.ones(len(self.user)), learnt=True).sum(0)).ravel()


def popularity(counts: Counts, days: int) -> Scores:
    """Events of the last days."""
    weights = (counts.age < days).astype(np.float32)
    row = np.asarray(counts.matrix(weights, learnt=True).sum(0))
    return np.repeat(row, len(counts.scored), axis=0)


def frequency(counts: Counts) -> Scores:
    """How often the user had the item; equal counts by popularity."""
    return decayed_frequency(counts, 1_000_000)


def decayed_frequency(counts: Counts, half_life: int) -> Scores:
    """The same, an event counting half after so many days."""
    own = counts.matrix(0.5 ** (counts.age / half_life))[counts.scored].toarray()
    popular = counts.popularity()
    return own + 1e-4 * popular / popular.max()


def item_knn(counts: Counts, neighbours: int) -> Scores:
    """Sum of the cosines to the user's items, over each item's nearest neighbours."""
    learnt = counts.bought(learnt=True)
    norm = np.sqrt(np.maximum(np.asarray(learnt.sum(0)).ravel(), 1))
    unit = learnt @ sparse.diags(1 / norm)
    cosine = (unit.T @ unit).toarray()
    np.fill_diagonal(cosine, 0)
    if neighbours < len(cosine):
        bound = np.partition(cosine, -neighbours, axis=0)[-neighbours]
        cosine[cosine < bound] = 0
    return counts.bought()[counts.scored] @ cosine


def ease(counts: Counts, penalty: float, power: float) -> Scores:
    """Item-item regression with a zero diagonal (Steck 2019), solved over users: they are fewer.

    power: entries are counts to this power; 0: whether the user had the item.  With K = XXᵀ + λ the
    inverse Gram matrix is P = (1 − XᵀK⁻¹X)/λ, and the scores of X′ are X′ − X′P/diag(P).
    """
    learnt = counts.bought(learnt=True, power=power)
    read = counts.bought(power=power)[counts.scored]
    gram = (learnt @ learnt.T).toarray() + penalty * np.eye(counts.shape[0])
    inverse = np.linalg.inv(gram)
    diagonal = (1 - np.asarray(learnt.multiply((learnt.T @ inverse).T).sum(0)).ravel()) / penalty
    alike = (read @ learnt.T).toarray() @ inverse
    smoothed = (read.toarray() - (learnt.T @ alike.T).T) / penalty
    return (read.toarray() - smoothed / diagonal).astype(np.float32)


def tifu_knn(counts: Counts, half_life: int, neighbours: int, own: float) -> Scores:
    """Decayed counts of the user and of the nearest users, mixed (type of TIFU-kNN, Hu 2020)."""
    weights = 0.5 ** (counts.age / half_life)
    unit = _unit(counts.matrix(weights))
    learnt = _unit(counts.matrix(weights, learnt=True))
    near = (unit[counts.scored] @ learnt.T).toarray()
    near[np.arange(len(counts.scored)), counts.scored] = 0
    bound = np.partition(near, -neighbours, axis=1)[:, -neighbours]
    near[near < bound[:, None]] = 0
    near /= np.maximum(near.sum(1, keepdims=True), 1e-9)
    return own * unit[counts.scored].toarray() + (1 - own) * (near @ learnt)


def decay_and_ease(counts: Counts, half_life: int, penalty: float, share: float) -> Scores:
    """Decayed frequency over the user's highest, plus a share of EASE."""
    own = decayed_frequency(counts, half_life)
    return own / own.max(1, keepdims=True) + share * ease(counts, penalty, 0)


def _unit(matrix: sparse.csr_matrix) -> sparse.csr_matrix:
    norm = np.sqrt(np.asarray(matrix.multiply(matrix).sum(1)).ravel())
    return sparse.csr_matrix(sparse.diags(1 / np.maximum(norm, 1e-9)) @ matrix)


MODELS: dict[str, tuple[Callable[..., Scores], dict[str, tuple[Any, ...]]]] = {
    "popularity": (popularity, {"days": (28, 91, 100_000)}),
    "own-frequency": (frequency, {}),
    "own-frequency-decayed": (decayed_frequency, {"half_life": (60, 120)}),
    "item-knn": (item_knn, {"neighbours": (200, 100_000)}),
    "ease": (ease, {"penalty": (100.0, 300.0, 1000.0), "power": (0, 1)}),
    "tifu-knn": (
        tifu_knn,
        {"half_life": (120, 100_000), "neighbours": (50, 300), "own": (0.3, 0.7)},
    ),
    "decay-and-ease": (
        decay_and_ease,
        {"half_life": (120,), "penalty": (1000.0,), "share": (0.3, 1.0)},
    ),
}
OF_REPEATS = ("own-frequency", "own-frequency-decayed", "decay-and-ease")


def run(work: Path, data_set: str, name: str) -> None:
    """Choose on `valid`, recommend on `test` and write lists.parquet and run.json."""
    model, grid = MODELS[name]
    valid, test = (read_split(work / data_set / part) for part in ("valid", "test"))
    settings = [dict(zip(grid, values, strict=True)) for values in product(*grid.values())]
    modes = [mode for mode in MODES if mode == "novel" or test.repeats]
    best: dict[str, tuple[float, dict[str, Any]]] = {}
    begin = time.process_time()
    counts = Counts(valid)
    for setting in settings:
        outcome = per_user(_lists(valid, model(counts, **setting), modes), valid)
        for mode in modes:
            ndcg = outcome[f"{mode}_ndcg"].mean()
            assert isinstance(ndcg, float)
            if mode not in best or ndcg > best[mode][0]:
                best[mode] = (ndcg, setting)
    counts = Counts(test)
    lists = pl.DataFrame({"user": test.users}, schema={"user": pl.Int32})
    for mode in modes:
        lists = lists.join(_lists(test, model(counts, **best[mode][1]), [mode]), on="user")
    out = work / "runs" / data_set / name / "seed-0"
    out.mkdir(parents=True, exist_ok=True)
    lists.write_parquet(out / "lists.parquet")
    report = {
        "model": name,
        "seed": 0,
        "settings": {mode: setting for mode, (_, setting) in best.items()},
        "validation_ndcg": {mode: ndcg for mode, (ndcg, _) in best.items()},
        "cpu_seconds": time.process_time() - begin,
    }
    (out / "run.json").write_text(json.dumps(report, indent=1) + "\n")


def _lists(split: Split, scores: Scores, modes: list[str]) -> pl.DataFrame:
    seen = dict(split.history.group_by("user").agg("item").iter_rows())
    lists = {"user": pl.Series(split.users, dtype=pl.Int32)}
    for mode in modes:
        excluded = [seen[user] for user in split.users] if mode == "novel" else None
        lists[mode] = pl.Series(list(ten_best(np.array(scores, np.float32), excluded)))
    return pl.DataFrame(lists)


def models_for(data_set: str) -> list[str]:
    """Names of the models that make sense: where nothing comes twice, no own frequency."""
    return [name for name in MODELS if data_set != "ml-100k" or name not in OF_REPEATS]


def main() -> None:
    work, data_set, *names = sys.argv[1:]
    for name in names or models_for(data_set):
        run(Path(work), data_set, name)


if __name__ == "__main__":
    main()
