"""Fixtures: a real S3 server for the session, a bucket of its own for each test."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

from seq_ml.storage.objects import ObjectStore, StorageConfig
from seq_ml.storage.server import EmbeddedServer
from seq_ml.storage.tables import TableStore

if TYPE_CHECKING:
    from collections.abc import Iterator

pytest.register_assert_rewrite("tests.journeys.trial")

os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")


WHOLE = ("journeys", "erasure", "clean/expectations")
"""Folders of whole pipelines and of Great Expectations, which `make test-fast` leaves out."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark them as slow, beside the single tests that carry the mark."""
    folders = tuple(str(Path(__file__).parent / name) for name in WHOLE)
    for item in items:
        if str(item.path).startswith(folders):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session", autouse=True)
def _home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A state folder of the session's own: no test touches that of the checkout."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SEQLINE_HOME", str(tmp_path_factory.mktemp("home")))
        yield


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StorageConfig]:
    """A SeaweedFS process for this session (one per test worker)."""
    embedded = EmbeddedServer(tmp_path_factory.mktemp("s3"))
    yield embedded.start("seqline-tests")
    embedded.stop()


@pytest.fixture
def objects(server: StorageConfig) -> Iterator[ObjectStore]:
    """A bucket of this test alone; each one holds several volumes of the server while it lives."""
    store = ObjectStore(replace(server, bucket=f"test-{uuid4().hex[:12]}"))
    store.check(create=True)
    yield store
    store.delete_prefix("")
    store.client.delete_bucket(Bucket=store.bucket)


@pytest.fixture
def tables(objects: ObjectStore) -> TableStore:
    """The Delta tables of this test's bucket."""
    return TableStore(objects)
