"""The whole comparison: cut the data, run everything, keep the outcomes, write the table.

    python -m benchmarks.quality.run WORK_FOLDER [--with-peers] [--seeds 5] [--peers .venv-peers]

Ours runs with 5 seeds: on ML-100K the encoder of `recipes/ml-100k.yaml`, alone and joined with
co-occurrence; on Complete Journey the ranker that joins counting, co-occurrence and neighbours, and
the encoder where `recipes/` has one named like the data set. The simple models run once. The peers'
saved outcomes are used unless `--with-peers` runs them again (hours). A run whose `run.json` lies
in the work folder is not repeated.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

from benchmarks.quality import simple, table
from benchmarks.quality.splits import DATA_SETS, make_splits

HERE = Path(__file__).parent
PEERS = (
    ("replay", "replay_models.py", "ml-100k", ("sasrec", "bert4rec")),
    (
        "rectools",
        "rectools_models.py",
        "ml-100k",
        ("esasrec", "esasrec-scaled", "sasrec", "sasrec-scaled", "bert4rec", "hstu"),
    ),
    ("recbole", "recbole_models.py", "ml-100k", ("sasrec", "gru4rec")),
    ("replay", "replay_models.py", "cj-product", ("sasrec",)),
    ("replay", "replay_models.py", "cj-category", ("sasrec",)),
)
PEER_SEEDS = 2
PEER_EPOCHS_NEXT_MONTH = 8


def ml_100k(peers: Path) -> Path:
    """Folder of ml-100k.inter in the recbole environment; FileNotFoundError says how to get it."""
    place = "recbole/lib/python*/site-packages/recbole/dataset_example/ml-100k"
    for folder in sorted(peers.glob(place)):
        return folder
    raise FileNotFoundError(
        f"{peers}: no recbole environment, whose package ships ML-100K; run `make bench-peers` "
        "(or only its recbole part) first"
    )


def once(out: Path, command: list[str | Path]) -> None:
    """Run a command that writes `out`/run.json, unless it is there, on one thread."""
    if (out / "run.json").exists():
        return
    print(*command, flush=True)
    subprocess.run([*map(str, command)], check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", type=Path)
    parser.add_argument("--peers", type=Path, default=Path(".venv-peers"))
    parser.add_argument("--with-peers", action="store_true")
    parser.add_argument("--seeds", type=int, default=5)
    arguments = parser.parse_args()
    work, runs = arguments.work, arguments.work / "runs"
    if not (work / "cj-category" / "valid" / "meta.json").exists():
        make_splits(work, ml_100k(arguments.peers))
    module = [sys.executable, "-m"]
    for data_set in DATA_SETS:
        for name in simple.models_for(data_set):
            out = runs / data_set / name / "seed-0"
            once(out, [*module, "benchmarks.quality.simple", work, data_set, name])
    for data_set in DATA_SETS:
        script = "blended" if data_set == "ml-100k" else "joined"
        recipe = HERE / "recipes" / f"{data_set}.yaml"
        for seed in range(1, arguments.seeds + 1):
            out = runs / data_set / table.OURS / f"seed-{seed}"
            command = [*module, f"benchmarks.quality.{script}", work / data_set / "test", out]
            if script == "blended":
                command.append(runs / data_set / table.ENCODER / f"seed-{seed}")
            command += ["--seed", str(seed)]
            once(out, command + (["--recipe", recipe] if recipe.exists() else []))
    for peer, script, data_set, names in PEERS if arguments.with_peers else ():
        python = arguments.peers / peer / "bin" / "python"
        for name in names:
            for seed in range(1, PEER_SEEDS + 1):
                out = runs / data_set / f"{peer}-{name}" / f"seed-{seed}"
                split = work / data_set / "test"
                command = [python, HERE / "peers" / script, split, out, "--model", name]
                command += ["--seed", str(seed)]
                if data_set != "ml-100k":
                    command += ["--epochs", str(PEER_EPOCHS_NEXT_MONTH)]
                once(out, command)
    table.keep(work)
    text = table.table()
    print(text)
    table.write_document(text)


if __name__ == "__main__":
    main()
