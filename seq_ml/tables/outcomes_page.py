"""The page of the outcomes, which says whether what was published came true.

For each target of each task: the mean promise beside the mean outcome of every judged snapshot
(calibration in the large), and the newest snapshot cut into ten bins. No row names a user.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from seq_ml.evaluation.bootstrap import Estimate
from seq_ml.evaluation.calibration import reliability
from seq_ml.evaluation.figures import MODEL, OTHER, Row, Series, curves, intervals, number
from seq_ml.evaluation.page import Page
from seq_ml.tables.outcomes import quantile_level, summary
from seq_ml.tasks.task import Section

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
    if found.hindsight:
        lines = [f"- {task}, as of {as_of:%Y-%m-%d}" for task, as_of in found.hindsight]
        text = "Their model was chosen on data after their date: hits would prove nothing.\n\n"
        sections.append(Section("Not judged", text + "\n".join(lines)))
    headline, verdict, good = _verdict(latest, found)
    return Page(
        eyebrow=f"Seqline · prediction outcomes · what is known before {until:%Y-%m-%d %H:%M} UTC",
        title="Did the predictions come true?",
        headline=headline,
        verdict=verdict,
        good=good,
        facts=(),
        sections=tuple(sections),
        foot="Intervals in brackets: 95 % confidence. Times are UTC.",
    )


def drawable(judged: pl.DataFrame) -> pl.DataFrame:
    """Return task, target and label_def of what `promise_figure` can draw: no quantiles."""
    means = judged.filter(quantile_level(pl.col("target")).is_null())
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
    rows = [("as of", "version", "source", "rows", "predicted", "happened", "difference", "held")]
    drawn = []
    for row in part.sort("as_of", descending=True).iter_rows(named=True):
        day = f"{row['as_of']:%Y-%m-%d}"
        difference = _difference(row)
        means = (number(row["predicted"]), number(row["realised"]), difference.signed())
        held = {True: "yes", False: "no", None: "–"}[row["held"]]
        rows.append(
            (day, row["model_version"][:12], row["source"], f"{row['rows']:,}", *means, held)
        )
        drawn.append(Row(f"{day} {row['source']}", difference, OTHER))
    off = intervals("Happened minus predicted, mean", drawn[:NEWEST], zero=True)
    if drawable(part).is_empty():
        text = (
            "A quantile: at least this share of what happened should be at or below it. Held: it "
            "was not less, as far as chance can tell."
        )
        figures: tuple[str, ...] = (off,)
    else:
        text = (
            "Held: on average no more and no less happened than was predicted, as far as chance "
            "can tell; one snapshot of twenty misses by chance alone. The first figure shows the "
            "newest one in ten bins, the second one how far each was off."
        )
        curve = promise_figure(outcomes, first["task"], first["target"], first["label_def"])
        figures = (curve, off)
    kind = f" ({first['label_def']})" if first["label_def"] else ""
    return Section(f"{first['task']}: {first['target']}{kind}", text, tuple(rows), figures)


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


def _difference(row: dict[str, Any]) -> Estimate:
    low, high = (float("nan") if row[end] is None else row[end] for end in ("low", "high"))
    return Estimate(row["difference"], low, high)


def _is_share(label: np.ndarray[Any, Any], predicted: np.ndarray[Any, Any]) -> bool:
    return bool(np.isin(label, (0, 1)).all() and ((predicted >= 0) & (predicted <= 1)).all())
