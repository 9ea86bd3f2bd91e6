"""What the recommendations know at an origin: the range, how people buy from it, what was learnt.

The same at every origin of the backtest and on the day of serving.
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
    arrivals,
    measure_new,
    measure_repeats,
    read_assortment,
)
from seq_ml.tasks.recommendations.candidates import POPULAR_TOP, Setting, fit
from seq_ml.tasks.recommendations.unseen import read_unseen

if TYPE_CHECKING:
    from datetime import datetime

    from seq_ml.metrics.bootstrap import Estimate
    from seq_ml.tasks.behaviour.assortment import Repeats
    from seq_ml.tasks.data import TaskData
    from seq_ml.tasks.recommendations.candidates import EncoderScores, Fitted
    from seq_ml.tasks.recommendations.unseen import Unseen


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
class Known:
    """What is known at an origin, and what was learnt from it.

    range_: what is sold. purchases: of `merchandise_bought`, later ones too, which labels are made
    of; bought: the same with the product in place of the item. young: ids of new products. repeats
    and new: how people buy; terms: what follows. users: ids of all with an event before the origin,
    sorted.
    """

    data: TaskData
    origin: datetime
    range_: Assortment
    purchases: pl.DataFrame
    bought: pl.DataFrame
    young: pl.Series
    repeats: Repeats
    new: Estimate | None
    terms: Terms
    users: list[str]
    fitted: Fitted | None

    @cached_property
    def past(self) -> pl.DataFrame:
        """What was bought before the origin."""
        return self.bought.filter(pl.col("event_time") < self.origin)

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
        return read_unseen(self.data, self.range_, self.users, self.past, self.origin)


def decide_repeats(data: TaskData, purchases: pl.DataFrame, as_of: datetime) -> Repeats:
    """Decide whether people are offered what they had, once for the lists of `as_of` and its round.

    By what was known three horizons before: when the first origin of the examples begins, so that
    no label has a say, and lists are made as they were judged. purchases: of `merchandise_bought`.
    """
    until = as_of - 3 * timedelta(days=data.periods.recommend_days)
    product = Assortment(data.items_known(until)).product
    return measure_repeats(purchases.with_columns(product), until)


def read_known(
    data: TaskData,
    purchases: pl.DataFrame,
    first_seen: pl.DataFrame,
    origin: datetime,
    repeats: Repeats,
) -> Known:
    """Learn from what is known at the origin.

    purchases: of `merchandise_bought`, later ones too. first_seen: user_id, first_seen. repeats:
    as decided.
    """
    users = first_seen.filter(pl.col("first_seen") < origin)["user_id"].to_list()
    range_ = read_assortment(purchases, data, origin)
    bought = purchases.with_columns(range_.product)
    born = arrivals(bought, range_.products, origin)
    new = measure_new(bought, born, origin, data.periods)
    recent = origin - timedelta(days=data.periods.recent_days)
    young = born.filter(pl.col("born") >= recent)["item_id"]
    said = data.business.recommendations
    share = said.new_share
    if share is None:
        share = min(MOST_NEW, max(1 / said.per_user, new.value if new else 0.0))
    offered = repeats.offered if said.allow_repeats is None else said.allow_repeats
    terms = Terms(said.per_user, offered, share)
    popular = max(POPULAR_TOP, said.per_user)
    setting = Setting(offered, popular, data.seed, range_.hidden, data.periods.pace)
    fitted = fit(bought, users, range_.products, origin, setting)
    return Known(data, origin, range_, purchases, bought, young, repeats, new, terms, users, fitted)
