"""Users who were erased stay out: a re-upload or a later drop never brings them back.

The table `identities/erased` knows them by a keyed hash only, of another purpose than their
pseudonym: it cannot be matched with anything that was ever published.
"""

from __future__ import annotations

import hmac
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING

import polars as pl
from polars_hash import CryptographicHashingNameSpace as Hashing

from seq_ml.privacy.pseudonyms import derived_key
from seq_ml.schema.staged import ERROR, STAGED_EXTRA
from seq_ml.schema.stages import ERASED
from seq_ml.storage.layout import IDENTITIES_PREFIX
from seq_ml.storage.tables import TableStore

if TYPE_CHECKING:
    from seq_ml.settings import Settings
    from seq_ml.storage.objects import ObjectStore

RULE = "erased"
HEX_DIGITS = 32


class Tombstones:
    """Remembers who was erased, and blanks their rows."""

    def __init__(self, objects: ObjectStore, settings: Settings) -> None:
        self._secret = derived_key(settings, b"erased")
        self._tables = TableStore(objects, prefix=IDENTITIES_PREFIX)

    def add(self, user: str, identity: str, receipt: str) -> None:
        """Remember a user of one identity; of every one, also of later ones, when it is empty."""
        row = {"user_hash": self._hash(user, identity), "receipt": receipt}
        frame = pl.DataFrame(row | {"erased_at": datetime.now(UTC)}, schema=ERASED.polars_schema())
        self._tables.append(ERASED.name, frame)
        self.__dict__.pop("_hashes", None)

    def receipts(self, user: str, identity: str) -> list[str]:
        """Return the receipts of a user's earlier erasures, oldest first."""
        mine = self._rows.filter(pl.col("user_hash") == self._hash(user, identity))
        return mine.sort("erased_at")["receipt"].to_list()

    def blank(self, events: pl.DataFrame, *scopes: str) -> pl.DataFrame:
        """Take everything but file and row number out of erased users' rows; they are quarantined.

        events: rows of the contract with STAGED_EXTRA; `user_id` still is the source's own id.
        scopes: names under which a user of these rows may have been erased: identity and source.
        """
        if not self._hashes:
            return events
        user = pl.col("user_id")
        hashes = [
            Hashing(pl.concat_str(pl.lit(f"{scope}\x1f"), user))
            .hmac_sha256(key=self._secret)
            .str.slice(0, HEX_DIGITS)
            for scope in {*scopes, ""}
        ]
        ids = events.select(user.drop_nulls().unique())
        gone = ids.filter(pl.any_horizontal(h.is_in(self._hashes) for h in hashes))["user_id"]
        if gone.is_empty():
            return events
        theirs = user.is_in(gone.implode()).fill_null(value=False)
        error = pl.struct(
            rule=pl.lit(RULE), column=pl.lit("user_id"), value=pl.lit(None, dtype=pl.String)
        )
        blanked = [c for c in events.columns if c not in {*STAGED_EXTRA, "event_date"}]
        return events.with_columns(
            *(pl.when(~theirs).then(pl.col(name)).alias(name) for name in blanked),
            errors=pl.when(theirs)
            .then(pl.concat_list(error).cast(pl.List(ERROR)))
            .otherwise("errors"),
        )

    def _hash(self, user: str, identity: str) -> str:
        content = f"{identity}\x1f{user}".encode()
        return hmac.new(self._secret.encode(), content, "sha256").hexdigest()[:HEX_DIGITS]

    @property
    def _rows(self) -> pl.DataFrame:
        return self._tables.scan_or_empty(ERASED).collect()

    @cached_property
    def _hashes(self) -> list[str]:
        return self._rows["user_hash"].unique().sort().to_list()
