"""The page of the outcomes, which says whether what was published came true.

For each target of each task: the mean promise beside the mean outcome of every judged snapshot
(calibration in the large), and the newest snapshot cut into ten bins. No row names a user.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from seq_ml.metrics.calibration import reliability
from seq_ml.metrics.estimate import Estimate
from seq_ml.pages.figures import MODEL, OTHER, Row, Series, curves, intervals, number
from seq_ml.pages.page import Page, Section
from seq_ml.tables.outcomes_summary import is_mean, summary

if TYPE_CHECKING:
    from datetime import datetime

    from seq_ml.tables.outcomes import Round

NEWEST = 12
"""So many snapshots are drawn; the table has all of them."""


def outcomes_page(outcomes: pl.LazyFrame, newest: Round, until: datetime) -> Page:
    """Return the page.

    outcomes: schema PREDICTION_OUTCOMES; newest: what the newest round said; until: what happened
    is known before it.
    """
    judged = summary(outcomes)
    targets = judged.partition_by("task", "target", "label_def", maintain_order=True)
    latest = judged.filter(
        pl.col("as_of") == pl.col("as_of").max().over("task", "target", "label_def")
    )
    sections = [_section(part, outcomes) for part in targets]
    sections += _listed(
        "The next windows close",
        "No outcome is known before the window has passed.",
        [f"{task}: {at:%Y-%m-%d %H:%M}" for task, at in sorted(newest.closes.items())],
    )
    sections += _listed(
        "Written after the fact",
        "These saw nothing behind their date, but were written when what came of it could be "
        "known already: they say what the method would have told, not what it told.",
        [f"{task}, as of {as_of:%Y-%m-%d}" for task, as_of in newest.replayed],
    )
    sections += _listed(
        "Not judged",
        "Their model was chosen on data after their date: hits would prove nothing.",
        [f"{task}, as of {at:%Y-%m-%d}: {n:,} rows" for (task, at), n in newest.hindsight.items()],
    )
    headline, verdict, good = _verdict(latest, newest)
    return Page(
        eyebrow=f"Seqline · prediction outcomes · what is known before {until:%Y-%m-%d %H:%M} UTC",
        title="Did the predictions come true?",
        headline=headline,
        verdict=verdict,
        good=good,
        facts=_facts(judged, newest),
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
    share = np.isin(label, (0, 1)).all() and ((predicted >= 0) & (predicted <= 1)).all()
    line = Series.of_bins(f"as of {newest['as_of'][0]:%Y-%m-%d}", MODEL, bins)
    title = f"{target}: predicted, happened"
    return curves(title, "predicted", "happened", [line], percent=bool(share), square=True)


def _listed(title: str, text: str, lines: list[str]) -> list[Section]:
    return [Section(title, "\n".join([text, "", *(f"- {one}" for one in lines)]))] if lines else []


def _section(part: pl.DataFrame, outcomes: pl.LazyFrame) -> Section:
    """One target of one task: every snapshot in a row, the newest ones drawn."""
    first = part.row(0, named=True)
    of_mean = not drawable(part).is_empty()
    head = ("as of", "version", "source", "rows", "predicted", "happened", "difference", "held")
    rows: list[tuple[str, ...]] = [(*head, "error", "saved") if of_mean else head]
    drawn = []
    snapshots = part.sort("as_of", descending=True).with_columns(
        pl.col(pl.Float64).fill_null(np.nan)
    )
    for row in snapshots.iter_rows(named=True):
        day = f"{row['as_of']:%Y-%m-%d}"
        difference = Estimate(row["difference"], row["low"], row["high"])
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
            saved = Estimate(row["saved"], row["saved_low"], row["saved_high"])
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


def _verdict(latest: pl.DataFrame, newest: Round) -> tuple[str, str, bool]:
    if latest.is_empty():
        if not newest.closes:
            why = "No published prediction has a window to wait for."
            return "Nothing to judge yet", why, False
        task, at = min(newest.closes.items(), key=lambda item: (item[1], item[0]))
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


def _facts(judged: pl.DataFrame, newest: Round) -> tuple[tuple[str, str], ...]:
    if judged.is_empty() and not newest.hindsight:
        return ()
    facts = [
        ("Outcomes", f"{judged['rows'].sum():,}"),
        ("Snapshots judged", f"{judged.select('task', 'as_of').n_unique():,}"),
    ]
    if newest.replayed:
        facts.append(("Of these written after the fact", f"{len(newest.replayed):,}"))
    if left_out := sum(newest.hindsight.values()):
        facts.append(("Not judged: model chosen later", f"{left_out:,} rows"))
    return tuple(facts)
