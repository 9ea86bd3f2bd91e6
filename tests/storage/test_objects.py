"""Storage: clear refusals, secrets kept, a server that survives, conditional and partial writes."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import traceback
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import date

import polars as pl
import psutil
import pytest
from pydantic import ValidationError

from seq_ml.schema import Column, Table
from seq_ml.settings import home, load_settings, remember
from seq_ml.storage import EmbeddedServer, connect
from seq_ml.storage.objects import ObjectChangedError, ObjectStore, StorageConfig, StorageError
from seq_ml.storage.server import LOOPBACK
from seq_ml.storage.tables import SchemaError, check_key, conform

DAYS = Table(
    "days",
    "Rows filed by day.",
    (
        Column("id", "str", "Id."),
        Column("day", "date", "Day."),
        Column("n", "i64", "Number.", True),
        Column("kind", "str", "Kind.", True, allowed=("a", "b")),
    ),
    key=("id",),
    partition_by="day",
)
FIRST, SECOND, THIRD = (date(2024, 5, day) for day in (1, 2, 3))


@pytest.fixture(autouse=True)
def own_machine(monkeypatch, tmp_path):
    """A machine without any storage or settings of its own."""
    for name in list(os.environ):
        if name.startswith(("AWS_", "SEQLINE_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("SEQLINE_HOME", str(tmp_path / "home"))


def refusal(store: ObjectStore) -> str:
    """The one sentence with which a storage is refused, and only by it."""
    with pytest.raises(StorageError) as caught:
        store.check()
    message = str(caught.value)
    assert "\n" not in message
    assert store.config.secret_key not in message
    return message


def mode(path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


# --- refusals -------------------------------------------------------------------------------------


def test_a_storage_that_cannot_be_used_says_why_in_one_sentence(objects):
    good = objects.config
    for wrong in (
        replace(good, secret_key="wrong"),
        replace(good, access_key="wrong"),
    ):
        message = refusal(ObjectStore(wrong))
        assert "refused the credentials" in message
        assert "AWS_SECRET_ACCESS_KEY" in message
    message = refusal(ObjectStore(replace(good, bucket="not-there")))
    assert "There is no bucket 'not-there'" in message
    assert "SEQLINE_BUCKET" in message
    with socket.socket() as nobody:
        nobody.bind((LOOPBACK, 0))  # bound but not listening: connections are refused
        endpoint = f"http://{LOOPBACK}:{nobody.getsockname()[1]}"
        message = refusal(ObjectStore(replace(good, endpoint=endpoint)))
    assert f"{endpoint} does not answer" in message
    assert "http://" in refusal(ObjectStore(replace(good, endpoint="localhost:9000")))
    assert "lower case" in refusal(ObjectStore(replace(good, bucket="No Bucket")))


def test_a_bucket_is_made_only_when_asked(objects):
    typo = ObjectStore(replace(objects.config, bucket="a-typo"))
    with pytest.raises(Exception, match="NoSuchBucket"):
        typo.put("key", b"x")
    refusal(typo)
    typo.check(create=True)
    typo.check()


@pytest.mark.parametrize(
    ("given", "missing"),
    [
        ({"AWS_ACCESS_KEY_ID": "key"}, "AWS_SECRET_ACCESS_KEY"),
        ({"AWS_SECRET_ACCESS_KEY": "hush"}, "AWS_ACCESS_KEY_ID"),
        ({"AWS_ENDPOINT_URL": "http://127.0.0.1:1"}, "AWS_ACCESS_KEY_ID"),
    ],
)
def test_half_set_credentials_name_the_missing_half(monkeypatch, given, missing):
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(StorageError, match=f"^{missing} is not set: set AWS_.*embedded server.$"):
        StorageConfig.from_environment("bucket")


def test_the_environment_points_at_any_storage(monkeypatch, objects):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", objects.config.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", objects.config.secret_key)
    monkeypatch.setenv("AWS_ENDPOINT_URL", objects.config.endpoint)
    monkeypatch.setenv("SEQLINE_BUCKET", objects.bucket)
    settings = load_settings()
    connect(settings).put("key", b"x")
    assert objects.get("key") == b"x"
    monkeypatch.setenv("AWS_SESSION_TOKEN", "borrowed")
    temporary = ObjectStore(StorageConfig.from_environment("bucket"))
    assert temporary.options["aws_session_token"] == "borrowed"
    assert "borrowed" not in repr(temporary.config)


def test_without_any_storage_the_message_says_what_to_start():
    with pytest.raises(StorageError, match="seqline storage start"):
        connect(load_settings())


# --- secrets --------------------------------------------------------------------------------------


def test_secrets_are_in_no_text_of_an_object(objects):
    secret = objects.config.secret_key
    settings = load_settings()
    for thing in (objects, objects.config, objects.client, settings):
        for text in (repr(thing), str(thing)):
            assert secret not in text
            assert settings.pseudonym_key.get_secret_value() not in text
    with pytest.raises(StorageError) as caught:
        ObjectStore(replace(objects.config, bucket="not-there")).check()
    assert secret not in "".join(traceback.format_exception(caught.value))


def test_the_pseudonym_key_is_made_once_and_kept_private(monkeypatch):
    with ThreadPoolExecutor(8) as pool:
        keys = {f.pseudonym_key.get_secret_value() for f in pool.map(_load, range(8))}
    (key,) = keys
    assert len(key) == 64
    assert mode(home() / "settings.env") == 0o600
    remember(SEQLINE_PRESET="tiny")
    assert mode(home() / "settings.env") == 0o600
    monkeypatch.setenv("SEQLINE_PSEUDONYM_KEY", "")  # set to nothing is not set
    settings = load_settings()
    assert settings.preset == "tiny"
    assert settings.pseudonym_key.get_secret_value() == key
    monkeypatch.setenv("SEQLINE_PSEUDONYM_KEY", "ab" * 32)
    assert load_settings().pseudonym_key.get_secret_value() == "ab" * 32


def _load(_: int):
    return load_settings()


def test_a_weak_key_and_an_unknown_setting_are_refused_without_showing_the_key(monkeypatch):
    for key in ("secret-word", "abcd", "0" * 200):
        monkeypatch.setenv("SEQLINE_PSEUDONYM_KEY", key)
        with pytest.raises(ValidationError, match="32 to 128 hex digits") as caught:
            load_settings()
        assert key not in str(caught.value)
    monkeypatch.setenv("SEQLINE_PSEUDONYM_KEY", "ab" * 32)
    remember(SEQLINE_PRESETT="tiny")
    with pytest.raises(ValidationError, match="presett"):
        load_settings()


# --- the embedded server --------------------------------------------------------------------------


def test_the_server_survives_what_happens_to_it(tmp_path):
    """One server through its life: private, restarted, killed, and its port taken."""
    deep = tmp_path / ("d" * 60) / ("e" * 60)  # longer than the path of a socket may be
    server = EmbeddedServer(deep)
    assert not server.running()
    assert not server.stop()
    try:
        config = server.start("first")
        state = json.loads(server.state_path.read_text())

        # Private: only this machine can reach it, only this user can read its keys.
        listening = [
            c for c in psutil.Process(state["pid"]).net_connections() if c.status == "LISTEN"
        ]
        assert {c.laddr.ip for c in listening} == {LOOPBACK}
        assert {state["ports"]["s3"], state["ports"]["filer"]} <= {c.laddr.port for c in listening}
        for name in ("state.json", "identities.json"):
            assert mode(deep / name) == 0o600
            assert config.secret_key in (deep / name).read_text()
        assert config.secret_key not in server.log_path.read_text()
        assert config.secret_key not in " ".join(psutil.Process(state["pid"]).cmdline())
        assert config.secret_key not in repr(server._read_state())

        # Started again while it runs: nothing happens.
        ObjectStore(config).put("kept", b"before the kill")
        assert EmbeddedServer(deep).start("first") == config
        assert json.loads(server.state_path.read_text())["pid"] == state["pid"]

        # Killed: the next start brings it back at its address, with all that was acknowledged.
        keys = [f"many/{n}" for n in range(50)]
        for key in keys:
            ObjectStore(config).put(key, key.encode())
        os.kill(state["pid"], signal.SIGKILL)
        store = ObjectStore(server.start("first"))
        assert store.config == config
        assert store.get("kept") == b"before the kill"
        assert [info.key for info in store.list("many/")] == sorted(keys)

        # Stopped, and its port taken by somebody else: it moves, its objects stay.
        assert server.stop()
        assert not server.running()
        refusal(ObjectStore(config))
        with socket.socket() as other:
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            other.bind((LOOPBACK, state["ports"]["s3"]))
            other.listen()
            moved = server.start("first")
        assert moved.endpoint != config.endpoint
        assert ObjectStore(moved).get("many/7") == b"many/7"
    finally:
        if server.running():
            os.kill(json.loads(server.state_path.read_text())["pid"], signal.SIGKILL)


def test_a_server_that_ends_just_when_it_is_asked_for_is_started_again(tmp_path, monkeypatch):
    server = EmbeddedServer(tmp_path)
    looked: list[bool] = []

    def alive(self, state):
        looked.append(len(looked) == 0 or really(self, state))  # a killed process, not gone yet
        return looked[-1]

    really = EmbeddedServer._alive
    try:
        server.start("first")
        gone = psutil.Process(json.loads(server.state_path.read_text())["pid"])
        gone.kill()
        gone.wait()
        monkeypatch.setattr(EmbeddedServer, "_alive", alive)
        assert ObjectStore(server.start("first")).put("kept", b"it runs")
        assert looked[:2] == [True, False]
    finally:
        monkeypatch.undo()
        if server.running():
            os.kill(json.loads(server.state_path.read_text())["pid"], signal.SIGKILL)


def test_a_foreign_process_with_the_remembered_pid_is_left_alone(tmp_path):
    server = EmbeddedServer(tmp_path)
    ports = dict.fromkeys(("s3", "filer"), 1)
    state = {"access_key": "a", "secret_key": "b", "ports": ports, "pid": os.getpid()}
    server.state_path.write_text(json.dumps(state))
    assert not server.running()
    assert not server.stop()


def test_a_server_whose_arguments_are_not_there_yet_is_not_started_twice(tmp_path, monkeypatch):
    """Between its start and its first instruction a process has an empty command line."""
    server = EmbeddedServer(tmp_path)
    empty = iter([True, True, True])
    really = psutil.Process.cmdline
    monkeypatch.setattr(
        psutil.Process, "cmdline", lambda self: [] if next(empty, False) else really(self)
    )
    try:
        server.start("first")
        assert server.running()
        assert server.log_path.read_text().count("Starting SeaweedFS Mini") == 1
    finally:
        server.stop()


# --- objects --------------------------------------------------------------------------------------


def test_objects_round_trip_and_are_listed_page_by_page(objects, tmp_path):
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: objects.put(f"many/{n:04d}", b""), range(1005)))
    listed = [info.key for info in objects.list("many/")]
    assert listed == [f"many/{n:04d}" for n in range(1005)]
    later = [info.key for info in objects.list("many/", start_after="many/1001")]
    assert later == ["many/1002", "many/1003", "many/1004"]
    assert objects.delete_prefix("many/") == 1005
    assert not list(objects.list("many/"))

    (tmp_path / "in" / "sub").mkdir(parents=True)
    (tmp_path / "in" / "a.txt").write_bytes(b"a")
    (tmp_path / "in" / "sub" / "b.txt").write_bytes(b"bb")
    assert objects.upload(tmp_path / "in", "folder") == 3
    objects.put("folder-of-another/c.txt", b"c")
    objects.download("folder", tmp_path / "out")
    assert sorted(p.name for p in (tmp_path / "out").rglob("*.txt")) == ["a.txt", "b.txt"]
    for missing in (lambda: objects.get("nope"), lambda: objects.download("nope", tmp_path)):
        with pytest.raises(KeyError, match="nope"):
            missing()
    assert objects.exists("folder/a.txt")
    assert not objects.exists("folder/a")
    assert not objects.exists("folder")


def test_of_many_conditional_writers_one_wins(objects):
    etag = objects.put("pointer", b"0")
    with ThreadPoolExecutor(8) as pool:
        for attempt in (
            lambda n: objects.put("pointer", str(n).encode(), if_match=etag),
            lambda n: objects.put("new", str(n).encode(), if_absent=True),
        ):
            outcomes = list(pool.map(lambda n, attempt=attempt: _won(attempt, n), range(1, 9)))
            assert sum(outcomes) == 1
    winner = objects.get("pointer")
    assert winner != b"0"
    with pytest.raises(ObjectChangedError, match="pointer was changed by another writer"):
        objects.put("pointer", b"late", if_match=etag)
    with pytest.raises(ObjectChangedError):
        objects.put("nothing-here", b"x", if_match=etag)
    assert objects.get("pointer") == winner


def _won(attempt, n: int) -> bool:
    try:
        attempt(n)
    except ObjectChangedError:
        return False
    return True


# --- tables ---------------------------------------------------------------------------------------


def rows(*values: tuple[str, date, int | None]) -> pl.DataFrame:
    return pl.DataFrame(values, schema=["id", "day", "n"], orient="row").with_columns(
        kind=pl.lit("a")
    )


def content(tables) -> list[tuple[str, date, int]]:
    return tables.scan("days").select("id", "day", "n").sort("id").collect().rows()


def test_an_overwrite_of_some_days_leaves_the_others_alone(tables):
    assert not tables.exists("days")
    with pytest.raises(KeyError, match="days does not exist yet"):
        tables.scan("days")
    assert tables.scan_or_empty(DAYS).collect().schema == DAYS.polars_schema()

    first = rows(("a", FIRST, 1), ("b", SECOND, 2), ("c", THIRD, 3))
    tables.overwrite_partitions(DAYS, first, [FIRST, SECOND, THIRD])
    untouched = set(tables._open("days").file_uris())
    version = tables.overwrite_partitions(DAYS, rows(("b2", SECOND, 20)), [SECOND])
    assert content(tables) == [("a", FIRST, 1), ("b2", SECOND, 20), ("c", THIRD, 3)]
    assert len(untouched & set(tables._open("days").file_uris())) == 2  # not even rewritten
    tables.overwrite_partitions(DAYS, rows().cast(DAYS.polars_schema()), [FIRST])
    assert content(tables) == [("b2", SECOND, 20), ("c", THIRD, 3)]
    newest = tables.version("days")
    assert tables.overwrite_partitions(DAYS, rows(("x", FIRST, 1)).clear(), []) == newest
    assert content(tables) == [("b2", SECOND, 20), ("c", THIRD, 3)]

    with pytest.raises(Exception, match="day"):  # a row of another day would be lost, or doubled
        tables.overwrite_partitions(DAYS, rows(("x", FIRST, 1)), [SECOND])
    assert tables.version("days") == newest

    assert tables.scan("days", version=version).collect().height == 3
    tables.restore("days", version)
    assert content(tables) == [("a", FIRST, 1), ("b2", SECOND, 20), ("c", THIRD, 3)]
    assert tables.size("days") > 0


def test_a_snapshot_may_bring_new_columns_also_inside_lists(tables):
    old = pl.DataFrame({"n": [1], "tags": [[{"tag": "a"}]]})
    new = pl.DataFrame({"n": [2], "tags": [[{"tag": "b", "ids": ["e"]}]], "clv": [3.0]})
    tables.overwrite("profiles", old)
    tables.overwrite("profiles", new, predicate="n = 2")
    assert tables.scan("profiles").sort("n").collect().to_dicts() == [
        {"n": 1, "tags": [{"tag": "a", "ids": None}], "clv": None},
        {"n": 2, "tags": [{"tag": "b", "ids": ["e"]}], "clv": 3.0},
    ]


def test_rows_are_deleted_by_value(tables):
    quoted = "it's; --"
    tables.append("days", rows(("a", FIRST, 1), (quoted, SECOND, 2), ("c", THIRD, 3)))
    tables.delete_rows("days", "id", [quoted, "unknown"])
    assert [row[0] for row in content(tables)] == ["a", "c"]
    tables.delete_rows("days", "id", [])
    assert len(content(tables)) == 2
    with pytest.raises(KeyError):
        tables.delete_rows("nothing", "id", ["a"])


def test_writers_of_different_days_do_not_disturb_each_other(tables):
    days = [date(2024, 6, day) for day in range(1, 9)]
    tables.append(DAYS.name, conform(rows(("seed", FIRST, 0)), DAYS), partition_by="day")
    with ThreadPoolExecutor(4) as pool:
        list(
            pool.map(
                lambda day: tables.overwrite_partitions(DAYS, rows((str(day), day, 1)), [day]), days
            )
        )
    assert [row[1] for row in content(tables)] == [*days, FIRST]


def test_a_frame_that_breaks_its_contract_is_refused_by_name():
    good = rows(("a", FIRST, 1))
    fitting = conform(good.select("kind", pl.col("n").cast(float), "day", "id"), DAYS)
    assert fitting.schema == DAYS.polars_schema()
    broken = {
        r"missing columns \['n'\], unknown columns \['m'\]": good.rename({"n": "m"}),
        r"days.id: 1 nulls where none may be": good.with_columns(id=pl.lit(None, pl.String)),
        r"days.kind: a value outside \('a', 'b'\)": good.with_columns(kind=pl.lit("c")),
        r"days: .*'n'": good.with_columns(n=pl.lit("many")),
    }
    for message, frame in broken.items():
        with pytest.raises(SchemaError, match=message):
            conform(frame, DAYS)
    check_key(good, DAYS)
    with pytest.raises(SchemaError, match=r"days: 2 rows repeat the key \('id',\)"):
        check_key(pl.concat([good] * 3), DAYS)


def test_a_table_without_partitions_has_none_to_overwrite(tables):
    with pytest.raises(SchemaError, match="days has no partition column"):
        tables.overwrite_partitions(replace(DAYS, partition_by=None), rows(), [FIRST])


def test_ports_are_picked_while_the_usual_one_is_winding_down() -> None:
    """A connection that our side closed first leaves the port in TIME_WAIT for a minute."""
    from seq_ml.storage import server

    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((server.LOOPBACK, 0))
        listener.listen()
        port = listener.getsockname()[1]
        with socket.create_connection((server.LOOPBACK, port)) as client:
            accepted, _ = listener.accept()
            accepted.close()
            client.recv(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(server, "PREFERRED_S3_PORT", port)
        assert server._pick_ports()["s3"] == port
