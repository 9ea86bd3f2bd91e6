"""Candidates of the recommendations and their features, strictly from before an origin.

Per user the union of: own items (decayed frequency), what is popular now, and the best items never
bought by the user of EASE, of similar users, and of the sequence encoder. The features are the
scores of all sources, how the item sells, how the user shops, and how the user buys the category.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from math import log
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
import polars.selectors as cs

from seq_ml.tasks.recommenders import (
    HALF_LIVES,
    LONGEST,
    Ease,
    History,
    UserKnn,
    build_history,
    days_before,
    popularity,
    top_columns,
    top_pairs,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from numpy.typing import NDArray

    EncoderScores = Callable[[Sequence[str]], tuple[list[str], NDArray[np.float32]]]

OWN_TOP = 150
EASE_TOP = 50
KNN_TOP = 30
ENCODER_TOP = 30
POPULAR_TOP = 30
CHUNK_USERS = 1250
"""Users scored at once: bounds memory at four matrices of chunk × core items."""
RECENT_DAYS = 28
EVER_REGULARISATION = 480.0
"""λ of EASE over whether an item was ever bought; chosen on earlier months, as all numbers here."""
AGAIN_PRIOR = 5
"""Owners of average habits that an item's share of purchases again is smoothed with."""
TIFU_NEIGHBOURS = 0.3
"""Weight of the neighbours beside the user's own unit vector in TIFU-kNN."""

OWN_FEATURES = (
    "own_count",
    "own_last_days",
    "own_interval",
    "own_due",
    *(f"own_decayed_{h}" for h in HALF_LIVES),
    *(f"own_expected_{h}" for h in HALF_LIVES[1:]),
    "own_rank",
)
ITEM_FEATURES = (
    "item_buyers_7",
    "item_buyers_28",
    "item_buyers_all",
    "item_trend",
    "item_trend_7",
    "item_repeat_rate",
    "item_bought_again",
    "item_per_buyer",
    "item_interval",
    "item_new_buyers",
    "item_new_share",
    "item_age_days",
)
USER_FEATURES = (
    "user_days",
    "user_days_28",
    "user_last_days",
    "user_items",
    "user_items_per_day",
    "user_repeat_share",
)
CATEGORY_FEATURES = ("category_decayed", "category_last_days", "category_share", "category_due")
SCORE_FEATURES = ("ease", "ease_rank", "ease_ever", "knn", "knn_rank", "tifu")
ENCODER_FEATURES = ("encoder", "encoder_rank")
FEATURES = (
    *OWN_FEATURES,
    *ITEM_FEATURES,
    *USER_FEATURES,
    *CATEGORY_FEATURES,
    *SCORE_FEATURES,
)


@dataclass(frozen=True)
class Setting:
    """What the candidates depend on beside the purchases."""

    repeats: bool
    popular: int
    seed: int


def candidate_features(
    purchases: pl.DataFrame,
    users: list[str],
    catalogue: pl.DataFrame,
    origin: datetime,
    setting: Setting,
    encoder: EncoderScores | None,
) -> pl.DataFrame:
    """Return the candidates of the sorted `users` at `origin`, with their features.

    purchases: user_id, item_id, event_time, day; later ones are ignored. catalogue: item_id,
    category. Columns: user_id, item_id, `FEATURES` and `ENCODER_FEATURES` (f32, null when unknown);
    sorted by user_id and item_id.
    """
    history = build_history(purchases, users, origin)
    if not history.items:
        floats = [(name, pl.Float32) for name in (*FEATURES, *ENCODER_FEATURES)]
        return pl.DataFrame(schema=[("user_id", pl.String), ("item_id", pl.String), *floats])
    items = _item_features(purchases, history, catalogue, origin)
    shoppers = _user_features(purchases, history, origin)
    categories = _category_features(history, items)
    pairs = _scored_candidates(history, items, setting, encoder)
    frame = (
        pairs.join(history.pairs, on=["user", "item"], how="left", maintain_order="left")
        .join(items, on="item", how="left", maintain_order="left")
        .join(shoppers, on="user", how="left", maintain_order="left")
        .join(categories, on=["user", "category"], how="left", maintain_order="left")
        .with_columns(pl.col("own_count", LONGEST).fill_null(0))
        .with_columns(
            tifu=(1 - TIFU_NEIGHBOURS) * (pl.col(LONGEST) / pl.col("norm")).fill_null(0)
            + TIFU_NEIGHBOURS * pl.col("knn").fill_null(0)
        )
        .with_columns(
            # Share of the user's order days that had the item, times order days a day.
            (pl.col(f"own_decayed_{h}") / pl.col(f"days_decayed_{h}") * pl.col("pace")).alias(
                f"own_expected_{h}"
            )
            for h in HALF_LIVES[1:]
        )
    )
    if not setting.repeats:
        frame = frame.filter(pl.col("own_count") == 0)
    ranked = (("own", f"own_decayed_{HALF_LIVES[1]}"), ("ease", "ease"), ("knn", "knn"))
    frame = frame.with_columns(
        pl.col(column).rank("min", descending=True).over("user").alias(f"{name}_rank")
        for name, column in (*ranked, ("encoder", "encoder"))
    )
    return frame.select(
        "user_id",
        "item_id",
        *(pl.col(c).cast(pl.Float32) for c in (*FEATURES, *ENCODER_FEATURES)),
    )


