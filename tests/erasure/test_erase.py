"""Erasing a person from a whole deployment: nothing is left of them, and nobody else notices."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
from collections import defaultdict
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import polars as pl
import pyarrow.parquet as pq
import pytest
from rich.console import Console
from typer.testing import CliRunner

from seq_ml import schema
from seq_ml.clean.expectations.verdicts import DayResult
from seq_ml.clean.publish import publish_days
from seq_ml.erasure.erase import Erasure, Receipt
from seq_ml.erasure.search import Needle, search_bucket, search_folder
from seq_ml.ingest.ingest import ingest
from seq_ml.ingest.ledger import Ledger
from seq_ml.privacy.pseudonyms import Pseudonyms
from seq_ml.schema.staged import staged_name
from seq_ml.sequences.read import read_by_shard
from seq_ml.sequences.segments import update_sequences
from seq_ml.storage.artifacts import current, is_forbidden, publish_folder
from seq_ml.storage.objects import ObjectStore
from seq_ml.storage.server import EmbeddedServer
from seq_ml.storage.tables import TableStore, conform
from seq_ml.tokens.shards import MANIFEST, read_shards, write_shards
from seq_ml.tokens.vocabulary import Vocabulary
from tests.erasure.test_drops import MAPPING, OTHER, PERSON, packed, row, unpacked
from tests.shop import SETTINGS, PowerCutError, cut_power

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from click.testing import Result

ONE_DAY = date(2024, 6, 3)
AS_OF = datetime(2024, 6, 20, tzinfo=UTC)
OTHERS = ("anna", "ben", OTHER, "cleo-1", "cleo-2", "cleo-3")
USER = "user_id"
ZEROS: dict[str, int] = defaultdict(int)

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

    def erase(self, user: str = PERSON, source: str = "") -> Receipt:
        """Look and erase, as the command does."""
        work = self.erasure(user, source)
        return work.run(work.survey(), also_search={"home": self.home})

    def erasure(self, user: str = PERSON, source: str = "") -> Erasure:
        return Erasure(self.objects, SETTINGS, user, source=source)

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


@pytest.fixture(scope="module")
def module_patch() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        yield patch


@pytest.fixture(scope="module")
def own_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    """A server of this module alone: its volumes are searched byte by byte."""
    embedded = EmbeddedServer(tmp_path_factory.mktemp("s3"))
    yield embedded
    embedded.stop()


@pytest.fixture(scope="module")
def before_and_after(
    own_server: EmbeddedServer,
    tmp_path_factory: pytest.TempPathFactory,
    module_patch: pytest.MonkeyPatch,
) -> tuple[Deployment, dict[str, Any], Receipt]:
    """The deployment after the erasure, the snapshot before it, and the receipt."""
    home = tmp_path_factory.mktemp("home")
    module_patch.setenv("SEQLINE_HOME", str(home))
    objects = ObjectStore(own_server.start("erase-test"))
    shop = Deployment(objects, home)
    shop.fill()
    assert shop.clean().filter(pl.col(USER) == shop.pseudonym).height == 6
    before = shop.snapshot()
    held = {key.split("/")[0] for key in left_in(objects, shop.pseudonym)}
    assert held == {"drops", "examples", "identities", "site", "tables", "tokens"}
    assert search_folder(own_server.folder, shop.needle)
    work = shop.erasure()
    receipt = work.run(
        work.survey(),
        compact=own_server.compact,
        also_search={"server": own_server.folder, "home": home},
    )
    return shop, before, receipt


Erased = tuple[Deployment, dict[str, Any], Receipt]


def test_nothing_is_left_of_the_person(
    before_and_after: Erased, own_server: EmbeddedServer, tmp_path: Path
) -> None:
    shop, _, receipt = before_and_after
    assert receipt.found == {}
    assert receipt.status == "finished"
    assert left_in(shop.objects, shop.pseudonym) == []
    assert search_bucket(shop.objects, shop.needle, tmp_path) == {}
    assert search_folder(shop.home, shop.needle) == {}
    assert search_folder(own_server.folder, shop.needle) == {}


def test_nobody_else_notices(before_and_after: Erased) -> None:
    shop, before, _ = before_and_after
    after = shop.snapshot()
    for place, rows in before.items():
        assert after[place] == rows, place
    assert update_sequences(shop.tables, SETTINGS).days == ()


def test_the_books_are_right_again(before_and_after: Erased) -> None:
    shop, _, _ = before_and_after
    ledger = Ledger(shop.tables).current().filter(pl.col("status") == "clean")
    parts = ledger.select(pl.sum_horizontal("rows_kept", "rows_duplicate", "rows_quarantined"))
    assert parts.to_series().to_list() == ledger["rows_read"].to_list()
    theirs = {key: [r for r in rows if r["customer"] != PERSON] for key, rows in DROPS.items()}
    read = dict(ledger.select("key", "rows_read").rows())
    assert read == {key: len(rows) for key, rows in theirs.items() if "shop" in key}
    quarantined = shop.tables.scan("quarantined_events").collect()
    assert quarantined.select("source_file", "row_number").rows() == [("drops/shop/a.csv", 3)]


def test_the_receipt_tells_what_was_done_and_names_nobody(before_and_after: Erased) -> None:
    shop, _, receipt = before_and_after
    stored = shop.objects.get(receipt.key)
    assert stored == receipt.to_bytes()
    assert receipt.models == ["churn_silence/v1", "encoder/e1"]
    named = [is_forbidden(shop.objects, "models/encoder", name) for name in ("e1", "e0")]
    assert named == [True, False]  # what never saw the person may be continued
    removed = receipt.removed
    assert removed["records in drops"] == 8
    assert removed["drops rewritten"] == 6
    assert removed["drops that no reader understands"] == 1
    assert removed["tables/clean_events"] == 6
    assert removed["identities/user_ids"] == 1
    assert removed["tables/user_embeddings"] == 1
    assert removed["tables/churn_predictions"] == 1
    assert removed["events in token shards"] == 6
    assert removed["labelled examples"] == 1
    assert receipt.history["tables/clean_events"] > 0


def test_a_drop_that_comes_again_does_not_bring_the_person_back(
    before_and_after: Erased, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop, before, _ = before_and_after
    monkeypatch.setattr("seq_ml.clean.publish.validate_days", lambda *_, **__: [])
    for key in ("drops/shop/b.csv.gz", "drops/shop/d.tsv"):
        shop.objects.put(key, packed(key, DROPS[key]))
    shop.objects.put("drops/shop/later.csv", packed("later.csv", [row(PERSON, 11), row("ben", 11)]))
    shop.take_in()
    clean = shop.clean()
    assert clean.filter(pl.col(USER) == shop.pseudonym).is_empty()
    assert clean.filter(pl.col("event_date") < date(2024, 6, 10)).rows() == before["clean"]
    found = shop.tables.scan("quarantined_events").filter(pl.col("rule") == "erased").collect()
    assert sorted(found["source_file"].unique()) == [
        "drops/shop/b.csv.gz", "drops/shop/d.tsv", "drops/shop/later.csv"
    ]  # fmt: skip
    assert found["value"].null_count() == found.height == 4
    ids = Pseudonyms(shop.objects, SETTINGS).source_ids()["source_user_id"].to_list()
    assert sorted(ids) == sorted(OTHERS)
    # a second erasure takes the raw rows out again, and knows the models of the first
    receipt = shop.erase()
    assert receipt.found == {}
    assert receipt.removed["records in drops"] == 4
    assert receipt.models == ["churn_silence/v1", "encoder/e1"]


# --- without Great Expectations, which takes seconds ----------------------------------------------


@pytest.fixture
def shop(objects: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Deployment:
    """A deployment whose days always pass their checks."""
    monkeypatch.setenv("SEQLINE_HOME", str(tmp_path))
    monkeypatch.setattr("seq_ml.clean.publish.validate_days", lambda *_, **__: [])
    return Deployment(objects, tmp_path)


def books(shop: Deployment) -> dict[str, tuple[int, int]]:
    """Rows read, and the sum of kept, duplicate and quarantined, of each clean drop."""
    ledger = Ledger(shop.tables).current().filter(pl.col("status") == "clean")
    parts = pl.sum_horizontal("rows_kept", "rows_duplicate", "rows_quarantined")
    return {
        key: (read, sum_) for key, read, sum_ in ledger.select("key", "rows_read", parts).rows()
    }


def test_an_erasure_that_was_cut_off_is_finished_by_the_next(shop: Deployment) -> None:
    shop.fill()
    before = shop.snapshot()
    for step in (0, 1, 3, 6):
        with pytest.MonkeyPatch.context() as patch:
            cut_power(patch, step)
            with pytest.raises(PowerCutError):
                shop.erase()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("seq_ml.erasure.erase.forget_history", _fail)
        with pytest.raises(PowerCutError):
            shop.erase()
    receipt = shop.erase()
    assert receipt.found == {}
    assert receipt.models == ["churn_silence/v1", "encoder/e1"]
    assert left_in(shop.objects, shop.pseudonym) == []
    after = shop.snapshot()
    for place, rows in before.items():
        assert after[place] == rows, place
    assert all(read == sum_ for read, sum_ in books(shop).values())


def _fail(*_: object) -> int:
    raise PowerCutError


def test_a_user_of_another_source_with_the_same_id_stays(shop: Deployment) -> None:
    shop.objects.put("sources/shop.yaml", MAPPING.encode())
    other = MAPPING.replace("name: shop", "name: branch")
    shop.objects.put("sources/branch.yaml", other.encode())
    for source in ("shop", "branch"):
        shop.objects.put(f"drops/{source}/a.csv", packed("a.csv", [row(PERSON, 3), row("ben", 4)]))
    shop.take_in()
    receipt = shop.erase(source="shop")
    assert receipt.source == "shop"
    assert receipt.removed["records in drops"] == 1
    assert "Another source" in receipt.remarks[0]
    for source in ("shop", "branch"):
        shop.objects.put(f"drops/{source}/b.csv", packed("b.csv", [row(PERSON, 5)]))
    shop.take_in()
    theirs = shop.tables.scan(staged_name("events")).filter(pl.col(USER) == shop.pseudonym)
    assert set(theirs.collect()["source_file"]) == {"drops/branch/a.csv", "drops/branch/b.csv"}
    days = shop.clean().filter(pl.col(USER) == shop.pseudonym)["event_date"].to_list()
    assert days == [date(2024, 6, 3), date(2024, 6, 5)]
    assert PERSON in set(Pseudonyms(shop.objects, SETTINGS).source_ids()["source_user_id"])


def test_rows_of_a_drop_that_is_gone_are_erased_too(shop: Deployment) -> None:
    shop.objects.put("sources/shop.yaml", MAPPING.encode())
    rows = [row(PERSON, 3, note="mine"), row("ben", 3), row(PERSON, 4, pieces="x"), row("ben", 4)]
    shop.objects.put("drops/shop/a.csv", packed("a.csv", rows))
    shop.take_in()
    assert books(shop) == {"drops/shop/a.csv": (4, 4)}
    shop.objects.delete(["drops/shop/a.csv"])
    receipt = shop.erase()
    assert receipt.found == {}
    assert left_in(shop.objects, shop.pseudonym) == []
    assert set(shop.clean()[USER]) == set(Pseudonyms(shop.objects, SETTINGS).source_ids()[USER])
    assert books(shop) == {"drops/shop/a.csv": (2, 2)}


def test_a_day_that_fails_its_checks_loses_the_person_all_the_same(
    shop: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.objects.put("sources/shop.yaml", MAPPING.encode())
    rows = [row(PERSON, 3), row("ben", 3), row(PERSON, 3, pieces=PERSON), row("ben", 4)]
    shop.objects.put("drops/shop/a.csv", packed("a.csv", rows))
    shop.take_in()
    monkeypatch.setattr(
        "seq_ml.clean.publish.validate_days",
        lambda _, days, *__, **___: [DayResult(day, day.day == 4, (), (), ZEROS) for day in days],
    )
    receipt = shop.erase()
    assert receipt.found == {}
    assert "1 days failed" in receipt.remarks[0]
    assert left_in(shop.objects, shop.pseudonym) == []
    assert shop.clean()["event_date"].to_list() == [date(2024, 6, 3), date(2024, 6, 4)]


def test_a_short_id_is_erased_and_the_receipt_says_what_was_not_searched(shop: Deployment) -> None:
    shop.objects.put("sources/shop.yaml", MAPPING.encode())
    rows = [row("17", 3), row("ben", 3, pieces="17"), row("ben", 4)]
    shop.objects.put("drops/shop/a.csv", packed("a.csv", rows))
    shop.take_in()
    receipt = shop.erase("17")
    assert receipt.found == {}
    assert receipt.searched_for == ["pseudonym as text", "pseudonym as bytes"]
    assert "fewer than 6" in receipt.remarks[0]
    assert shop.objects.get("drops/shop/a.csv") == packed("a.csv", rows[1:])
    assert shop.clean().height == 2


def test_an_unknown_id_is_known_nowhere(shop: Deployment) -> None:
    shop.objects.put("sources/shop.yaml", MAPPING.encode())
    shop.objects.put("drops/shop/a.csv", packed("a.csv", [row("ben", 4)]))
    shop.take_in()
    survey = shop.erasure("nobody-at-all").survey()
    assert not survey.known


# --- the command ----------------------------------------------------------------------------------


@pytest.fixture
def seqline(
    shop: Deployment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Result]:
    """Call the command on the shop, with a Dagster instance of its own."""
    folder = tmp_path / "dagster"
    folder.mkdir()
    config = shop.objects.config
    for name, value in {
        "DAGSTER_HOME": str(folder),
        "SEQLINE_BUCKET": config.bucket,
        "SEQLINE_PSEUDONYM_KEY": SETTINGS.pseudonym_key.get_secret_value(),
        "AWS_ACCESS_KEY_ID": config.access_key,
        "AWS_SECRET_ACCESS_KEY": config.secret_key,
        "AWS_ENDPOINT_URL": str(config.endpoint),
    }.items():
        monkeypatch.setenv(name, value)
    from seq_assets.cli import app as cli

    monkeypatch.setattr("seq_assets.cli.terminal.console", Console(width=200))
    return lambda *arguments: CliRunner().invoke(cli.app, ["erase", *arguments])


def test_the_command_looks_asks_and_erases(
    shop: Deployment, seqline: Callable[..., Result]
) -> None:
    import dagster as dg

    shop.objects.put("sources/shop.yaml", MAPPING.encode())
    shop.objects.put("drops/shop/a.csv", packed("a.csv", [row(PERSON, 3), row("ben", 4)]))
    shop.take_in()
    assert "nothing to erase" in seqline("nobody-at-all").output
    looked = seqline(PERSON, "--dry-run")
    assert "drops/shop/a.csv: 1 records" in looked.output
    assert "tables/clean_events: 1 rows" in looked.output
    assert seqline(PERSON).exit_code != 0  # nobody says yes
    assert shop.clean().height == 2
    with dg.DagsterInstance.get() as instance:
        job = dg.GraphDefinition(name="ingest_drops").to_job()
        run = instance.create_run_for_job(job, status=dg.DagsterRunStatus.STARTED)
        busy = seqline(PERSON, "--yes")
        assert busy.exit_code == 1
        assert "is in progress" in busy.output
        instance.report_run_canceled(run)
    done = seqline(PERSON, "--yes")
    assert done.exit_code == 0, done.output
    assert "The byte search found nothing." in done.output
    assert "Receipt: receipts/erasure/" in done.output
    assert PERSON not in done.output
    assert left_in(shop.objects, shop.pseudonym) == []
    assert shop.clean().height == 1
