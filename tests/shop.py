"""A small shop: the files that its systems drop, and the mapping that explains them.

Tests write a few rows by hand and look at what the pipeline makes of them.
"""

from __future__ import annotations

from datetime import date
from typing import TYPE_CHECKING

import polars as pl

from seq_ml.clean.clean import clean_events
from seq_ml.ingest.ingest import ingest
from seq_ml.ingest.ledger import Ledger
from seq_ml.ingest.mapping.bucket import load_business
from seq_ml.schema import EVENTS, INPUT_TABLES
from seq_ml.schema.staged import STAGED_EXTRA, staged_name
from seq_ml.settings import Settings
from seq_ml.storage.tables import TableStore

if TYPE_CHECKING:
    import pytest

    from seq_ml.clean.clean import Cleaned
    from seq_ml.ingest.ingest import IngestResult
    from seq_ml.storage.objects import ObjectStore

MAPPING = """
name: shop
timezone: Europe/Berlin
business: {timezone: Europe/Berlin, currency: EUR}
files:
  - match: "events/*"
    table: events
    columns:
      user_id: customer
      event_type: {column: action, values: {buy: purchase, look: view}}
      item_id: article
      event_time: at
      quantity: pieces
      unit_price: {divide: [paid, pieces]}
  - match: "items/*"
    table: items
    columns: {item_id: article, title: name, price: price}
  - match: "promotions/*"
    table: promotions
    columns: {item_id: article, store_id: shop, week_start: week, display: place}
"""
SETTINGS = Settings(pseudonym_key="5e" * 32, stable_seconds=0)
HEADER = "customer,action,article,at,pieces,paid\n"


def event(day: int, hour: int = 12, customer: str = "anna", article: str = "tea") -> str:
    """One CSV line of an event in June 2024; the shop's clock is two hours ahead of UTC."""
    return f"{customer},buy,{article},2024-06-{day:02d} {hour:02d}:00:00,2,9.0\n"


def day_of(day: int) -> date:
    """A day of June 2024."""
    return date(2024, 6, day)


class Shop:
    """One bucket with the shop's mapping, and the steps of the pipeline on it."""

    def __init__(self, objects: ObjectStore) -> None:
        self.objects = objects
        self.tables = TableStore(objects)
        self.ledger = Ledger(self.tables)
        self.reset()

    def reset(self) -> None:
        """Begin anew: an empty bucket but for the mapping."""
        self.objects.delete_prefix("")
        self.objects.put("sources/shop.yaml", MAPPING.encode())

    def drop(self, path: str, *lines: str, header: str = HEADER) -> str:
        """Put a CSV file below drops/shop/; return its key."""
        key = f"drops/shop/{path}"
        self.objects.put(key, (header + "".join(lines)).encode())
        return key

    def ingest(self, settings: Settings = SETTINGS) -> IngestResult:
        return ingest(self.objects, self.tables, settings)

    def drops(self) -> dict[str, dict[str, object]]:
        """The ledger's current rows by path below drops/shop/."""
        rows = self.ledger.current().to_dicts()
        return {str(row["key"]).removeprefix("drops/shop/"): row for row in rows}

    def staged(self, table: str = "events") -> pl.DataFrame:
        name = staged_name(table)
        if not self.tables.exists(name):  # no file had a row
            return pl.DataFrame(schema={**INPUT_TABLES[table].polars_schema(), **STAGED_EXTRA})
        return self.tables.scan(name).collect()

    def cleaned(self) -> pl.DataFrame:
        """What the clean stage would publish, without the checks (they take seconds)."""
        return self._clean_events(self.staged()).events

    def published(self) -> pl.DataFrame:
        return self.tables.scan(EVENTS.name).sort("event_time", "event_id").collect()

    def clean(self) -> None:
        """Clean what waits and close its drops, without the checks of `publish_days`."""
        read_at = self.ledger.clock()
        days = self.ledger.unclean_partitions("events")
        waiting = self.staged().filter(pl.col("event_date").cast(str).is_in(days))
        counts = self._clean_events(waiting).counts
        by_file = counts.with_columns(partition=pl.col("event_date").cast(str)).drop("event_date")
        self.ledger.record_cleaning("events", days, by_file, read_at)

    def _clean_events(self, staged: pl.DataFrame) -> Cleaned:
        business = load_business(self.objects)
        return clean_events(staged, first_day=SETTINGS.first_day, business=business)


def numbers(row: dict[str, object]) -> tuple[object, ...]:
    """Status, rows read, kept, duplicate, quarantined of a ledger row."""
    names = ("status", "rows_read", "rows_kept", "rows_duplicate", "rows_quarantined")
    return tuple(row[name] for name in names)


class PowerCutError(BaseException):
    """The process ended here."""


def cut_power(patch: pytest.MonkeyPatch, step: int) -> None:
    """Let the process end just before the `step`-th write to any table."""
    left = [step]
    for name in ("append", "append_files", "overwrite", "overwrite_from_files", "delete_rows"):
        real = getattr(TableStore, name)

        def write(self, *args, real=real, **options):
            if left[0] == 0:
                raise PowerCutError
            left[0] -= 1
            return real(self, *args, **options)

        patch.setattr(TableStore, name, write)
