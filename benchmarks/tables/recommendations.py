"""The published recommendations beside the strongest simple methods, and the report's sections.

    python -m benchmarks.tables.recommendations            (some minutes)
    python -m benchmarks.tables.recommendations unseen     (some minutes)
    python -m benchmarks.tables.recommendations sampled    (some minutes)

Two times the product's own way (`examples`, `backtest`, `rows`) as of 1 December 2017:

* the protocol of docs/benchmarks-quality.md (`cj-product`: items of at least 20 households, fuel
  too, and households with at least 10 rows), the rows judged on December: the first ten of a user,
  and the first ten that are new for the user. The simple methods are those of that page, tuned on
  the month before, by their kept outcomes. Nothing of the product is tuned here; what is
  published was fitted on label windows that ended on 1 November.
* the shop as it is: every item of merchandise, every household; what the task's report says.

* what nobody bought yet, of the whole catalogue: at three origins, for every household that bought
  some of it within 28 days, how it is ranked among itself, beside the cosine of the words (TF-IDF,
  the user's own items by weight) that ranked it before. Where items tie, chance decides.

* what it costs that of many users a sample is learnt from, and few weights of EASE are kept: half
  of the households are judged, with scorers of the other half and as trained on themselves, beside
  the same households with everything learnt from all.

Intervals: 95 % bootstrap over users; differences are paired by user.
"""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from unittest.mock import patch

import numpy as np
import polars as pl
from scipy import sparse

from benchmarks.quality import ours
from benchmarks.quality.metrics import difference, mean, over_seeds, per_user
from benchmarks.quality.splits import next_month, read_complete_journey
from benchmarks.quality.table import RESULTS
from benchmarks.tables.common import SEED, task_data, write_section
from seq_ml import schema
from seq_ml.business import Business
from seq_ml.evaluation.backtest import backtest
from seq_ml.ingest.mapping.values import ALWAYS_KNOWN
from seq_ml.metrics.bootstrap import mean_estimate
from seq_ml.storage.contracts import conform
from seq_ml.tasks import data as shards
from seq_ml.tasks.behaviour.assortment import read_assortment, read_sales
from seq_ml.tasks.behaviour.visits import merchandise_bought
from seq_ml.tasks.candidate import Champion
from seq_ml.tasks.data import TaskData
from seq_ml.tasks.recommendations import known
from seq_ml.tasks.recommendations import task as recommendations
from seq_ml.tasks.recommendations.scorers import unit_rows
from seq_ml.tasks.recommendations.task import RecommendationTask
from seq_ml.tasks.recommendations.unseen import GROUPS, TEXTS, read_unseen
from tests.data import every_item

CUT = datetime(2017, 12, 1, tzinfo=UTC)
SIMPLE = ("tifu-knn", "decay-and-ease", "own-frequency-decayed", "ease", "popularity")
ORIGINS = [datetime(2017, *day, tzinfo=UTC) for day in ((10, 2, 4), (11, 6, 5), (12, 4, 5))]
"""Later than the months that the groups were chosen on."""
MODES = {"repeats": "any item", "novel": "items new to the user"}


