"""The generated businesses are what they say: seeded, and with something to find."""

from __future__ import annotations

import polars as pl
import pytest

from tests.journeys.shapes import SHAPES


@pytest.mark.parametrize("name", SHAPES)
def test_the_files_are_the_same_on_every_run(name):
    files, again = SHAPES[name].make(), SHAPES[name].make()
    assert [path for path, rows in files.items() if not rows.equals(again[path])] == []


def test_who_keeps_a_flat_asks_for_a_call_more_often():
    clicks = SHAPES["click-stream with own names"].make()["clicks/2024.jsonl.gz"]
    did = pl.col("event")
    kept, others = (
        clicks.group_by("visit")
        .agg(kept=(did == "keep_flat").any(), asked=(did == "ask_for_call").any())
        .group_by("kept")
        .agg(pl.col("asked").mean())
        .sort("kept", descending=True)["asked"]
    )
    assert kept > 4 * others
