"""What the recommendations know at an origin: the range, how people buy from it, what was learnt.

The same at every origin of the backtest and on the day of serving. Most of it is known of
everybody, however many they are: counted some users after another, or of some drawn at random.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING

import polars as pl

from seq_ml.tasks.behaviour.assortment import (
    MOST_NEW,
    Assortment,
    add_up,
    arrivals,
    measure_new,
    measure_repeats,
    read_assortment,
    sales_of,
)
from seq_ml.tasks.behaviour.sums import Sums
from seq_ml.tasks.behaviour.visits import first_seen, merchandise_lines
from seq_ml.tasks.recommendations.candidates import POPULAR_TOP, Setting, fit, history_of
from seq_ml.tasks.recommendations.features import ADDED, item_counts
from seq_ml.tasks.recommendations.scorers import build_history
from seq_ml.tasks.recommendations.unseen import read_unseen

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from seq_ml.metrics.estimate import Estimate
    from seq_ml.tasks.behaviour.assortment import Repeats, Sales
    from seq_ml.tasks.data import TaskData
    from seq_ml.tasks.recommendations.candidates import EncoderScores, Fitted
    from seq_ml.tasks.recommendations.scorers import History
    from seq_ml.tasks.recommendations.unseen import Unseen

REFERENCE_USERS = 10_000
"""Users that the scorers are fitted to, and that tell how people buy: about so many of more."""


@dataclass(frozen=True)
class Terms:
    """What decides about the lists of a business, as set or measured.

    new_share: share of a list that goes to new items.
    """

    per_user: int
    repeats: bool
    new_share: float

    @property
    def most_new(self) -> int:
        """Places of a list that new items may take; one of several where a share rounds to none."""
        least = min(1, self.per_user // 2) if self.new_share > 0 else 0
        return max(least, round(self.new_share * self.per_user))


@dataclass(frozen=True)
class Everybody:
    """What is known of everybody at an origin, and what was learnt from it.

    range_: what is sold. sold: item_id (no products), first and last (event_time), sold: what was
    bought before. young: ids of new products. repeats and new: how people buy; terms: what follows.
    learnt_from: how many users these and the scorers were told from, None where from all.
    """

    origin: datetime
    range_: Assortment
    sold: pl.DataFrame
    young: pl.Series
    repeats: Repeats
    new: Estimate | None
    terms: Terms
    fitted: Fitted | None
    learnt_from: int | None


@dataclass(frozen=True)
class Known(Everybody):
    """What is known at an origin of some users, and of everybody.

    purchases: of `merchandise_lines`, theirs, later ones too, which labels are made of; bought:
    the same with the product in place of the item. users: ids of all with an event before the
    origin, sorted.
    """

    data: TaskData
    purchases: pl.DataFrame
    bought: pl.DataFrame
    users: list[str]

    @cached_property
    def past(self) -> pl.DataFrame:
        """What was bought before the origin."""
        return self.bought.filter(pl.col("event_time") < self.origin)

    @cached_property
    def history(self) -> History | None:
        """What the users bought before the origin, as scorers read it; None if nobody did."""
        if self.fitted is None:
            return None
        return history_of(self.fitted, self.bought, self.users)

    def encoder_scores(self, events: pl.LazyFrame) -> EncoderScores | None:
        """Return who asks the encoder about users by their events before the origin, if any."""
        encoder = self.data.encoder
        if encoder is None:
            return None
        return lambda ids: self.range_.scores_of_products(
            *encoder.item_scores(events, self.origin, ids)
        )

    def unseen(self) -> Unseen | None:
        """Read the items that nobody bought yet; None when there are none or none is wanted."""
        if not self.terms.most_new:
            return None
        return read_unseen(self.data, self.range_, self.users, self.sold, self.origin)


def read_bought(data: TaskData, as_of: datetime) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Read what users bought before `as_of`, without the baskets' names, and their first event."""
    lines = merchandise_lines(data, as_of).drop("basket")
    return lines.collect(), first_seen(data, as_of)


