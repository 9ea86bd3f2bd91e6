"""From scored candidates to lists: what may be shown, room for new items, and nobody left out.

A list keeps half of its places for items that are new for the user, best first: where people buy
again, repeats would fill it, and "new for you" is the list's rows that are no repeats. Who has no
purchase yet, or too few candidates, gets what is popular: among people of the same segment first.
Items that nobody bought yet stand among the others at even distances, so that every beginning of a
list has about their share; the order of the others stays.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from seq_ml.periods import RECENT_DAYS
from seq_ml.tasks.behaviour.assortment import best_variants
from seq_ml.tasks.behaviour.sums import Sums

if TYPE_CHECKING:
    from seq_ml.tasks.behaviour.assortment import Assortment
    from seq_ml.tasks.data import TaskData
    from seq_ml.tasks.recommendations.known import Known, Terms

SEGMENTS = ("category", "store_id", "channel")
"""What tells the segment of a user without purchases, most telling first: the most frequent value
among the user's events."""
SHOWN = (
    "user_id",
    "item_id",
    "user_days",
    "own_count",
    "own_last_days",
    "own_interval",
    "item_age_days",
    "item_buyers_28",
)
"""Columns of the examples that lists and their reasons are made of."""


def published_lists(
    scored: pl.DataFrame, known: Known, unseen: pl.DataFrame | None = None
) -> pl.DataFrame:
    """Return the lists that would be published at the origin, of everybody known; items: products.

    scored: user_id, item_id, score, own_count, user_days. unseen: user_id, item_id,
    place of items that nobody bought yet (0 = best). Returns user_id, item_id, rank, dimension,
    segment: the last two are null for what was scored for the user; for what is popular they say
    among whom: "all", or one of `SEGMENTS` and the value that the user shares with others. Beside
    these columns those of `scored` (null for what is popular; its score is 0 and below, falling),
    buyers (who bought it in the last `RECENT_DAYS` days, among the segment) and place (null but for
    unseen items, whose score is that of the row before).
    """
    terms, bought = known.terms, known.past.select("user_id", "item_id").unique()
    users = pl.DataFrame({"user_id": known.users})
    allowed = scored.filter(
        pl.col("user_days") > 0, ~pl.col("item_id").is_in(known.range_.hidden.implode())
    )
    if not terms.repeats:
        allowed = allowed.filter(pl.col("own_count") == 0)
    chosen = _chosen(unseen, allowed, users, known)
    places = users.join(
        chosen.group_by("user_id").agg(taken=pl.len().cast(pl.Int64)), on="user_id", how="left"
    )
    places = places.with_columns(pl.col("taken").fill_null(0))
    personal = _best(allowed, places, terms.per_user).with_columns(
        segment=pl.lit(None, dtype=pl.String)
    )
    # Places that are left are filled with what is popular, without what the user has or is shown.
    missing = _missing(personal, places, bought, terms)
    taken = personal.select("user_id", "item_id")
    if not terms.repeats:
        taken = pl.concat([taken, bought])
    popular = (
        _popular(missing, known)
        .join(taken, on=["user_id", "item_id"], how="anti", maintain_order="left")
        .with_columns(order=pl.int_range(pl.len()).over("user_id"))
        .filter(pl.col("order") < pl.col("places"))
        .select(
            "user_id",
            "item_id",
            "dimension",
            "segment",
            "buyers",
            score=-pl.col("order").cast(pl.Float64),
        )
    )
    others = (
        pl.concat([personal, popular], how="diagonal")
        .sort(
            ["user_id", pl.col("segment").is_not_null(), "score", "item_id"],
            descending=[False, False, True, False],
        )
        .with_columns(at=pl.int_range(1, pl.len() + 1).over("user_id").cast(pl.Float64))
    )
    # The j-th of k new items comes behind as many others as keep their share even.
    even = ((pl.col("place") + 1) * terms.per_user / pl.len().over("user_id")).ceil()
    chosen = chosen.with_columns(at=even - pl.col("place") - 0.5)
    return (
        pl.concat([others, chosen], how="diagonal")
        .sort("user_id", "at", "place")
        .with_columns(
            pl.col("score").forward_fill().backward_fill().over("user_id").fill_null(0.0),
            rank=pl.int_range(1, pl.len() + 1, dtype=pl.Int32).over("user_id"),
        )
        .drop("at")
    )


