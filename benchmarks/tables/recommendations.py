"""The published recommendations beside the strongest simple methods, and the report's sections.

    python -m benchmarks.tables.recommendations        (some minutes)

Two times the product's own way (`examples`, `backtest`, `rows`) as of 1 December 2017:

* the protocol of docs/benchmarks-quality.md (`cj-product`: items of at least 20 households, fuel
  too, and households with at least 10 rows), the rows judged on December: the first ten of a user,
  and the first ten that are new for the user. The simple methods are those of that page, tuned on
  the month before, by their kept outcomes. Nothing of the product is tuned here; what is
  published was fitted on label windows that ended on 1 November.
* the shop as it is: every item of merchandise, every household; what the task's report says.

Intervals: 95 % bootstrap over users; differences are paired by user.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime

import polars as pl

from benchmarks.quality import ours
from benchmarks.quality.metrics import difference, mean, over_seeds, per_user
from benchmarks.quality.splits import next_month, read_complete_journey
from benchmarks.quality.table import RESULTS
from benchmarks.tables.common import SEED, task_data, write_section
from seq_ml import schema
from seq_ml.business import Business
from seq_ml.evaluation.backtest import backtest
from seq_ml.tasks.candidate import Champion
from seq_ml.tasks.data import TaskData
from seq_ml.tasks.recommendations.task import RecommendationTask

CUT = datetime(2017, 12, 1, tzinfo=UTC)
SIMPLE = ("tifu-knn", "decay-and-ease", "own-frequency-decayed", "ease", "popularity")
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


def main() -> None:
    write_section("recommendations", f"{protocol()}\n\n{shop()}")


if __name__ == "__main__":
    main()
