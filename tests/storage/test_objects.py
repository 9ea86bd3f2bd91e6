"""Storage: clear refusals, secrets kept, a server that survives, conditional and partial writes."""

from __future__ import annotations

import os
import socket
import traceback
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from seq_ml.settings import load_settings
from seq_ml.storage import connect
from seq_ml.storage.objects import ObjectChangedError, ObjectStore, StorageConfig, StorageError
from seq_ml.storage.server import LOOPBACK
from tests.storage.refusals import refusal


@pytest.fixture(autouse=True)
def own_machine(monkeypatch, tmp_path):
    """A machine without any storage or settings of its own."""
    for name in list(os.environ):
        if name.startswith(("AWS_", "SEQLINE_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("SEQLINE_HOME", str(tmp_path / "home"))


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
