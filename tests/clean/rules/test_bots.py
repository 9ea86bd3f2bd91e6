"""Bots: fast or even browsing goes, purchases stay."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import polars as pl

from tests.clean.counted import clicks, counted, totals
from tests.staged import clean, rows


def burst(count: int, event_type: str, *, minute: int = 0) -> list[dict[str, object]]:
    """Events of one kind within one minute."""
    start = datetime(2017, 3, 4, 12, minute, tzinfo=UTC)
    return [
        {
            "event_id": f"{event_type}{minute}-{n}",
            "event_type": event_type,
            "event_time": start + timedelta(milliseconds=n),
            "row_number": 10_000 * (minute + 1) + n,
        }
        for n in range(count)
    ]


def test_bots_lose_the_browsing_of_their_fast_minutes_only():
    frame = rows(
        *burst(121, "view"),
        *burst(120, "click", minute=7),
        *({**change, "row_number": 90_000 + n} for n, change in enumerate(burst(300, "purchase"))),
    )
    cleaned = clean(frame)
    assert cleaned.quarantined["rule"].unique().to_list() == ["bot_rate"]
    assert cleaned.quarantined["value"].unique().to_list() == ["121 events in a minute"]
    assert totals(cleaned) == (541, 420, 0, 121)
    assert set(cleaned.events["event_type"]) == {"click", "purchase"}
    assert totals(clean(frame, bot_events_per_minute=121, bot_regular_events=999)) == (
        541,
        541,
        0,
        0,
    )


def test_a_file_sent_twice_does_not_make_a_bot():
    views = rows(*burst(100, "view"))
    twice = pl.concat([views, views.with_columns(source_file=pl.lit("drops/b.csv"))])
    assert totals(clean(twice)) == (200, 100, 100, 0)


def paced(gaps: list[float], **change: object) -> pl.DataFrame:
    """Views of one user with these gaps between them, in seconds."""
    seconds = [0.0]
    for gap in gaps:
        seconds.append(seconds[-1] + gap)
    return rows(*clicks(*seconds, **change))


def test_even_browsing_is_a_scraper():
    even = [60.0 + (-1) ** n for n in range(19)]
    cleaned = clean(paced(even), bot_regular_events=20)
    assert totals(cleaned) == (20, 0, 0, 20)
    assert counted(cleaned) == {("bot_regular", "event_time"): 20}
    assert cleaned.quarantined["value"].unique().to_list() == [
        "20 events of the day, one every 60.053 s"
    ]
    assert totals(clean(paced(even[:-1]), bot_regular_events=20)) == (19, 19, 0, 0)
    human = [60.0 * (1 + n % 3) for n in range(19)]
    assert totals(clean(paced(human), bot_regular_events=20)) == (20, 20, 0, 0)
    # a day of a source whose clock shows days only has no pace
    assert totals(clean(paced([0.0] * 19), bot_regular_events=20)) == (20, 20, 0, 0)
    shopping = paced(even, event_type="purchase")
    assert totals(clean(shopping, bot_regular_events=20)) == (20, 20, 0, 0)


def test_a_scraper_keeps_its_other_days_and_its_purchases():
    even = paced([60.0] * 19)
    bought = rows({"event_id": "p", "row_number": 99})
    tomorrow = even[:5].with_columns(
        pl.col("event_time").dt.offset_by("1d"), pl.col("event_date").dt.offset_by("1d")
    )
    cleaned = clean(pl.concat([even, bought, tomorrow]), bot_regular_events=20)
    assert totals(cleaned) == (26, 6, 0, 20)