def _chosen(
    unseen: pl.DataFrame | None, allowed: pl.DataFrame, users: pl.DataFrame, known: Known
) -> pl.DataFrame:
    """Unseen items that get a place: user_id, item_id, place.

    As many as the share of new items asks for beyond what was scored and is new; at least one.
    """
    nothing = {"user_id": pl.String, "item_id": pl.String, "place": pl.Int64}
    if unseen is None:
        return pl.DataFrame(schema=nothing)
    terms = known.terms
    none = users.select("user_id", taken=pl.lit(0, dtype=pl.Int64))
    recent = (
        _best(allowed, none, terms.per_user)
        .filter(pl.col("item_id").is_in(known.young.implode()))
        .group_by("user_id")
        .agg(recent=pl.len().cast(pl.Int64))
    )
    return (
        unseen.join(recent, on="user_id", how="left", maintain_order="left")
        .filter(
            pl.col("place") < (terms.most_new - pl.col("recent").fill_null(0)).clip(lower_bound=1)
        )
        .select(pl.col(name).cast(kind) for name, kind in nothing.items())
    )


def name_variants(
    lists: pl.DataFrame, known: Known, range_: Assortment, stock: pl.DataFrame
) -> pl.DataFrame:
    """Put a variant in the place of each product: `item_id`; the product stays as `product`.

    range_: where nothing is hidden, that of `known`. stock: of `shelves`. Which one: what the user
    bought most often, else one in stock, else what sells best.
    """
    lists = lists.with_columns(product="item_id")
    if not range_.variants.height:
        return lists
    bought = known.purchases.group_by("user_id", "item_id").len("own")
    named = (
        lists.select("user_id", "product")
        .join(best_variants(known.sold, range_, stock), on="product")
        .join(bought, left_on=["user_id", "variant"], right_on=["user_id", "item_id"], how="left")
        .sort(
            [pl.col("own").fill_null(0), "in_stock", "sold", "variant"],
            descending=[True, True, True, False],
        )
        .unique(["user_id", "product"], keep="first", maintain_order=True)
        .select("user_id", "product", "variant")
    )
    return (
        lists.join(named, on=["user_id", "product"], how="left", maintain_order="left")
        .with_columns(item_id=pl.coalesce("variant", "item_id"))
        .drop("variant")
    )


def _best(scored: pl.DataFrame, taken: pl.DataFrame, places: int) -> pl.DataFrame:
    """Best rows of each user, half of the places kept for items never bought by the user.

    taken: user_id, taken: places that went to such items already.
    """
    new = pl.col("own_count") == 0
    half = places // 2 - pl.col("taken")
    kept = new & (pl.int_range(pl.len()).over("user_id", new) < half)
    return (
        scored.join(taken, on="user_id")
        .sort(["user_id", "score", "item_id"], descending=[False, True, False])
        .with_columns(kept=kept)
        .sort(["user_id", "kept", "score", "item_id"], descending=[False, True, True, False])
        .filter(pl.int_range(pl.len()).over("user_id") < places - pl.col("taken"))
        .drop("kept", "taken")
    )


def _missing(
    personal: pl.DataFrame, users: pl.DataFrame, bought: pl.DataFrame, terms: Terms
) -> pl.DataFrame:
    """Users (user_id, taken: of the places) with fewer rows than places, sorted by id.

    Columns: user_id, places (that are free), depth (popular items among which there are enough,
    whatever the user's rows and own items take away).
    """
    had = personal.group_by("user_id").agg(had=pl.len().cast(pl.Int64))
    owned = bought.group_by("user_id").agg(owned=pl.len().cast(pl.Int64))
    if terms.repeats:
        owned = owned.with_columns(owned=pl.lit(0, dtype=pl.Int64))
    return (
        users.join(had, on="user_id", how="left")
        .join(owned, on="user_id", how="left")
        .with_columns(pl.col("had").fill_null(0) + pl.col("taken"), pl.col("owned").fill_null(0))
        .filter(pl.col("had") < terms.per_user)
        .select(
            "user_id",
            places=terms.per_user - pl.col("had"),
            depth=terms.per_user + pl.col("owned"),
        )
        .sort("user_id")
    )


