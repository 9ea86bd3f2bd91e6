"""Pseudonyms of users: a keyed hash at the door, and the table that leads back.

Nothing after ingest knows a source's own user id. The table `identities/user_ids` lies under a
prefix of its own, so that it can be given to fewer people than the other tables.

Sources of one identity mean the same people by the same ids. The ids of a bucket's first identity
are hashed as they are, all others with their identity's name. A bucket from before there were
identities hashed all ids as they are, so each source that it has by then counts as first: nobody
is split, nobody is merged, until a mapping says so.
"""

from __future__ import annotations

import hmac
import json
from contextlib import suppress
from functools import cached_property
from typing import TYPE_CHECKING

import polars as pl
from polars_hash import CryptographicHashingNameSpace as Hashing

from seq_ml.schema.stages import DROP_LEDGER, USER_IDS
from seq_ml.storage.layout import BARE_KEY, IDENTITIES_PREFIX
from seq_ml.storage.objects import ObjectChangedError, StorageError
from seq_ml.storage.tables import TableStore

if TYPE_CHECKING:
    from seq_ml.settings import Settings
    from seq_ml.storage.objects import ObjectStore

MARK = "\x1f"
"""Before and after the identity in front of an id that is not hashed as it is."""
LOST = (
    f"{BARE_KEY} is missing from the bucket, so nobody can tell which users of two sources are one "
    "person: bring it back from a backup or from the bucket's own versions. It is a JSON list of "
    "the identities whose ids are hashed as they are: as a rule one, that of the source that was "
    'ingested first, such as ["shop"].'
)
"""Said where the list is gone."""
PAIRS_AT_ONCE = 500_000
"""Pairs collected before those that repeat are dropped."""


class Pseudonyms:
    """Turns source ids into pseudonyms and keeps the way back.

    event_secret: key of the event ids that ingest derives. Keyed like the pseudonyms, because the
    content of a row names the user: a plain hash could be tried out with every possible user until
    it fits. Each purpose has a key of its own, so that no hash of one kind tells about another.
    """

    def __init__(self, objects: ObjectStore, settings: Settings) -> None:
        self._objects = objects
        self._claimed = False
        self.event_secret = derived_key(settings, b"event")
        self._user_secret = derived_key(settings, b"user")
        self._tables = TableStore(objects, prefix=IDENTITIES_PREFIX)
        self._known: pl.DataFrame | None = None
        self._met: list[pl.DataFrame] = []

    @cached_property
    def bare(self) -> frozenset[str]:
        """The identities whose ids are hashed as they are; none in a bucket without any user.

        Raises StorageError where it was written down and is lost: a guess would merge or split.
        """
        try:
            return frozenset(json.loads(self._objects.get(BARE_KEY)))
        except KeyError:
            if not self._tables.exists(USER_IDS.name):
                return frozenset()
        # the table has had the column since the release that writes the list first
        if "identity" in self._tables.scan(USER_IDS.name).collect_schema():
            raise StorageError(LOST)
        drops = TableStore(self._objects).scan_or_empty(DROP_LEDGER).select("source")
        return frozenset(drops.unique().collect().to_series().drop_nulls())

    def claim(self, identity: str) -> None:
        """Write down, once, whose ids are hashed as they are: this identity's if there is none."""
        if self._claimed:
            return
        body = json.dumps(sorted(self.bare or [identity])).encode()
        with suppress(ObjectChangedError):  # it is written already: it stays
            self._objects.put(BARE_KEY, body, if_absent=True)
        self.bare = frozenset(json.loads(self._objects.get(BARE_KEY)))
        self._claimed = True

    def space(self, identity: str) -> str:
        """Return the name under which an identity's ids are hashed: "" for all bare ones."""
        return "" if identity in self.bare else identity

    def event_key(self, identity: str) -> str:
        """Return the key of derived event ids: equal rows of two people are two events."""
        return self.event_secret + self.space(identity)

    def marked(self, ids: pl.Expr, identity: str) -> pl.Expr:
        """Return a source's own ids as texts that no other identity has."""
        if space := self.space(identity):
            return pl.lit(f"{MARK}{space}{MARK}") + ids
        # an own id that looks like another identity's is none
        return pl.when(ids.str.starts_with(MARK)).then(pl.lit(MARK + MARK) + ids).otherwise(ids)

    def pseudonym(self, user: str, identity: str) -> str:
        """Return the pseudonym of one user, by the source's own id."""
        return str(self.of(pl.select(self.marked(pl.lit(user), identity)).to_series()).item())

    def of(self, marked_ids: pl.Series) -> pl.Series:
        """Return HMAC-SHA256(key, id), its first 32 hex digits: uniform, the same every time."""
        hashed = Hashing(pl.col("id")).hmac_sha256(key=self._user_secret).str.slice(0, 32)
        return marked_ids.alias("id").to_frame().select(hashed).to_series()

    def apply(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Replace `user_id` (`marked`) by the pseudonyms; `remember()` then keeps the way back."""
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
            pairs = self._pairs(new["source_user_id"]).with_columns(
                _identity().alias("identity"), _own_id().alias("source_user_id")
            )
            self._tables.append(USER_IDS.name, pairs.select(USER_IDS.names))
        self._known = pl.concat([known, new.select("number")], rechunk=True)
        self._met = []

    def source_ids(self) -> pl.DataFrame:
        """Return all known users (schema USER_IDS), one row per user."""
        known = self._tables.scan_or_empty(USER_IDS).select(USER_IDS.names)
        return known.unique("user_id").collect(engine="streaming")

    def _pairs(self, ids: pl.Series) -> pl.DataFrame:
        return pl.DataFrame({"user_id": self.of(ids), "source_user_id": ids})

    def _read_known(self) -> pl.DataFrame:
        """Return the pseudonyms whose way back is known, as numbers: 16 bytes a user."""
        return self._tables.scan_or_empty(USER_IDS).select(_number()).collect(engine="streaming")


def _identity() -> pl.Expr:
    parts = pl.col("source_user_id").str.splitn(MARK, 3).struct
    marked = pl.col("source_user_id").str.starts_with(MARK)
    return pl.when(marked).then(parts.field("field_1").replace("", None))


def _own_id() -> pl.Expr:
    own = pl.col("source_user_id").str.splitn(MARK, 3).struct.field("field_2")
    marked = pl.col("source_user_id").str.starts_with(MARK)
    return pl.when(marked).then(own).otherwise("source_user_id")


def _number() -> pl.Expr:
    """Return the pseudonym's 128 bits."""
    return pl.col("user_id").str.decode("hex").bin.reinterpret(dtype=pl.UInt128).alias("number")


def derived_key(settings: Settings, purpose: bytes) -> str:
    """Return the key of one purpose: no hash of one kind tells about another."""
    key = bytes.fromhex(settings.pseudonym_key.get_secret_value())
    assert key, "load_settings() makes a key"
    return hmac.new(key, purpose, "sha256").hexdigest()
