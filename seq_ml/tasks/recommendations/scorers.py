"""Component scorers of the recommendations: own history, popularity, EASE, user-kNN.

Each looks only at purchases strictly before an origin. `History` holds them in compact form; the
dense scorers (EASE, kNN) score a chunk of users against a core catalogue (items with a handful of
buyers), so that memory is chunk × core, never users × catalogue.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from scipy import sparse
from scipy.linalg import lapack

if TYPE_CHECKING:
    from datetime import datetime

    from numpy.typing import NDArray

HALF_LIVES = (14, 45, 120)
"""Days of a grocer after which a purchase counts half (`Periods.pace` stretches them); the last one
is the baseline's."""
LONGEST = f"own_decayed_{HALF_LIVES[-1]}"
CORE_BUYERS = 5
"""EASE and kNN know the items that at least so many users bought"""
MAX_CORE_ITEMS = 30_000
MAX_FIT_USERS = 4000
"""EASE inverts a matrix of at most so many users (16 million numbers)."""
NEIGHBOURS = 100
WEIGHTS_KEPT = 100
"""Weights of an item that sparse EASE keeps (docs/benchmarks-tables.md says what that costs)."""
ITEMS_AT_ONCE = 1024
"""Items whose part of EASE is made at once: bounds memory at so many × fitted users."""


@dataclass(frozen=True)
class History:
    """Purchases before an origin.

    users, items: sorted ids; a user may have no purchase. pairs: one row per (user, item): their
    positions in these lists (u32) and the own-history features (f32). core: positions of the core
    catalogue in `items`; column: the inverse, −1 outside. decayed: CSR f32 [users, core], purchases
    decayed by half in 120 days, which `pace` stretches.
    """

    users: list[str]
    items: list[str]
    pairs: pl.DataFrame
    core: NDArray[np.int64]
    column: NDArray[np.int64]
    decayed: Any
    pace: float


def days_before(origin: datetime) -> pl.Expr:
    """Days from `event_time` to `origin`, f32."""
    return ((pl.lit(origin) - pl.col("event_time")).dt.total_seconds() / 86_400).cast(pl.Float32)


def build_history(
    purchases: pl.DataFrame,
    users: list[str],
    origin: datetime,
    like: History | None = None,
    pace: float = 1.0,
    items: list[str] | None = None,
) -> History:
    """Count what the sorted `users` bought before `origin`: one purchase per user, item and day.

    purchases: user_id, item_id, event_time, day. like: another history whose catalogue and core
    this one takes over; items that are not in it are left out. pace: stretches the half-lives.
    items: the sorted catalogue, where others bought more than these users.
    """
    past = purchases.filter(pl.col("event_time") < origin)
    if items is None:
        items = past["item_id"].unique().sort().to_list() if like is None else like.items
    decayed_names = [f"own_decayed_{h}" for h in HALF_LIVES]
    # Positions instead of ids from here on: they are sorted many times as fast. Sorted, so that a
    # sum of floats does not depend on the order of the events either.
    bought = (
        past.select(
            user=places("user_id", users),
            item=places("item_id", items),
            day="day",
            age=days_before(origin),
        )
        .drop_nulls(["user", "item"])
        .sort("user", "item", "age")
    )
    purchase = pl.struct("user", "item", "day")
    pairs = (
        bought.filter(purchase.ne_missing(purchase.shift()))
        .with_columns(
            (0.5 ** (pl.col("age") / (pace * h))).alias(f"own_decayed_{h}") for h in HALF_LIVES
        )
        .group_by("user", "item", maintain_order=True)
        .agg(
            own_count=pl.len().cast(pl.Float32),
            own_last_days=pl.col("age").first(),
            own_first_days=pl.col("age").last(),
            **{name: pl.col(name).sum().cast(pl.Float32) for name in decayed_names},
        )
    )
    # The usual gap between two purchases of the item, and how far into it the user is now.
    gap = (pl.col("own_first_days") - pl.col("own_last_days")) / (pl.col("own_count") - 1)
    pairs = pairs.with_columns(
        own_interval=pl.when(pl.col("own_count") > 1).then(gap).cast(pl.Float32)
    ).with_columns(own_due=pl.col("own_last_days") / (pl.col("own_interval") + 1))
    if like is None:
        buyers = np.bincount(pairs["item"].to_numpy(), minlength=len(items))
        core = np.flatnonzero(buyers >= min(CORE_BUYERS, buyers.max(initial=1)))
        if len(core) > MAX_CORE_ITEMS:
            core = np.sort(core[np.argsort(-buyers[core], kind="stable")[:MAX_CORE_ITEMS]])
        column = np.full(len(items), -1)
        column[core] = np.arange(len(core))
    else:
        core, column = like.core, like.column
    inside = pairs.filter(pl.Series(column[pairs["item"].to_numpy()] >= 0))
    place = (inside["user"].to_numpy(), column[inside["item"].to_numpy()])
    weights = inside[LONGEST].to_numpy()
    decayed = sparse.csr_matrix((weights, place), shape=(len(users), len(core)))
    return History(users, items, pairs, core, column, decayed, pace)


