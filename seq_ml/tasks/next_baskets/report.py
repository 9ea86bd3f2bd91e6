"""Judge next baskets, their size and their day on the first basket that came after."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from seq_ml.metrics.bootstrap import mean_estimate
from seq_ml.tasks.next_baskets.rows import POSITIONS, expectations

if TYPE_CHECKING:
    from datetime import date, datetime, timedelta

    from numpy.typing import NDArray

    from seq_ml.business import Business
    from seq_ml.metrics.estimate import Estimate
    from seq_ml.periods import Periods


@dataclass(frozen=True)
class Baskets:
    """How lists met the next basket: means over users who bought again within the horizon."""

    users: int
    quality: dict[str, dict[str, Estimate]]
    """Candidate → precision, recall, f1 at the expected size."""
    lead: dict[str, Estimate]
    """Candidate → F1 of the first candidate minus its own, paired."""
    off: dict[str, dict[str, Estimate]]
    """days, items → forecast of the day or size → mean absolute error."""


def judge_baskets(
    lists: dict[str, pl.DataFrame],
    purchases: pl.DataFrame,
    origin: datetime,
    end: datetime,
    business: Business,
    *,
    periods: Periods,
    seed: int,
    foretold: pl.DataFrame | None = None,
) -> Baskets | None:
    """Judge ranked lists of items on each user's first basket in [origin, end).

    lists: candidate → user_id, item_id, place (0 = best). purchases: as in `next_baskets`. As many
    items are named as the user is expected to buy, at most `POSITIONS`. The day (of whom one is
    expected of) and the size are compared with the median wait and size of everybody in as long a
    window before. foretold: user_id, wait_p50, orders_28d and lines_28d of `sequence_predictions`
    at the origin: of whom there is a row, the sequence model's day and size stand beside the user's
    own. None when nobody bought in both.
    """
    expected = expectations(purchases, origin, business, periods)
    start = origin - (end - origin)
    truth = _first_baskets(purchases, origin, end).join(expected, on="user_id")
    earlier = _first_baskets(purchases, start, origin)
    if not truth.height or not earlier.height:
        return None
    users = truth.select("user_id", "items", k=pl.col("size").clip(1, POSITIONS)).sort("user_id")
    scores = {name: _overlap(found, users) for name, found in lists.items()}
    first = next(iter(scores.values()))
    day = business.day_of(origin)
    dated = truth.drop_nulls("next_order_date").select(
        (pl.col("day", "next_order_date") - pl.lit(day)).dt.total_days()
    )
    waited = (earlier["day"] - business.day_of(start)).dt.total_days()
    told = {} if foretold is None else _foretold_off(truth, foretold, day, end - origin, seed)
    return Baskets(
        users.height,
        {
            name: {metric: mean_estimate(values, seed=seed) for metric, values in found.items()}
            for name, found in scores.items()
        },
        {
            name: mean_estimate(first["f1"] - found["f1"], seed=seed)
            for name, found in scores.items()
        },
        {
            unit: {
                "of the user": mean_estimate((happened - own).abs().to_numpy(), seed=seed),
                "median of everybody": mean_estimate(
                    (happened - usual.median()).abs().to_numpy(), seed=seed
                ),
                **told.get(unit, {}),
            }
            for unit, happened, own, usual in (
                ("days", dated["day"], dated["next_order_date"], waited),
                ("items", truth["items"].list.len(), truth["size"], earlier["items"].list.len()),
            )
        },
    )


def _foretold_off(
    truth: pl.DataFrame, foretold: pl.DataFrame, day: date, horizon: timedelta, seed: int
) -> dict[str, dict[str, Estimate]]:
    """Return how far the sequence model was off, and how much further the user's own, paired.

    Its day is the median wait, at most the horizon; its size the conversions of a visit.
    """
    both = truth.join(foretold, on="user_id").select(
        days=(pl.col("day") - pl.lit(day)).dt.total_days(),
        own_days=(pl.col("next_order_date") - pl.lit(day)).dt.total_days(),
        told_days=pl.col("wait_p50").fill_null(math.inf).clip(0, horizon.days),
        items=pl.col("items").list.len().cast(pl.Int64),
        own_items=pl.col("size"),
        told_items=pl.col("lines_28d") / pl.col("orders_28d"),
    )
    off: dict[str, dict[str, Estimate]] = {}
    for unit in ("days", "items"):
        rows = both.select(
            own=(pl.col(unit) - pl.col(f"own_{unit}")).abs().cast(pl.Float64),
            told=(pl.col(unit) - pl.col(f"told_{unit}")).abs().cast(pl.Float64),
        ).drop_nulls()
        own, told = rows.to_numpy().T
        if len(own):
            off[unit] = {
                "foreseen by the sequence model": mean_estimate(told, seed=seed),
                "of the user minus foreseen, paired": mean_estimate(own - told, seed=seed),
            }
    return off


def _first_baskets(purchases: pl.DataFrame, start: datetime, end: datetime) -> pl.DataFrame:
    """First basket of each user in [start, end): user_id, items (list), day; sorted."""
    inside = purchases.filter(pl.col("event_time").is_between(start, end, closed="left"))
    first = (
        inside.sort("event_time", "basket")
        .unique("user_id", keep="first", maintain_order=True)
        .select("user_id", "basket")
    )
    return (
        inside.join(first, on=["user_id", "basket"])
        .group_by("user_id")
        .agg(items=pl.col("item_id").unique().sort(), day=pl.col("day").first())
        .sort("user_id")
    )


def _overlap(found: pl.DataFrame, users: pl.DataFrame) -> dict[str, NDArray[np.float64]]:
    """Precision, recall and F1 of each of the sorted users [n]."""
    hits = (
        found.join(users, on="user_id")
        .filter(pl.col("place") < pl.col("k"))
        .group_by("user_id")
        .agg(hits=pl.col("item_id").is_in(pl.col("items")).sum(), named=pl.len())
    )
    counted = users.join(hits, on="user_id", how="left", maintain_order="left").select(
        pl.col("hits", "named").fill_null(0).cast(pl.Float64),
        size=pl.col("items").list.len().cast(pl.Float64),
    )
    hit, named, size = (counted[name].to_numpy() for name in ("hits", "named", "size"))
    return {
        "precision": hit / np.maximum(named, 1),
        "recall": hit / size,
        "f1": 2 * hit / (named + size),
    }
