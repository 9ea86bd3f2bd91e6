"""What is bought within a fortnight: popularity, own counts, the product's ranker, sequence, both.

Everybody who came in the month before (of more than 10,000 a sample, the product's own) is judged
on every item: log loss of each pair summed over a user's items, and NDCG@10 beside it. The
product's own task makes candidates, examples and rankers; a pair that is no candidate gets the rate
of such pairs in training. All origins lie behind the cut of the encoder.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from benchmarks.planted import optimum
from benchmarks.planted.data import FORTNIGHT, MONTH
from benchmarks.planted.shares import CEILING, CONSTANT, OPTIMUM, STACK, Judged, nats
from seq_ml.metrics.calibration import Platt
from seq_ml.metrics.ranking import ndcg
from seq_ml.tasks.recommendations.candidates import without_encoder
from seq_ml.tasks.recommendations.task import RecommendationTask

if TYPE_CHECKING:
    from typing import Any

    from benchmarks.planted.log import Log
    from benchmarks.planted.world import Flags, Floats
    from seq_ml.encoder.scoring.encoder import Encoder
    from seq_ml.tasks.data import TaskData

OWN, HAND, SEQUENCE = "own_frequency_decayed", "ranker", "sequence"
BLIND = "optimum blind to the cycle"
RANKERS = {STACK: "ranker_with_encoder", CEILING: "ranker_with_encoder"}
ORDER = (CONSTANT, OWN, HAND, SEQUENCE, STACK, CEILING, BLIND, OPTIMUM)
TOP = 10


@dataclass(frozen=True)
class Window:
    """Users asked about at an origin, by number, and what each of them bought [users, ITEMS]."""

    origin: int
    users: Any
    had: Flags


def judge(log: Log, data: TaskData, encoder: Encoder) -> Judged:
    """Fit every arm, judge each on the newest window."""
    as_of = log.planted.at(log.planted.days)
    examples = RecommendationTask().examples(replace(data, encoder=encoder), as_of)
    by_split = list(examples.group_by("split", maintain_order=True))
    windows = {name: _window(log, rows) for (name,), rows in by_split}
    test, before = windows["test"], windows["validation"]
    known = {name: _known(log, window) for name, window in windows.items()}
    read = {
        HAND: pl.concat(without_encoder(rows, repeats=True) for _, rows in by_split),
        STACK: examples,
        CEILING: _told(log, examples, known),
    }
    read[OWN] = read[HAND]
    p = {CONSTANT: np.broadcast_to(before.had.mean(axis=0), test.had.shape)}
    for name, rows in read.items():
        model = candidate(RANKERS.get(name, name))
        model.fit(rows.filter(pl.col("split") != "test"))
        p[name] = _everywhere(log, model, rows.filter(split="test"), rows, test)
    p[SEQUENCE] = _of_encoder(log, data, encoder, before, test)
    p[BLIND] = _known(log, test, follows=0.0)[test.users]
    p[OPTIMUM] = known["test"][test.users]
    loss = {name: nats(test.had, p[name]).sum(axis=1) for name in ORDER}
    measure = {name: _ndcg(test.had, p[name]) for name in ORDER}
    return Judged("items", loss, measure, HAND)


def candidate(name: str) -> Any:
    """One of the product's candidates."""
    return next(model for model in RecommendationTask().candidates() if model.name == name)


def _known(log: Log, window: Window, follows: float | None = None) -> Floats:
    """What the events tell of everybody, or all but the rule of the cycle [all users, ITEMS]."""
    (belief,) = optimum.believed(log, [window.origin])
    return optimum.purchases(log, belief, window.origin, FORTNIGHT, follows)


def _told(log: Log, examples: pl.DataFrame, known: dict[str, Floats]) -> pl.DataFrame:
    """Put the optimum in the place of the encoder's scores."""
    users = _places(examples["user_id"], log.user_ids)
    items = _places(examples["item_id"], log.item_ids)
    score = np.empty(examples.height)
    for split, p in known.items():
        rows = (examples["split"] == split).to_numpy()
        score[rows] = np.log(np.maximum(p[users[rows], items[rows]], 1e-6))
    rank = pl.col("encoder").rank("min", descending=True).over("origin", "user_id")
    return examples.with_columns(encoder=pl.Series(score)).with_columns(encoder_rank=rank)


def _window(log: Log, examples: pl.DataFrame) -> Window:
    """Of many users the task takes a sample; of these, who came in the month before."""
    origin = (examples["origin"][0] - log.planted.at(0)).days
    asked = np.unique(_places(examples["user_id"], log.user_ids))
    users = asked[log.came(origin - MONTH, origin)[asked]]
    return Window(origin, users, log.had(origin, origin + FORTNIGHT)[users])


def _everywhere(
    log: Log, model: Any, test: pl.DataFrame, examples: pl.DataFrame, window: Window
) -> Floats:
    """Predictions of the candidates, and the rate of all other pairs [users, ITEMS]."""
    past = examples.filter(pl.col("split") != "test")
    pairs = past.select("origin", "user_id").n_unique() * len(log.item_ids) - past.height
    bought = past.unique(["origin", "user_id"])["n_relevant"].sum() - past["label"].sum()
    p = np.full((log.planted.users, len(log.item_ids)), bought / max(pairs, 1))
    p[_places(test["user_id"], log.user_ids), _places(test["item_id"], log.item_ids)] = (
        model.predict(test)
    )
    return p[window.users]


def _of_encoder(log: Log, data: TaskData, encoder: Encoder, before: Window, test: Window) -> Floats:
    """The encoder's share of each item, its curve fitted on the window before [users, ITEMS]."""
    shares = []
    for window in (before, test):
        ids = [log.user_ids[user] for user in window.users]
        names, logits = encoder.item_scores(data.events, log.planted.at(window.origin), ids)
        logits = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
        share = np.full(window.had.shape, logits.min())
        share[:, _places(pl.Series(names), log.item_ids)] = logits
        shares.append(share)
    curve = Platt()
    curve.fit(shares[0].ravel().astype(np.float64), before.had.ravel().astype(np.float64))
    return curve.predict(shares[1])


def _places(ids: pl.Series, known: list[str]) -> Any:
    number = {name: place for place, name in enumerate(known)}
    return ids.replace_strict(number, return_dtype=pl.Int64).to_numpy()


def _ndcg(had: Flags, p: Floats) -> float:
    buyers = had.any(axis=1)
    had, p = had[buyers], p[buyers]
    best = np.argsort(-p, axis=1, kind="stable")[:, :TOP]
    hits = np.take_along_axis(had, best, axis=1)
    return float(ndcg(hits, had.sum(axis=1)).mean())
