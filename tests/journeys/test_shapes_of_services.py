"""Businesses without a till, from their files to the tables: stars, stays, plans, plays."""

from __future__ import annotations

import re

import polars as pl

from seq_ml import schema
from seq_ml.tables.states import recorded_state
from tests.journeys.trial import NO_CAMPAIGN, NO_ITEM, Business, Expected, Trial

ITEM_TABLES = ("recommendations", "item_to_item", "next_baskets")
NO_GOODS = {"inventory_predictions": "so nothing leaves a shelf here: log unit_price with"}


NAMES = {"rec_type", "kind", "source", "model_version", "run_id", "clv_source"}
"""Columns that hold names, which are the same in every business, not sentences."""


class Service(Business):
    """A business that sells nothing over a counter."""

    def test_nobody_reads_of_buying(self, trial: Trial) -> None:
        texts = [trial.said.output]
        for name in schema.PUBLISHED:
            rows, state = trial.table(name), recorded_state(trial.objects, name)
            texts.append(state.why if state else "")
            texts += [
                text
                for column, kind in rows.schema.items()
                if kind == pl.String and column not in NAMES and not column.endswith("_id")
                for text in rows[column].drop_nulls().unique()
            ]
        reports = sorted((trial.root / "home" / "site" / "reports").rglob("*.html"))
        assert reports
        texts += [
            re.sub(r"<svg.*?</svg>|<[^>]*>", " ", page.read_text().replace("<wbr>", ""))
            for page in reports
        ]
        word = re.compile(r".{0,60}\b(bought|buy|buys|buyers?|purchas\w+)\b(?!_).{0,40}", re.I)
        assert {found[0] for text in texts for found in word.finditer(text)} == set()


class TestRatingsOnly(Service):
    wanted = Expected(
        "ratings only",
        published=ITEM_TABLES,
        smaller={"churn_predictions": "price", "user_profiles": "price"},
        refused=NO_CAMPAIGN | NO_GOODS,
        money=False,
    )


class TestBookings(Service):
    wanted = Expected(
        "bookings",
        published=(*ITEM_TABLES, "inventory_predictions", "churn_predictions", "user_profiles"),
        refused=NO_CAMPAIGN,
    )


class TestMonthlySubscriptions(Service):
    wanted = Expected(
        "monthly subscriptions",
        published=("churn_predictions", "user_profiles"),
        refused=NO_CAMPAIGN | NO_ITEM,
    )


class TestStreaming(Service):
    wanted = Expected(
        "streaming",
        published=ITEM_TABLES,
        smaller={"churn_predictions": "price", "user_profiles": "price"},
        refused=NO_CAMPAIGN | NO_GOODS,
        money=False,
        earlier="2024-06-14",
        judged=("recommendations",),
    )
