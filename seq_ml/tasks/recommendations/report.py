"""What only the report of the recommendations says: reasons, lists, items, baskets, company.

Everything is judged on the test window, by what was known before it.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import polars as pl

from seq_ml.metrics.bootstrap import mean_estimate
from seq_ml.metrics.calibration import calibration_error
from seq_ml.metrics.list_quality import LIST_QUALITY, list_quality
from seq_ml.metrics.probabilities import labels
from seq_ml.pages.page import Section
from seq_ml.tasks.behaviour.assortment import CLEARLY, LEAST_REPEATS, MOST_NEW
from seq_ml.tasks.item_to_item.report import judge_company
from seq_ml.tasks.item_to_item.rows import item_to_item
from seq_ml.tasks.next_baskets.report import judge_baskets
from seq_ml.tasks.recommendations.reasons import TESTED_ROWS, TESTED_USERS, deletion_test, evidence
from seq_ml.tasks.recommendations.rows import SHOWN, published_lists
from seq_ml.tasks.recommendations.scorers import days_before
from seq_ml.tasks.recommendations.unseen import best_unseen

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    import numpy as np
    from numpy.typing import NDArray

    from seq_ml.metrics.estimate import Estimate
    from seq_ml.tasks.candidate import Model
    from seq_ml.tasks.judged import Backtest
    from seq_ml.tasks.recommendations.candidates import EncoderScores
    from seq_ml.tasks.recommendations.known import Known

TOP = 10
GONE = {
    "ended": "ended by the catalogue",
    "sold_out": "none in stock and none on order",
    "unsold": "unsold for longer than their rhythm",
}
UNDATED = (
    " Some of these items have no date after the log began, and count as known all along: a "
    "catalogue made of what sold later flatters the lists with them."
)
BANDS = ("head: half of all conversions", "mid: the next 30 %", "tail: the last 20 %")
EDGES = (0.5, 0.8)


def list_sections(result: Backtest, known: Known) -> list[Section]:
    """Return the sections in the order of reading.

    known: what was known at the origin of the test window, with the purchases of the window. Items
    are products everywhere.
    """
    seed, end = known.data.seed, result.windows["test"].last_label_end
    inside = pl.col("event_time").is_between(known.origin, end, closed="left")
    after = known.bought.filter(inside)
    published = result.published.name
    names = [published, *(name for name in result.predictions if name != published)]
    lists = {name: _top(result.test, result.predictions[name]) for name in names}
    scored = result.test.with_columns(score=pl.Series(result.predictions[published])).filter(
        pl.col("user_days") > 0
    )
    made = [
        _assortment(known, scored, after),
        _reasons(known, scored, result.published),
        _probabilities(scored, seed),
        _quality(known, lists),
        _by_item(known, lists, after, end),
        _baskets(known, lists, end),
        _company(known, after),
    ]
    return [section for section in made if section is not None]


def _top(test: pl.DataFrame, score: NDArray[np.float64]) -> pl.DataFrame:
    """First ten of each user: user_id, item_id, place (0 = best), sorted by user and place."""
    return (
        test.select("user_id", "item_id", score=pl.Series(score))
        .filter(pl.col("score") >= pl.col("score").top_k(TOP).min().over("user_id"))
        .sort(["user_id", "score", "item_id"], descending=[False, True, False])
        .with_columns(place=pl.int_range(pl.len()).over("user_id"))
        .filter(pl.col("place") < TOP)
    )


def _recall(wanted: pl.DataFrame, lists: pl.DataFrame) -> NDArray[np.float64]:
    """Share of the wanted items (user_id, item_id) that the user's list holds; users sorted."""
    hits = lists.select("user_id", "item_id", hit=pl.lit(1.0))
    return (
        wanted.join(hits, on=["user_id", "item_id"], how="left")
        .group_by("user_id")
        .agg(pl.col("hit").fill_null(0.0).mean())
        .sort("user_id")["hit"]
        .to_numpy()
    )


# --- the range ------------------------------------------------------------------------------------


