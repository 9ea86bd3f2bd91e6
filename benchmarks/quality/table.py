"""Keep the outcomes of runs in `results/` and write one table of them.

    python -m benchmarks.quality.table [WORK_FOLDER]

With a work folder, every `runs/DATA_SET/MODEL/seed-N` in it becomes `results/DATA_SET/MODEL/
seed-N.{parquet,json}`: the outcome of every user and the run's own report. The table is made of
what `results/` holds and put into docs/benchmarks-quality.md between the markers. So a later run of
one model is compared, user by user, with all others without running them again.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from statistics import mean as average
from typing import Any

import polars as pl

from benchmarks.quality.metrics import MODES, difference, mean, over_seeds, per_user
from benchmarks.quality.splits import DATA_SETS, read_split

RESULTS = Path(__file__).parent / "results"
DOCUMENT = Path(__file__).parents[2] / "docs" / "benchmarks-quality.md"
BEGIN, END = "<!-- table: begin -->", "<!-- table: end -->"
OURS = "seqline"
ENCODER = "seqline-encoder"
"""The encoder alone, where `OURS` joins it with more."""
SPEED = {
    "training CPU-s": "training_cpu_seconds",
    "sequences / CPU-s": "sequences_per_cpu_second",
    "users / CPU-s": "users_per_cpu_second",
    "peak MB": "peak_mb",
    "parameters": "parameters",
}


def keep(work: Path, results: Path = RESULTS) -> None:
    """Judge every finished run of the work folder and keep its outcome."""
    for data_set in DATA_SETS:
        finished = sorted((work / "runs" / data_set).glob("*/seed-*/lists.parquet"))
        split = read_split(work / data_set / "test") if finished else None
        for path in finished:
            assert split is not None
            outcome = per_user(pl.read_parquet(path), split)
            place = results / data_set / path.parent.parent.name / path.parent.name
            place.parent.mkdir(parents=True, exist_ok=True)
            outcome.write_parquet(place.with_suffix(".parquet"), compression_level=19)
            report = (path.parent / "run.json").read_text()
            place.with_suffix(".json").write_text(report)


def table(results: Path = RESULTS) -> str:
    """Markdown: a table per data set and question, best NDCG first."""
    parts = []
    for data_set in DATA_SETS:
        models = {folder.name: _read(folder) for folder in sorted((results / data_set).glob("*"))}
        for mode in MODES:
            judged = {
                name: outcome
                for name, (outcome, _) in models.items()
                if f"{mode}_ndcg" in outcome.columns
            }
            if judged:
                parts.append(_section(data_set, mode, judged, models))
    return "\n\n".join(parts) + "\n"


def _read(folder: Path) -> tuple[pl.DataFrame, list[dict[str, Any]]]:
    """The model's outcome, averaged over seeds user by user, and the reports of its runs."""
    runs = sorted(folder.glob("seed-*.parquet"))
    reports = [json.loads(path.with_suffix(".json").read_text()) for path in runs]
    return over_seeds([pl.read_parquet(path) for path in runs]), reports


def _section(
    data_set: str,
    mode: str,
    judged: dict[str, pl.DataFrame],
    models: dict[str, tuple[pl.DataFrame, list[dict[str, Any]]]],
) -> str:
    column = f"{mode}_ndcg"
    means = {name: mean(outcome, column) for name, outcome in judged.items()}
    order = sorted(judged, key=lambda name: -means[name].mean)
    own = OURS if OURS in judged else None
    users = judged[order[0]][column].drop_nulls().len()
    asked = "any item" if mode == "repeats" else "items new to the user"
    heads = ["model", "seeds", "HR@10", "NDCG@10 [95 %]", "Recall@10", f"{OURS} minus it"]
    reported = [report for name in order for report in models[name][1]]
    speed = {head: key for head, key in SPEED.items() if any(key in run for run in reported)}
    lines = [
        f"**{data_set}, {asked}**: {users:,} users",
        "",
        "| " + " | ".join([*heads, *speed]) + " |",
        "|---|" + "---:|" * (len(heads) + len(speed) - 1),
    ]
    for name in order:
        outcome, reports = models[name]
        against = ""
        if own is not None and name != own:
            gap = difference(judged[own], judged[name], column)
            against = f"{gap.mean:+.4f} [{gap.low:+.4f}, {gap.high:+.4f}]"
        cells = [
            f"**{name}**" if name == own else name,
            str(len(reports)),
            f"{outcome[f'{mode}_hr'].mean():.3f}",
            str(means[name]),
            f"{outcome[f'{mode}_recall'].mean():.3f}",
            against,
            *(_speed(reports, key) for key in speed.values()),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _speed(reports: list[dict[str, Any]], key: str) -> str:
    found = [report[key] for report in reports if report.get(key) is not None]
    return f"{average(found):,.0f}" if found else "–"


def write_document(
    text: str, document: Path = DOCUMENT, marks: tuple[str, str] = (BEGIN, END)
) -> None:
    """Put a table between two marks of the document; ValueError when they are missing."""
    begin, end = marks
    whole = document.read_text()
    if begin not in whole or end not in whole:
        raise ValueError(f"{document}: expected the lines {begin} and {end} around the table")
    before, rest = whole.split(begin, 1)
    after = rest.split(end, 1)[1]
    document.write_text(f"{before}{begin}\n{text}{end}{after}")


def main() -> None:
    if len(sys.argv) > 1:
        keep(Path(sys.argv[1]))
    text = table()
    print(text)
    write_document(text)


if __name__ == "__main__":
    main()
