"""Ingest under repetition: any order, any corrections and any crash lead to the same tables."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from seq_ml.privacy.pseudonyms import Pseudonyms
from tests.shop import SETTINGS, PowerCutError, Shop, cut_power, event, numbers

if TYPE_CHECKING:
    import polars as pl

UNSTABLE = ("landed_at", "recorded_at", "cleaned_at")
few = settings(
    max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture
def shop(objects) -> Shop:
    return Shop(objects)


# --- properties -----------------------------------------------------------------------------------

lines = st.builds(
    event,
    st.integers(1, 4),
    st.integers(0, 23),
    st.sampled_from(["anna", "bob"]),
    st.sampled_from(["tea", ""]),
)
bad_lines = st.sampled_from(["anna,buy,tea,never,1,1\n", ",buy,tea,2024-06-01,1,1\n"])
content = st.lists(st.one_of(lines, lines, bad_lines), max_size=5).map(tuple)
files = st.lists(content, min_size=1, max_size=4)


@pytest.mark.slow
@few
@given(files=files, order=st.randoms(use_true_random=False), split=st.integers(1, 4))
def test_order_and_batches_do_not_matter_and_nothing_is_lost(shop, files, order, split):
    """The same files, all at once or a few at a time in any order, give the same events."""
    paths = {f"events/{n}.csv": content for n, content in enumerate(files)}
    shuffled = list(paths.items())
    order.shuffle(shuffled)
    batches = [shuffled[start : start + split] for start in range(0, len(shuffled), split)]
    results = []
    for parts in ([list(paths.items())], batches):
        shop.reset()
        for part in parts:
            for path, content in part:
                shop.drop(path, *content)
            shop.ingest()
            shop.clean()
        results.append(shop.cleaned())
        drops = shop.drops()
        read = {path: row["rows_read"] for path, row in drops.items()}
        assert read == {path: len(content) for path, content in paths.items()}
        for row in drops.values():
            status, read, kept, duplicate, quarantined = numbers(row)
            assert status == "clean"
            assert read == kept + duplicate + quarantined
        assert sum(row["rows_kept"] for row in drops.values()) == results[-1].height
        assert shop.ledger.unclean_partitions("events") == []
    assert results[0].equals(results[1])
    assert results[0]["event_id"].is_unique().all()


@pytest.mark.slow
@few
@given(files=files, corrections=st.lists(st.tuples(st.integers(0, 3), content), max_size=2))
def test_corrections_leave_what_the_newest_versions_say(shop, files, corrections):
    """After any corrections, the days that were re-opened hold just the newest versions."""
    shop.reset()
    newest = {f"events/{n}.csv": content for n, content in enumerate(files)}
    for path, lines in newest.items():
        shop.drop(path, *lines)
    shop.ingest()
    shop.clean()
    before = _by_day(shop.cleaned())
    opened: set[str] = set()
    for number, lines in corrections:
        path = f"events/{number % len(files)}.csv"
        newest[path] = lines
        shop.drop(path, *lines)
        shop.ingest()
        opened |= set(shop.ledger.unclean_partitions("events"))
        shop.clean()
    corrected = shop.cleaned()
    shop.reset()
    for path, lines in newest.items():
        shop.drop(path, *lines)
    shop.ingest()
    assert corrected.equals(shop.cleaned())
    after = _by_day(corrected)
    assert {day for day in {*before, *after} if before.get(day) != after.get(day)} <= opened


def _by_day(events: pl.DataFrame) -> dict[str, list[str]]:
    return {
        str(day): sorted(ids) for day, ids in events.group_by("event_date").agg("event_id").rows()
    }


# --- crashes --------------------------------------------------------------------------------------


def load_before_the_cut(shop: Shop) -> None:
    """History, a correction that moves rows to another day, and new files."""
    shop.reset()
    shop.drop("events/a.csv", event(1), event(2))
    shop.drop("items/a.csv", "tea,Tea,3\n", header="article,name,price\n")
    shop.ingest()
    shop.drop("events/a.csv", event(2), event(4, customer="new"))
    shop.drop("events/b.csv", event(2), event(5, customer="carl"))
    shop.drop("items/a.csv", "tea,Green tea,4\n", header="article,name,price\n")


def state(shop: Shop) -> dict[str, list]:
    """Everything that ingest keeps, without the times of its own work."""
    frames = {
        "events": shop.staged(),
        "items": shop.staged("items"),
        "ledger": shop.ledger.current(),
        "users": Pseudonyms(shop.objects, SETTINGS).source_ids(),
    }
    kept = {
        name: sorted(map(str, frame.drop(UNSTABLE, strict=False).to_dicts()))
        for name, frame in frames.items()
    }
    return {**kept, "open": shop.ledger.unclean_partitions("events")}


@pytest.mark.slow
def test_an_ingest_that_was_cut_off_anywhere_ends_like_an_undisturbed_one(shop, monkeypatch):
    load_before_the_cut(shop)
    shop.ingest()
    expected = state(shop)
    assert expected["open"] == ["2024-06-01", "2024-06-02", "2024-06-04", "2024-06-05"]
    step, finished = 0, False
    while not finished:
        load_before_the_cut(shop)
        with monkeypatch.context() as patch:
            cut_power(patch, step)
            try:
                shop.ingest()
                finished = True
            except PowerCutError:
                step += 1
        shop.ingest()
        assert state(shop) == expected, f"after a cut before write {step}"
    assert step == 7  # started, users, 2 × (delete, append), ledger


def test_two_ingests_at_once_take_each_drop_in_once(shop):
    for number in range(6):
        shop.drop(f"events/{number}.csv", event(1 + number % 3), event(4))
    with ThreadPoolExecutor(2) as pool:
        results = [done.result() for done in [pool.submit(shop.ingest) for _ in range(2)]]
    assert sorted(result.files for result in results) == [0, 6]
    assert shop.staged().height == 12
    assert shop.staged().select("source_file", "row_number").is_unique().all()
    assert set(shop.ledger.current()["status"]) == {"ingested"}
