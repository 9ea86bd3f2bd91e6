"""The best items of each user, exactly, in memory that depends on neither users nor catalogue.

Users × items is never held: the catalogue is scored in chunks, and each user's best so far are
merged with the best of the chunk. Within a chunk only the blocks of items with the highest maxima
are looked into; the best items cannot be elsewhere. A score and the place of its item are one
number, so that equal scores are always ranked by place, whatever the chunks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
import torch
from torch.nn import functional

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from seq_ml.encoder.scoring.catalogue import Catalogue, Own

BLOCK = 32
"""Neighbouring items whose highest score is looked at first."""
SCORES_AT_ONCE = 1 << 22
"""Scores that one chunk of users × items holds (16 MiB)."""
PLACES = (1 << 32) - 1


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
    # own pairs by place: those of a chunk are a slice
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
