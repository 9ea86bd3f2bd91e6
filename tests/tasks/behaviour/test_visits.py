"""One definition of an order for all tasks: user, session and business day."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import polars as pl

from seq_ml.business import Business
from seq_ml.tasks.behaviour.features import behaviour_features
from seq_ml.tasks.behaviour.visits import merchandise_bought, read_behaviour
from seq_ml.tasks.item_to_item.rows import item_to_item
from seq_ml.tasks.profiles.anomalies import anomaly_features
from tests.tasks.recommendations.test_task import catalogue, purchases, task_data

AS_OF = datetime(2024, 5, 11, 4, tzinfo=UTC)
"""Midnight in New York."""
NEW_YORK = Business(timezone="America/New_York")


def data(*rows: tuple[str, str | None, str]):
    """Purchases of tea: (user, session, time of the tenth or eleventh of May in UTC)."""
    times = [datetime.fromisoformat(f"2024-05-{time}+00:00") for *_, time in rows]
    events = purchases(*((user, "tea", at) for (user, *_), at in zip(rows, times, strict=True)))
    events = events.with_columns(session_id=pl.Series([session for _, session, _ in rows]))
    return replace(task_data(events, items=catalogue("tea")), business=NEW_YORK)


def test_orders_are_of_a_user_a_session_and_a_business_day():
    found = data(
        ("anna", "1", "10 12:00"),
        ("anna", "1", "10 12:05"),  # the same order
        ("anna", "1", "11 03:59"),  # a minute before midnight in New York: still
        ("anna", None, "10 12:08"),
        ("anna", None, "10 23:00"),  # without a session: the order of the day
        ("anna", None, "10 03:00"),  # the tenth in UTC, the ninth in New York
        ("ben", "1", "10 12:00"),  # the shop counts sessions for each user anew
        ("carl", "2", "10 03:58"),
        ("carl", "2", "10 04:02"),  # on after midnight: two
    )
    visits = read_behaviour(found, AS_OF).visits
    assert visits.group_by("user_id", "day", maintain_order=True).agg("lines").rows() == [
        ("anna", date(2024, 5, 9), [1]),
        ("anna", date(2024, 5, 10), [3, 2]),
        ("ben", date(2024, 5, 10), [1]),
        ("carl", date(2024, 5, 9), [1]),
        ("carl", date(2024, 5, 10), [1]),
    ]
    baskets = merchandise_bought(found, AS_OF).group_by("user_id", "basket").len()
    orders = dict(baskets.group_by("user_id").len().rows())
    assert orders == {"anna": 3, "ben": 1, "carl": 2}
    counted = behaviour_features(read_behaviour(found, AS_OF), AS_OF)
    assert dict(counted.select("user_id", "orders_window").rows()) == orders
    unusual = anomaly_features(visits, found, AS_OF)
    assert dict(unusual.select("user_id", "orders_window").rows()) == orders
    assert unusual["quick_orders_window"].to_list() == [1, 0, 1]


def test_equal_session_numbers_of_two_users_are_no_company():
    """Baskets of different users never meet, though the shop counts the visits of each user."""
    rows = [("anna", "tea", n) for n in range(25)] + [("ben", "milk", n) for n in range(25)]
    rows += [("carl", "bread", n) for n in range(25, 75)]
    events = purchases(*((user, item, AS_OF - timedelta(days=1 + n)) for user, item, n in rows))
    events = events.with_columns(session_id=pl.Series([str(n) for *_, n in rows]))
    items = catalogue("tea", "milk", "bread")
    bought = merchandise_bought(task_data(events, items=items), AS_OF)
    assert bought.height == len(rows)
    assert item_to_item([bought], items.select("item_id", "category")).is_empty()
