"""How the range changes and how people buy from it: what is discontinued, what is bought again.

An item is discontinued when the catalogue says that it ended, when none was in stock and none on
order and none sold since, or when it has not sold for longer than its own rhythm allows. The rhythm
is told by the clock of its category, which ticks with every purchase there: a closed shop or a
season stops the clock for all, and an item that really ended stays behind alone. Among n sale days
in c ticks the chance of no further one in the next t ticks is (c / (c + t)) ** n where nothing
changed (a gamma posterior of the rate). To c is added what a usual item of the category needs for
one sale, so that few sales say as much as the category's. Measured on Complete Journey 91 days
before its end: of 59,397 items ever sold 999 were called discontinued, 109 of them sold afterwards,
0.27 % of the purchases; 182 days before 326 and 49, 0.09 %.

Variants of one product (sizes, colours) are one thing to want: lists are made of products, and name
the variant that suits the user.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from seq_ml.metrics.estimate import share_estimate
from seq_ml.periods import WINDOW_DAYS, YEAR_DAYS
from seq_ml.tasks.behaviour.sums import Sums
from seq_ml.tasks.behaviour.visits import merchandise_lines

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from numpy.typing import NDArray

    from seq_ml.metrics.estimate import Estimate
    from seq_ml.periods import Periods
    from seq_ml.tasks.data import TaskData

LEAST_SILENCE = WINDOW_DAYS
"""Days that an item may always be silent: a quarter, less than which promotions lie apart."""
RARE = 0.001
"""Chance of the silence below which an item counts as discontinued."""
UNLIKELY = 0.01
"""Chance of the silence before its first sale below which an item counts as new. Drawn shops of a
long tail whose range never changed came to at most 0.4 % of conversions (first sales: 1 to 32 %);
where half of the items came in mid-log, to 5.1 % of truly 5.0 %, with few sales to 2.3 %."""
LEAST_REPEATS, CLEARLY = 0.1, 0.02
"""Share of repeats among conversions from which on repeats are offered: with fewer, not even one of
the first ten places would be a repeat if lists were made as people buy. And how far from it a share
has to be to change what was offered."""
MOST_NEW = 0.5
"""Cap of the measured share of new items: the other half of a list is what is known to sell."""
LEAST_CONVERSIONS = 20
"""Of fewer no share is taken."""


@dataclass(frozen=True)
class Assortment:
    """The range as known before an instant.

    items: schema ITEMS, one row per item, and since (datetime): when its first row was known. gone:
    item_id, why, as `discontinued` returns. denied: items that the business never shows.
    """

    items: pl.DataFrame
    gone: pl.DataFrame = field(
        default_factory=lambda: pl.DataFrame(schema={"item_id": pl.String, "why": pl.String})
    )
    denied: tuple[str, ...] = ()

    @cached_property
    def variants(self) -> pl.DataFrame:
        """Items that are variants: item_id, product_id; no rows where there are none."""
        return self.items.select("item_id", "product_id").drop_nulls()

    @cached_property
    def products(self) -> pl.DataFrame:
        """The items with one row per product, whose id is the item_id; since: of the oldest."""
        items = self.items.with_columns(self.product)
        first = items.group_by("item_id").agg(pl.col("since").min())
        return (
            items.unique("item_id", keep="first", maintain_order=True)
            .drop("since")
            .join(first, on="item_id", maintain_order="left")
        )

    @cached_property
    def hidden(self) -> pl.Series:
        """Ids of items and products of which nothing may be shown."""
        gone = pl.concat([self.gone["item_id"], pl.Series(self.denied, dtype=pl.String)])
        shown = self.variants.filter(~pl.col("item_id").is_in(gone.implode()))["product_id"]
        whole = self.variants.filter(~pl.col("product_id").is_in(shown.implode()))["product_id"]
        return pl.concat([gone, whole]).unique().sort()

    @property
    def product(self) -> pl.Expr:
        """The product in place of the column item_id, where the item is a variant of one."""
        if not self.variants.height:
            return pl.col("item_id")
        return pl.col("item_id").replace(self.variants["item_id"], self.variants["product_id"])

    def scores_of_products(
        self, items: list[str], scores: NDArray[np.float32]
    ) -> tuple[list[str], NDArray[np.float32]]:
        """Return products and their scores [users, products]: those of their best variants."""
        if not self.variants.height:
            return items, scores
        products = pl.DataFrame({"item_id": items}).select(self.product).to_series()
        order = products.arg_sort().to_numpy()
        names, first = np.unique(products.gather(order).to_numpy(), return_index=True)
        return list(names), np.maximum.reduceat(scores[:, order], first, axis=1)


@dataclass(frozen=True)
class Sales:
    """What everybody bought before an instant, added up.

    items: item_id, first and last (event_time), sold (conversions). days: item_id, day, users (who
    bought it that day). firsts: the same of products, where each user counts on the first day only.
    """

    items: pl.DataFrame
    days: pl.DataFrame
    firsts: pl.DataFrame


def sales_of(purchases: pl.DataFrame, product: pl.Expr) -> Sales:
    """Add up what some users bought; purchases: of `merchandise_lines`, product: of Assortment."""
    time, users = pl.col("event_time"), pl.len().cast(pl.Int64)
    items = purchases.group_by("item_id").agg(
        first=time.min(), last=time.max(), sold=pl.len().cast(pl.Int64)
    )
    days = purchases.select("user_id", "item_id", "day").unique()
    firsts = days.with_columns(product).group_by("user_id", "item_id").agg(pl.col("day").min())
    return Sales(items, *(of.group_by("item_id", "day").agg(users=users) for of in (days, firsts)))


def add_up(parts: Iterable[Sales]) -> Sales:
    """Return the sales to everybody; parts: of users of which none is in two, at least one part."""
    items = Sums(
        ["item_id"],
        first=pl.col("first").min(),
        last=pl.col("last").max(),
        sold=pl.col("sold").sum(),
    )
    days, firsts = (Sums(["item_id", "day"], users=pl.col("users").sum()) for _ in range(2))
    for part in parts:
        items.add(part.items)
        days.add(part.days)
        firsts.add(part.firsts)
    return Sales(items.total(), days.total(), firsts.total())


def read_sales(data: TaskData, as_of: datetime) -> Sales:
    """Read what everybody bought before `as_of`, some users at a time."""
    product = Assortment(data.items_known(as_of)).product
    lines = (merchandise_lines(shard, as_of).drop("basket") for shard in data.shards())
    return add_up(sales_of(of_some.collect(), product) for of_some in lines)


def read_assortment(sales: Sales, data: TaskData, as_of: datetime) -> Assortment:
    """Return the range before `as_of`; sales: those before."""
    first = data.items.group_by("item_id").agg(since=pl.col("valid_from").min())
    items = data.items_known(as_of).join(first, on="item_id", maintain_order="left")
    denied = data.business.recommendations.deny_items
    return Assortment(items.sort("item_id"), discontinued(sales, data, as_of), denied)


def arrivals(sales: Sales, range_: Assortment) -> pl.DataFrame:
    """Return item_id, born (datetime): products that came while sales were logged.

    Born is what the catalogue says, where its date is later than the beginning of the log and no
    sale was before it. Else it is the first sale, if the item's rhythm since then makes a silence
    as long as the one before it unlikely: of the long tail much is first sold lately and was always
    there.
    """
    sold = (
        sales.items.with_columns(range_.product).group_by("item_id").agg(sold=pl.col("first").min())
    )
    # The silence before is that after it, looked at from the other end of time. Who comes again
    # says nothing of when it came: each user counts once.
    back = sales.firsts.with_columns(day=-pl.col("day").to_physical())
    silent = _silent(back, range_.products, today=back["day"].max())
    late = silent.filter(pl.col("chance") < UNLIKELY)
    dated = (pl.col("since") > pl.col("sold").min()) & (pl.col("since") <= pl.col("sold"))
    sudden = pl.col("item_id").is_in(late["item_id"].implode())
    return (
        sold.join(range_.products.select("item_id", "since"), on="item_id", how="left")
        .select("item_id", born=pl.when(dated).then("since").when(sudden).then("sold"))
        .drop_nulls()
    )


def measure_new(
    bought: pl.DataFrame, born: pl.DataFrame, origin: datetime, periods: Periods
) -> Estimate | None:
    """Return the share of conversions that went to products at most `recent_days` old.

    Of those in the `window_days` before `origin`; None where there are too few to say. bought: of
    `merchandise_lines`, the product in place of the item. born: of `arrivals`. Conversions of one
    product are alike.
    """
    recent = pl.duration(days=periods.recent_days)
    days = (
        bought.filter(pl.col("event_time") < origin)
        .group_by("user_id", "item_id", "day")
        .agg(pl.col("event_time").min())
        # At the beginning of a log nobody can tell what is new.
        .filter(
            pl.col("event_time") >= pl.col("event_time").min() + recent,
            pl.col("event_time") >= origin - pl.duration(days=periods.window_days),
        )
        .join(born, on="item_id", how="left")
    )
    return _share(
        days, (pl.col("event_time") - pl.col("born") <= recent).fill_null(False), "item_id"
    )


@dataclass(frozen=True)
class Repeats:
    """Whether people are offered what they had.

    share: of the conversions of a year that repeat what the user had before, among those of users
    who had something; None where there are too few to say. offered: what follows.
    """

    share: Estimate | None
    offered: bool


def measure_repeats(bought: pl.DataFrame, until: datetime) -> Repeats:
    """Measure before `until`; bought: as in `measure_new`.

    Offered where a tenth are repeats. So that a share near it does not change all lists overnight,
    the newest day decides by whose end the share of a year was clearly above or below.
    """
    days = (
        bought.filter(pl.col("event_time") < until)
        .group_by("user_id", "item_id", "day")
        .agg()
        .with_columns(
            began=pl.col("day").min().over("user_id"),
            had=pl.col("day").min().over("user_id", "item_id"),
        )
        .filter(pl.col("day") > pl.col("began"))
        .with_columns(again=pl.col("day") > pl.col("had"))
        .sort("day")
    )
    clear = (
        days.rolling("day", period=f"{YEAR_DAYS}d")
        .agg(share=pl.col("again").mean(), rows=pl.len())
        .filter(
            pl.col("rows") >= LEAST_CONVERSIONS, (pl.col("share") - LEAST_REPEATS).abs() > CLEARLY
        )
    )
    year = days.filter(pl.col("day") > pl.col("day").max() - pl.duration(days=YEAR_DAYS))
    return Repeats(
        _share(year, pl.col("again"), "user_id"),
        clear.is_empty() or bool(clear["share"][-1] > LEAST_REPEATS),
    )


def _share(rows: pl.DataFrame, of: pl.Expr, unit: str) -> Estimate | None:
    if rows.height < LEAST_CONVERSIONS:
        return None
    sums = rows.group_by(unit).agg(hits=of.sum().cast(pl.Float64), rows=pl.len().cast(pl.Float64))
    sums = sums.sort(unit)  # floating point sums depend on the order of the rows
    return share_estimate(sums["hits"].to_numpy(), sums["rows"].to_numpy())


def discontinued(sales: Sales, data: TaskData, as_of: datetime) -> pl.DataFrame:
    """Return item_id and why (ended, sold_out, unsold) of what left the range before `as_of`.

    sales: those before. An item has one row, for the first of the reasons that holds; sorted by
    item_id.
    """
    catalogue = data.items_known(as_of)
    ended = catalogue.filter(pl.col("valid_until") <= as_of)
    empty = shelves(data, as_of).filter("gone")
    # What sold after it was counted came back.
    later = sales.items.join(empty, on="item_id").filter(pl.col("last") > pl.col("counted_at"))
    sold_out = empty.join(later, on="item_id", how="anti")
    unsold = _unsold(sales.days, catalogue, data.business.day_of(as_of))
    reasons = (("ended", ended), ("sold_out", sold_out), ("unsold", unsold))
    return (
        pl.concat([items.select("item_id", why=pl.lit(why)) for why, items in reasons])
        .unique("item_id", keep="first", maintain_order=True)
        .sort("item_id")
    )


def shelves(data: TaskData, as_of: datetime) -> pl.DataFrame:
    """Return the stock over all stores: item_id, counted_at, in_stock, gone (and none comes)."""
    return (
        data.stock_known(as_of)
        .group_by("item_id")
        .agg(pl.col("on_hand", "on_order").sum(), pl.col("counted_at").max())
        .select(
            "item_id",
            "counted_at",
            in_stock=pl.col("on_hand") > 0,
            gone=pl.col("on_hand") + pl.col("on_order") <= 0,
        )
        .sort("item_id")
    )


def best_variants(sold: pl.DataFrame, range_: Assortment, stock: pl.DataFrame) -> pl.DataFrame:
    """Return product, variant, in_stock, sold: the variants that may be shown, the best first.

    sold: item_id (no products), sold. stock: of `shelves`. In stock goes before not counted, that
    before not in stock; then what sold most goes first.
    """
    return (
        range_.variants.filter(~pl.col("item_id").is_in(range_.hidden.implode()))
        .join(sold.select("item_id", "sold"), on="item_id", how="left")
        .join(stock.select("item_id", "in_stock"), on="item_id", how="left")
        .with_columns(
            pl.col("in_stock").cast(pl.Float64).fill_null(0.5), pl.col("sold").fill_null(0)
        )
        .sort(["in_stock", "sold", "item_id"], descending=[True, True, False])
        .select("in_stock", "sold", product="product_id", variant="item_id")
    )


def _unsold(days: pl.DataFrame, catalogue: pl.DataFrame, today: date) -> pl.DataFrame:
    """Items (item_id) that have been silent for longer than their rhythm allows."""
    lines = days.with_columns(pl.col("day").to_physical())
    silent = _silent(lines, catalogue, today=(today - date(1970, 1, 1)).days)
    return silent.filter(pl.col("silence") >= LEAST_SILENCE, pl.col("chance") < RARE)


def _silent(lines: pl.DataFrame, catalogue: pl.DataFrame, *, today: Any) -> pl.DataFrame:
    """Return item_id, silence (days since the last sale) and the chance of it, were it still sold.

    lines: item_id, day (of the same count as `today`), users, a pair once. catalogue: item_id,
    category. An item alone in its category is told by the clock of the whole business, and so is
    everything after a year without a sale: a season would have come back by then.
    """
    lines = lines.join(
        catalogue.select("item_id", "category"), on="item_id", how="left"
    ).with_columns(pl.col("category").fill_null(""), whole=pl.lit(""))
    by_category, by_all = (_silences(lines, clock) for clock in ("category", "whole"))
    both = by_category.join(by_all.select("item_id", whole="chance"), on="item_id")
    silence = today - pl.col("last")
    chance = pl.when(pl.col("items") > 1).then("chance").otherwise("whole")
    either = pl.min_horizontal(chance, "whole")
    return both.select(
        "item_id",
        silence=silence,
        chance=pl.when(silence > YEAR_DAYS).then(either).otherwise(chance),
    )


def _silences(lines: pl.DataFrame, clock: str) -> pl.DataFrame:
    """Chance that an item that is still sold is as silent: item_id, last (day), items, chance.

    lines: of `_silent`, and the column `clock`: purchases of one value tick together.
    items: how many the clock has.
    """
    ticks = (
        lines.group_by(clock, "day")
        .agg(ticks=pl.col("users").sum())
        .sort(clock, "day")
        .with_columns(until=pl.col("ticks").cum_sum().over(clock))
    )
    whole = lines.group_by(clock).agg(all=pl.col("users").sum(), items=pl.col("item_id").n_unique())
    alive = pl.col("until") - pl.col("before") + pl.col("items")
    return (
        lines.group_by("item_id", clock)
        .agg(days=pl.len(), first=pl.col("day").min(), last=pl.col("day").max())
        .join(ticks.select(clock, "until", last="day"), on=[clock, "last"])
        .join(
            ticks.select(clock, first="day", before=pl.col("until") - pl.col("ticks")),
            on=[clock, "first"],
        )
        .join(whole, on=clock)
        .with_columns(
            pl.col("until", "before", "all", "items").cast(pl.Float64),
        )
        .select(
            "item_id",
            "last",
            "items",
            chance=(alive / (alive + pl.col("all") - pl.col("until"))) ** pl.col("days"),
        )
    )
