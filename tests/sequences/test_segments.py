"""Segments: an update equals a rebuild whatever came, went or broke off; local copies follow."""

from __future__ import annotations

import io
import itertools
from datetime import UTC, date, datetime, timedelta
from uuid import uuid4

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from seq_ml.business import Business
from seq_ml.clean import local_copy
from seq_ml.clean.days import clean_days
from seq_ml.clean.local_copy import local_events
from seq_ml.erasure.access import NoSuchUserError, export_history
from seq_ml.privacy.pseudonyms import Pseudonyms
from seq_ml.schema import EVENTS, EXCHANGE_RATES, SEQUENCE_SNAPSHOT, USER_SEQUENCES
from seq_ml.sequences import cutoffs, read, segments
from seq_ml.sequences.build import build_sequences
from seq_ml.sequences.read import events_by_shard, read_by_shard, read_sequences
from seq_ml.sequences.segments import update_sequences
from seq_ml.settings import Settings
from seq_ml.storage.contracts import check_key, conform
from seq_ml.storage.portions import shard_of
from seq_ml.storage.tables import TableStore

FIRST = date(2024, 3, 1)
FILES = """
  - match: "*"
    table: events
    columns: {user_id: u, event_type: {value: view}, event_time: at}
"""
SETTINGS = Settings(pseudonym_key="5e" * 32, shards=4)


def user(number: int) -> str:
    return f"{number * 0x9E3779B1 % 2**32:08x}{'0' * 24}"


def day_events(day: int, rows: list[tuple[int, int]]) -> pl.DataFrame:
    """Events (user number, hour) of the `day`-th day; equal rows are two events."""
    midnight = datetime.combine(FIRST + timedelta(days=day), datetime.min.time(), tzinfo=UTC)
    frame = pl.DataFrame(
        {
            "event_id": [f"{day}-{place}" for place in range(len(rows))],
            "user_id": [user(number) for number, _ in rows],
            "event_type": ["view"] * len(rows),
            "item_id": [None if hour % 5 == 0 else f"item{hour % 7}" for _, hour in rows],
            "event_time": [midnight + timedelta(hours=hour) for _, hour in rows],
            "quantity": [float(hour) for _, hour in rows],
            "event_date": [FIRST + timedelta(days=day)] * len(rows),
        }
    )
    missing = {n: t for n, t in EVENTS.polars_schema().items() if n not in frame.columns}
    frame = frame.with_columns(pl.lit(None, dtype=t).alias(n) for n, t in missing.items())
    return frame.select(pl.col(n).cast(t) for n, t in EVENTS.polars_schema().items())


def publish(tables: TableStore, days: dict[int, list[tuple[int, int]]]) -> None:
    """Replace days of clean events, also by nothing."""
    frame = pl.concat([day_events(day, rows) for day, rows in days.items()])
    tables.overwrite_partitions(EVENTS, frame, [FIRST + timedelta(days=day) for day in days])


def stored(tables: TableStore) -> pl.DataFrame:
    frame = tables.scan(USER_SEQUENCES.name).select(USER_SEQUENCES.names).collect()
    return frame.sort("segment_date", "shard", "user_id")


def assert_as_rebuilt(tables: TableStore) -> None:
    """The table is what a rebuild makes, and reads as what `build_sequences` makes."""
    there = stored(tables)
    check_key(conform(there, USER_SEQUENCES), USER_SEQUENCES)
    events = tables.scan(EVENTS.name).collect()
    fresh = segments.build_segments(events, shards=SETTINGS.shards)
    assert there.drop("source").equals(fresh.select(there.drop("source").columns))
    for hours in (0, 5, 29, 240):
        as_of = datetime(FIRST.year, FIRST.month, FIRST.day, tzinfo=UTC) + timedelta(hours=hours)
        built = build_sequences(events.lazy(), as_of=as_of, max_events=3, shards=SETTINGS.shards)
        found = read_sequences(tables, as_of=as_of, max_events=3)
        assert found.schema == SEQUENCE_SNAPSHOT.polars_schema()
        assert found.equals(built)
        parts = list(read_by_shard(tables, as_of=as_of, max_events=3))
        assert all(part["shard"].n_unique() == 1 for part in parts)
        assert pl.concat([built.clear(), *parts]).sort("user_id").equals(built)


