"""The page of the outcomes, which says whether what was published came true.

For each target of each task: the mean promise beside the mean outcome of every judged snapshot
(calibration in the large), and the newest snapshot cut into ten bins. No row names a user.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from seq_ml.metrics.bootstrap import Estimate
from seq_ml.metrics.calibration import reliability
from seq_ml.pages.figures import MODEL, OTHER, Row, Series, curves, intervals, number
from seq_ml.pages.page import Page, Section
from seq_ml.tables.outcomes import is_mean, summary

if TYPE_CHECKING:
    from datetime import datetime

    from seq_ml.tables.outcomes import Round

NEWEST = 12
"""So many snapshots are drawn; the table has all of them."""


def outcomes_page(outcomes: pl.LazyFrame, found: Round, until: datetime) -> Page:
    """Return the page.

    outcomes: schema PREDICTION_OUTCOMES; found: what the newest round said; until: what happened
    is known before it.
    """
    judged = summary(outcomes)
    targets = judged.partition_by("task", "target", "label_def", maintain_order=True)
    newest = [part.filter(pl.col("as_of") == part["as_of"].max()) for part in targets]
    latest = pl.concat(newest) if newest else judged
    sections = [_section(part, outcomes) for part in targets]
    closes = [f"- {task}: {at:%Y-%m-%d %H:%M}" for task, at in sorted(found.closes.items())]
    if closes:
        text = "No outcome is known before the window has passed.\n\n" + "\n".join(closes)
        sections.append(Section("The next windows close", text))
    if found.replayed:
        lines = [f"- {task}, as of {as_of:%Y-%m-%d}" for task, as_of in found.replayed]
        text = (
            "These saw nothing behind their date, but were written when what came of it could be "
            "known already: they say what the method would have told, not what it told.\n\n"
        )
        sections.append(Section("Written after the fact", text + "\n".join(lines)))
    if found.hindsight:
        lines = [
            f"- {task}, as of {as_of:%Y-%m-%d}: {rows:,} rows"
            for (task, as_of), rows in found.hindsight.items()
        ]
        text = "Their model was chosen on data after their date: hits would prove nothing.\n\n"
        sections.append(Section("Not judged", text + "\n".join(lines)))
    headline, verdict, good = _verdict(latest, found)
    return Page(
        eyebrow=f"Seqline · prediction outcomes · what is known before {until:%Y-%m-%d %H:%M} UTC",
        title="Did the predictions come true?",
        headline=headline,
        verdict=verdict,
        good=good,
        facts=_facts(judged, found),
        sections=tuple(sections),
        foot="Intervals in brackets: 95 % confidence. Times are UTC.",
    )


def drawable(judged: pl.DataFrame) -> pl.DataFrame:
    """Return task, target and label_def of what `promise_figure` can draw: expected values."""
    means = judged.filter(is_mean(pl.col("target")))
    return means.select("task", "target", "label_def").unique().sort(pl.all(), nulls_last=True)


def promise_figure(outcomes: pl.LazyFrame, task: str, target: str, label_def: str | None) -> str:
    """Draw what happened against what was predicted, newest judged snapshot, ten bins."""
    of_target = outcomes.filter(
        pl.col("task") == task,
        pl.col("target") == target,
        pl.col("label_def").eq_missing(pl.lit(label_def, dtype=pl.String)),
    )
    newest = (
        of_target.filter(pl.col("as_of") == pl.col("as_of").max())
        .select("predicted", "realised", "as_of")
        .sort("predicted", "realised")
        .collect()
    )
    label, predicted = newest["realised"].to_numpy(), newest["predicted"].to_numpy()
    bins = reliability(label, predicted)
    share = _is_share(label, predicted)
    line = Series(
        f"as of {newest['as_of'][0]:%Y-%m-%d}",
        MODEL,
        [(b.predicted, b.observed) for b in bins],
        [(b.low, b.high) for b in bins],
    )
    title = f"{target}: predicted, happened"
    return curves(title, "predicted", "happened", [line], percent=share, square=True)


def _section(part: pl.DataFrame, outcomes: pl.LazyFrame) -> Section:
    """One target of one task: every snapshot in a row, the newest ones drawn."""
    first = part.row(0, named=True)
    of_mean = not drawable(part).is_empty()
    head = ("as of", "version", "source", "rows", "predicted", "happened", "difference", "held")
    rows: list[tuple[str, ...]] = [(*head, "error", "saved") if of_mean else head]
    drawn = []
    for row in part.sort("as_of", descending=True).iter_rows(named=True):
        day = f"{row['as_of']:%Y-%m-%d}"
        difference = _estimate(row, "difference", "low", "high")
        cells = [
            day,
            row["model_version"][:12],
            row["source"],
            f"{row['rows']:,}",
            number(row["predicted"]),
            number(row["realised"]),
            difference.signed(),
            {True: "yes", False: "no", None: "–"}[row["held"]],
        ]
        if of_mean:
            saved = _estimate(row, "saved", "saved_low", "saved_high")
            cells += [number(row["error"]), str(saved)]
        rows.append(tuple(cells))
        drawn.append(Row(f"{day} {row['source']}", difference, OTHER))
    figures = [intervals("Happened minus predicted, mean", drawn[:NEWEST], zero=True)]
    if of_mean:
        name = first["task"], first["target"], first["label_def"]
        figures.insert(0, promise_figure(outcomes, *name))
    kind = f" ({first['label_def']})" if first["label_def"] else ""
    title = f"{first['task']}: {first['target']}{kind}"
    return Section(title, _meaning(first["target"], of_mean=of_mean), tuple(rows), tuple(figures))


def _meaning(target: str, *, of_mean: bool) -> str:
    if of_mean:
        return (
            "Held: on average no more and no less happened than was predicted, as far as chance "
            "can tell; one snapshot of twenty misses by chance alone. Error: the root of the mean "
            "squared error. Saved: how much of the squared error of one number for everybody (the "
            "mean prediction) these predictions avoid; 0 is no better than that number. The first "
            "figure shows the newest snapshot in ten bins, the second one how far each was off."
        )
    if target.endswith("_interval"):
        return (
            "An interval: this share of what happened should be inside. Held: it was no more and "
            "no less, as far as chance can tell."
        )
    return (
        "A quantile: at least this share of what happened should be at or below it. Held: it was "
        "not less, as far as chance can tell."
    )


def _verdict(latest: pl.DataFrame, found: Round) -> tuple[str, str, bool]:
    if latest.is_empty():
        if not found.closes:
            return (
                "Nothing to judge yet",
                "No published prediction has a window to wait for.",
                False,
            )
        task, at = min(found.closes.items(), key=lambda item: (item[1], item[0]))
        return "No window has passed yet", f"The first one, of {task}, closes {at:%Y-%m-%d}.", False
    held = latest.filter("held").height
    missed = [
        f"{row['task']} {row['target']}, as of {row['as_of']:%Y-%m-%d}: predicted "
        f"{number(row['predicted'])}, happened {number(row['realised'])}"
        for row in latest.filter(~pl.col("held")).iter_rows(named=True)
    ]
    right = "As much happened as was predicted, as far as chance can tell."
    verdict = f"Missed: {'; '.join(missed)}." if missed else right
    headline = f"{held} of {latest.height} newest predictions held on average"
    return headline, verdict, not missed


def _facts(judged: pl.DataFrame, found: Round) -> tuple[tuple[str, str], ...]:
    if judged.is_empty() and not found.hindsight:
        return ()
    facts = [
        ("Outcomes", f"{judged['rows'].sum():,}"),
        ("Snapshots judged", f"{judged.select('task', 'as_of').n_unique():,}"),
    ]
    if found.replayed:
        facts.append(("Of these written after the fact", f"{len(found.replayed):,}"))
    if left_out := sum(found.hindsight.values()):
        facts.append(("Not judged: model chosen later", f"{left_out:,} rows"))
    return tuple(facts)


def _estimate(row: dict[str, Any], value: str, low: str, high: str) -> Estimate:
    three = (float("nan") if row[name] is None else row[name] for name in (value, low, high))
    return Estimate(*three)


def _is_share(label: np.ndarray[Any, Any], predicted: np.ndarray[Any, Any]) -> bool:
    return bool(np.isin(label, (0, 1)).all() and ((predicted >= 0) & (predicted <= 1)).all())
