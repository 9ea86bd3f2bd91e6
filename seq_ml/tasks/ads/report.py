"""What only the report on ads says: what a budget buys, off-policy value, what contacts change."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from seq_ml.metrics.off_policy import LoggedDecisions, NoSupportError, OffPolicy, off_policy
from seq_ml.pages.figures import MODEL, OTHER, Series, curves
from seq_ml.pages.page import Section
from seq_ml.tasks.ads.decisions import decide
from seq_ml.tasks.ads.features import FEATURES
from seq_ml.tasks.ads.log import NoLogError, decided_pairs
from seq_ml.tasks.ads.uplift import TOP_SHARE, judge_uplift, with_uplift

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from seq_ml.tasks.ads.features import AdHistory
    from seq_ml.tasks.data import TaskData
    from seq_ml.tasks.judged import Backtest

    Array = NDArray[np.float64]

SHARES = (0.05, 0.1, 0.2, 0.3, 0.5, 1.0)
"""Budgets, as shares of the test examples, that the report speaks of."""
RULE = "user_rate"
"""The simple rule that rankings are compared with: who responded most often before."""


def budget(data: TaskData, result: Backtest, value: float | None) -> Section:
    """Show which responses each budget reaches on the test campaigns, by whom is asked first."""
    label = result.test["label"].to_numpy()
    published = result.published.name
    rankings = {published: result.predictions[published]}
    if RULE in result.predictions:
        rankings.setdefault(RULE, result.predictions[RULE])
    cost = data.business.ads.contact_cost
    reached = {name: _reached(label, score) for name, score in rankings.items()}
    rows = [("contacts", *(f"{name}: responses" for name in rankings), "by chance: responses")]
    if value is not None:
        rows[0] = (*rows[0], *(f"{name}: profit" for name in rankings), "by chance: profit")
    for share in SHARES:
        contacts = max(1, round(share * len(label)))
        responses = [*(float(of[contacts]) for of in reached.values()), contacts * label.mean()]
        cells = [f"{contacts} ({share:.0%})", *(f"{n:.0f}" for n in responses)]
        if value is not None:
            cells += [str(round(n * value - contacts * cost)) for n in responses]
        rows.append(tuple(cells))
    text = (
        "The test campaigns, best first, across campaigns: how many responses a budget of so many "
        "contacts reaches."
    )
    if value is None:
        text += " Profit is unknown: no response with a price was seen."
    else:
        text += (
            f" Profit = responses × {value:.2f} (mean spend on the day of a response, "
            "its margin where costs are known) − contacts × "
            f"{cost:.2f}, {data.business.currency}; a response is not all additional."
        )
    return Section("What a budget buys", text, tuple(rows))


def new_policy(
    data: TaskData, result: Backtest, history: AdHistory, value: float | None
) -> Section:
    """Estimate what today's policy would have earned on decisions that were logged before."""
    title = "Value of today's policy (off-policy)"
    if value is None:
        return Section(title, "Not estimated: no response with a price was seen.")
    try:
        log = decided_pairs(data, history, result.as_of, since=result.windows["test"].first_origin)
        found = _off_policy(data, result, history, value, log)
    except (NoLogError, NoSupportError) as reason:
        return Section(title, f"Not estimated: {reason}")
    followed = _followed(log)
    rows = (
        ("profit per decision", f"{data.business.currency}, 95 % interval"),
        ("as logged", str(found.logged)),
        ("today's policy, doubly robust", str(found.dr)),
        ("today's policy, self-normalised weights (SNIPS)", str(found.snips)),
        ("today's policy, weights (IPS)", str(found.ips)),
        ("today's − logged (doubly robust)", str(found.difference)),
    )
    text = (
        f"{found.decisions} first decisions logged after the model was fitted, worth "
        f"{found.effective_sample:.0f} effective ones; weights average {found.mean_weight} (1 when "
        f"the propensities are right), the largest is {found.largest_weight:.1f}. {followed}"
    )
    return Section(title, text, rows)


def _followed(log: pl.DataFrame) -> str:
    """Say how the first decisions were carried out, and what later ones made of them."""
    held = log.filter(~pl.col("contacted"))
    later = int((~held["alone"]).sum())
    undone = int((log["contacted"] & ~log["impression"]).sum())
    against = int((log["alone"] & log["impression"]).sum())
    return (
        f"A first decision stands for what followed: {later} of {held.height} users that were held "
        f"back were contacted by a later snapshot. Not carried out: {undone} contacts; "
        f"{against} users were contacted whom no snapshot wanted to contact."
    )


def _off_policy(
    data: TaskData, result: Backtest, history: AdHistory, value: float, log: pl.DataFrame
) -> OffPolicy:
    """Judge what `AdsTask.rows` would have decided, on decisions that no fitted thing has seen."""
    ads = data.business.ads
    since = result.windows["test"].first_origin
    p = pl.Series(result.published.predict(log))
    pairs = with_uplift(
        log.select("user_id", "campaign_id", "origin", *FEATURES), data, history, since
    )
    pairs = pairs.with_columns(p=p, gain=pl.coalesce("uplift", p) * value, open=pl.lit(value=True))
    # as in the log: one budget for every day of decisions
    days = pairs.partition_by("origin", maintain_order=True)
    new = pl.concat([decide(day, ads, seed=data.seed) for day in days])
    # what followed a first decision is its outcome: a later contact costs as much
    cost = (~log["alone"]).cast(pl.Float64) * ads.contact_cost
    users = log.select(pl.col("user_id").rank("dense").cast(pl.Int64))
    return off_policy(
        LoggedDecisions(
            log["contacted"].to_numpy(),
            (log["label"] * value - cost).to_numpy(),
            log["propensity"].to_numpy(),
            users.to_series().to_numpy(),
        ),
        new["propensity"].to_numpy(),
        reward_acted=(p * value - ads.contact_cost).to_numpy(),
        reward_not=(pairs["p_control"].fill_null(0.0) * value).to_numpy(),
    )


def uplift(data: TaskData, result: Backtest, history: AdHistory) -> Section:
    """Show what a contact changes, judged on later campaigns; or say why nobody knows."""
    title = "What a contact changes (uplift)"
    try:
        found = judge_uplift(decided_pairs(data, history, result.as_of), seed=data.seed)
    except NoLogError as reason:
        return Section(title, f"Not estimated, uplift is null: {reason}")
    rows = (
        ("effect on P(response)", "estimate, 95 % interval"),
        ("all decisions", str(found.effect)),
        (f"the {TOP_SHARE:.0%} with the highest uplift", str(found.effect_top)),
        ("model's mean uplift", f"{found.predicted:.4g}"),
        ("Qini: above a random order, per decision", str(found.qini)),
    )
    verdict = (
        "The order by uplift finds those whom a contact changes better than chance."
        if found.holds
        else "The order by uplift is not better than chance, so it is null and responses decide, "
        "gross; the effect of all is what is known."
    )
    text = (
        f"{found.decisions} decisions made by chance ({found.controls} held out to the end, "
        f"{found.later} contacted later and in neither group), in later campaigns than those it "
        f"was learnt from. {verdict}"
    )
    figure = curves(
        "Additional responses (Qini)",
        "share contacted, highest uplift first",
        "additional responses per decision",
        [
            Series("by uplift", MODEL, found.curve),
            Series("by chance", OTHER, (found.curve[0], found.curve[-1])),
        ],
    )
    return Section(title, text, rows, (figure,))


def _reached(label: Array, score: Array) -> Array:
    """Responses among the first n of the ranking, n = 0 … all."""
    return np.append(0.0, np.cumsum(label[np.argsort(-score, kind="stable")]))
