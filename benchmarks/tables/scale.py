"""The tables stage by itself, on generated shops of any size: seconds and peak memory per asset.

    python -m benchmarks.tables.scale --users 100_000 --kind purchases FOLDER

The shop's clean events are written straight into the bucket; then every asset of the tasks and
tables runs as a process of its own, through the code location, without an encoder. FOLDER keeps the
bucket: a second call goes on with it. Two kinds, both of 50 events a user and an item for every ten
users:

* purchases: everybody buys baskets of five, three fifths of them from twenty items of their own.
* clicks: the same visits, but of a hundred events 93 are views, 5 carts and 2 purchases.

With --campaigns a campaign starts every 30 days, which contacts a third of the users.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from benchmarks.measure import deployment, measure, table

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from seq_ml.storage.tables import TableStore

FIRST_DAY = date(2025, 1, 1)
DAYS = 220
EVENTS_PER_USER, LINES_PER_VISIT, USERS_PER_ITEM = 50, 5, 10
OWN_ITEMS, OWN_SHARE = 20, 0.6
STAY_DAYS = 240
"""Mean days until somebody stays away for good."""
CATEGORIES = 200
CAMPAIGN_EVERY, CAMPAIGN_DAYS, CONTACTED, ANSWERED = 30, 28, 0.3, 0.03
CAMPAIGN_ITEMS, OFFERS = 40, 5
TYPES = {
    "purchases": (("purchase",), (1.0,)),
    "clicks": (("view", "add_to_cart", "purchase"), (0.93, 0.05, 0.02)),
}
ASSETS = (
    "cut_offs",
    "recommendations_examples",
    "judge_recommendations",
    "churn_silence_examples",
    "judge_churn_silence",
    "churn_decline_examples",
    "judge_churn_decline",
    "inventory_examples",
    "judge_inventory",
    "ads_examples",
    "judge_ads",
    "spend_examples",
    "judge_spend",
    "user_profiles_report",
    "recommendations",
    "churn_predictions",
    "inventory_predictions",
    "ad_predictions",
    "user_profiles",
    "item_to_item",
    "next_baskets",
    "prediction_outcomes",
)
"""In the order of a run; what has no campaigns refuses at once; of contracts there are none."""


@dataclass(frozen=True)
class Shop:
    """A generated shop."""

    users: int
    kind: str
    campaigns: bool = False
    seed: int = 7

    @property
    def items(self) -> int:
        return max(self.users // USERS_PER_ITEM, 200)


def write_shop(tables: TableStore, shop: Shop) -> int:
    """Write catalogue and clean events, a commit each; return the number of events."""
    from seq_ml import schema
    from seq_ml.storage.contracts import conform

    rng = np.random.default_rng(shop.seed)
    midnight = pl.lit(FIRST_DAY).cast(pl.Datetime("us", "UTC"))
    price = np.round(rng.lognormal(1.5, 0.8, shop.items), 2)
    catalogue = pl.DataFrame(
        {"item_id": [f"item{n}" for n in range(shop.items)], "price": price}
    ).with_columns(
        category=pl.format("category {}", pl.int_range(pl.len()) % CATEGORIES),
        department=pl.format("department {}", pl.int_range(pl.len()) % 20),
        is_merchandise=pl.lit(True),
        valid_from=midnight,
    )
    contract = schema.ITEMS.polars_schema()
    lacking = {n: t for n, t in contract.items() if n not in catalogue.columns}
    catalogue = catalogue.with_columns(pl.lit(None, t).alias(n) for n, t in lacking.items())
    tables.append(schema.ITEMS.name, conform(catalogue, schema.ITEMS))
    events = _events(rng, shop)
    tables.append_files(
        schema.EVENTS.name,
        (conform(day, schema.EVENTS) for day in _days(events, shop, price)),
        schema=schema.EVENTS.polars_schema(),
        partition_by=schema.EVENTS.partition_by,
    )
    if shop.campaigns:
        _write_campaigns(tables, shop, rng)
    return len(events["user"])


def _write_campaigns(tables: TableStore, shop: Shop, rng: np.random.Generator) -> None:
    """Write campaigns, what they offer, whom they contacted and who redeemed a coupon of them."""
    from seq_ml import schema
    from seq_ml.storage.contracts import conform

    begins = np.arange(CAMPAIGN_EVERY // 2, DAYS, CAMPAIGN_EVERY)
    names = [f"campaign {n}" for n in range(len(begins))]
    midnight = datetime(FIRST_DAY.year, FIRST_DAY.month, FIRST_DAY.day, tzinfo=UTC)
    starts = [midnight + timedelta(days=int(day)) for day in begins]
    campaigns = pl.DataFrame({"campaign_id": names, "start_at": starts}).with_columns(
        campaign_type=pl.lit("mail"), end_at=pl.col("start_at") + timedelta(days=CAMPAIGN_DAYS)
    )
    tables.append(schema.CAMPAIGNS.name, conform(campaigns, schema.CAMPAIGNS))
    items = rng.integers(0, shop.items, (len(names), CAMPAIGN_ITEMS))
    offers = pl.DataFrame(
        [
            (name, f"item{item}", f"offer {place % OFFERS}")
            for name, of in zip(names, items, strict=True)
            for place, item in enumerate(np.unique(of))
        ],
        schema=schema.CAMPAIGN_ITEMS.polars_schema(),
        orient="row",
    )
    tables.append(schema.CAMPAIGN_ITEMS.name, offers)
    keen = rng.beta(0.5, 0.5 / ANSWERED, shop.users)
    parts = []
    for number, begin in enumerate(begins):
        contacted = np.flatnonzero(rng.random(shop.users) < CONTACTED).astype(np.uint32)
        answer = contacted[rng.random(len(contacted)) < keen[contacted]]
        later = begin + 1 + rng.integers(0, CAMPAIGN_DAYS - 2, len(answer))
        for kind, users, days in (
            ("ad_impression", contacted, np.full(len(contacted), begin)),
            ("coupon_redeem", answer, later),
        ):
            part = pl.DataFrame({"user": users, "day": days.astype(np.int64)})
            parts.append(
                part.with_columns(event_type=pl.lit(kind), campaign_id=pl.lit(names[number]))
            )
    touches = (
        pl.concat(parts)
        .filter(pl.col("day") < DAYS)
        .with_row_index("number")
        .select(
            "event_type",
            "campaign_id",
            event_id=pl.format("campaigns:{}", "number"),
            user_id=_pseudonyms(),
            event_time=pl.lit(midnight) + pl.duration(days="day", hours=12),
            event_date=(pl.lit(midnight) + pl.duration(days="day")).dt.date(),
        )
    )
    contract = schema.EVENTS.polars_schema()
    lacking = {n: t for n, t in contract.items() if n not in touches.columns}
    touches = touches.with_columns(pl.lit(None, t).alias(n) for n, t in lacking.items())
    tables.append_files(
        schema.EVENTS.name,
        (conform(day, schema.EVENTS) for day in touches.partition_by("event_date")),
        schema=contract,
        partition_by=schema.EVENTS.partition_by,
    )


def _pseudonyms() -> pl.Expr:
    """32 hex digits of the column `user`, uniform: an odd factor makes the numbers so."""
    high = pl.col("user").map_batches(
        lambda users: users.to_numpy().astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15),
        return_dtype=pl.UInt64,
    )
    return high.map_elements(lambda n: f"{n:016x}{'0' * 16}", return_dtype=pl.String)


def _events(rng: np.random.Generator, shop: Shop) -> dict[str, NDArray]:
    """Draw user, day, visit, item and type (places) of every event, sorted by day and user."""
    per_user = EVENTS_PER_USER / LINES_PER_VISIT
    # who comes often, from when on, and until when
    rate = rng.gamma(1.5, per_user / 1.5 / 150, shop.users)  # visits a day
    begin = np.where(rng.random(shop.users) < 0.6, 0, rng.uniform(0, DAYS - 7, shop.users))
    end = np.minimum(begin + rng.exponential(STAY_DAYS, shop.users), DAYS)
    visits = 1 + rng.poisson(rate * (end - begin))
    user = np.repeat(np.arange(shop.users, dtype=np.uint32), visits)
    day = (begin[user] + rng.random(len(user)) * (end - begin)[user]).astype(np.uint16)
    lines = 1 + rng.poisson(LINES_PER_VISIT - 1, len(user))
    visit = np.repeat(np.arange(len(user), dtype=np.uint32), lines)
    user, day = user[visit], day[visit]
    order = np.lexsort((visit, day))
    user, day, visit = user[order], day[order], visit[order]
    # own items: the same draw for the same user and slot, whenever
    slot = rng.integers(0, OWN_ITEMS, len(user), dtype=np.uint32)
    mixed = user.astype(np.uint64) * 0x9E3779B97F4A7C15 + slot * np.uint64(0xD1B54A32D192ED03)
    mixed ^= mixed >> np.uint64(31)
    mixed *= np.uint64(0x94D049BB133111EB)
    own = (mixed >> np.uint64(11)).astype(np.float64) / 2**53
    chance = np.where(rng.random(len(user)) < OWN_SHARE, own, rng.random(len(user)))
    item = (shop.items**chance - 1).astype(np.uint32)  # a long tail: density falls like 1 / rank
    kind = rng.choice(len(TYPES[shop.kind][0]), len(user), p=TYPES[shop.kind][1]).astype(np.uint8)
    return {"user": user, "day": day, "visit": visit, "item": item, "kind": kind}


def _days(events: dict[str, NDArray], shop: Shop, price: NDArray) -> Iterator[pl.DataFrame]:
    """Yield the clean events of one day after the other."""
    from seq_ml import schema

    names = np.array(TYPES[shop.kind][0])
    bounds = np.searchsorted(events["day"], np.arange(DAYS + 1))
    for number, (start, stop) in enumerate(pairwise(bounds)):
        day = {name: values[start:stop] for name, values in events.items()}
        at = datetime(FIRST_DAY.year, FIRST_DAY.month, FIRST_DAY.day) + timedelta(days=number)
        seconds = (day["visit"].astype(np.int64) * 7919) % 64_800 + np.arange(stop - start) % 60
        frame = pl.DataFrame(
            {
                "user": day["user"],
                "visit": day["visit"],
                "item": day["item"],
                "event_type": names[day["kind"]],
                "seconds": seconds,
                "unit_price": price[day["item"]],
            }
        )
        frame = frame.select(
            "event_type",
            "unit_price",
            event_id=pl.format("shop:{}-{}", pl.lit(number), pl.int_range(pl.len())),
            user_id=_pseudonyms(),
            session_id=pl.format("v{}", "visit"),
            item_id=pl.format("item{}", "item"),
            event_time=pl.lit(at).dt.replace_time_zone("UTC") + pl.duration(seconds="seconds"),
            quantity=pl.lit(1.0),
            event_date=pl.lit(at.date()),
        )
        contract = schema.EVENTS.polars_schema()
        lacking = {n: t for n, t in contract.items() if n not in frame.columns}
        yield frame.with_columns(pl.lit(None, t).alias(n) for n, t in lacking.items())


# --- one asset ------------------------------------------------------------------------------------


def run_asset(name: str) -> dict[str, object]:
    """Materialize one asset, or the step of that name, as a run does; return what was said."""
    import dagster as dg

    from seq_assets.definitions import ASSETS as EVERY
    from seq_assets.resources import Storage

    task = name.removeprefix("judge_")
    keys = [f"{task}_model", f"{task}_report"] if name != task else [name]
    with dg.instance_for_test() as instance:
        result = dg.materialize(
            EVERY, selection=keys, resources={"storage": Storage()}, instance=instance
        )
        said = {}
        for event in result.get_asset_observation_events():
            refused = event.asset_observation_data.asset_observation.metadata.get("refused")
            if refused is not None:
                said["refused"] = str(refused.value)
        for event in result.get_asset_materialization_events():
            metadata = event.step_materialization_data.materialization.metadata
            for key in ("dagster/row_count", "verdict"):
                if key in metadata:
                    said[key] = metadata[key].value
    return said


def main() -> None:
    """Generate the shop where it is not there yet, measure each asset, print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--users", type=int, default=100_000)
    parser.add_argument("--kind", choices=list(TYPES), default="purchases")
    parser.add_argument("--campaigns", action="store_true")
    parser.add_argument("--only", nargs="*", default=list(ASSETS))
    parser.add_argument("--asset", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.asset:
        print(json.dumps(run_asset(arguments.asset)))
        return
    arguments.folder.mkdir(parents=True, exist_ok=True)
    with deployment(arguments.folder, FIRST_DAY) as (environment, server):
        here = [sys.executable, "-m", "benchmarks.tables.scale", str(arguments.folder)]
        rows = []
        if not (arguments.folder / "shop.json").exists():
            _generate(arguments, environment)
        for name in arguments.only:
            try:
                took = measure([*here, "--asset", name], environment, server)
            except RuntimeError as error:
                print(f"{name} FAILED: {str(error)[-1500:]}", flush=True)
                continue
            rows.append(
                (name, f"{took.wall_s:.0f}", f"{took.cpu_s:.0f}", f"{took.peak_mb / 1000:.2f}")
            )
            print(*rows[-1], took.facts, flush=True)
    print(table(("asset", "wall s", "CPU s", "peak GB"), rows))


def _generate(arguments: argparse.Namespace, environment: dict[str, str]) -> None:
    import os

    from seq_ml.settings import load_settings
    from seq_ml.storage import connect
    from seq_ml.storage.tables import TableStore

    os.environ.update(environment)
    shop = Shop(arguments.users, arguments.kind, arguments.campaigns)
    events = write_shop(TableStore(connect(load_settings())), shop)
    about = {"users": shop.users, "items": shop.items, "events": events, "kind": shop.kind}
    (arguments.folder / "shop.json").write_text(json.dumps(about))
    print(about, flush=True)


if __name__ == "__main__":
    main()
