"""Whose id it is, and everything that is known of one user's behaviour, under the user's own id."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import polars as pl

from seq_ml.ingest.mapping.bucket import load_sources
from seq_ml.privacy.pseudonyms import Pseudonyms
from seq_ml.privacy.tombstones import Tombstones
from seq_ml.schema import EVENTS, SUBSCRIPTIONS
from seq_ml.storage.tables import TableStore

if TYPE_CHECKING:
    from pathlib import Path

    from seq_ml.settings import Settings
    from seq_ml.storage.objects import ObjectStore


class NoSuchUserError(LookupError):
    """There is no clean event of this user, and no subscription; or the id is that of several."""


@dataclass(frozen=True)
class Whom:
    """One person: the pseudonym, and by whose ids.

    identities, sources: None where the id means one person wherever it stands; without a source
    where no mapping gives its files that identity any more. others: whether the same id may mean
    somebody else, too.
    """

    pseudonym: str
    identities: tuple[str, ...] | None = None
    sources: tuple[str, ...] | None = None
    others: bool = False


def whom(objects: ObjectStore, settings: Settings, user: str, identity: str = "") -> Whom:
    """Return the person that a source's own id means.

    identity: whose id it is, also one that no mapping names any more; where it is empty and several
    identities know the id, nobody guesses. Raises NoSuchUserError that names the identities.
    """
    pseudonyms = Pseudonyms(objects, settings)
    usable = load_sources(objects).usable
    sources = {
        source: mapping.people
        for source, mapping in usable.items()
        if any(entry.contract.has_users for entry in mapping.files)
    }
    met = pseudonyms.source_ids()["identity"].unique().drop_nulls()
    names = sorted({*sources.values(), *pseudonyms.bare, *met})
    # a source that lost its mapping still has its drops
    sources |= {name: name for name in names if name not in usable}
    spaces = {pseudonyms.space(name) for name in names}
    if identity and identity not in names:
        raise NoSuchUserError(
            f"There is no identity '{identity}'; there are: {', '.join(names) or 'none'}."
        )
    if not identity and len(spaces) < 2:
        return Whom(pseudonyms.pseudonym(user, names[0] if names else ""))
    chosen = (identity,) if identity else _who_know(objects, settings, user, names)
    return Whom(
        pseudonyms.pseudonym(user, chosen[0]),
        chosen,
        tuple(sorted(source for source, people in sources.items() if people in chosen)),
        others=len(spaces) > 1,
    )


def _who_know(
    objects: ObjectStore, settings: Settings, user: str, names: list[str]
) -> tuple[str, ...]:
    """Return the identities that know an id, if to all of them it is one person."""
    pseudonyms, erased = Pseudonyms(objects, settings), Tombstones(objects, settings)
    known = set(pseudonyms.source_ids()["user_id"])
    met = [
        name
        for name in names
        if pseudonyms.pseudonym(user, name) in known or erased.receipts(user, ("identity", name))
    ]
    if len({pseudonyms.space(name) for name in met}) == 1:
        return tuple(met)
    raise NoSuchUserError(
        f"The identities {', '.join(met)} know this id, and mean different people: say whose id it "
        "is with --identity NAME."
        if met
        else f"None of the identities {', '.join(names)} knows this id: write it as the source's "
        "files do, and say whose id it is with --identity NAME."
    )


def export_history(
    objects: ObjectStore, settings: Settings, user: str, out: Path, identity: str = ""
) -> int:
    """Write all clean events of a user (schema EVENTS, by time) to a Parquet file.

    The terms of their subscriptions, if any, go to `<out>-subscriptions.parquet` beside it.  user:
    the source's own id; `user_id` in the files is that id too.  Returns the events written.  Raises
    NoSuchUserError when there is neither, or the id is that of several, and writes nothing then.
    """
    pseudonym = whom(objects, settings, user, identity).pseudonym
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
