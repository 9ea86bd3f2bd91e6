"""The clean stage: every row is decided once, by a named rule, whatever the order of the rows."""

from __future__ import annotations

import unicodedata
from datetime import UTC, date, datetime, timedelta

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seq_ml.clean.clean import COUNTS, Cleaned, clean_events
from seq_ml.clean.rules import NORMALISED, first_failing, normalised, row_rules
from seq_ml.schema import EVENTS, QUARANTINED
from seq_ml.storage.tables import check_key, conform
from tests.data import journey

FIRST_DAY = date(2016, 1, 1)
LANDED = datetime(2018, 2, 1, tzinfo=UTC)
ERRORS = pl.List(pl.Struct({"rule": pl.String, "column": pl.String, "value": pl.String}))
STAGED = pl.Schema(
    {
        **EVENTS.polars_schema(),
        "source_file": pl.String,
        "row_number": pl.Int64,
        "landed_at": pl.Datetime("us", "UTC"),
        "errors": ERRORS,
    }
)


def staged(events: pl.DataFrame, file: str = "drops/a.csv") -> pl.DataFrame:
    """Canonical events as ingest would have staged them from one file."""
    return events.with_columns(
        source_file=pl.lit(file),
        row_number=pl.int_range(1, pl.len() + 1, dtype=pl.Int64),
        landed_at=pl.lit(LANDED, dtype=pl.Datetime("us", "UTC")),
        errors=pl.lit([], dtype=ERRORS),
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
        "source_file": "drops/a.csv",
        "landed_at": LANDED,
        "errors": [],
    }
    records = [
        dict.fromkeys(STAGED) | sound | {"event_id": f"e{n}", "row_number": n} | change
        for n, change in enumerate(changes, 1)
    ]
    return pl.DataFrame(records, schema=STAGED)


def clean(frame: pl.DataFrame | pl.LazyFrame, **options: object) -> Cleaned:
    return clean_events(frame, **{"first_day": FIRST_DAY, **options})


def totals(cleaned: Cleaned) -> tuple[int, ...]:
    """Rows read, kept, duplicate, quarantined."""
    return cleaned.counts.select(pl.col("^rows_.*$").sum()).row(0)


def test_sound_events_pass_unchanged():
    events = journey()["clean_events"]
    cleaned = clean(staged(events).sample(fraction=1, shuffle=True, seed=3).lazy())
    assert cleaned.events.equals(events.sort("event_date", "event_time", "event_id"))
    assert cleaned.quarantined.is_empty()
    assert totals(cleaned) == (events.height, events.height, 0, 0)
    for frame, table in (
        (cleaned.events, EVENTS),
        (cleaned.quarantined, QUARANTINED),
        (cleaned.counts, COUNTS),
    ):
        assert frame.schema == table.polars_schema()
        check_key(conform(frame, table), table)


def test_cleaning_twice_changes_nothing():
    once = clean(rows({"text": "  a \n b "}, {"event_id": "e1"}, {"quantity": -1.0})).events
    twice = clean(staged(once))
    assert twice.events.equals(once)
    assert totals(twice) == (1, 1, 0, 0)


def test_no_rows():
    cleaned = clean(pl.DataFrame(schema=STAGED))
    assert cleaned.events.is_empty()
    assert cleaned.counts.is_empty()
    assert cleaned.events.schema == EVENTS.polars_schema()


