"""Seqline's encoder on a split: pre-train with a recipe, score the whole catalogue, write lists.

    python -m benchmarks.quality.ours SPLIT OUT --recipe RECIPE.yaml --seed 1 [--steps N]

A recipe is what `load_config` reads: a preset and changed values. The events of the split become
canonical events whose order (event_time, event_id) is the explicit order. The vocabulary and the
training see the events that may be learnt from; scoring reads all of the history, asked at the cut,
or right after the last event where every user has a cut of their own. Files as in peers/common.py.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import resource
import tempfile
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

from benchmarks.quality.splits import read_split
from seq_ml import schema

if TYPE_CHECKING:
    from benchmarks.quality.splits import Split
    from seq_ml.encoder.config import EncoderConfig
    from seq_ml.encoder.scoring.encoder import Encoder


def run(split: Split, out: Path, config: EncoderConfig, scratch: Path) -> dict[str, object]:
    """Train, score and write lists.parquet and run.json."""
    from seq_ml.encoder.data.order import split_windows
    from seq_ml.encoder.scoring.encoder import Encoder
    from seq_ml.encoder.training.pretrain import pretrain
    from seq_ml.sequences.build import build_sequences
    from seq_ml.tokens.shards import read_shards, write_shards
    from seq_ml.tokens.vocabulary import Vocabulary

    events, items = canonical_events(split), catalogue(split)
    learnt = events.filter(pl.Series(split.history["learnt"])).lazy()
    after = events["event_time"].max()
    assert isinstance(after, datetime)
    end = after + timedelta(seconds=1)
    vocabulary = Vocabulary.fit([learnt], items, before=end, min_users=config.min_users)
    sequences = build_sequences(learnt, as_of=end, max_events=config.max_events, shards=1)
    write_shards([sequences], vocabulary, scratch / "shards")

    began, cpu = time.perf_counter(), time.process_time()
    result = pretrain(scratch / "shards", vocabulary, config, scratch / "encoder")
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    encoder = Encoder.load(scratch / "encoder")

    settings = config.training
    windows, _ = split_windows(read_shards(scratch / "shards")[1], config)
    trained = result.step * settings.windows * settings.accumulate
    mean_events = float((windows.stop - windows.start).mean())

    users = [user_id(user) for user in split.users]
    as_of = asked_at(split, end)
    asked = events.filter(pl.col("user_id").is_in(users)).lazy()
    histories = build_sequences(asked, as_of=as_of, max_events=config.max_events, shards=1)
    begin = time.process_time()
    novel = best(encoder, histories, as_of, users, filter_seen=True)
    scoring = time.process_time() - begin
    repeats = best(encoder, histories, as_of, users, filter_seen=False) if split.repeats else None
    lists = pl.DataFrame(
        {
            "user": pl.Series(split.users, dtype=pl.Int32),
            "novel": filled(split, novel, history_of(split)),
            "repeats": None if repeats is None else filled(split, repeats, [[]] * len(users)),
        }
    )
    out.mkdir(parents=True, exist_ok=True)
    lists.write_parquet(out / "lists.parquet")
    report = {
        "model": "seqline",
        "seed": settings.seed,
        "recipe": json.loads(config.to_bytes()),
        "epochs": trained / len(windows),
        "kept_epoch": result.best_step * settings.windows * settings.accumulate / len(windows),
        "training_seconds": seconds,
        "training_cpu_seconds": cpu,
        "sequences_per_cpu_second": trained / cpu,
        "events_per_cpu_second": trained * mean_events / cpu,
        "parameters": sum(weight.numel() for weight in encoder.model.parameters()),
        "scoring_cpu_seconds": scoring,
        "users_per_cpu_second": len(users) / scoring,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }
    (out / "run.json").write_text(json.dumps(report, indent=1) + "\n")
    return report


def canonical_events(split: Split) -> pl.DataFrame:
    """The history as events of the schema EVENTS, in the rows' order."""
    rows = split.history
    names = {user: user_id(user) for user in rows["user"].unique()}
    events = rows.select(
        event_id=pl.format("e{}", pl.col("position").cast(pl.String).str.zfill(8)),
        user_id=pl.col("user").replace_strict(names, return_dtype=pl.String),
        session_id=pl.col("basket").cast(pl.String),
        event_type=pl.lit("purchase"),
        item_id=item_ids("item"),
        event_time=pl.col("time").dt.replace_time_zone("UTC"),
        event_date=pl.col("time").dt.date(),
    )
    return pl.concat(
        [pl.DataFrame(schema=schema.EVENTS.polars_schema()), events], how="diagonal_relaxed"
    )


def catalogue(split: Split) -> pl.DataFrame:
    """The candidates as rows of the schema ITEMS."""
    items = split.items.select(
        item_id=item_ids("item"),
        category="category",
        is_merchandise=pl.lit(True),
        valid_from=pl.lit(datetime(1970, 1, 1, tzinfo=UTC)).dt.cast_time_unit("us"),
    )
    return pl.concat(
        [pl.DataFrame(schema=schema.ITEMS.polars_schema()), items], how="diagonal_relaxed"
    )


def user_id(user: int) -> str:
    """A pseudonym of the form that events carry."""
    return hashlib.blake2b(str(user).encode(), digest_size=16).hexdigest()


def item_ids(column: str) -> pl.Expr:
    """Item numbers as ids."""
    return pl.col(column).cast(pl.String).str.zfill(6)


def asked_at(split: Split, end: datetime) -> datetime:
    """The cut of the split; after the last event where every user has a cut of their own."""
    return datetime.fromisoformat(split.cut).replace(tzinfo=UTC) if split.repeats else end


def history_of(split: Split) -> list[list[int]]:
    """Items that each scored user has had."""
    seen = dict(split.history.group_by("user").agg("item").iter_rows())
    return [seen[user] for user in split.users]


def filled(split: Split, lists: list[list[int]], seen: list[list[int]]) -> list[list[int]]:
    """Fill lists up to ten in the catalogue's order, with items not seen as long as there are."""
    everything = split.items["item"].to_list()
    full = []
    for items, had in zip(lists, seen, strict=True):
        left = [item for item in everything if len(items) < 10 and item not in items]
        full.append([*items, *sorted(left, key=set(had).__contains__)][:10])
    return full


def best(
    encoder: Encoder,
    histories: pl.DataFrame,
    as_of: datetime,
    users: list[str],
    *,
    filter_seen: bool,
) -> list[list[int]]:
    """Numbers of the ten best items of each user, of those that have a token."""
    found = {
        user: [int(item) for item in items]
        for part in encoder.top_items([histories], as_of, k=10, filter_seen=filter_seen)
        for user, items in zip(part.user_ids, part.item_ids, strict=True)
    }
    return [found[user] for user in users]


def main() -> None:
    import torch

    from seq_ml.encoder.config import load_config

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("split", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--recipe", required=True)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--steps", type=int, help="stop after so many, for a measurement of speed")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    config = load_config(arguments.recipe)
    changes = {"steps": arguments.steps} if arguments.steps else {}
    training = replace(config.training, seed=arguments.seed, threads=1, **changes)
    with tempfile.TemporaryDirectory() as scratch:
        split = read_split(arguments.split)
        report = run(split, arguments.out, replace(config, training=training), Path(scratch))
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
