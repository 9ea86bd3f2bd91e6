"""The ranker of the recommendations on a split: counting, co-occurrence and neighbours joined.

    python -m benchmarks.quality.joined SPLIT OUT --seed 1 [--recipe RECIPE.yaml]

The candidates and boosted trees are those of `seq_ml.tasks`. Trees learn from the months before the
cut: candidates as they were at an earlier instant, and what was bought in the 30 days after it.
With a recipe an encoder is trained on what came before the earliest of these instants, and its
score is one more feature. Files as in peers/common.py.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from benchmarks.quality import ours
from benchmarks.quality.peers.common import ten_best
from benchmarks.quality.splits import read_split

if TYPE_CHECKING:
    from benchmarks.quality.splits import Split
    from seq_ml.encoder.config import EncoderConfig
    from seq_ml.encoder.scoring.encoder import Encoder

MONTHS = 2
"""Months before the cut that the trees learn from."""
MONTH = timedelta(days=30)


def run(
    split: Split, out: Path, scratch: Path, *, seed: int, config: EncoderConfig | None
) -> dict[str, object]:
    """Fit, recommend and write lists.parquet and run.json."""
    from seq_ml.tasks.recommendations.candidates import ENCODER_FEATURES, FEATURES
    from seq_ml.tasks.recommendations.models import BoostedRanker

    began, cpu = time.perf_counter(), time.process_time()
    events = ours.canonical_events(split)
    cut = datetime.fromisoformat(split.cut).replace(tzinfo=UTC)
    origins = [cut - back * MONTH for back in range(MONTHS, 0, -1)]
    encoder = None
    if config is not None:
        encoder = _encoder(split, events, origins[0], config, scratch)
    months = [_month(split, events, origin, encoder, seed) for origin in origins]
    features = FEATURES if encoder is None else (*FEATURES, *ENCODER_FEATURES)
    ranker = BoostedRanker("ranker", features, seed=seed)
    ranker.fit(pl.concat(months))
    del months
    training, cpu = time.perf_counter() - began, time.process_time() - cpu

    begin = time.process_time()
    asked = _candidates(split, events, cut, encoder, seed)
    table = _table(split, asked, ranker.predict(asked))
    lists = pl.DataFrame(
        {
            "user": pl.Series(split.users, dtype=pl.Int32),
            "repeats": list(ten_best(table)),
            "novel": list(ten_best(table.copy(), ours.history_of(split))),
        }
    )
    scoring = time.process_time() - begin
    out.mkdir(parents=True, exist_ok=True)
    lists.write_parquet(out / "lists.parquet")
    report = {
        "model": "seqline-joined",
        "seed": seed,
        "recipe": None if config is None else json.loads(config.to_bytes()),
        "training_seconds": training,
        "training_cpu_seconds": cpu,
        "scoring_cpu_seconds": scoring,
        "users_per_cpu_second": len(split.users) / scoring,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }
    (out / "run.json").write_text(json.dumps(report, indent=1) + "\n")
    return report


def _candidates(
    split: Split, events: pl.DataFrame, origin: datetime, encoder: Encoder | None, seed: int
) -> pl.DataFrame:
    """Candidates of every user who bought anything before `origin`, with their features."""
    from seq_ml.tasks.recommendations.candidates import (
        POPULAR_TOP,
        Setting,
        candidate_features,
        fit,
    )

    purchases = events.select("user_id", "item_id", "event_time", day="event_date")
    before = purchases.filter(pl.col("event_time") < origin)
    users = before["user_id"].unique().sort().to_list()
    scores = None
    if encoder is not None:
        scores = lambda ids: encoder.item_scores(events.lazy(), origin, ids)  # noqa: E731
    setting = Setting(repeats=True, popular=POPULAR_TOP, seed=seed)
    fitted = fit(purchases, users, ours.catalogue(split), origin, setting)
    return candidate_features(fitted, purchases, scores)


def _month(
    split: Split, events: pl.DataFrame, origin: datetime, encoder: Encoder | None, seed: int
) -> pl.DataFrame:
    """Candidates at `origin` of those who came in the month after it; label: bought in it."""
    inside = pl.col("event_time").is_between(origin, origin + MONTH, closed="left")
    pair = ["user_id", "item_id"]
    bought = events.filter(inside).select(pair).unique().with_columns(label=pl.lit(1))
    frame = _candidates(split, events, origin, encoder, seed)
    return (
        frame.join(bought, on=pair, how="left", maintain_order="left")
        .join(bought.select("user_id").unique(), on="user_id", how="semi", maintain_order="left")
        .with_columns(pl.col("label").fill_null(0))
    )


def _table(split: Split, asked: pl.DataFrame, score: np.ndarray) -> np.ndarray:
    """Scores f32 [users, items] by number; what is no candidate comes after all candidates."""
    row_of = {ours.user_id(user): row for row, user in enumerate(split.users)}
    row = asked["user_id"].replace_strict(row_of, default=-1, return_dtype=pl.Int64).to_numpy()
    table = np.full((len(row_of), split.items.height), -1, np.float32)
    table[row[row >= 0], asked["item_id"].cast(pl.Int64).to_numpy()[row >= 0]] = score[row >= 0]
    return table


def _encoder(
    split: Split, events: pl.DataFrame, before: datetime, config: EncoderConfig, scratch: Path
) -> Encoder:
    """Train on the events before an instant."""
    from seq_ml.encoder.scoring.encoder import Encoder
    from seq_ml.encoder.training.pretrain import pretrain
    from seq_ml.sequences.build import build_sequences
    from seq_ml.tokens.shards import write_shards
    from seq_ml.tokens.vocabulary import Vocabulary

    catalogue = ours.catalogue(split)
    vocabulary = Vocabulary.fit(
        [events.lazy()], catalogue, before=before, min_users=config.min_users
    )
    sequences = build_sequences(events.lazy(), as_of=before, max_events=config.max_events, shards=1)
    write_shards([sequences], vocabulary, scratch / "shards")
    pretrain(scratch / "shards", vocabulary, config, scratch / "encoder")
    return Encoder.load(scratch / "encoder")


def main() -> None:
    from dataclasses import replace

    from seq_ml.encoder.config import load_config

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("split", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--recipe", help="train an encoder with it and read its scores too")
    arguments = parser.parse_args()
    config = None
    if arguments.recipe:
        config = load_config(arguments.recipe)
        config = replace(config, training=replace(config.training, seed=arguments.seed, threads=1))
    split = read_split(arguments.split)
    with tempfile.TemporaryDirectory() as scratch:
        report = run(split, arguments.out, Path(scratch), seed=arguments.seed, config=config)
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
