"""From scored candidates to lists: what may be shown, room for new items, and nobody left out.

A list keeps half of its places for items that are new for the user, best first: where people buy
again, repeats would fill it, and "new for you" is the list's rows that are no repeats. Who has no
purchase yet, or too few candidates, gets what is popular: among people of the same segment first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import polars as pl

from seq_ml.periods import RECENT_DAYS

if TYPE_CHECKING:
    from datetime import datetime

    from seq_ml.tasks.data import TaskData

SEGMENTS = ("category", "store_id", "channel")
"""What tells the segment of a user without purchases, most telling first: the most frequent value
among the user's events."""


def published_lists(
    scored: pl.DataFrame,
    users: pl.DataFrame,
    purchases: pl.DataFrame,
    data: TaskData,
    as_of: datetime,
) -> pl.DataFrame:
    """Return user_id, item_id, rank, in_stock, dimension, segment for every user.

    scored: user_id, item_id, score, own_count, user_days. users: user_id of all with any event
    before `as_of`. purchases: user_id, item_id, those of merchandise before it. dimension and
    segment are null for what was scored for the user; for what is popular they say among whom:
    "all", or one of `SEGMENTS` and the value that the user shares with others. Beside these columns
    those of `scored` (null for what is popular; its score is 0 and below, falling) and buyers (who
    bought it in the last `RECENT_DAYS` days, among the segment).
    """
    terms = data.business.recommendations
    shelves = _shelves(data, as_of)
    # Never shown: what is sold out and does not come back, and what the business forbids.
    hidden = pl.concat(
        [
            shelves.filter("gone").select("item_id"),
            pl.DataFrame({"item_id": list(terms.deny_items)}, schema={"item_id": pl.String}),
        ]
    )
    allowed = scored.filter(pl.col("user_days") > 0).join(
        hidden, on="item_id", how="anti", maintain_order="left"
    )
    if not terms.allow_repeats:
        allowed = allowed.filter(pl.col("own_count") == 0)
    personal = _best(allowed, terms.per_user).with_columns(segment=pl.lit(None, dtype=pl.String))
    # Places that are left are filled with what is popular, without what the user has or is shown.
    missing = _missing(personal, users, purchases, data)
    popular = _popular(missing, purchases, hidden, data, as_of)
    taken = personal.select("user_id", "item_id")
    if not terms.allow_repeats:
        taken = pl.concat([taken, purchases.select("user_id", "item_id").unique()])
    popular = (
        popular.join(taken, on=["user_id", "item_id"], how="anti", maintain_order="left")
        .with_columns(place=pl.int_range(pl.len()).over("user_id"))
        .filter(pl.col("place") < pl.col("places"))
        .select(
            "user_id",
            "item_id",
            "dimension",
            "segment",
            "buyers",
            score=-pl.col("place").cast(pl.Float64),
        )
    )
    return (
        pl.concat([personal, popular], how="diagonal")
        .sort(
            ["user_id", pl.col("segment").is_not_null(), "score", "item_id"],
            descending=[False, False, True, False],
        )
        .with_columns(rank=pl.int_range(1, pl.len() + 1, dtype=pl.Int32).over("user_id"))
        .join(
            shelves.select("item_id", "in_stock"), on="item_id", how="left", maintain_order="left"
        )
    )


def _shelves(data: TaskData, as_of: datetime) -> pl.DataFrame:
    """Return the stock over all stores: item_id, in_stock, gone (none there, and none comes)."""
    return (
        data.stock_known(as_of)
        .group_by("item_id")
        .agg(pl.col("on_hand", "on_order").sum())
        .select(
            "item_id",
            in_stock=pl.col("on_hand") > 0,
            gone=pl.col("on_hand") + pl.col("on_order") <= 0,
        )
        .sort("item_id")
    )