def protocol() -> str:
    """Judge the rows that would have been published on 1 December on what December brought."""
    split = next_month(read_complete_journey("cj-product"), "cj-product", "test")
    data = _data(ours.canonical_events(split), ours.catalogue(split))
    task = RecommendationTask()
    began = time.process_time()
    examples = task.examples(data, CUT)
    result = backtest(task, examples, as_of=CUT, seed=SEED)
    serving = task.serving(data, CUT)
    rows = task.rows(data, CUT, serving, Champion(result.published, "benchmark"))
    seconds = time.process_time() - began
    number = {ours.user_id(user): user for user in split.users}
    rows = rows.filter(pl.col("user_id").is_in(list(number))).select(
        "rec_type",
        user=pl.col("user_id").replace_strict(number, return_dtype=pl.Int32),
        item=pl.col("item_id").cast(pl.Int32),
        rank="rank",
    )
    ranked = pl.col("item").sort_by("rank")
    new = pl.col("rec_type").sort_by("rank") != "buy_again"
    lists = rows.group_by("user").agg(repeats=ranked.head(10), novel=ranked.filter(new).head(10))
    published = per_user(lists.sort("user"), split)
    head = f"Rows as of {CUT:%Y-%m-%d}, {len(split.users):,} users judged on December. In the "
    head += f"backtest (November): {result.verdict} {seconds:.0f} CPU-s in all."
    parts = [head]
    for mode, asked in MODES.items():
        column = f"{mode}_ndcg"
        lines = [
            f"| {asked}: December | NDCG@10 [95 %] | published minus it |",
            "|---|---|---|",
            f"| **published rows** | {mean(published, column)} | |",
        ]
        for name in SIMPLE:
            found = over_seeds([pl.read_parquet(RESULTS / "cj-product" / name / "seed-0.parquet")])
            gap = difference(published, found, column)
            lines.append(
                f"| {name} | {mean(found, column)} | "
                f"{gap.mean:+.4f} [{gap.low:+.4f}, {gap.high:+.4f}] |"
            )
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def shop() -> str:
    """Write what the report of the task says about all merchandise and all households."""
    data = task_data()
    task = RecommendationTask()
    result = backtest(task, task.examples(data, CUT), as_of=CUT, seed=SEED)
    lines = [f"All merchandise, test window November 2017. {result.verdict}", ""]
    names = list(next(c.test for c in result.candidates if c.test))
    lines += [f"| candidate | {' | '.join(names)} |", "|---|" + "---|" * len(names)]
    lines += [
        f"| {c.name} | {' | '.join(str(c.test[n]) for n in names)} |"
        for c in result.candidates
        if c.test
    ]
    for section in task.sections(data, result):
        lines += ["", f"**{section.title}** {section.text}", ""]
        head, *body = section.rows
        lines += [f"| {' | '.join(head)} |", "|---|" + "---|" * (len(head) - 1)]
        lines += [f"| {' | '.join(cells)} |" for cells in body]
    return "\n".join(lines)


def _data(events: pl.DataFrame, items: pl.DataFrame) -> TaskData:
    return TaskData(
        events=events.lazy(),
        items=items,
        campaigns=pl.DataFrame(schema=schema.CAMPAIGNS.polars_schema()),
        campaign_items=pl.DataFrame(schema=schema.CAMPAIGN_ITEMS.polars_schema()),
        promotions=pl.LazyFrame(schema=schema.PROMOTIONS.polars_schema()),
        business=Business(timezone="America/New_York"),
        seed=SEED,
    )


def unseen() -> str:
    """Rank what nobody bought yet at `ORIGINS` by the product and by the words' cosine."""
    data = task_data()
    items = every_item().with_columns(valid_from=pl.lit(ALWAYS_KNOWN))
    data = replace(data, items=conform(items, schema.ITEMS))
    lines = ["| from | households | unseen items | the product | words | difference |"]
    lines.append("|---|---|---|---|---|---|")
    judged = []
    for origin in ORIGINS:
        bought = merchandise_bought(data, origin + timedelta(days=28))
        past = bought.filter(pl.col("event_time") < origin)
        new = bought.join(past, on="item_id", how="anti").join(past, on="user_id", how="semi")
        users = new["user_id"].unique().sort().to_list()
        sales = read_sales(data, origin)
        range_ = read_assortment(sales, data, origin)
        asked = read_unseen(data, range_, users, sales.items, origin)
        assert asked is not None
        after = new.filter(pl.col("item_id").is_in(asked.items)).select("user_id", "item_id")
        wanted = np.zeros((len(users), len(asked.items)), dtype=bool)
        for user, item in after.unique().iter_rows():
            wanted[users.index(user), asked.items.index(item)] = True
        texts = pl.DataFrame({"item_id": [*asked.known, *asked.items]}).join(
            data.items, on="item_id", how="left", maintain_order="left"
        )
        cosine, likings = _words(texts), sparse.csr_matrix(asked.liked)
        profile = unit_rows(likings @ cosine[: len(asked.known)])
        ways = []
        for left, right in (
            (likings @ asked.known_groups, asked.groups),
            (profile, cosine[len(asked.known) :]),
        ):
            rows = range(len(users))
            ways.append([_ndcg((left[n] @ right.T).toarray()[0], wanted[n]) for n in rows])
        both = pl.DataFrame({"user": users, "ours": ways[0], "words": ways[1]})
        both = both.filter(pl.Series(wanted.any(axis=1)))
        judged.append(both)
        lines.append(f"| {origin:%F} | {both.height:,} | {len(asked.items):,} | {_three(both)} |")
    mean = pl.concat(judged).group_by("user").agg(pl.col("ours", "words").mean()).sort("user")
    return "\n".join([*lines, f"| all, a household once | {mean.height:,} | | {_three(mean)} |"])


