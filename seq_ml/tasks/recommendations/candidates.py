"""Candidates of the recommendations and their features, strictly from before an origin.

Per user the union of: own items (decayed frequency), what is popular now, and the best items never
bought by the user of EASE, of similar users, and of the sequence encoder. The features are the
scores of all sources, how the item sells, how the user shops, and how the user buys the category.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import repeat
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
import polars.selectors as cs

from seq_ml.tasks.recommendations.features import (
    CATEGORY_FEATURES,
    ITEM_FEATURES,
    USER_FEATURES,
    category_features,
    item_counts,
    item_features,
    user_features,
)
from seq_ml.tasks.recommendations.scorers import (
    HALF_LIVES,
    LONGEST,
    MAX_FIT_USERS,
    Ease,
    History,
    SparseEase,
    UserKnn,
    build_history,
    places,
    top_columns,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from datetime import datetime

    from numpy.typing import NDArray

    EncoderScores = Callable[[Sequence[str]], tuple[list[str], NDArray[np.float32]]]

OWN_TOP = 150
EASE_TOP = 50
KNN_TOP = 30
ENCODER_TOP = 30
POPULAR_TOP = 30
CHUNK_USERS = 125
"""Users scored at once: bounds memory at four matrices of chunk × core items."""
ENCODED_USERS = 5 * CHUNK_USERS
"""Users whose scores the encoder is asked for at once (it looks for their events each time): their
scores of all its items are held meanwhile."""
EVER_REGULARISATION = 0.2
"""λ of EASE over whether an item was ever bought, a fitted user: what users have in common adds up,
and so must what it is held against. Chosen on earlier months, as all numbers here."""
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
SCORE_FEATURES = ("ease", "ease_rank", "ease_ever", "knn", "knn_rank", "tifu")
ENCODER_FEATURES = ("encoder", "encoder_rank")
RANKED = (("own", f"own_decayed_{HALF_LIVES[1]}"), ("ease", "ease"), ("knn", "knn"))
"""Which rank is by which score; that by the encoder's is one of its features."""
UNENCODED = "unencoded"
"""Column that says whether a row is a candidate without the encoder, too; no feature."""
FEATURES = (
    *OWN_FEATURES,
    *ITEM_FEATURES,
    *USER_FEATURES,
    *CATEGORY_FEATURES,
    *SCORE_FEATURES,
)


@dataclass(frozen=True)
class Setting:
    """What the candidates depend on beside the purchases; gone: items that are none.

    pace: of `Periods`, stretches the half-lives.
    """

    repeats: bool
    popular: int
    seed: int
    gone: pl.Series = field(default_factory=lambda: pl.Series(dtype=pl.String))
    pace: float = 1.0


@dataclass(frozen=True)
class Fitted:
    """What was learnt from purchases before an origin.

    history: of the users that the scorers were fitted to. items: one row per item of the history
    with its features (see `item_features`), of everybody.
    """

    origin: datetime
    history: History
    items: pl.DataFrame
    ease: Ease | SparseEase
    ease_ever: Ease | SparseEase
    knn: UserKnn
    setting: Setting


def fit(
    purchases: pl.DataFrame,
    users: list[str],
    catalogue: pl.DataFrame,
    origin: datetime,
    setting: Setting,
    counts: pl.DataFrame | None = None,
) -> Fitted | None:
    """Learn from what the sorted `users` bought before `origin`; None when that is nothing.

    purchases: user_id, item_id, event_time, day; later ones are ignored. catalogue: item_id,
    category. counts: `item_counts` of everybody, where these are a sample of them; there are many
    then, and EASE is sparse.
    """
    sampled = counts is not None
    items = None if counts is None else counts["item_id"].sort().to_list()
    history = build_history(purchases, users, origin, pace=setting.pace, items=items)
    if not history.pairs.height:
        return None
    if counts is None:
        counts = item_counts(purchases, history, origin)
    buyers = int(np.count_nonzero(np.diff(history.decayed.indptr)))
    strength = EVER_REGULARISATION * min(buyers, MAX_FIT_USERS)
    ease = Ease(history.decayed, seed=setting.seed)
    ever = Ease(history.decayed.sign(), regularisation=strength, seed=setting.seed)
    return Fitted(
        origin,
        history,
        item_features(counts, history.items, catalogue),
        SparseEase(ease) if sampled else ease,
        SparseEase(ever) if sampled else ever,
        UserKnn(history.decayed),
        setting,
    )


def history_of(fitted: Fitted, purchases: pl.DataFrame, users: list[str]) -> History:
    """Count what the sorted `users` bought of the items known; purchases: theirs, as in `fit`."""
    like = fitted.history
    if users == like.users:
        return like
    return build_history(purchases, users, fitted.origin, like=like, pace=like.pace)


