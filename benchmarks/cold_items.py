"""Cold items: does the encoder rank what nobody bought before by what the catalogue says?

    python -m benchmarks.cold_items WORK_FOLDER                # unseen items, from December on
    python -m benchmarks.cold_items WORK_FOLDER --month valid  # known items with and without text

Both write their table into docs/benchmarks-quality.md. Settings were chosen on the month from
November on.

Complete Journey. A tenth of the items with at least 5 households before the cut is drawn with a
seed, and all their events before the cut are taken away: from training, from the histories that are
read and from every count. Their catalogue rows stay; the few whose row says nothing are not asked
for. After the cut, the households that bought at least one of them in the next 30 days are asked
for: which of the cold items (and which of all items) did they buy? The encoder is preset `small`
with text and `id_dropout`; an item's score by text and category is taken apart into that by its
text only and by its category only, and into its vector alone without the copies of what the
household buys (`seq_ml.encoder.scoring.cold`). Beside them stand

* random initialisation: the cold items' vectors drawn at random with the spread of the learnt ones,
  as an embedding table would hold them;
* popularity: all cold items have 0 events, so chance decides;
* category popularity: mean sales, in the 91 days before the cut, of the category's other items;
* own categories: the household's counts in the item's category (half-life 120 days), spread over
  its items, then category popularity;
* text vectors: cosine of the item's text vector with the mean of the household's, nothing learnt.

Ties are broken by chance. NDCG@10, hit rate at 10 and mean reciprocal rank of the first hit, means
over households; intervals and differences are paired bootstraps over households (95 %).
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from seq_ml.encoder.config import PRESETS, EncoderConfig, changed
from seq_ml.encoder.data.texts import described, make_item_texts
from seq_ml.encoder.scoring.cold import (
    category_numbers,
    cold_items,
    described_vectors,
    neighbours,
    text_vectors,
)
from seq_ml.encoder.scoring.encoder import Encoder
from seq_ml.encoder.scoring.topk import all_scores
from seq_ml.encoder.training.pretrain import pretrain
from seq_ml.language.text_model import SHIPPED, TextModel
from seq_ml.metrics.ranking import hit_rate, ndcg
from seq_ml.sequences.build import build_sequences
from seq_ml.tokens.shards import write_shards
from seq_ml.tokens.vocabulary import Vocabulary
from tests.data import journey

if TYPE_CHECKING:
    from collections.abc import Sequence

PAGE = Path(__file__).parents[1] / "docs" / "benchmarks-quality.md"
CUTS = {
    "test": datetime(2017, 12, 1, 5, tzinfo=UTC),
    "valid": datetime(2017, 11, 1, 5, tzinfo=UTC),
}
HORIZON = timedelta(days=30)
HOUSEHOLDS, COLD_SHARE, SEED = 5, 0.1, 7
RESAMPLES, TOP = 2_000, 10
TEXT = {"text": True, "id_dropout": 0.2}
PLAIN = {"text": False, "id_dropout": 0.0}
"""What `small` is without text: the measure for warm items."""


@dataclass(frozen=True)
class Data:
    """events: without those of the cold items before the cut.  cold: item ids, in random order.

    truth: user_id, item_id bought in the horizon by households with an event before the cut.
    """

    cut: datetime
    events: pl.DataFrame
    items: pl.DataFrame
    cold: list[str]
    truth: pl.DataFrame

    @property
    def past(self) -> pl.DataFrame:
        """Purchases before the cut."""
        before = pl.col("event_time") < self.cut
        return self.events.filter(before, pl.col("event_type") == "purchase")


def read_data(month: str) -> Data:
    cut, frames = CUTS[month], journey(10_000)
    events = frames["clean_events"]
    before = pl.col("event_time") < cut
    bought = events.filter(pl.col("event_type") == "purchase").drop_nulls("item_id")
    households = bought.filter(before).group_by("item_id").agg(n=pl.col("user_id").n_unique())
    able = households.filter(pl.col("n") >= HOUSEHOLDS)["item_id"].sort().to_numpy()
    random = np.random.default_rng(SEED)
    drawn = random.choice(able, int(COLD_SHARE * len(able)), replace=False).tolist()
    events = events.filter(~(before & pl.col("item_id").is_in(drawn)).fill_null(value=False))
    silent = set(described(frames["items"], cut).filter(pl.col("text") == "")["item_id"])
    cold = [item for item in drawn if item not in silent]
    truth = (
        bought.filter(pl.col("event_time") >= cut, pl.col("event_time") < cut + HORIZON)
        .join(events.filter(before), on="user_id", how="semi")
        .select("user_id", "item_id")
        .unique()
        .sort("user_id", "item_id")
    )
    return Data(cut, events, frames["items"], cold, truth)


def train(data: Data, name: str, model: dict[str, object], work: Path) -> Encoder:
    """Train a variant of `small`, or take what an earlier call left."""
    config: EncoderConfig = changed(
        PRESETS["small"],
        {"name": name, "model": model, "training": {"threads": 1}},
        where=name,
    )
    events = data.events.lazy()
    words = Vocabulary.fit([events], data.items, before=data.cut, min_users=config.min_users)
    shards = work / "shards"
    if not (shards / "manifest.json").exists():
        sequences = build_sequences(events, as_of=data.cut, max_events=config.max_events, shards=4)
        write_shards(sequences.sort("shard").partition_by("shard"), words, shards)
    texts = None
    if config.model.text:
        texts = make_item_texts(
            words, data.items, before=data.cut, pretrained=SHIPPED, cache=work / "vectors"
        )
    began = time.process_time()
    out = work / name.replace(" ", "-")
    result = pretrain(shards, words, config, out, texts=texts, on_step=_say)
    print(f"{name}: {result.held_out}, {time.process_time() - began:.0f} CPU s", flush=True)
    return Encoder.load(out)


def _say(metrics: dict[str, float]) -> None:
    if metrics["step"] % 50 == 0:
        print({key: round(value, 4) for key, value in metrics.items()}, flush=True)


# --- scores of the cold items, f32 [households, cold items] ---------------------------------------


def baselines(data: Data, users: list[str], work: Path) -> dict[str, np.ndarray]:
    rows = described(data.items, data.cut).filter(pl.col("item_id").is_in(data.cold))
    of = dict(rows.select("item_id", "category").iter_rows())
    categories = sorted({*of.values()} - {None})
    number = {name: index for index, name in enumerate(categories)}
    place = np.array([number.get(of[item], len(categories)) for item in data.cold])
    past = data.past.join(data.items.select("item_id", "category"), on="item_id")
    sold = past.filter(pl.col("event_time") >= data.cut - timedelta(days=91))
    sizes = dict(past.group_by("category").agg(pl.col("item_id").n_unique()).iter_rows())
    sales = dict(sold.group_by("category").len().iter_rows())
    mean = np.array([sales.get(n, 0) / sizes.get(n, 1) for n in categories] + [0.0])

    age = (pl.lit(data.cut) - pl.col("event_time")).dt.total_seconds() / 86_400
    weight = 0.5 ** (age / 120)
    own = np.zeros((len(users), len(categories) + 1))
    row = {user: index for index, user in enumerate(users)}
    counts = past.group_by("user_id", "category").agg(weight.sum().alias("weight"))
    for user, category, count in counts.iter_rows():
        if user in row and category in number:
            own[row[user], number[category]] = count / sizes[category]

    texts = dict(described(data.items, data.cut).select("item_id", "text").iter_rows())
    read = TextModel(SHIPPED, work / "vectors")
    seen = past.group_by("user_id", "item_id").agg(weight.sum().alias("weight"))
    seen = seen.filter(pl.col("user_id").is_in(users)).sort("user_id", "item_id")
    vectors = read.vectors([texts[item] for item in seen["item_id"]])
    profile = np.zeros((len(users), vectors.shape[1]))
    at = [row[user] for user in seen["user_id"]]
    np.add.at(profile, at, vectors * seen["weight"].to_numpy()[:, None])
    cold = read.vectors([texts[item] for item in data.cold])
    return {
        "popularity": np.zeros((len(users), len(data.cold))),
        "category popularity": np.tile(mean[place], (len(users), 1)),
        "own categories": own[:, place] + 1e-6 * mean[place],
        "text vectors": profile @ cold.T,
    }


def encoder_scores(
    encoder: Encoder, data: Data, users: list[str], work: Path
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Scores of the cold items [users, cold] by way, and of the known ones [users, items]."""
    asked = data.items.filter(pl.col("item_id").is_in(data.cold))
    cold = cold_items(encoder, asked, before=data.cut, cache=work / "vectors")
    column = {item: index for index, item in enumerate(cold.item_ids)}
    order = [column[item] for item in data.cold]
    random = np.random.default_rng(SEED)
    spread = encoder.item_embeddings()[1].std()
    drawn = random.normal(0, spread, cold.vectors.shape).astype(np.float32)
    rows = described(asked, data.cut)
    rows = rows.join(pl.DataFrame({"item_id": cold.item_ids}), on="item_id", maintain_order="right")
    numbers, texts = category_numbers(encoder, rows), text_vectors(encoder, rows, work / "vectors")
    none, flat = np.zeros_like(numbers), np.full_like(cold.bias, cold.bias.mean())
    variants = {
        "text and category": cold,
        "text only": replace(cold, vectors=described_vectors(encoder, none, texts), bias=flat),
        "category only": replace(
            cold,
            vectors=described_vectors(encoder, numbers, None),
            near=neighbours(encoder, numbers, None),
        ),
        "text and category, no copies": replace(cold, near=None),
        "random initialisation": replace(cold, near=None, vectors=drawn, bias=flat),
    }
    catalogue = encoder.catalogue()
    found: dict[str, list[np.ndarray]] = {name: [] for name in variants}
    known, seen = [], []
    past = data.events.lazy().filter(pl.col("user_id").is_in(users))
    for ids, states, own in encoder.read_users(
        encoder.sequences(past, data.cut), data.cut, catalogue
    ):
        seen += ids
        known.append(all_scores(catalogue, states, own))
        for name, items in variants.items():
            found[name].append(items.scores(states, own)[:, order])
    assert seen == users
    return {name: np.concatenate(parts) for name, parts in found.items()}, np.concatenate(known)


