"""What the product reads of a planted log: events and catalogue, as `seq_ml.schema` has them."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from benchmarks.planted.world import (
    BRANDS,
    CADENCES,
    FIRST_DAY,
    FIRST_STAPLE,
    IMPULSES,
    ITEMS,
    MOST_LOOKS,
    RING,
    ROWS,
    TABLE,
)
from seq_ml import schema

if TYPE_CHECKING:
    from benchmarks.planted.log import Log
    from benchmarks.planted.world import Floats, Integers

KINDS = ("view", "add_to_cart", "remove_from_cart", "coupon_redeem", "purchase")
COUPON, PURCHASE = 3, 4
USUAL_ORDER, FADING_ORDER = np.array([0, 2, 1]), np.array([0, 1, 2])


def items(log: Log) -> pl.DataFrame:
    """The catalogue, schema ITEMS."""
    names = [f"circle {n // RING}" for n in range(FIRST_STAPLE)]
    names += [f"staple {n // BRANDS}" for n in range(len(CADENCES) * BRANDS)]
    names += ["impulse"] * IMPULSES
    frame = pl.DataFrame(
        {
            "item_id": log.item_ids,
            "category": names,
            "department": [name.partition(" ")[0] for name in names],
            "price": _prices(log),
            "is_merchandise": True,
            "valid_from": FIRST_DAY - timedelta(days=1),
        }
    )
    return _conform(frame, schema.ITEMS)


def _prices(log: Log) -> Floats:
    return np.round(log.planted.stream(TABLE).lognormal(1.5, 0.3, ITEMS), 2)


def events(log: Log) -> pl.DataFrame:
    """The log, schema EVENTS, sorted by time; sessions have at most one a user and day."""
    rng, visits = log.planted.stream(ROWS), log.visits
    count = len(visits.day)
    began = visits.day * 86_400 + rng.integers(8 * 3600, 20 * 3600, count)
    looks = _looks(log, rng)
    looks["second"] = (
        began[looks["visit"]] + 45 * looks["slot"] + rng.integers(0, 30, len(looks["slot"]))
    )
    paid = began + 45 * 3 * visits.looks + 60
    redeemed = np.flatnonzero(visits.redeemed)
    visit, item = log.lines()
    prices = _prices(log)[item]
    coupon = np.where(visits.redeemed[visit], np.round(0.2 * prices, 2), 0.0)
    bought = len(visit)
    columns = {
        "visit": np.concatenate([looks["visit"], redeemed, visit]),
        "kind": np.concatenate(
            [looks["kind"], np.full(len(redeemed), COUPON), np.full(bought, PURCHASE)]
        ),
        "item": np.concatenate([looks["item"], np.full(len(redeemed), -1), item]),
        "second": np.concatenate([looks["second"], paid[redeemed], paid[visit]]),
    }
    frame = pl.DataFrame(columns).with_columns(
        user=pl.Series(visits.user[columns["visit"]]),
        amounts=pl.int_range(pl.len()) - (pl.len() - bought),
    )
    frame = frame.sort("second", "user", "kind", "item")
    return _conform(_named(log, frame, prices, coupon), schema.EVENTS)


def _looks(log: Log, rng: np.random.Generator) -> dict[str, Integers]:
    """Visit, slot, kind and item of each event of browsing."""
    visits = log.visits
    visit, look = np.nonzero(np.arange(MOST_LOOKS) < visits.looks[:, None])
    item = log.ring[visits.user[visit]] * RING + rng.integers(0, RING, len(visit))
    kinds = np.where(visits.fading[visit, look, None], FADING_ORDER, USUAL_ORDER)
    slot = 3 * look[:, None] + np.arange(3)
    events = {
        "visit": np.repeat(visit, 3),
        "slot": slot.ravel(),
        "kind": kinds.ravel(),
        "item": np.repeat(item, 3),
    }
    if log.planted.shuffled:
        mixed = np.lexsort([rng.random(len(events["visit"])), events["visit"]])
        events["kind"], events["item"] = events["kind"][mixed], events["item"][mixed]
    return events


def _named(log: Log, frame: pl.DataFrame, prices: Floats, coupon: Floats) -> pl.DataFrame:
    line = pl.when(pl.col("amounts") >= 0).then("amounts")
    items = pl.Series(log.item_ids, dtype=pl.String)
    second = pl.duration(seconds="second")
    day = pl.Series(log.visits.day).gather(frame["visit"])
    return frame.select(
        event_id=pl.format("e{}", pl.int_range(pl.len()).cast(pl.String).str.zfill(9)),
        user_id=pl.Series(log.user_ids, dtype=pl.String).gather(frame["user"]),
        session_id=pl.format("{}-{}", "user", day),
        event_type=pl.Series(KINDS).gather(frame["kind"]),
        item_id=items.gather(frame.select(pl.when(pl.col("item") >= 0).then("item"))["item"]),
        event_time=pl.lit(FIRST_DAY) + second,
        quantity=pl.when(pl.col("amounts") >= 0).then(1.0),
        unit_price=pl.Series(prices - coupon).gather(frame.select(line)["amounts"]),
        discount=pl.Series(coupon).gather(frame.select(line)["amounts"]),
        coupon_discount=pl.Series(coupon).gather(frame.select(line)["amounts"]),
        event_date=(pl.lit(FIRST_DAY) + second).dt.date(),
    )


def _conform(frame: pl.DataFrame, table: schema.Table) -> pl.DataFrame:
    return frame.select(
        pl.col(name).cast(kind) if name in frame.columns else pl.lit(None, kind).alias(name)
        for name, kind in table.polars_schema().items()
    )
