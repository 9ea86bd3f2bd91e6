"""What augmentation and adversarial training do to the quality of the encoder.

    python -m benchmarks.quality.ablation WORK_FOLDER [--seeds 2]

ML-100K with its recipe, one thing changed at a time, judged on the validation event (the last but
one): the test is not touched. Every setting runs with the same seeds; a run whose `run.json` lies
below `WORK_FOLDER/ablation` is not repeated. Differences are paired by user, after averaging each
user over the seeds. The table goes into docs/benchmarks-quality.md.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import replace
from pathlib import Path
from statistics import mean as average
from typing import TYPE_CHECKING, Any

import polars as pl

from benchmarks.quality.metrics import difference, mean, over_seeds, per_user
from benchmarks.quality.ours import run
from benchmarks.quality.splits import read_split
from benchmarks.quality.table import write_document

if TYPE_CHECKING:
    from benchmarks.quality.splits import Split

RECIPE = Path(__file__).parent / "recipes" / "ml-100k.yaml"
MARKS = ("<!-- ablation: begin -->", "<!-- ablation: end -->")
RECIPES_OWN = "ties (the recipe)"
SETTINGS: dict[str, tuple[str, dict[str, Any]]] = {
    "no augmentation": ("", {"augment": ()}),
    RECIPES_OWN: ("no augmentation", {}),
    "mask": ("no augmentation", {"augment": ("mask",), "augment_share": 0.5}),
    "crop": ("no augmentation", {"augment": ("crop",), "augment_share": 0.5}),
    "reorder": ("no augmentation", {"augment": ("reorder",), "augment_share": 0.5}),
    "ties and FGM of 1": (RECIPES_OWN, {"adversarial": 1.0}),
}
"""The setting it is compared with, and the changed values of the recipe's training."""
COLUMN = "novel_ndcg"


def train(split: Split, out: Path, changes: dict[str, Any], seed: int) -> None:
    """Train the recipe with some values changed, unless `out` holds that run."""
    from seq_ml.encoder.config import load_config

    if (out / "run.json").exists():
        return
    config = load_config(str(RECIPE))
    training = replace(config.training, seed=seed, **changes)
    with tempfile.TemporaryDirectory() as scratch:
        run(split, out, replace(config, training=training), Path(scratch))
    print(out, flush=True)


def table(split: Split, runs: Path) -> str:
    """Markdown: a row for each setting that has run; differences are over the seeds of both."""
    found = {name: _outcomes(split, runs / folder(name)) for name in SETTINGS}
    heads = ["windows in training", "seeds", "NDCG@10, validation [95 %]", "HR@10"]
    heads += ["difference [95 %]", "to", "training CPU-s"]
    lines = ["| " + " | ".join(heads) + " |", "|---|---:|---:|---:|---:|---|---:|"]
    for name, (other, _) in SETTINGS.items():
        mine, theirs = found[name], found.get(other, {})
        if not mine:
            continue
        outcome = over_seeds([outcome for outcome, _ in mine.values()])
        both, gap = sorted(mine.keys() & theirs.keys()), ""
        if both:
            pair = [over_seeds([runs[seed][0] for seed in both]) for runs in (mine, theirs)]
            lead = difference(*pair, COLUMN)
            gap = f"{lead.mean:+.4f} [{lead.low:+.4f}, {lead.high:+.4f}]"
        seconds = average(seconds for _, seconds in mine.values())
        lines.append(
            f"| {name} | {len(mine)} | {mean(outcome, COLUMN)} | {outcome['novel_hr'].mean():.3f} "
            f"| {gap} | {other} | {seconds:.0f} |"
        )
    return "\n".join(lines) + "\n"


def _outcomes(split: Split, runs: Path) -> dict[str, tuple[pl.DataFrame, float]]:
    """Outcome of every user and processor seconds of training, by seed."""
    return {
        lists.parent.name: (
            per_user(pl.read_parquet(lists), split),
            json.loads((lists.parent / "run.json").read_text())["training_cpu_seconds"],
        )
        for lists in sorted(runs.glob("seed-*/lists.parquet"))
    }


def folder(name: str) -> str:
    """Name of a setting as a folder."""
    return name.translate(str.maketrans(" ", "-", "(),"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", type=Path)
    parser.add_argument("--seeds", type=int, default=2)
    arguments = parser.parse_args()
    split = read_split(arguments.work / "ml-100k" / "valid")
    runs = arguments.work / "ablation"
    for seed in range(1, arguments.seeds + 1):
        for name, (_, changes) in SETTINGS.items():
            train(split, runs / folder(name) / f"seed-{seed}", changes, seed)
    text = table(split, runs)
    print(text)
    write_document(text, marks=MARKS)


if __name__ == "__main__":
    main()
