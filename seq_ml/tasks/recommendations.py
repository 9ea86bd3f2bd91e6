"""Recommendations: what each user will buy in the next `horizon_days`.

Two stages. Candidates come from several scorers that each see a side of shopping: the user's own
history (people buy again), what is bought together (EASE), what similar users buy (kNN), what is
popular, and the sequence encoder. A small ranker weighs them into the probability of a purchase.
An example is a (user, candidate) pair at an origin; the ideal list of a user counts everything
bought in the window, candidate or not.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import polars as pl

from seq_ml.evaluation.metrics import ndcg_per_unit, recall_per_unit
from seq_ml.schema import RECOMMENDATIONS
from seq_ml.tasks.candidates import (
    ENCODER_FEATURES,
    FEATURES,
    POPULAR_TOP,
    Setting,
    candidate_features,
)
from seq_ml.tasks.rankers import BoostedRanker, ScoreBaseline
from seq_ml.tasks.recommenders import LONGEST, Ease, build_history
from seq_ml.tasks.task import Champion, Metric, Model, NotEnoughHistoryError, Task, TaskData

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from numpy.typing import NDArray

TOP = 10
NEW_DAYS = 28
"""An item first sold within so many days is new in the range."""
REASON_ITEMS = 2


class RecommendationTask(Task):
    """Rank the items that a user will buy within the horizon, repeats allowed where people do."""

    name = "recommendations"
    title = "What each user will buy next"
    table = RECOMMENDATIONS
    key = ("user_id", "item_id")
    unit = "user_id"
    primary_metric = "ndcg_at_10"
    slices: ClassVar[tuple[str, ...]] = ("history",)

    def examples(self, data: TaskData, as_of: datetime) -> pl.DataFrame:
        """Candidates of every user known at three origins, one horizon apart; see `Task.examples`.

        Beside the features: label (i8), n_relevant (items bought in the window, candidates or not),
        n_relevant_novel (of these, never bought by the user before), history (band of order days).
        """
        horizon = timedelta(days=data.business.recommendations.horizon_days)
        purchases = _purchases(data, as_of)
        first_seen = _first_seen(data, as_of)
        parts = []
        for back, split in ((3, "fit"), (2, "validation"), (1, "test")):
            origin = as_of - back * horizon
            frame = _candidates(data, purchases, first_seen, origin)
            if frame.height:
                parts.append(_labelled(frame, purchases, origin, horizon, split, data))
        if not parts or "test" not in parts[-1]["split"] or len(parts) < 2:
            needed = 2 * horizon.days
            raise NotEnoughHistoryError(
                f"recommendations: needs purchases from more than {needed} days before {as_of:%F}."
            )
        return pl.concat(parts)

    def serving_examples(self, data: TaskData, as_of: datetime) -> pl.DataFrame:
        """Candidates of every user with any event before `as_of`."""
        return _candidates(data, _purchases(data, as_of), _first_seen(data, as_of), as_of)

    def candidates(self) -> list[Model]:
        """Popularity, own frequency, TIFU-kNN and EASE against boosted rankers over all of them."""
        return [
            ScoreBaseline("popularity_28d", "item_buyers_28"),
            ScoreBaseline("own_frequency_decayed", LONGEST),
            ScoreBaseline("tifu_knn", "tifu"),
            ScoreBaseline("ease", "ease"),
            BoostedRanker("ranker", FEATURES),
            BoostedRanker("ranker_with_encoder", (*FEATURES, *ENCODER_FEATURES)),
        ]

    def metrics(self) -> list[Metric]:
        """Ranking over all users who bought anything, and the calibration of the top ten."""
        return [
            Metric(
                "ndcg_at_10",
                True,
                lambda e, p: ndcg_per_unit(e, p, k=TOP, unit="user_id", relevant="n_relevant"),
                per_unit=True,
                description="NDCG@10, repeats allowed.",
            ),
            Metric(
                "recall_at_10",
                True,
                lambda e, p: recall_per_unit(e, p, k=TOP, unit="user_id", relevant="n_relevant"),
                per_unit=True,
                description="Share of what the user bought that is in the top ten.",
            ),
            Metric(
                "ndcg_at_10_novel",
                True,
                _novel_ndcg,
                per_unit=True,
                description="NDCG@10 over items that the user had never bought.",
            ),
            Metric(
                "brier_top_10",
                False,
                lambda e, p: _top_error(e, p, lambda label, score: (label - score) ** 2),
                per_unit=True,
                description="Squared error of p_purchase in the top ten.",
            ),
            Metric(
                "overconfidence_top_10",
                False,
                lambda e, p: _top_error(e, p, lambda label, score: score - label),
                per_unit=True,
                description="Mean p_purchase minus the rate of purchase in the top ten; 0 is best.",
            ),
        ]

    def rows(
        self, data: TaskData, as_of: datetime, serving: pl.DataFrame, champion: Champion
    ) -> pl.DataFrame:
        """Best `per_user` items of each user, with type, reason and the past items behind it."""
        terms = data.business.recommendations
        scored = serving.with_columns(score=pl.Series(champion.model.predict(serving)))
        top = (
            scored.filter(~pl.col("item_id").is_in(list(terms.deny_items)))
            .with_columns(
                rank=pl.col("score").rank("ordinal", descending=True).over("user_id").cast(pl.Int32)
            )
            .filter(pl.col("rank") <= terms.per_user)
            .sort("user_id", "rank")
        )
        fallback = pl.col("user_days") == 0
        evidence = _evidence(data, as_of, top)
        catalogue = data.items_known(as_of).select("item_id", "title")
        top = (
            top.join(evidence, on=["user_id", "item_id"], how="left", maintain_order="left")
            .join(catalogue, on="item_id", how="left", maintain_order="left")
            .with_columns(
                reason_items=pl.when(fallback)
                .then(pl.lit([], dtype=pl.List(pl.String)))
                .when(pl.col("own_count") > 0)
                .then(pl.concat_list("item_id"))
                .otherwise(pl.col("evidence").fill_null([])),
            )
            .with_columns(
                rec_type=pl.when(fallback)
                .then(pl.lit("fallback"))
                .when(pl.col("own_count") > 0)
                .then(pl.lit("buy_again"))
                .when(pl.col("item_age_days") <= NEW_DAYS)
                .then(pl.lit("new"))
                .when(pl.col("reason_items").list.len() > 0)
                .then(pl.lit("bought_together"))
                .otherwise(pl.lit("for_you"))
            )
        )
        return top.select(
            "user_id",
            "rank",
            "rec_type",
            "item_id",
            pl.col("score").cast(pl.Float32),
            p_purchase=pl.col("score").clip(0, 1).cast(pl.Float32),
            horizon_days=pl.lit(terms.horizon_days, dtype=pl.Int32),
            reason=_reason(),
            reason_items="reason_items",
            is_fallback=fallback,
            in_stock=pl.lit(None, dtype=pl.Boolean),
            source=pl.when(fallback).then(pl.lit("popular")).otherwise(pl.lit(champion.model.name)),
        )


# --- examples -------------------------------------------------------------------------------------


def _purchases(data: TaskData, as_of: datetime) -> pl.DataFrame:
    """Purchases of merchandise before `as_of`: user_id, item_id, event_time, day (business day)."""
    goods = data.items_known(as_of).filter(~pl.col("is_merchandise")).select("item_id")
    zone = data.business.timezone
    return (
        data.events_before(as_of)
        .filter(pl.col("event_type") == "purchase", pl.col("item_id").is_not_null())
        .select(
            "user_id",
            "item_id",
            "event_time",
            day=pl.col("event_time").dt.convert_time_zone(zone).dt.date(),
        )
        .join(goods.lazy(), on="item_id", how="anti")
        .collect()
    )


def _first_seen(data: TaskData, as_of: datetime) -> pl.DataFrame:
    """First event of each user: user_id, first_seen; sorted."""
    users = data.events_before(as_of).group_by("user_id")
    return users.agg(first_seen=pl.col("event_time").min()).sort("user_id").collect()


def _candidates(
    data: TaskData, purchases: pl.DataFrame, first_seen: pl.DataFrame, origin: datetime
) -> pl.DataFrame:
    terms = data.business.recommendations
    users = first_seen.filter(pl.col("first_seen") < origin)["user_id"].to_list()
    encoder = data.encoder
    scores = None if encoder is None else lambda ids: encoder.item_scores(data.events, origin, ids)
    popular = max(POPULAR_TOP, terms.per_user + len(terms.deny_items))
    setting = Setting(terms.allow_repeats, popular, data.seed)
    catalogue = data.items_known(origin)
    frame = candidate_features(purchases, users, catalogue, origin, setting, scores)
    return frame.with_columns(origin=pl.lit(origin), history=_history_band())


def _history_band() -> pl.Expr:
    days = pl.col("user_days")
    return (
        pl.when(days < 10)
        .then(pl.lit("under 10 order days"))
        .when(days < 50)
        .then(pl.lit("10 to 49 order days"))
        .otherwise(pl.lit("50 or more order days"))
    )


def _labelled(
    frame: pl.DataFrame,
    purchases: pl.DataFrame,
    origin: datetime,
    horizon: timedelta,
    split: str,
    data: TaskData,
) -> pl.DataFrame:
    """Add what happened in [origin, origin + horizon)."""
    pair = ["user_id", "item_id"]
    inside = pl.col("event_time").is_between(origin, origin + horizon, closed="left")
    future = purchases.filter(inside).select(pair).unique()
    past = purchases.filter(pl.col("event_time") < origin).select(pair).unique()
    novel = future.join(past, on=pair, how="anti").group_by("user_id").len("n_relevant_novel")
    every = future.group_by("user_id").len("n_relevant")
    counts = (
        every.join(novel, on="user_id", how="left")
        .with_columns(pl.col("n_relevant_novel").fill_null(0))
        .cast({"n_relevant": pl.Int32, "n_relevant_novel": pl.Int32})
    )
    if not data.business.recommendations.allow_repeats:
        counts = counts.with_columns(n_relevant="n_relevant_novel")
    return (
        frame.join(
            future.with_columns(label=pl.lit(1, dtype=pl.Int8)),
            on=pair,
            how="left",
            maintain_order="left",
        )
        .join(counts, on="user_id", how="left", maintain_order="left")
        .with_columns(
            pl.col("label", "n_relevant", "n_relevant_novel").fill_null(0),
            split=pl.lit(split),
            label_end=pl.lit(origin + horizon),
        )
    )


# --- metrics --------------------------------------------------------------------------------------


def _novel_ndcg(examples: pl.DataFrame, score: NDArray[np.float64]) -> pl.DataFrame:
    novel = (examples["own_count"] == 0).to_numpy()
    return ndcg_per_unit(
        examples.filter(pl.Series(novel)),
        score[novel],
        k=TOP,
        unit="user_id",
        relevant="n_relevant_novel",
    )


def _top_error(
    examples: pl.DataFrame,
    score: NDArray[np.float64],
    error: Callable[[pl.Expr, pl.Expr], pl.Expr],
) -> pl.DataFrame:
    """Mean error of the probabilities in the top ten, per user, also those who bought nothing."""
    place = pl.col("score").rank("ordinal", descending=True).over("unit")
    return (
        examples.select(unit="user_id", label=pl.col("label").cast(pl.Float64))
        .with_columns(score=pl.Series(score))
        .filter(place <= TOP)
        .group_by("unit")
        .agg(value=error(pl.col("label"), pl.col("score")).mean())
        .sort("unit")
    )


# --- reasons --------------------------------------------------------------------------------------


def _evidence(data: TaskData, as_of: datetime, top: pl.DataFrame) -> pl.DataFrame:
    """Own items that speak most (EASE) for each recommended item that is new for the user.

    Returns user_id, item_id, evidence (list of item ids, strongest first), evidence_title.
    """
    novel = top.filter(pl.col("own_count") == 0, pl.col("user_days") > 0)
    if not novel.height:
        return novel.select(
            "user_id",
            "item_id",
            evidence=pl.lit([], dtype=pl.List(pl.String)),
            evidence_title=pl.lit("", dtype=pl.String),
        )
    everyone = top["user_id"].unique().sort().to_list()
    history = build_history(_purchases(data, as_of), everyone, as_of)
    ease = Ease(history.decayed, seed=data.seed)
    position = {item: index for index, item in enumerate(history.items)}
    row_of = {user: index for index, user in enumerate(everyone)}
    wanted = [history.column[position[item]] for item in novel["item_id"]]
    distinct = np.unique([column for column in wanted if column >= 0])
    weights = ease.weights(distinct) if len(distinct) else np.zeros((0, 0), dtype=np.float32)
    place = {int(column): index for index, column in enumerate(distinct)}
    decayed = history.decayed.log1p().tocsr()
    found: list[list[str]] = []
    for user, column in zip(novel["user_id"], wanted, strict=True):
        names: list[str] = []
        if column >= 0:
            row = row_of[user]
            own = slice(decayed.indptr[row], decayed.indptr[row + 1])
            bought = decayed.indices[own]
            effect = decayed.data[own] * weights[bought, place[int(column)]]
            best = np.argsort(-effect, kind="stable")[:REASON_ITEMS]
            names = [history.items[history.core[bought[i]]] for i in best if effect[i] > 0]
        found.append(names)
    titles = data.items_known(as_of).select("item_id", evidence_title="title")
    return (
        novel.select("user_id", "item_id")
        .with_columns(evidence=pl.Series(found, dtype=pl.List(pl.String)))
        .with_columns(first=pl.col("evidence").list.first())
        .join(titles, left_on="first", right_on="item_id", how="left")
        .drop("first")
    )


def _reason() -> pl.Expr:
    again = (
        pl.when(pl.col("own_count") == 1)
        .then(pl.format("Bought once, {} days ago.", _whole("own_last_days")))
        .otherwise(
            pl.format(
                "Bought on {} days, last {} days ago; usually every {} days.",
                _whole("own_count"),
                _whole("own_last_days"),
                _whole("own_interval").clip(lower_bound=1),
            )
        )
    )
    return (
        pl.when(pl.col("rec_type") == "fallback")
        .then(pl.format("Popular: {} people bought it lately.", _whole("item_buyers_28")))
        .when(pl.col("rec_type") == "buy_again")
        .then(again)
        .when(pl.col("rec_type") == "new")
        .then(pl.format("New in the range since {} days.", _whole("item_age_days")))
        .when(pl.col("rec_type") == "bought_together")
        .then(
            pl.format(
                "People who buy {} often buy it.",
                pl.coalesce("evidence_title", pl.col("evidence").list.first()),
            )
        )
        .otherwise(pl.format("Bought by {} people in the last 28 days.", _whole("item_buyers_28")))
    )


def _whole(column: str) -> pl.Expr:
    return pl.col(column).round().cast(pl.Int64)