def places(name: str, ids: list[str]) -> pl.Expr:
    """Position of the ids of a column in a list of distinct ids, u32; null outside."""
    return pl.col(name).cast(pl.Enum(ids), strict=False).to_physical().cast(pl.UInt32)


class Ease:
    """EASE (Steck 2019): the closed-form linear item-item model, in its dual form.

    With X [users, items] of log(1 + decayed purchases), K = (XXᵀ + λI)⁻¹ and d = diag(XᵀKX), the
    item weights are B = XᵀKX / (1 − d) off the diagonal (Woodbury): only a users × users matrix is
    inverted, the small side when a few thousand users buy from tens of thousands of items. Of more
    than `MAX_FIT_USERS` users a sample is fitted; all can be scored.
    """

    def __init__(self, decayed: Any, *, regularisation: float = 100.0, seed: int = 0) -> None:
        fitted = np.flatnonzero(np.diff(decayed.indptr))
        if len(fitted) > MAX_FIT_USERS:
            chosen = np.random.default_rng(seed).choice(len(fitted), MAX_FIT_USERS, replace=False)
            fitted = fitted[np.sort(chosen)]
        self.place = np.full(decayed.shape[0], -1)
        self.place[fitted] = np.arange(len(fitted))
        X = decayed[fitted].log1p()
        self.X = X
        self.regularisation = regularisation
        gram = (X @ X.T).toarray().astype(np.float64)  # 1 − λK cancels: 32 bits would show
        gram[np.diag_indices_from(gram)] += regularisation
        self.K = _inverse(gram)
        # By item: what is added up for an item then stays in the processor's cache.
        self.buyers = X.T.tocsr()
        self.diagonal = np.zeros(X.shape[1], dtype=np.float32)
        for start in range(0, X.shape[1], ITEMS_AT_ONCE):
            part = self.buyers[start : start + ITEMS_AT_ONCE]
            found = np.asarray(part.multiply(part @ self.K).sum(axis=1)).ravel()
            self.diagonal[start : start + ITEMS_AT_ONCE] = found

    def scores(self, decayed: Any, users: NDArray[np.int64] | None = None) -> NDArray[np.float32]:
        """Score every core item for the rows of `decayed` [n, items]; returns [n, items].

        users: positions [n] of the rows in the matrix that the model was fitted to, −1 outside;
        None if none is a row of it. The weights of its rows are known already, XXᵀK = 1 − λK.
        """
        own = decayed.log1p()
        place = np.full(own.shape[0], -1)
        if users is not None:
            place[users >= 0] = self.place[users[users >= 0]]
        strangers = np.flatnonzero((place < 0) & (np.diff(own.indptr) > 0))
        weight = -self.regularisation * self.K[place]
        weight[np.arange(len(place)), place] += 1
        weight[place < 0] = 0
        if len(strangers):
            weight[strangers] = (own[strangers] @ self.X.T).toarray() @ self.K
        full: NDArray[np.float32] = np.ascontiguousarray((self.buyers @ weight.T).T)
        rows, columns = own.nonzero()
        full[rows, columns] -= own.data * self.diagonal[columns]
        full /= 1 - self.diagonal
        return full

    def weights(self, columns: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return B[:, columns] [items, columns]: how much each item speaks for those."""
        full = self._weights(columns).T
        full /= 1 - self.diagonal[columns]
        return full

    def weights_of(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return B[rows] [rows, items]: how much those items speak for each one."""
        full = self._weights(rows)
        full /= 1 - self.diagonal
        return full

    def _weights(self, items: NDArray[np.int64]) -> NDArray[np.float32]:
        full: NDArray[np.float32] = np.asarray((self.X[:, items].T @ self.K) @ self.X)
        full[np.arange(len(items)), items] = 0
        return full


class SparseEase:
    """EASE with the weights that count alone: a user costs microseconds, not a millisecond.

    Of each item the `WEIGHTS_KEPT` largest weights, for and against, that it has in the scores of
    others. Pays where many more users are scored than there are items.
    """

    def __init__(self, ease: Ease) -> None:
        items = ease.X.shape[1]
        parts = []
        for start in range(0, items, ITEMS_AT_ONCE):
            weights = ease.weights_of(np.arange(start, min(start + ITEMS_AT_ONCE, items)))
            kept = top_columns(np.abs(weights), WEIGHTS_KEPT)
            rows = np.repeat(np.arange(len(kept)), kept.shape[1])
            place = (rows, kept.ravel())
            parts.append(sparse.csr_matrix((weights[place], place), shape=weights.shape))
        self.B = sparse.vstack(parts).tocsr()
        self.B.eliminate_zeros()

    def scores(self, decayed: Any, users: NDArray[np.int64] | None = None) -> NDArray[np.float32]:
        """Score every core item for the rows of `decayed` [n, items]; returns [n, items]."""
        full: NDArray[np.float32] = (decayed.log1p() @ self.B).toarray()
        return full

    def weights(self, columns: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return B[:, columns] [items, columns]: how much each item speaks for those."""
        full: NDArray[np.float32] = self.B[:, columns].toarray()
        return full


def _inverse(positive: NDArray[np.float64]) -> NDArray[np.float32]:
    """Invert a symmetric, positive definite matrix [n, n]: a third of the time of `np.linalg.inv`.

    The factors of Cholesky; LAPACK fills the lower half only. The argument is overwritten.
    """
    factor, failed = lapack.dpotrf(positive.T, lower=True, overwrite_a=True)
    if failed:
        raise ValueError("EASE: the users' Gram matrix is not positive definite")
    lower = lapack.dpotri(factor, lower=True, overwrite_c=True)[0].astype(np.float32)
    whole: NDArray[np.float32] = lower + lower.T
    whole[np.diag_indices_from(whole)] = lower.diagonal()
    return whole


class UserKnn:
    """What similar users buy, after TIFU-kNN (Hu et al. 2020): mean of their decayed purchases.

    Users are compared by the cosine of their decayed purchase vectors; the neighbours' unit vectors
    are averaged with the similarity as weight.
    """

    def __init__(self, decayed: Any) -> None:
        self.unit = unit_rows(decayed)

    def scores(self, decayed: Any, users: NDArray[np.int64]) -> NDArray[np.float32]:
        """Score every core item for the rows of `decayed` [n, items]; returns [n, items].

        users: positions [n] of the same people in the fitted matrix, −1 outside: nobody neighbours
        themselves.
        """
        likeness = (unit_rows(decayed) @ self.unit.T).toarray()
        fitted = np.flatnonzero(users >= 0)
        likeness[fitted, users[fitted]] = 0
        k = min(NEIGHBOURS, likeness.shape[1] - 1)
        cut = -np.partition(-likeness, k, axis=1)[:, k : k + 1]
        likeness[likeness < np.maximum(cut, 1e-6)] = 0
        likeness /= np.maximum(likeness.sum(axis=1, keepdims=True), 1e-9)
        # Only the neighbours' purchases are added up, however many users there are.
        mean: NDArray[np.float32] = (sparse.csr_matrix(likeness) @ self.unit).toarray()
        return mean


def unit_rows(rows: Any) -> Any:
    """Scale the rows of a sparse matrix to unit length, CSR f32; an empty row stays zero."""
    norm = np.sqrt(np.asarray(rows.multiply(rows).sum(axis=1)).ravel())
    scale = sparse.diags((1 / np.maximum(norm, 1e-9)).astype(np.float32))
    return (scale @ rows).tocsr().astype(np.float32)


def top_columns(scores: NDArray[np.float32], n: int) -> NDArray[np.int64]:
    """Columns of the `n` highest scores of each row, ascending; [rows, n]. Of ties the first."""
    if n >= scores.shape[1]:
        return np.tile(np.arange(scores.shape[1]), (scores.shape[0], 1))
    # Partitioning numbers is many times as fast as partitioning their places.
    least = np.partition(scores, -n, axis=1)[:, -n, None]
    chosen = scores >= least
    for row in np.flatnonzero(chosen.sum(axis=1) > n):
        tied = np.flatnonzero(scores[row] == least[row])
        chosen[row, tied[n - chosen[row].sum() :]] = False
    return np.nonzero(chosen)[1].reshape(len(scores), n)
