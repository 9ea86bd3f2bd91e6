"""Duplicates: what is re-sent goes, genuine repeats stay, double clicks are one."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import polars as pl
import pytest

from tests.clean.counted import clicks, counted, totals
from tests.staged import LANDED, clean, rows


def test_re_sent_events_are_dropped_and_the_earliest_arrival_is_kept():
    early = LANDED - timedelta(days=1)
    frame = rows(
        {"event_id": "s:x", "item_id": "late"},
        {"event_id": "s:x", "item_id": "first", "landed_at": early, "source_file": "drops/z.csv"},
        {"event_id": "s:x", "item_id": "later row of the file"},
        {"event_id": "s:y"},
    )
    cleaned = clean(frame)
    kept = dict(cleaned.events.select("event_id", "item_id").rows())
    assert kept == {"s:x": "first", "s:y": "i"}
    assert cleaned.counts.drop("event_date").rows() == [
        ("drops/a.csv", 3, 1, 2, 0),
        ("drops/z.csv", 1, 1, 0, 0),
    ]
    assert counted(cleaned) == {("duplicate", "event_id"): 2}


def test_equal_rows_of_one_file_are_repeats_and_the_file_sent_again_is_dropped():
    first = rows(*({"event_id": "ab"} for _ in range(3)))
    two = {"event_id": "cd", "row_number": 9}
    parts = rows({**two, "part": 1}, two)
    again = first[:2].with_columns(source_file=pl.lit("drops/b.csv"))
    longer = pl.concat([first, first[:1].with_columns(row_number=pl.lit(4, pl.Int64))])
    cleaned = clean(pl.concat([first, parts, again]))
    assert cleaned.events["event_id"].to_list() == ["ab", "ab-1", "ab-2", "cd", "cd-1"]
    assert totals(cleaned) == (7, 5, 2, 0)
    longer = clean(pl.concat([again, longer.with_columns(source_file=pl.lit("drops/c.csv"))]))
    assert longer.events["event_id"].to_list() == ["ab", "ab-1", "ab-2", "ab-3"]
    assert totals(longer) == (6, 4, 2, 0)


def test_an_id_counts_within_its_day():
    tomorrow = {"event_time": datetime(2017, 3, 5, 12, tzinfo=UTC), "event_date": date(2017, 3, 5)}
    frame = rows({"event_id": "s:1"}, {"event_id": "s:1", **tomorrow})
    assert clean(frame).events["event_id"].to_list() == ["s:1", "s:1"]


def test_a_broken_row_does_not_shadow_its_correction():
    frame = rows({"event_id": "s:x", "quantity": -1.0}, {"event_id": "s:x", "quantity": 2.0})
    cleaned = clean(frame)
    assert cleaned.events["quantity"].to_list() == [2.0]
    assert totals(cleaned) == (2, 1, 0, 1)
    same = [{"rule": "type:f64", "column": "rating", "value": "x"}]
    derived = clean(rows({"event_id": "ab", "errors": same}, {"event_id": "ab"}))
    assert derived.events["event_id"].to_list() == ["ab"]


def test_clicks_closer_than_the_window_to_the_last_kept_one_are_one():
    frame = rows(*clicks(0, 0.4, 0.8, 1.2, 1.2, 5))
    assert totals(clean(frame)) == (6, 6, 0, 0)
    cleaned = clean(frame, duplicate_window_seconds=1)
    assert cleaned.events["event_id"].to_list() == ["e1", "e4", "e6"]
    assert counted(cleaned) == {("repeated_click", "event_time"): 3}
    assert totals(cleaned) == (6, 3, 3, 0)
    # the distance itself is no repetition
    assert totals(clean(rows(*clicks(0, 1)), duplicate_window_seconds=1)) == (2, 2, 0, 0)


@pytest.mark.parametrize(
    "change",
    [
        {"user_id": "other"},
        {"item_id": "other"},
        {"item_id": None},
        {"event_type": "search"},
        {"session_id": "s"},
        {"query": "tea"},
    ],
)
def test_different_clicks_are_two(change):
    frame = rows(*clicks(0), *clicks(0.1, **change))
    assert totals(clean(frame, duplicate_window_seconds=60)) == (2, 2, 0, 0)


def test_clicks_are_compared_within_a_day_and_purchases_never():
    midnight = datetime(2017, 3, 5, tzinfo=UTC)
    around = [
        {"event_time": midnight + timedelta(seconds=s), "event_type": "view"} for s in (-0.5, 0.5)
    ]
    frame = rows(*({**c, "event_date": c["event_time"].date()} for c in around))
    assert totals(clean(frame, duplicate_window_seconds=60)) == (2, 2, 0, 0)
    bought = rows(*clicks(0, 0.1, event_type="purchase"))
    assert totals(clean(bought, duplicate_window_seconds=60)) == (2, 2, 0, 0)