def candidate_features(
    fitted: Fitted | None,
    purchases: pl.DataFrame,
    encoder: EncoderScores | None,
    history: History | None = None,
) -> pl.DataFrame:
    """Return the candidates of some users with their features; none of nobody's purchases.

    history: of `history_of`, by default that of the fitted users; purchases: theirs. Columns:
    user_id, item_id, `FEATURES` and `ENCODER_FEATURES` (f32, null when unknown), `UNENCODED`;
    sorted by user_id and item_id.
    """
    history = fitted.history if fitted is not None and history is None else history
    if fitted is None or history is None or not history.users:
        floats = [(name, pl.Float32) for name in (*FEATURES, *ENCODER_FEATURES)]
        ids = (("user_id", pl.String), ("item_id", pl.String))
        return pl.DataFrame(schema=[*ids, *floats, (UNENCODED, pl.Boolean)])
    rows = _positions(history.users, fitted)
    return _features(fitted, history, purchases, rows, encoder, fitted_users=True)


def features_of_others(
    fitted: Fitted,
    purchases: pl.DataFrame,
    twins: dict[str, str],
    wanted: pl.DataFrame,
    encoder: EncoderScores | None,
) -> pl.DataFrame:
    """Return the candidates of people whom nothing was fitted to, as `candidate_features` does.

    purchases: theirs alone, as in `fit`. twins: their ids → the user whom they are not neighbours
    of. wanted: user_id, item_id that are candidates whatever else is.
    """
    users = sorted(twins)
    history = history_of(fitted, purchases, users)
    rows = _positions([twins[user] for user in users], fitted)
    return _features(fitted, history, purchases, rows, encoder, fitted_users=False, wanted=wanted)


def _positions(users: list[str], fitted: Fitted) -> NDArray[np.int64]:
    """Position of each user among those that the scorers were fitted to, −1 outside."""
    place = pl.DataFrame({"user_id": users}).select(places("user_id", fitted.history.users))
    return place.to_series().cast(pl.Int64).fill_null(-1).to_numpy()


def _features(
    fitted: Fitted,
    history: History,
    purchases: pl.DataFrame,
    rows: NDArray[np.int64],
    encoder: EncoderScores | None,
    *,
    fitted_users: bool,
    wanted: pl.DataFrame | None = None,
) -> pl.DataFrame:
    items, setting = fitted.items, fitted.setting
    shoppers = user_features(purchases, history, fitted.origin)
    categories = category_features(history, items)
    pairs = _scored_candidates(fitted, history, rows, encoder, fitted_users, wanted)
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
    frame = frame.filter(~pl.col("item_id").is_in(setting.gone.implode()))
    frame = frame.with_columns(_rank(*of, "user") for of in (*RANKED, ("encoder", "encoder")))
    if not setting.repeats:
        frame = frame.filter(pl.col("own_count") == 0)
    return frame.select(
        "user_id",
        "item_id",
        *(pl.col(c).cast(pl.Float32) for c in (*FEATURES, *ENCODER_FEATURES)),
        UNENCODED,
    )


def _rank(name: str, column: str, user: str) -> pl.Expr:
    """Rank the candidates of a user by a score, f32: 1 is the highest."""
    rank = pl.col(column).rank("min", descending=True).over(user)
    return rank.cast(pl.Float32).alias(f"{name}_rank")


def without_encoder(frame: pl.DataFrame, *, repeats: bool) -> pl.DataFrame | None:
    """Return candidates as they would be without the encoder; None where that cannot be told.

    frame: of `candidate_features`, of an origin, with or without what the user had. repeats:
    whether that is wanted. Ranks count what the user had, too: where it is left out they are known
    only if the encoder named nothing.
    """
    own, alone = frame["own_count"] > 0, frame[UNENCODED].all()
    if not own.any() and (repeats or not alone):
        return None
    if not alone:
        frame = frame.filter(UNENCODED).with_columns(_rank(*of, "user_id") for of in RANKED)
    unknown = pl.lit(None, dtype=pl.Float32)
    frame = frame.with_columns(unknown.alias(name) for name in ENCODER_FEATURES)
    return frame if repeats else frame.filter(pl.col("own_count") == 0)


