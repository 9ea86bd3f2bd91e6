"""The clean stage: every row is decided once, by a named rule, whatever the order of the rows."""

from __future__ import annotations

import unicodedata
from datetime import UTC, date, datetime, timedelta

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seq_ml.business import Business, Cleaning
from seq_ml.clean.clean import Cleaned, clean_events
from seq_ml.clean.rules.catalogue import describe_rule
from seq_ml.clean.rules.row_rules import NORMALISED, normalised
from seq_ml.schema import EVENTS, QUARANTINED
from seq_ml.schema.stages import COUNTS, RULE_COUNTS
from seq_ml.storage.contracts import check_key, conform
from tests.clean.counted import counted, totals
from tests.data import journey
from tests.staged import FIRST_DAY, LANDED, LIMITS, STAGED, clean, rows, staged, staged_rows


def test_sound_events_pass_unchanged():
    events = journey()["clean_events"]
    shuffled = staged(events).sample(fraction=1, shuffle=True, seed=3).lazy()
    cleaned = clean(shuffled, max_quantity=100_000)  # fuel is counted in thousandths
    assert cleaned.events.equals(events.sort("event_date", "event_time", "event_id"))
    assert cleaned.quarantined.is_empty()
    assert totals(cleaned) == (events.height, events.height, 0, 0)
    for frame, table in (
        (cleaned.events, EVENTS),
        (cleaned.quarantined, QUARANTINED),
        (cleaned.counts, COUNTS),
        (cleaned.rules, RULE_COUNTS),
    ):
        assert frame.schema == table.polars_schema()
        check_key(conform(frame, table), table)


def test_cleaning_twice_changes_nothing():
    once = clean(rows({"text": "  a \n b "}, {"event_id": "e1"}, {"quantity": -1.0})).events
    assert once["event_id"].to_list() == ["e1", "e1-1"]
    twice = clean(staged(once))
    assert twice.events.equals(once)
    assert totals(twice) == (2, 2, 0, 0)


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
        ({"event_type": "buy"}, "behaviour", "event_type", "buy"),
        ({"event_time": None}, "required", "event_time", None),
        ({"quantity": -2.5}, "minimum", "quantity", "-2.5"),
        ({"quantity": 1e9}, "maximum", "quantity", "1000000000.0"),
        ({"quantity": 10_001.0}, "absurd", "quantity", "10001.0"),
        ({"unit_price": -0.5}, "minimum", "unit_price", "-0.5"),
        ({"unit_price": 100_000.5}, "absurd", "unit_price", "100000.5"),
        ({"currency": "dollar"}, "currency", "currency", "DOLLAR"),
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
            "no_time",
            "event_time",
            "1970-01-01T00:00:00.000000+00:00",
        ),
        (
            {
                "event_time": datetime(2015, 12, 31, tzinfo=UTC),
                "event_date": date(2015, 12, 31),
            },
            "before_first_day",
            "event_time",
            "2015-12-31T00:00:00.000000+00:00",
        ),
        (
            {"event_date": date(2017, 3, 5)},
            "misfiled",
            "event_time",
            "2017-03-04T12:00:00.000000+00:00",
        ),
        (
            {
                "event_time": None,
                "event_type": "buy",
                "errors": [
                    {"rule": "type:datetime", "column": "event_time", "value": "soon"},
                    {"rule": "type:f64", "column": "quantity", "value": "x"},
                ],
            },
            "type:datetime",
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
            "part": 0,
            "rule": rule,
            "column": column,
            "value": value,
            "event_date": change.get("event_date", date(2017, 3, 4)),
        }
    ]
    assert sorted(cleaned.events["event_id"]) == ["e1", "e3"]
    assert counted(cleaned) == {(rule, column): 1}
    assert describe_rule(rule).outcome == "quarantined"


def test_the_first_rule_in_order_is_named():
    cleaned = clean(rows({"quantity": -1.0, "event_type": "buy", "unit_price": -1.0}))
    assert cleaned.quarantined["rule"].to_list() == ["behaviour"]


