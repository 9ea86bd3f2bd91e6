"""Mappings: every way to name a value's origin, every form of time, and mistakes told by name."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import polars as pl
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from seq_ml.ingest.mapping.bucket import load_business, load_sources
from seq_ml.ingest.mapping.source import MappingError, parse_mapping
from seq_ml.ingest.rows.canonical import to_canonical
from seq_ml.schema import EVENTS, INPUT_TABLES
from seq_ml.schema.staged import STAGED_EXTRA
from seq_ml.sources import completejourney

LANDED = datetime(2024, 7, 1, 8, tzinfo=UTC)
REQUIRED = {
    "events": {"user_id": {"value": "u"}, "event_type": {"value": "view"}, "event_time": "at"},
    "items": {"item_id": {"value": "i"}},
    "promotions": {
        "item_id": {"value": "i"},
        "store_id": {"value": "s"},
        "week_start": {"value": "2024-01-01"},
    },
}


def mapping(columns: dict, table: str = "events", timezone: str = "UTC"):
    files = [{"match": "*", "table": table, "columns": {**REQUIRED[table], **columns}}]
    return parse_mapping(
        yaml.safe_dump({"name": "shop", "timezone": timezone, "files": files}), "shop.yaml"
    )


def canonical(
    frame: pl.DataFrame | dict, columns: dict, table: str = "events", timezone: str = "UTC"
):
    frame = pl.DataFrame(frame)
    if table == "events" and "at" not in frame.columns:
        frame = frame.with_columns(at=pl.lit("2024-05-01 12:00:00"))
    source = mapping(columns, table, timezone)
    result = to_canonical(
        frame,
        source,
        source.files[0],
        key="drops/shop/a.csv",
        landed_at=LANDED,
        currency="EUR",
        secret="5e" * 32,
    )
    expected = {**INPUT_TABLES[table].polars_schema(), **STAGED_EXTRA}
    assert dict(result.schema) == expected
    assert result["row_number"].to_list() == list(range(1, frame.height + 1))
    return result


def values(frame: dict, origin: object, column: str = "item_id", table: str = "events"):
    """What a column becomes, and (column, value) of the errors of each row."""
    result = canonical(frame, {column: origin}, table)
    errors = [[(e["column"], e["value"]) for e in row] for row in result["errors"].to_list()]
    return result[column].to_list(), [row for row in errors if row]


# --- origins --------------------------------------------------------------------------------------


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


# --- times ----------------------------------------------------------------------------------------


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
    for first in forms:  # the form of the first decides which one is tried first, and no more
        assert instants([first, *forms]).to_list() == [forms[first], *forms.values()]


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


# --- ids ------------------------------------------------------------------------------------------


def test_event_ids_repeat_for_what_is_sent_again():
    """Equal rows of a file have equal ids too: the clean stage numbers them."""
    columns = {"item_id": "i", "quantity": "n"}
    first = canonical({"i": ["a", "b", "a", "a"], "n": [1, 1, 1, 2]}, columns)["event_id"]
    assert first[0] == first[2]
    assert first.n_unique() == 3
    assert first.str.contains("^[0-9a-f]{32}$").all()
    again = canonical({"i": ["b", "c", "a"], "n": [1.0, 5, 1]}, columns)["event_id"]
    assert (again[0], again[2]) == (first[1], first[0])
    assert canonical({"i": ["", "a"], "n": [1, 1]}, columns)["event_id"][1] == first[0]


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(st.tuples(*[st.text("a\x00\x1e\x1f0", max_size=4)] * 2), min_size=2, unique=True)
)
def test_different_contents_have_different_ids(rows):
    """Also where a text holds the characters that stand between the values."""
    frame = {"a": [a for a, _ in rows], "b": [b for _, b in rows]}
    columns = {"item_id": "a", "session_id": {"column": "b", "values": {"0": ""}}}
    found = canonical(frame, columns)
    distinct = found.select("item_id", "session_id").unique().height
    assert found["event_id"].n_unique() == distinct


def test_ids_do_not_depend_on_the_batch():
    """A column that is empty in one batch and not in another changes nothing for the others."""
    columns = {"item_id": "i", "text": "t"}
    alone = canonical({"i": ["a"], "t": [None]}, columns)["event_id"][0]
    assert canonical({"i": ["a", "b"], "t": [None, "x\x1f"]}, columns)["event_id"][0] == alone


def test_ids_of_the_source_count_within_the_source():
    given = canonical({"id": ["1", "1", "", None]}, {"event_id": "id"})["event_id"]
    assert given.to_list() == ["shop:1", "shop:1", None, None]


# --- mistakes -------------------------------------------------------------------------------------


def test_a_missing_column_of_the_file_names_the_nearest():
    with pytest.raises(
        MappingError,
        match=r"^drops/shop/a.csv has no column 'artikel'; did you mean 'article'\? "
        r"\(mapping 'shop', files matching \*\)$",
    ):
        values({"article": ["1"]}, "artikel")


VALID = """
name: shop
files:
  - match: "*.csv"
    table: events
    columns:
      user_id: customer
      event_type: {value: view}
      event_time: at
