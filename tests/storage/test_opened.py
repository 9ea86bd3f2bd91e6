"""Tables that stay open: every reader sees the newest commit, and none that came after its scan."""

from __future__ import annotations

import polars as pl
import pytest

from seq_ml.storage import opened
from seq_ml.storage.objects import ObjectStore
from seq_ml.storage.tables import TableStore

ONE, TWO = pl.DataFrame({"n": [1]}), pl.DataFrame({"n": [2]})


def numbers(tables: TableStore) -> list[int]:
    return sorted(tables.scan("t").collect()["n"])


@pytest.fixture
def elsewhere(objects):
    """The same bucket, written to by somebody who shares no open table: a client of delta-rs."""

    def append(frame: pl.DataFrame) -> None:
        uri = TableStore(objects).uri("t")
        frame.write_delta(uri, mode="append", storage_options=objects.options)

    return append


def test_a_commit_of_anybody_is_seen(objects, tables, elsewhere):
    assert not tables.exists("t")
    elsewhere(ONE)
    assert tables.exists("t")
    assert numbers(tables) == [1]
    elsewhere(TWO)
    assert numbers(tables) == [1, 2]
    assert numbers(TableStore(ObjectStore(objects.config))) == [1, 2]
    assert tables.version("t") == 1
    assert tables.files("t").height == 2
    tables.restore("t", 0)
    assert numbers(tables) == [1]
    assert tables.version("t") == 2


def test_a_scan_stays_at_the_state_that_it_began_with(tables, elsewhere):
    elsewhere(ONE)
    scan = tables.scan("t")
    elsewhere(TWO)
    assert numbers(tables) == [1, 2]
    assert scan.collect()["n"].to_list() == [1]
    assert tables.scan("t", version=0).collect()["n"].to_list() == [1]


def test_a_table_that_was_removed_and_made_anew_is_another(objects, tables, elsewhere):
    elsewhere(ONE)
    assert numbers(tables) == [1]
    objects.delete_prefix(f"{tables.prefix}/t/")
    assert not tables.exists("t")
    with pytest.raises(KeyError, match="does not exist yet"):
        tables.scan("t")
    elsewhere(TWO)
    assert numbers(tables) == [2]


def test_nothing_is_opened_again_before_a_commit(tables, elsewhere, monkeypatch):
    elsewhere(ONE)
    opens = []
    original = opened.open_table
    monkeypatch.setattr(opened, "open_table", lambda *of: opens.append(of) or original(*of))
    for _ in range(3):
        assert tables.exists("t")
        assert numbers(tables) == [1]
        assert tables.version("t") == 0
    elsewhere(TWO)
    assert numbers(tables) == [1, 2]
    assert numbers(tables) == [1, 2]
    assert len(opens) == 2
    monkeypatch.setattr(opened, "KEPT", 1)
    tables.append("other", ONE)
    assert tables.version("other") == 0
    assert numbers(tables) == [1, 2]
    assert len(opens) == 4
