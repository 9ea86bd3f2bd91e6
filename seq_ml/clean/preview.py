"""What cleaning would do with a few records, without any storage: for `seqline sources check`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from seq_ml.clean.clean import clean_events
from seq_ml.clean.reference import clean_reference, quarantined_reference
from seq_ml.ingest.rows.canonical import file_by_day
from seq_ml.schema import INPUT_TABLES

if TYPE_CHECKING:
    from datetime import date

    import polars as pl

    from seq_ml.business import Business


@dataclass(frozen=True)
class Preview:
    """What became of the records: kept + duplicates + rejected (schema QUARANTINED) = all."""

    kept: int
    duplicates: int
    rejected: pl.DataFrame


def preview(staged: pl.DataFrame, table: str, *, business: Business, first_day: date) -> Preview:
    """Judge staged records of a table (a key of INPUT_TABLES) by themselves and beside each other.

    staged: the contract's columns and those of STAGED_EXTRA.
    """
    contract = INPUT_TABLES[table]
    if table == "events":
        filed = file_by_day(staged, first_day)
        cleaned = clean_events(filed, first_day=first_day, business=business)
        kept, rejected = cleaned.events.height, cleaned.quarantined
    else:
        kept = clean_reference(staged, contract)[0].height
        rejected = quarantined_reference(staged.lazy(), table, contract)
    return Preview(kept, staged.height - kept - rejected.height, rejected)
