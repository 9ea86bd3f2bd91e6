"""Judge the rankings of any number of users over any catalogue in one pass, in bounded memory.

Users × items is never held. What is kept are four numbers and the id of a user, for the bootstrap:
64 bytes in each setting. Definitions are those of `seq_ml.metrics.ranking`: binary relevance; a
user without relevant items is left out; an item that the encoder cannot rank counts as one to find.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from seq_ml.encoder.scoring.topk import best_items
from seq_ml.metrics.ranking import hit_rate, mrr, ndcg, recall

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from numpy.typing import NDArray

    from seq_ml.encoder.scoring.encoder import Encoder
    from seq_ml.tokens.vocabulary import Tokens

METRICS = ("hit", "recall", "ndcg", "mrr")


@dataclass
class Judged:
    """Metrics at k of one setting, user by user."""

    k: int
    _users: list[pl.Series] = field(default_factory=list)
    _values: list[NDArray[np.float32]] = field(default_factory=list)

    def add(
        self,
        user_ids: list[str],
        places: NDArray[np.int64],
        truth: tuple[NDArray[np.int64], NDArray[np.int64]],
    ) -> None:
        """Add some users.

        places: i64 [users, k], best first, −1 for nothing.  truth: rows i64 and places i64 of the
        distinct relevant pairs; place −1 for an item that is not in the catalogue.
        """
        row, place = truth
        relevant = np.bincount(row, minlength=len(user_ids))
        # A pair of user and place as one number: all hits are found in one look-up.
        items = 1 + max(int(places.max(initial=0)), int(place.max(initial=0)))
        known = place >= 0
        wanted = row[known] * items + place[known]
        hits = np.isin(np.arange(len(user_ids))[:, None] * items + places, wanted) & (places >= 0)
        judged = relevant > 0
        found = hits[judged], relevant[judged]
        values = [measure(*found) for measure in (hit_rate, recall, ndcg, mrr)]
        self._values.append(np.stack(values, axis=1).astype(np.float32))
        self._users.append(pl.Series(user_ids, dtype=pl.String).filter(pl.Series(judged)))

    @property
    def values(self) -> pl.DataFrame:
        """One row per user with relevant items: user_id and f32 hit, recall, ndcg, mrr."""
        columns = np.concatenate([np.empty((0, len(METRICS)), np.float32), *self._values])
        users = pl.concat([pl.Series(dtype=pl.String), *self._users])
        return pl.DataFrame({"user_id": users} | dict(zip(METRICS, columns.T, strict=True)))

    def means(self) -> dict[str, float]:
        """Means over the users, and `users`."""
        found = self.values
        means = {name: float(found[name].cast(pl.Float64).mean() or 0.0) for name in METRICS}  # type: ignore[arg-type]
        return means | {"users": found.height}


def evaluate(
    encoder: Encoder,
    parts: Iterable[tuple[pl.DataFrame | Tokens, pl.DataFrame]],
    as_of: datetime,
    *,
    k: int = 10,
) -> dict[str, Judged]:
    """Judge the encoder at `as_of`: {"repeats": all items may come, "novel": only new ones}.

    parts: the sequences of some users, as in `Encoder.top_items`, and what these users did at or
    after `as_of`: distinct user_id, item_id, novel (bool: the user had not touched it before).  A
    user is judged with relevant items and an event before `as_of`; the part's truth of others is
    passed over.

    Raises ValueError when the encoder was fitted on events at or after `as_of`.
    """
    if encoder.fitted_before > as_of:
        raise ValueError(
            f"The encoder was fitted on events up to {encoder.fitted_before}: what happened from "
            f"{as_of} on cannot judge it; choose a later cut-off or train it on an earlier one"
        )
    catalogue = encoder.catalogue()
    places = pl.DataFrame({"item_id": catalogue.item_ids}).with_row_index("place")
    judged = {"repeats": Judged(k), "novel": Judged(k)}
    for sequences, truth in parts:
        located = truth.join(places, on="item_id", how="left").with_columns(
            pl.col("place").cast(pl.Int64).fill_null(-1)
        )
        for users, states, own in encoder.read_users([sequences], as_of, catalogue):
            rows = pl.DataFrame({"user_id": users}).with_row_index("row")
            mine = located.join(rows, on="user_id").sort("row", "place")
            for name, found in judged.items():
                asked = mine.filter(pl.col("novel")) if name == "novel" else mine
                best, _ = best_items(catalogue, states, own.never() if name == "novel" else own, k)
                pairs = asked.select(pl.col("row", "place").cast(pl.Int64)).to_numpy()
                found.add(users, best, (pairs[:, 0], pairs[:, 1]))
    return judged
