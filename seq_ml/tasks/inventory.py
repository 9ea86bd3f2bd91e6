"""Inventory: demand of each item over lead time + review period, and the stock it asks for.

An order placed at a review arrives after the lead time and must last until the next one arrives, so
the quantity that matters is the sum of demand over both; it is forecast and judged in whole weeks.
Items that sell at least a unit a week are "regular"; of the long tail of "sparse" items a seeded
sample is fitted and judged, all are served. Beside the items stand the largest items in the largest
stores, and the categories: series of their own, with trees of their own, judged on their own.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import polars as pl

from seq_ml.schema import INVENTORY_PREDICTIONS
from seq_ml.tasks.demand import (
    BASE_FEATURES,
    MIN_WEEKS,
    build_panel,
    demand_features,
    weekly_purchases,
)
from seq_ml.tasks.demand_levels import category_panel, large_pairs
from seq_ml.tasks.demand_metrics import demand_metrics
from seq_ml.tasks.due_buyers import DUE_FEATURES, with_due_buyers
from seq_ml.tasks.forecasters import (
    BASELINES,
    BOOSTED,
    BOOSTED_PLAN,
    LEVELS,
    WITHOUT_PLAN,
    BoostedCount,
    PlanAware,
)
from seq_ml.tasks.replenishment import inventory_sections
from seq_ml.tasks.stock_orders import inventory_rows, realised_demand
from seq_ml.tasks.task import (
    Champion,
    Metric,
    Model,
    NotEnoughHistoryError,
    Task,
    TaskData,
)

if TYPE_CHECKING:
    from datetime import datetime

    from seq_ml.evaluation.backtest import Backtest
    from seq_ml.tasks.demand import Panel
    from seq_ml.tasks.task import Section

TEST_HORIZONS = 5
VALIDATION_HORIZONS = 4
SPARSE_SAMPLE = 3000
"""So many items, drawn once, stand for the long tail in fit and judgement."""
ADI_CUT, CV2_CUT = 1.32, 0.49


class InventoryTask(Task):
    """Distribution of the units sold per series over the next lead time + review period."""

    name = "inventory"
    title = "Demand over lead time plus review period"
    table = INVENTORY_PREDICTIONS
    key = ("item_id", "store_id")
    unit = "item_id"
    primary_metric = "wql"
    slices: ClassVar[tuple[str, ...]] = ("volume", "demand_class", "size", "promotion")
    limits: ClassVar[tuple[str, ...]] = (
        (
            f"'{BOOSTED_PLAN}' reads the promotions of the target weeks: it counts only where that "
            "plan is fixed by the day of the forecast. Where the data has no promotions of those "
            f"weeks, the rows come from '{WITHOUT_PLAN}', judged as such."
        ),
        "Demand is what was sold: without stock counts nobody knows what stock-outs hid.",
        "One year of history cannot show yearly seasons.",
    )

    def examples(self, data: TaskData, as_of: datetime) -> pl.DataFrame:
        """Series at origins a horizon apart; of the last `TEST_HORIZONS` horizons weekly: the test.

        label: units sold over the horizon. Features: see `demand_features` and `with_due_buyers`.
        """
        horizon = horizon_weeks(data)
        _, start, n_weeks = weekly_purchases(data, as_of)
        possible = (n_weeks - MIN_WEEKS) // horizon
        if possible < 3:
            raise NotEnoughHistoryError(
                f"inventory: {n_weeks} complete weeks of purchases before {as_of:%F}; at "
                f"least {MIN_WEEKS + 3 * horizon} are needed."
            )
        tests = min(TEST_HORIZONS, possible // 3)
        validations = min(VALIDATION_HORIZONS, (possible - tests) // 2)
        first_test = n_weeks - tests * horizon
        first_validation = first_test - validations * horizon
        # Before the test, origins a horizon apart teach as much as weekly ones at half the cost;
        # the test is weekly, as the decisions of the replenishment simulation are.
        earlier = range(first_test - horizon, MIN_WEEKS - 1, -horizon)
        weeks = [*earlier, *range(first_test, n_weeks - horizon + 1)]
        origins = {w: data.business.midnight(start + timedelta(weeks=w)) for w in weeks}
        # Large items and stores are chosen anew at each origin, as serving would have chosen them.
        large = {week: large_pairs(data, origin) for week, origin in origins.items()}
        panels = _panels(data, as_of, horizon, pl.concat(list(large.values())).unique())
        order = np.random.default_rng(data.seed).permutation(panels["item"].keys.height)
        parts = []
        for week in weeks:
            later = "test" if week >= first_test else "validation"
            split = later if week >= first_validation else "fit"
            origin = origins[week]
            for level, whole in panels.items():
                panel = _among(whole, large[week]) if level == "item_store" else whole
                sparse = order < SPARSE_SAMPLE if level == "item" else None
                sold = panel.units[:, week : week + horizon].sum(axis=1, dtype=np.float64)
                parts.append(
                    _at(panel, level, week, horizon, sparse)
                    .join(
                        panel.keys.with_columns(label=pl.Series(sold)),
                        on=self.key,
                        how="left",
                        maintain_order="left",
                    )
                    .with_columns(
                        split=pl.lit(split),
                        origin=pl.lit(origin),
                        label_end=pl.lit(
                            data.business.midnight(panel.weeks[week] + timedelta(weeks=horizon))
                        ),
                    )
                )
        examples = pl.concat(parts)
        return with_due_buyers(examples, data, as_of, 7 * horizon).sort("origin", *self.key)

    def serving_examples(self, data: TaskData, as_of: datetime) -> pl.DataFrame:
        """Every series with a sale in the last 26 complete weeks before `as_of`."""
        horizon = horizon_weeks(data)
        panels = _panels(data, as_of, horizon, large_pairs(data, as_of))
        n_weeks = panels["item"].n_weeks
        if n_weeks < MIN_WEEKS:
            raise NotEnoughHistoryError(
                f"inventory: {n_weeks} complete weeks of purchases before {as_of:%F}; at "
                f"least {MIN_WEEKS} are needed."
            )
        found = pl.concat(
            _at(panel, level, n_weeks, horizon, None) for level, panel in panels.items()
        ).with_columns(origin=pl.lit(as_of))
        return with_due_buyers(found, data, as_of, 7 * horizon)

    def candidates(self) -> list[Model]:
        """Six counting baselines; boosted trees, with due buyers, with the promotion plan."""
        plain = BoostedCount(WITHOUT_PLAN, (*BASE_FEATURES, *DUE_FEATURES))
        return [
            *(baseline() for baseline in BASELINES.values()),
            BoostedCount(BOOSTED, BASE_FEATURES),
            plain,
            PlanAware(BOOSTED_PLAN, plain),
        ]

    def metrics(self) -> list[Metric]:
        """Quantile loss of the items; per segment that, error, bias and coverage."""
        return demand_metrics()

    def rows(
        self, data: TaskData, as_of: datetime, serving: pl.DataFrame, champion: Champion
    ) -> pl.DataFrame:
        """One row per series; what needs stock counts is null without them."""
        return inventory_rows(data, as_of, serving, champion, horizon_weeks(data))

    def sections(self, data: TaskData, result: Backtest) -> list[Section]:
        """Which rows the verdict speaks of, levels, due buyers, the replenishment simulation."""
        return inventory_sections(data, result, horizon_weeks(data))

    def outcomes(self, data: TaskData, predictions: pl.DataFrame, until: datetime) -> pl.DataFrame:
        """Units sold over the window of each row, beside its mean and its quantile 0.9."""
        return realised_demand(data, predictions, until)


def horizon_weeks(data: TaskData) -> int:
    """Lead time + review period in whole weeks, rounded up."""
    terms = data.business.inventory
    return -(-(terms.lead_time_days + terms.review_period_days) // 7)


def _among(panel: Panel, pairs: pl.DataFrame) -> Panel:
    """Return the series of a panel that are among the pairs of item_id and store_id."""
    wanted = panel.keys.join(
        pairs.with_columns(wanted=True), on=pairs.columns, how="left", maintain_order="left"
    )
    return panel.only(wanted["wanted"].fill_null(value=False).to_numpy())


def _panels(data: TaskData, as_of: datetime, horizon: int, pairs: pl.DataFrame) -> dict[str, Panel]:
    """One panel per level; of categories only where at least two are known."""
    items = build_panel(data, as_of, horizon)
    panels = {"item": items}
    if pairs.height:
        panels["item_store"] = build_panel(data, as_of, horizon, pairs=pairs)
    names = (
        items.keys.join(data.items_known(as_of), on="item_id", how="left")["category"]
        .drop_nulls()
        .unique()
        .sort()
    )
    if len(names) > 1:
        panels["category"] = category_panel(items, names.to_list())
    return {level: panels[level] for level in LEVELS if level in panels}


def _at(
    panel: Panel, level: str, week: int, horizon: int, sparse: np.ndarray | None
) -> pl.DataFrame:
    """Features at a week with the columns that name level, segment and slices."""
    found = demand_features(panel, week, horizon, sparse)
    if level != "item":
        found = found.with_columns(segment=pl.lit(level))
    return found.with_columns(
        level=pl.lit(level),
        volume=pl.when(level == "item").then("segment"),
        demand_class=_demand_class(),
        promotion=pl.when(~pl.col("promo_known"))
        .then(pl.lit("unknown"))
        .when("promoted")
        .then(pl.lit("promoted"))
        .otherwise(pl.lit("not promoted")),
    )


def _demand_class() -> pl.Expr:
    """Class of Syntetos, Boylan and Croston (2005), from the last 26 weeks."""
    often, even = pl.col("adi") < ADI_CUT, pl.col("cv2") < CV2_CUT
    return (
        pl.when(often & even)
        .then(pl.lit("smooth"))
        .when(often)
        .then(pl.lit("erratic"))
        .when(even)
        .then(pl.lit("intermittent"))
        .otherwise(pl.lit("lumpy"))
    )
