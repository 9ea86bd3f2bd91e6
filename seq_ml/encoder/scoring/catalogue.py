"""What is ranked: the items with a token, what a user touched before, and items without a token."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.sparse import csr_matrix

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

COPIES_AT_ONCE = 1 << 16
"""Pairs of users and items without a token whose vectors are multiplied at once."""


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
        pairs = self._copied(users, own)
        user, place, score = (torch.from_numpy(values).to(users.device) for values in pairs)
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
        for start in range(0, len(user), COPIES_AT_ONCE):
            part = slice(start, start + COPIES_AT_ONCE)
            vectors = self.vectors[place[part]]
            logits[part] = (states[user[part]] * vectors).sum(1) + self.bias[place[part]]
        with np.errstate(divide="ignore"):
            return user, place, np.logaddexp(logits, np.log(copied.data)).astype(np.float32)
