"""On which day the next order comes: the product's forecast beside what it replaced and BG/NBD's.

    python -m benchmarks.tables.next_order        (some seconds)

Two windows of each length, all of Complete Journey: the choice was made on the earlier one, the
later one ends with the data. Judged are the households that ordered in the 91 days before a window
and again within it, by the days between the forecast and the first order. Lengths: 30 days is the
horizon of `next_baskets`, 56 and 84 are those of the two definitions of `churn_predictions`.
Intervals: 95 % bootstrap over households; differences are paired.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from benchmarks.tables.common import SEED, task_data, write_section
from seq_ml.metrics.bootstrap import mean_estimate
from seq_ml.pages.page import markdown_table
from seq_ml.periods import WINDOW_DAYS
from seq_ml.tasks.behaviour.orders_model import OrderHistory, Orders, next_order, order_history
from seq_ml.tasks.behaviour.visits import read_behaviour
from tests.data import AS_OF

if TYPE_CHECKING:
    from datetime import date

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

HORIZONS = (30, 56, 84)
PRODUCT = "random orders, median within the window (the product)"
LONGEST_WAIT_DAYS = 730


def main() -> None:
    """Print the section and write it into docs/benchmarks-tables.md."""
    data = task_data()
    visits = read_behaviour(data, AS_OF).visits
    end = data.business.day_of(AS_OF)
    heads = ("error", "minus the product's", "error judged", "minus the product's", "came by then")
    rows: list[tuple[str, ...]] = [("days", "forecast", *heads)]
    counts = []
    for days in HORIZONS:
        length = timedelta(days=days)
        first, second = (judge(visits, end - n * length, days) for n in (2, 1))
        counts.append(f"{first[0]:,} and {second[0]:,} of {days} days")
        rows += [
            (str(days), name, *first[1][name][:2], *cells) for name, cells in second[1].items()
        ]
    text = (
        f"Households in the earlier and the later window: {', '.join(counts)}; the later ones end "
        f"on {end:%Y-%m-%d}. Error: mean absolute error in days, first of the window that chose. "
        "Came by then: the share whose order came on the day or before; of a median a half, and "
        "the day itself."
    )
    write_section("next_order", f"{text}\n\n{markdown_table(rows)}")


def judge(visits: pl.DataFrame, day: date, days: int) -> tuple[int, dict[str, tuple[str, ...]]]:
    """Return how many households were judged and, by forecast, error, lead and calibration."""
    made = forecasts(visits, day, days)
    came = (
        visits.filter(pl.col("day").is_between(day, day + timedelta(days=days), closed="left"))
        .group_by("user_id")
        .agg(wait=(pl.col("day").min() - pl.lit(day)).dt.total_days())
    )
    both = made.join(came, on="user_id").sort("user_id")
    wait = both["wait"].to_numpy().astype(float)
    waits = {name: both[name].to_numpy() for name in made.columns if name != "user_id"}
    errors = {name: np.abs(forecast - wait) for name, forecast in waits.items()}
    return both.height, {
        name: (
            str(mean_estimate(error, seed=SEED)),
            mean_estimate(error - errors[PRODUCT], seed=SEED).signed() if name != PRODUCT else "",
            f"{(wait <= waits[name]).mean():.2f}",
        )
        for name, error in errors.items()
    }


def forecasts(visits: pl.DataFrame, day: date, days: int) -> pl.DataFrame:
    """Return user_id and the days that each forecast waits, of who ordered in the 91 days."""
    before = visits.filter(pl.col("day") < day)
    recent = before.filter(pl.col("day") >= day - timedelta(days=WINDOW_DAYS))
    users = order_history(recent, day)
    history = OrderHistory.of(users)
    model = Orders.fit(history)
    # While somebody stays, the wait is Lomax distributed: the rate is gamma distributed.
    shape, scale = model.r + history.repeats, model.alpha + history.age
    within = 1 - (scale / (scale + days)) ** shape
    whole = order_history(before, day)
    gap = (whole["age"] / (whole["repeats"] + 1)).to_numpy()
    until_now = pl.DataFrame(
        {
            "user_id": whole["user_id"],
            "the same of the whole history (next_baskets until now)": np.floor(_median(gap, days)),
        }
    )
    product = next_order(visits, day, days).select(
        "user_id", (pl.col("next_order_date") - pl.lit(day)).dt.total_days().alias(PRODUCT)
    )
    start = day - timedelta(days=days)
    usual = before.filter(pl.col("day") >= start).group_by("user_id").agg(pl.col("day").min())
    mean = scale / np.where(shape > 1, shape - 1, np.nan)
    return (
        pl.DataFrame(
            {
                "user_id": users["user_id"],
                "everybody's median in the window before": float(
                    np.median((usual["day"] - start).dt.total_days())
                ),
                "BG/NBD, one over the mean rate (churn until now)": np.round(scale / shape),
                "BG/NBD, mean": np.floor(np.nan_to_num(mean, nan=LONGEST_WAIT_DAYS)),
                "BG/NBD, median": np.floor(scale * (2 ** (1 / shape) - 1)),
                "BG/NBD, median within the window": np.floor(
                    scale * ((1 - within / 2) ** (-1 / shape) - 1)
                ),
            }
        )
        .with_columns(pl.exclude("user_id").clip(upper_bound=LONGEST_WAIT_DAYS))
        .join(until_now, on="user_id")
        .join(product, on="user_id")
    )


def _median(gap: Floats, days: float) -> Floats:
    """Median wait at random orders every `gap` days, given that one comes within `days`."""
    return np.asarray(-gap * np.log(1 - (1 - np.exp(-days / gap)) / 2))


if __name__ == "__main__":
    main()
