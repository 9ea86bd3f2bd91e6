"""The report of the user profiles as a page: verdict, segments, anomalies, tags, limits."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from seq_ml.metrics.estimate import Estimate
from seq_ml.pages.figures import BASELINE, MODEL, OTHER, Row, bars, intervals
from seq_ml.pages.page import Page, Section
from seq_ml.tasks.profiles.fraud_kinds import ALERTED, INVENTED_SHARE
from seq_ml.tasks.profiles.planted_fraud import MIXED, PUBLISHED
from seq_ml.tasks.profiles.report import WEEKS
from seq_ml.tasks.profiles.segments import SEGMENTS
from seq_ml.tasks.profiles.tags import tag_rules

if TYPE_CHECKING:
    from seq_ml.tasks.profiles.report import ProfilesJudged

LIMITS = (
    "Planted and invented fraud is as strong as its authors made it; real fraud hides.",
    "Real users count as honest, which they may not all be: precision is a lower bound.",
    "A score that is high in one thing is no proof: some take much at once, some love coupons.",
    "Quintiles are relative: a user can leave 'champions' because others spend more.",
)


def profiles_page(judged: ProfilesJudged) -> Page:
    """Return the report as a page (`seq_ml.pages.page` renders it)."""
    weekly = judged.steps[WEEKS[0][0]]
    facts = [("Users", f"{judged.users:,}")]
    if judged.sampled < judged.users:
        facts.append(("Measured on a sample of", f"{judged.sampled:,}"))
    said = []
    if weekly:
        facts.append(("Segments stay, week to week", _range([step.rules for step in weekly])))
        facts.append(("k-means instead of rules", _range([step.clusters for step in weekly])))
        rules = np.mean([step.rules for step in weekly])
        clusters = np.mean([step.clusters for step in weekly])
        said.append(
            f"segments stay from week to week (adjusted Rand index {rules:.2f}, where k-means has "
            f"{clusters:.2f})"
        )
    if mixed := next((each for each in judged.planted if each.pattern == MIXED), None):
        precision = mixed.precision[PUBLISHED]
        times = precision.value / mixed.base_rate
        facts.append(("Planted fraud found, average precision", str(precision)))
        facts.append(("The same by chance", f"{mixed.base_rate:.4f}"))
        said.append(f"planted fraud is found {times:.0f} times better than by chance")
    if judged.invented:
        missed = [each.kind for each in judged.invented if each.recall[PUBLISHED].low <= ALERTED]
        kinds = len(judged.invented)
        facts.append(
            ("Kinds of fraud without a feature, found", f"{kinds - len(missed)} of {kinds}")
        )
        said.append(
            f"of {kinds} kinds of fraud that no feature was made for, {kinds - len(missed)} are "
            "found beyond chance"
        )
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
            _anomaly_section(judged),
            *_kinds_sections(judged),
            _tag_section(judged),
            *_example_sections(judged),
            Section("Limits", "\n".join(f"- {text}" for text in LIMITS)),
        ),
        foot="Intervals in brackets hold the true value with 95 % confidence. Times are UTC.",
    )


def _segment_section(judged: ProfilesJudged) -> Section:
    days = judged.periods.value_days
    rows = [
        (
            "segment",
            "users",
            "share",
            "mean spend of the last 91 days",
            f"in it {days} days ago",
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
                f"{100 * row['users'] / max(judged.sampled, 1):.1f} %",
                _money(row["spend_91d"]),
                f"{row['then']:,}",
                "–" if not row["then"] else str(since),
                SEGMENTS[row["segment"]].format_map(judged.periods.spans),
            )
        )
        if not np.isnan(since.value):
            drawn.append(Row(f"{row['segment']} ({row['then']:,} users)", since, MODEL))
    text = (
        f"The first rule that holds decides. Amounts are {judged.currency} a user. The last two "
        f"numbers are the test: users who were in the segment {days} days ago, and what they spent "
        "since."
    )
    figure = intervals(f"Mean spend of the {days} days after", drawn)
    return Section("Segments and what they are worth", text, tuple(rows), (figure,))


def _stability_section(judged: ProfilesJudged) -> Section:
    rows = [("from", "to", "users", "same segment", "index of the rules", "of k-means")]
    figures = []
    for days, steps in judged.steps.items():
        rows += [
            (
                f"{step.first:%Y-%m-%d}",
                f"{step.second:%Y-%m-%d}",
                f"{step.users:,}",
                f"{100 * step.kept:.1f} %",
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
                    "index",
                    [f"{step.second:%m-%d}" for step in steps],
                    [
                        ("rules", MODEL, [step.rules for step in steps]),
                        ("k-means", BASELINE, [step.clusters for step in steps]),
                    ],
                )
            )
    text = (
        "Adjusted Rand index between two snapshots: 1 = nobody changed segment, 0 = as shuffled. "
        "k-means on recency, orders and spend, fitted anew at each snapshot, is what the rules "
        "replace."
    )
    if len(rows) == 1:
        return Section(
            "Stability", "No two snapshots with a whole window of orders before them yet."
        )
    return Section("Stability", text, tuple(rows), tuple(figures))


def _anomaly_section(judged: ProfilesJudged) -> Section:
    if not judged.planted:
        return Section("Anomaly score", "No user has enough orders to plant fraud into.")
    scores = list(judged.planted[0].precision)
    rows = [
        (
            "planted pattern",
            "base rate",
            *scores,
            "published ÷ base rate",
            "explained",
            "rightly",
        )
    ]
    rows += [
        (
            each.pattern,
            f"{100 * each.base_rate:.2f} %",
            *(str(each.precision[name]) for name in scores),
            f"{each.precision[PUBLISHED].value / each.base_rate:.0f} ×",
            f"{100 * each.reached:.0f} %",
            f"{100 * each.named:.0f} %" if each.reached else "–",
        )
        for each in judged.planted
    ]
    drawn = [
        Row(each.pattern, each.precision[PUBLISHED], MODEL if each.pattern == MIXED else OTHER)
        for each in judged.planted
    ]
    text = (
        "Five patterns of fraud are planted into copies of real users, about one user in a "
        "hundred. The numbers are average precision: what chance reaches is the base rate. "
        "Explained: the share of the planted users that got an anomaly_reason, which only the 1 % "
        "most unusual get; rightly: of these, how many reasons name what was bent."
    )
    return Section(
        "Anomaly score",
        text,
        tuple(rows),
        (intervals("Average precision of the published score", drawn),),
    )


def _kinds_sections(judged: ProfilesJudged) -> list[Section]:
    """Say what a budget of alerts catches of fraud that the score was not made for."""
    if not judged.invented:
        return []
    names = list(judged.invented[0].recall)
    rows = [("kind", "people", *(f"{name}: caught" for name in names), f"{PUBLISHED}: precision")]
    rows += [
        (
            each.kind.replace("_", " "),
            str(each.people),
            *(str(each.recall[name]) for name in names),
            str(each.precision[PUBLISHED]),
        )
        for each in judged.invented
    ]
    text = (
        f"The {ALERTED:.0%} of all users that each score ranks highest are alerted. Beside the "
        "real users stand invented people of five kinds of fraud from the literature, none of "
        f"which has a feature of its own, {INVENTED_SHARE:.1%} of the users each. Caught: the "
        f"share of them that is alerted (by chance {ALERTED:.0%}). Precision: the share of the "
        f"alerts that is right, at best {INVENTED_SHARE / ALERTED:.0%}. What is hardly caught "
        "here needs other data: payments, devices, addresses."
    )
    return [Section("Fraud that no feature was made for", text, tuple(rows))]


def _tag_section(judged: ProfilesJudged) -> Section:
    rows = [("tag", "users", f"rule over the last {judged.periods.window_days} days")]
    held = judged.tags
    rows += [(r.name, f"{held.get(r.name, 0):,}", r.meaning) for r in tag_rules(judged.periods)]
    text = (
        "Every tag carries its numbers in words and the ids of up to five of the events behind it, "
        "all before the date of the profile; they are rows of clean_events."
    )
    return Section("Tags", text, tuple(rows))


def _example_sections(judged: ProfilesJudged) -> list[Section]:
    if not judged.examples:
        return []
    text = (
        "The most unusual users and a holder of each tag, in the table's own words. Who it was is "
        "not said here: the page outlives an erasure."
    )
    rows = (("what", "segment", "why"), *judged.examples)
    return [Section("Examples", text, rows)]


def _range(values: list[float]) -> str:
    """Say the mean of several snapshots and how far they lie apart."""
    return f"{np.mean(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def _money(value: float | None) -> str:
    return "–" if value is None or np.isnan(value) else f"{value:,.2f}"
