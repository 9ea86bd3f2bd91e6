"""User profiles: the contract, counts by hand, segments that stay."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import polars as pl
import pytest

from seq_ml.business import Business
from seq_ml.schema import STAMP, USER_PROFILES
from seq_ml.storage.tables import check_key, conform
from seq_ml.tasks.profiles import SEGMENTS, user_profiles
from tests.data import AS_OF, journey
from tests.test_churn import FakeEncoder, purchases, task_data


@pytest.fixture(scope="module")
def profiles() -> pl.DataFrame:
    return user_profiles(task_data(encoder=FakeEncoder(AS_OF)), AS_OF)


def test_every_user_has_one_row_of_the_contract(profiles):
    table = conform(
        profiles.with_columns(
            as_of=pl.lit(AS_OF),
            model_version=pl.lit("v"),
            source=pl.lit("rules"),
            run_id=pl.lit("r"),
            created_at=pl.lit(AS_OF),
        ),
        USER_PROFILES,
    )
    check_key(table, USER_PROFILES)
    assert len(profiles.columns) == len(USER_PROFILES.columns) - len(STAMP)
    users = journey(households=60)["clean_events"]["user_id"].unique()
    assert set(table["user_id"]) == set(users)
    assert set(table["segment"]) <= set(SEGMENTS)
    assert table["embedding"].list.len().unique().to_list() == [2]
    assert (table["orders_28d"] <= table["orders_91d"]).all()
    assert (table["orders_91d"] <= table["orders_total"]).all()
    assert table["anomaly_reason"].drop_nulls().len() >= 1
    assert all(tag["evidence"] for tags in table["tags"] for tag in tags)


def test_counts_by_hand():
    now, day = datetime(2024, 6, 1, tzinfo=UTC), timedelta(days=1)
    orders = [("a", now - n * day, 10.0) for n in (1, 5, 9, 60, 200)]
    orders += [("b", now - 120 * day, 7.0), ("c", now - 3 * day, 1.0)]
    profiles = user_profiles(task_data(purchases(orders), Business()), now)
    a = profiles.row(by_predicate=pl.col("user_id") == "a", named=True)
    assert (a["orders_28d"], a["orders_91d"], a["orders_365d"], a["orders_total"]) == (3, 4, 5, 5)
    assert (a["spend_28d"], a["spend_total"], a["aov"]) == (30.0, 50.0, 10.0)
    assert (a["recency_days"], a["tenure_days"]) == (1.0, 200.0)
    assert a["avg_days_between_orders"] == pytest.approx(199 / 4)
    assert profiles["segment"].to_list()[1:] == ["lost", "new"]


def test_the_same_day_gives_the_same_and_a_kept_segment_keeps_its_date(profiles):
    data = task_data(encoder=FakeEncoder(AS_OF))
    assert user_profiles(data, AS_OF).equals(profiles)
    earlier = user_profiles(data, AS_OF - timedelta(days=7))
    now = user_profiles(data, AS_OF, earlier)
    joined = now.join(earlier, on="user_id", suffix="_before")
    kept = joined["segment"] == joined["segment_before"]
    assert kept.mean() > 0.6, "rules on 91 days move slowly"
    assert (joined.filter(kept)["segment_since"] == date(2017, 12, 25)).all()
    assert (joined.filter(~kept)["segment_since"] == date(2018, 1, 1)).all()
