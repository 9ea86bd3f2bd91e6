"""Items that nobody bought yet: which ones each user gets to see, by what the catalogue says.

Items stand in groups within groups: department, category, brand, title, description. An unseen item
gets the mean of what the user took up of the known items of its narrowest group (the older, the
less it weighs), drawn to that of the group around it as by `PRIOR` items. Titles are often of one
item alone: around all groups stands the mean of the items whose texts share its words. Who took up
nothing is given what everybody did.

On Complete Journey these means rank better than the words' cosine (TF-IDF), and the encoder's ranks
beside them did harm (docs/benchmarks-tables.md): it has no say.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from scipy import sparse

from seq_ml.ingest.mapping.values import ALWAYS_KNOWN
from seq_ml.periods import YEAR_DAYS
from seq_ml.tasks.behaviour.sums import Sums
from seq_ml.tasks.item_to_item.rows import positions
from seq_ml.tasks.recommendations.reasons import REASON_ITEMS, with_evidence
from seq_ml.tasks.recommendations.scorers import HALF_LIVES, days_before, top_columns

if TYPE_CHECKING:
    from datetime import datetime

    from seq_ml.tasks.behaviour.assortment import Assortment
    from seq_ml.tasks.data import TaskData

GROUPS = ("department", "category", "brand", "title", "description")
TEXTS = ("title", "description")
MOST_UNSEEN = 20_000
"""Unseen items that are looked at, the newest first: bounds memory at users at once × so many."""
USERS_AT_ONCE = 500
PAIRS_AT_ONCE = 2048
PRIOR = 10.0
"""Known items of a group that say as much as the group around it."""


@dataclass(frozen=True)
class Unseen:
    """Unseen items and what is known of the users' likings.

    users: ids. items: ids of unseen items, newest first. dated: whether all of them came since
    the log began. known: ids of items that anybody took up. liked [users, known], everybody [1,
    known] (the sum over all users), and groups of the known and of the unseen items [items, groups]
    (see `_groups`): CSR f32.
    """

    users: list[str]
    items: list[str]
    dated: bool
    known: list[str]
    liked: Any
    everybody: Any
    known_groups: Any
    groups: Any


def _untried(range_: Assortment, sold: pl.DataFrame, origin: datetime) -> pl.DataFrame:
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
        .join(sold.with_columns(range_.product), on="item_id", how="anti")
        .sort(["since", "item_id"], descending=[True, False])
        .head(MOST_UNSEEN)
    )


def read_unseen(
    data: TaskData, range_: Assortment, users: list[str], sold: pl.DataFrame, origin: datetime
) -> Unseen | None:
    """Read what is new at `origin`, and what users took up before it; None if nothing is new.

    sold: item_id, first (event_time): what anybody bought before `origin`.
    """
    new = _untried(range_, sold, origin)
    if not new.height:
        return None
    taken = _taken(data, range_, new, origin).join(
        pl.DataFrame({"user_id": users}), on="user_id", how="semi"
    )

    def liked(whole: TaskData) -> tuple[pl.DataFrame, tuple[Any, Any]]:
        """Add up what everybody took up, some users after another, and group it."""
        sums = Sums(["item_id"], liking=pl.col("liking").sum())
        for shard in whole.shards():
            theirs = taken if shard is data else _taken(shard, range_, new, origin)
            sums.add(theirs.group_by("item_id", maintain_order=True).agg(pl.col("liking").sum()))
        likings = sums.total().sort("item_id")
        described = pl.concat([likings.select("item_id"), new.select("item_id")]).join(
            range_.products, on="item_id", how="left", maintain_order="left"
        )
        return likings, _groups(described, likings.height)

    likings, groups = data.once(("unseen", origin), liked)
    known = likings["item_id"].to_list()
    place = (positions(taken["user_id"], users), positions(taken["item_id"], known))
    of_users = sparse.csr_matrix((taken["liking"].to_numpy(), place), (len(users), len(known)))
    return Unseen(
        users,
        new["item_id"].to_list(),
        new.filter(pl.col("since") <= sold["first"].min()).is_empty(),
        known,
        of_users,
        sparse.csr_matrix(likings["liking"].to_numpy()[None, :]),
        *groups,
    )


def _taken(data: TaskData, range_: Assortment, new: pl.DataFrame, origin: datetime) -> pl.DataFrame:
    """Return user_id, item_id (a product that is not new), liking (f32) of what was taken up."""
    half_life = data.periods.pace * HALF_LIVES[-1]
    return (
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
        .select("user_id", "item_id", liking=pl.col("weight").log1p().cast(pl.Float32))
        .sort("user_id", "item_id")
    )


def best_unseen(unseen: Unseen, top: int) -> pl.DataFrame:
    """Return the `top` best unseen items of each user: user_id, item_id, place (0 = best)."""
    parts = [pl.DataFrame(schema={"user_id": pl.String, "item_id": pl.String, "place": pl.Int64})]
    names = pl.Series(unseen.items, dtype=pl.String)
    for start in range(0, len(unseen.users), USERS_AT_ONCE):
        users = unseen.users[start : start + USERS_AT_ONCE]
        liked = unseen.liked[start : start + USERS_AT_ONCE]
        nothing = sparse.csr_matrix((np.diff(liked.indptr) == 0)[:, None].astype(np.float32))
        scores = (
            (liked + nothing @ unseen.everybody) @ unseen.known_groups @ unseen.groups.T
        ).toarray()
        best = top_columns(scores, top)
        order = np.argsort(-np.take_along_axis(scores, best, axis=1), axis=1, kind="stable")
        best = np.take_along_axis(best, order, axis=1)
        # What is like nothing that the user took up has no place in the list.
        user, place = np.nonzero(np.take_along_axis(scores, best, axis=1) > 0)
        ids = pl.Series(users, dtype=pl.String).gather(user)
        found = {"user_id": ids, "item_id": names.gather(best[user, place]), "place": place}
        parts.append(pl.DataFrame(found))
    return pl.concat(parts)


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
        like = unseen.groups[items[part]] @ unseen.known_groups.T
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


def _groups(described: pl.DataFrame, known: int) -> tuple[Any, Any]:
    """Return the groups of the first `known` items and of the others, CSR f32 [items, groups].

    1 where a known item is in a group; of an unseen one the share of each of the group's known
    items in its mean: liked @ known groups @ groups.T are the means.
    """
    named = [pl.col(name).fill_null("") for name in GROUPS]
    within = [pl.concat_str(named[: n + 1], separator="\n") for n in range(len(GROUPS))]
    words = [pl.col(n).fill_null("").str.to_lowercase().str.extract_all(r"\w+") for n in TEXTS]
    terms = [
        pl.when(pl.col(name).is_not_null()).then(pl.concat_list(group))
        for name, group in zip(GROUPS, within, strict=True)
    ]
    left = np.ones(described.height)
    mine, others = [], []
    for term in (*reversed(terms), pl.concat_list(words).list.unique()):
        found = described.select(term=term).with_row_index("row").explode("term").drop_nulls()
        found = found.with_columns(
            group=pl.col("term").rank("dense") - 1,
            size=(pl.col("row") < known).sum().over("term"),
            of=pl.len().over("row"),
        )
        row, group = found["row"].to_numpy(), found["group"].to_numpy()
        spoken = found["of"].to_numpy() * (found["size"].to_numpy() + PRIOR)
        shape = (described.height, found["term"].n_unique())
        mine.append(sparse.csr_matrix((np.ones(len(row)), (row, group)), shape=shape)[:known])
        share = sparse.csr_matrix((left[row] / spoken, (row, group)), shape=shape)
        others.append(share[known:])
        left[row] *= PRIOR / spoken
    return tuple(sparse.hstack(parts).tocsr().astype(np.float32) for parts in (mine, others))
