"""The day that a night of the benchmark lands."""

from __future__ import annotations

import io
from datetime import date, datetime

import polars as pl

from benchmarks.night import DAYS, FILE, TIME, land_day


def test_each_night_lands_the_newest_day_again_a_day_later(objects):
    rows = pl.DataFrame({TIME: [datetime(2017, 12, 31, 9)], "household_id": [1]})
    file = io.BytesIO()
    rows.write_parquet(file)
    objects.put(f"{DAYS}2017-12-31/{FILE}", file.getvalue())
    objects.put(f"{DAYS}2017-12-31/mailings.csv", b"")
    assert [land_day(objects), land_day(objects)] == [date(2018, 1, 1), date(2018, 1, 2)]
    landed = pl.read_parquet(objects.get(f"{DAYS}2018-01-02/{FILE}"))
    assert landed.rows() == [(datetime(2018, 1, 2, 9), 1)]
    assert objects.get(f"{DAYS}2018-01-02/_SUCCESS") == b""