def test_limits_themselves_are_sound():
    edge = LANDED + timedelta(hours=1)
    first = datetime(2016, 1, 1, tzinfo=UTC)
    cleaned = clean(
        rows(
            {"event_time": edge, "event_date": edge.date()},
            {"event_time": first, "event_date": first.date()},
            {"quantity": 0.0, "unit_price": 0.0},
            {"quantity": 10_000.0, "unit_price": 100_000.0},
            {"quantity": None, "unit_price": None},
        )
    )
    assert totals(cleaned) == (5, 5, 0, 0)


def test_every_limit_of_the_business_counts():
    frame = rows({"quantity": 30.0, "unit_price": 2.0}, {"landed_at": LANDED + timedelta(days=9)})
    late = (LANDED - datetime(2017, 3, 4, 12, tzinfo=UTC)).days
    assert counted(clean(frame, max_quantity=29)) == {("absurd", "quantity"): 1}
    assert counted(clean(frame, max_unit_price=1)) == {("absurd", "unit_price"): 1}
    assert counted(clean(frame, lateness_days=late)) == {
        ("too_late", "event_time"): 2
    }  # 334.5 days and 343.5
    assert counted(clean(frame, lateness_days=late + 1)) == {("too_late", "event_time"): 1}
    assert counted(clean(frame)) == {}
    soon = rows({"event_time": LANDED + timedelta(minutes=61), "event_date": LANDED.date()})
    assert counted(clean(soon)) == {("future", "event_time"): 1}
    assert counted(clean(soon, future_tolerance_minutes=61)) == {}


def test_currencies_are_brought_to_upper_case_and_matter_only_with_a_price():
    cleaned = clean(
        rows(
            {"currency": " usd", "unit_price": 1.0},
            {"currency": "eur"},
            {"currency": None, "unit_price": 2.0},
            {"currency": "", "unit_price": 3.0},
        )
    )
    assert cleaned.events.sort("event_id")["currency"].to_list() == ["USD", "EUR", "USD", "USD"]
    assert counted(cleaned) == {("filled", "currency"): 2}
    euros = clean_events(
        rows({"currency": None}, {"unit_price": 1.0}),
        first_day=FIRST_DAY,
        business=Business(currency="EUR"),
    )
    assert euros.events["currency"].to_list() == ["EUR", "USD"]  # kept as it was paid
    assert counted(euros) == {("filled", "currency"): 1}


def test_a_missing_quantity_is_one_where_something_changed_hands():
    kinds = ["purchase", "refund", "add_to_cart", "view", "coupon_redeem"]
    cleaned = clean(rows(*({"event_type": kind, "quantity": None} for kind in kinds)))
    found = dict(cleaned.events.select("event_type", "quantity").rows())
    assert found == {
        "purchase": 1.0,
        "refund": 1.0,
        "add_to_cart": 1.0,
        "view": None,
        "coupon_redeem": None,
    }
    assert counted(cleaned) == {("filled", "quantity"): 3}


@pytest.mark.parametrize("rule", ["no_consent", "test_account"])
def test_rows_that_ingest_emptied_are_quarantined_without_a_value(rule):
    nothing = dict.fromkeys(n for n in EVENTS.names if n not in {"event_time", "event_date"})
    cleaned = clean(rows({**nothing, "errors": [{"rule": rule, "column": None, "value": None}]}))
    assert cleaned.quarantined.select("rule", "column", "value").row(0) == (rule, None, None)
    assert counted(cleaned) == {(rule, None): 1}
    assert describe_rule(rule).outcome == "quarantined"


def test_free_text_is_normalised():
    cleaned = clean(rows({"text": " \u00a0cafe\u0301\t\n  bar ", "query": "\u2003"}))
    assert cleaned.events.select(NORMALISED).row(0) == ("caf\u00e9 bar", None)


# Unassigned characters are left out: Python and Polars know different versions of Unicode.
ASSIGNED = st.characters(exclude_categories=["Cs", "Cn"])


@given(st.lists(st.one_of(st.none(), st.text(ASSIGNED, max_size=12)), max_size=20))
def test_normalising_text_is_idempotent(texts):
    frame = pl.DataFrame({"text": texts}, schema={"text": pl.String})
    once = frame.select(normalised(["text"]))
    assert once.select(normalised(["text"])).equals(once)
    for before, after in zip(texts, once["text"], strict=True):
        expected = " ".join(unicodedata.normalize("NFC", before or "").split())
        # str.split also splits at the separators U+001C–U+001F, Unicode's White_Space does not.
        if not set(before or "") & set("\x1c\x1d\x1e\x1f"):
            assert (after or "") == expected


