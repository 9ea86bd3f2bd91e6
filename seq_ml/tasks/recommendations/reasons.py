"""Reasons of the recommendations: the past items that speak for a row, and a test that they do.

What a user buys again is its own reason. An item that is new for the user is attributed to the own
items by EASE, one of the ranker's sources: its score is a sum over them (Steck 2019), so the share
of each is exact. Whether this also explains the score that is published is tested by deletion
(Samek et al. 2017, DeYoung et al. 2020: "comprehensiveness"): without the reason's items the score
has to fall further than without other items of the same user.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from seq_ml.metrics.bootstrap import mean_estimate
from seq_ml.metrics.calibration import logit
from seq_ml.tasks.item_to_item.rows import positions
from seq_ml.tasks.recommendations.candidates import features_of_others

if TYPE_CHECKING:
    from collections.abc import Callable

    from seq_ml.business import Business
    from seq_ml.metrics.estimate import Estimate
    from seq_ml.tasks.candidate import Model
    from seq_ml.tasks.recommendations.candidates import EncoderScores, Fitted
    from seq_ml.tasks.recommendations.scorers import Ease, History, SparseEase

REASON_ITEMS = 2
COLUMNS_AT_ONCE = 512
"""Items explained at once: bounds memory at so many × core items."""
PAIRS_AT_ONCE = 4096
"""Rows explained at once: bounds memory at so many × the items that a user has."""
TESTED_USERS = 120
"""Users of the deletion test: enough for an interval, seconds to compute."""
TESTED_ROWS = 2
"""Rows of each kind (bought again, new for the user) of a user in the deletion test."""


def evidence(history: History, ease: Ease | SparseEase, pairs: pl.DataFrame) -> pl.DataFrame:
    """Add `evidence` (list[str]): the own items that speak most for an item, strongest first.

    pairs: user_id, item_id; users and items of the history, in any order, which is kept. At most
    `REASON_ITEMS`; none where no own item speaks for it or EASE does not know it.
    """
    rows = positions(pairs["user_id"], history.users)
    columns = history.column[positions(pairs["item_id"], history.items)]
    decayed = history.decayed.log1p().tocsr()
    distinct = np.unique(columns[columns >= 0])
    ids = pl.Series(history.items, dtype=pl.String)
    reasons = []
    for start in range(0, len(distinct), COLUMNS_AT_ONCE):
        chosen = distinct[start : start + COLUMNS_AT_ONCE]
        weights = ease.weights(chosen)
        explained = np.flatnonzero(np.isin(columns, chosen) & (np.diff(decayed.indptr)[rows] > 0))
        for first in range(0, len(explained), PAIRS_AT_ONCE):
            some = explained[first : first + PAIRS_AT_ONCE]
            own = decayed[rows[some]]
            pair = np.repeat(np.arange(len(some)), np.diff(own.indptr))
            column = np.searchsorted(chosen, columns[some])[pair]
            effect = own.data * weights[own.indices, column]
            # The strongest own item of each row, then the strongest of what is left; of equal ones
            # the first. `reduceat` goes over the rows' stretches of `effect`.
            for _ in range(REASON_ITEMS):
                most = np.maximum.reduceat(effect, own.indptr[:-1])
                ties = np.flatnonzero(effect == most[pair])
                best = ties[np.unique(pair[ties], return_index=True)[1]]
                speaks = best[most > 0]
                items = ids.gather(history.core[own.indices[speaks]])
                reasons.append(pl.DataFrame({"pair": some[pair[speaks]], "evidence": items}))
                effect[best] = -np.inf
    return with_evidence(pairs, reasons)


def with_evidence(pairs: pl.DataFrame, found: list[pl.DataFrame]) -> pl.DataFrame:
    """Add `evidence` (list[str]) to rows; found: pair (number of the row), evidence (an id)."""
    nothing = pl.DataFrame(schema={"pair": pl.Int64, "evidence": pl.String})
    named = pl.concat([nothing, *found]).group_by("pair", maintain_order=True).agg("evidence")
    return (
        pairs.with_columns(pair=pl.int_range(pl.len(), dtype=pl.Int64))
        .join(named, on="pair", how="left", maintain_order="left")
        .with_columns(pl.col("evidence").fill_null(pl.lit([], dtype=pl.List(pl.String))))
        .drop("pair")
    )


CHOSEN = {
    "Bought ": "Chosen ",
    " bought it in": " chose it in",
    "People who buy ": "People who choose ",
    " often buy it.": " often choose it.",
    "range: first sold": "range: first chosen",
}
"""The words of a business whose conversion is no purchase."""


def sentences(rec_type: pl.Expr, business: Business) -> pl.Expr:
    """Return the reason of a row in one sentence.

    Columns read: own_count, own_last_days, own_interval, item_age_days, item_buyers_28, dimension,
    segment, buyers, evidence_titles (list[str]).
    """
    again = (
        pl.when(pl.col("own_count") == 1)
        .then(pl.format("Bought once, {} ago.", _days("own_last_days")))
        .otherwise(
            pl.format(
                "Bought on {} days, last {} ago; usually every {}.",
                _whole("own_count"),
                _days("own_last_days"),
                _days(pl.col("own_interval").clip(lower_bound=1)),
            )
        )
    )
    where = (
        pl.when(pl.col("dimension") == "category")
        .then(pl.format("in {}", "segment"))
        .when(pl.col("dimension") == "store_id")
        .then(pl.format("in store {}", "segment"))
        .when(pl.col("dimension") == "channel")
        .then(pl.format("among {} users", "segment"))
        .otherwise(pl.lit("among all"))
    )
    untried = (rec_type == "new") & pl.col("item_age_days").is_null()
    said = (
        pl.when((rec_type == "fallback") & (pl.col("buyers") == 0))
        .then(pl.format("Popular {}, though not in the last 28 days.", where))
        .when(rec_type == "fallback")
        .then(pl.format("Popular {}: {} bought it in the last 28 days.", where, _people("buyers")))
        .when(rec_type == "buy_again")
        .then(again)
        .when(untried & pl.col("evidence_titles").is_null())
        .then(pl.lit("New in the range."))
        .when(untried)
        .then(pl.format("New in the range, like {}.", pl.col("evidence_titles").list.join(" and ")))
        .when(rec_type == "new")
        .then(pl.format("New in the range: first sold {} ago.", _days("item_age_days")))
        .when(rec_type == "bought_together")
        .then(
            pl.format(
                "People who buy {} often buy it.", pl.col("evidence_titles").list.join(" and ")
            )
        )
        .otherwise(pl.format("Bought by {} in the last 28 days.", _people("item_buyers_28")))
    )
    return said if business.sells else said.str.replace_many(CHOSEN)


def _whole(column: str | pl.Expr) -> pl.Expr:
    number = pl.col(column) if isinstance(column, str) else column
    return number.round().cast(pl.Int64)


def _days(column: str | pl.Expr) -> pl.Expr:
    days = _whole(column)
    some = pl.when(days == 1).then(pl.lit("1 day")).otherwise(pl.format("{} days", days))
    return pl.when(days < 1).then(pl.lit("less than a day")).otherwise(some)


def _people(column: str) -> pl.Expr:
    people = _whole(column)
    some = pl.when(people == 1).then(pl.lit("1 person")).otherwise(pl.format("{} people", people))
    return pl.when(people < 1).then(pl.lit("nobody")).otherwise(some)


# --- the deletion test ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Deletion:
    """How far the score falls (log-odds) without the reason's items and without others."""

    rows: int
    users: int
    without_reason: Estimate
    without_others: Estimate
    difference: Estimate


