"""Pseudonyms of users: a keyed hash at the door, and the table that leads back.

Nothing after ingest knows a source's own user id. The table `identities/user_ids` lies under a
prefix of its own, so that it can be given to fewer people than the other tables.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import polars as pl

from seq_ml.storage.tables import TableStore

if TYPE_CHECKING:
    from collections.abc import Iterable

    from seq_ml.settings import Settings
    from seq_ml.storage.objects import ObjectStore

TABLE = "user_ids"


class Pseudonyms:
    """Turns source ids into pseudonyms and keeps the way back."""

    def __init__(self, objects: ObjectStore, settings: Settings) -> None:
        self._key = bytes.fromhex(settings.pseudonym_key.get_secret_value())
        assert self._key, "load_settings() makes a key"
        self._tables = TableStore(objects, prefix="identities")
        self._known: set[str] | None = None

    def event_ids(self, rows: Iterable[str]) -> list[str]:
        """Return an id for each row's content, 32 hex digits, the same every time.

        Keyed like the pseudonyms: the content names the user, and a plain hash could be tried out
        with every possible user until it fits.
        """
        return self._hashes(rows, b"event")

    def _hashes(self, texts: Iterable[str], purpose: bytes) -> list[str]:
        blake2b, key = hashlib.blake2b, self._key  # RFC 7693: the same on every machine
        return [
            blake2b(text.encode(), key=key, person=purpose, digest_size=16).hexdigest()
            for text in texts
        ]

    def apply(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Replace `user_id` by BLAKE2b(key, id): 32 hex digits, uniform, the same every time."""
        ids = frame["user_id"].drop_nulls().unique().sort()
        pairs = pl.DataFrame(
            {"user_id": self._hashes(ids, b"user"), "source_user_id": ids},
            schema={"user_id": pl.String, "source_user_id": pl.String},
        )
        self._remember(pairs)
        return frame.with_columns(
            pl.col("user_id").replace_strict(
                pairs["source_user_id"], pairs["user_id"], default=None, return_dtype=pl.String
            )
        )

    def source_ids(self) -> pl.DataFrame:
        """Return all known pairs (user_id, source_user_id)."""
        if not self._tables.exists(TABLE):
            return pl.DataFrame(schema={"user_id": pl.String, "source_user_id": pl.String})
        return self._tables.scan(TABLE).unique("user_id").collect()

    def _remember(self, pairs: pl.DataFrame) -> None:
        if self._known is None:
            self._known = set(self.source_ids()["user_id"])
        new = pairs.filter(~pl.col("user_id").is_in(list(self._known)))
        if new.height:
            self._tables.append(TABLE, new)
            self._known.update(new["user_id"])
