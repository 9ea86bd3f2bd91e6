"""Export everything that is known of one user's behaviour, under the user's own id."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from seq_ml.privacy.pseudonyms import Pseudonyms
from seq_ml.schema import EVENTS, SUBSCRIPTIONS
from seq_ml.storage.tables import TableStore

if TYPE_CHECKING:
    from pathlib import Path

    from seq_ml.settings import Settings
    from seq_ml.storage.objects import ObjectStore


class NoSuchUserError(LookupError):
    """There is no clean event of this user, and no subscription."""


def export_history(objects: ObjectStore, settings: Settings, user: str, out: Path) -> int:
    """Write all clean events of a user (schema EVENTS, by time) to a Parquet file.

    The terms of their subscriptions, if any, go to `<out>-subscriptions.parquet` beside it.  user:
    the source's own id; `user_id` in the files is that id too.  Returns the events written.  Raises
    NoSuchUserError when there is neither, and writes nothing then.
    """
    pseudonym = Pseudonyms(objects, settings).of(pl.Series([user])).item()
    tables = TableStore(objects)
    events, terms = (
        tables.scan_or_empty(table)
        .filter(pl.col("user_id") == pseudonym)
        .with_columns(user_id=pl.lit(user))
        .select(table.names)
        .collect(engine="streaming")
        for table in (EVENTS, SUBSCRIPTIONS)
    )
    if events.is_empty() and terms.is_empty():
        raise NoSuchUserError(
            "There is no clean event of this user: write the id as the source's files do, and "
            "check that its drops are ingested and clean."
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    events.sort("event_time", "event_id").write_parquet(out)
    if terms.height:
        terms.sort("started_at").write_parquet(out.with_stem(f"{out.stem}-subscriptions"))
    return events.height
