"""Drift: what is unusual beside the four weeks before is found, what is usual is left in peace."""

from __future__ import annotations

from datetime import date, timedelta

import polars as pl
import pytest

from seq_ml.clean.expectations import drift
from seq_ml.clean.expectations.drift import judge_days, unusual
from seq_ml.clean.expectations.profiles import MAX_VALUES, MIN_ROWS, profile_days
from seq_ml.schema import DAY_PROFILES, EVENTS
from seq_ml.schema.stages import DRIFT
from seq_ml.storage.contracts import check_key, conform
from tests.clean.expectations.test_validate import Cleaned, cleaned_of, validate_days, write_folder
from tests.data import raw

DAY = date(2017, 9, 13)
SINCE = DAY - timedelta(days=28)


def bought(first: date, last: date) -> pl.DataFrame:
    """The purchases of all households of Complete Journey on these days (UTC)."""
    time = pl.col("transaction_timestamp").cast(pl.Datetime("us", "UTC"))
    quantity = pl.col("quantity").cast(float)
    events = (
        raw("transactions")
        .filter(time.dt.date().is_between(first, last))
        .select(
            user_id=pl.col("household_id").cast(str),
            session_id=pl.col("basket_id").cast(str),
            event_type=pl.lit("purchase"),
            item_id=pl.col("product_id").cast(str),
            event_time=time,
            quantity=quantity,
            unit_price=pl.when(quantity > 0).then(pl.col("sales_value") / quantity),
            currency=pl.lit("USD"),
            store_id=pl.col("store_id").cast(str),
            channel=pl.lit("store"),
            event_date=time.dt.date(),
        )
        .collect()
        .sort("event_time", "session_id", "item_id")
    )
    missing = [name for name in EVENTS.names if name not in events.columns]
    events = events.with_columns(pl.lit(None).alias(name) for name in missing)
    events = events.with_columns(event_id=pl.format("e{}", pl.int_range(pl.len())))
    return events.select(pl.col(n).cast(t) for n, t in EVENTS.polars_schema().items())


@pytest.fixture(scope="module")
def purchases() -> pl.DataFrame:
    """The purchases of DAY and of the four weeks before it."""
    return bought(SINCE, DAY)


@pytest.fixture
def profiled(tmp_path):
    def profile(events: pl.DataFrame) -> pl.DataFrame:
        folder = tmp_path / f"folder{len(list(tmp_path.iterdir()))}"
        return profile_days(write_folder(cleaned_of(events), folder))

    return profile


@pytest.fixture(scope="module")
def history(purchases, tmp_path_factory) -> pl.DataFrame:
    before = purchases.filter(pl.col("event_date") < DAY)
    folder = write_folder(cleaned_of(before), tmp_path_factory.mktemp("history") / "folder")
    return profile_days(folder)


# --- profiles -------------------------------------------------------------------------------------


def test_profiles_say_what_the_days_were(purchases, profiled):
    days = purchases.filter(pl.col("event_date") >= DAY - timedelta(days=2))
    days = days.with_columns(
        unit_price=pl.when(pl.col("event_date") < DAY).then("unit_price"),
        event_type=pl.when(pl.int_range(pl.len()) % 3 > 0)
        .then("event_type")
        .otherwise(pl.lit("view")),
    )
    profile = profiled(days)
    assert profile.equals(conform(profile, DAY_PROFILES))
    check_key(profile, DAY_PROFILES)
    assert profile.equals(profile.sort(DAY_PROFILES.key))
    numbers = {row[:4]: row[4] for row in profile.rows()}
    priced = pl.col("unit_price") > 0
    for (day, kind), rows in days.group_by("event_date", "event_type"):
        assert numbers[day, "rows", "event_type", kind] == rows.height
        assert numbers[day, "nulls", "store_id", kind] == 0
        assert numbers[day, "nulls", "unit_price", kind] == rows["unit_price"].null_count()
        assert numbers[day, "priced", "unit_price", kind] == rows.filter(priced).height
        if rows["unit_price"].drop_nulls().is_empty():
            assert (day, "log_price", "unit_price", kind) not in numbers
            continue
        mean = rows.filter(priced)["unit_price"].log().sum()
        assert numbers[day, "log_price", "unit_price", kind] == pytest.approx(mean)
    stores = days.group_by("event_date", "store_id").len().filter(pl.col("len") >= MIN_ROWS)
    listed = profile.filter(metric="rows", column="store_id")
    assert listed.select("event_date", "value", "number").sort(pl.all()).rows() == (
        stores.sort("event_date", "store_id").rows()
    )


