"""Currencies: amounts by the rate of their day, unknown without one, never mixed."""

from __future__ import annotations

from datetime import UTC, date, datetime

import polars as pl
import pytest

from seq_ml.business import Business
from seq_ml.clean.currencies import in_own_currency, unconverted
from seq_ml.schema import EVENTS, EXCHANGE_RATES, SUBSCRIPTIONS
from seq_ml.sequences.segments import update_sequences
from seq_ml.storage.contracts import conform
from seq_ml.tasks.data import load_task_data
from tests.clean.counted import counted
from tests.shop import MAPPING, SETTINGS
from tests.staged import clean, rows

RATES = [
    (date(2024, 5, 3), "CHF", "EUR", 1.02),
    (date(2024, 5, 6), "chf", "EUR", 1.05),
    (date(2024, 5, 4), "EUR", "USD", 1.25),
    (date(2024, 5, 4), "USD", "CHF", 0.9),  # between two others: of no use
]


def rates(*some: tuple[date, str, str, float]) -> pl.DataFrame:
    return pl.DataFrame(list(some), schema=EXCHANGE_RATES.polars_schema(), orient="row")


def paid(*some: tuple[str | None, int, float | None]) -> pl.DataFrame:
    """Purchases: (currency, day of May 2024, price), a tenth of it as discount."""
    records = [
        {
            **dict.fromkeys(EVENTS.names),
            "event_id": f"e{n}",
            "user_id": f"{n % 2:032x}",
            "event_type": "purchase",
            "item_id": "tea",
            "event_time": datetime(2024, 5, day, 12, tzinfo=UTC),
            "event_date": date(2024, 5, day),
            "quantity": 1.0,
            "currency": currency,
            "unit_price": price,
            "discount": None if price is None else price / 10,
        }
        for n, (currency, day, price) in enumerate(some)
    ]
    return pl.DataFrame(records, schema=EVENTS.polars_schema())


def converted(events: pl.DataFrame, known: pl.DataFrame, own: str = "EUR") -> list[float | None]:
    found = in_own_currency(events.lazy(), known, own).collect()
    amounts = ("unit_price", "discount", "coupon_discount")
    assert found.drop(amounts).equals(events.drop(amounts))
    tenth = found.select((pl.col("unit_price") / 10).round(9), pl.col("discount").round(9))
    assert tenth["unit_price"].equals(tenth["discount"], null_equal=True)
    return found["unit_price"].round(6).to_list()


def test_each_amount_counts_at_the_newest_rate_on_or_before_its_day():
    events = paid(
        ("EUR", 5, 10.0), (None, 5, 10.0), ("CHF", 3, 10.0), ("CHF", 5, 10.0), ("CHF", 6, 10.0),
        ("USD", 5, 10.0), ("USD", 5, None),
    )  # fmt: skip
    assert converted(events, rates(*RATES)) == [10.0, 10.0, 10.2, 10.2, 10.5, 8.0, None]


def test_before_the_first_rate_in_a_gap_and_of_an_unknown_code_nothing_is_known():
    events = paid(("CHF", 2, 10.0), ("CHF", 13, 10.0), ("CHF", 14, 10.0), ("SEK", 5, 10.0))
    assert converted(events, rates(*RATES)) == [None, 10.5, None, None]
    assert converted(events, rates()) == [None] * 4


def test_where_all_is_in_one_currency_nothing_is_done():
    events = paid(("EUR", 2, 10.0), (None, 3, None)).lazy()
    assert in_own_currency(events, rates(*RATES), "EUR") is events


def test_foreign_money_is_kept_and_a_code_that_is_none_is_not():
    done = clean(
        rows(
            {"currency": "chf", "unit_price": 1.0}, {"currency": "XXX", "unit_price": 1.0},
            {"currency": "francs", "unit_price": 1.0}, {"currency": "IDR", "unit_price": 250_000.0},
        )
    )  # fmt: skip
    assert done.events.sort("event_id")["currency"].to_list() == ["CHF", "XXX", "IDR"]
    assert counted(done) == {("currency", "currency"): 1}


@pytest.mark.parametrize("known", [False, True])
def test_three_currencies_with_and_without_rates(objects, tables, tmp_path, known):
    """Tasks, sequences and the sentence; the shop is a German one."""
    objects.put("sources/shop.yaml", MAPPING.encode())
    events = paid(("EUR", 6, 10.0), ("CHF", 6, 10.0), ("USD", 6, 10.0), ("USD", 20, 10.0))
    tables.append(EVENTS.name, conform(events, EVENTS), partition_by="event_date")
    if known:
        tables.append(EXCHANGE_RATES.name, conform(rates(*RATES), EXCHANGE_RATES))
    business = Business(currency="EUR", timezone="Europe/Berlin")
    data = load_task_data(tables, business, tmp_path, encoder=None, seed=7)
    prices = data.events.sort("event_id").collect()["unit_price"].to_list()
    assert prices == ([10.0, 10.5, 8.0, None] if known else [10.0, None, None, None])
    share, names = ("25.0%", "(USD)") if known else ("75.0%", "(USD, CHF)")
    said = unconverted(tables, "EUR")
    assert said.startswith(f"{share} of the events with a price")
    assert names in said
    update_sequences(tables, SETTINGS)
    segments = tables.scan("user_sequences").explode("unit_prices", "event_times").collect()
    assert sorted(segments["unit_prices"].drop_nulls()) == sorted(p for p in prices if p)
    assert unconverted(tables, "SEK").startswith("100.0%")


def test_the_price_of_a_subscription_in_another_currency_is_unknown(tables, tmp_path):
    rows = [
        {**dict.fromkeys(SUBSCRIPTIONS.names), "user_id": f"u{n}", "price": 12.0, "currency": code}
        for n, code in enumerate(("EUR", None, "CHF"))
    ]
    terms = pl.DataFrame(rows, schema=SUBSCRIPTIONS.polars_schema()).with_columns(
        subscription_id=pl.lit("MAIN"),
        plan=pl.lit("yearly"),
        started_at=pl.lit(datetime(2024, 5, 1, tzinfo=UTC), pl.Datetime("us", "UTC")),
    )
    tables.append(SUBSCRIPTIONS.name, conform(terms, SUBSCRIPTIONS))
    data = load_task_data(tables, Business(currency="EUR"), tmp_path, encoder=None, seed=7)
    assert data.subscriptions.sort("user_id")["price"].to_list() == [12.0, 12.0, None]
