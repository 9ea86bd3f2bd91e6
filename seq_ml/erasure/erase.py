"""Erase a person: from drops, tables, sequences, shards, pages and history; with a receipt.

The order makes a crash harmless: the tombstone comes first, so nothing new of the person is taken
in; then drops are rewritten and the ordinary ingest and cleaning take them in as corrected uploads;
what is left in any table is deleted; at last the history goes. Every step finds what is left to do
by looking, so the same call finishes what another one began.

Nobody else may write meanwhile: the caller holds ingest and training back.
"""

from __future__ import annotations

import json
import secrets
import shutil
import tempfile
from datetime import UTC, date, datetime
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

from seq_ml.clean.publish import publish_days
from seq_ml.clean.reference import publish_reference
from seq_ml.erasure.access import whom
from seq_ml.erasure.derived import erase_from_examples, erase_from_shards, models_that_saw
from seq_ml.erasure.drops import Person, check, look_for, rewrite
from seq_ml.erasure.forget import delete_user, forget_history, forget_versions
from seq_ml.erasure.receipt import Receipt, Survey
from seq_ml.erasure.search import SHORTEST_ID, Needle, opened, search_bucket, search_folder
from seq_ml.ingest.ingest import ingest
from seq_ml.ingest.ledger import Ledger, partition_names
from seq_ml.ingest.mapping.bucket import load_sources
from seq_ml.privacy.tombstones import EVERYBODY, Tombstones
from seq_ml.schema import EVENTS, INPUT_TABLES, QUARANTINED, USER_SEQUENCES
from seq_ml.schema.staged import staged_name
from seq_ml.sequences.segments import update_sequences
from seq_ml.settings import home
from seq_ml.storage.artifacts import forbid
from seq_ml.storage.layout import (
    ARRIVED_AT,
    DOCS_PREFIX,
    DROPS_PREFIX,
    EXAMPLES_PREFIX,
    IDENTITIES_PREFIX,
    MODELS_PREFIX,
    RECEIPTS_PREFIX,
    SHARDS_PREFIX,
    SITE_PREFIX,
    TABLE_PREFIXES,
    TABLES_PREFIX,
    VOCABULARY_PREFIX,
)
from seq_ml.storage.objects import ONE_PUT_BYTES, ObjectChangedError
from seq_ml.storage.tables import TableStore, all_tables

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from seq_ml.ingest.mapping.bucket import Sources
    from seq_ml.ingest.mapping.source import SourceMapping
    from seq_ml.privacy.tombstones import Scope
    from seq_ml.settings import Settings
    from seq_ml.storage.objects import ObjectInfo, ObjectStore

DERIVED = (*TABLE_PREFIXES, VOCABULARY_PREFIX, SHARDS_PREFIX, EXAMPLES_PREFIX, SITE_PREFIX)
"""What a bucket with versioning kept of these goes; of raw drops only that of rewritten ones."""
OF_USERS = [name for name, table in INPUT_TABLES.items() if table.has_users]
"""The input tables whose rows belong to users."""
CHECKPOINTS = "encoder"
SPOOLS = ("ingest", "clean")
"""Below `work/`, with a folder for each bucket."""