@pytest.mark.parametrize("column", ["source_file", "row_number", "part", "landed_at", "event_date"])
def test_rows_without_filing_are_refused(column):
    with pytest.raises(ValueError, match=column):
        clean(rows({column: None}))


def assert_equal(one: Cleaned, other: Cleaned) -> None:
    assert one.events.equals(other.events)
    assert one.quarantined.equals(other.quarantined)
    assert one.counts.equals(other.counts)
    assert one.rules.equals(other.rules)


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(staged_rows(), st.randoms(use_true_random=False))
def test_any_input_order_gives_the_same_and_no_row_is_lost(frame, random):
    cleaned = clean(frame, **LIMITS)
    order = list(range(frame.height))
    random.shuffle(order)
    assert_equal(clean(frame[order], **LIMITS), cleaned)

    read, kept, duplicate, quarantined = totals(cleaned)
    assert read == frame.height == kept + duplicate + quarantined
    assert (kept, quarantined) == (cleaned.events.height, cleaned.quarantined.height)
    check_key(conform(cleaned.events, EVENTS), EVENTS)
    check_key(conform(cleaned.quarantined, QUARANTINED), QUARANTINED)
    decided = cleaned.rules.filter(pl.col("rule") != "filled")
    assert decided["rows"].sum() == duplicate + quarantined

    once_more = clean(staged(cleaned.events), **LIMITS)
    assert once_more.events.equals(cleaned.events)
    assert once_more.quarantined.is_empty()


@settings(max_examples=40, deadline=None)
@given(staged_rows(), st.randoms(use_true_random=False))
def test_days_cleaned_apart_give_what_they_give_together(frame, random):
    together = clean(frame, **LIMITS)
    days = frame["event_date"].unique().sort().to_list()
    cut = random.randint(0, len(days))
    apart = [
        clean(frame.filter(pl.col("event_date").is_in(some)), **LIMITS)
        for some in (days[:cut], days[cut:])
    ]
    joined = Cleaned(
        *(
            pl.concat(getattr(one, name) for one in apart)
            for name in ("events", "quarantined", "counts", "rules")
        )
    )
    assert_equal(joined, together)


def test_a_business_has_behaviours_of_its_own():
    events = rows({"event_type": "play"}, {"event_type": "pley"}, {"event_type": "rate"})
    shop = Business(behaviours={"play": "browse"})
    cleaned = clean_events(events, first_day=FIRST_DAY, business=shop)
    assert cleaned.events["event_type"].to_list() == ["play", "rate"]
    rejected = cleaned.quarantined.select("rule", "column", "value").rows()
    assert rejected == [("behaviour", "event_type", "pley")]


def test_the_quantity_of_a_conversion_is_one_whatever_it_is_called():
    events = rows(
        *({"event_type": kind, "quantity": None} for kind in ("play", "purchase", "add_to_cart"))
    )
    shop = Business(conversion="play")
    cleaned = clean_events(events, first_day=FIRST_DAY, business=shop)
    assert dict(cleaned.events.select("event_type", "quantity").rows()) == {
        "play": 1.0,
        "purchase": None,
        "add_to_cart": 1.0,
    }


def test_bots_are_looked_for_by_role():
    at = datetime(2017, 3, 4, 12, tzinfo=UTC)
    kinds = {"peek": "browse", "mail_opened": "response", "box": "exposure"}
    events = rows(
        *(
            {"event_type": kind, "user_id": kind, "event_time": at + timedelta(milliseconds=n)}
            for kind in (*kinds, "coupon_redeem")
            for n in range(6)
        )
    )
    shop = Business(behaviours=kinds, cleaning=Cleaning(bot_events_per_minute=5))
    cleaned = clean_events(events, first_day=FIRST_DAY, business=shop)
    assert set(cleaned.events["event_type"]) == {"box", "coupon_redeem"}
    assert cleaned.quarantined["rule"].value_counts().rows() == [("bot_rate", 12)]
