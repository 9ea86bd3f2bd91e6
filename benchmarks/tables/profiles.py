"""What segments, expected spend and anomaly score of the user profiles are worth.

    python -m benchmarks.tables.profiles        (about a minute)

The protocol is that of the report (`seq_ml.tasks.profiles.report`), on all of Complete
Journey. Expected spend: chosen on July to September 2017, judged on October to December; and again
as of two earlier dates. Segments: adjusted Rand index between snapshots. Anomalies: five patterns
planted into copies of users; the score's one setting was chosen on plantings of October 1st.
Intervals: 95 % bootstrap over users; differences paired.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.tables.common import SEED, task_data, write_section
from seq_ml.pages.page import markdown_table
from seq_ml.periods import HORIZON_DAYS
from seq_ml.tasks.behaviour.orders_model import Orders, OrderValue
from seq_ml.tasks.behaviour.visits import read_behaviour
from seq_ml.tasks.profiles.page import profiles_page
from seq_ml.tasks.profiles.planted_fraud import PUBLISHED
from seq_ml.tasks.profiles.report import ProfilesJudged, judge_profiles
from seq_ml.tasks.profiles.task import MODELS, expected, forecast_spend, read_origin
from tests.data import AS_OF

if TYPE_CHECKING:
    from seq_ml.tasks.data import TaskData

EARLIER = (14, 28)
"""Days before AS_OF at which the whole choice and judgement is made again."""
SHOWN = ("Expected spend", "by history length", "Anomaly score", "Stability", "Segments")


def main() -> None:
    """Print the section and write it into docs/benchmarks-tables.md."""
    data = task_data()
    judged = judge_profiles(data, AS_OF)
    parts = [summary(judged)]
    sections = {section.title: section for section in profiles_page(judged).sections}
    for start in SHOWN:
        section = next(s for title, s in sections.items() if start in title)
        parts += [f"### {section.title}", section.text, markdown_table(section.rows)]
        if start == "Expected spend":
            parts += [earlier_dates(data), twice_the_horizon(data)]
    text = "\n\n".join(part for part in parts if part)
    write_section("profiles", text)


def summary(judged: ProfilesJudged) -> str:
    """The weakest pattern against its target, and the mean stability."""
    worst = min(judged.found, key=lambda found: found.precision[PUBLISHED].low / found.base_rate)
    low = worst.precision[PUBLISHED].low / worst.base_rate
    means = [
        f"{np.mean([step.rules for step in steps]):.2f} after {days} days "
        f"(k-means fitted anew: {np.mean([step.clusters for step in steps]):.2f})"
        for days, steps in judged.steps.items()
    ]
    return (
        f"Anomalies: the least found pattern is {worst.pattern}, AUPRC "
        f"{worst.precision[PUBLISHED]} at a base rate of {worst.base_rate:.2%}: even the lower "
        f"bound is {low:.0f} × the base rate (target: 5 ×). Segments: adjusted Rand index "
        f"{' and '.join(means)}."
    )


def earlier_dates(data: TaskData) -> str:
    """The same choice and judgement as of earlier dates; the test windows overlap."""
    rows = [("as of", "users", "published", "RMSE", "baseline", "its RMSE", "difference", "held")]
    for days in EARLIER:
        at = AS_OF - timedelta(days=days)
        found = forecast_spend(read_behaviour(data, at).visits, data.business, at, seed=SEED)
        rows.append(
            (
                f"{at:%Y-%m-%d}",
                f"{found.windows['test'][2]:,}",
                found.published,
                str(found.draws["rmse"][found.published].estimate()),
                found.baseline,
                str(found.draws["rmse"][found.baseline].estimate()),
                str(found.improvement()),
                str(found.draws["coverage"][found.published].estimate()),
            )
        )
    return f"As of earlier dates (their test windows overlap):\n\n{markdown_table(rows)}"


def twice_the_horizon(data: TaskData) -> str:
    """182 days from one cut: no earlier window of that length exists to choose or calibrate on."""
    at = AS_OF - timedelta(days=2 * HORIZON_DAYS)
    half = at + timedelta(days=HORIZON_DAYS)
    visits = read_behaviour(data, AS_OF).visits
    origin = read_origin(visits, data.business, at, AS_OF)
    second = read_origin(visits, data.business, half, AS_OF)
    before = read_origin(visits, data.business, at - timedelta(days=HORIZON_DAYS), AS_OF)
    assert origin.spent is not None
    assert second.spent is not None
    later = dict(zip(second.history.user_ids, second.spent, strict=True))
    spent = origin.spent + np.array([later[user] for user in origin.history.user_ids])
    orders, value = Orders.fit(origin.history), OrderValue.fit(origin.history)
    worth = value.expected_value(origin.history.repeats + 1, origin.history.value)
    made = {
        name: 2 * expected(name, origin, before) for name in ("last_window", "own_rate", *MODELS)
    }
    made["bg_nbd_gamma_gamma"] = orders.expected_orders(origin.history, 2 * HORIZON_DAYS) * worth
    rows = [("forecast of 182 days", "RMSE", "MAE", "bias")]
    rows += [
        (
            name,
            f"{np.sqrt(np.mean((forecast - spent) ** 2)):.0f}",
            f"{np.abs(forecast - spent).mean():.0f}",
            f"{(forecast - spent).mean():+.0f}",
        )
        for name, forecast in made.items()
    ]
    return (
        f"182 days from {at:%Y-%m-%d} ({len(spent):,} users, mean spend {spent.mean():.0f}), one "
        "window, without interval: no earlier one is there to choose or to calibrate on, so 182 "
        f"days are not published. All but BG/NBD are twice their 91 days.\n\n{markdown_table(rows)}"
    )


if __name__ == "__main__":
    main()
