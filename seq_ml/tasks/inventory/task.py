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
from seq_ml.tasks.behaviour.visits import has_prices
from seq_ml.tasks.inventory.baselines import BASELINES
from seq_ml.tasks.inventory.features import BASE_FEATURES, demand_features
from seq_ml.tasks.inventory.horizons import OwnHorizons, level_weeks, own_weeks, wanted_at
from seq_ml.tasks.inventory.levels import panels_of_levels
from seq_ml.tasks.inventory.metrics import demand_metrics, week_blocks
from seq_ml.tasks.inventory.models import (
    BOOSTED,
    BOOSTED_PLAN,
    OWN_VARIANCE,
    BoostedCount,
    PlanAware,
)
from seq_ml.tasks.inventory.panel import build_panel, regular, weeks_before
from seq_ml.tasks.inventory.report import inventory_sections, plan_remark
from seq_ml.tasks.inventory.rows import inventory_rows, realised_demand
from seq_ml.tasks.task import NotEnoughHistoryError, Serving, Task, check_conversions

if TYPE_CHECKING:
    from datetime import datetime

    from numpy.typing import NDArray

    from seq_ml.metrics.metric import Metric
    from seq_ml.pages.page import Section
    from seq_ml.tasks.candidate import Champion, Model
    from seq_ml.tasks.data import TaskData
    from seq_ml.tasks.inventory.panel import Panel
    from seq_ml.tasks.judged import Backtest