def _scored_candidates(
    history: History, items: pl.DataFrame, setting: Setting, encoder: EncoderScores | None
) -> pl.DataFrame:
    """Return user, item (positions), and the scores ease, knn, encoder."""
    n_items = len(history.items)
    ever = history.decayed.sign()
    ease = Ease(history.decayed, seed=setting.seed)
    ease_ever = Ease(ever, regularisation=EVER_REGULARISATION, seed=setting.seed)
    knn = UserKnn(history.decayed)
    own_top = top_pairs(history.pairs.select("user", "item", LONGEST), LONGEST, OWN_TOP)
    popular = (
        items.sort(["item_buyers_28", "item_buyers_all", "item"], descending=[True, True, False])
        .head(setting.popular)["item"]
        .to_numpy()
        .astype(np.int64)
    )
    chunks = max(1, -(-len(history.users) // CHUNK_USERS))
    bounds = np.linspace(0, len(history.users), chunks + 1).astype(int)
    parts = []
    for start, stop in pairwise(bounds):
        rows = np.arange(stop - start)[:, None]
        decayed = history.decayed[start:stop]
        bought = decayed.nonzero()
        keys = [(rows * n_items + popular).ravel()]
        own = own_top.filter(pl.col("user").is_between(start, stop - 1))
        keys.append((own["user"].to_numpy() - start).astype(np.int64) * n_items + own["item"])

        scores = {
            "ease": ease.scores(decayed),
            "ease_ever": ease_ever.scores(ever[start:stop]),
            "knn": knn.scores(start, stop),
        }
        for name, n in (("ease", EASE_TOP), ("ease_ever", EASE_TOP), ("knn", KNN_TOP)):
            # Own items come from the own history: the places go to what is new for the user.
            kept = scores[name][bought]
            scores[name][bought] = -np.inf
            best = history.core[top_columns(scores[name], n)]
            scores[name][bought] = kept
            keys.append((rows * n_items + best).ravel())
        if encoder is not None:
            columns, logits = _encoder_scores(history, encoder, start, stop)
            inside = columns[history.core[bought[1]]]
            known = inside >= 0
            novel = logits.copy()
            novel[bought[0][known], inside[known]] = -np.inf
            positions = np.flatnonzero(columns >= 0)
            in_order = positions[np.argsort(columns[positions])]
            best = in_order[top_columns(novel, ENCODER_TOP)]
            keys.append((rows * n_items + best).ravel())
            del novel

        key = np.unique(np.concatenate(keys))
        user, item = key // n_items, key % n_items
        column = history.column[item]
        frame = {"user": (user + start).astype(np.uint32), "item": item.astype(np.uint32)}
        for name, matrix in scores.items():
            frame[name] = np.where(column >= 0, matrix[user, column], np.nan)
        frame["encoder"] = np.full(len(key), np.nan)
        if encoder is not None:
            place = columns[item]
            frame["encoder"] = np.where(place >= 0, logits[user, place], np.nan)
        parts.append(pl.DataFrame(frame).with_columns(cs.float().cast(pl.Float32)))
    return pl.concat(parts).with_columns(cs.float().fill_nan(None))


def _encoder_scores(
    history: History, encoder: EncoderScores, start: int, stop: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Columns of the history's items in the encoder's scores (−1: unknown), and log-probabilities.

    Items that nobody bought, or that are no merchandise, are dropped before the scores are
    normalised.
    """
    names, logits = encoder(history.users[start:stop])
    position = {item: index for index, item in enumerate(history.items)}
    found = np.array([position.get(name, -1) for name in names])
    kept = np.flatnonzero(found >= 0)
    logits = logits[:, kept].astype(np.float32)
    logits -= logits.max(axis=1, initial=-np.inf, keepdims=True)
    logits -= np.log(np.exp(logits).sum(axis=1, keepdims=True))
    columns = np.full(len(history.items), -1)
    columns[found[kept]] = np.arange(len(kept))
    return columns, logits


def _item_features(
    purchases: pl.DataFrame, history: History, catalogue: pl.DataFrame, origin: datetime
) -> pl.DataFrame:
    """Return item (position), item_id, category and the item features, one row per item."""
    week = popularity(purchases, origin, days=7)
    recent = popularity(purchases, origin, days=RECENT_DAYS)
    longer = popularity(purchases, origin, days=4 * RECENT_DAYS)
    first = (
        purchases.filter(pl.col("event_time") < origin)
        .group_by("item_id")
        .agg(item_age_days=days_before(origin).max())
    )
    pairs = history.pairs.with_columns(
        # Who had it before, and came again since: the habit as it is now, not over all time.
        owner=(pl.col("own_first_days") > RECENT_DAYS)
        & (pl.col("own_last_days").min().over("user") <= RECENT_DAYS),
        recent=pl.col("own_last_days") <= RECENT_DAYS,
    )
    again = pl.col("owner") & pl.col("recent")
    usual = pairs.select(again.sum() / pl.col("owner").sum().clip(1)).item()
    from_pairs = pairs.group_by("item", maintain_order=True).agg(
        item_buyers_all=pl.len().cast(pl.Float32),
        item_repeat_rate=(pl.col("own_count") > 1).mean().cast(pl.Float32),
        item_bought_again=(again.sum() + AGAIN_PRIOR * usual)
        / (pl.col("owner").sum() + AGAIN_PRIOR),
        item_per_buyer=pl.col("own_count").mean(),
        item_interval=pl.col("own_interval").cast(pl.Float64).mean(),
        item_new_buyers=(pl.col("own_first_days") <= RECENT_DAYS).sum().cast(pl.Float32),
    )
    return (
        pl.DataFrame({"item_id": history.items})
        .with_row_index("item")
        .join(from_pairs, on="item", how="left")
        .join(week.rename({"buyers": "item_buyers_7"}), on="item_id", how="left")
        .join(recent.rename({"buyers": "item_buyers_28"}), on="item_id", how="left")
        .join(longer.rename({"buyers": "longer"}), on="item_id", how="left")
        .join(first, on="item_id", how="left")
        .join(catalogue.select("item_id", "category"), on="item_id", how="left")
        .with_columns(pl.col("item_buyers_7", "item_buyers_28", "longer").fill_null(0))
        .with_columns(
            item_trend=(pl.col("item_buyers_28") + 1) / (pl.col("longer") / 4 + 1),
            item_trend_7=(pl.col("item_buyers_7") + 1) / (pl.col("item_buyers_28") / 4 + 1),
            item_new_share=pl.col("item_new_buyers") / (pl.col("item_buyers_28") + 1),
        )
        .drop("longer")
        .sort("item")
    )


def _user_features(purchases: pl.DataFrame, history: History, origin: datetime) -> pl.DataFrame:
    """Return user (position), user_id and the user features, one row per user."""
    age = pl.col("age")
    half_life = HALF_LIVES[1]
    memory = half_life / log(2)  # days that decayed sums look back, in effect
    days = (
        purchases.filter(pl.col("event_time") < origin)
        .with_columns(age=days_before(origin))
        .group_by("user_id", "day")
        .agg(age.min())
        .group_by("user_id")
        .agg(
            age.min().alias("user_last_days"),
            user_days=pl.len().cast(pl.Float32),
            user_days_28=(age <= RECENT_DAYS).sum().cast(pl.Float32),
            tenure=age.max(),
            **{f"days_decayed_{h}": (0.5 ** (age.sort() / h)).sum() for h in HALF_LIVES[1:]},
        )
        .with_columns(pace=pl.col(f"days_decayed_{half_life}") / pl.col("tenure").clip(7, memory))
    )
    from_pairs = history.pairs.group_by("user", maintain_order=True).agg(
        user_items=pl.len().cast(pl.Float32),
        count=pl.col("own_count").sum(),
        norm=(pl.col(LONGEST) ** 2).sum().sqrt(),
    )
    return (
        pl.DataFrame({"user_id": history.users})
        .with_row_index("user")
        .join(from_pairs, on="user", how="left")
        .join(days, on="user_id", how="left")
        .with_columns(pl.col("user_days", "user_days_28", "user_items").fill_null(0))
        .with_columns(
            user_items_per_day=pl.col("count") / pl.col("user_days"),
            user_repeat_share=1 - pl.col("user_items") / pl.col("count"),
        )
        .drop("count")
    )


def _category_features(history: History, items: pl.DataFrame) -> pl.DataFrame:
    """Return how the user buys the category: user, category and the category features."""
    return (
        history.pairs.join(items.select("item", "category"), on="item")
        .drop_nulls("category")
        .sort("user", "item")
        .group_by("user", "category", maintain_order=True)
        .agg(
            category_decayed=pl.col(LONGEST).sum(),
            category_last_days=pl.col("own_last_days").min(),
            first=pl.col("own_first_days").max(),
            count=pl.col("own_count").sum(),
        )
        .with_columns(
            category_due=pl.when(pl.col("count") > 1).then(
                pl.col("category_last_days")
                / ((pl.col("first") - pl.col("category_last_days")) / (pl.col("count") - 1) + 1)
            ),
            category_share=pl.col("category_decayed")
            / pl.col("category_decayed").sum().over("user"),
        )
        .drop("first", "count")
    )