some_rows = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 23)), max_size=6)
some_days = st.dictionaries(st.integers(0, 4), some_rows, min_size=1, max_size=3)


@pytest.mark.slow
@settings(
    max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(steps=st.lists(some_days, min_size=1, max_size=3))
def test_updates_equal_a_rebuild(objects, steps):
    """Days come late, are opened again, or vanish."""
    tables = TableStore(objects, prefix=uuid4().hex)
    for days in steps:
        publish(tables, days)
        update_sequences(tables, SETTINGS)
    assert_as_rebuilt(tables)


@pytest.fixture
def week(tables: TableStore) -> TableStore:
    """Five published days with sequences."""
    publish(tables, {day: [(n, (n * 7 + day) % 24) for n in range(9)] for day in range(5)})
    update_sequences(tables, SETTINGS)
    return tables


def test_only_changed_days_are_written_anew(week):
    before = dict(week.files(USER_SEQUENCES.name).select("partition.segment_date", "path").rows())
    assert update_sequences(week, SETTINGS).days == ()
    publish(week, {1: [(3, 4)], 7: [(2, 1), (2, 1)]})
    changed = (FIRST + timedelta(days=1), FIRST + timedelta(days=7))
    update = update_sequences(week, SETTINGS)
    assert (update.days, update.events) == (changed, 3)
    after = dict(week.files(USER_SEQUENCES.name).select("partition.segment_date", "path").rows())
    assert {day for day in after if after[day] != before.get(day)} == set(changed)
    assert_as_rebuilt(week)


def prices(tables: TableStore) -> dict[date, float | None]:
    told = tables.scan(USER_SEQUENCES.name).explode("unit_prices").collect()
    return dict(told.select("segment_date", "unit_prices").rows())


def test_what_money_is_worth_writes_the_days_anew_that_it_concerns(objects, tables):
    """The business's currency, and the rates to it; whose mappings disagree has no price."""
    day, other = FIRST, FIRST + timedelta(days=30)
    paid = pl.concat([day_events(0, [(1, 9)]), day_events(30, [(1, 9)])])
    paid = paid.with_columns(unit_price=pl.lit(10.0), currency=pl.lit("CHF"))
    tables.overwrite_partitions(EVENTS, paid, [day, other])

    def mapping(name: str, currency: str) -> None:
        text = f"name: {name}\nbusiness: {{currency: {currency}}}\nfiles:\n" + FILES
        objects.put(f"sources/{name}.yaml", text.encode())

    mapping("shop", "EUR")
    update_sequences(tables, SETTINGS)
    assert prices(tables) == {day: None, other: None}
    rate = (day - timedelta(days=2), "CHF", "EUR", 1.5)
    rates = pl.DataFrame([rate], schema=EXCHANGE_RATES.polars_schema(), orient="row")
    tables.append(EXCHANGE_RATES.name, rates)
    assert update_sequences(tables, SETTINGS).days == (day,)
    assert update_sequences(tables, SETTINGS).days == ()
    assert prices(tables) == {day: 15.0, other: None}
    mapping("shop", "CHF")
    assert update_sequences(tables, SETTINGS).days == (day, other)
    assert prices(tables) == {day: 10.0, other: 10.0}
    mapping("web", "EUR")
    update_sequences(tables, SETTINGS)
    assert prices(tables) == {day: None, other: None}
    objects.delete(["sources/web.yaml"])
    update_sequences(tables, SETTINGS)
    assert prices(tables) == {day: 10.0, other: 10.0}


@pytest.mark.slow
def test_compaction_of_clean_events_changes_nothing(week):
    from deltalake import DeltaTable

    before = stored(week).drop("source")
    extra = day_events(2, [(1, 3)]).with_columns(event_id=pl.lit("late"))
    week.append(EVENTS.name, extra)  # a second file of that day
    update_sequences(week, SETTINGS)
    assert stored(week)["length"].sum() == before["length"].sum() + 1
    table = DeltaTable(week.uri(EVENTS.name), storage_options=week.objects.options)
    table.optimize.compact()
    table.vacuum(0, dry_run=False, enforce_retention_duration=False)
    update = update_sequences(week, SETTINGS)
    assert set(update.days) <= {FIRST + timedelta(days=2)}
    assert_as_rebuilt(week)


class KilledError(BaseException):
    """The process ended here."""


@pytest.mark.parametrize("when", ["before_upload", "before_commit"])
@pytest.mark.parametrize("group", range(3))
def test_a_killed_update_goes_on_where_it_stopped(tables, monkeypatch, group, when):
    publish(tables, {day: [(n, (n * 7 + day) % 24) for n in range(9)] for day in range(3)})
    monkeypatch.setattr(segments, "ROWS_AT_ONCE", 9)  # a commit for each day
    left = [group]
    put = TableStore._put_files

    def put_or_die(self, *args):
        left[0] -= 1
        if left[0] >= 0:
            return put(self, *args)
        if when == "before_commit":
            put(self, *args)
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(TableStore, "_put_files", put_or_die)
        with pytest.raises(KilledError):
            update_sequences(tables, SETTINGS)
    assert len(update_sequences(tables, SETTINGS).days) == 3 - group
    assert_as_rebuilt(tables)


def test_a_day_larger_than_the_memory_is_built_shard_by_shard(tables, monkeypatch):
    publish(tables, {0: [(n % 17, n % 24) for n in range(60)], 1: [(1, 1)]})
    monkeypatch.setattr(segments, "ROWS_AT_ONCE", 20)
    update_sequences(tables, SETTINGS)
    files = tables.files(USER_SEQUENCES.name).filter(pl.col("partition.segment_date") == FIRST)
    assert files.height > 1
    assert_as_rebuilt(tables)


def test_a_shard_lies_together_in_its_days(tables, monkeypatch):
    import pyarrow.parquet as pq

    monkeypatch.setattr(segments, "ROW_GROUP_ROWS", 5)
    publish(tables, {0: [(n, n % 24) for n in range(40)]})
    update_sequences(tables, SETTINGS)
    (path,) = tables.files(USER_SEQUENCES.name)["path"]
    content = tables.objects.get(f"{tables.prefix}/{USER_SEQUENCES.name}/{path}")
    footer = pq.ParquetFile(io.BytesIO(content)).metadata
    place = [c.name for c in footer.schema].index("shard")
    groups = [footer.row_group(n).column(place).statistics for n in range(footer.num_row_groups)]
    assert len(groups) >= 8
    assert all(low.max <= high.min for low, high in itertools.pairwise(groups))
    assert sum(stats.min <= 2 <= stats.max for stats in groups) < len(groups) / 2


def test_another_shard_count_writes_every_day_anew(week, monkeypatch):
    more = SETTINGS.model_copy(update={"shards": 7})
    monkeypatch.setattr(segments, "ROWS_AT_ONCE", 9)
    put = TableStore.overwrite_files
    calls = []

    def once(self, *args, **options):
        if calls:
            raise KilledError
        calls.append(args)
        put(self, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(TableStore, "overwrite_files", once)
        with pytest.raises(KilledError):
            update_sequences(week, more)
    as_of = datetime(2024, 3, 10, tzinfo=UTC)
    with pytest.raises(ValueError, match="several shard counts"):
        list(read_by_shard(week, as_of=as_of, max_events=9))
    update_sequences(week, more)
    assert {part["shard"][0] for part in read_by_shard(week, as_of=as_of, max_events=9)} <= set(
        range(7)
    )
    whole = read_sequences(week, as_of=as_of, max_events=9)
    assert whole["total_events"].sum() == week.scan(EVENTS.name).collect().height


def test_reading_in_one_go_or_in_many_is_the_same(week, monkeypatch):
    as_of = datetime(2024, 3, 4, 5, tzinfo=UTC)
    at_once = pl.concat(read_by_shard(week, as_of=as_of, max_events=2))
    events = pl.concat([part.collect() for part in events_by_shard(week, before=as_of)])
    half_a_shard = week.size(USER_SEQUENCES.name) // (2 * SETTINGS.shards)
    monkeypatch.setattr(read, "BYTES_AT_ONCE", half_a_shard)
    assert pl.concat(read_by_shard(week, as_of=as_of, max_events=2)).equals(at_once)
    parts = [part.collect() for part in events_by_shard(week, before=as_of)]
    assert len(parts) > SETTINGS.shards  # a shard in pieces
    order = ["event_time", "user_id"]
    assert pl.concat(parts).sort(order).equals(events.sort(order))
    expected = week.scan(EVENTS.name).filter(pl.col("event_time") < as_of).collect()
    assert events.sort(order).equals(expected.sort(order).select(events.columns))


def test_a_table_of_an_older_release_is_replaced(tables):
    old = pl.DataFrame({"user_id": [user(1)], "as_of": [datetime(2024, 3, 1, tzinfo=UTC)]})
    tables.append(USER_SEQUENCES.name, old)
    publish(tables, {0: [(1, 2)]})
    update_sequences(tables, SETTINGS)
    assert_as_rebuilt(tables)


def test_cut_offs_are_chosen_from_the_days_and_recorded(tables):
    business = Business(timezone="America/New_York")
    with pytest.raises(ValueError, match="no clean events"):
        cutoffs.choose(tables, business)
    publish(tables, {0: [(1, 12)], 1: [(1, 12)], 2: [(2, 3)]})  # 03:00 UTC is the evening before
    chosen = cutoffs.choose(tables, business)
    assert chosen.as_of == datetime(2024, 3, 3, 5, tzinfo=UTC)
    assert chosen.cutoff == datetime(2023, 12, 3, 5, tzinfo=UTC)
    cutoffs.record(tables, chosen)
    assert cutoffs.recorded(tables) == chosen
    early = cutoffs.choose(tables, business, FIRST + timedelta(days=1))
    assert early.as_of == datetime(2024, 3, 2, 5, tzinfo=UTC)
    with pytest.raises(ValueError, match="no event before"):
        cutoffs.choose(tables, business, FIRST)


def test_local_events_copy_only_what_changed(week, tmp_path):
    """A month is a copy: of one that changed, whatever changed in it."""

    def copied() -> dict[str, int]:
        expected = week.scan(EVENTS.name).select(EVENTS.names).collect().sort(local_copy.ORDER)
        assert local_events(week, tmp_path).everything.collect().equals(expected)
        return {path.name: path.stat().st_mtime_ns for path in (tmp_path / "events").iterdir()}

    publish(week, {40: [(1, 5)], 41: [(2, 6)]})
    before = copied()
    assert [name[:10] for name in sorted(before)] == ["2024-03-01", "2024-04-10"]
    (tmp_path / "events" / "2024-03-01-half.partial").write_bytes(b"PAR1")  # what a kill leaves
    publish(week, {1: [(3, 4)], 3: [], 7: [(2, 1), (2, 0)], 70: [(1, 1)]})
    after = copied()
    assert [name[:10] for name in sorted(after)] == ["2024-03-01", "2024-04-10", "2024-05-10"]
    assert {name[:10] for name in after if before.get(name) == after[name]} == {"2024-04-10"}


def test_days_of_an_older_release_have_nulls_in_a_column_that_is_new(week, tmp_path):
    """Neither the table nor a local copy of it has the column."""
    rows = week.scan(EVENTS.name).collect().drop("propensity")
    older = TableStore(week.objects, "older")
    older.append(EVENTS.name, rows, partition_by=EVENTS.partition_by)
    expected = week.scan(EVENTS.name).select(EVENTS.names).collect().sort(local_copy.ORDER)
    assert local_events(older, tmp_path).everything.collect().equals(expected)
    copy = min((tmp_path / "events").glob("*/*.parquet"))
    pl.read_parquet(copy).drop("propensity").write_parquet(copy)
    assert local_events(older, tmp_path).everything.collect().equals(expected)


def test_many_events_are_copied_by_user(week, tmp_path, monkeypatch):
    monkeypatch.setattr(local_copy, "MANY_EVENTS", 5)
    monkeypatch.setattr(local_copy, "EVENTS_A_SHARD", 4)
    monkeypatch.setattr(local_copy, "DAYS_TOGETHER", 6)
    publish(week, {9: [(number, 3) for number in range(8)]})

    def copied() -> set[str]:
        expected = week.scan(EVENTS.name).select(EVENTS.names).collect().sort(local_copy.ORDER)
        local = local_events(week, tmp_path)
        count = len(local.shards)
        assert count > 2
        for number, shard in enumerate(local.shards):
            of = expected.filter(shard_of(count) == number)
            assert shard.collect().equals(of)
        assert local.everything.collect().sort(local_copy.ORDER).equals(expected)
        return {folder.name for folder in (tmp_path / "events").iterdir()}

    before = copied()
    (tmp_path / "events" / "2024-03-01-half.partial").mkdir()  # what a kill leaves
    publish(week, {10: [(1, 4), (2, 5)]})
    after = copied()
    assert len(after) > 1
    assert len(after - before) == 1, "only the newest days are copied anew"


def test_a_killed_copy_leaves_no_half_file(week, tmp_path, monkeypatch):
    publish(week, {40: [(1, 5)], 70: [(2, 6)]})
    written = []
    whole = pl.DataFrame.write_parquet

    def half(self, path, *args, **options):
        whole(self, path, *args, **options)
        written.append(path)
        if len(written) == 3:
            raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(pl.DataFrame, "write_parquet", half)
        with pytest.raises(KilledError):
            local_events(week, tmp_path)
    assert len(list((tmp_path / "events").glob("*-by-1"))) == 2
    expected = week.scan(EVENTS.name).select(EVENTS.names).collect().sort(local_copy.ORDER)
    assert local_events(week, tmp_path).everything.collect().equals(expected)


def test_nobody_dropped_anything_yet(tables, tmp_path):
    assert local_events(tables, tmp_path).everything.collect().schema == EVENTS.polars_schema()
    assert update_sequences(tables, SETTINGS).days == ()
    assert clean_days(tables) == (0, {})


def test_the_history_of_one_user_comes_in_their_own_id(week, tmp_path):
    pseudonym = Pseudonyms(week.objects, SETTINGS).of(pl.Series(["anna"])).item()
    mine = day_events(8, [(1, 5), (1, 2), (2, 3)]).with_columns(
        user_id=pl.when(pl.col("user_id") == user(1))
        .then(pl.lit(pseudonym))
        .otherwise(pl.col("user_id"))
    )
    week.append(EVENTS.name, mine)
    out = tmp_path / "out" / "anna.parquet"
    assert export_history(week.objects, SETTINGS, "anna", out) == 2
    found = pl.read_parquet(out)
    assert found.schema == EVENTS.polars_schema()
    assert found["user_id"].to_list() == ["anna", "anna"]
    assert found["event_time"].is_sorted()
    nobody = tmp_path / "nobody.parquet"
    with pytest.raises(NoSuchUserError, match="no clean event"):
        export_history(week.objects, SETTINGS, "ann", nobody)
    assert not nobody.exists()