def _scored_candidates(
    fitted: Fitted,
    history: History,
    twins: NDArray[np.int64],
    encoder: EncoderScores | None,
    fitted_users: bool,
    wanted: pl.DataFrame | None,
) -> pl.DataFrame:
    """Return user, item (positions), the scores of all sources, and `UNENCODED`."""
    n_items = len(history.items)
    own_top = (
        history.pairs.select("user", "item", LONGEST)
        .sort(["user", LONGEST, "item"], descending=[False, True, False])
        .filter(pl.int_range(pl.len()).over("user") < OWN_TOP)
    )
    # What sells now is a candidate of everybody, also of who bought nothing yet.
    popular = (
        fitted.items.filter(~pl.col("item_id").is_in(fitted.setting.gone.implode()))
        .sort(["item_buyers_28", "item_buyers_all", "item"], descending=[True, True, False])
        .head(fitted.setting.popular)["item"]
        .to_numpy()
        .astype(np.int64)
    )
    wanted_keys = np.empty(0, dtype=np.int64) if wanted is None else _keys(wanted, history)
    bounds = [
        (start, min(start + CHUNK_USERS, len(history.users)))
        for start in range(0, len(history.users), CHUNK_USERS)
    ]
    asked = repeat(None) if encoder is None else _encoder_scores(history, encoder)
    parts = []
    for (start, stop), encoder_scores in zip(bounds, asked, strict=False):
        # A candidate is one number, user of the chunk × items + item: `unique` makes the union.
        rows = np.arange(stop - start)[:, None]
        decayed, same = history.decayed[start:stop], twins[start:stop]
        fitted_rows = same if fitted_users else None
        keys = [(rows * n_items + popular).ravel()]
        own = own_top.filter(pl.col("user").is_between(start, stop - 1))
        keys.append((own["user"].to_numpy() - start).astype(np.int64) * n_items + own["item"])
        inside = (wanted_keys >= start * n_items) & (wanted_keys < stop * n_items)
        keys.append(wanted_keys[inside] - start * n_items)

        ever = fitted.ease_ever.scores(decayed.sign(), fitted_rows)
        sources = {
            "ease": (fitted.ease.scores(decayed, fitted_rows), history.core, EASE_TOP),
            "ease_ever": (ever, history.core, EASE_TOP),
            "knn": (fitted.knn.scores(decayed, same), history.core, KNN_TOP),
        }
        if encoder_scores is not None:
            sources["encoder"] = (*encoder_scores, ENCODER_TOP)
        who, bought = decayed.nonzero()
        columns, named = {}, {}
        for name, (scores, items, n) in sources.items():
            columns[name] = np.full(n_items, -1)
            columns[name][items] = np.arange(len(items))
            # Own items come from the own history: the places go to what is new for the user.
            place = columns[name][history.core[bought]]
            own_places = (who[place >= 0], place[place >= 0])
            kept = scores[own_places]
            scores[own_places] = -np.inf
            named[name] = (rows * n_items + items[top_columns(scores, n)]).ravel()
            scores[own_places] = kept

        # Every candidate gets the scores of all sources, not only of the one that named it.
        encoded = named.pop("encoder", keys[0][:0])
        unencoded = np.unique(np.concatenate([*keys, *named.values()]))
        key = np.union1d(unencoded, encoded)
        user, item = key // n_items, key % n_items
        frame = {"user": (user + start).astype(np.uint32), "item": item.astype(np.uint32)}
        frame["encoder"] = np.full(len(key), np.nan)
        for name, (scores, _, _) in sources.items():
            place = columns[name][item]
            frame[name] = np.where(place >= 0, scores[user, place], np.nan)
        alone = pl.Series(UNENCODED, np.isin(key, unencoded, assume_unique=True))
        parts.append(pl.DataFrame(frame).with_columns(cs.float().cast(pl.Float32), alone))
    return pl.concat(parts).with_columns(cs.float().fill_nan(None))


def _encoder_scores(
    history: History, encoder: EncoderScores
) -> Iterator[tuple[NDArray[np.float32], NDArray[np.int64]]]:
    """Log-probabilities of the items that encoder and history know, and these items' positions.

    For `CHUNK_USERS` users at a time. Items that nobody bought, or that are no merchandise, are
    dropped before the scores are normalised.
    """
    position = {item: index for index, item in enumerate(history.items)}
    for first in range(0, len(history.users), ENCODED_USERS):
        names, scores = encoder(history.users[first : first + ENCODED_USERS])
        places = np.array([position.get(name, -1) for name in names])
        kept = np.flatnonzero(places >= 0)
        for start in range(0, len(scores), CHUNK_USERS):
            logits = scores[start : start + CHUNK_USERS, kept].astype(np.float32, copy=False)
            logits -= logits.max(axis=1, initial=-np.inf, keepdims=True)
            logits -= np.log(np.exp(logits).sum(axis=1, keepdims=True))
            yield logits, places[kept]


def _keys(pairs: pl.DataFrame, history: History) -> NDArray[np.int64]:
    """Position of the user × number of items + position of the item, for known pairs."""
    user, item = places("user_id", history.users), places("item_id", history.items)
    key = user.cast(pl.Int64) * len(history.items) + item
    return pairs.select(key).to_series().drop_nulls().to_numpy()
