"""Every way of fine-tuning on two tasks: trained parameters, quality, artefact size, seconds.

    python -m benchmarks.finetuning DATA WORK [--methods full lora …]

DATA holds `clean_events.parquet` and `items.parquet` of Complete Journey (canonical frames). One
encoder (preset `small`) is pre-trained on the events before 2017-08-05 into WORK/encoder, unless it
lies there. Then each method fits it, up to 2017-09-30, to

* churn: no visit in 8 weeks, among the households with a visit in 13 weeks, asked at 2017-09-30.
  Examples and splits are those of the task `churn_silence`: fitted to origins whose label windows
  end before the validation origin 2017-08-05, whose own ends before the test;
* items: the products bought in the next 30 days. Fitted to four origins whose windows end before
  the validation origin 2017-08-31, asked at 2017-12-01 as in the comparison of recommenders:
  products of at least 20 households, households with at least 10 rows, repeats allowed.

The encoder saw no answer of the validation origins, and nothing is fitted to an event on or after
2017-09-30. Intervals are 95 % bootstraps over households, differences paired. The baselines: for
churn the tables' features (logistic regression and trees, their blend), fitted to all origins
before the test; for items the household's own purchases, each counting half after 120 days.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from seq_ml.business import Business
from seq_ml.encoder.config import PRESETS
from seq_ml.encoder.finetuning.config import FineTuning
from seq_ml.encoder.finetuning.examples import binary_examples, item_examples
from seq_ml.encoder.finetuning.training import Task, fine_tune
from seq_ml.encoder.scoring.encoder import Encoder
from seq_ml.encoder.training.pretrain import pretrain
from seq_ml.metrics.probabilities import roc_auc
from seq_ml.metrics.ranking import ndcg
from seq_ml.sequences.build import build_sequences
from seq_ml.tasks.churn.task import SilenceTask
from seq_ml.tasks.data import TaskData
from seq_ml.tokens.shards import write_shards
from seq_ml.tokens.vocabulary import Vocabulary

if TYPE_CHECKING:
    from seq_ml.encoder.finetuning.tuned import FineTuned

CUT = datetime(2017, 9, 30, 4, tzinfo=UTC)
"""Midnight in New York: what is fitted has seen nothing from here on."""
ENCODER_CUT = CUT - timedelta(days=56)
MONTH = timedelta(days=30)
ITEMS_VALIDATION = CUT - MONTH
ITEMS_FIT = [ITEMS_VALIDATION - MONTH - timedelta(days=7 * i) for i in range(4)]
ITEMS_TEST = (datetime(2017, 12, 1, 5, tzinfo=UTC), datetime(2018, 1, 1, 5, tzinfo=UTC))
HALF_LIFE = 120
RESAMPLES = 1_000
METHODS = ("full", "frozen", "partial", "lora", "adalora", "adapter", "prefix")
RATES = {
    "churn": {"lora": (3e-3, 1e-2)},
    "items": {"full": (3e-4,), "partial": (3e-4,)},
    "churn-items": {"full": (1e-3,)},
}
"""Learning rates; of several the one with the best loss on the validation origins is kept."""
OTHER_RATES = (3e-3,)
BLOCK = ("backbone.blocks.1", "backbone.norm", "query")


@dataclass(frozen=True)
class Result:
    """One row of a table; quality: values per household (items) or predictions (churn)."""

    name: str
    rate: float
    trained: int
    bytes: int
    seconds: float
    quality: np.ndarray


class Churn:
    """The churn test: labels of the households at the cut."""

    title = "Churn: ROC-AUC"
    baseline = "features of the tables, blend"
    chance = 0.5

    def __init__(self, events: pl.LazyFrame, items: pl.DataFrame) -> None:
        self.events = events
        nothing = pl.DataFrame()
        data = TaskData(
            events, items, nothing, nothing, nothing.lazy(), Business(timezone="America/New_York")
        )
        silence = SilenceTask()
        as_of = CUT + timedelta(days=silence.horizon_days(data.business))
        self.examples = silence.examples(data, as_of)
        self.test = self.examples.filter(split="test").sort("user_id")
        assert self.test["origin"].unique().to_list() == [CUT]
        self.candidates = {model.name: model for model in silence.candidates()}

    def task(self, encoder: Encoder) -> Task:
        tokens = encoder.tokens(self.events, CUT)
        parts = [
            binary_examples(tokens, self.examples.filter(split=split))
            for split in ("fit", "validation")
        ]
        return Task("churn", *parts)

    def judge(self, tuned: FineTuned) -> np.ndarray:
        users, p = tuned.predict("churn", self.events, CUT)
        scores = pl.DataFrame({"user_id": users, "p": p})
        return self.test.join(scores, on="user_id", how="left", maintain_order="left")[
            "p"
        ].to_numpy()

    def untuned(self, encoder: Encoder) -> dict[str, np.ndarray]:  # noqa: ARG002
        return {}

    def baselines(self) -> dict[str, np.ndarray]:
        found = {}
        for name in ("rfm_logistic", "blend"):
            model = self.candidates[name]
            model.fit(self.examples.filter(pl.col("split") != "test"))
            found[name] = model.predict(self.test)
        return {"RFM, logistic": found["rfm_logistic"], self.baseline: found["blend"]}

    def value(self, quality: np.ndarray, chosen: np.ndarray | slice = slice(None)) -> float:
        return roc_auc(self.label[chosen], quality[chosen])

    @property
    def label(self) -> np.ndarray:
        return self.test["label"].to_numpy()


class Items:
    """The recommendation test: what each household bought in the month from the test's cut."""

    title = "Items of the next month: NDCG@10"
    baseline = "own purchases, half-life 120 days"
    chance = 0.0

    def __init__(self, events: pl.LazyFrame) -> None:
        self.events = events
        cut, end = ITEMS_TEST
        rows = (
            events.filter(pl.col("event_type") == "purchase", pl.col("event_time") < end)
            .select("user_id", "session_id", "item_id", "event_time")
            .unique(["user_id", "session_id", "item_id"], keep="first", maintain_order=True)
            .collect()
        )
        past = rows.filter(pl.col("event_time") < cut)
        common = past.group_by("item_id").agg(pl.col("user_id").n_unique())
        self.items = common.filter(pl.col("user_id") >= 20)["item_id"].sort().to_list()
        known = pl.col("item_id").is_in(self.items)
        active = past.filter(known).group_by("user_id").len().filter(pl.col("len") >= 10)
        self.past = past.filter(known)
        truth = rows.filter(known, pl.col("event_time") >= cut)
        truth = truth.filter(pl.col("user_id").is_in(active["user_id"].implode()))
        self.users = truth["user_id"].unique().sort().to_list()
        self.truth = self._matrix(truth, np.ones(truth.height)) > 0

    def _matrix(self, rows: pl.DataFrame, weight: np.ndarray) -> np.ndarray:
        user = {name: place for place, name in enumerate(self.users)}
        item = {name: place for place, name in enumerate(self.items)}
        matrix = np.zeros((len(user), len(item)), dtype=np.float32)
        keep = rows["user_id"].is_in(self.users).to_numpy()
        rows = rows.filter(keep)
        place = ([user[u] for u in rows["user_id"]], [item[i] for i in rows["item_id"]])
        np.add.at(matrix, place, weight[keep].astype(np.float32))
        return matrix

    def task(self, encoder: Encoder) -> Task:
        tokens = encoder.tokens(self.events, CUT)
        bought = 1 + encoder.vocabulary.behaviours.index("purchase")
        parts = [
            item_examples(tokens, origins, days=MONTH.days, behaviour=bought)
            for origins in (ITEMS_FIT, [ITEMS_VALIDATION])
        ]
        return Task("items", *parts)

    def judge(self, tuned: FineTuned) -> np.ndarray:
        return self.scored(tuned.encoder)

    def untuned(self, encoder: Encoder) -> dict[str, np.ndarray]:
        return {"as pre-trained": self.scored(encoder)}

    def scored(self, encoder: Encoder) -> np.ndarray:
        found = []
        for start in range(0, len(self.users), 500):
            part = self.users[start : start + 500]
            names, scores = encoder.item_scores(self.events, ITEMS_TEST[0], part)
            column = {name: place for place, name in enumerate(names)}
            place = np.array([column.get(item, -1) for item in self.items])
            own = np.where(place >= 0, scores[:, place], -np.inf)
            found.append(self.ndcg(own, slice(start, start + 500)))
        return np.concatenate(found)

    def ndcg(self, scores: np.ndarray, rows: slice) -> np.ndarray:
        order = np.argsort(-scores, axis=1, kind="stable")[:, :10]
        truth = self.truth[rows]
        return ndcg(np.take_along_axis(truth, order, axis=1), truth.sum(1))

    def baselines(self) -> dict[str, np.ndarray]:
        age = (pl.lit(ITEMS_TEST[0]) - pl.col("event_time")).dt.total_seconds() / 86_400
        decayed = self.past.select(0.5 ** (age / HALF_LIFE)).to_series().to_numpy()
        buyers = self.past.group_by("item_id").agg(pl.col("user_id").n_unique()).sort("item_id")
        popular = buyers["user_id"].to_numpy() / buyers["user_id"].max()
        own = self._matrix(self.past, decayed)
        everyone = np.broadcast_to(popular, own.shape)
        rows = slice(None)
        return {
            "popularity": self.ndcg(everyone, rows),
            self.baseline: self.ndcg(own + 1e-6 * popular, rows),
        }

    def value(self, quality: np.ndarray, chosen: np.ndarray | slice = slice(None)) -> float:
        return float(quality[chosen].mean())


