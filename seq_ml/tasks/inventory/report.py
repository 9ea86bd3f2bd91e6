"""What only the report of the inventory says, and what a forecast costs in stock.

Periodic review, order-up-to: at a review the position (on hand + on order) is raised to a quantile
of the demand over lead time + review period; the order arrives after the lead time; what is asked
for and not there is lost. Methods are compared at equal service, each at the quantile that reaches
it, by the stock they need (Syntetos, Nikolopoulos and Boylan 2010).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from seq_ml.metrics.bootstrap import resample
from seq_ml.metrics.estimate import Draws
from seq_ml.pages.page import Section
from seq_ml.tasks.inventory.distribution import MEAN, VARIANCE, negative_binomial
from seq_ml.tasks.inventory.models import BOOSTED, BOOSTED_PLAN, LEVELS
from seq_ml.tasks.inventory.panel import build_panel
from seq_ml.tasks.inventory.rows import better_baseline, without_plan
from seq_ml.tasks.inventory.shelves import SERVICES, SIMULATED_ITEMS, TARGETS, at_service, simulate

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from seq_ml.metrics.estimate import Estimate
    from seq_ml.tasks.data import TaskData
    from seq_ml.tasks.judged import Backtest

    Array = NDArray[np.float64]


def draws_of_items(items: int, seed: int) -> Array:
    """Count items [1 + resamples, items]: all once, then drawn with replacement."""
    return np.concatenate([np.ones((1, items)), *resample(items, seed)])


def estimate(values: Array) -> Estimate:
    """Return the first value with the 95 % interval of the others."""
    return Draws(float(values[0]), values[1:]).estimate()


# --- what the report says -------------------------------------------------------------------------


def inventory_sections(data: TaskData, result: Backtest, horizon: int) -> list[Section]:
    """Levels and the simulation, as far as the backtest shows them."""
    sections = [
        _levels(result),
        _simulation(data, result, horizon),
    ]
    return [section for section in sections if section is not None]


def plan_remark(result: Backtest) -> str:
    """Where a plan is missing the rows come from another candidate than the verdict names."""
    if result.published.name != BOOSTED_PLAN:
        return ""
    source = without_plan(result.metrics_json())
    gain = next(c.pooled or c.gain for c in result.candidates if c.name == BOOSTED)
    beats = "beats" if source == BOOSTED else "does not beat"
    shown = "" if gain is None else f" ({gain.signed()} {result.primary.name})"
    return (
        f"That is of rows whose promotion plan is known (promo_known); rows without one come from "
        f"'{source}': '{BOOSTED}' {beats} the baseline '{result.baseline}' beyond chance{shown}."
    )


def _levels(result: Backtest) -> Section | None:
    """Show stores and categories: the published model beside the baseline that would replace it."""
    report = result.metrics_json()
    test = {c.name: c.test for c in result.candidates}
    rows = []
    for level in LEVELS:
        name = "wql" if level == LEVELS[0] else f"wql_{level}"
        published = test[result.published.name].get(name)
        if published is None or np.isnan(published.value):
            continue
        better = (
            None if level == LEVELS[0] else better_baseline(report, result.published.name, level)
        )
        source = better or result.published.name
        rows.append((level, str(published), str(test[result.baseline][name]), source))
    if len(rows) < 2:
        return None
    return Section(
        "Items, items in a store, categories",
        "Quantile loss on the test window. A level whose validation a baseline wins is published "
        "from that baseline.",
        (("level", f"{result.published.name}", f"{result.baseline}", "published from"), *rows),
    )


def _simulation(data: TaskData, result: Backtest, horizon: int) -> Section | None:
    """Let the published model and the baseline run the same shelves over the test window."""
    from seq_ml.pages.figures import BASELINE, MODEL, bars

    review = max(1, round(data.business.inventory.review_period_days / 7))
    lead = max(0, horizon - review)
    items = _items_of_every_week(result.test)
    origins = result.test["origin"].unique().sort()
    if items.is_empty() or len(origins) < horizon + 2:
        return None
    # What was asked for in every week since the first test origin: no forecast has seen it.
    panel = build_panel(data, result.as_of, horizon)
    rows = pl.DataFrame({"item_id": items}).join(
        panel.keys.with_row_index("row"), on="item_id", how="left", maintain_order="left"
    )["row"]
    weeks = len(origins) + horizon - 1
    demand = panel.units[rows.to_numpy(), panel.n_weeks - weeks :].astype(np.float64)
    at = (result.test["level"] == LEVELS[0]) & result.test["item_id"].is_in(items.implode())
    order = result.test.with_row_index("row").filter(at).sort("item_id", "origin")["row"].to_numpy()
    # The same draws for both methods: what differs between them is the method.
    counts = draws_of_items(len(items), data.seed)
    names = list(dict.fromkeys([result.published.name, result.baseline]))
    simulated = {}
    for name in names:
        predicted = result.predictions[name][order]
        levels = negative_binomial(predicted[:, MEAN], predicted[:, VARIANCE], TARGETS)
        shaped = levels.T.reshape(len(TARGETS), len(items), len(origins))
        shelves = simulate(shaped, demand, lead=lead, review=review)
        simulated[name] = (shelves, at_service(shelves, counts))
    first, *others = (f"at {service}" for service in SERVICES)
    table = [("method", f"on hand {first}", *others, "target 0.95")]
    for name, (shelves, service) in simulated.items():
        stock, fill, empty = (c[0, TARGETS.index(0.95)] for c in shelves.curves(counts[:1]))
        cells = [_shown(estimate(values)) for values in service.values()]
        said = f"{stock:.1f} on hand, fill {fill:.1%}, stock-outs {empty:.1%}"
        table.append((name, *cells, said))
    text = (
        f"The {len(items)} items with the most expected demand, {shelves.weeks} measured weeks, "
        f"lead time {lead} and review every {review} weeks. On hand: units an item, mean of a "
        "week's first and last stock."
    )
    if len(names) > 1:
        ours, theirs = (simulated[name][1][SERVICES[0]] for name in names)
        text += f" Difference at 95 % fill, paired: {_shown(estimate(ours - theirs))} units."
    values = [
        (name, color, [float(v[0]) for v in service.values()])
        for color, (name, (_, service)) in zip((MODEL, BASELINE), simulated.items(), strict=False)
    ]
    figure = bars(
        "Stock needed for the same service",
        "service",
        "units on hand",
        SERVICES,
        values,
    )
    return Section("Replenishment simulation", text, tuple(table), (figure,))


def _items_of_every_week(test: pl.DataFrame) -> pl.Series:
    """Return the `SIMULATED_ITEMS` largest regular items that have a row at every test origin."""
    origins = test["origin"].n_unique()
    return (
        test.filter(pl.col("level") == LEVELS[0])
        .sort("origin")
        .group_by("item_id")
        .agg(pl.len(), pl.col("scale").first(), pl.col("segment").first())
        .filter(pl.col("len") == origins, pl.col("segment") == "regular")
        .sort("scale", "item_id", descending=[True, False])
        .head(SIMULATED_ITEMS)["item_id"]
        .sort()
    )


def _shown(found: Estimate) -> str:
    if np.isnan(found.value):
        return "not reached"
    return f"{found.value:.1f} [{found.low:.1f}, {found.high:.1f}]"
