"""Pseudonyms of users: a keyed hash at the door, and the table that leads back.

Nothing after ingest knows a source's own user id. The table `identities/user_ids` lies under a
prefix of its own, so that it can be given to fewer people than the other tables.
"""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING

import polars as pl
from polars_hash import CryptographicHashingNameSpace as Hashing

from seq_ml.schema.stages import USER_IDS
from seq_ml.storage.layout import IDENTITIES_PREFIX
from seq_ml.storage.tables import TableStore

if TYPE_CHECKING:
    from seq_ml.settings import Settings
    from seq_ml.storage.objects import ObjectStore

PAIRS_AT_ONCE = 500_000
"""Pairs collected before those that repeat are dropped."""


class Pseudonyms:
    """Turns source ids into pseudonyms and keeps the way back.

    event_secret: key of the event ids that ingest derives. Keyed like the pseudonyms, because the
    content of a row names the user: a plain hash could be tried out with every possible user until
    it fits. Each purpose has a key of its own, so that no hash of one kind tells about another.
    """

    def __init__(self, objects: ObjectStore, settings: Settings) -> None:
        self.event_secret = derived_key(settings, b"event")
        self._user_secret = derived_key(settings, b"user")
        self._tables = TableStore(objects, prefix=IDENTITIES_PREFIX)
        self._known: pl.DataFrame | None = None
        self._met: list[pl.DataFrame] = []

    def of(self, source_ids: pl.Series) -> pl.Series:
        """Return HMAC-SHA256(key, id), its first 32 hex digits: uniform, the same every time."""
        hashed = Hashing(pl.col("id")).hmac_sha256(key=self._user_secret).str.slice(0, 32)
        return source_ids.alias("id").to_frame().select(hashed).to_series()

    def apply(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Replace `user_id` by the pseudonyms; `remember()` then keeps the way back."""
        ids = frame["user_id"].drop_nulls().unique()
        pairs = self._pairs(ids)
        # new texts: these would keep the whole frame's alive
        self._met.append(pairs.select(_number(), pl.concat_str("source_user_id", pl.lit(""))))
        if len(self._met) > 1 and sum(met.height for met in self._met) > PAIRS_AT_ONCE:
            self._met = [pl.concat(self._met).unique("number")]
        return frame.with_columns(
            pl.col("user_id").replace_strict(
                pairs["source_user_id"], pairs["user_id"], default=None, return_dtype=pl.String
            )
        )

    def remember(self) -> None:
        """Write down, in one commit, the pairs that `apply` has met and nobody knew before."""
        if not self._met:
            return
        met = pl.concat(self._met).unique("number")
        known = self._known if self._known is not None else self._read_known()
        new = met.join(known, on="number", how="anti").sort("number")
        if new.height:
            self._tables.append(USER_IDS.name, self._pairs(new["source_user_id"]))
        self._known = pl.concat([known, new.select("number")], rechunk=True)
        self._met = []

    def source_ids(self) -> pl.DataFrame:
        """Return all known pairs (user_id, source_user_id), one row per user."""
        return self._tables.scan_or_empty(USER_IDS).unique("user_id").collect(engine="streaming")

    def _pairs(self, ids: pl.Series) -> pl.DataFrame:
        return pl.DataFrame({"user_id": self.of(ids), "source_user_id": ids})

    def _read_known(self) -> pl.DataFrame:
        """Return the pseudonyms whose way back is known, as numbers: 16 bytes a user."""
        return self._tables.scan_or_empty(USER_IDS).select(_number()).collect(engine="streaming")


def _number() -> pl.Expr:
    """Return the pseudonym's 128 bits."""
    return pl.col("user_id").str.decode("hex").bin.reinterpret(dtype=pl.UInt128).alias("number")


def derived_key(settings: Settings, purpose: bytes) -> str:
    """Return the key of one purpose: no hash of one kind tells about another."""
    key = bytes.fromhex(settings.pseudonym_key.get_secret_value())
    assert key, "load_settings() makes a key"
    return hmac.new(key, purpose, "sha256").hexdigest()