def _assortment(known: Known, scored: pl.DataFrame, after: pl.DataFrame) -> Section:
    """Say what the lists follow from, and judge them with and without what nobody bought yet."""
    terms = known.terms
    said = known.data.business.recommendations
    rows: list[tuple[str, ...]] = [
        ("how people choose", "measured", "in the lists"),
        (
            "conversions that repeat what the user had",
            _percent(known.repeats.share),
            f"repeats are {'' if terms.repeats else 'not '}offered{_by(said.allow_repeats)}",
        ),
        (
            f"conversions of items at most {known.data.periods.recent_days} days old",
            _percent(known.new),
            f"{terms.new_share:.1%} of the places{_by(said.new_share)}",
        ),
    ]
    for why, meaning in GONE.items():
        count = known.range_.gone.filter(pl.col("why") == why).height
        rows.append((meaning, f"{count:,} items", "never shown"))
    unseen, undated = known.unseen(), ""
    if unseen is not None:
        rows += _with_and_without(known, scored, after, best_unseen(unseen, terms.most_new))
        undated = "" if unseen.dated else UNDATED
    return Section(
        "What is new, what is gone, what comes again",
        "Measured before the test window, repeats over the year before the first of the training "
        f"windows. They are offered from {LEAST_REPEATS:.0%} on: more than {CLEARLY:.0%} to either "
        "side change what was offered. New is what the catalogue says came lately, or what then "
        "sold so often at once that it cannot have been there before. New "
        f"items get at most {MOST_NEW:.0%} of the places, and at least one where something is new. "
        "All judgements here are of products: who chose a variant has the product. Lists as "
        "published, of users who converted in the window; 95 % intervals."
        f"{undated}{_of_some(known)}",
        tuple(rows),
    )


def _of_some(known: Known) -> str:
    if known.learnt_from is None:
        return ""
    return (
        f" How people choose, EASE and the neighbours are told from {known.learnt_from:,} users "
        f"drawn at random, and judged on {len(known.users):,} others where there are; how items "
        "sell is counted over everybody."
    )


def _with_and_without(
    known: Known, scored: pl.DataFrame, after: pl.DataFrame, unseen: pl.DataFrame
) -> list[tuple[str, ...]]:
    """Rows (what, with unseen items, difference to the lists without) of the test window."""
    pair = ["user_id", "item_id"]
    users = pl.DataFrame({"user_id": known.users})
    wanted = after.select(pair).unique().join(users, on="user_id", how="semi")
    if not known.terms.repeats:
        wanted = wanted.join(known.past, on=pair, how="anti")
    sold = known.sold.select(known.range_.product)
    untried = wanted.join(sold, on="item_id", how="anti")
    scored = scored.select(*SHOWN, "score")
    both = [published_lists(scored, known, added) for added in (unseen, None)]
    k = known.terms.per_user
    rows: list[tuple[str, ...]] = [
        ("lists with what nobody chose yet", "value", "difference to lists without")
    ]
    for name, kind in ((f"recall@{k}", wanted), (f"recall@{k} of such items", untried)):
        ours, others = (_recall(kind, lists) for lists in both)
        if len(ours):
            estimates = (mean_estimate(x, seed=known.data.seed) for x in (ours, ours - others))
            value, difference = estimates
            rows.append((f"{name}, {len(ours):,} users", str(value), difference.signed()))
    return rows


def _percent(share: Estimate | None) -> str:
    if share is None:
        return "too few to say"
    return f"{share.value:.1%} [{share.low:.1%}, {share.high:.1%}]"


def _by(said: object) -> str:
    return "" if said is None else " (set by the business)"


# --- reasons --------------------------------------------------------------------------------------


def _reasons(known: Known, scored: pl.DataFrame, published: Model) -> Section | None:
    """Test the reasons of the best rows; scored: the test examples of who bought before."""
    fitted, history, seed = known.fitted, known.history, known.data.seed
    if fitted is None or history is None:
        return None
    tested = scored["user_id"].unique().sort()
    tested = tested.sample(min(TESTED_USERS, len(tested)), seed=seed)
    best = (
        scored.filter(pl.col("user_id").is_in(tested.implode()))
        .with_columns(again=pl.col("own_count") > 0)
        .sort(["user_id", "score", "item_id"], descending=[False, True, False])
        .group_by("user_id", "again", maintain_order=True)
        .head(TESTED_ROWS)
        .select("user_id", "item_id", "score", "again")
    )
    again = best.filter("again").with_columns(reason_items=pl.concat_list("item_id"))
    new = evidence(history, fitted.ease, best.filter(~pl.col("again")))
    kinds = (
        ("chosen again", again),
        ("new for the user", new.rename({"evidence": "reason_items"})),
    )
    rows: list[tuple[str, ...]] = [
        ("rows", "tested", "without the reason", "without other items", "difference")
    ]
    verdicts = []
    for kind, chosen in kinds:
        deletion = deletion_test(fitted, known.past, chosen, published, _asker(known), seed=seed)
        if deletion is None:
            continue
        estimates = (deletion.without_reason, deletion.without_others, deletion.difference)
        rows.append((kind, f"{deletion.rows} of {deletion.users} users", *map(str, estimates)))
        verdicts.append(deletion.difference.low > 0)
    if not verdicts:
        return None
    held = "They are" if all(verdicts) else "They are not, beyond chance"
    return Section(
        "Are the reasons true?",
        f"{held}. The reason's items are taken out of the user's history and the row is scored "
        "again by what is published; then as many other items of the same user. Fall of the "
        "log-odds of a conversion, mean over users, 95 % intervals.",
        tuple(rows),
    )


