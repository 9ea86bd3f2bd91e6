"""Training and scoring speed of ours and of the fastest peers, in turns, on one thread.

    python -m benchmarks.quality.speed WORK_FOLDER [--peers .venv-peers] [--rounds 3]

ML-100K, d 64, 2 blocks, 1 head, full softmax, batches of 32 windows of at most 200 events, two
passes over the data each (A B C, A B C, …). A sequence is one such window; because windows differ
in length and some libraries compute on padding, events (predicted positions) a second are given
too. Scoring is the ten best of the whole catalogue without items seen, from histories in memory.
Rates count processor seconds of the process. RecBole is not here: it trains one sample per prefix.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.quality.run import ml_100k
from benchmarks.quality.splits import make_splits

HERE = Path(__file__).parent
FIGURES = {
    "sequences / CPU-s": "sequences_per_cpu_second",
    "events / CPU-s": "events_per_cpu_second",
    "users / CPU-s": "users_per_cpu_second",
    "peak MB": "peak_mb",
}


def commands(split: Path, peers: Path) -> dict[str, list[str]]:
    """How each contender is called, before the folder for its output is put in third place."""
    ours = [sys.executable, "-m", "benchmarks.quality.ours"]
    peer = {"replay": "replay_models.py", "rectools": "rectools_models.py"}
    return {
        "seqline": [*ours, str(split), "OUT", "--recipe", str(HERE / "recipes" / "speed.yaml")],
        **{
            f"{name}-sasrec": [
                str(peers / name / "bin" / "python"), str(HERE / "peers" / script), str(split),
                "OUT", "--model", "sasrec", "--epochs", "2",
            ]
            for name, script in peer.items()
        },
    }  # fmt: skip


def measured(command: list[str]) -> dict[str, Any]:
    """Run one contender and return its report."""
    with tempfile.TemporaryDirectory() as out:
        subprocess.run(
            [out if part == "OUT" else part for part in command],
            check=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.DEVNULL,
        )
        report: dict[str, Any] = json.loads((Path(out) / "run.json").read_text())
        return report


def markdown(rounds: list[dict[str, dict[str, Any]]]) -> str:
    """Medians of each contender, and ours over each peer with the range over the rounds."""
    names = list(rounds[0])
    lines = ["| | " + " | ".join(FIGURES) + " | parameters |", "|---|" + "---:|" * 5]
    for name in names:
        cells = [f"{median(turn[name][key] for turn in rounds):,.0f}" for key in FIGURES.values()]
        parameters = f"{rounds[0][name]['parameters']:,}"
        lines.append(f"| {name} | " + " | ".join([*cells, parameters]) + " |")
    for name in names[1:]:
        cells = []
        for key in FIGURES.values():
            ratios = [turn[names[0]][key] / turn[name][key] for turn in rounds]
            cells.append(f"{median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f})")
        lines.append(f"| {names[0]} ÷ {name} | " + " | ".join([*cells, ""]) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", type=Path)
    parser.add_argument("--peers", type=Path, default=Path(".venv-peers"))
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    split = arguments.work / "ml-100k" / "test"
    if not (split / "meta.json").exists():
        make_splits(arguments.work, ml_100k(arguments.peers))
    rounds = []
    for number in range(arguments.rounds):
        turn = {}
        for name, command in commands(split, arguments.peers).items():
            turn[name] = measured(command)
            rates = {key: round(turn[name][key], 1) for key in FIGURES.values()}
            print(number + 1, name, json.dumps(rates), flush=True)
        rounds.append(turn)
    print(markdown(rounds))


if __name__ == "__main__":
    main()
