"""Values: every way to name a value's origin, and every form of time."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seq_ml.ingest.mapping.source import MappingError
from tests.ingest.mapping.mapped import LANDED, canonical, values


def test_every_origin_of_a_value():
    frame = {
        "a": ["x", "", None],
        "n": ["1", " 2.5 ", None],
        "m": ["4", "0", "2"],
        "kind": ["FUEL", "FOOD", None],
        "on": ["TRUE", "n", "1"],
    }
    assert values(frame, "a") == (["x", None, None], [])
    assert values(frame, {"column": "a"}) == (["x", None, None], [])
    assert values(frame, {"value": "k"}) == (["k"] * 3, [])
    assert values(frame, {"value": 12}) == (["12"] * 3, [])
    assert values(frame, {"value": 1.5}, "quantity") == ([1.5] * 3, [])
    assert values(frame, "n", "quantity") == ([1.0, 2.5, None], [])
    assert values(frame, {"divide": ["n", "m"]}, "unit_price") == ([0.25, None, None], [])
    assert values(frame, {"divide": ["n", 100]}, "unit_price") == ([0.01, 0.025, None], [])
    assert values(frame, {"multiply": ["n", "m", -1]}, "discount") == ([-4.0, 0.0, None], [])
    assert values(frame, {"sum": ["n", "m"]}, "discount") == ([5.0, 2.5, 2.0], [])
    assert values(frame, {"concat": ["a", "kind"]}, "text") == (["x FUEL", "FOOD", None], [])
    merchandise = {"none_of": {"kind": ["FUEL"], "a": ["y"]}}
    for origin, found in (
        (merchandise, [False, True, True]),
        ("on", [True, False, True]),
        ({"value": False}, [False] * 3),
        ({"value": "no"}, [False] * 3),
        ({"column": "kind", "values": {"FUEL": False}, "default": True}, [False, True, None]),
    ):
        assert values(frame, origin, "is_merchandise", "items") == (found, [])


def test_values_and_nulls():
    frame = {"action": ["buy", "look", "?", None, "nan"]}
    translated = {"column": "action", "values": {"buy": "purchase", "look": "view"}}
    assert values(frame, translated, "event_type")[0] == ["purchase", "view", "?", None, "nan"]
    other = {**translated, "default": "click", "nulls": ["nan"]}
    assert values(frame, other, "event_type") == (["purchase", "view", "click", None, None], [])
    several = {"column": "action", "values": {"purchase": ["buy", "?"], "look": "view"}}
    assert values(frame, several, "event_type")[0] == ["purchase", "view", "purchase", None, "nan"]
    nothing = {"column": "action", "values": {"?": None, "nan": None}}
    assert values(frame, nothing) == (["buy", "look", None, None, None], [])
    numbers = {"n": ["1", "-", "-1", "x"]}
    assert values(numbers, {"column": "n", "nulls": ["-", "-1"]}, "quantity") == (
        [1.0, None, None, None],
        [[("quantity", "x")]],
    )
    assert values(numbers, {"sum": ["n", "n"], "nulls": ["-", "x"]}, "discount") == (
        [2.0, 0.0, -2.0, 0.0],
        [],
    )
    odd = {"column": "n", "values": {"1": True, "-": False}}
    assert values(numbers, odd, "is_merchandise", "items") == (
        [True, False, None, None],
        [[("is_merchandise", "-1")], [("is_merchandise", "x")]],
    )


def test_nested_json_is_entered_by_dots():
    nested = pl.DataFrame(
        {"user": [{"id": 7, "at": {"home": "de"}}, {"id": None, "at": None}], "a.b": ["x", "y"]}
    )
    assert values(nested, "user.id") == (["7", None], [])
    assert values(nested, "user.at.home") == (["de", None], [])
    assert values(nested, "a.b") == (["x", "y"], [])  # a column's own name goes first
    with pytest.raises(MappingError, match=r"no column 'user.name'"):
        values(nested, "user.name")
    with pytest.raises(MappingError, match=r"column 'user' holds Struct.*a field, like 'user.id'"):
        values(nested, "user")


def test_numbers_in_words():
    frame = {"n": ["1.234,5", "0,99", "7", "1,2,3", "eins", ""]}
    found, errors = values(frame, {"column": "n", "decimal_comma": True}, "quantity")
    assert found == [1234.5, 0.99, 7.0, None, None, None]
    assert errors == [[("quantity", "1,2,3")], [("quantity", "eins")]]
    assert values(frame, "n", "quantity")[0] == [None, None, 7.0, None, None, None]


def test_an_unreadable_part_of_a_sum_or_quotient_is_an_error_and_not_a_zero():
    frame = {"paid": ["9", "free", "9", None], "pieces": ["2", "2", "two", "2"]}
    for name in ("divide", "sum", "multiply"):
        origin = {name: ["paid", "pieces"]}
        assert values(frame, origin, "discount")[1] == [
            [("discount", "free")],
            [("discount", "two")],
        ]


def test_types_that_readers_make():
    """Parquet and JSON bring types along; ids stay ids, and text stays text."""
    assert values({"i": [1.0, 2.0, None]}, "i") == (["1", "2", None], [])
    assert values({"i": [1, 2]}, {"column": "i", "values": {"1": "one"}}) == (["one", "2"], [])
    assert values({"i": [1.0, 2.0]}, {"column": "i", "values": {"1": "one"}})[0] == ["one", "2"]
    assert values({"i": [0, 1, 2]}, "i", "is_merchandise", "items") == (
        [False, True, None],
        [[("is_merchandise", "2")]],
    )
    labels = pl.DataFrame({"i": pl.Series(["a", "b"], dtype=pl.Categorical)})
    assert values(labels, "i") == (["a", "b"], [])
    assert values({"i": [None, None]}, "i", "quantity") == ([None, None], [])
    for strange in ([[1], [2]], [timedelta(1)] * 2, [b"\xff", b"a"]):
        with pytest.raises(MappingError, match=r"drops/shop/a\.csv"):
            values({"i": strange}, "i")
    assert values({"i": [date(2024, 1, 1)]}, "i", "quantity") == (
        [None],
        [[("quantity", "2024-01-01")]],
    )


def test_what_is_not_mapped_has_a_default():
    row = canonical({"x": ["1"]}, {}).row(0, named=True)
    assert row["currency"] == "EUR"
    assert row["source_file"] == "drops/shop/a.csv"
    assert row["landed_at"] == LANDED
    assert row["item_id"] is row["text"] is None
    item = canonical({"x": ["1"]}, {}, "items").row(0, named=True)
    assert item["is_merchandise"] is True
    assert item["valid_from"] == datetime(1970, 1, 1, tzinfo=UTC)


def instants(found: list, time: str = "iso", timezone: str = "America/New_York"):
    origin = {"column": "at", "time": time}
    return canonical({"at": found}, {"event_time": origin}, timezone=timezone)["event_time"]


def utc(*parts: int) -> datetime:
    return datetime(*parts, tzinfo=UTC)  # type: ignore[arg-type]


def test_iso_times_with_and_without_a_zone():
    forms = {
        "2024-05-01T10:00:00Z": utc(2024, 5, 1, 10),
        "2024-05-01T10:00:00.25+02:00": utc(2024, 5, 1, 8, 0, 0, 250_000),
        "2024-05-01 10:00:00+0200": utc(2024, 5, 1, 8),
        "2024-05-01 10:00:00 UTC": utc(2024, 5, 1, 10),
        "2024-05-01 10:00:00.5 UTC": utc(2024, 5, 1, 10, 0, 0, 500_000),
        "2024-05-01T10:00:00": utc(2024, 5, 1, 14),
        "2024-05-01 10:00:00.5": utc(2024, 5, 1, 14, 0, 0, 500_000),
        "2024-05-01 10:00": utc(2024, 5, 1, 14),
        "2024-05-01": utc(2024, 5, 1, 4),
        "2024-01-01": utc(2024, 1, 1, 5),
        "01.05.2024": None,
        "2024-13-01": None,
        "soon": None,
    }
    assert instants(list(forms)).to_list() == list(forms.values())
    for first, at in forms.items():  # the first decides which form is tried first, and no more
        assert instants([first, *forms]).to_list() == [at, *forms.values()]


def test_epochs():
    moment = utc(2024, 5, 1, 10, 0, 0, 123_457)
    micros = int(moment.timestamp()) * 1_000_000 + 123_457
    assert instants([micros, None], "epoch_us").to_list() == [moment, None]
    assert instants([str(micros), "x"], "epoch_us").to_list() == [moment, None]
    assert instants([micros / 1_000], "epoch_ms").to_list() == [moment]
    assert instants([f"{micros / 1_000_000:.6f}", "1e300"], "epoch_s").to_list() == [moment, None]
    assert instants([1714557600], "epoch_s").to_list() == [utc(2024, 5, 1, 10)]
    # An epoch that the mapping does not declare is unreadable, and not a day in 1970.
    assert instants([1714557600]).to_list() == [None]


def test_formats_of_their_own():
    assert instants(["1.5.2024 10:30"], "%d.%m.%Y %H:%M").to_list() == [utc(2024, 5, 1, 14, 30)]
    assert instants(["01.05.2024 10:30:05"], "%d.%m.%Y %T").to_list() == [
        utc(2024, 5, 1, 14, 30, 5)
    ]
    assert instants(["05/01/24 10:30 PM"], "%m/%d/%y %I:%M %p").to_list() == [
        utc(2024, 5, 2, 2, 30)
    ]
    assert instants(["20240501", "x"], "%Y%m%d").to_list() == [utc(2024, 5, 1, 4), None]
    assert instants([20240501], "%Y%m%d").to_list() == [utc(2024, 5, 1, 4)]
    # The zone of the text goes before that of the mapping.
    assert instants(["01/May/2024:10:00:00 -0700"], "%d/%b/%Y:%H:%M:%S %z").to_list() == [
        utc(2024, 5, 1, 17)
    ]


def test_typed_times():
    assert instants([date(2024, 5, 1)]).to_list() == [utc(2024, 5, 1, 4)]
    assert instants([datetime(2024, 5, 1, 10)]).to_list() == [utc(2024, 5, 1, 14)]
    nanoseconds = pl.Series([datetime(2024, 5, 1, 10)], dtype=pl.Datetime("ns"))
    assert instants(nanoseconds).to_list() == [utc(2024, 5, 1, 14)]
    tokyo = datetime(2024, 5, 1, 10, tzinfo=ZoneInfo("Asia/Tokyo"))
    assert instants([tokyo]).to_list() == [utc(2024, 5, 1, 1)]


def test_the_hours_that_the_clock_repeats_and_skips():
    twice, never = datetime(2024, 11, 3, 1, 30), datetime(2024, 3, 10, 2, 30)
    for found in ([twice, never], [str(twice), str(never)]):
        assert instants(found).to_list() == [utc(2024, 11, 3, 5, 30), None]
    error = canonical({"at": [str(never)]}, {"event_time": "at"}, timezone="America/New_York")[
        "errors"
    ].to_list()[0]
    assert error == [{"rule": "type:datetime", "column": "event_time", "value": str(never)}]
    # Where the clock skips midnight itself, the day begins at one o'clock.
    for day in ("2018-11-04", date(2018, 11, 4)):
        assert instants([day], timezone="America/Sao_Paulo").to_list() == [utc(2018, 11, 4, 3)]


@settings(max_examples=100, deadline=None)
@given(st.datetimes(datetime(1990, 1, 1), datetime(2037, 1, 1)))
def test_local_times_are_read_as_python_reads_them(moment):
    zone = ZoneInfo("America/New_York")
    expected = moment.replace(tzinfo=zone).astimezone(UTC)
    if expected.astimezone(zone).replace(tzinfo=None) != moment:
        expected = None  # skipped in spring
    assert instants([moment]).to_list() == [expected]
    assert instants([str(moment)]).to_list() == [expected]


def test_days_of_a_calendar():
    def week(found: list, time: str = "iso"):
        origin = {"column": "week", "time": time}
        result = canonical(
            {"week": found}, {"week_start": origin}, "promotions", timezone="America/New_York"
        )
        return result["week_start"].to_list()

    monday = date(2024, 5, 6)
    for found in (monday, datetime(2024, 5, 6), utc(2024, 5, 7, 2), "2024-05-06 13:00:00"):
        assert week([found]) == [monday]
    assert week(["2024-05-06", "06/05/2024"]) == [monday, None]
    assert week(["06/05/2024"], "%d/%m/%Y") == [monday]
    assert week([int(utc(2024, 5, 7, 2).timestamp())], "epoch_s") == [monday]