def _best(scored: pl.DataFrame, places: int) -> pl.DataFrame:
    """Best rows of each user, half of the places kept for items never bought by the user."""
    new = pl.col("own_count") == 0
    kept = new & (pl.int_range(pl.len()).over("user_id", new) < places // 2)
    return (
        scored.sort(["user_id", "score", "item_id"], descending=[False, True, False])
        .with_columns(kept=kept)
        .sort(["user_id", "kept", "score", "item_id"], descending=[False, True, True, False])
        .filter(pl.int_range(pl.len()).over("user_id") < places)
        .drop("kept")
    )


def _missing(
    personal: pl.DataFrame, users: pl.DataFrame, purchases: pl.DataFrame, data: TaskData
) -> pl.DataFrame:
    """Users with fewer rows than places, sorted by id.

    Columns: user_id, places (that are free), depth (popular items among which there are enough,
    whatever the user's rows and own items take away).
    """
    terms = data.business.recommendations
    had = personal.group_by("user_id").agg(had=pl.len().cast(pl.Int64))
    owned = purchases.group_by("user_id").agg(owned=pl.col("item_id").n_unique().cast(pl.Int64))
    if terms.allow_repeats:
        owned = owned.with_columns(owned=pl.lit(0, dtype=pl.Int64))
    return (
        users.join(had, on="user_id", how="left")
        .join(owned, on="user_id", how="left")
        .with_columns(pl.col("had", "owned").fill_null(0))
        .filter(pl.col("had") < terms.per_user)
        .select(
            "user_id",
            places=terms.per_user - pl.col("had"),
            depth=terms.per_user + pl.col("owned"),
        )
        .sort("user_id")
    )


def _popular(
    users: pl.DataFrame,
    purchases: pl.DataFrame,
    hidden: pl.DataFrame,
    data: TaskData,
    as_of: datetime,
) -> pl.DataFrame:
    """Popular items for each user, best first, those of the user's segment before those of all.

    users: as `_missing` returns. Returns user_id, places, item_id, dimension, segment, buyers.
    """
    everyone = users.with_columns(dimension=pl.lit("all"), segment=pl.lit("all"))
    segments = _segments(users.select("user_id"), purchases, data, as_of)
    of_segment = segments.join(users, on="user_id").select(everyone.columns)
    wanted = pl.concat([of_segment, everyone]).with_columns(
        dimension=pl.col("dimension").cast(pl.Enum([*SEGMENTS, "all"]))
    )
    sold = _sold(purchases, hidden, data, as_of)
    deepest = users["depth"].max() or 0
    tops = [
        _top_items(sold, segments_of_one, str(dimension[0]), deepest)
        for dimension, segments_of_one in wanted.group_by("dimension", maintain_order=True)
    ]
    if not tops:
        texts = ("user_id", "item_id", "dimension", "segment")
        numbers = {"places": pl.Int64, "buyers": pl.UInt32}
        return pl.DataFrame(schema={**dict.fromkeys(texts, pl.String), **numbers})
    top = pl.concat(tops).cast({"dimension": wanted.schema["dimension"]})
    # Most users own nothing: the few who do may not make the lists of all deep.
    shallow = data.business.recommendations.per_user
    few, many = wanted.filter(depth=shallow), wanted.filter(pl.col("depth") > shallow)
    return (
        pl.concat(
            [
                few.join(top.filter(pl.col("order") < shallow), on=["dimension", "segment"]),
                many.join(top, on=["dimension", "segment"]),
            ]
        )
        .sort("user_id", "dimension", "order")
        .unique(["user_id", "item_id"], keep="first", maintain_order=True)
        .select("user_id", "places", "item_id", pl.col("dimension").cast(str), "segment", "buyers")
    )


def _sold(
    purchases: pl.DataFrame, hidden: pl.DataFrame, data: TaskData, as_of: datetime
) -> pl.LazyFrame:
    """Purchases of what may be shown: user_id, item_id, recent (bool), and `SEGMENTS`."""
    catalogue = data.items_known(as_of).select("item_id", "category")
    return (
        data.events_before(as_of)
        .filter(data.business.of_role("conversion"))
        .select(
            "user_id",
            "item_id",
            "store_id",
            "channel",
            recent=pl.col("event_time") >= as_of - pl.duration(days=RECENT_DAYS),
        )
        .join(purchases.lazy().select("item_id").unique(), on="item_id", how="semi")
        .join(hidden.lazy(), on="item_id", how="anti")
        .join(catalogue.lazy(), on="item_id", how="left")
    )


def _top_items(
    sold: pl.LazyFrame, wanted: pl.DataFrame, dimension: str, depth: Any
) -> pl.DataFrame:
    """Most bought items of each segment of a dimension: those of lately, then those of all time."""
    segment = pl.lit("all") if dimension == "all" else pl.col(dimension)
    return (
        sold.with_columns(segment=segment)
        .join(wanted.lazy().select("segment").unique(), on="segment", how="semi")
        .group_by("segment", "item_id")
        .agg(
            buyers=pl.col("user_id").filter("recent").n_unique(),
            ever=pl.col("user_id").n_unique(),
        )
        .sort(["segment", "buyers", "ever", "item_id"], descending=[False, True, True, False])
        .with_columns(order=pl.int_range(pl.len()).over("segment"))
        .filter(pl.col("order") < depth)
        .select("segment", "item_id", "buyers", "order", dimension=pl.lit(dimension))
        .collect()
    )


def _segments(
    users: pl.DataFrame, purchases: pl.DataFrame, data: TaskData, as_of: datetime
) -> pl.DataFrame:
    """Ask the users' own events: user_id, dimension, segment; at most one row a user."""
    buyers = purchases.select("user_id").unique()
    strangers = users.join(buyers, on="user_id", how="anti")
    catalogue = data.items_known(as_of).select("item_id", "category")
    events = (
        data.events_before(as_of)
        .select("user_id", "item_id", "store_id", "channel")
        .join(strangers.lazy(), on="user_id", how="semi")
        .join(catalogue.lazy(), on="item_id", how="left")
        .collect()
    )
    parts = [
        events.drop_nulls(dimension)
        .group_by("user_id", segment=dimension)
        .len("events")
        .sort(["user_id", "events", "segment"], descending=[False, True, False])
        .unique("user_id", keep="first", maintain_order=True)
        .select("user_id", "segment", dimension=pl.lit(dimension))
        for dimension in SEGMENTS
    ]
    return pl.concat(parts).unique("user_id", keep="first", maintain_order=True)