def deletion_test(
    fitted: Fitted,
    purchases: pl.DataFrame,
    rows: pl.DataFrame,
    model: Model,
    encoder: Callable[[pl.DataFrame], EncoderScores | None] | None,
    *,
    seed: int,
) -> Deletion | None:
    """Score rows again without their reason's items, and without as many others of the user.

    purchases: as in `candidates.fit`, before the origin only. rows: user_id, item_id, score (the
    probability as published) and reason_items; rows whose user has too few other items are left
    out. encoder: given events of made-up users (user_id, origin_id), the scores of these users.
    Returns None when no row is left; estimates are means over users of the users' mean rows.
    """
    owned = purchases.group_by("user_id").agg(pl.col("item_id").unique().sort().alias("owned"))
    owners = rows.filter(pl.col("reason_items").list.len() > 0).join(owned, on="user_id")
    rng = np.random.default_rng(seed)
    asked: list[tuple[str, str, str, str, list[str]]] = []
    for row in owners.sort("user_id", "item_id").iter_rows(named=True):
        reason = row["reason_items"]
        others = [i for i in row["owned"] if i not in reason and i != row["item_id"]]
        if len(others) < len(reason):
            continue
        # Two made-up people: the user without the reason, and without as many others by chance.
        drawn = rng.choice(len(others), size=len(reason), replace=False)
        for kind, gone in (("reason", reason), ("others", [others[i] for i in sorted(drawn)])):
            name = f"{row['user_id']} {row['item_id']} {kind}"
            twin = hashlib.blake2b(name.encode(), digest_size=16).hexdigest()
            asked.append((twin, row["user_id"], row["item_id"], kind, gone))
    if not asked:
        return None
    names = ("twin", "user_id", "item_id", "kind", "gone")
    twins = pl.DataFrame(asked, schema=list(names), orient="row")
    histories = (
        purchases.join(twins.select("twin", "user_id", "gone"), on="user_id")
        .filter(~pl.col("item_id").is_in(pl.col("gone")))
        .drop("gone")
        .rename({"user_id": "origin_id", "twin": "user_id"})
    )
    wanted = twins.select("item_id", user_id="twin")
    features = features_of_others(
        fitted,
        histories.drop("origin_id"),
        dict(zip(twins["twin"], twins["user_id"], strict=True)),
        wanted,
        None if encoder is None else encoder(histories),
    ).join(wanted, on=["user_id", "item_id"], how="semi", maintain_order="left")
    again = features.select("item_id", twin="user_id", again=pl.Series(model.predict(features)))
    fell = (
        twins.join(again, on=["twin", "item_id"])
        .join(owners.select("user_id", "item_id", "score"), on=["user_id", "item_id"])
        .with_columns(pl.col("score", "again").map_batches(_log_odds))
        .with_columns(fall=pl.col("score") - pl.col("again"))
        .pivot("kind", index=["user_id", "item_id"], values="fall")
    )
    by_user = fell.group_by("user_id").agg(pl.col("reason", "others").mean()).sort("user_id")
    reason = by_user["reason"].to_numpy()
    control = by_user["others"].to_numpy()
    return Deletion(
        fell.height,
        by_user.height,
        without_reason=mean_estimate(reason, seed=seed),
        without_others=mean_estimate(control, seed=seed),
        difference=mean_estimate(reason - control, seed=seed),
    )


def _log_odds(probability: pl.Series) -> pl.Series:
    return pl.Series(logit(probability.to_numpy()))