TEST_HORIZONS = 5
VALIDATION_HORIZONS = 4
SPARSE_SAMPLE = 3000
"""So many items, drawn once, stand for the long tail in fit and judgement."""
MOST_REGULAR = 10_000
"""Of more regular items at an origin so many are fitted and judged, the first ones in the order of
the same draw: the interval of a difference is far below what would change a decision by then."""
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
            f"weeks, the rows come from '{BOOSTED}', if that beats the baseline beyond chance, "
            "else from the baseline."
        ),
        (
            "Demand is what was sold: without stock counts nobody knows what stock-outs hid. Where "
            "a count found nothing left, what was asked for then is expected from the weeks before."
        ),
        (
            f"Of the items that sell less than a unit a week {SPARSE_SAMPLE:,} are fitted and "
            f"judged, of the others {MOST_REGULAR:,} at an origin where there are more, at random."
        ),
        "Yearly seasons show only in more than a year of history; with less nothing knows them.",
    )

    def examples(self, data: TaskData, as_of: datetime) -> pl.DataFrame:
        """Series at origins a horizon apart; of the last `TEST_HORIZONS` horizons weekly: the test.

        label: units sold over the horizon. Features: see `demand_features`.
        """
        check_conversions(data, as_of, self.name, items=True)
        check_goods(data, as_of)
        horizon = horizon_weeks(data)
        items = build_panel(data, as_of, horizon)
        n_weeks = items.n_weeks
        least = weeks_before(n_weeks, horizon)
        possible = (n_weeks - least) // horizon
        if possible < 3:
            raise NotEnoughHistoryError(
                f"inventory needs {least + 3 * horizon} complete weeks of "
                f"{data.business.conversion_noun()} before {as_of:%F} to fit, choose and judge "
                f"demand of {horizon} weeks, there are {n_weeks}."
            )
        tests = min(TEST_HORIZONS, possible // 3)
        validations = min(VALIDATION_HORIZONS, (possible - tests) // 2)
        first_test = n_weeks - tests * horizon
        first_validation = first_test - validations * horizon
        # Before the test, origins a horizon apart teach as much as weekly ones at half the cost;
        # the test is weekly, as the decisions of the replenishment simulation are.
        earlier = range(first_test - horizon, least - 1, -horizon)
        weeks = [*earlier, *range(first_test, n_weeks - horizon + 1)]
        origins = {w: data.business.midnight(items.weeks[w]) for w in weeks}
        order = np.random.default_rng(data.seed).permutation(items.keys.height)
        parts = []
        for week, origin, panels in panels_of_levels(data, as_of, items, origins):
            later = "test" if week >= first_test else "validation"
            split = later if week >= first_validation else "fit"
            label_end = data.business.midnight(items.weeks[week] + timedelta(weeks=horizon))
            for level, panel in panels.items():
                wanted = None
                if level == "item":
                    wanted = _drawn(order, regular(panel, week))
                sold = panel.units[:, week : week + horizon].sum(axis=1, dtype=np.float64)
                parts.append(
                    _at(panel, level, week, horizon, wanted)
                    .join(
                        panel.keys.with_columns(label=pl.Series(sold)),
                        on=self.key,
                        how="left",
                        maintain_order="left",
                    )
                    .with_columns(
                        split=pl.lit(split), origin=pl.lit(origin), label_end=pl.lit(label_end)
                    )
                )
        return pl.concat(parts).sort("origin", *self.key)

    def serving(self, data: TaskData, as_of: datetime, units: pl.Series | None = None) -> Serving:
        """Every series with a sale in the last 26 complete weeks before `as_of`.

        units: items and categories.
        """
        horizon = horizon_weeks(data)
        own = own_weeks(data, as_of, horizon)
        longest = max([horizon, *own["weeks"]])
        items = build_panel(data, as_of, longest)
        if items.n_weeks < (least := weeks_before(items.n_weeks, horizon)):
            raise NotEnoughHistoryError(
                f"inventory needs {least} complete weeks of "
                f"{data.business.conversion_noun()} before {as_of:%F}, there are {items.n_weeks}."
            )
        parts, others = [], []
        for week, _, panels in panels_of_levels(data, as_of, items, {items.n_weeks: as_of}):
            for level, panel in panels.items():
                wanted = None
                if units is not None:
                    wanted = panel.keys["item_id"].is_in(units.implode()).to_numpy()
                parts.append(_at(panel, level, week, horizon, wanted))
                others += [
                    _at(panel, level, week, weeks, of)
                    for weeks, of in wanted_at(own, panel, wanted)
                ]
        examples = pl.concat(parts).with_columns(origin=pl.lit(as_of))
        rests_on = level_weeks(items, items.n_weeks, longest)
        return Serving(examples, OwnHorizons(pl.concat(others or [parts[0].clear()]), rests_on))

    def candidates(self) -> list[Model]:
        """Eight counting baselines; boosted trees, without and with the promotion plan."""
        plain = BoostedCount(
            BOOSTED,
            BASE_FEATURES,
            "Boosted trees on the item's past, negative binomial spread.",
            own_variance=OWN_VARIANCE,
        )
        return [*BASELINES.values(), plain, PlanAware(BOOSTED_PLAN, plain)]

    def cluster(self, examples: pl.DataFrame) -> pl.Series:
        """Return the weeks: they are common to all items."""
        return week_blocks(examples)

    def metrics(self) -> list[Metric]:
        """Quantile loss of the items; per segment that, error, bias and coverage."""
        return demand_metrics()

    def rows(
        self, data: TaskData, as_of: datetime, serving: Serving, champion: Champion
    ) -> pl.DataFrame:
        """One row per series; what needs stock counts is null without them."""
        check_goods(data, as_of)
        return inventory_rows(data, as_of, serving, champion, horizon_weeks(data))

    def predicts_beside(self, model: str) -> tuple[str, ...]:
        """Name the trees that may predict what has no promotion plan."""
        return (BOOSTED,) if model == BOOSTED_PLAN else ()

    def remark(self, result: Backtest) -> str:
        """Say who predicts the rows that have no promotion plan."""
        return plan_remark(result)

    def sections(self, data: TaskData, result: Backtest) -> list[Section]:
        """Which rows the verdict speaks of, levels, the replenishment simulation."""
        return inventory_sections(data, result, horizon_weeks(data))

    def outcomes(self, data: TaskData, predictions: pl.DataFrame, until: datetime) -> pl.DataFrame:
        """Units sold over the window of each row, beside its mean and its quantile 0.9."""
        return realised_demand(data, predictions, until)


def check_goods(data: TaskData, as_of: datetime) -> None:
    """Raise NotEnoughHistoryError where nothing says that goods are sold: plays need no stock."""
    if data.business.sells or has_prices(data, as_of) or not data.stock.is_empty():
        return
    many = data.business.conversion_noun()
    raise NotEnoughHistoryError(
        f"inventory: no {data.business.conversion_noun(many=False)} has a price and nobody counts "
        f"stock, so nothing leaves a shelf here: log unit_price with {many}, or stock, if it does."
    )


def horizon_weeks(data: TaskData) -> int:
    """Lead time + review period in whole weeks, rounded up."""
    terms = data.business.inventory
    return -(-(terms.lead_time_days + terms.review_period_days) // 7)


def _drawn(order: NDArray[np.int64], often: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return which items are fitted and judged at an origin.

    order: places of the items in the draw; often: which of them are regular then.
    """
    taken = np.flatnonzero(often)
    if len(taken) > MOST_REGULAR:
        taken = taken[np.argsort(order[taken])[:MOST_REGULAR]]
    drawn = order < SPARSE_SAMPLE
    drawn[taken] = True
    return drawn


def _at(
    panel: Panel, level: str, week: int, horizon: int, wanted: NDArray[np.bool_] | None
) -> pl.DataFrame:
    """Features at a week with the columns that name level, segment and slices."""
    series = demand_features(panel, week, horizon, wanted)
    if level != "item":
        series = series.with_columns(segment=pl.lit(level))
    return series.with_columns(
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