# --- judging --------------------------------------------------------------------------------------


def judge(scores: np.ndarray, relevant: np.ndarray) -> dict[str, np.ndarray]:
    """NDCG@10, HR@10 and reciprocal rank of each row; scores, relevant [users, items]."""
    hits = np.zeros((len(scores), TOP), dtype=bool)
    rank = np.zeros(len(scores))
    random = np.random.default_rng(SEED)
    for row, (values, right) in enumerate(zip(scores, relevant, strict=True)):
        broken = values + 1e-9 * random.random(len(values))  # ties only: scores differ by more
        best = np.argpartition(-broken, TOP)[:TOP]
        hits[row] = right[best[np.argsort(-broken[best])]]
        rank[row] = (broken >= broken[right].max()).sum()
    return {
        "NDCG@10": ndcg(hits, relevant.sum(1)),
        "HR@10": hit_rate(hits, relevant.sum(1)),
        "MRR": 1 / rank,
    }


def interval(values: np.ndarray) -> tuple[float, float, float]:
    """Mean and its bounds; the draws are the same for all values of the same length."""
    random = np.random.default_rng(SEED)
    shares = np.full(len(values), 1 / len(values))
    means = random.multinomial(len(values), shares, RESAMPLES) @ values / len(values)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(values.mean()), float(low), float(high)


