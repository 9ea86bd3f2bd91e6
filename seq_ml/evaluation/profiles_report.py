"""The report of the user profiles: what the segments, the value and the anomaly score are worth.

A profile has no label, so each part is judged by what it promises: segments by whether they stay
and by what their users spent afterwards, the expected spend by a window it has not seen, the
anomaly score by fraud that was planted.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from seq_ml.evaluation.bootstrap import Estimate
from seq_ml.evaluation.figures import BASELINE, MODEL, OTHER, Row, bars, intervals
from seq_ml.evaluation.page import Page
from seq_ml.evaluation.planted_fraud import MIXED, PUBLISHED, Found, find_planted
from seq_ml.tasks.features import behaviour_features, read_behaviour
from seq_ml.tasks.profiles import user_profiles
from seq_ml.tasks.segments import SEGMENTS, Step, assign_segments, stability
from seq_ml.tasks.spend_forecast import (
    FORECASTS,
    HORIZON_DAYS,
    MODELS,
    SpendForecast,
    forecast_spend,
    sample_users,
)
from seq_ml.tasks.tags import tag_rules
from seq_ml.tasks.task import NotEnoughHistoryError, Section

if TYPE_CHECKING:
    from datetime import datetime

    from seq_ml.tasks.features import Behaviour
    from seq_ml.tasks.task import TaskData

WEEKS = ((7, 6), (28, 6))
"""Days between two snapshots, and how many steps are compared."""
RESAMPLES = 200


@dataclass(frozen=True)
class ProfilesJudged:
    """What was measured.

    segments: one row each, of `_segments`. steps: by days between snapshots. value: the forecast
    and its test, or why there is none. found: one per planted pattern. tags: users by tag.
    """

    as_of: datetime
    users: int
    sampled: int
    segments: pl.DataFrame
    steps: dict[int, list[Step]]
    value: SpendForecast | str
    found: list[Found]
    tags: dict[str, int]
    currency: str


def judge_profiles(data: TaskData, as_of: datetime) -> ProfilesJudged:
    """Measure all parts of the profiles at `as_of`; nothing at or after it is read.

    Of more than some 20,000 users a sample is looked at.
    """
    users = data.events_before(as_of).select("user_id").unique().collect()["user_id"]
    if len(chosen := sample_users(users)) < len(users):
        events = data.events.join(chosen.to_frame().lazy(), on="user_id", how="semi")
        data = replace(data, events=events)
    profiles = user_profiles(data, as_of)
    behaviour = read_behaviour(data, as_of)
    value: SpendForecast | str
    try:
        value = forecast_spend(behaviour.visits, data.business, as_of, seed=data.seed)
    except NotEnoughHistoryError as reason:
        value = str(reason)
    held = profiles.select(pl.col("tags").list.eval(pl.element().struct.field("tag")).explode())
    counts = dict(held.to_series().drop_nulls().value_counts().rows())
    return ProfilesJudged(
        as_of,
        len(users),
        profiles.height,
        _segments(profiles, behaviour, as_of, data.seed),
        {days: stability(behaviour, as_of, days=days, steps=steps) for days, steps in WEEKS},
        value,
        find_planted(data, as_of, seed=data.seed),
        {rule.name: int(counts.get(rule.name, 0)) for rule in tag_rules()},
        data.business.currency,
    )


def profiles_page(judged: ProfilesJudged) -> Page:
    """Return the report as a page (`seq_ml.evaluation.page` renders it)."""
    weekly = judged.steps[WEEKS[0][0]]
    facts = [("Users", f"{judged.users:,}")]
    if judged.sampled < judged.users:
        facts.append(("Measured on a sample of", f"{judged.sampled:,}"))
    said = []
    if weekly:
        ari = float(np.mean([step.rules for step in weekly]))
        facts.append(("Segments, week to week (ARI)", f"{ari:.2f}"))
        said.append(f"Segments stay from week to week (adjusted Rand index {ari:.2f})")
    if isinstance(judged.value, SpendForecast):
        held = judged.value.draws["coverage"][judged.value.published].estimate()
        facts.append(("Spend forecast published", judged.value.published))
        facts.append(("Its 80 % interval held", str(held)))
        said.append(f"the spend of {HORIZON_DAYS} days comes from {judged.value.published}")
    if mixed := next((found for found in judged.found if found.pattern == MIXED), None):
        times = mixed.precision[PUBLISHED].value / mixed.base_rate
        facts.append(("Planted fraud found (AUPRC)", str(mixed.precision[PUBLISHED])))
        said.append(f"planted fraud is found {times:.0f} times better than by chance (AUPRC)")
    verdict = "; ".join(said) or "The history is too short to judge any part of the profiles"
    return Page(
        eyebrow=f"Seqline · user_profiles · as of {judged.as_of:%Y-%m-%d %H:%M} UTC",
        title="User profiles",
        headline="Judged by what happened" if said else "Nothing could be judged yet",
        verdict=f"{verdict[0].upper()}{verdict[1:]}.",
        good=bool(said),
        facts=tuple(facts),
        sections=(
            _segment_section(judged),
            _stability_section(judged),
            *_value_sections(judged),
            _anomaly_section(judged),
            _tag_section(judged),
            _limits(judged),
        ),
        foot="Intervals in brackets hold the true value with 95 % confidence. Times are UTC.",
    )


def _segments(
    profiles: pl.DataFrame, behaviour: Behaviour, as_of: datetime, seed: int
) -> pl.DataFrame:
    """Size and money of each segment now, and what its users of 91 days ago spent since.

    segment, users, spend_91d, clv (means now), then, after, low, high: users at the earlier instant
    and their mean spend in the 91 days that followed, with its 95 % interval (NaN without prices).
    """
    now = profiles.group_by("segment").agg(
        users=pl.len(), spend_91d=pl.col("spend_91d").mean(), clv=pl.col("clv_expected").mean()
    )
    before = as_of - timedelta(days=HORIZON_DAYS)
    known = behaviour.visits.filter(pl.col("at") < before)
    tenure = (pl.lit(before) - pl.col("at").min()).dt.total_seconds() / 86400.0
    users = known.group_by("user_id").agg(tenure_days=tenure).sort("user_id")
    features = behaviour_features(behaviour, before, users["user_id"])
    frame = features.join(users, on="user_id", how="left", maintain_order="left")
    spent = behaviour.visits.filter(pl.col("at") >= before).group_by("user_id")
    after = (
        frame.select("user_id", segment=assign_segments(frame))
        .join(spent.agg(pl.col("spend").sum().round(3)), on="user_id", how="left")
        .with_columns(pl.col("spend").fill_null(0.0))
        .sort("user_id")
    )
    rng = np.random.default_rng(seed)
    priced = bool(behaviour.visits["spend"].sum())
    rows = []
    for name in SEGMENTS:
        values = after.filter(segment=name)["spend"].to_numpy()
        estimate = _mean(values if priced else values[:0], rng)
        rows.append((name, len(values), estimate.value, estimate.low, estimate.high))
    realised = pl.DataFrame(rows, schema=["segment", "then", "after", "low", "high"], orient="row")
    return realised.join(now, on="segment", how="left", maintain_order="left").with_columns(
        pl.col("users").fill_null(0)
    )


def _mean(values: np.ndarray, rng: np.random.Generator) -> Estimate:
    if not len(values):
        return Estimate(float("nan"), float("nan"), float("nan"))
    drawn = [values[rng.integers(0, len(values), len(values))].mean() for _ in range(RESAMPLES)]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Estimate(float(values.mean()), float(low), float(high))


def _segment_section(judged: ProfilesJudged) -> Section:
    rows = [
        (
            "segment",
            "users",
            "share",
            "mean spend of the last 91 days",
            f"expected of the next {HORIZON_DAYS} days",
            "in it 91 days ago",
            "their mean spend since",
            "rule",
        )
    ]
    drawn = []
    for row in judged.segments.iter_rows(named=True):
        since = Estimate(row["after"], row["low"], row["high"])
        rows.append(
            (
                row["segment"],
                f"{row['users']:,}",
                f"{row['users'] / max(judged.sampled, 1):.1%}",
                _money(row["spend_91d"]),
                _money(row["clv"]),
                f"{row['then']:,}",
                "–" if not row["then"] else str(since),
                SEGMENTS[row["segment"]],
            )
        )
        if not np.isnan(since.value):
            drawn.append(Row(f"{row['segment']} ({row['then']:,} users)", since, MODEL))
    text = (
        f"The first rule that holds decides. Amounts are {judged.currency} a user. The last two "
        "numbers are the test: users who were in the segment 91 days ago, and what they spent "
        "since."
    )
    figure = intervals("Mean spend of the 91 days after", drawn)
    return Section("Segments and what they are worth", text, tuple(rows), (figure,))


def _stability_section(judged: ProfilesJudged) -> Section:
    rows = [("from", "to", "users", "same segment", "ARI of the rules", "ARI of k-means")]
    figures = []
    for days, steps in judged.steps.items():
        rows += [
            (
                f"{step.first:%Y-%m-%d}",
                f"{step.second:%Y-%m-%d}",
                f"{step.users:,}",
                f"{step.kept:.1%}",
                f"{step.rules:.3f}",
                f"{step.clusters:.3f}",
            )
            for step in steps
        ]
        if steps:
            figures.append(
                bars(
                    f"Adjusted Rand index, {days} days apart",
                    "second snapshot",
                    "ARI",
                    [f"{step.second:%m-%d}" for step in steps],
                    [
                        ("rules", MODEL, [step.rules for step in steps]),
                        ("k-means", BASELINE, [step.clusters for step in steps]),
                    ],
                )
            )
    text = (
        "Between two snapshots: 1 = nobody changed segment, 0 = as shuffled. k-means on recency, "
        "orders and spend, fitted anew at each snapshot, is what the rules replace."
    )
    if len(rows) == 1:
        return Section("Stability", "No two snapshots with 91 days of orders before them yet.")
    return Section("Stability", text, tuple(rows), tuple(figures))


def _value_sections(judged: ProfilesJudged) -> list[Section]:
    title = f"Expected spend of the next {HORIZON_DAYS} days"
    forecast = judged.value
    if isinstance(forecast, str):
        return [Section(title, f"Not published (clv_* is null): {forecast}.")]
    start, end, users = forecast.windows["test"]
    text = (
        f"{forecast.verdict}\n\nJudged on what {users:,} users spent from {start:%Y-%m-%d} to "
        f"{end:%Y-%m-%d}; the baseline was chosen on the 91 days before. RMSE and MAE are "
        f"{judged.currency} a user; bias is forecast minus spend; pinball is the loss of p10 plus "
        "that of p90; the interval should hold 80 %."
    )
    names = list(forecast.draws["rmse"])
    rows = [
        (
            "forecast",
            "RMSE",
            f"RMSE above {MODELS[0]}, paired",
            "MAE",
            "bias",
            "interval held",
            "its mean width",
            "pinball",
        )
    ]
    drawn = []
    for name in names:
        found = {metric: forecast.draws[metric][name] for metric in forecast.draws}
        worse = found["rmse"].minus(forecast.draws["rmse"][MODELS[0]])
        marked = f"{name} (published)" if name == forecast.published else name
        rows.append(
            (
                marked,
                str(found["rmse"].estimate()),
                "" if name in MODELS else str(worse),
                str(found["mae"].estimate()),
                str(found["bias"].estimate()),
                str(found["coverage"].estimate()),
                _money(found["width"].value),
                str(found["pinball"].estimate()),
            )
        )
        role = MODEL if name in MODELS else BASELINE if name == forecast.baseline else OTHER
        drawn.append(Row(name, found["rmse"].estimate(), role))
    slices = [("days since the first order", "users", "mean forecast", "mean spend")]
    slices += [
        (name, f"{n:,}", _money(made), _money(was)) for name, n, made, was in forecast.tenure
    ]
    shares = ", ".join(f"{name} {share:.3g}" for name, share in forecast.shares.items())
    meaning = "\n".join(f"- {name}: {text}" for name, text in FORECASTS.items())
    return [
        Section(title, text, tuple(rows), (intervals("RMSE on the test window", drawn),)),
        Section(f"{forecast.published} by history length", rows=tuple(slices)),
        Section("The forecasts", f"{meaning}\n\nShares of {MODELS[0]} as published: {shares}."),
    ]


def _anomaly_section(judged: ProfilesJudged) -> Section:
    if not judged.found:
        return Section("Anomaly score", "No user has enough orders to plant fraud into.")
    scores = list(judged.found[0].precision)
    rows = [
        (
            "planted pattern",
            "base rate",
            *scores,
            "published ÷ base rate",
            "among the 1 % explained",
            "of these, reason names what was bent",
        )
    ]
    rows += [
        (
            found.pattern,
            f"{found.base_rate:.2%}",
            *(str(found.precision[name]) for name in scores),
            f"{found.precision[PUBLISHED].value / found.base_rate:.0f} ×",
            f"{found.reached:.0%}",
            f"{found.named:.0%}" if found.reached else "–",
        )
        for found in judged.found
    ]
    drawn = [
        Row(found.pattern, found.precision[PUBLISHED], MODEL if found.pattern == MIXED else OTHER)
        for found in judged.found
    ]
    text = (
        "Five patterns of fraud are planted into copies of real users, about one user in a "
        "hundred. The numbers are average precision (AUPRC): what chance reaches is the base rate."
    )
    return Section(
        "Anomaly score",
        text,
        tuple(rows),
        (intervals("Average precision of the published score", drawn),),
    )


def _tag_section(judged: ProfilesJudged) -> Section:
    rows = [("tag", "users", "rule over the last 91 days")]
    rows += [(rule.name, f"{judged.tags[rule.name]:,}", rule.meaning) for rule in tag_rules()]
    text = (
        "Every tag carries its numbers in words and the ids of up to five of the events behind it, "
        "all before the date of the profile; they are rows of clean_events."
    )
    return Section("Tags", text, tuple(rows))


def _limits(judged: ProfilesJudged) -> Section:
    limits = [
        f"Nothing is said about spend beyond {HORIZON_DAYS} days: a year can judge no more.",
        "One test window: another season may differ more than its intervals say.",
        "Purchases only: refunds lower no spend.",
        "Planted fraud is as strong as its authors made it; real fraud hides.",
        "Real users count as honest, which they may not all be: precision is a lower bound.",
        "A score that is high in one thing is no proof: bulk buyers and coupon lovers exist.",
        "Quintiles are relative: a user can leave 'champions' because others spend more.",
    ]
    if isinstance(judged.value, str):
        limits = limits[2:]
    return Section("Limits", "\n".join(f"- {text}" for text in limits))


def _money(value: float | None) -> str:
    return "–" if value is None or np.isnan(value) else f"{value:,.2f}"
