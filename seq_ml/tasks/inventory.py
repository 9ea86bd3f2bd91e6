"""Inventory: demand of each item over lead time + review period, and the stock it asks for.

An order placed at a review arrives after the lead time and must last until the next one arrives, so
the quantity that matters is the sum of demand over both, rounded up to whole weeks. Forecasts are
judged at rolling origins, one horizon apart. Items that sell at least a unit a week are "regular";
of the long tail of "sparse" items a seeded sample is fitted and judged, all are served. The report
says for each segment how the model stands against the baseline.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import polars as pl

from seq_ml.evaluation.metrics import pinball
from seq_ml.schema import INVENTORY_PREDICTIONS
from seq_ml.tasks.demand import (
    BASE_FEATURES,
    MIN_WEEKS,
    build_panel,
    demand_features,
)
from seq_ml.tasks.forecasters import (
    MEAN,
    QUANTILE_COLUMN,
    VARIANCE,
    BoostedCount,
    EmpiricalSums,
    MovingAverage,
    PlanAware,
    expected_excess,
    negative_binomial,
)
from seq_ml.tasks.task import Champion, Metric, Model, NotEnoughHistoryError, Task, TaskData

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from numpy.typing import NDArray

    Array = NDArray[np.float64]
    Parts = Callable[[Array, Array], tuple[Array, Array]]

TEST_ORIGINS = 5
VALIDATION_ORIGINS = 4
SPARSE_SAMPLE = 6000
"""So many items, drawn once, stand for the long tail in fit and judgement."""
SEGMENTS = ("regular", "sparse")
BOOSTED, BOOSTED_PLAN = "boosted_count", "boosted_count_promo_plan"
ADI_CUT, CV2_CUT = 1.32, 0.49


class InventoryTask(Task):
    """Distribution of the units sold per item over the next lead time + review period."""

    name = "inventory"
    title = "Demand over lead time plus review period"
    table = INVENTORY_PREDICTIONS
    key = ("item_id",)
    unit = "item_id"
    primary_metric = "wql"
    slices: ClassVar[tuple[str, ...]] = ("segment", "demand_class")
    limits: ClassVar[tuple[str, ...]] = (
        (
            f"'{BOOSTED_PLAN}' reads the promotions of the target weeks: it counts only where that "
            "plan is fixed by the day of the forecast. Where the data has no promotions of those "
            f"weeks, the rows come from the same model without plan, judged as '{BOOSTED}'."
        ),
        "Demand is what was sold: without a stock file nobody knows what stock-outs hid.",
        "One year of history cannot show yearly seasons.",
    )

    def examples(self, data: TaskData, as_of: datetime) -> pl.DataFrame:
        """Items at origins one horizon apart; the last origins are the test; see `Task.examples`.

        label: units sold over the horizon. Features: see `demand_features`.
        """
        horizon = horizon_weeks(data)
        panel = build_panel(data, as_of, horizon)
        origins = list(range(panel.n_weeks - horizon, MIN_WEEKS - 1, -horizon))
        if len(origins) < 3:
            raise NotEnoughHistoryError(
                f"inventory: {panel.n_weeks} complete weeks of purchases before {as_of:%F}; at "
                f"least {MIN_WEEKS + 3 * horizon} are needed."
            )
        tests = min(TEST_ORIGINS, len(origins) // 3)
        validations = min(VALIDATION_ORIGINS, (len(origins) - tests) // 2)
        order = np.random.default_rng(data.seed).permutation(len(panel.items))
        parts = []
        for number, week in enumerate(origins):
            later = number < tests + validations
            split = "test" if number < tests else "validation" if later else "fit"
            sold = panel.units[:, week : week + horizon].sum(axis=1, dtype=np.float64)
            label = pl.DataFrame({"item_id": panel.items, "label": sold})
            parts.append(
                demand_features(panel, week, horizon, order < SPARSE_SAMPLE)
                .join(label, on="item_id", how="left", maintain_order="left")
                .with_columns(
                    split=pl.lit(split),
                    origin=pl.lit(data.business.midnight(panel.weeks[week])),
                    label_end=pl.lit(
                        data.business.midnight(panel.weeks[week] + timedelta(weeks=horizon))
                    ),
                )
            )
        return pl.concat(parts).with_columns(demand_class=_demand_class()).sort("origin", "item_id")

    def serving_examples(self, data: TaskData, as_of: datetime) -> pl.DataFrame:
        """Every item of merchandise sold in the last 26 complete weeks before `as_of`."""
        horizon = horizon_weeks(data)
        panel = build_panel(data, as_of, horizon)
        if panel.n_weeks < MIN_WEEKS:
            raise NotEnoughHistoryError(
                f"inventory: {panel.n_weeks} complete weeks of purchases before {as_of:%F}; at "
                f"least {MIN_WEEKS} are needed."
            )
        return demand_features(panel, panel.n_weeks, horizon).with_columns(
            demand_class=_demand_class(), origin=pl.lit(as_of)
        )

    def candidates(self) -> list[Model]:
        """Three counting baselines; boosted trees without and with the promotion plan."""
        return [
            EmpiricalSums(),
            MovingAverage("ma8_negative_binomial"),
            MovingAverage("ma13_normal"),
            BoostedCount(BOOSTED, BASE_FEATURES),
            PlanAware(BOOSTED_PLAN, BOOSTED),
        ]

    def metrics(self) -> list[Metric]:
        """Quantile loss of all; per segment error and bias of the mean, and coverage."""
        metrics = [
            _ratio_metric("wql", None, _quantile_loss, "Mean over quantiles of 2Σpinball/Σy.")
        ]
        for segment in SEGMENTS:
            of = f"({segment} items)"
            metrics += [
                _ratio_metric(f"wape_{segment}", segment, _error, f"Σ|error| / Σdemand {of}."),
                _ratio_metric(
                    f"bias_{segment}", segment, _bias, f"Σerror / Σdemand {of}; 0 is best."
                ),
                _ratio_metric(
                    f"coverage_90_{segment}",
                    segment,
                    _coverage,
                    f"Share of demand at or below p90 {of}; 0.9 is best.",
                    higher=True,
                ),
            ]
        return metrics

    def rows(
        self,
        data: TaskData,
        as_of: datetime,  # noqa: ARG002 (the same for every row)
        serving: pl.DataFrame,
        champion: Champion,
    ) -> pl.DataFrame:
        """One row per item, store ALL; what needs a stock file is null."""
        terms = data.business.inventory
        predicted = champion.model.predict(serving)
        mean, variance = predicted[:, MEAN], predicted[:, VARIANCE]
        level = terms.service_level
        if level in QUANTILE_COLUMN:
            order_up_to = predicted[:, QUANTILE_COLUMN[level]]
        else:
            order_up_to = negative_binomial(mean, variance, [level])[:, 0]
        safety = np.maximum(order_up_to - mean, 0)
        days = terms.lead_time_days + terms.review_period_days
        has_plan = champion.model.name == BOOSTED_PLAN
        used_plan = pl.col("promo_known") & has_plan
        plain = BOOSTED if has_plan else champion.model.name
        frame = serving.select("item_id", "segment", "demand_class", "promo_known").with_columns(
            source=pl.when(used_plan).then(pl.lit(champion.model.name)).otherwise(pl.lit(plain)),
            promo_known=used_plan,
            store_id=pl.lit("ALL"),
            lead_time_days=pl.lit(terms.lead_time_days),
            review_period_days=pl.lit(terms.review_period_days),
            service_level=pl.lit(level),
            demand_mean=pl.Series(mean),
            **{
                f"demand_p{round(100 * q)}": pl.Series(predicted[:, column])
                for q, column in QUANTILE_COLUMN.items()
            },
            safety_stock=pl.Series(safety),
            reorder_point=pl.Series(mean * terms.lead_time_days / days + safety),
            order_up_to=pl.Series(order_up_to),
            expected_lost_units=pl.Series(expected_excess(mean, variance, order_up_to)),
        )
        found = _backtest_numbers(champion.report)
        frame = frame.join(found, on=["source", "segment"], how="left", maintain_order="left")
        stamped = {"as_of", "model_version", "run_id", "created_at"}
        schema = self.table.polars_schema()
        return frame.select(
            pl.col(name).cast(dtype) if name in frame.columns else pl.lit(None, dtype).alias(name)
            for name, dtype in schema.items()
            if name not in stamped
        )


def horizon_weeks(data: TaskData) -> int:
    """Lead time + review period in whole weeks, rounded up."""
    terms = data.business.inventory
    return -(-(terms.lead_time_days + terms.review_period_days) // 7)


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


def _backtest_numbers(report: dict[str, Any]) -> pl.DataFrame:
    """Test metrics of each candidate and segment from a report; no rows when it has none."""
    rows = [
        {
            "source": candidate["name"],
            "segment": segment,
            **{
                column: candidate["test"].get(f"{metric}_{segment}", {}).get("value")
                for column, metric in (
                    ("backtest_wape", "wape"),
                    ("backtest_bias", "bias"),
                    ("backtest_cov90", "coverage_90"),
                )
            },
        }
        for candidate in report.get("candidates", [])
        for segment in SEGMENTS
    ]
    names = dict.fromkeys(("backtest_wape", "backtest_bias", "backtest_cov90"), pl.Float64)
    return pl.DataFrame(rows, schema={"source": pl.String, "segment": pl.String, **names})


# --- metrics --------------------------------------------------------------------------------------


def _ratio_metric(
    name: str, segment: str | None, parts: Parts, description: str, *, higher: bool = False
) -> Metric:
    """Build a metric Σ numerator / Σ denominator as one value per item.

    The value of an item is R + (its numerator − R · its denominator) / mean denominator, R the
    ratio: their mean is R, and resampling them is the bootstrap of the ratio to first order
    (Davison & Hinkley 1997, section 2.7), much faster than the ratio of every resample.
    """

    def function(examples: pl.DataFrame, predictions: Array) -> pl.DataFrame:
        label = examples["label"].cast(pl.Float64).to_numpy()
        numerator, denominator = parts(label, predictions)
        frame = examples.select(
            unit="item_id",
            wanted=pl.lit(value=True) if segment is None else pl.col("segment") == segment,
        ).with_columns(numerator=pl.Series(numerator), denominator=pl.Series(denominator))
        sums = (
            frame.filter("wanted")
            .group_by("unit", maintain_order=True)
            .agg(pl.col("numerator", "denominator").sum())
            .sort("unit")
        )
        whole = float(sums["denominator"].sum())
        if not whole:
            return pl.DataFrame(schema={"unit": pl.String, "value": pl.Float64})
        ratio = float(sums["numerator"].sum()) / whole
        rest = pl.col("numerator") - ratio * pl.col("denominator")
        return sums.select("unit", value=ratio + rest * sums.height / whole)

    return Metric(name, higher, function, per_unit=True, description=description)


def _quantile_loss(label: Array, predicted: Array) -> tuple[Array, Array]:
    losses = [2 * pinball(label, predicted[:, c], q) for q, c in QUANTILE_COLUMN.items()]
    return np.mean(losses, axis=0), label


def _error(label: Array, predicted: Array) -> tuple[Array, Array]:
    return np.abs(predicted[:, MEAN] - label), label


def _bias(label: Array, predicted: Array) -> tuple[Array, Array]:
    return predicted[:, MEAN] - label, label


def _coverage(label: Array, predicted: Array) -> tuple[Array, Array]:
    inside = label <= predicted[:, QUANTILE_COLUMN[0.9]] + 1e-9
    return inside.astype(np.float64), np.ones(len(label))
