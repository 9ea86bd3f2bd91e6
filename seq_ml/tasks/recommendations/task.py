"""Recommendations: what each user will buy in the next `horizon_days`.

Two stages. Candidates come from several scorers that each see a side of shopping: the user's own
history (people buy again), what is bought together (EASE), what similar users buy (kNN), what is
popular, and the sequence encoder. A small ranker weighs them into the probability of a purchase.
An example is a (user, candidate) pair at an origin; the ideal list of a user counts everything
bought in the window, candidate or not.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ClassVar

import polars as pl

from seq_ml.metrics.metric import Metric
from seq_ml.metrics.probabilities import calibration_metrics
from seq_ml.metrics.ranking import ndcg, per_unit, ranking_metrics
from seq_ml.periods import RECENT_DAYS
from seq_ml.schema import RECOMMENDATIONS
from seq_ml.tasks.behaviour.assortment import Assortment, shelves
from seq_ml.tasks.behaviour.visits import first_seen, merchandise_bought, merchandise_lines
from seq_ml.tasks.next_baskets.rows import UNTRIED
from seq_ml.tasks.recommendations.candidates import (
    ENCODER_FEATURES,
    FEATURES,
    UNENCODED,
    candidate_features,
    without_encoder,
)
from seq_ml.tasks.recommendations.known import read_bought, read_known
from seq_ml.tasks.recommendations.models import BoostedRanker, ScoreBaseline
from seq_ml.tasks.recommendations.reasons import evidence, sentences
from seq_ml.tasks.recommendations.rows import SHOWN, name_variants, published_lists
from seq_ml.tasks.recommendations.scorers import LONGEST
from seq_ml.tasks.recommendations.unseen import best_unseen, likenesses
from seq_ml.tasks.task import NotEnoughHistoryError, Serving, Task, check_conversions

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    import numpy as np
    from numpy.typing import NDArray

    from seq_ml.pages.page import Section
    from seq_ml.tasks.candidate import Champion, Model
    from seq_ml.tasks.data import TaskData
    from seq_ml.tasks.judged import Backtest
    from seq_ml.tasks.recommendations.known import Known, Terms
    from seq_ml.tasks.recommendations.unseen import Unseen

TOP = 10
EXAMPLE_USERS = 10_000
"""Users whose candidates are examples: of more about so many, others than the scorers know where
there are enough. Their examples take some 2 GB."""
TEXTS = pl.List(pl.String)


class RecommendationTask(Task):
    """Rank the items that a user will buy within the horizon, repeats allowed where people do."""

    name = "recommendations"
    title = "What each user will choose next"
    table = RECOMMENDATIONS
    key = ("user_id", "item_id")
    unit = "user_id"
    primary_metric = "ndcg_at_10"
    slices: ClassVar[tuple[str, ...]] = ("history",)
    by_user: ClassVar[bool] = True
    encoder_names: ClassVar[bool] = True
    limits: ClassVar[tuple[str, ...]] = (
        "People chose without the list being shown: hits do not say what showing it changes.",
    )

    def examples(self, data: TaskData, as_of: datetime) -> pl.DataFrame:
        """Candidates of every user known at three origins, one horizon apart; see `Task.examples`.

        Beside the features: `UNENCODED`, label (i8), n_relevant (items bought in the window,
        candidates or not), n_relevant_novel (of these, never bought by the user before), history
        (band of order days).
        """
        return _of_round(data, as_of)

    def earlier_examples(
        self, data: TaskData, as_of: datetime, later: pl.DataFrame
    ) -> pl.DataFrame:
        """Return `examples`: two of three origins are those of a round that is a horizon later."""
        return _of_round(data, as_of, later)

    def foretold_at(self, data: TaskData, as_of: datetime) -> set[datetime]:
        """Return the origin of the test window: the report judges next baskets there."""
        return {as_of - timedelta(days=data.periods.recommend_days)}

    def test_examples(self, data: TaskData, as_of: datetime) -> pl.DataFrame:
        """Candidates at the newest of the three origins."""
        return pl.concat(_examples(data, as_of, ("test",)))

    def serving(self, data: TaskData, as_of: datetime, units: pl.Series | None = None) -> Serving:
        """Candidates of every user with any event before `as_of`, or of these alone."""
        if units is not None:
            data = data.of(units)
        known = read_known(data, *read_bought(data, as_of), as_of, as_of)
        return Serving(_candidates(known).drop(UNENCODED), known)

    def candidates(self) -> list[Model]:
        """Popularity, own frequency, TIFU-kNN and EASE against boosted rankers over all of them."""
        return [
            ScoreBaseline(
                "popularity_28d",
                "item_buyers_28",
                "What most users chose in the last 28 days, the same for everybody.",
            ),
            ScoreBaseline(
                "own_frequency_decayed",
                LONGEST,
                "How often the user chose it, old times counting less.",
            ),
            ScoreBaseline(
                "tifu_knn",
                "tifu",
                "What the user and similar users chose, old times counting less (TIFU-kNN).",
            ),
            ScoreBaseline(
                "ease",
                "ease",
                "What goes with what the user chose: a linear item-to-item model (EASE).",
            ),
            ScoreBaseline(
                "ease_ever",
                "ease_ever",
                "The same of whatever the user ever chose, whenever and however often.",
            ),
            BoostedRanker(
                "ranker",
                FEATURES,
                "Boosted trees over all of the above and when the user chose it last.",
            ),
            BoostedRanker(
                "ranker_with_encoder",
                (*FEATURES, *ENCODER_FEATURES),
                "The ranker, which also reads the sequence encoder's score.",
                extends=("ranker",),
            ),
        ]

    def metrics(self) -> list[Metric]:
        """Ranking over all users who bought anything, and the calibration of the top ten."""
        return [
            *ranking_metrics(k=TOP, unit="user_id", relevant="n_relevant"),
            Metric(
                "ndcg_at_10_novel",
                True,
                _novel_ndcg,
                per_unit=True,
                description="NDCG@10 over items that the user had never chosen.",
            ),
            Metric(
                "brier_top_10",
                False,
                _top_error,
                per_unit=True,
                description="Squared error of p_purchase in the top ten.",
            ),
            *(_of_top_ten(metric) for metric in calibration_metrics()),
        ]

    def rows(
        self, data: TaskData, as_of: datetime, serving: Serving, champion: Champion
    ) -> pl.DataFrame:
        """Best `per_user` items of each user, with type, reason and the past items behind it.

        Half of the places are kept for items new for the user (see
        `seq_ml.tasks.recommendations.rows`).
        """
        score = pl.Series(champion.model.predict(serving.examples), dtype=pl.Float64)
        scored = serving.examples.select(*SHOWN, score=score)
        rests_on = champion.rests_on(data.periods.recommend_days, data.periods.history_days)
        rows = _published(serving.read, scored, champion.model.name, rests_on)
        judged = pl.col("source") == champion.model.name
        known = pl.col("score").clip(0, 1).cast(pl.Float32)
        return rows.with_columns(p_purchase=pl.when(judged).then(known))

    def rows_without_champion(self, data: TaskData, as_of: datetime) -> pl.DataFrame | None:
        """Count where nothing could be judged: own items by how often and how lately, then popular.

        None without a purchase.
        """
        serving = self.serving(data, as_of)
        if serving.read.fitted is None:
            return None
        own = serving.examples.filter(pl.col("own_count") > 0)
        scored = own.select(*SHOWN, score=pl.col(LONGEST).cast(pl.Float64))
        days = data.periods.history_days
        rests_on = "own choices counted, old ones less; nothing could be judged yet"
        rests_on = rests_on if days is None else f"{days} days of history, {rests_on}"
        return _published(serving.read, scored, "own_counts", rests_on)

    def sections(self, data: TaskData, result: Backtest) -> list[Section]:
        """Say what the lists are like, whether reasons hold, and how baskets are met."""
        from seq_ml.tasks.recommendations.report import list_sections

        test, data = result.windows["test"], data.some(EXAMPLE_USERS)
        purchases = merchandise_bought(data, test.last_label_end)
        seen = first_seen(data, test.first_origin)
        known = read_known(data, purchases, seen, test.first_origin, result.as_of)
        return list_sections(result, known)

    def outcomes(self, data: TaskData, predictions: pl.DataFrame, until: datetime) -> pl.DataFrame:
        """Was the item bought (1) or not (0) within the horizon? See `Task.outcomes`.

        Rows without a probability (what is popular, what nobody bought yet) promise nothing and are
        left out. Of a product any variant counts: that is what its probability speaks of.
        """
        pair = ["user_id", "item_id"]
        end = pl.col("as_of") + pl.duration(days=pl.col("horizon_days"))
        promised = predictions.with_columns(window_end=end).filter(
            pl.col("p_purchase").is_not_null(), pl.col("window_end") <= until
        )
        product = Assortment(data.items_known(until)).product
        named = promised.lazy().select("user_id", product, "rank", "as_of", "window_end")
        hits = (
            merchandise_lines(data, until)
            .select("user_id", product, "event_time")
            .join(named, on=pair)
            .filter(pl.col("event_time").is_between("as_of", "window_end", closed="left"))
            .select("user_id", "rank", realised=pl.lit(1.0))
            .unique()
            .collect(engine="streaming")
        )
        return promised.join(hits, on=["user_id", "rank"], how="left").select(
            "user_id",
            "rank",
            target=pl.lit("p_purchase"),
            predicted=pl.col("p_purchase").cast(pl.Float64),
            realised=pl.col("realised").fill_null(0.0),
            window_end="window_end",
        )


# --- examples -------------------------------------------------------------------------------------


def _of_round(data: TaskData, as_of: datetime, later: pl.DataFrame | None = None) -> pl.DataFrame:
    """Return the examples of a round; later: those of a round after it, if there was one."""
    check_conversions(data, as_of, RecommendationTask.name, items=True)
    horizon = timedelta(days=data.periods.recommend_days)
    parts = _examples(data, as_of, ("test", "validation", "fit"), later)
    if not parts or "test" not in parts[-1]["split"] or len(parts) < 2:
        needed = 2 * horizon.days
        raise NotEnoughHistoryError(
            f"recommendations: needs {data.business.conversion_noun()} from more than {needed} "
            f"days before {as_of:%F} to judge lists of {horizon.days} days; until then what is "
            "popular, and what people chose themselves, is counted."
        )
    return pl.concat(parts)


def _examples(
    data: TaskData, as_of: datetime, splits: Sequence[str], later: pl.DataFrame | None = None
) -> list[pl.DataFrame]:
    """Labelled candidates of origins one horizon apart, oldest first; splits: newest first.

    later: examples of a later round, which may hold some of the origins but the oldest.
    """
    data, horizon = data.some(EXAMPLE_USERS), timedelta(days=data.periods.recommend_days)
    purchases, seen = read_bought(data, as_of)
    parts: list[pl.DataFrame] = []
    known: Known | None = None
    for back, split in reversed(list(enumerate(splits, start=1))):
        origin, frame = as_of - back * horizon, None
        if later is not None and known is not None:
            frame = _relabelled(later.filter(origin=origin), known.terms)
        if frame is None:
            known = read_known(data, purchases, seen, origin, as_of)
            frame = _labelled(_candidates(known), known, horizon)
        if frame.height:
            parts.append(frame.with_columns(split=pl.lit(split)))
    return parts


def _relabelled(examples: pl.DataFrame, terms: Terms) -> pl.DataFrame | None:
    """Return examples of an origin as a round without encoder has them; None if that is unknown."""
    frame = without_encoder(examples, repeats=terms.repeats) if examples.height else None
    if frame is None or terms.repeats:
        return frame
    return frame.with_columns(n_relevant="n_relevant_novel")


def _candidates(known: Known) -> pl.DataFrame:
    scores = known.encoder_scores(known.data.events)
    bands = ["no order yet", "1 to 9 order days", "10 to 49 order days", "50 or more order days"]
    return candidate_features(known.fitted, known.bought, scores, known.history).with_columns(
        origin=pl.lit(known.origin),
        history=pl.col("user_days").cut([0, 9, 49], labels=bands).cast(pl.String),
    )


def _labelled(frame: pl.DataFrame, known: Known, horizon: timedelta) -> pl.DataFrame:
    """Add what happened in the horizon from the origin on."""
    pair, origin = ["user_id", "item_id"], known.origin
    inside = pl.col("event_time").is_between(origin, origin + horizon, closed="left")
    future = known.bought.filter(inside).select(pair).unique()
    past = known.past.select(*pair, known=True).unique()
    counts = (
        future.join(past, on=pair, how="left")
        .group_by("user_id")
        .agg(n_relevant=pl.len(), n_relevant_novel=pl.col("known").is_null().sum())
        .cast({"n_relevant": pl.Int32, "n_relevant_novel": pl.Int32})
    )
    if not known.terms.repeats:
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
            label_end=pl.lit(origin + horizon),
        )
    )


# --- metrics --------------------------------------------------------------------------------------


def _novel_ndcg(examples: pl.DataFrame, score: NDArray[np.float64]) -> pl.DataFrame:
    novel = (examples["own_count"] == 0).to_numpy()
    return per_unit(
        ndcg,
        examples.filter(pl.Series(novel)),
        score[novel],
        k=TOP,
        unit="user_id",
        relevant="n_relevant_novel",
    )


def _top_error(examples: pl.DataFrame, score: NDArray[np.float64]) -> pl.DataFrame:
    """Squared error of the probabilities in the top ten, of each user, buyer or not."""
    rows = _top_ten(examples, score)
    top = examples[rows].select(unit="user_id", label=pl.col("label").cast(pl.Float64))
    error = (pl.col("label") - pl.Series(score[rows])).pow(2)
    return top.with_columns(error=error).group_by("unit").agg(value=pl.mean("error")).sort("unit")


def _of_top_ten(metric: Metric) -> Metric:
    """Ask a metric of probabilities about the rows that are published: each user's first ten."""

    def of(examples: pl.DataFrame, score: NDArray[np.float64]) -> float:
        rows = _top_ten(examples, score)
        return float(metric.function(examples[rows], score[rows]))

    def weighted(examples: pl.DataFrame, score: NDArray[np.float64]) -> Any:
        rows = _top_ten(examples, score)
        many = metric.weighted(examples[rows], score[rows])
        return lambda drawn: many(drawn.of(rows))

    described = f"In the top ten. {metric.description}"
    return replace(metric, function=of, weighted=weighted, description=described)