def relevance(truth: pl.DataFrame, users: list[str], items: list[str]) -> np.ndarray:
    """Whether each user bought each item, bool [users, items]."""
    row = {user: index for index, user in enumerate(users)}
    column = {item: index for index, item in enumerate(items)}
    found = np.zeros((len(users), len(items)), dtype=bool)
    for user, item in truth.iter_rows():
        if user in row and item in column:
            found[row[user], column[item]] = True
    return found


def compare(data: Data, encoder: Encoder, work: Path) -> dict[str, dict[str, object]]:
    """Judge all rankings of the cold items, among themselves and among all items."""
    buyers = data.truth.filter(pl.col("item_id").is_in(data.cold))
    users = buyers["user_id"].unique().sort().to_list()
    relevant = relevance(buyers, users, data.cold)
    print(f"{len(data.cold)} cold items, {len(users)} households, {relevant.sum()} purchases")
    ways, known = encoder_scores(encoder, data, users, work)
    hits = np.concatenate([relevant, np.zeros(known.shape, dtype=bool)], axis=1)
    found = {
        name: {
            "cold": judge(scores, relevant),
            "all": judge(np.concatenate([scores, known], axis=1), hits),
        }
        for name, scores in ways.items()
    }
    for name, scores in baselines(data, users, work).items():
        found[name] = {"cold": judge(scores, relevant)}
    best = next(iter(found.values()))
    return {
        name: {
            among: {
                metric: {
                    "value": interval(value),
                    "lead of the first": interval(best[among][metric] - value),
                }
                for metric, value in metrics.items()
            }
            for among, metrics in judged.items()
        }
        for name, judged in found.items()
    }