def _asker(known: Known) -> Callable[[pl.DataFrame], EncoderScores | None] | None:
    """Return who asks the encoder about made-up users; None without an encoder."""
    if known.data.encoder is None:
        return None

    def ask(histories: pl.DataFrame) -> EncoderScores | None:
        """Histories: what is left of users' purchases: user_id (made up), origin_id, item_id."""
        kept = histories.select("origin_id", product="item_id", twin="user_id").unique().lazy()
        events = (
            known.data.events_before(known.origin)
            .with_columns(product=known.range_.product)
            .join(kept, left_on=["user_id", "product"], right_on=["origin_id", "product"])
            .drop("user_id", "product")
            .rename({"twin": "user_id"})
            .sort("user_id", "event_time", "event_id")
            .collect()
            .lazy()
        )
        return known.encoder_scores(events)

    return ask


def _probabilities(scored: pl.DataFrame, seed: int) -> Section:
    """Compare what was promised with what was bought, in the first ten of both kinds."""
    heads = ("first ten of", "probability", "chosen", "difference", "calibration error (ECE)")
    rows: list[tuple[str, ...]] = [heads]
    own = pl.col("own_count")
    for kind, chosen in (("chosen again", own > 0), ("new for the user", own == 0)):
        part = scored.filter(chosen)
        part = part.join(
            _top(part, part["score"].to_numpy()), on=["user_id", "item_id"], how="semi"
        )
        if not part.height:
            continue
        by_user = part.group_by("user_id").agg(pl.col("score", "label").mean()).sort("user_id")
        said, bought = by_user["score"].to_numpy(), by_user["label"].to_numpy()
        estimates = (mean_estimate(x, seed=seed) for x in (said, bought, said - bought))
        error = calibration_error(labels(part), part["score"].to_numpy())
        rows.append((kind, *map(str, estimates), f"{error:.4f}"))
    return Section(
        "Do the probabilities hold?",
        "What is published was fitted on label windows that ended before the test window. Means "
        "over all users with a conversion before, those with none in the window too; 95 % "
        "intervals. ECE: ten bins of equal size, over rows.",
        tuple(rows),
    )


# --- lists ----------------------------------------------------------------------------------------


def _quality(known: Known, lists: dict[str, pl.DataFrame]) -> Section:
    """Describe the lists of ten beyond hits: published and baselines."""
    buyers = known.past.group_by("item_id").agg(buyers=pl.col("user_id").n_unique())
    products = known.range_.products.select("item_id", "category")
    catalogue = (
        known.sold.select(known.range_.product)
        .unique(maintain_order=True)
        .join(buyers, on="item_id", how="left")
        .with_columns(pl.col("buyers").fill_null(0))
        .join(products, on="item_id", how="left")
    )
    users = known.past["user_id"].n_unique()
    rows: list[tuple[str, ...]] = [("lists of ten", *LIST_QUALITY)]
    for name, shown in lists.items():
        made = list_quality(shown, catalogue, users=users, seed=known.data.seed)
        rows.append((name, *(str(made[column]) for column in LIST_QUALITY)))
    text = " ".join(f"{name}: {meaning}" for name, meaning in LIST_QUALITY.items())
    return Section("What the lists are like", text, tuple(rows))


