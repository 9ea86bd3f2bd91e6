"""Who responds to a campaign: the product's own features and candidates beside simple rates.

    python -m benchmarks.tables.ads        (about half a minute)

Protocol: a row is a household that received a campaign, the label that it redeems at least one of
its coupons, features strictly before the start; fitted on the campaigns that ended before 4 October
2017, judged on the campaigns 16–19 that started from then on and are complete. Settings were chosen
on earlier campaigns only. Intervals: 95 % bootstrap over households; differences paired.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from benchmarks.tables.common import SEED, task_data, write_section
from seq_ml.evaluation.backtest import paired
from seq_ml.metrics.bootstrap import bootstrap
from seq_ml.metrics.calibration import Platt, calibration_error, logit
from seq_ml.metrics.probabilities import brier, labels, log_loss
from seq_ml.tasks.ads.task import AdsTask
from tests.data import AS_OF

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from seq_ml.metrics.estimate import Draws

METRICS = ("roc_auc", "within_campaign_auc", "pr_auc", "brier", "ece", "lift_at_10")
HEADS = ("ROC-AUC", "within campaign", "PR-AUC", "Brier", "ECE", "lift@10 %")
REFERENCES = (
    ("rate of the campaign type", 0.572, 0.500, 0.185, 0.1345, None, 1.2),
    ("household's smoothed rate", 0.771, 0.767, 0.438, 0.1170, None, 3.3),
    ("logistic, 4 features", 0.807, 0.794, 0.504, 0.1055, None, 3.6),
    ("logistic, all", 0.842, 0.837, 0.576, 0.0962, None, 4.1),
    ("LightGBM, all", 0.835, 0.829, 0.588, 0.0967, None, 4.3),
    ("mean of the two", 0.841, 0.835, 0.592, 0.0954, None, 4.3),
)
"""What others measured by the same protocol with features of their own: the numbers to beat."""
PUBLISHED = "logistic"
NOTES = """\
The numbers measured elsewhere are of the same rows with other features; without their predictions
no paired difference can be given, and they lie inside our intervals. The features beyond theirs:
how many of the campaign's offers cover items that the household bought, and paid with a coupon,
before.
Settings (penalty 200, which counts come with a rate) were chosen on campaigns before October 2017,
forward in time. A Platt curve fitted on earlier campaigns does not make the probabilities of later
ones better, so the logistic model's own are published. Off-policy value and uplift cannot be shown
on this data: its mailings log no propensities and leave out nobody by chance; both are tested on
generated logs whose truth is known."""
AGAINST = ("campaign_type_rate", "user_rate", "logistic_4_features")


def main() -> None:
    """Print the section and write it into docs/benchmarks-tables.md."""
    task = AdsTask()
    examples = task.examples(task_data(), AS_OF)
    before, test = (examples.filter(rows) for rows in (~split_is("test"), split_is("test")))
    predictions = {}
    for candidate in task.candidates():
        candidate.fit(before)
        predictions[candidate.name] = candidate.predict(test)
    metrics = [metric for metric in task.metrics() if metric.name in METRICS]
    draws = bootstrap(metrics, test, predictions, unit=task.unit, seed=SEED)
    lines = [counts(before, test), "", *candidates_table(draws), "", *paired_table(task, draws)]
    lines += ["", *calibration_table(examples), "", NOTES]
    section = "\n".join(lines)
    write_section("ads", section)


def split_is(name: str) -> pl.Expr:
    """Rows of one split."""
    return pl.col("split") == name


def counts(before: pl.DataFrame, test: pl.DataFrame) -> str:
    """Say how many rows, campaigns and responders: they must be those of the protocol."""
    parts = [
        f"{rows.height:,} rows of {rows['campaign_id'].n_unique()} campaigns "
        f"({float(rows['label'].sum()) / rows.height:.1%} respond)"
        for rows in (before, test)
    ]
    return f"Fitted on {parts[0]}, judged on {parts[1]}."


def candidates_table(draws: dict[str, dict[str, Draws]]) -> list[str]:
    """All candidates with intervals, below what others measured."""
    lines = [f"| model | {' | '.join(HEADS)} |", "|---|" + "---|" * len(HEADS)]
    for name, *numbers in REFERENCES:
        cells = ["–" if number is None else f"{number:g}" for number in numbers]
        lines.append(f"| measured elsewhere: {name} | {' | '.join(cells)} |")
    for name, of in draws.items():
        shown = f"**{name}**" if name == PUBLISHED else name
        lines.append(f"| {shown} | {' | '.join(interval(of[m]) for m in METRICS)} |")
    return lines


def paired_table(task: AdsTask, draws: dict[str, dict[str, Draws]]) -> list[str]:
    """How much better than each baseline the published model is (positive: better)."""
    by_name = {metric.name: metric for metric in task.metrics()}
    shown = METRICS[:4]
    lines = [
        f"| {PUBLISHED} better than | {' | '.join(HEADS[:4])} |",
        "|---|" + "---|" * len(shown),
    ]
    for name in AGAINST:
        cells = []
        for m in shown:
            found = paired(draws, PUBLISHED, name, by_name[m])
            cells.append(f"{found.value:+.4f} [{found.low:+.4f}, {found.high:+.4f}]")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def calibration_table(examples: pl.DataFrame) -> list[str]:
    """Does a Platt curve, fitted on earlier campaigns that were predicted before, help later ones?

    The curve is fitted on predictions of every earlier campaign by a model of those that were over.
    """
    lines = [
        "| judged on | curve of earlier campaigns | Brier | log-loss | ECE |",
        "|---|---|---|---|---|",
    ]
    for name, early, late in (
        ("validation", examples.filter(split_is("fit")), examples.filter(split_is("validation"))),
        ("test", examples.filter(~split_is("test")), examples.filter(split_is("test"))),
    ):
        label, p = labels(late), fitted(early, late)
        scores, hits = [], []
        for start in early["origin"].unique().sort():
            over = early.filter(pl.col("label_end") <= start)
            if over["label"].sum() >= 30:
                begun = early.filter(pl.col("origin") == start)
                scores.append(logit(fitted(over, begun)))
                hits.append(labels(begun))
        curve = Platt()
        curve.fit(np.concatenate(scores), np.concatenate(hits))
        for how, q in (("none (published)", p), ("Platt", curve.predict(logit(p)))):
            numbers = (brier(label, q), log_loss(label, q), calibration_error(label, q))
            lines.append(f"| {name} | {how} | {' | '.join(f'{n:.4f}' for n in numbers)} |")
    return lines


def fitted(early: pl.DataFrame, late: pl.DataFrame) -> NDArray[np.float64]:
    """Predictions of the published candidate."""
    model = next(c for c in AdsTask().candidates() if c.name == PUBLISHED)
    model.fit(early)
    return model.predict(late)


def interval(draws: Draws) -> str:
    """0.848 [0.822, 0.871]."""
    found = draws.estimate()
    return f"{found.value:.4f} [{found.low:.3f}, {found.high:.3f}]"


if __name__ == "__main__":
    main()
