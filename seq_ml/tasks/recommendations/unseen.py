"""Items that nobody bought yet: which ones each user gets to see, by what the catalogue says.

Nothing but category, brand and text is known of them, so they are likened to what the user took up:
the cosine of the words' weights (TF-IDF, Salton and Buckley 1988), the user's own items weighing
less the longer ago they were. Who took up nothing is likened to everybody. It needs no encoder; an
encoder that reads the catalogue has its say beside it (see `fused`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from scipy import sparse
from scipy.stats import rankdata

from seq_ml.ingest.mapping.values import ALWAYS_KNOWN
from seq_ml.periods import YEAR_DAYS
from seq_ml.tasks.item_to_item.rows import positions
from seq_ml.tasks.recommendations.reasons import REASON_ITEMS, with_evidence
from seq_ml.tasks.recommendations.scorers import HALF_LIVES, days_before, top_columns, unit_rows

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from numpy.typing import NDArray

    from seq_ml.tasks.behaviour.assortment import Assortment
    from seq_ml.tasks.data import TaskData

    Scores = Callable[[Sequence[str]], NDArray[np.float32]]

NAMED = ("category", "department", "brand")
TEXTS = ("title", "description")
MOST_UNSEEN = 20_000
"""Unseen items that are looked at, the newest first: bounds memory at users at once × so many."""
MOST_READ = 2_000
"""Of more unseen items the encoder is not asked: what it holds grows with known × unseen ones."""
USERS_AT_ONCE = 500
PAIRS_AT_ONCE = 2048
FUSED_FROM = 60
"""Ranks that are added before two rankings are fused (Cormack et al. 2009): the usual number."""


@dataclass(frozen=True)
class Unseen:
    """Unseen items and what is known of the users' likings.

    users: ids. items: ids of unseen items, newest first. dated: whether all of them came since
    the log began. known: ids of items that were taken up.
    liked [users, known], words of the known and of the unseen items [items, words]: CSR f32.
    encoder: scores [users, items] of the unseen items; None without one.
    """

    users: list[str]
    items: list[str]
    dated: bool
    known: list[str]
    liked: Any
    known_words: Any
    words: Any
    encoder: Scores | None


def _untried(range_: Assortment, past: pl.DataFrame, origin: datetime) -> pl.DataFrame:
    """Return the products that may be shown and that nobody bought before `origin`, newest first.

    Columns of `Assortment.products`. What was known for a year and never sold is no novelty;
    without a date it may be one.
    """
    undated = pl.col("since") <= ALWAYS_KNOWN
    return (
        range_.products.filter(
            "is_merchandise",
            undated | (pl.col("since") >= origin - pl.duration(days=YEAR_DAYS)),
            ~pl.col("item_id").is_in(range_.hidden.implode()),
        )
        .join(past, on="item_id", how="anti")
        .sort(["since", "item_id"], descending=[True, False])
        .head(MOST_UNSEEN)
    )


def read_unseen(
    data: TaskData, range_: Assortment, users: list[str], past: pl.DataFrame, origin: datetime
) -> Unseen | None:
    """Read what is new at `origin`, and what the users took up before it; None if nothing is new.

    past: user_id, item_id (a product), event_time: what was bought before `origin`.
    """
    new = _untried(range_, past, origin)
    if not new.height:
        return None
    half_life = data.periods.pace * HALF_LIVES[-1]
    taken = (
        data.events_before(origin)
        .filter(
            data.business.of_role("browse", "intent", "conversion", "feedback"),
            pl.col("item_id").is_not_null(),
        )
        .with_columns(range_.product, age=days_before(origin))
        .sort("user_id", "item_id", "age")
        .group_by("user_id", "item_id", maintain_order=True)
        .agg(weight=(0.5 ** (pl.col("age") / half_life)).sum())
        .collect()
        .join(range_.products.filter("is_merchandise"), on="item_id", how="semi")
        .filter(~pl.col("item_id").is_in(new["item_id"].implode()))
        .join(pl.DataFrame({"user_id": users}), on="user_id", how="semi")
        .sort("user_id", "item_id")
    )
    known = taken["item_id"].unique().sort().to_list()
    place = (positions(taken["user_id"], users), positions(taken["item_id"], known))
    weight = np.log1p(taken["weight"].to_numpy()).astype(np.float32)
    liked = sparse.csr_matrix((weight, place), shape=(len(users), len(known)))
    described = pl.DataFrame({"item_id": [*known, *new["item_id"]]}).join(
        range_.products, on="item_id", how="left", maintain_order="left"
    )
    words = _words(described)
    # TF-IDF says what reads alike; what people who like this like beside it, only an encoder.
    encoder = None
    if data.encoder is not None and new.height <= MOST_READ:
        encoder = data.encoder.unseen_scorer(data.events, new, origin)
    return Unseen(
        users,
        new["item_id"].to_list(),
        new.filter(pl.col("since") <= past["event_time"].min()).is_empty(),
        known,
        liked,
        words[: len(known)],
        words[len(known) :],
        encoder,
    )


def best_unseen(unseen: Unseen, top: int) -> pl.DataFrame:
    """Return the `top` best unseen items of each user: user_id, item_id, place (0 = best)."""
    parts = [pl.DataFrame(schema={"user_id": pl.String, "item_id": pl.String, "place": pl.Int64})]
    everybody = sparse.csr_matrix(unseen.liked.sum(axis=0)) @ unseen.known_words
    names = pl.Series(unseen.items, dtype=pl.String)
    for start in range(0, len(unseen.users), USERS_AT_ONCE):
        users = unseen.users[start : start + USERS_AT_ONCE]
        liked = unseen.liked[start : start + USERS_AT_ONCE] @ unseen.known_words
        scores = (unit_rows(liked) @ unseen.words.T).toarray()
        nothing = np.diff(liked.indptr) == 0
        scores[nothing] = (unit_rows(everybody) @ unseen.words.T).toarray()
        if unseen.encoder is not None:
            scores = fused(scores, unseen.encoder(users))
        best = top_columns(scores, top)
        order = np.argsort(-np.take_along_axis(scores, best, axis=1), axis=1, kind="stable")
        best = np.take_along_axis(best, order, axis=1)
        # What is like nothing that the user took up has no place in the list.
        user, place = np.nonzero(np.take_along_axis(scores, best, axis=1) > 0)
        ids = pl.Series(users, dtype=pl.String).gather(user)
        found = {"user_id": ids, "item_id": names.gather(best[user, place]), "place": place}
        parts.append(pl.DataFrame(found))
    return pl.concat(parts)


def fused(one: NDArray[np.float32], other: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return scores that rank by both, f32 [users, items]: sums of 1 / (60 + rank) of each.

    >>> fused(np.array([[3.0, 2.0, 2.0]]), np.array([[5.0, 6.0, 4.0]])).argsort().tolist()
    [[2, 0, 1]]
    """
    ranks = [rankdata(-scores, method="min", axis=1) for scores in (one, other)]
    both: NDArray[np.float32] = np.sum(
        [1 / (FUSED_FROM + r) for r in ranks], axis=0, dtype=np.float32
    )
    return both