class Erasure:
    """The erasure of one user, by the id that the sources of one identity know.

    Raises NoSuchUserError when the id may be that of several people and `identity` does not say.
    """

    def __init__(
        self,
        objects: ObjectStore,
        settings: Settings,
        user: str,
        *,
        identity: str = "",
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.objects = objects
        self.settings = settings
        self.tables = TableStore(objects)
        self.user = user
        self.home = home()
        self.say = say
        self.whom = whom(objects, settings, user, identity)
        self.pseudonym = self.whom.pseudonym
        self.tombstones = Tombstones(objects, settings)
        self.scratch = self.home / "work" / "erasing"

    @cached_property
    def sources(self) -> Sources:
        """The sources' mappings, by which drops are read."""
        return load_sources(self.objects)

    @property
    def mappings(self) -> dict[str, SourceMapping]:
        """Those that can be used."""
        return self.sources.usable

    def survey(self) -> Survey:
        """Look for the person everywhere and change nothing; reads every raw drop once."""
        self.scratch.mkdir(parents=True, exist_ok=True)
        person = Person.of(self.user)
        drops = []
        for info in chain.from_iterable(map(self.objects.list, self._drops)):
            with opened(self.objects, info, self.scratch) as file:
                if found := look_for(person, info.key, file, self.mappings):
                    drops.append((info, found))
        rows: dict[str, int] = {}
        for store, name, _ in all_tables(self.objects):
            scan = store.scan(name)
            if "user_id" in scan.collect_schema():
                _add(rows, f"{store.prefix}/{name}", _count(scan.filter(self._is_theirs(name))))
        earlier = [key for s in self._scopes for key in self.tombstones.receipts(self.user, s)]
        named_before = {model for key in earlier for model in self._receipt(key).get("models", [])}
        terms = self._staged("subscriptions").rename({"started_at": "event_time"})
        seen = [rows.select("event_time", "landed_at") for rows in (self._staged("events"), terms)]
        models = models_that_saw(self.objects, pl.concat(seen).collect(engine="streaming"))
        return Survey(drops, rows, sorted({*models, *named_before}), bool(drops or rows or earlier))

    def run(self, survey: Survey, *, compact: Callable[[], None] | None = None,
            also_search: Mapping[str, Path] | None = None) -> Receipt:  # fmt: skip
        """Erase the person; return the receipt, which the bucket keeps.

        compact: frees the disk of what the bucket has deleted, where the server is our own.
        also_search: folders beside the bucket in which nothing may be found afterwards, by name.
        """
        now = datetime.now(UTC)
        key = f"{RECEIPTS_PREFIX}/{now:%Y%m%dT%H%M%SZ}-{secrets.token_hex(4)}.json"
        whose = ", ".join(self.whom.identities or ()) or "all"
        receipt = Receipt(key, now.isoformat(), whose, models=survey.models)
        self._keep(receipt)
        for scope in self._scopes:
            self.tombstones.add(self.user, scope, key)
        for model in survey.models:
            forbid(self.objects, *f"{MODELS_PREFIX}/{model}".rsplit("/", 1))
        self.scratch.mkdir(parents=True, exist_ok=True)

        rewritten = self._rewrite_drops(survey, receipt)
        self._take_in(rewritten, receipt)
        shared = self._shared()
        if shared:
            receipt.remarks.append(
                "Another source has rows of the same id: its events and its entry in "
                "identities/user_ids stay; what was derived from both was deleted, and is made "
                "anew from what is left."
            )
        self._delete_rows(receipt, keep=shared)
        self._delete_derived(receipt)
        if self.whom.sources is not None and self.sources.broken:
            broken = ", ".join(sorted(self.sources.broken))
            receipt.remarks.append(
                f"The mappings of {broken} cannot be read, so nobody knows whose ids their drops "
                "hold: mend them and repeat the command."
            )
        self.say("history: older versions of every table go")
        for store, name, _ in all_tables(self.objects):
            if removed := forget_history(store, name):
                receipt.history[f"{store.prefix}/{name}"] = removed
        if versions := forget_versions(self.objects, [*(f"{p}/" for p in DERIVED), *rewritten]):
            receipt.history["the bucket's own versioning"] = versions
        if compact is not None:
            self.say("storage: the bytes of deleted objects leave the disk")
            compact()
        if shared:
            receipt.remarks.append("No byte search: the id still has rows of another source.")
        else:
            self._search(receipt, also_search or {})
        shutil.rmtree(self.scratch, ignore_errors=True)
        receipt.status = "finished" if not receipt.found else "finished, but see `found`"
        receipt.finished_at = datetime.now(UTC).isoformat()
        self._keep(receipt)
        return receipt

    def _rewrite_drops(self, survey: Survey, receipt: Receipt) -> list[str]:
        """Take the person out of the raw drops; each one changes in one write."""
        person = Person.of(self.user)
        for number, (info, found) in enumerate(survey.drops, start=1):
            if found.rows is None:
                self.objects.delete([info.key])
                _add(receipt.removed, "drops that no reader understands", 1)
                continue
            with (
                opened(self.objects, info, self.scratch) as old,
                tempfile.TemporaryDirectory(dir=self.scratch) as folder,
            ):
                target = Path(folder) / "rewritten"
                rewrite(info.key, old, target, found, self.mappings)
                with target.open("rb") as new:
                    check(person, info.key, old, new, found, self.mappings)
                self._replace(info, target)
            _add(receipt.removed, "records in drops", len(found.rows))
            _add(receipt.removed, "drops rewritten", 1)
            self.say(f"drops: {number} of {len(survey.drops)} rewritten")
        return sorted(info.key for info, _ in survey.drops)

    def _replace(self, info: ObjectInfo, path: Path) -> None:
        """Put the rewritten drop in the place of the one that was read.

        It keeps the time of its first arrival: what counts as sent twice, and what as future, must
        not change for anybody else.
        """
        first = self.objects.metadata(info.key).get(ARRIVED_AT) or info.modified_at.isoformat()
        facts = {ARRIVED_AT: first}
        if path.stat().st_size <= ONE_PUT_BYTES:
            self.objects.put(info.key, path.read_bytes(), if_match=info.etag, metadata=facts)
            return
        if next(self.objects.list(info.key)).etag != info.etag:
            raise ObjectChangedError(f"{info.key} was uploaded anew meanwhile: repeat the command.")
        self.objects.put_file(info.key, path, facts)

    def _take_in(self, rewritten: list[str], receipt: Receipt) -> None:
        """Let ingest and cleaning heal counts, row numbers, quarantine and days.

        Where they cannot (a drop that is gone or refused, a day that fails its checks), the rows
        are deleted without them.
        """
        for table in OF_USERS:
            contract = INPUT_TABLES[table]
            clean = self.tables.scan_or_empty(contract).filter(self._is_theirs(contract.name))
            for name, rows in ((staged_name(table), self._staged(table)), (contract.name, clean)):
                _add(receipt.removed, f"{TABLES_PREFIX}/{name}", _count(rows))
        self.say("ingest: the rewritten drops are read again")
        # what is still being uploaded is read again when it is complete
        settings = self.settings.model_copy(update={"stable_seconds": 0})
        business = ingest(
            self.objects, self.tables, settings, on_progress=self.say
        ).sources.business
        for table in OF_USERS:
            self._reopen_leftovers(table)
            if table != "events" and self.tables.exists(INPUT_TABLES[table].name):
                publish_reference(self.tables, table)
        ledger = Ledger(self.tables)
        days = [date.fromisoformat(day) for day in ledger.unclean_partitions("events")]
        if not days:
            return
        case = receipt.key.rsplit("/", 1)[-1].removesuffix(".json")
        docs = self.home / DOCS_PREFIX / f"erasure-{case}"
        published = publish_days(
            self.tables, self.settings, days, docs, business=business, on_progress=self.say
        )
        if published.failed and rewritten:
            failed = ", ".join(f"'{day}'" for day in published.failed)
            self.tables.delete_rows(
                QUARANTINED.name, "source_file", rewritten, within=f"event_date IN ({failed})"
            )
            receipt.remarks.append(
                f"{len(published.failed)} days failed their checks: the person was deleted from "
                "what is published of them; quarantine and counts come right when they pass."
            )

    def _reopen_leftovers(self, table: str) -> None:
        """Delete staged rows whose drop could not be read again, and open their partitions."""
        column = INPUT_TABLES[table].partition_by
        lies_in = pl.col(column) if column else pl.lit(None)
        left = self._staged(table).group_by("source_file").agg(pl.len(), lies_in.unique()).collect()
        if left.is_empty():
            return
        files = ", ".join("'" + key.replace("'", "''") + "'" for key in left["source_file"])
        self.tables.delete_rows(
            staged_name(table),
            "user_id",
            [self.pseudonym],
            within=f"source_file IN ({files})",
        )
        ledger = Ledger(self.tables)
        lost = {key: (rows, partition_names(parts)) for key, rows, parts in left.rows()}
        drops = ledger.current().filter(pl.col("key").is_in(list(lost))).to_dicts()
        ledger.record(
            {
                **drop,
                "status": "ingested",
                "rows_read": max(0, drop["rows_read"] - lost[drop["key"]][0]),
                "rows_kept": None,
                "partitions": sorted({*drop["partitions"], *lost[drop["key"]][1]}),
            }
            for drop in drops
        )

    def _delete_rows(self, receipt: Receipt, *, keep: bool) -> None:
        """Bring the sequences in step and delete what any table still has of the person.

        keep: another source has rows of the same id; events, sequences and identity are its.
        """
        names = [n for t in OF_USERS for n in (staged_name(t), INPUT_TABLES[t].name)]
        taken_in = {f"{TABLES_PREFIX}/{name}" for name in names}
        sequences = f"{TABLES_PREFIX}/{USER_SEQUENCES.name}"
        held = {*taken_in, sequences, f"{IDENTITIES_PREFIX}/user_ids"}
        for store, name, _ in all_tables(self.objects):
            where = f"{store.prefix}/{name}"
            if keep and where in held:
                continue
            rows = delete_user(store, name, "user_id", self.pseudonym)
            if where not in taken_in:  # their rows were counted before
                _add(receipt.removed, where, rows)
        if self.tables.exists(USER_SEQUENCES.name) and self.tables.exists(EVENTS.name):
            update_sequences(self.tables, self.settings, on_progress=self.say)

    def _delete_derived(self, receipt: Receipt) -> None:
        self.say("shards, examples, pages and local copies")
        removed = receipt.removed
        shards = erase_from_shards(self.objects, self.pseudonym, self.scratch)
        _add(removed, "events in token shards", shards)
        examples = erase_from_examples(self.objects, self.pseudonym, self.scratch)
        _add(removed, "labelled examples", examples)
        needle = self._needle()
        pages = search_bucket(self.objects, needle, self.scratch, prefix=f"{SITE_PREFIX}/")
        _add(removed, "pages of Data Docs and reports", self.objects.delete(pages))
        site = self.home / SITE_PREFIX
        for page in search_folder(site, needle):
            (site / page).unlink()
            _add(removed, "local pages", 1)
        for spool in SPOOLS:  # of a process that was killed
            shutil.rmtree(self.home / "work" / spool / self.objects.bucket, ignore_errors=True)
        kept = (CHECKPOINTS, *SPOOLS, self.scratch.name)  # checkpoints hold weights only
        for path in (self.home / "work").iterdir():
            if path.name not in kept:  # copies that are made again when they are needed
                shutil.rmtree(path) if path.is_dir() else path.unlink()
                _add(removed, "local copies", 1)

    def _search(self, receipt: Receipt, folders: Mapping[str, Path]) -> None:
        """Look for the bytes of id and pseudonym in the whole bucket and beside it."""
        self.say("search: every object of the bucket, unpacked")
        needle = self._needle()
        receipt.searched_for = ["pseudonym as text", "pseudonym as bytes"]
        if self._id_is_theirs_alone:
            receipt.searched_for.append("id")
        elif self.whom.others:
            receipt.remarks.append(
                "The same id may be that of another identity's user: the search was for the "
                "pseudonym only."
            )
        else:
            receipt.remarks.append(
                f"The id has fewer than {SHORTEST_ID} characters and occurs by chance: the search "
                "was for the pseudonym only; drops were searched by their user column."
            )
        places = search_bucket(self.objects, needle, self.scratch)
        for name, folder in folders.items():
            places |= {f"{name}/{p}": n for p, n in search_folder(folder, needle).items()}
        for place, times in places.items():
            hidden = needle.pattern.search(place.encode()) is not None
            named = f"{place.split('/')[0]}/… (its name holds the id)" if hidden else place
            _add(receipt.found, named, times)

    def _needle(self) -> Needle:
        words = [self.pseudonym, *([self.user] if self._id_is_theirs_alone else [])]
        return Needle.of(*words)

    def _is_theirs(self, name: str) -> pl.Expr:
        """Rows of the person; of staged rows those of the identity's sources only."""
        theirs = pl.col("user_id") == self.pseudonym
        if self.whom.sources and name in map(staged_name, OF_USERS):
            file = pl.col("source_file")
            return theirs & pl.any_horizontal(file.str.starts_with(place) for place in self._drops)
        return theirs

    @property
    def _drops(self) -> list[str]:
        """Below what the person's drops lie: everywhere, or where the identity's sources drop."""
        if self.whom.sources is None:
            return [f"{DROPS_PREFIX}/"]
        return [f"{DROPS_PREFIX}/{source}/" for source in self.whom.sources]

    def _staged(self, table: str) -> pl.LazyFrame:
        """Scan the person's staged rows of an input table, of the identity's sources."""
        return self.tables.scan_staged(table).filter(self._is_theirs(staged_name(table)))

    def _shared(self) -> bool:
        """Tell whether rows of the id are left that another source has sent."""
        left = [self.tables.scan_staged(t).filter(user_id=self.pseudonym) for t in OF_USERS]
        return bool(self.whom.sources) and any(_count(rows) > 0 for rows in left)

    @property
    def _scopes(self) -> tuple[Scope, ...]:
        """Where the person stays out: of every source, or of these identities and their sources.

        Of the sources, too: a mapping may give its source another identity later.
        """
        if self.whom.identities is None:
            return (EVERYBODY,)
        identities: list[Scope] = [("identity", name) for name in self.whom.identities]
        return (*identities, *(("source", name) for name in self.whom.sources or ()))

    @property
    def _id_is_theirs_alone(self) -> bool:
        """Whether the bytes of the source's own id can only be the person's."""
        return len(self.user) >= SHORTEST_ID and not self.whom.others

    def _keep(self, receipt: Receipt) -> None:
        self.objects.put(receipt.key, receipt.to_bytes())

    def _receipt(self, key: str) -> dict[str, list[str]]:
        try:
            content: dict[str, list[str]] = json.loads(self.objects.get(key))
        except KeyError:
            return {}
        return content


def _count(rows: pl.LazyFrame) -> int:
    return int(rows.select(pl.len()).collect(engine="streaming").item())


def _add(counts: dict[str, int], where: str, number: int) -> None:
    if number:
        counts[where] = counts.get(where, 0) + number
