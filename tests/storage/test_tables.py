"""Delta tables: partitions replaced alone, rows deleted by value, contracts kept."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import date

import polars as pl
import pytest

from seq_ml.schema import Column, Table
from seq_ml.storage.contracts import SchemaError, check_key, conform

DAYS = Table(
    "days",
    "Rows filed by day.",
    (
        Column("id", "str", "Id."),
        Column("day", "date", "Day."),
        Column("n", "i64", "Number.", True),
        Column("kind", "str", "Kind.", True, allowed=("a", "b")),
    ),
    key=("id",),
    partition_by="day",
)


FIRST, SECOND, THIRD = (date(2024, 5, day) for day in (1, 2, 3))


def rows(*values: tuple[str, date, int | None]) -> pl.DataFrame:
    return pl.DataFrame(values, schema=["id", "day", "n"], orient="row").with_columns(
        kind=pl.lit("a")
    )


def content(tables) -> list[tuple[str, date, int]]:
    return tables.scan("days").select("id", "day", "n").sort("id").collect().rows()


def test_a_contract_may_gain_columns(tables):
    """Older rows have null there, whether the table is read, replaced or added to."""
    grown = replace(DAYS, columns=(*DAYS.columns, Column("more", "f64", "More.", True)))
    new = rows(("b", SECOND, 2)).with_columns(more=pl.lit(0.5))
    schema = grown.polars_schema()
    tables.append("days", rows(("a", FIRST, 1)))
    assert tables.scan_or_empty(grown).collect()["more"].to_list() == [None]
    tables.append("days", new)
    assert tables.scan("days").sort("id").collect()["more"].to_list() == [None, 0.5]
    tables.append("filed", rows(("a", FIRST, 1)), partition_by="day")
    tables.append_files("filed", [new.select(schema.names())], schema=schema, partition_by="day")
    assert tables.scan("filed").sort("id").collect()["more"].to_list() == [None, 0.5]
    tables.append("whole", rows(("a", FIRST, 1)))
    tables.overwrite("whole", new)
    assert tables.scan("whole").collect()["more"].to_list() == [0.5]


def test_files_that_are_committed_by_hand_keep_a_column_that_the_contract_gained(tables, tmp_path):
    more = Column("more", "f64", "More.", True)
    grown = replace(DAYS, columns=(*DAYS.columns, more))
    new = rows(("b", SECOND, 2)).with_columns(more=pl.lit(0.5))
    tables.append("days", rows(("a", FIRST, 1)), partition_by="day")
    tables.prepare("days", grown.polars_schema(), partition_by="day")
    file = tmp_path / "b.parquet"
    new.write_parquet(file)
    tables.overwrite_from_files(grown, {SECOND: [file]})
    assert tables.scan("days").sort("id").collect()["more"].to_list() == [None, 0.5]
    version = tables.version("days")
    tables.prepare("days", grown.polars_schema(), partition_by="day")
    assert tables.version("days") == version  # nothing was lacking
    twice = replace(grown, columns=(*grown.columns, replace(more, name="most")))
    tables.overwrite_files(twice, [new.with_columns(most=pl.lit(1.5))], [SECOND])
    assert tables.scan("days").sort("id").collect()["most"].to_list() == [None, 1.5]
    whole = replace(grown, name="whole", partition_by=None)
    tables.append("whole", rows(("a", FIRST, 1)))
    tables.overwrite_whole(whole, [new.select(grown.names)])
    assert tables.scan("whole").collect()["more"].to_list() == [0.5]


def test_an_overwrite_of_some_days_leaves_the_others_alone(tables):
    assert not tables.exists("days")
    with pytest.raises(KeyError, match="days does not exist yet"):
        tables.scan("days")
    assert tables.scan_or_empty(DAYS).collect().schema == DAYS.polars_schema()

    first = rows(("a", FIRST, 1), ("b", SECOND, 2), ("c", THIRD, 3))
    tables.overwrite_partitions(DAYS, first, [FIRST, SECOND, THIRD])
    untouched = set(tables.delta("days").file_uris())
    version = tables.overwrite_partitions(DAYS, rows(("b2", SECOND, 20)), [SECOND])
    assert content(tables) == [("a", FIRST, 1), ("b2", SECOND, 20), ("c", THIRD, 3)]
    assert len(untouched & set(tables.delta("days").file_uris())) == 2  # not even rewritten
    tables.overwrite_partitions(DAYS, rows().cast(DAYS.polars_schema()), [FIRST])
    assert content(tables) == [("b2", SECOND, 20), ("c", THIRD, 3)]
    newest = tables.version("days")
    assert tables.overwrite_partitions(DAYS, rows(("x", FIRST, 1)).clear(), []) == newest
    assert content(tables) == [("b2", SECOND, 20), ("c", THIRD, 3)]

    with pytest.raises(Exception, match="day"):  # a row of another day would be lost, or doubled
        tables.overwrite_partitions(DAYS, rows(("x", FIRST, 1)), [SECOND])
    assert tables.version("days") == newest

    assert tables.scan("days", version=version).collect().height == 3
    tables.restore("days", version)
    assert content(tables) == [("a", FIRST, 1), ("b2", SECOND, 20), ("c", THIRD, 3)]
    assert tables.size("days") > 0


def test_a_snapshot_may_bring_new_columns_also_inside_lists(tables):
    old = pl.DataFrame({"n": [1], "tags": [[{"tag": "a"}]]})
    new = pl.DataFrame({"n": [2], "tags": [[{"tag": "b", "ids": ["e"]}]], "clv": [3.0]})
    tables.overwrite("profiles", old)
    tables.overwrite("profiles", new, predicate="n = 2")
    assert tables.scan("profiles").sort("n").collect().to_dicts() == [
        {"n": 1, "tags": [{"tag": "a", "ids": None}], "clv": None},
        {"n": 2, "tags": [{"tag": "b", "ids": ["e"]}], "clv": 3.0},
    ]


def test_rows_are_deleted_by_value(tables):
    quoted = "it's; --"
    tables.append("days", rows(("a", FIRST, 1), (quoted, SECOND, 2), ("c", THIRD, 3)))
    tables.delete_rows("days", "id", [quoted, "unknown"])
    assert [row[0] for row in content(tables)] == ["a", "c"]
    tables.delete_rows("days", "id", [])
    assert len(content(tables)) == 2
    with pytest.raises(KeyError):
        tables.delete_rows("nothing", "id", ["a"])


def test_writers_of_different_days_do_not_disturb_each_other(tables):
    days = [date(2024, 6, day) for day in range(1, 9)]
    tables.append(DAYS.name, conform(rows(("seed", FIRST, 0)), DAYS), partition_by="day")
    with ThreadPoolExecutor(4) as pool:
        list(
            pool.map(
                lambda day: tables.overwrite_partitions(DAYS, rows((str(day), day, 1)), [day]), days
            )
        )
    assert [row[1] for row in content(tables)] == [*days, FIRST]


def test_a_frame_that_breaks_its_contract_is_refused_by_name():
    good = rows(("a", FIRST, 1))
    fitting = conform(good.select("kind", pl.col("n").cast(float), "day", "id"), DAYS)
    assert fitting.schema == DAYS.polars_schema()
    broken = {
        r"missing columns \['n'\], unknown columns \['m'\]": good.rename({"n": "m"}),
        r"days.id: 1 nulls where none may be": good.with_columns(id=pl.lit(None, pl.String)),
        r"days.kind: a value outside \('a', 'b'\)": good.with_columns(kind=pl.lit("c")),
        r"days: .*'n'": good.with_columns(n=pl.lit("many")),
    }
    for message, frame in broken.items():
        with pytest.raises(SchemaError, match=message):
            conform(frame, DAYS)
    check_key(good, DAYS)
    with pytest.raises(SchemaError, match=r"days: 2 rows repeat the key \('id',\)"):
        check_key(pl.concat([good] * 3), DAYS)


def test_a_table_without_partitions_has_none_to_overwrite(tables):
    with pytest.raises(SchemaError, match="days has no partition column"):
        tables.overwrite_partitions(replace(DAYS, partition_by=None), rows(), [FIRST])