def _by_item(
    known: Known, lists: dict[str, pl.DataFrame], after: pl.DataFrame, end: datetime
) -> Section | None:
    """Recall@10 of what was bought, by how much the item sells and whether it was promoted."""
    pairs = after.select("user_id", "item_id").unique().join(known.past, on="user_id", how="semi")
    groups = {
        name: of_group
        for name, items in (_bands(known) | _promoted(known, after, end)).items()
        if (of_group := pairs.join(items, on="item_id", how="semi")).height
    }
    if not groups:
        return None
    rows: list[tuple[str, ...]] = [("recall@10", *groups)]
    for name, shown in lists.items():
        shares = (_recall(of_group, shown) for of_group in groups.values())
        rows.append((name, *(str(mean_estimate(x, seed=known.data.seed)) for x in shares)))
    return Section(
        "Head, middle, tail and promotions",
        "Share of what users chose that was in their first ten, by how much the item sold in the "
        f"{known.data.periods.window_days} days before, and by whether at least half of the "
        "stores that promote had it on display or in the mailer in a week of the test window; mean "
        "over users who chose such items, 95 % intervals.",
        tuple(rows),
    )


def _bands(known: Known) -> dict[str, pl.DataFrame]:
    """Items (item_id) by their share of the buyers of the window before."""
    sold = (
        known.past.filter(days_before(known.origin) <= known.data.periods.window_days)
        .group_by("item_id")
        .agg(buyers=pl.col("user_id").n_unique())
        .sort(["buyers", "item_id"], descending=[True, False])
    )
    share = (pl.col("buyers").cum_sum() - pl.col("buyers")) / pl.col("buyers").sum()
    edges = zip(BANDS, (0.0, *EDGES), (*EDGES, 1.0), strict=True)
    return {
        name: sold.filter(share.is_between(low, high, closed="left")).select("item_id")
        for name, low, high in edges
    }


def _promoted(known: Known, after: pl.DataFrame, end: datetime) -> dict[str, pl.DataFrame]:
    """Items (item_id) promoted from the origin to `end`, and the others; nothing without a plan."""
    data = known.data
    days = [data.business.day_of(instant) for instant in (known.origin, end)]
    weeks = pl.col("week_start").is_between(days[0] - timedelta(days=6), days[1], closed="left")
    stores = (
        data.promotions.filter(weeks)
        .filter(pl.col("display").is_not_null() | pl.col("mailer").is_not_null())
        .group_by(known.range_.product)
        .agg(stores=pl.col("store_id").n_unique())
        .collect()
    )
    if not stores.height:
        return {}
    half = stores.filter(pl.col("stores") >= pl.col("stores").max() / 2).select("item_id")
    others = after.select("item_id").unique().join(half, on="item_id", how="anti")
    return {"promoted": half, "not promoted": others}


# --- next baskets and items beside items ----------------------------------------------------------


def _baskets(known: Known, lists: dict[str, pl.DataFrame], end: datetime) -> Section | None:
    data = known.data
    baskets = judge_baskets(
        lists,
        known.bought,
        known.origin,
        end,
        data.business,
        periods=data.periods,
        seed=data.seed,
        foretold=data.predictions.filter(pl.col("origin") == known.origin).collect(),
    )
    if baskets is None:
        return None
    heads = ("next_baskets", "precision", "recall", "F1", "F1: lead of what is published")
    rows: list[tuple[str, ...]] = [heads]
    for name, quality in baskets.quality.items():
        lead = "" if name == next(iter(lists)) else str(baskets.lead[name])
        rows.append((name, *(str(quality[m]) for m in ("precision", "recall", "f1")), lead))
    for unit, forecasts in baskets.off.items():
        rows += [
            (f"{unit} off: {forecast}", str(error), "", "", "")
            for forecast, error in forecasts.items()
        ]
    return Section(
        "The next basket",
        f"First basket of {baskets.users:,} users in the test window. As many items are named as "
        "the user usually chooses, at most ten. Below: mean absolute error of the day and of the "
        "size, of those who came. 95 % intervals over users.",
        tuple(rows),
    )


def _company(known: Known, after: pl.DataFrame) -> Section | None:
    before, catalogue = known.past, known.range_.products
    listed = item_to_item([before], catalogue, known.range_.hidden)
    judged = judge_company(listed, before, after, catalogue, seed=known.data.seed)
    if not judged:
        return None
    heads = ("item_to_item", "questions", "hit rate", "by popularity", "difference")
    rows: list[tuple[str, ...]] = [heads]
    for kind in judged:
        estimates = (kind.lists, kind.popular, kind.difference)
        rows.append((kind.kind, f"{kind.asked:,}", *map(str, estimates)))
    return Section(
        "Items beside an item",
        "bought_together: the ten others of the list hold another item of the later basket. "
        "alternative: who first chose an item of a category is named it beside the item of the "
        "category that they had most often. By popularity: as many most chosen others (of the "
        "category). "
        "Mean over users, 95 % intervals.",
        tuple(rows),
    )
