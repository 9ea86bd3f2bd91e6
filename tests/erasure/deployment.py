"""A deployment with every stage filled, and a look at what is left of a person in it."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import polars as pl
import pyarrow.parquet as pq

from seq_ml import schema
from seq_ml.clean.publish import publish_days
from seq_ml.erasure.erase import Erasure
from seq_ml.erasure.search import Needle
from seq_ml.ingest.ingest import ingest
from seq_ml.ingest.ledger import Ledger
from seq_ml.privacy.pseudonyms import Pseudonyms
from seq_ml.schema.staged import staged_name
from seq_ml.sequences.read import read_by_shard
from seq_ml.sequences.segments import update_sequences
from seq_ml.storage.artifacts import current, publish_folder
from seq_ml.storage.contracts import conform
from seq_ml.storage.tables import TableStore
from seq_ml.tokens.shards import MANIFEST, read_shards, write_shards
from seq_ml.tokens.vocabulary import Vocabulary
from tests.erasure.test_drops import MAPPING, OTHER, PERSON, packed, row, unpacked
from tests.shop import SETTINGS

if TYPE_CHECKING:
    from pathlib import Path

    from seq_ml.erasure.receipt import Receipt
    from seq_ml.storage.objects import ObjectStore


AS_OF = datetime(2024, 6, 20, tzinfo=UTC)
OTHERS = ("anna", "ben", OTHER, "cleo-1", "cleo-2", "cleo-3")
USER = "user_id"
DROPS = {
    "drops/shop/a.csv": [
        row("anna", 3), row(PERSON, 3, note="mine;\nreally"), row("ben", 3),
        row("ben", 4, pieces="x"), row(PERSON, 4, pieces="many"), row("anna", 4),
    ],
    "drops/shop/b.csv.gz": [row(c, 5, hour) for hour in (8, 9) for c in (*OTHERS, PERSON)],
    "drops/shop/c.jsonl.zst": [row(PERSON, 5, 10), row("anna", 3), row(OTHER, 5, 10)],
    "drops/shop/d.tsv": [row("ben", 4, 11), row(PERSON, 4, 11, note="last")],
    "drops/shop/e.parquet": [row(PERSON, 3, 12, note="hello"), row("cleo-1", 3, 12)],
    "drops/shop/untouched.csv": [row(c, 5, 13) for c in OTHERS],
    "drops/elsewhere/no-mapping.jsonl": [row(PERSON, 9), row("anna", 9)],
}  # fmt: skip


class Deployment:
    """A bucket and a home that know the person in every place that there is."""

    def __init__(self, objects: ObjectStore, home: Path) -> None:
        self.objects = objects
        self.tables = TableStore(objects)
        self.home = home
        self.work = home / "work"
        self.pseudonym = str(Pseudonyms(objects, SETTINGS).of(pl.Series([PERSON])).item())
        self.needle = Needle.of(PERSON, self.pseudonym)

    def fill(self) -> None:
        self.objects.put("sources/shop.yaml", MAPPING.encode())
        for key, rows in DROPS.items():
            self.objects.put(key, packed(key, rows))
        broken = gzip.compress(packed("a.csv", [row(PERSON, 9)] * 9))
        self.objects.put("drops/shop/truncated.csv.gz", broken[:-9])
        self.take_in()
        self._derive()

    def take_in(self) -> None:
        """Ingest, clean and publish what waits; bring the sequences in step."""
        ingest(self.objects, self.tables, SETTINGS)
        days = [date.fromisoformat(d) for d in Ledger(self.tables).unclean_partitions("events")]
        if days:
            docs = self.home / "site" / "data_docs" / uuid4().hex
            assert not publish_days(self.tables, SETTINGS, days, docs).failed
            self.objects.upload(docs, f"site/data_docs/{docs.name}")
        update_sequences(self.tables, SETTINGS)

    def _derive(self) -> None:
        """Write what the later stages make of the events."""
        users = self.clean()["user_id"].unique().sort()
        embeddings = pl.DataFrame({"user_id": users}).with_columns(
            as_of=pl.lit(AS_OF), embedding=pl.lit([0.5, 1.0]), model_version=pl.lit("e1")
        )
        table = schema.USER_EMBEDDINGS
        self.tables.overwrite(table.name, conform(embeddings, table))
        self.tables.append("churn_predictions", pl.DataFrame({"user_id": users, "p": 0.5}))
        self.tables.overwrite("churn_predictions", pl.DataFrame({"user_id": users, "p": 0.25}))
        buffer = io.BytesIO()
        pl.DataFrame({"user_id": users, "label": 1}).write_parquet(buffer)
        self.objects.put("examples/churn_silence.parquet", buffer.getvalue())
        sequences = list(read_by_shard(self.tables, as_of=AS_OF, max_events=10))
        items = pl.DataFrame(schema=schema.ITEMS.polars_schema())
        events = [self.tables.scan("clean_events")]
        words = Vocabulary.fit(events, items, before=AS_OF, min_users=1)
        for name, parts in (("old", sequences[:1]), ("new", sequences)):
            folder = self.work / name
            manifest = write_shards(parts, words, folder)
            files = [*(shard.file for shard in manifest.shards), MANIFEST]
            publish_folder(
                self.objects, "tokens/shards", manifest.version, folder, files=files, as_of="x"
            )
        late = datetime(2024, 6, 15, tzinfo=UTC).isoformat()
        early = datetime(2024, 6, 1, tzinfo=UTC).isoformat()
        for key, before in (
            ("models/encoder/e1/training.json", late),
            ("models/encoder/e0/training.json", early),
            ("models/churn_silence/v1/config.json", late),
        ):
            self.objects.put(key, json.dumps({"fitted_before": before}).encode())
        page = f"<td>{PERSON}</td>".encode()
        self.objects.put("site/data_docs/old/001/page.html", page)
        (self.home / "site").mkdir(exist_ok=True)
        (self.home / "site" / "old.html").write_bytes(page)

    def clean(self) -> pl.DataFrame:
        return (
            self.tables.scan("clean_events").sort("event_date", "event_time", "event_id").collect()
        )

    def erase(self, user: str = PERSON, identity: str = "") -> Receipt:
        """Look and erase, as the command does."""
        work = self.erasure(user, identity)
        return work.run(work.survey(), also_search={"home": self.home})

    def erasure(self, user: str = PERSON, identity: str = "") -> Erasure:
        return Erasure(self.objects, SETTINGS, user, identity=identity)

    def snapshot(self) -> dict[str, Any]:
        """What all other users have, in every place."""
        theirs = pl.col(USER) != self.pseudonym
        return {
            "clean": self.clean().filter(theirs).rows(),
            "staged": self.tables.scan(staged_name("events"))
            .filter(theirs)
            .drop("row_number")
            .sort("source_file", "event_id", "event_time")
            .collect()
            .rows(),
            "embeddings": self._rows("user_embeddings", theirs),
            "predictions": self._rows("churn_predictions", theirs),
            "sequences": self._rows("user_sequences", theirs, but="source"),
            "tokens": self._tokens(),
        }

    def _rows(self, name: str, theirs: pl.Expr, but: str = "") -> list[Any]:
        frame = self.tables.scan(name).filter(theirs).collect()
        return sorted(map(repr, frame.drop(c for c in frame.columns if c == but).rows()))

    def _tokens(self) -> dict[str, Any]:
        pointer = current(self.objects, "tokens/shards")
        assert pointer is not None
        folder = self.work / "shown" / pointer["version"]
        self.objects.download(f"tokens/shards/{pointer['version']}", folder)
        found = {}
        for part in read_shards(folder)[1]:
            for n, user in enumerate(part.user_ids):
                events = slice(int(part.offset[n]), int(part.offset[n + 1]))
                found[user] = (part.item[events].tolist(), part.time[events].tolist())
        found.pop(self.pseudonym, None)
        return found


def left_in(objects: ObjectStore, pseudonym: str) -> list[str]:
    """Objects that hold the person in any form: apart from the search that the product has."""
    needles = (PERSON.encode(), pseudonym.encode(), bytes.fromhex(pseudonym))
    found = []
    for info in objects.list(""):
        body = objects.get(info.key)
        forms = [body]
        with contextlib.suppress(OSError, EOFError):
            forms.append(unpacked(info.key, body))
        if info.key.endswith(".parquet"):
            every = pq.ParquetFile(io.BytesIO(body)).schema_arrow.names
            # as dictionaries: a value that no row refers to any more would show, too
            table = pq.read_table(io.BytesIO(body), read_dictionary=every)
            forms.append(repr([c.chunks for c in table.columns]).encode())
            forms.append(repr(pq.read_table(io.BytesIO(body)).to_pylist()).encode())
        # the other one's id begins with the person's
        texts = [form.replace(OTHER.encode(), b"") for form in forms]
        if any(needle in text for needle in needles for text in texts):
            found.append(info.key)
    return found
