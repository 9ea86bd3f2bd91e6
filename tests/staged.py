"""Staged events by hand and at random: what the tests of the clean stage start from."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING

import polars as pl
from hypothesis import strategies as st

from seq_ml.business import Business, Cleaning
from seq_ml.clean.clean import clean_events
from seq_ml.schema import EVENTS
from seq_ml.schema.staged import STAGED_EXTRA

if TYPE_CHECKING:
    from seq_ml.clean.clean import Cleaned

FIRST_DAY = date(2016, 1, 1)
LANDED = datetime(2018, 2, 1, tzinfo=UTC)
STAGED = pl.Schema({**EVENTS.polars_schema(), **STAGED_EXTRA})


def staged(events: pl.DataFrame, file: str = "drops/a.csv") -> pl.DataFrame:
    """Canonical events as ingest would have staged them from one file."""
    return events.with_columns(
        source_file=pl.lit(file),
        row_number=pl.int_range(1, pl.len() + 1, dtype=pl.Int64),
        landed_at=pl.lit(LANDED, dtype=pl.Datetime("us", "UTC")),
        part=pl.lit(0, dtype=pl.Int32),
        errors=pl.lit([], dtype=STAGED_EXTRA["errors"]),
    )


def rows(*changes: dict[str, object]) -> pl.DataFrame:
    """Sound staged events of one file, each with some values changed."""
    sound = {
        "user_id": "u",
        "event_type": "purchase",
        "item_id": "i",
        "event_time": datetime(2017, 3, 4, 12, tzinfo=UTC),
        "event_date": date(2017, 3, 4),
        "quantity": 1.0,
        "currency": "USD",
        "source_file": "drops/a.csv",
        "part": 0,
        "landed_at": LANDED,
        "errors": [],
    }
    records = [
        dict.fromkeys(STAGED) | sound | {"event_id": f"e{n}", "row_number": n} | change
        for n, change in enumerate(changes, 1)
    ]
    return pl.DataFrame(records, schema=STAGED)


def clean(frame: pl.DataFrame | pl.LazyFrame, **cleaning: object) -> Cleaned:
    business = Business(cleaning=Cleaning(**cleaning))
    return clean_events(frame, first_day=FIRST_DAY, business=business)


LIMITS = {"bot_events_per_minute": 3, "bot_regular_events": 10, "duplicate_window_seconds": 5}


@st.composite
def staged_rows(draw):
    """Days with duplicates, broken rows and bots, in any mix."""
    count = draw(st.integers(0, 40))
    changes = []
    for n in range(count):
        time = draw(
            st.one_of(
                st.none(),
                st.datetimes(datetime(2015, 12, 31), datetime(2018, 2, 2), timezones=st.just(UTC)),
                st.integers(0, 90).map(
                    lambda s: datetime(2017, 3, 4, 12, tzinfo=UTC) + timedelta(seconds=s)
                ),
            )
        )
        changes.append(
            {
                "event_id": draw(st.sampled_from(["a", "b", "s:a", "s:b", f"own{n}", None])),
                "user_id": draw(st.sampled_from(["u", "v", None])),
                "event_type": draw(st.sampled_from(["view", "search", "purchase", "buy"])),
                "quantity": draw(st.sampled_from([1.0, -1.0, None, float("nan")])),
                "currency": draw(st.sampled_from(["USD", "usd", None])),
                "text": draw(st.one_of(st.none(), st.text(max_size=5))),
                "event_time": time,
                "event_date": time.date() if time else LANDED.date(),
                "source_file": draw(st.sampled_from(["drops/a.csv", "drops/b.csv"])),
                "landed_at": LANDED - timedelta(days=draw(st.integers(0, 1))),
                "errors": draw(
                    st.sampled_from([[], [{"rule": "type:f64", "column": "rating", "value": "x"}]])
                ),
            }
        )
    return rows(*changes)