def _top_ten(examples: pl.DataFrame, score: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the rows of each user's ten highest scores; of equal ones the first."""
    scored = examples.select("user_id", score=pl.Series(score)).with_row_index("row")
    # What is below a user's tenth score need not be ranked; ties with it do.
    best = scored.filter(pl.col("score") >= pl.col("score").top_k(TOP).min().over("user_id"))
    place = pl.col("score").rank("ordinal", descending=True).over("user_id")
    return best.filter(place <= TOP)["row"].cast(pl.Int64).to_numpy()


# --- rows -----------------------------------------------------------------------------------------


def _published(known: Known, scored: pl.DataFrame, source: str, rests_on: str) -> pl.DataFrame:
    """Return the table's rows of scored candidates, without their probabilities."""
    data, unseen = known.data, known.unseen()
    best = None if unseen is None else best_unseen(unseen, known.terms.most_new)
    lists = _with_evidence(published_lists(scored, known, best), known, unseen)
    popular, untried = pl.col("segment").is_not_null(), pl.col("place").is_not_null()
    lists = lists.with_columns(
        rec_type=pl.when(popular)
        .then(pl.lit("fallback"))
        .when(pl.col("own_count") > 0)
        .then(pl.lit("buy_again"))
        .when(untried | pl.col("product").is_in(known.young.implode()))
        .then(pl.lit("new"))
        .when(pl.col("reason_items").list.len() > 0)
        .then(pl.lit("bought_together"))
        .otherwise(pl.lit("for_you"))
    )
    counted = f"users of the last {RECENT_DAYS} days counted, nothing personal"
    return lists.select(
        "user_id",
        "rank",
        "rec_type",
        "item_id",
        pl.col("score").cast(pl.Float32),
        p_purchase=pl.lit(None, dtype=pl.Float32),
        horizon_days=pl.lit(data.periods.recommend_days, dtype=pl.Int32),
        reason=sentences(pl.col("rec_type"), data.business),
        reason_items="reason_items",
        is_fallback=popular,
        in_stock="in_stock",
        rests_on=pl.when(untried)
        .then(pl.lit("category and text of the item: nobody chose it yet"))
        .when(popular)
        .then(pl.lit(counted))
        .otherwise(pl.lit(rests_on)),
        source=pl.when(untried)
        .then(pl.lit(UNTRIED))
        .when(pl.col("segment") == "all")
        .then(pl.lit("popular"))
        .when(popular)
        .then(pl.lit("popular_in_segment"))
        .otherwise(pl.lit(source)),
    )


def _with_evidence(lists: pl.DataFrame, known: Known, unseen: Unseen | None) -> pl.DataFrame:
    """Name the variants, and add in_stock, reason_items and evidence_titles.

    That is what speaks for a row; the item itself if it is bought again.
    """
    pair, range_, stock = ["user_id", "item_id"], known.range_, shelves(known.data, known.origin)
    new = lists.filter(pl.col("own_count") == 0).select(pair)
    reasons = [lists.clear().select(pair).with_columns(evidence=pl.lit([], dtype=TEXTS))]
    if known.fitted is not None and known.history is not None:
        reasons.append(evidence(known.history, known.fitted.ease, new))
    if unseen is not None:
        untried = lists.filter(pl.col("place").is_not_null()).select(pair)
        reasons.append(likenesses(unseen, untried))
    spoken = pl.concat(reasons).rename({"item_id": "product"}).explode("evidence").drop_nulls()
    # What the user bought of a product is named as it was bought, whether it is still sold or not.
    owned = name_variants(
        spoken.select("user_id", item_id="evidence").unique(),
        known,
        replace(range_, gone=range_.gone.clear(), denied=()),
        stock,
    ).select("user_id", "item_id", evidence="product")
    titles = range_.items.select("item_id", "title")
    named = (
        spoken.join(owned, on=["user_id", "evidence"], how="left", maintain_order="left")
        .join(titles, on="item_id", how="left", maintain_order="left")
        .group_by("user_id", "product", maintain_order=True)
        .agg(
            evidence="item_id",
            evidence_titles=pl.coalesce("title", "item_id").unique(maintain_order=True),
        )
    )
    again = pl.col("own_count").fill_null(0) > 0
    return (
        name_variants(lists, known, range_, stock)
        .join(named, on=["user_id", "product"], how="left", maintain_order="left")
        .join(stock.select("item_id", "in_stock"), on="item_id", how="left", maintain_order="left")
        .with_columns(
            reason_items=pl.when(again)
            .then(pl.concat_list("item_id"))
            .otherwise(pl.col("evidence").fill_null(pl.lit([], dtype=TEXTS)))
        )
    )
