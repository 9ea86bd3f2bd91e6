"""How fast and in how much memory an encoder ranks a whole catalogue for its users.

    python -m benchmarks.scoring                  # one thread; some ten minutes
    python -m benchmarks.scoring --approximate    # also with the index (needs faiss-cpu)

* like ML-100K: 943 users with 106 events on average, 1,682 items, top 10 without seen items, no
  repeat head, at the lengths that the peers were measured with.
* large: 10,000 and 50,000 users × 100,000 items, streaming evaluation (HR, Recall, NDCG, MRR at 10,
  repeats allowed and novel only), each in a process of its own. If memory is bounded, both take the
  same.
* approximate: top 10 of 100,000 and 1,000,000 items, exactly and with the index, on item vectors in
  2,000 groups and users near them.

Weights are random: speed and memory do not depend on them. The log is generated.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from benchmarks.measure import machine, measure, table

if TYPE_CHECKING:
    from collections.abc import Iterator

    from seq_ml.encoder.scoring.encoder import Encoder
    from seq_ml.tokens.vocabulary import Tokens, Vocabulary

AS_OF = datetime(2024, 1, 1, tzinfo=UTC)
LENGTHS = (20, 100, 200)
PART_USERS = 5_000
ROUNDS = 5


def like_ml_100k(length: int) -> dict[str, float]:
    """Users per second (best of some rounds) of `top_items` at one length."""
    encoder = _encoder(items=1_682, context=length, repeat=False)
    tokens = generated_users(0, 943, items=1_682, events=106)
    walls, cpus = [], []
    for _ in range(ROUNDS):
        wall, cpu = time.perf_counter(), time.process_time()
        for _ in encoder.top_items([tokens], AS_OF, k=10, filter_seen=True):
            pass
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
    return {"length": length, "users_s": 943 / min(walls), "users_cpu_s": 943 / min(cpus)}


def large(users: int, items: int) -> dict[str, float]:
    """Streaming evaluation of many users over many items."""
    import polars as pl

    from seq_ml.encoder.evaluation.streaming import evaluate

    encoder = _encoder(items=items, context=128, repeat=True)

    def parts() -> Iterator[tuple[Tokens, pl.DataFrame]]:
        for first in range(0, users, PART_USERS):
            tokens = generated_users(first, min(PART_USERS, users - first), items=items, events=50)
            last = tokens.item[tokens.offset[1:] - 1]
            yield (
                tokens,
                pl.DataFrame(
                    {
                        "user_id": tokens.user_ids,
                        "item_id": [str(item) for item in (last + 7) % items],
                        "novel": True,
                    }
                ),
            )

    wall, cpu = time.perf_counter(), time.process_time()
    judged = evaluate(encoder, parts(), AS_OF)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return {
        "judged": judged["repeats"].means()["users"],
        "users_s": users / wall,
        "users_cpu_s": users / cpu,
    }


def approximate(items: int, dim: int) -> dict[str, float]:
    """Exact and approximate search side by side, the encoder left out."""
    import torch

    from seq_ml.encoder.scoring.ann import ApproximateSearch
    from seq_ml.encoder.scoring.catalogue import Catalogue, Own
    from seq_ml.encoder.scoring.topk import best_items

    random = torch.Generator().manual_seed(0)
    centres = torch.randn(2_000, dim, generator=random)
    group = torch.randint(len(centres), (items,), generator=random)
    vectors = 0.6 * centres[group] + 0.8 * torch.randn(items, dim, generator=random)
    bias = -0.5 * torch.log(1.0 + torch.randperm(items, generator=random))
    catalogue = Catalogue([], vectors / dim**0.5, bias, torch.empty(0))
    group = torch.randint(len(centres), (2_048,), generator=random)
    users = 2 * (centres[group] + torch.randn(2_048, dim, generator=random))
    none = Own(*torch.empty((2, 0), dtype=torch.int64), None)
    began = time.process_time()
    search = ApproximateSearch(catalogue)
    built = time.process_time() - began
    search(catalogue, users[:256], none, 10)  # decides how many cells
    took = []
    for how in (best_items, search):
        began = time.process_time()
        found = [how(catalogue, some, none, 10)[0] for some in users[256:].split(896)]
        took.append((1_792 / (time.process_time() - began), found))
    hits = sum(
        len(set(a) & set(b))
        for exact, close in zip(took[0][1], took[1][1], strict=True)
        for a, b in zip(exact.tolist(), close.tolist(), strict=True)
    )
    return {
        "items": items, "dim": dim, "build_s": built, "cells": search.probes or 0,
        "exact_users_s": took[0][0], "approximate_users_s": took[1][0],
        "ratio": took[1][0] / took[0][0], "recall": hits / 17_920,
    }  # fmt: skip


def _encoder(*, items: int, context: int, repeat: bool) -> Encoder:
    import torch

    from seq_ml.encoder.config import PRESETS
    from seq_ml.encoder.memory import return_freed_blocks
    from seq_ml.encoder.model.behaviour import BehaviourModel
    from seq_ml.encoder.scoring.encoder import Encoder

    return_freed_blocks()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    vocabulary = generated_vocabulary(items)
    small = PRESETS["small"]
    model = replace(small.model, context=context, repeat_head=repeat, heads=1)
    tasks = {"next_basket": 0.75} if repeat else {"next_event": 1.0, "next_basket": 0.0}
    config = replace(small, model=model, training=replace(small.training, **tasks))
    network = BehaviourModel(model, vocabulary)
    return Encoder(network, vocabulary, config, version="random", fitted_before=AS_OF)


def generated_vocabulary(items: int) -> Vocabulary:
    """Items by rank, as often used as Zipf's law has it; without categories and prices."""
    from seq_ml.tokens.vocabulary import Vocabulary

    return Vocabulary(
        fitted_before=AS_OF,
        min_users=1,
        tokens=tuple(("item", str(number)) for number in range(items)),
        users=tuple(1 + items // (1 + number) for number in range(items)),
        categories=(),
        category_of={},
        price_edges=(),
        quantity_edges=(),
    )


def generated_users(first: int, users: int, *, items: int, events: int) -> Tokens:
    """Token arrays of generated users: lengths are log-normal, items follow Zipf's law."""
    import numpy as np

    from seq_ml.tokens.vocabulary import DAY, SPECIAL, Tokens

    random = np.random.default_rng(first)
    lengths = np.clip(random.lognormal(np.log(events) - 0.32, 0.8, users), 5, 20 * events)
    offset = np.append(0, np.cumsum(lengths.astype(np.int64)))
    total = int(offset[-1])
    item = np.minimum(items ** random.random(total), items - 1).astype(np.int32)
    start = int(AS_OF.timestamp()) - 365 * DAY
    row = np.repeat(np.arange(users), np.diff(offset))
    byte = np.ones(total, dtype=np.uint8)
    ids = np.zeros((users, 16), dtype=np.uint8)
    ids[:, 8:] = (first + np.arange(users, dtype=">u8"))[:, None].view(np.uint8)
    second = random.integers(0, 365 * DAY, total)
    return Tokens(
        user=ids,
        offset=offset,
        item=item + SPECIAL,
        behaviour=byte,
        gap=byte,
        price=byte * 0,
        quantity=byte * 0,
        hour=byte * 0,
        amount=np.full(total, np.nan, dtype=np.float32),
        time=start + second[np.lexsort((second, row))],
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--approximate", action="store_true")
    parser.add_argument("--users", type=int, nargs="+", default=[10_000, 50_000])
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--worker", nargs="+", help="one part, in this process")
    options = parser.parse_args()
    if options.worker:
        part, *numbers = options.worker
        parts = {"like_ml_100k": like_ml_100k, "large": large, "approximate": approximate}
        print(json.dumps(parts[part](*map(int, numbers))))
        return

    def run(*worker: object) -> tuple[dict[str, float], float]:
        command = [sys.executable, "-m", "benchmarks.scoring", "--worker", *map(str, worker)]
        done = measure(command, {**os.environ, "OMP_NUM_THREADS": "1"})
        return done.facts, done.peak_mb

    print(json.dumps(machine()))
    rows = []
    for length in LENGTHS:
        facts, peak = run("like_ml_100k", length)
        rows.append([length, facts["users_s"], facts["users_cpu_s"], peak])
    print(table(["like ML-100K, length", "users/s", "users/CPU-s", "peak MB"], rows))
    rows = []
    for users in options.users:
        facts, peak = run("large", users, options.items)
        rows.append([users, options.items, facts["users_s"], facts["users_cpu_s"], peak])
    print(table(["users", "items", "users/s", "users/CPU-s", "peak MB"], rows))
    if options.approximate:
        rows = [list(run("approximate", *size)[0].values())
                for size in ((100_000, 64), (100_000, 256), (1_000_000, 64))]  # fmt: skip
        heads = ["items", "dim", "build s", "cells", "exact/s", "approximate/s", "ratio", "recall"]
        print(table(heads, rows))


if __name__ == "__main__":
    main()