@pytest.mark.parametrize(
    ("change", "rule", "column", "value"),
    [
        ({"event_id": None}, "required", "event_id", None),
        ({"user_id": ""}, "required", "user_id", ""),
        ({"event_type": "buy"}, "allowed", "event_type", "buy"),
        ({"event_time": None}, "required", "event_time", None),
        ({"quantity": -2.5}, "minimum", "quantity", "-2.5"),
        ({"quantity": 1e9}, "maximum", "quantity", "1000000000.0"),
        ({"quantity": float("nan")}, "finite", "quantity", "NaN"),
        ({"discount": float("inf")}, "finite", "discount", "inf"),
        (
            {
                "event_time": LANDED + timedelta(hours=1, seconds=1),
                "event_date": date(2018, 2, 1),
            },
            "future",
            "event_time",
            "2018-02-01T01:00:01.000000+00:00",
        ),
        (
            {
                "event_time": datetime(1970, 1, 1, tzinfo=UTC),
                "event_date": date(1970, 1, 1),
            },
            "before_first_day",
            "event_time",
            "1970-01-01T00:00:00.000000+00:00",
        ),
        (
            {
                "event_time": None,
                "event_type": "buy",
                "errors": [
                    {"rule": "cast", "column": "event_time", "value": "soon"},
                    {"rule": "cast", "column": "quantity", "value": "x"},
                ],
            },
            "cast",
            "event_time",
            "soon",
        ),
    ],
)
def test_a_broken_row_is_quarantined_with_rule_column_and_value(change, rule, column, value):
    cleaned = clean(rows({}, change, {}))
    assert cleaned.quarantined.to_dicts() == [
        {
            "table": "events",
            "source_file": "drops/a.csv",
            "row_number": 2,
            "rule": rule,
            "column": column,
            "value": value,
            "event_date": change.get("event_date", date(2017, 3, 4)),
        }
    ]
    assert sorted(cleaned.events["event_id"]) == ["e1", "e3"]


def test_the_first_rule_in_order_is_named():
    cleaned = clean(rows({"quantity": -1.0, "event_type": "buy", "unit_price": -1.0}))
    assert cleaned.quarantined["rule"].to_list() == ["allowed"]


def test_limits_themselves_are_sound():
    edge = LANDED + timedelta(hours=1)
    first = datetime(2016, 1, 1, tzinfo=UTC)
    cleaned = clean(
        rows(
            {"event_time": edge, "event_date": edge.date()},
            {"event_time": first, "event_date": first.date()},
            {"quantity": 0.0, "unit_price": 1_000_000.0},
            {"quantity": None, "unit_price": None},
        )
    )
    assert totals(cleaned) == (4, 4, 0, 0)


def test_re_sent_events_are_dropped_and_the_earliest_arrival_is_kept():
    early = LANDED - timedelta(days=1)
    frame = rows(
        {"event_id": "x", "item_id": "late"},
        {"event_id": "x", "item_id": "first", "landed_at": early, "source_file": "drops/z.csv"},
        {"event_id": "x", "item_id": "later row of the file"},
        {"event_id": "y"},
    )
    cleaned = clean(frame)
    kept = dict(cleaned.events.select("event_id", "item_id").rows())
    assert kept == {"x": "first", "y": "i"}
    assert cleaned.counts.drop("event_date").rows() == [
        ("drops/a.csv", 3, 1, 2, 0),
        ("drops/z.csv", 1, 1, 0, 0),
    ]


def test_a_broken_row_does_not_shadow_its_correction():
    cleaned = clean(rows({"event_id": "x", "quantity": -1.0}, {"event_id": "x", "quantity": 2.0}))
    assert cleaned.events["quantity"].to_list() == [2.0]
    assert totals(cleaned) == (2, 1, 0, 1)


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
        *burst(120, "click", minute=1),
        *({**change, "row_number": 90_000 + n} for n, change in enumerate(burst(300, "purchase"))),
    )
    cleaned = clean(frame)
    assert cleaned.quarantined["rule"].unique().to_list() == ["bot_rate"]
    assert cleaned.quarantined["value"].unique().to_list() == ["121 events in a minute"]
    assert totals(cleaned) == (541, 420, 0, 121)
    assert set(cleaned.events["event_type"]) == {"click", "purchase"}
    assert totals(clean(frame, bot_events_per_minute=121)) == (541, 541, 0, 0)


def test_a_file_sent_twice_does_not_make_a_bot():
    views = rows(*burst(100, "view"))
    twice = pl.concat([views, views.with_columns(source_file=pl.lit("drops/b.csv"))])
    assert totals(clean(twice)) == (200, 100, 100, 0)


