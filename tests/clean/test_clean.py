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
from seq_ml.clean.rules.catalogue import CATALOGUE, describe_rule, rules_markdown
from seq_ml.clean.rules.row_rules import NORMALISED, first_failing, normalised, prepared, row_rules
from seq_ml.schema import EVENTS, QUARANTINED
from seq_ml.schema.stages import COUNTS, RULE_COUNTS
from seq_ml.storage.tables import check_key, conform
from tests import ROOT
from tests.data import journey
from tests.staged import FIRST_DAY, LANDED, LIMITS, STAGED, clean, rows, staged, staged_rows


def counted(cleaned: Cleaned) -> dict[tuple[str, str], int]:
    """How often each rule decided, by rule and column, over all days."""
    per_rule = cleaned.rules.group_by("rule", "column").agg(pl.col("rows").sum())
    return {(rule, column): rows for rule, column, rows in per_rule.rows()}


def totals(cleaned: Cleaned) -> tuple[int, ...]:
    """Rows read, kept, duplicate, quarantined."""
    return cleaned.counts.select(pl.col("^rows_.*$").sum()).row(0)


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
        ({"event_type": "buy"}, "allowed", "event_type", "buy"),
        ({"event_time": None}, "required", "event_time", None),
        ({"quantity": -2.5}, "minimum", "quantity", "-2.5"),
        ({"quantity": 1e9}, "maximum", "quantity", "1000000000.0"),
        ({"quantity": 10_001.0}, "absurd", "quantity", "10001.0"),
        ({"unit_price": -0.5}, "minimum", "unit_price", "-0.5"),
        ({"unit_price": 100_000.5}, "absurd", "unit_price", "100000.5"),
        ({"currency": "dollar"}, "currency", "currency", "DOLLAR"),
        ({"currency": "EUR", "unit_price": 1.0}, "other_currency", "currency", "EUR"),
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
    assert cleaned.quarantined["rule"].to_list() == ["allowed"]


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
    assert euros.events["currency"].to_list() == ["EUR"]
    assert counted(euros) == {("filled", "currency"): 1, ("other_currency", "currency"): 1}


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


def clicks(*seconds: float, **change: object) -> list[dict[str, object]]:
    """Equal views at these seconds."""
    noon = datetime(2017, 3, 4, 12, tzinfo=UTC)
    return [
        {"event_type": "view", "event_time": noon + timedelta(seconds=s), **change} for s in seconds
    ]


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


def test_every_rule_of_the_contract_is_there():
    rules = row_rules(Business(cleaning=Cleaning(lateness_days=3)), first_day=FIRST_DAY)
    named = {(rule.name, rule.column) for rule in rules}
    assert len(named) == len(rules)
    for column in EVENTS.columns:
        assert (("required", column.name) in named) == (not column.nullable)
        assert (("allowed", column.name) in named) == (column.allowed is not None)
        assert (("minimum", column.name) in named) == (column.minimum is not None)
        assert (("maximum", column.name) in named) == (column.maximum is not None)
    frame, _ = prepared(rows({"landed_at": datetime(2017, 3, 5, tzinfo=UTC)}), Business())
    assert frame.select(first_failing(rules)).to_series().to_list() == [None]


def test_every_rule_is_described_once_and_in_the_reference():
    names = [named.name for named in CATALOGUE]
    assert len(set(names)) == len(names)
    rules = row_rules(Business(cleaning=Cleaning(lateness_days=3)), first_day=FIRST_DAY)
    for rule in {rule.name for rule in rules}:
        assert f"| `{rule}` |" in rules_markdown()
    for named in CATALOGUE:
        assert named.meaning.endswith(".")
        assert named.advice.endswith(".")
    fields = {p for named in CATALOGUE for p in named.parameter.split(", ") if p}
    assert fields - {"SEQLINE_FIRST_DAY"} == set(Cleaning.model_fields)


def test_the_documented_rules_are_the_ones_that_run():
    text = (ROOT / "docs" / "cleaning.md").read_text()
    assert rules_markdown() in text


def test_another_parameter_or_rule_is_another_version(monkeypatch):
    version = Cleaning().version
    assert Cleaning().version == version
    assert Cleaning(max_quantity=5).version != version
    monkeypatch.setattr("seq_ml.business.RULES_VERSION", "next")
    assert Cleaning().version != version


def assert_equal(one: Cleaned, other: Cleaned) -> None:
    assert one.events.equals(other.events)
    assert one.quarantined.equals(other.quarantined)
    assert one.counts.equals(other.counts)
    assert one.rules.equals(other.rules)


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