def read_known(
    data: TaskData,
    purchases: pl.DataFrame,
    first_seen: pl.DataFrame,
    origin: datetime,
    as_of: datetime,
) -> Known:
    """Learn from what is known at the origin.

    purchases: of `merchandise_lines`, later ones too. first_seen: user_id, first_seen. as_of: of
    the lists, or of the round that the origin is one of.
    """
    whole = data.whole or data
    key = (origin, as_of)
    # Of one origin at a time: a few hundred megabytes.
    kept = whole.kept.get("recommendations")
    if kept is None or kept[0] != key:
        whole.kept.pop("recommendations", None)
        own = (purchases, first_seen) if whole is data else None
        kept = (key, _read_everybody(whole, own, origin, as_of))
        whole.kept["recommendations"] = kept
    everybody: Everybody = kept[1]
    users = _users(first_seen, origin)
    bought = purchases.with_columns(everybody.range_.product)
    return Known(**vars(everybody), data=data, purchases=purchases, bought=bought, users=users)


def _users(first_seen: pl.DataFrame, origin: datetime) -> list[str]:
    return first_seen.filter(pl.col("first_seen") < origin)["user_id"].to_list()


def _read_everybody(
    whole: TaskData,
    own: tuple[pl.DataFrame, pl.DataFrame] | None,
    origin: datetime,
    as_of: datetime,
) -> Everybody:
    """Learn what is known of everybody; own: what `read_known` was given, if it is of them."""
    reference, product = (
        whole.others(REFERENCE_USERS),
        Assortment(whole.items_known(origin)).product,
    )
    sampled = reference is not whole
    if own is None or sampled:
        own = read_bought(reference, as_of)
    purchases, users = own[0], _users(own[1], origin)
    # Users are grouped by many times below: numbers are told apart in half the time of pseudonyms.
    ids = pl.Enum(purchases["user_id"].unique().sort())
    purchases = purchases.with_columns(pl.col("user_id").cast(ids))
    if sampled:
        sales, counts = _counted(whole, product, origin)
    else:
        past = purchases.filter(pl.col("event_time") < origin)
        sales, counts = sales_of(past, product), None
    range_ = read_assortment(sales, whole, origin)
    bought = purchases.with_columns(product)
    repeats = whole.keep(("repeats", as_of), lambda data: decide_repeats(data, purchases, as_of))
    born = arrivals(sales, range_)
    new = measure_new(bought, born, origin, whole.periods)
    recent = origin - timedelta(days=whole.periods.recent_days)
    young = born.filter(pl.col("born") >= recent)["item_id"]
    said = whole.business.recommendations
    share = said.new_share
    if share is None:
        share = min(MOST_NEW, max(1 / said.per_user, new.value if new else 0.0))
    offered = repeats.offered if said.allow_repeats is None else said.allow_repeats
    terms = Terms(said.per_user, offered, share)
    popular = max(POPULAR_TOP, said.per_user)
    setting = Setting(offered, popular, whole.seed, range_.hidden, whole.periods.pace)
    fitted = fit(bought, users, range_.products, origin, setting, counts)
    learnt_from = len(users) if sampled else None
    return Everybody(origin, range_, sales.items, young, repeats, new, terms, fitted, learnt_from)


def _counted(whole: TaskData, product: pl.Expr, origin: datetime) -> tuple[Sales, pl.DataFrame]:
    """Add up what everybody bought before the origin, some users after another."""
    counts = Sums(["item_id"], **ADDED)

    def parts() -> Iterator[Sales]:
        for shard in whole.shards():
            past = merchandise_lines(shard, origin).drop("basket").collect()
            bought = past.with_columns(product)
            users = bought["user_id"].unique().sort().to_list()
            history = build_history(bought, users, origin, pace=whole.periods.pace)
            counts.add(item_counts(bought, history, origin))
            yield sales_of(past, product)

    return add_up(parts()), counts.total()


def decide_repeats(data: TaskData, purchases: pl.DataFrame, as_of: datetime) -> Repeats:
    """Decide whether people are offered what they had, once for the lists of `as_of` and its round.

    By what was known three horizons before: when the first origin of the examples begins, so that
    no label has a say, and lists are made as they were judged. purchases: of `merchandise_lines`.
    """
    until = as_of - 3 * timedelta(days=data.periods.recommend_days)
    product = Assortment(data.items_known(until)).product
    return measure_repeats(purchases.with_columns(product), until)