def _popular(users: pl.DataFrame, known: Known) -> pl.DataFrame:
    """Popular items for each user, best first, those of the user's segment before those of all.

    users: as `_missing` returns. Returns user_id, places, item_id, dimension, segment, buyers.
    """
    everyone = users.with_columns(dimension=pl.lit("all"), segment=pl.lit("all"))
    of_segment = _segments(users, known).join(users, on="user_id").select(everyone.columns)
    wanted = pl.concat([of_segment, everyone]).with_columns(
        dimension=pl.col("dimension").cast(pl.Enum([*SEGMENTS, "all"]))
    )
    deepest = users["depth"].max() or 0
    nothing = pl.DataFrame(
        schema={"segment": str, "item_id": str, "buyers": pl.Int64, "order": int, "dimension": str}
    )
    tops = [
        _top_items(known, str(dimension[0]))
        .filter(pl.col("order") < deepest)
        .join(segments_of_one, on="segment", how="semi")
        for dimension, segments_of_one in wanted.group_by("dimension", maintain_order=True)
    ]
    top = pl.concat([nothing, *tops]).cast({"dimension": wanted.schema["dimension"]})
    # Most users own nothing: the few who do may not make the lists of all deep.
    shallow = known.terms.per_user
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


def _top_items(known: Known, dimension: str) -> pl.DataFrame:
    """Most bought items of each segment of a dimension: those of lately, then those of all time.

    Columns: segment, item_id, buyers, order, dimension. Of everybody: all items; of a segment as
    many as a list has places (who is asked for a segment bought nothing yet).
    """
    depth = None if dimension == "all" else known.terms.per_user

    def count(whole: TaskData) -> pl.DataFrame:
        sums = Sums(
            ["segment", "item_id"], buyers=pl.col("buyers").sum(), ever=pl.col("ever").sum()
        )
        for shard in whole.shards():
            sums.add(_sold(shard, known, dimension))
        return (
            sums.total()
            .sort(["segment", "buyers", "ever", "item_id"], descending=[False, True, True, False])
            .with_columns(order=pl.int_range(pl.len()).over("segment"))
            .filter(True if depth is None else pl.col("order") < depth)
            .select("segment", "item_id", "buyers", "order", dimension=pl.lit(dimension))
        )

    top: pl.DataFrame = known.data.once(("popular", dimension, known.origin, depth), count)
    return top


def _sold(data: TaskData, known: Known, dimension: str) -> pl.DataFrame:
    """Count who bought what may be shown: segment, item_id, buyers (lately), ever."""
    range_, user = known.range_, pl.col("user_id")
    shown = known.sold.select(range_.product).unique()
    shown = shown.filter(~pl.col("item_id").is_in(range_.hidden.implode()))
    catalogue = range_.products.select("item_id", "category")
    return (
        data.events_before(known.origin)
        .filter(data.business.of_role("conversion"))
        .select(
            "user_id",
            range_.product,
            "store_id",
            "channel",
            recent=pl.col("event_time") >= known.origin - pl.duration(days=RECENT_DAYS),
        )
        .join(shown.lazy(), on="item_id", how="semi")
        .join(catalogue.lazy(), on="item_id", how="left")
        .with_columns(segment=pl.lit("all") if dimension == "all" else pl.col(dimension))
        .drop_nulls("segment")
        .group_by("segment", "item_id")
        .agg(
            buyers=user.filter("recent").n_unique().cast(pl.Int64),
            ever=user.n_unique().cast(pl.Int64),
        )
        .collect()
    )


def _segments(users: pl.DataFrame, known: Known) -> pl.DataFrame:
    """Ask the users' own events: user_id, dimension, segment; at most one row a user."""
    strangers = users.join(known.past, on="user_id", how="anti")
    catalogue = known.range_.items.select("item_id", "category")
    events = (
        known.data.events_before(known.origin)
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
