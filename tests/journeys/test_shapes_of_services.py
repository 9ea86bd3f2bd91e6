"""Businesses without a till, from their files to the tables: stars, stays, plans, plays."""

from __future__ import annotations

from tests.journeys.trial import NO_CAMPAIGN, NO_ITEM, Business, Expected

ITEM_TABLES = ("recommendations", "item_to_item", "next_baskets")
NO_GOODS = {"inventory_predictions": "so nothing leaves a shelf here: log unit_price with"}


class TestRatingsOnly(Business):
    wanted = Expected(
        "ratings only",
        published=ITEM_TABLES,
        smaller={"churn_predictions": "price", "user_profiles": "price"},
        refused=NO_CAMPAIGN | NO_GOODS,
        money=False,
    )


class TestBookings(Business):
    wanted = Expected(
        "bookings",
        published=(*ITEM_TABLES, "inventory_predictions", "churn_predictions", "user_profiles"),
        refused=NO_CAMPAIGN,
    )


class TestMonthlySubscriptions(Business):
    wanted = Expected(
        "monthly subscriptions",
        published=("churn_predictions", "user_profiles"),
        refused=NO_CAMPAIGN | NO_ITEM,
    )


class TestStreaming(Business):
    wanted = Expected(
        "streaming",
        published=ITEM_TABLES,
        smaller={"churn_predictions": "price", "user_profiles": "price"},
        refused=NO_CAMPAIGN | NO_GOODS,
        money=False,
        earlier="2024-06-14",
        judged=("recommendations",),
    )
