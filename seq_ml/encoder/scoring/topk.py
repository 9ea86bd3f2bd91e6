"""The best items of each user, exactly, in memory that depends on neither users nor catalogue.

Users × items is never held: the catalogue is scored in chunks, and each user's best so far are
merged with the best of the chunk. Within a chunk only the blocks of items with the highest maxima
are looked into; the best items cannot be elsewhere. A score and the place of its item are one
number, so that equal scores are always ranked by place, whatever the chunks.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
import torch
from scipy.sparse import csr_matrix
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

PAIRS_AT_ONCE = 1 << 16

BLOCK = 32
"""Neighbouring items whose highest score is looked at first."""
SCORES_AT_ONCE = 1 << 22
"""Scores that one chunk of users × items holds (16 MiB)."""
PLACES = (1 << 32) - 1


@dataclass(frozen=True)
class Catalogue:
    """Items that may be recommended, in the order that breaks ties.

    vectors: f32 [items, dim] and bias: f32 [items]: score = user · vector + bias.  place_of_token:
    i64 [tokens], −1 where a token is no item. All on the device of the model.
    """

    item_ids: list[str]
    vectors: torch.Tensor
    bias: torch.Tensor
    place_of_token: torch.Tensor

    def without(self, deny: Sequence[str]) -> Catalogue:
        """Return it with the denied items never recommended; ids that it does not have are fine."""
        denied = set(deny)
        places = [place for place, item in enumerate(self.item_ids) if item in denied]
        bias = self.bias.clone()
        bias[places] = -torch.inf
        return replace(self, bias=bias)

    def with_more(
        self, item_ids: Sequence[str], vectors: NDArray[np.float32], bias: NDArray[np.float32]
    ) -> Catalogue:
        """Return it with more items at its end, such as `ColdItems`; they have no tokens."""
        device = self.bias.device
        return Catalogue(
            [*self.item_ids, *item_ids],
            torch.cat([self.vectors, torch.from_numpy(vectors).to(device)]),
            torch.cat([self.bias, torch.from_numpy(bias).to(device)]),
            self.place_of_token,
        )


@dataclass(frozen=True)
class Own:
    """Items that the users touched before.

    user, place: i64 [pairs], distinct.  score: f32 [pairs], counts instead of the catalogue's, −inf
    where the item may not be recommended; None when the catalogue's hold.
    """

    user: torch.Tensor
    place: torch.Tensor
    score: torch.Tensor | None

    @classmethod
    def concat(cls, parts: Sequence[Own]) -> Own:
        """Put the pairs of several parts, at least one, one after another."""
        scores = [part.score for part in parts if part.score is not None]
        return cls(
            torch.cat([part.user for part in parts]),
            torch.cat([part.place for part in parts]),
            torch.cat(scores) if scores else None,
        )

    def of_first(self, users: int) -> Own:
        """Return the pairs of the first users."""
        kept = self.user < users
        return Own(
            self.user[kept], self.place[kept], None if self.score is None else self.score[kept]
        )

    def never(self) -> Own:
        """Return them as items that are not recommended again."""
        return replace(self, score=torch.full(self.user.shape, -torch.inf, device=self.user.device))


@dataclass(frozen=True)
class TopItems:
    """The best items of some users, best first.

    places: i64 [users, k], in `catalogue`, −1 where a user has fewer than k.  scores: f32
    [users, k], logits; −inf where there is no item.
    """

    user_ids: list[str]
    places: NDArray[np.int64]
    scores: NDArray[np.float32]
    catalogue: Catalogue

    @property
    def item_ids(self) -> list[list[str]]:
        """Ids of each user's items."""
        names = self.catalogue.item_ids
        return [[names[place] for place in row if place >= 0] for row in self.places.tolist()]

    def frame(self) -> pl.DataFrame:
        """One row per user and item: user_id, rank (i32, from 1), item_id, score (f32)."""
        users, ranks = np.nonzero(self.places >= 0)
        places = pl.Series(self.places[users, ranks])
        return pl.DataFrame(
            {
                "user_id": pl.Series(self.user_ids, dtype=pl.String).gather(users),
                "rank": pl.Series(ranks + 1, dtype=pl.Int32),
                "item_id": pl.Series(self.catalogue.item_ids, dtype=pl.String).gather(places),
                "score": self.scores[users, ranks],
            }
        )