def warm(data: Data, encoders: dict[str, Encoder]) -> dict[str, dict[str, object]]:
    """NDCG@10 of the known items of the next 30 days: of all, and of those never bought before."""
    words = next(iter(encoders.values()))
    items = words.item_embeddings()[0]
    truth = data.truth.filter(pl.col("item_id").is_in(items))
    users = truth["user_id"].unique().sort().to_list()
    past = data.events.lazy().filter(pl.col("user_id").is_in(users))
    seen = relevance(data.past.select("user_id", "item_id").unique(), users, items)
    relevant = relevance(truth, users, items)
    new = relevant & ~seen
    some = new.any(1)
    values: dict[str, dict[str, np.ndarray]] = {}
    for name, encoder in encoders.items():
        scores = encoder.item_scores(past, data.cut, users)[1]
        novel = np.where(seen, -np.inf, scores)[some]
        values[name] = {
            "repeats": judge(scores, relevant)["NDCG@10"],
            "novel": judge(novel, new[some])["NDCG@10"],
        }
    first = next(iter(values.values()))
    return {
        name: {
            kind: {"value": interval(value), "minus the first": interval(value - first[kind])}
            for kind, value in kinds.items()
        }
        for name, kinds in values.items()
    }


# --- the table ------------------------------------------------------------------------------------


def cold_table(report: dict[str, Any]) -> str:
    """Markdown of what `compare` found."""
    rankings = report["cold"]
    first = next(iter(rankings))
    asked = f"{report['items']:,} unseen items, {report['households']:,} households that bought one"
    lines = [
        f"{asked} or more in the 30 days from {report['cut'][:10]} on.",
        "",
        f"| among the unseen items | NDCG@10 [95 %] | HR@10 | MRR | NDCG@10: lead of {first} |",
        "|---|---|---|---|---|",
    ]
    for name, judged in rankings.items():
        values = judged["cold"]
        lead = "" if name == first else _shown(values["NDCG@10"]["lead of the first"], sign="+")
        lines.append(
            f"| {name} | {_shown(values['NDCG@10']['value'])} | {values['HR@10']['value'][0]:.3f} "
            f"| {values['MRR']['value'][0]:.4f} | {lead} |"
        )
    lines += [
        "",
        "| the unseen items among all items | HR@10 [95 %] | MRR [95 %] |",
        "|---|---|---|",
    ]
    for name, judged in rankings.items():
        if values := judged.get("all"):
            shown = [_shown(values[metric]["value"]) for metric in ("HR@10", "MRR")]
            lines.append(f"| {name} | {' | '.join(shown)} |")
    return "\n".join(lines)


def warm_table(report: dict[str, Any]) -> str:
    """Markdown of what `warm` found."""
    lines = [
        f"Known items of the 30 days from {report['cut'][:10]} on, NDCG@10 [95 %]:",
        "",
        "| encoder | all | minus without text | new to the household | minus without text |",
        "|---|---|---|---|---|",
    ]
    for name, kinds in report["warm"].items():
        cells = [
            _shown(kinds[kind][what], sign="+" if what != "value" else "")
            for kind in ("repeats", "novel")
            for what in ("value", "minus the first")
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _shown(values: Sequence[float], *, sign: str = "") -> str:
    value, low, high = (f"{number:{sign}.4f}" for number in values)
    return f"{value} [{low}, {high}]"


def write_table(name: str, text: str) -> None:
    """Put a table between its markers in the page."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    before, rest = PAGE.read_text().split(begin)
    PAGE.write_text(f"{before}{begin}\n{text}\n{end}{rest.split(end)[1]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", type=Path)
    parser.add_argument("--month", choices=CUTS, default="test")
    arguments = parser.parse_args()
    work = arguments.work / arguments.month
    data = read_data(arguments.month)
    if arguments.month == "valid":
        models = {
            "without text": PLAIN,
            "text and category, id_dropout 0": TEXT | {"id_dropout": 0.0},
            "text and category, id_dropout 0.2": TEXT,
        }
        encoders = {name: train(data, name, model, work) for name, model in models.items()}
        report = {"cut": data.cut.isoformat(), "warm": warm(data, encoders)}
        write_table("known items", warm_table(report))
    else:
        encoder = train(data, "text and category", TEXT, work)
        asked = data.truth.filter(pl.col("item_id").is_in(data.cold))
        report = {
            "cut": data.cut.isoformat(),
            "items": len(data.cold),
            "households": asked["user_id"].n_unique(),
            "cold": compare(data, encoder, work),
        }
        write_table("cold items", cold_table(report))
    (work / "report.json").write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
