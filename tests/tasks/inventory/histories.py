"""What the tests of inventory read: purchases, by hand or of sixty households, and a plan."""

from __future__ import annotations

from datetime import date, datetime, timedelta

import polars as pl

from seq_ml.business import Business, Inventory
from seq_ml.schema import EVENTS
from seq_ml.tasks.data import TaskData
from tests.data import journey

HOUSEHOLDS = 60
LAST_MONDAY = date(2017, 12, 25)
NEW_YORK = Business(timezone="America/New_York")


def task_data(**more) -> TaskData:
    frames = journey(households=HOUSEHOLDS)
    events = more.pop("events", frames["clean_events"])
    return TaskData(
        events.lazy(),
        more.pop("items", frames["items"]),
        frames["campaigns"],
        frames["campaign_items"],
        more.pop("promotions", frames["promotions"]).lazy(),
        Business(timezone="America/New_York", inventory=more.pop("terms", Inventory())),
        **more,
    )


def purchases(*rows: tuple[str, float, datetime]) -> pl.DataFrame:
    """clean_events of (item, quantity, time)."""
    return pl.DataFrame(
        [
            {
                **dict.fromkeys(EVENTS.names),
                "event_id": f"e{n}",
                "user_id": "u",
                "item_id": item,
                "event_time": time,
                "event_type": "purchase",
                "quantity": quantity,
                "event_date": time.date(),
            }
            for n, (item, quantity, time) in enumerate(rows)
        ],
        schema=EVENTS.polars_schema(),
    )


def with_plan() -> pl.DataFrame:
    """The promotions, with those of the last week repeated for the two weeks after `AS_OF`."""
    promotions = journey(households=HOUSEHOLDS)["promotions"]
    last = promotions.filter(pl.col("week_start") == LAST_MONDAY)
    after = [last.with_columns(week_start=pl.lit(LAST_MONDAY + timedelta(weeks=n))) for n in (1, 2)]
    return pl.concat([promotions, *after])
