"""Export everything that is known of one user's behaviour, under the user's own id."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from seq_ml.privacy.pseudonyms import Pseudonyms
from seq_ml.schema import EVENTS
from seq_ml.storage.tables import TableStore

if TYPE_CHECKING:
    from pathlib import Path

    from seq_ml.settings import Settings
    from seq_ml.storage.objects import ObjectStore


class NoSuchUserError(LookupError):
    """There is no clean event of this user."""


def export_history(objects: ObjectStore, settings: Settings, user: str, out: Path) -> int:
    """Write all clean events of a user (schema EVENTS, by time) to a Parquet file.

    user: the source's own id; `user_id` in the file is that id too.  Returns the rows written.
    Raises NoSuchUserError when there are none, and writes nothing then.
    """
    pseudonym = Pseudonyms(objects, settings).of(pl.Series([user])).item()
    rows = (
        TableStore(objects)
        .scan_or_empty(EVENTS)
        .filter(pl.col("user_id") == pseudonym)
        .with_columns(user_id=pl.lit(user))
        .select(EVENTS.names)
        .collect(engine="streaming")
        .sort("event_time", "event_id")
    )
    if rows.is_empty():
        raise NoSuchUserError(
            "There is no clean event of this user: write the id as the source's files do, and "
            "check that its drops are ingested and clean."
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    rows.write_parquet(out)
    return rows.height
