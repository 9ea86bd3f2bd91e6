"""Approximate search of the best items, for catalogues of a million items and more.

An inverted file (Sivic and Zisserman 2003; the package faiss-cpu, `pip install seqline[ann]`):
items are put into cells around centres, and a user looks only into the cells with the best centres.
How many is found on the first users: the fewest that give 99 % of the exact lists. If no number
does with less work, the search is exact. A user's own items are always scored exactly.

Measured on one core (benchmarks/scoring.py): at 100,000 items no number of cells pays, at 1,000,000
items of 64 dimensions 502 users/s against 300 exactly. Graph indexes (HNSW of faiss and of usearch)
found less than half: biases and lengths of the vectors mislead them.
"""

from __future__ import annotations

import logging
from importlib import import_module
from typing import TYPE_CHECKING

import numpy as np
import torch

from seq_ml.encoder.scoring.topk import best_items, best_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from seq_ml.encoder.scoring.catalogue import Catalogue, Own

log = logging.getLogger(__name__)

RECALL = 0.99
"""Share of the exact lists that the approximate ones must hold."""
SAMPLE = 256
"""Users on whom the recall is measured."""
FETCHED = 4
"""Times k items are fetched, because a user's own items among them are scored anew."""
CELL_SAMPLE = 40
"""Items for each cell that its centre is fitted to."""
MOST_CELLS = 0.25
"""Largest share of the cells that is looked into: beyond, the exact search is as fast."""


class ApproximateSearch:
    """Called like `best_items`, of one catalogue; the first users decide how it searches.

    Raises ImportError without faiss.
    """

    def __init__(self, catalogue: Catalogue) -> None:
        try:
            faiss = import_module("faiss")
        except ImportError as error:
            raise ImportError(
                "Approximate search needs faiss: pip install 'seqline[ann]', or search exactly"
            ) from error
        allowed = torch.isfinite(catalogue.bias).nonzero().squeeze(1)
        columns = [catalogue.vectors[allowed], catalogue.bias[allowed, None]]
        vectors = torch.cat(columns, dim=1).cpu().numpy()
        self.cells = max(1, int(4 * len(vectors) ** 0.5))
        width = vectors.shape[1]
        self._index = faiss.IndexIVFFlat(
            faiss.IndexFlatIP(width), width, self.cells, faiss.METRIC_INNER_PRODUCT
        )
        random = np.random.default_rng(0)
        fitted = random.permutation(len(vectors))[: CELL_SAMPLE * self.cells]
        self._index.train(vectors[np.sort(fitted)])
        self._index.add_with_ids(vectors, allowed.cpu().numpy())
        self.probes: int | None = None
        """Cells that a user looks into; 0: the search is exact; None: not yet decided."""

    def __call__(
        self, catalogue: Catalogue, users: torch.Tensor, own: Own, k: int
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """See `best_items`; the catalogue is the one of the index."""
        if self.probes is None:
            self.probes = self._decide(catalogue, users[:SAMPLE], own.of_first(SAMPLE), k)
        if not self.probes:
            return best_items(catalogue, users, own, k)
        return self._search(users, own, k, self.probes)

    def _decide(self, catalogue: Catalogue, users: torch.Tensor, own: Own, k: int) -> int:
        exact, _ = best_items(catalogue, users, own, k)
        recall, probes = 0.0, 1
        while probes <= MOST_CELLS * self.cells:
            places, _ = self._search(users, own, k, probes)
            recall = _recall(places, exact)
            if recall >= RECALL:
                log.info(
                    "Approximate search: %d of %d cells give %.4f of the exact lists of %d users",
                    probes, self.cells, recall, len(users),
                )  # fmt: skip
                return probes
            probes *= 2
        log.warning(
            "Approximate search finds only %.4f of the exact lists of %d users, less than %s: the "
            "search is exact instead", recall, len(users), RECALL,
        )  # fmt: skip
        return 0

    def _search(
        self, users: torch.Tensor, own: Own, k: int, probes: int
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        self._index.nprobe = probes
        queries = torch.cat([users, torch.ones_like(users[:, :1])], dim=1).cpu().numpy()
        scores, places = (
            torch.from_numpy(array).to(users.device)
            for array in self._index.search(queries, FETCHED * k)
        )
        scores = scores.masked_fill(places < 0, -torch.inf)
        if own.score is None or not len(own.place):
            return best_of(scores, places, k)
        items = 1 + int(torch.stack([places.max(), own.place.max()]).max())
        pair = torch.arange(len(users), device=users.device)[:, None] * items + places
        scores = scores.masked_fill(torch.isin(pair, own.user * items + own.place), -torch.inf)
        number = torch.bincount(own.user, minlength=len(users))
        by_user = torch.argsort(own.user, stable=True)
        first = torch.repeat_interleave(torch.cumsum(number, 0) - number, number)
        column = torch.arange(len(by_user), device=users.device) - first
        own_scores = scores.new_full((len(users), int(number.max())), -torch.inf)
        own_places = torch.zeros_like(own_scores, dtype=torch.int64)
        own_scores[own.user[by_user], column] = own.score[by_user]
        own_places[own.user[by_user], column] = own.place[by_user]
        return best_of(
            torch.cat([scores, own_scores], 1), torch.cat([places, own_places], 1).clamp(min=0), k
        )


def _recall(found: NDArray[np.int64], exact: NDArray[np.int64]) -> float:
    """Share of the exact lists' items that were found."""
    hits = (exact[:, :, None] == found[:, None, :]).any(2) & (exact >= 0)
    return float(hits.sum() / max(1, (exact >= 0).sum()))