@torch.inference_mode()
def best_items(
    catalogue: Catalogue, users: torch.Tensor, own: Own, k: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Places i64 and scores f32 [users, k] of the items with the highest scores, best first.

    users: f32 [users, dim].  Equal scores are ranked by place. Where a user has no more items that
    may be recommended the place is −1 and the score −inf.
    """
    items = len(catalogue.bias)
    by_place = torch.argsort(own.place)
    own_user, own_place = own.user[by_place], own.place[by_place]
    width = max(BLOCK, SCORES_AT_ONCE // max(1, len(users)) // BLOCK * BLOCK)
    best = torch.empty((len(users), 0), dtype=torch.int64, device=users.device)
    room = users.new_empty(len(users) * min(width, items))
    for start in range(0, items, width):
        stop = min(start + width, items)
        logits = room[: len(users) * (stop - start)].view(len(users), -1)
        vectors, bias = catalogue.vectors[start:stop], catalogue.bias[start:stop]
        torch.addmm(bias, users, vectors.T, out=logits)
        if own.score is not None:
            bounds = torch.tensor([start, stop], device=users.device)
            mine = slice(*torch.searchsorted(own_place, bounds).tolist())
            logits[own_user[mine], own_place[mine] - start] = own.score[by_place[mine]]
        best = torch.cat([best, _best_keys(logits, start, k)], dim=1)
        best = best.topk(min(k, best.shape[1])).values
    return _read(best, k)


def best_of(
    scores: torch.Tensor, places: torch.Tensor, k: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return the k best of some items of each user, as `best_items` does; [users, items] both."""
    keys = _keys(scores, places)
    return _read(keys.topk(min(k, keys.shape[1])).values, k)


@torch.inference_mode()
def all_scores(catalogue: Catalogue, users: torch.Tensor, own: Own) -> NDArray[np.float32]:
    """Scores of all items, f32 [users, items]; arguments as in `best_items`."""
    logits = torch.addmm(catalogue.bias, users, catalogue.vectors.T)
    if own.score is not None:
        logits[own.user, own.place] = own.score
    return logits.cpu().numpy()


def _best_keys(logits: torch.Tensor, start: int, k: int) -> torch.Tensor:
    """Keys i64 [users, at most k] of the best items of a chunk, in no order."""
    users, items = logits.shape
    if items > k * BLOCK:
        if items % BLOCK:
            logits = functional.pad(logits, (0, -items % BLOCK), value=-torch.inf)
        blocks = logits.view(users, -1, BLOCK)
        number = torch.arange(blocks.shape[1], device=logits.device)
        chosen = PLACES - (_keys(blocks.amax(dim=2), number).topk(k).values & PLACES)
        logits = blocks.gather(1, chosen[:, :, None].expand(-1, -1, BLOCK)).view(users, -1)
        inside = torch.arange(BLOCK, device=logits.device)
        place = (chosen[:, :, None] * BLOCK + inside).view(users, -1)
    else:
        place = torch.arange(items, device=logits.device)
    keys = _keys(logits, start + place)
    return keys.topk(min(k, keys.shape[1])).values


def _keys(scores: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """One number i64 for each score and place: higher scores first, then lower places."""
    bits = (scores + 0.0).view(torch.int32)  # −0.0 + 0.0 is 0.0
    ordered = bits ^ ((bits >> 31) & 0x7FFFFFFF)  # as integers, floats order like this
    return (ordered.long() << 32) | (PLACES - places)


def _scores(keys: torch.Tensor) -> torch.Tensor:
    """Scores f32 of keys."""
    ordered = (keys >> 32).int()
    return (ordered ^ ((ordered >> 31) & 0x7FFFFFFF)).view(torch.float32)


def _read(keys: torch.Tensor, k: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Places and scores [users, k] of keys, best first; −1 and −inf where there are fewer."""
    scores = functional.pad(_scores(keys), (0, k - keys.shape[1]), value=-torch.inf)
    places = functional.pad(PLACES - (keys & PLACES), (0, k - keys.shape[1]))
    return places.masked_fill(scores == -torch.inf, -1).cpu().numpy(), scores.cpu().numpy()


@dataclass(frozen=True)
class ColdItems:
    """Items without a token: ids, sorted; vectors f32 [items, dim]; bias f32 [items].

    bias: the mean of the known items of the category (of all, without one), since nothing is known
    of an item's own popularity.  near: f32 [known items, items], sparse: the share of each known
    item in the mean; None for none.
    """

    item_ids: list[str]
    vectors: NDArray[np.float32]
    bias: NDArray[np.float32]
    near: csr_matrix | None = None

    def scores(self, users: torch.Tensor, own: Own) -> NDArray[np.float32]:
        """Logits f32 [users, items], beside those of `Encoder.item_scores`.

        users, own: of `Encoder.read_users`.
        """
        logits: NDArray[np.float32] = users.cpu().numpy() @ self.vectors.T + self.bias
        user, place, copied = self._copied(users, own)
        logits[user, place] = copied
        return logits

    def copies(self, users: torch.Tensor, own: Own, catalogue: Catalogue) -> Own:
        """Pairs of users and new items that read like their own ones, with the scores of both ways.

        users, own: of `Encoder.read_users`.  catalogue: ends with these items; denied get −inf.
        """
        found = self._copied(users, own)
        user, place, score = (torch.from_numpy(values).to(users.device) for values in found)
        place += len(catalogue.item_ids) - len(self.item_ids)
        score = score.masked_fill(torch.isneginf(catalogue.bias[place]), -torch.inf)
        return Own(user, place, None if own.score is None else score)

    def _copied(
        self, users: torch.Tensor, own: Own
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
        """Users, new items and logits of all pairs with a known item of the user's near by."""
        if self.near is None or own.score is None:
            return np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32)
        mass = own.score.double().exp().cpu().numpy()  # 0 for what may not be recommended
        pairs = (own.user.cpu().numpy(), own.place.cpu().numpy())
        copied = csr_matrix((mass, pairs), shape=(len(users), self.near.shape[0])) @ self.near
        copied = copied.tocoo()
        user, place = copied.row.astype(np.int64), copied.col.astype(np.int64)
        states = users.cpu().numpy()
        logits = np.empty(len(user), dtype=np.float32)
        for start in range(0, len(user), PAIRS_AT_ONCE):
            part = slice(start, start + PAIRS_AT_ONCE)
            vectors = self.vectors[place[part]]
            logits[part] = (states[user[part]] * vectors).sum(1) + self.bias[place[part]]
        with np.errstate(divide="ignore"):
            return user, place, np.logaddexp(logits, np.log(copied.data)).astype(np.float32)