"""


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "user_id",
            "usr_id",
            r"files.0: 'usr_id' is no column of events; did you mean 'user_id'\?",
        ),
        ("event_time: at", "", r"files.0: events needs the column 'event_time'"),
        ("table: events", "table: event", r"table 'event' is not one of events, items"),
        ("columns:", "colums:", r"files.0.colums: unknown key; did you mean 'columns'\?"),
        ("name: shop", "name: shop\ntimezon: UTC", r"timezon: unknown key.*'timezone'"),
        ("name: shop", "name: The Shop", "name: String should match"),
        ("name: shop", "name: shop\ntimezone: Berlin", "'Berlin' is no.* time zone"),
        ("at\n", "{column: at, tiem: iso}\n", r"event_time.tiem: unknown key.*'time'"),
        ("at\n", "{column: at, time: epoch}\n", r"'epoch' is no form of time: .*epoch_s"),
        ("at\n", "{column: at, value: 3}\n", r"exactly one of .*\(found: column, value\)"),
        ("at\n", "{time: iso}\n", r"exactly one of .*\(found: none\)"),
        ("at\n", "{divide: [a]}\n", "event_time.divide"),
        ("at\n", "at\n    separator: tab\n", "separator: String should have at most 1"),
        ("at\n", "at\n    encoding: ansi-1\n", "'ansi-1' is no encoding; write one like latin-1"),
        ("at\n", "at\n    events: [{columns: {usr: a}}]\n", "'usr' is no column of events"),
        ("at\n", "at\n    events: [{column: {}}]\n", "unknown key; did you mean 'columns'"),
        ("at\n", "at\n    consent: yes\n", "consent: write the name of a column"),
        (
            VALID.partition("files:")[2],
            "\n  - {match: a, table: items, columns: {item_id: i}, consent: ok}\n",
            "`events` and `consent` are for events, not for items",
        ),
        ("{value: view}", "{column: a, values: {view: [a, b], a: click}}", "lists 'a' twice"),
        ("{value: view}", "{column: a, values: {view: [1]}}", "write it in quotes"),
        ("{value: view}", "{column: a, nulls: [0]}", "nulls.0: .*write it in quotes"),
        ("{value: view}", "{column: a, values: {1: view}}", "write it in quotes"),
        ("files:", "files: []\nf:", "unknown key"),
        (VALID, "name: shop\nfiles: []\n", "files: .*at least 1"),
        (VALID, "files: [", "is not YAML"),
        (VALID, "- a\n", "holds no mapping"),
    ],
)
def test_mistakes_in_a_mapping_are_told_by_place_and_name(old, new, message):
    assert parse_mapping(VALID, "sources/shop.yaml").file_for("a.csv")
    with pytest.raises(MappingError, match=message) as caught:
        parse_mapping(VALID.replace(old, new), "sources/shop.yaml")
    assert str(caught.value).startswith("sources/shop.yaml")
    assert "\n" not in str(caught.value)


def test_the_first_pattern_that_fits_wins():
    text = VALID.replace('match: "*.csv"', 'match: "days/*/e?.csv"')
    source = parse_mapping(text, "x")
    assert source.file_for("days/2024/e1.csv") is source.files[0]
    for path in ("days/e1.csv", "days/2024/e10.csv", "DAYS/2024/e1.csv", "x/days/2024/e1.csv"):
        assert source.file_for(path) is None
    assert source.version != parse_mapping(VALID, "x").version


def test_the_version_of_an_entry_follows_what_decides_how_a_file_is_read():
    def version(text: str = VALID, path: str = "a.csv") -> str:
        return parse_mapping(text, "x").entry_version(path)

    first = version()
    assert version(path="a.parquet") == ""
    reordered = VALID.replace("      user_id: customer\n", "").replace(
        "event_time: at\n", "event_time: {column: at}  # a comment\n      user_id: customer\n"
    )
    other_entry = VALID + '  - {match: "x", table: items, columns: {item_id: i}}\n'
    business = "business: {currency: EUR}\n" + VALID  # where the currency matters, ingest adds it
    for same in (VALID + "# a\n", reordered, "description: x\n" + VALID, other_entry, business):
        assert version(same) == first
    for other in (
        VALID.replace("customer", "user"),
        VALID.replace("name: shop", "name: web"),
        VALID.replace("event_time: at", "event_time: {column: at, time: epoch_s}"),
        VALID + "    separator: ';'\n",
        "timezone: Europe/Berlin\n" + VALID,
        "test_users: [test*]\n" + VALID,
    ):
        assert version(other) not in ("", first)


def test_sources_agree_on_the_business(objects):
    assert load_business(objects).timezone == "UTC"
    business = "business: {timezone: Europe/Berlin, currency: EUR}\n"
    objects.put("sources/shop.yaml", (VALID + business).encode())
    objects.put("sources/web.yaml", VALID.replace("name: shop", "name: web").encode())
    objects.put("sources/README.md", b"not a mapping")
    assert set(load_sources(objects).usable) == {"shop", "web"}
    assert load_business(objects).currency == "EUR"
    same = VALID.replace("name: shop", "name: app") + business
    objects.put("sources/app.yml", same.encode())
    assert load_business(objects).timezone == "Europe/Berlin"
    objects.put("sources/app.yml", same.replace("EUR", "USD").encode())
    with pytest.raises(MappingError, match="app, shop describe the business differently"):
        load_business(objects)


def test_the_shipped_mapping_is_valid():
    source = parse_mapping(completejourney.mapping_text(), "completejourney.yaml")
    assert source.business is not None
    without = {"stock"}  # the package holds no counts
    assert {entry.table for entry in source.files} == set(INPUT_TABLES) - without
    assert set(source.files[0].columns) <= set(EVENTS.names)
