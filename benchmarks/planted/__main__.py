"""How much of a planted signal the product finds, by the size of the log and of the signal.

    python -m benchmarks.planted                                (two minutes of one core)
    python -m benchmarks.planted --users 20000 --q .9 --keep    (four; and into the page)
    python -m benchmarks.planted --null 20

For each log: who knows what of silence and of items (`benchmarks.planted.silence`, `.items`). With
`--null`, on logs whose counts suffice: on how many of so many seeds the arm without the sequence is
published. `--keep` keeps the outcomes below `results/` and writes the tables of
docs/benchmarks-planted.md from all that were ever kept; `--label` says of which encoder they are.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.planted import items, silence
from benchmarks.planted.data import encoder_at, task_data
from benchmarks.planted.log import generate
from benchmarks.planted.page import RESULTS, arms, keep, outcome, summary, write
from benchmarks.planted.shares import STACK
from benchmarks.planted.world import Planted

if TYPE_CHECKING:
    from typing import Any

    from benchmarks.planted.shares import Judged
    from seq_ml.encoder.config import EncoderConfig

CUT = 112
"""Day up to which the encoder learns: the last training window of silence begins there."""


def judged(planted: Planted, config: EncoderConfig, *, with_items: bool) -> dict[str, Judged]:
    """Make a log, train an encoder on its past and judge every arm on its end."""
    log = generate(planted)
    data = task_data(log)
    with tempfile.TemporaryDirectory() as folder:
        encoder = encoder_at(log, data, CUT, config, Path(folder))
        found = {"silence": silence.judge(log, data, encoder)}
        if with_items:
            found["items"] = items.judge(log, data, encoder)
    return found


def null(seeds: int, users: int, config: EncoderConfig) -> None:
    """Count the seeds whose published arm has no sequence."""
    simple = 0
    for seed in range(1, seeds + 1):
        planted = Planted(users=users, null=True, seed=seed)
        found = judged(planted, config, with_items=False)["silence"]
        gain = found.gain(found.hand, STACK)
        simple += not gain.low > 0
        print(f"seed {seed}: stack over {found.hand} {gain.signed()} nats", flush=True)
    print(f"the simple arm is published in {simple} of {seeds} seeds")


def main() -> None:
    from seq_ml.encoder.config import load_config

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--users", type=int, nargs="+", default=[2_500])
    parser.add_argument("--q", type=float, nargs="+", default=[0.5, 0.6, 0.75, 0.9])
    parser.add_argument("--null", type=int, metavar="SEEDS")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--preset", default="small", help="of the encoder, or a YAML file")
    parser.add_argument("--steps", type=int, help="of pre-training, instead of the preset's")
    parser.add_argument("--label", default="now")
    parser.add_argument("--keep", action="store_true")
    options = parser.parse_args()
    config = load_config(options.preset)
    if options.steps:
        config = replace(config, training=replace(config.training, steps=options.steps))
    if options.null:
        null(options.null, options.users[0], config)
        return
    found: list[dict[str, Any]] = []
    for planted in _logs(options):
        began = time.process_time()
        of = judged(planted, config, with_items=not planted.shuffled)
        seconds = time.process_time() - began
        found.append(outcome(options.label, planted, config, of, seconds))
        print(arms(found[-1]), flush=True)
        if options.keep:
            keep(found[-1], RESULTS)
    print(summary(found))
    if options.keep:
        write(RESULTS)


def _logs(options: argparse.Namespace) -> list[Planted]:
    """One log of each size and `q`, and the one of the most signal again with shuffled sessions."""
    logs = []
    for users in options.users:
        logs += [Planted(users=users, q=q, seed=options.seed) for q in options.q]
        logs.append(replace(max(logs[-len(options.q) :], key=lambda log: log.q), shuffled=True))
    return logs


if __name__ == "__main__":
    main()
