"""Users who were erased stay out: a re-upload or a later drop never brings them back.

The table `identities/erased` knows them by a keyed hash only, of another purpose than their
pseudonym: it cannot be matched with anything that was ever published.

Identities and sources are two namespaces: an identity may have another source's name. Tombstones
from before they were told apart hold for both, as they did: nobody who was erased comes back.
"""

from __future__ import annotations

import hmac
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING, Literal

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

Scope = tuple[Literal["identity", "source", "everybody"], str]
"""Where a user stays out: kind, and the name of the identity or source."""
EVERYBODY: Scope = ("everybody", "")
RULE = "erased"
HEX_DIGITS = 32


class Tombstones:
    """Remembers who was erased, and blanks their rows."""

    def __init__(self, objects: ObjectStore, settings: Settings) -> None:
        self._secret = derived_key(settings, b"erased")
        self._tables = TableStore(objects, prefix=IDENTITIES_PREFIX)

    def add(self, user: str, scope: Scope, receipt: str) -> None:
        """Remember that a user is erased, wherever the scope holds."""
        row = {"user_hash": self._hash(user, scope), "receipt": receipt, "scope": scope[0]}
        frame = pl.DataFrame(row | {"erased_at": datetime.now(UTC)}, schema=ERASED.polars_schema())
        self._tables.append(ERASED.name, frame)
        self.__dict__.pop("_rows", None)

    def receipts(self, user: str, scope: Scope) -> list[str]:
        """Return the receipts of a user's earlier erasures, oldest first."""
        mine = self._rows.filter(_of(scope), pl.col("user_hash") == self._hash(user, scope))
        return mine.sort("erased_at")["receipt"].to_list()

    def blank(self, events: pl.DataFrame, source: str, identity: str) -> pl.DataFrame:
        """Take everything but file and row number out of erased users' rows; they are quarantined.

        events: rows of the contract with STAGED_EXTRA; `user_id` still is the source's own id.
        source, identity: of these rows.
        """
        if self._rows.is_empty():
            return events
        user = pl.col("user_id")
        scopes: tuple[Scope, ...] = (("identity", identity), ("source", source), EVERYBODY)
        erased = [
            Hashing(pl.concat_str(pl.lit(f"{scope[1]}\x1f"), user))
            .hmac_sha256(key=self._secret)
            .str.slice(0, HEX_DIGITS)
            .is_in(self._rows.filter(_of(scope))["user_hash"].unique().implode())
            for scope in scopes
        ]
        ids = events.select(user.drop_nulls().unique())
        gone = ids.filter(pl.any_horizontal(erased))["user_id"]
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

    def _hash(self, user: str, scope: Scope) -> str:
        content = f"{scope[1]}\x1f{user}".encode()
        return hmac.new(self._secret.encode(), content, "sha256").hexdigest()[:HEX_DIGITS]

    @cached_property
    def _rows(self) -> pl.DataFrame:
        return self._tables.scan_or_empty(ERASED).collect()


def _of(scope: Scope) -> pl.Expr:
    """Return which tombstones may be of a scope; the hash says of whose."""
    return pl.col("scope").is_null() | (pl.col("scope") == scope[0])