def test_a_column_of_many_values_is_not_listed(purchases, profiled):
    many = purchases.filter(event_date=DAY).head(MAX_VALUES * MIN_ROWS + MIN_ROWS)
    value = (pl.int_range(pl.len()) // MIN_ROWS).cast(pl.String)
    for rows, listed in ((many, 0), (many.head(MAX_VALUES * MIN_ROWS), MAX_VALUES)):
        profile = profiled(rows.with_columns(channel=value))
        assert profile.filter(metric="rows", column="channel").height == listed


def test_no_rows_no_profile(purchases, profiled):
    assert profiled(purchases.clear()).schema == DAY_PROFILES.polars_schema()
    assert profiled(purchases.clear()).is_empty()


# --- real faults ----------------------------------------------------------------------------------

N = pl.int_range(pl.len())


def test_a_usual_day_is_left_in_peace(purchases, history, profiled):
    judged = judge_days(pl.concat([history, profiled(purchases.filter(event_date=DAY))]), [DAY])
    assert judged.equals(conform(judged, DRIFT))
    assert unusual(judged).is_empty()
    assert set(judged["metric"]) == {"volume", "type_share", "null_share", "mean_price", "vanished"}


@pytest.mark.parametrize(
    ("fault", "found"),
    [
        pytest.param(lambda day: day.filter(N % 2 == 0), [("volume", None)], id="half the rows"),
        pytest.param(
            lambda day: pl.concat([day] * 3), [("volume", None)], id="three times the rows"
        ),
        pytest.param(
            lambda day: day.with_columns(item_id=pl.when(N % 10 >= 3).then("item_id")),
            [("null_share", "item_id")],
            id="a column is 30 % null",
        ),
        pytest.param(
            lambda day: day.with_columns(unit_price=pl.col("unit_price") * 100),
            [("mean_price", "unit_price")],
            id="prices in cents",
        ),
        pytest.param(
            lambda day: day.with_columns(
                event_type=pl.when(N % 50 == 0).then(pl.lit("review")).otherwise("event_type")
            ),
            [("new", "event_type")],
            id="a new type of event",
        ),
        pytest.param(
            lambda day: day.with_columns(currency=pl.lit("EUR")),
            [("new", "currency"), ("vanished", "currency")],
            id="another currency",
        ),
        pytest.param(
            lambda day: day.with_columns(event_type=pl.lit("view")),
            [
                ("new", "event_type"),
                ("vanished", "event_type"),
                ("volume", None),
            ],
            id="every type is another",
        ),
    ],
)
def test_real_faults_are_found(purchases, history, profiled, fault, found):
    broken = profiled(fault(purchases.filter(event_date=DAY)))
    odd = unusual(judge_days(pl.concat([history, broken]), [DAY]))
    columns = pl.when(pl.col("metric") != "volume").then("column")
    assert sorted(odd.select("metric", columns).rows(), key=str) == found


# --- no cry of wolf -------------------------------------------------------------------------------


def shop(days: int, rows, **more) -> pl.DataFrame:
    """Profiles of a shop: rows(day number) per type of event, by name."""
    made = []
    for n in range(days):
        day = date(2024, 1, 1) + timedelta(days=n)  # a Monday
        for kind, count in {"view": rows, **more}.items():
            number = count(n)
            if number:
                made.append((day, "rows", "event_type", kind, float(number)))
                made.append((day, "nulls", "item_id", kind, float(number // 50)))
    return pl.DataFrame(made, schema=DAY_PROFILES.polars_schema(), orient="row")


def alarms(profile: pl.DataFrame) -> dict[date, list[str]]:
    days = sorted(set(profile["event_date"]))
    odd = unusual(judge_days(profile, days))
    return {day: list(rows["metric"]) for (day,), rows in odd.group_by("event_date")}


@pytest.mark.parametrize(
    "rows",
    [
        pytest.param(lambda _: 1000, id="steady"),
        pytest.param(lambda n: 300 if n % 7 > 4 else 1000, id="quiet weekends"),
        pytest.param(lambda n: 5000 if n % 7 == 2 else 500, id="a market day"),
        pytest.param(lambda n: round(1000 * 1.01**n), id="one per cent more each day"),
        pytest.param(lambda n: 20 + (n * 7919) % 11, id="a tiny shop"),
        pytest.param(lambda n: 0 if n % 7 == 6 else 800, id="closed on Sundays"),
    ],
)
def test_a_shop_with_habits_raises_no_alarm(rows):
    profile = shop(120, rows)
    assert alarms(profile) == {}
    # and an outage on its habits does
    day = date(2024, 4, 24)  # a Wednesday
    outage = profile.with_columns(
        number=pl.when(pl.col("event_date") == day).then(pl.col("number") / 4).otherwise("number")
    )
    assert alarms(outage) in ({day: ["volume"]}, {})
    assert alarms(outage) or profile.filter(event_date=day)["number"].max() < 50


@pytest.mark.slow
def test_a_real_year_raises_few_alarms(profiled):
    """2017 of Complete Journey: holidays and new stores may be noticed, ordinary days may not."""
    profile = profiled(bought(date(2017, 1, 1), date(2017, 12, 31)))
    days = sorted(set(profile["event_date"]))
    judged = judge_days(profile, days)["event_date"].n_unique()
    assert judged == len(days) - 7
    assert len(alarms(profile)) <= 0.02 * judged


def test_a_type_that_comes_and_goes_moves_nothing_else():
    mailing = {"ad_impression": lambda n: 3000 if n % 20 == 9 else 0}
    profile = shop(120, lambda _: 1000, **mailing)
    first = date(2024, 1, 10)
    assert alarms(profile) == {first: ["new"]}  # never seen before


def test_one_bad_day_does_not_spoil_the_following():
    profile = shop(60, lambda _: 1000)
    day = date(2024, 2, 12)
    outage = profile.with_columns(
        number=pl.when(pl.col("event_date") == day).then(pl.col("number") / 4).otherwise("number")
    )
    assert alarms(outage) == {day: ["volume"]}


def test_a_week_must_be_known_first(monkeypatch):
    profile = shop(8, lambda n: 1000 if n < 7 else 100)
    days = sorted(set(profile["event_date"]))
    assert set(judge_days(profile, days)["event_date"]) == {days[-1]}
    assert list(alarms(profile)) == [days[-1]]
    assert judge_days(profile, days[:-1]).is_empty()
    # The judged days are taken in blocks; their size changes nothing.
    long = shop(70, lambda n: 1000 if n % 13 else 100)
    judged = judge_days(long, sorted(set(long["event_date"])))
    monkeypatch.setattr(drift, "DAYS_AT_ONCE", 7)
    assert judge_days(long, sorted(set(long["event_date"]))).equals(judged)


# --- in the checks --------------------------------------------------------------------------------


def test_drift_warns_and_never_blocks(purchases, history, tmp_path):
    week = purchases.filter(pl.col("event_date") > DAY - timedelta(days=3))
    broken = week.with_columns(
        store_id=pl.when((pl.col("event_date") != DAY) | (N % 2 == 0)).then("store_id")
    )
    known = history.filter(pl.col("event_date") <= DAY - timedelta(days=3))
    results = validate_days(cleaned_of(broken), tmp_path / "docs", history=known)
    assert all(result.success and not result.warnings for result in results)
    assert [result.drift for result in results[:-1]] == [(), ()]
    (sentence,) = results[-1].drift
    assert sentence == (
        f"{DAY}: store_id is missing in 50.0% of the events 'purchase'; 0.0% to 5.0% are usual."
    )
    index = (tmp_path / "docs" / "index.html").read_text()
    assert "store_id is missing in 50.0%" in index
    (page,) = (tmp_path / "docs" / "validations" / "day_drift").rglob("*.html")
    assert "1 unexpected values found" in page.read_text()

    alone = validate_days(cleaned_of(broken), tmp_path / "alone")  # without history
    assert all(result.drift == () for result in alone)


def test_old_profiles_of_the_judged_days_give_way(purchases, history, tmp_path):
    day = purchases.filter(event_date=DAY)
    old = history.filter(event_date=DAY - timedelta(days=7)).with_columns(
        event_date=pl.lit(DAY), number=pl.col("number") / 10
    )
    results = validate_days(cleaned_of(day), tmp_path, history=pl.concat([history, old]))
    assert results[0].drift == ()


def test_a_day_of_which_nothing_is_left_is_missed(purchases, history, tmp_path):
    day = cleaned_of(purchases.filter(event_date=DAY))
    counts = day.counts.with_columns(rows_duplicate="rows_kept", rows_kept=pl.lit(0, pl.Int64))
    empty = Cleaned(day.events.clear(), day.quarantined, counts)
    (result,) = validate_days(empty, tmp_path, history=history)
    assert result.success
    assert any("0 events of the usual types" in sentence for sentence in result.drift)
