"""The encoder joined with co-occurrence where one event is left out: two scores, two weights.

    python -m benchmarks.quality.blended SPLIT OUT ENCODER_OUT --recipe RECIPE.yaml --seed 1

The encoder knows the order of a user's events, EASE which items go together over a whole history;
each finds what the other misses. An item's score is a · logit + b · EASE, a and b with the highest
likelihood of the validation events (SPLIT/../valid) among all items that the user has not had; so
is the penalty of EASE chosen. Both scorers are the product's and learn from the same events; no
weight sees a test event. ENCODER_OUT receives the encoder alone, as `ours` writes it; files as in
peers/common.py.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from benchmarks.quality import ours
from benchmarks.quality.metrics import per_user
from benchmarks.quality.peers.common import ten_best
from benchmarks.quality.simple import Counts
from benchmarks.quality.splits import read_split

if TYPE_CHECKING:
    from benchmarks.quality.splits import Split
    from seq_ml.encoder.config import EncoderConfig
    from seq_ml.encoder.scoring.encoder import Encoder
    from seq_ml.tasks.recommendations.scorers import Ease

PENALTIES = (30.0, 100.0, 300.0)
"""λ of EASE to choose from."""


def run(
    valid: Split, test: Split, out: Path, encoder_out: Path, config: EncoderConfig, scratch: Path
) -> dict[str, object]:
    """Train the encoder, join, and write lists.parquet and run.json of both.

    valid, test: the two cuts of one data set; what may be learnt from is the same in both.
    """
    from seq_ml.encoder.scoring.encoder import Encoder
    from seq_ml.tasks.recommendations.scorers import Ease

    if not valid.items.equals(test.items):
        raise ValueError(f"{test.name}: the validation has other candidates; cut both anew")
    report = ours.run(test, encoder_out, config, scratch)
    encoder = Encoder.load(scratch / "encoder")

    began = time.process_time()
    learnt = Counts(test).bought(learnt=True)
    logits, free = encoder_logits(encoder, valid), not_had(valid)
    right = dict(valid.truth.select("user", "item").iter_rows())
    truth = np.array([right[user] for user in valid.users])
    found = []
    for penalty in PENALTIES:
        ease = Ease(learnt, regularisation=penalty)
        scores = np.stack([logits, together(ease, valid)], axis=-1)
        found.append((*most_likely(scores, free, truth), penalty, ease, scores))
    loss, weights, penalty, ease, scores = min(found, key=lambda one: one[0])
    joining = time.process_time() - began
    judged = {
        name: per_user(lists_of(valid, scores @ chosen), valid)["novel_ndcg"].mean()
        for name, chosen in {"encoder": np.array([1.0, 0.0]), "joined": weights}.items()
    }

    began = time.process_time()
    asked = np.stack([encoder_logits(encoder, test), together(ease, test)], axis=-1)
    lists = lists_of(test, asked @ weights)
    scoring = time.process_time() - began
    out.mkdir(parents=True, exist_ok=True)
    lists.write_parquet(out / "lists.parquet")
    report |= {
        "model": "seqline-joined",
        "weights": {"encoder": weights[0], "ease": weights[1]},
        "ease_penalty": penalty,
        "validation_loss": loss,
        "validation_ndcg": judged,
        "training_cpu_seconds": report["training_cpu_seconds"] + joining,  # type: ignore[operator]
        "scoring_cpu_seconds": scoring,
        "users_per_cpu_second": len(test.users) / scoring,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }
    (out / "run.json").write_text(json.dumps(report, indent=1) + "\n")
    return report


def encoder_logits(encoder: Encoder, split: Split) -> np.ndarray:
    """Logits f32 [users, items] of the scored users, by number."""
    events = ours.canonical_events(split)
    after = events["event_time"].max()
    assert isinstance(after, datetime)
    users = [ours.user_id(user) for user in split.users]
    as_of = ours.asked_at(split, after + timedelta(seconds=1))
    names, logits = encoder.item_scores(events.lazy(), as_of, users)
    numbers = np.array([int(name) for name in names])
    if len(numbers) < split.items.height:
        raise ValueError(f"{split.name}: items without a token; set min_users to 1 in the recipe")
    return logits[:, np.argsort(numbers)]


def together(ease: Ease, split: Split) -> np.ndarray:
    """How well each item goes with the user's history, f32 [users, items] (Steck 2019)."""
    counts = Counts(split)
    return ease.scores(counts.bought()[counts.scored])


def not_had(split: Split) -> np.ndarray:
    """Whether an item is new to the user, bool [users, items]."""
    counts = Counts(split)
    return ~(counts.bought()[counts.scored].toarray() > 0)


def most_likely(
    scores: np.ndarray, free: np.ndarray, truth: np.ndarray
) -> tuple[float, np.ndarray]:
    """Mean loss (nats) and weights f32 [kinds] that make the truth likeliest (McFadden 1974).

    scores: f32 [users, items, kinds].  free: items that may come.  truth: the item that came, −1 or
    no free one where there is none: such a user says nothing.
    """
    from scipy.optimize import minimize

    rows = np.flatnonzero((truth >= 0) & free[np.arange(len(truth)), truth])
    scores, free, truth = scores[rows], free[rows], truth[rows]
    came = scores[np.arange(len(rows)), truth]

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        logits = np.where(free, scores @ weights, -np.inf)
        logits -= logits.max(axis=1, keepdims=True)
        chance = np.exp(logits)
        total = chance.sum(axis=1, keepdims=True)
        expected = np.einsum("ui,uik->uk", chance / total, scores)
        own = logits[np.arange(len(rows)), truth]
        return float((np.log(total[:, 0]) - own).mean()), (expected - came).mean(axis=0)

    start = np.eye(scores.shape[2])[0]
    best = minimize(loss, start, jac=True, method="L-BFGS-B")
    return float(best.fun), best.x


def lists_of(split: Split, scores: np.ndarray) -> pl.DataFrame:
    """The ten best new items of each user."""
    novel = ten_best(np.array(scores, np.float32), ours.history_of(split))
    users = pl.Series(split.users, dtype=pl.Int32)
    return pl.DataFrame({"user": users, "novel": pl.Series(list(novel))})


def main() -> None:
    import torch

    from seq_ml.encoder.config import load_config

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("split", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("encoder_out", type=Path)
    parser.add_argument("--recipe", required=True)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    config = load_config(arguments.recipe)
    config = replace(config, training=replace(config.training, seed=arguments.seed, threads=1))
    valid, test = (read_split(arguments.split.parent / part) for part in ("valid", "test"))
    with tempfile.TemporaryDirectory() as scratch:
        report = run(valid, test, arguments.out, arguments.encoder_out, config, Path(scratch))
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
