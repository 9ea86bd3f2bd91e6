"""What the recommendations know at an origin: the range, how people buy from it, what was learnt.

The same at every origin of the backtest and on the day of serving.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import polars as pl

from seq_ml.tasks.behaviour.assortment import (
    LEAST_REPEATS,
    MOST_NEW,
    measure_habits,
    read_assortment,
)
from seq_ml.tasks.recommendations.candidates import POPULAR_TOP, Setting, fit
from seq_ml.tasks.recommendations.rows import Terms, published_lists
from seq_ml.tasks.recommendations.unseen import read_unseen, unseen_items

if TYPE_CHECKING:
    from datetime import datetime

    from seq_ml.tasks.behaviour.assortment import Assortment, Habits
    from seq_ml.tasks.data import TaskData
    from seq_ml.tasks.recommendations.candidates import Fitted
    from seq_ml.tasks.recommendations.unseen import Unseen


@dataclass(frozen=True)
class Known:
    """What is known at an origin, and what was learnt from it.

    range_: what is sold. bought: the purchases with the product in place of the item, later ones
    too, which labels are made of. habits: how people buy, and terms: what follows from it. users:
    ids of all with an event before the origin, sorted.
    """

    range_: Assortment
    bought: pl.DataFrame
    habits: Habits
    terms: Terms
    users: list[str]
    fitted: Fitted | None

    def lists(
        self,
        data: TaskData,
        scored: pl.DataFrame,
        users: pl.DataFrame,
        origin: datetime,
        unseen: pl.DataFrame | None,
    ) -> pl.DataFrame:
        """Make the lists that would be published at the origin: see `published_lists`."""
        past = self.bought.filter(pl.col("event_time") < origin)
        return published_lists(
            scored, users, past, data, origin, terms=self.terms, range_=self.range_, unseen=unseen
        )

    def unseen(self, data: TaskData, origin: datetime) -> Unseen | None:
        """Read the items that nobody bought yet; None when there are none or none is wanted."""
        new = unseen_items(self.range_, self.bought, self.terms.deny_items, origin)
        if not new.height or self.terms.new_share <= 0:
            return None
        return read_unseen(data, self.range_, self.users, new, origin)


def read_known(
    data: TaskData, purchases: pl.DataFrame, first_seen: pl.DataFrame, origin: datetime
) -> Known:
    """Learn from what is known at the origin.

    purchases: of `merchandise_bought`, later ones too. first_seen: user_id, first_seen.
    """
    users = first_seen.filter(pl.col("first_seen") < origin)["user_id"].to_list()
    range_ = read_assortment(purchases, data, origin)
    bought = purchases.with_columns(range_.product)
    habits = measure_habits(bought, range_.products, origin, data.periods)
    said = data.business.recommendations
    repeats, share = said.allow_repeats, said.new_share
    if repeats is None:
        repeats = habits.repeats is None or habits.repeats >= LEAST_REPEATS
    if share is None:
        least = 1 / said.per_user
        share = min(MOST_NEW, max(least, habits.new or 0.0))
    terms = Terms(said.per_user, repeats, share, data.periods.recent_days, said.deny_items)
    popular = max(POPULAR_TOP, said.per_user + len(said.deny_items))
    setting = Setting(repeats, popular, data.seed, range_.hidden(), data.periods.pace)
    fitted = fit(bought, users, range_.products, origin, setting)
    return Known(range_, bought, habits, terms, users, fitted)
