"""Shops with a catalogue, from their files to the tables: fashion, wholesale, currencies, young."""

from __future__ import annotations

import polars as pl
import pytest

from tests.journeys.shapes import SHAPES
from tests.journeys.trial import NO_CAMPAIGN, Business, Expected, Trial

ITEM_TABLES = ("recommendations", "item_to_item", "next_baskets", "inventory_predictions")


class TestFashion(Business):
    wanted = Expected(
        "fashion",
        published=(*ITEM_TABLES, "churn_predictions", "user_profiles"),
        refused=NO_CAMPAIGN,
    )

    def test_revenue_is_net_of_returns(self, trial: Trial) -> None:
        lines = SHAPES["fashion"].make()["lines.csv"]
        sign = pl.when(pl.col("booked") == "return").then(-1).otherwise(1)
        net = lines.select((sign * pl.col("price")).sum()).item()
        assert trial.table("user_profiles")["spend_total"].sum() == pytest.approx(net)

    def test_a_list_names_a_style_once_and_of_the_season(self, trial: Trial) -> None:
        listed = trial.table("recommendations").with_columns(
            style=pl.col("item_id").str.split("-").list.first()
        )
        assert not listed.select("user_id", "style").is_duplicated().any()
        newest = (
            SHAPES["fashion"]
            .make()["articles.csv"]
            .filter(pl.col("listed_from") == pl.col("listed_from").max())
        )
        assert listed["style"].is_in(newest["style"].implode()).mean() > 0.5


class TestWholesale(Business):
    wanted = Expected(
        "B2B",
        published=(*ITEM_TABLES, "churn_predictions", "user_profiles"),
        refused=NO_CAMPAIGN,
    )


class TestThreeCurrencies(Business):
    wanted = Expected(
        "three currencies",
        published=(*ITEM_TABLES, "churn_predictions", "user_profiles"),
        refused=NO_CAMPAIGN,
    )

    def test_spend_is_in_the_currency_of_the_business(self, trial: Trial) -> None:
        files = SHAPES["three currencies"].make()
        rates = files["rates.csv"].with_columns(pl.col("day").str.to_date()).sort("day")
        orders = files["orders.csv"].with_columns(day=pl.col("at").str.slice(0, 10).str.to_date())
        in_euro = orders.sort("day").join_asof(rates, on="day", by="money", check_sortedness=False)
        spent = in_euro.select((pl.col("price") * pl.col("in_eur").fill_null(1)).sum()).item()
        assert trial.table("user_profiles")["spend_total"].sum() == pytest.approx(spent)


class TestThreeWeeksOld(Business):
    wanted = Expected(
        "three weeks old",
        published=("recommendations", "item_to_item", "next_baskets"),
        smaller={"user_profiles": "70 days"},
        refused=NO_CAMPAIGN
        | {
            "churn_predictions": "needs 70 days of purchases",
            "inventory_predictions": "needs 10 complete weeks",
        },
    )