def sampled() -> str:
    """Judge half of the households as one of two shards, and as part of all at once."""
    task, half = RecommendationTask(), 1300
    with patch.multiple(shards, USERS_A_SHARD=half), patch.multiple(known, REFERENCE_USERS=half):
        data = task_data()
        some = data.some(half).events.select(pl.col("user_id").unique()).collect()
        with patch.multiple(recommendations, EXAMPLE_USERS=half):
            halves = _judged(task.examples(data, CUT), task, some)
    every = _judged(task.examples(task_data(), CUT), task, some)
    lines = ["| NDCG@10, November | of a sample | of all | difference |", "|---|---|---|---|"]
    for way, found in halves.items():
        both = found.join(every[way], on="unit", suffix="_all").drop_nulls().sort("unit")
        ours, theirs = (both[name].to_numpy() for name in ("value", "value_all"))
        cells = (str(mean_estimate(x, seed=SEED)) for x in (ours, theirs))
        gap = mean_estimate(ours - theirs, seed=SEED).signed()
        lines.append(f"| {' | '.join((way, *cells, gap))} |")
    return "\n".join(lines)


def _judged(
    examples: pl.DataFrame, task: RecommendationTask, users: pl.DataFrame
) -> dict[str, pl.DataFrame]:
    """NDCG@10 of each of the users (unit, value), any item and new ones, by who ranks."""
    test = examples.filter(pl.col("split") == "test").join(users, on="user_id", how="semi")
    found = {}
    for model in task.candidates():
        if model.name in ("ranker", "ease", "ease_ever", "tifu_knn"):
            model.fit(examples.filter(pl.col("split") != "test"))
            score = model.predict(test)
            for metric in task.metrics():
                if metric.name in ("ndcg_at_10", "ndcg_at_10_novel"):
                    what = "new items" if metric.name.endswith("novel") else "any item"
                    found[f"{model.name}, {what}"] = metric.function(test, score)
    return found


def _words(items: pl.DataFrame) -> sparse.csr_matrix:
    """TF-IDF of category, department and brand and of the words of title and description."""
    named = [pl.concat_list(pl.format(f"{n}:{{}}", n).fill_null("")) for n in GROUPS[:3]]
    texts = [pl.col(n).fill_null("").str.to_lowercase().str.extract_all(r"\w+") for n in TEXTS]
    terms = (
        items.select(pl.concat_list(*named, *texts).list.unique().alias("term"))
        .with_row_index("row")
        .explode("term")
        .filter(pl.col("term") != "")
        .with_columns(rows=pl.len().over("term"), word=pl.col("term").rank("dense") - 1)
    )
    weight = np.log1p(items.height / terms["rows"].to_numpy())
    place = (terms["row"].to_numpy(), terms["word"].to_numpy())
    return unit_rows(sparse.csr_matrix((weight, place), shape=(items.height, max(place[1]) + 1)))


def _ndcg(scores: np.ndarray, wanted: np.ndarray) -> float:
    """NDCG@10 of one user [items], where items of one score share their gains."""
    last = np.partition(scores, -10)[-10]
    at = np.flatnonzero(scores >= last)
    _, group = np.unique(-scores[at], return_inverse=True)
    gain = np.bincount(group, wanted[at]) / np.bincount(group)
    discount = 1 / np.log2(np.arange(2, 12))
    return float(gain[np.sort(group)[:10]] @ discount / discount[: max(wanted.sum(), 1)].sum())


def _three(values: pl.DataFrame) -> str:
    ours, words = values["ours"].to_numpy(), values["words"].to_numpy()
    return " | ".join(str(mean_estimate(x, seed=SEED)) for x in (ours, words, ours - words))


def main() -> None:
    if sys.argv[1:] == ["unseen"]:
        write_section("unseen", unseen())
    elif sys.argv[1:] == ["sampled"]:
        write_section("sampled", sampled())
    else:
        write_section("recommendations", f"{protocol()}\n\n{shop()}")


if __name__ == "__main__":
    main()
