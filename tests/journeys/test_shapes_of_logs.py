"""Logs that lack what others have, from their files to the tables: items, sales, prices."""

from __future__ import annotations

from tests.journeys.trial import NO_CAMPAIGN, NO_ITEM, Business, Expected


class TestOrdersWithoutItems(Business):
    wanted = Expected(
        "orders without items",
        published=("churn_predictions", "user_profiles"),
        refused=NO_CAMPAIGN | NO_ITEM,
        earlier="2009-12-24",
        judged=("churn_silence", "spend"),
    )


class TestClickStream(Business):
    wanted = Expected(
        "click-stream with own names",
        smaller={"user_profiles": "price"},
        refused=NO_CAMPAIGN | NO_ITEM | {"churn_predictions": "no baseline could be fitted"},
        money=False,
    )


class TestMarketplace(Business):
    wanted = Expected(
        "marketplace",
        published=("next_baskets", "inventory_predictions"),
        smaller={
            "recommendations": "no baseline could be fitted",
            "churn_predictions": "no baseline could be fitted",
            "user_profiles": "28 users with purchases",
        },
        refused=NO_CAMPAIGN | {"item_to_item": "20 baskets"},
    )


class TestOrdersWithoutPrices(Business):
    wanted = Expected(
        "orders without prices",
        published=("recommendations", "item_to_item", "next_baskets", "inventory_predictions"),
        smaller={"churn_predictions": "price", "user_profiles": "price"},
        refused=NO_CAMPAIGN,
        money=False,
    )