def pretrained(events: pl.LazyFrame, items: pl.DataFrame, work: Path, threads: int) -> Encoder:
    """The encoder that all methods start from."""
    folder = work / "encoder"
    config = PRESETS["small"]
    config = replace(config, training=replace(config.training, threads=threads))
    if not (folder / "training.json").exists():
        vocabulary = Vocabulary.fit([events], items, before=ENCODER_CUT, min_users=config.min_users)
        sequences = build_sequences(
            events, as_of=ENCODER_CUT, max_events=config.max_events, shards=4
        )
        write_shards(sequences.sort("shard").partition_by("shard"), vocabulary, folder / "shards")
        pretrain(folder / "shards", vocabulary, config, folder)
    return Encoder.load(folder)


def compare(
    encoder: Encoder,
    tests: dict[str, Churn | Items],
    methods: dict[str, FineTuning],
    work: Path,
) -> dict[str, list[Result]]:
    """Fit every method to every test alone, and full and LoRA to all of them together.

    Of several learning rates the one with the best validation loss is kept. A run whose result lies
    in `work` is not done again.
    """
    tasks = {name: test.task(encoder) for name, test in tests.items()}
    results: dict[str, list[Result]] = {name: [] for name in tests}
    runs = [(method, [name]) for method in methods for name in tests]
    if len(tests) > 1:
        runs += [(method, list(tests)) for method in methods if method in ("full", "lora")]
    for method, names in runs:
        found = []
        which = "-".join(names)
        for rate in RATES[which].get(method, OTHER_RATES):
            settings = replace(methods[method], learning_rate=rate)
            folder = work / f"{which}-{method}-{rate:g}"
            if not (folder / "result.json").exists():
                began = time.process_time()
                tuned = fine_tune(encoder, [tasks[name] for name in names], settings)
                assert tuned is not None
                seconds = time.process_time() - began
                tuned.save(folder)
                quality = {name: tests[name].judge(tuned) for name in names}
                np.savez(folder / "quality.npz", **quality)
                result = {
                    "trained": tuned.trained,
                    "bytes": sum(path.stat().st_size for path in folder.glob("finetuned.*")),
                    "seconds": seconds,
                    "best_step": tuned.result.best_step,
                    "untuned": tuned.result.untuned,
                    "validation": tuned.result.validation,
                }
                (folder / "result.json").write_text(json.dumps(result))
            result = json.loads((folder / "result.json").read_text())
            loss = sum(result["validation"][name] / result["untuned"][name] for name in names)
            found.append((loss, folder, result))
            print(folder.name, result, flush=True)
        _, folder, result = min(found, key=lambda entry: entry[0])
        quality = np.load(folder / "quality.npz")
        for name in names:
            values = (result["trained"], result["bytes"], result["seconds"])
            label = method if len(names) == 1 else f"{method}, both tasks"
            rate = float(folder.name.rpartition(f"{method}-")[2])
            results[name].append(Result(label, rate, *values, quality[name]))
            print(label, name, rate, tests[name].value(quality[name]), flush=True)
    return results