def likenesses(unseen: Unseen, pairs: pl.DataFrame) -> pl.DataFrame:
    """Add `evidence` (list[str]): what the user took up that is most like the item, likest first.

    pairs: user_id, item_id, of `best_unseen`; the order is kept.
    """
    users = positions(pairs["user_id"], unseen.users)
    items = positions(pairs["item_id"], unseen.items)
    ids = pl.Series(unseen.known, dtype=pl.String)
    named = []
    for start in range(0, len(users), PAIRS_AT_ONCE):
        part = slice(start, start + PAIRS_AT_ONCE)
        like = unseen.words[items[part]] @ unseen.known_words.T
        speaks = like.multiply(unseen.liked[users[part]]).tocoo()
        found = pl.DataFrame(
            {"pair": start + speaks.row.astype(np.int64), "known": speaks.col, "n": speaks.data}
        )
        best = (
            found.filter(pl.col("n") > 0)
            .sort(["pair", "n", "known"], descending=[False, True, False])
            .group_by("pair", maintain_order=True)
            .head(REASON_ITEMS)
        )
        named.append(best.select("pair", evidence=ids.gather(best["known"])))
    return with_evidence(pairs, named)


def _words(described: pl.DataFrame) -> Any:
    """TF-IDF of the rows' words, CSR f32 [rows, words] of unit length; an empty row is zero."""
    named = [pl.concat_list(pl.format(f"{n}:{{}}", n).fill_null("")) for n in NAMED]
    texts = [pl.col(n).fill_null("").str.to_lowercase().str.extract_all(r"\w+") for n in TEXTS]
    terms = (
        described.select(pl.concat_list(*named, *texts).list.unique().alias("term"))
        .with_row_index("row")
        .explode("term")
        .filter(pl.col("term") != "")
        .with_columns(rows=pl.len().over("term"), word=pl.col("term").rank("dense") - 1)
    )
    weight = np.log1p(described.height / terms["rows"].to_numpy()).astype(np.float32)
    place = (terms["row"].to_numpy(), terms["word"].to_numpy())
    shape = (described.height, terms["word"].n_unique())
    return unit_rows(sparse.csr_matrix((weight, place), shape=shape))