def test_free_text_is_normalised():
    cleaned = clean(rows({"text": " \u00a0cafe\u0301\t\n  bar ", "query": "\u2003"}))
    assert cleaned.events.select(NORMALISED).row(0) == ("caf\u00e9 bar", None)


# Unassigned characters are left out: Python and Polars know different versions of Unicode.
ASSIGNED = st.characters(exclude_categories=["Cs", "Cn"])


@given(st.lists(st.one_of(st.none(), st.text(ASSIGNED, max_size=12)), max_size=20))
def test_normalising_text_is_idempotent(texts):
    frame = pl.DataFrame({"text": texts}, schema={"text": pl.String})
    once = frame.select(normalised(("text",)))
    assert once.select(normalised(("text",))).equals(once)
    for before, after in zip(texts, once["text"], strict=True):
        expected = " ".join(unicodedata.normalize("NFC", before or "").split())
        # str.split also splits at the separators U+001C–U+001F, Unicode's White_Space does not.
        if not set(before or "") & set("\x1c\x1d\x1e\x1f"):
            assert (after or "") == expected


@pytest.mark.parametrize("column", ["source_file", "row_number", "landed_at", "event_date"])
def test_rows_without_filing_are_refused(column):
    with pytest.raises(ValueError, match=column):
        clean(rows({column: None}))


def test_rows_filed_under_another_day_are_refused():
    with pytest.raises(ValueError, match=r"drops/a\.csv row 2"):
        clean(rows({}, {"event_date": date(2017, 3, 5)}))


def test_every_rule_of_the_contract_is_there():
    rules = row_rules(first_day=FIRST_DAY, future_tolerance=timedelta(hours=1))
    named = {(rule.name, rule.column) for rule in rules}
    assert len(named) == len(rules)
    for column in EVENTS.columns:
        assert (("required", column.name) in named) == (not column.nullable)
        assert (("allowed", column.name) in named) == (column.allowed is not None)
        assert (("minimum", column.name) in named) == (column.minimum is not None)
        assert (("maximum", column.name) in named) == (column.maximum is not None)
    assert all(rule.meaning.endswith(".") for rule in rules)
    assert rows({}).select(first_failing(rules)).to_series().to_list() == [None]


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
                "event_id": draw(st.sampled_from(["a", "b", "c", f"own{n}", None])),
                "user_id": draw(st.sampled_from(["u", "v", None])),
                "event_type": draw(st.sampled_from(["view", "search", "purchase", "buy"])),
                "quantity": draw(st.sampled_from([1.0, -1.0, None, float("nan")])),
                "text": draw(st.one_of(st.none(), st.text(max_size=5))),
                "event_time": time,
                "event_date": time.date() if time else LANDED.date(),
                "source_file": draw(st.sampled_from(["drops/a.csv", "drops/b.csv"])),
                "landed_at": LANDED - timedelta(days=draw(st.integers(0, 1))),
                "errors": draw(
                    st.sampled_from([[], [{"rule": "cast", "column": "rating", "value": "x"}]])
                ),
            }
        )
    return rows(*changes)


@settings(max_examples=60, deadline=None)
@given(staged_rows(), st.randoms(use_true_random=False))
def test_any_input_order_gives_the_same_and_no_row_is_lost(frame, random):
    cleaned = clean(frame, bot_events_per_minute=3)
    order = list(range(frame.height))
    random.shuffle(order)
    again = clean(frame[order], bot_events_per_minute=3)
    assert again.events.equals(cleaned.events)
    assert again.quarantined.equals(cleaned.quarantined)
    assert again.counts.equals(cleaned.counts)

    read, kept, duplicate, quarantined = totals(cleaned)
    assert read == frame.height == kept + duplicate + quarantined
    assert (kept, quarantined) == (cleaned.events.height, cleaned.quarantined.height)
    assert cleaned.events["event_id"].is_unique().all()
    check_key(conform(cleaned.quarantined, QUARANTINED), QUARANTINED)

    once_more = clean(staged(cleaned.events), bot_events_per_minute=3)
    assert once_more.events.equals(cleaned.events)
    assert once_more.quarantined.is_empty()