def table(test: Churn | Items, results: list[Result], encoder: Encoder) -> str:
    """Markdown of one task."""
    whole = sum(p.numel() for p in encoder.model.parameters())
    backbone = sum(p.numel() for p in encoder.model.backbone.parameters())
    against = {"full": "− full", "frozen": "− frozen"}
    quality = {result.name: result.quality for result in results}
    quality |= test.untuned(encoder) | test.baselines()
    draws = _draws(test, quality)
    head = ["method", "rate", "trained", "of the model", "of the backbone", test.title]
    head += [*against.values(), f"− {test.baseline}", "÷ full", "artefact", "CPU s"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    by_name = {result.name: result for result in results}
    for name in quality:
        row = by_name.get(name)
        cells = [name, "–", "–", "–", "–"]
        if row is not None:
            cells[1:] = [f"{row.rate:g}", f"{row.trained:,}"]
            within = f"{row.trained / backbone:.1%}" if row.trained < backbone else "–"
            cells += [f"{row.trained / whole:.2%}", within]
        cells.append(f"{test.value(quality[name]):.4f} {_interval(draws[name])}")
        for other in (*against, test.baseline):
            gap = test.value(quality[name]) - test.value(quality[other])
            same = name == other
            cells.append("–" if same else f"{gap:+.4f} {_interval(draws[name] - draws[other])}")
        gain = {other: test.value(quality[other]) - test.chance for other in (name, "full")}
        shares = (draws[name] - test.chance) / (draws["full"] - test.chance)
        cells.append(f"{gain[name] / gain['full']:.1%} {_interval(shares, '.1%')}")
        if row is None:
            cells += ["–", "–"]
        else:
            cells += [f"{row.bytes / 1024:,.0f} KiB", f"{row.seconds:.0f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _draws(test: Churn | Items, quality: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Values on resamples of the households, the same for all."""
    random = np.random.default_rng(7)
    number = len(next(iter(quality.values())))
    draws = {name: np.empty(RESAMPLES) for name in quality}
    for draw in range(RESAMPLES):
        chosen = random.integers(0, number, number)
        for name, values in quality.items():
            draws[name][draw] = test.value(values, chosen)
    return draws


def _interval(values: np.ndarray, form: str = ".4f") -> str:
    low, high = np.nanquantile(values, [0.025, 0.975])
    return f"[{low:{form}}, {high:{form}}]"


def main(arguments: list[str] | None = None) -> None:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument(
        "--tasks", nargs="+", choices=["churn", "items"], default=["churn", "items"]
    )
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--examples", type=int, default=48)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args(arguments)
    events = pl.scan_parquet(given.data / "clean_events.parquet")
    items = pl.read_parquet(given.data / "items.parquet")
    encoder = pretrained(events, items, given.work, given.threads)
    tests = {"churn": Churn(events, items), "items": Items(events)}
    tests = {name: tests[name] for name in given.tasks}
    methods = {
        method: FineTuning(
            method=method,
            layers=BLOCK if method == "partial" else (),
            steps=given.steps,
            examples=given.examples,
            evaluate_every=max(1, given.steps // 2),
            threads=given.threads,
        )
        for method in given.methods
    }
    results = compare(encoder, tests, methods, given.work)
    if {"full", "frozen"} <= set(given.methods):
        text = "\n\n".join(table(test, results[name], encoder) for name, test in tests.items())
        print(text)
        (given.work / "table.md").write_text(text + "\n")


if __name__ == "__main__":
    main()
