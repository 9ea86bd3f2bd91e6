"""From a distribution of demand to an order: levels, position, quantity, date, risk.

Periodic review with an order-up-to level (Silver, Pyke and Thomas 2017, chapter 7): at every review
the inventory position (on hand + on order) is raised to the demand quantile at the service level.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from seq_ml.periods import MEMORY_WEEKS
from seq_ml.schema import INVENTORY_PREDICTIONS
from seq_ml.tasks.behaviour.assortment import discontinued, read_sales
from seq_ml.tasks.behaviour.visits import merchandise
from seq_ml.tasks.inventory.baselines import BASELINES
from seq_ml.tasks.inventory.distribution import (
    MEAN,
    QUANTILE_COLUMN,
    VARIANCE,
    expected_excess,
    negative_binomial,
    probability_above,
)
from seq_ml.tasks.inventory.levels import CATEGORY
from seq_ml.tasks.inventory.metrics import SEGMENTS
from seq_ml.tasks.inventory.models import BOOSTED, BOOSTED_PLAN, LEVELS
from seq_ml.tasks.inventory.stock import ALL_STORES, stock_terms

if TYPE_CHECKING:
    from datetime import date, datetime

    from numpy.typing import NDArray

    from seq_ml.tasks.candidate import Champion
    from seq_ml.tasks.data import TaskData
    from seq_ml.tasks.inventory.horizons import OwnHorizons
    from seq_ml.tasks.task import Serving

    Array = NDArray[np.float64]

ORDERING = (
    "safety_stock",
    "reorder_point",
    "order_up_to",
    "recommended_order_qty",
    "expected_lost_units",
)
"""What is 0 of an item that is not ordered any more."""
SERVICE_RANGE = (0.01, 0.999)
"""Between which a service level may lie that costs lead to."""
JUDGED = ("demand_mean", "demand_p10", "demand_p50", "demand_p90", "demand_p95")
"""What is compared with the units that were sold, once the window has passed."""


def inventory_rows(
    data: TaskData, as_of: datetime, serving: Serving, champion: Champion, horizon: int
) -> pl.DataFrame:
    """Return the rows of INVENTORY_PREDICTIONS without their stamp, but with `source`.

    A level (stores, categories) at which the champion is behind a baseline in its report comes from
    that baseline. A row speaks of its own days: review period plus the lead time of the item's own
    stock count, or of the business.
    """
    terms = data.business.inventory
    examples = serving.examples
    frame = examples.select("item_id", "store_id", "level", "segment", "demand_class").join(
        stock_terms(data, as_of), on=["item_id", "store_id"], how="left", maintain_order="left"
    )
    ratio = pl.col("shortage_cost_ratio")
    frame = frame.with_columns(
        pl.col("lead_time_days").fill_null(float(terms.lead_time_days)).ceil(),
        review_period_days=pl.lit(terms.review_period_days),
        # Newsvendor: the last unit is worth its risk while P(demand above) · lacking > P(at or
        # below) · left over.
        service_level=(ratio / (1 + ratio)).clip(*SERVICE_RANGE).fill_null(terms.service_level),
    )
    lead = frame["lead_time_days"].to_numpy()
    days = lead + terms.review_period_days
    source, known, moments, predicted = _moments(serving, champion, days, horizon)
    mean, variance = moments.T
    # What is under way for an uncertain time is asked for at the daily rate all the while.
    late = (frame["lead_time_sd_days"].fill_null(0.0).to_numpy() * mean / days) ** 2
    judged = (days == 7 * horizon) & (late == 0)
    variance = variance + late
    service = frame["service_level"].to_numpy()
    quantiles = _quantiles(mean, variance, service, predicted, judged)
    # More than is expected to sell before it spoils is not held.
    kept = lead + frame["shelf_life_days"].fill_null(np.inf).to_numpy()
    sells = np.where(np.isfinite(kept), kept, 0) * mean / days
    order_up_to = quantiles.pop("order_up_to")
    order_up_to = np.where(np.isfinite(kept), np.minimum(order_up_to, sells), order_up_to)
    # What is held beyond the expected demand, and the position at which that much is left to last
    # the lead time.
    safety = np.maximum(order_up_to - mean, 0)
    reorder_point = np.minimum(mean * lead / days + safety, order_up_to)
    frame = frame.with_columns(
        source=source,
        promo_known=known & (source == BOOSTED_PLAN),
        demand_mean=pl.Series(mean),
        safety_stock=pl.Series(safety),
        reorder_point=pl.Series(reorder_point),
        order_up_to=pl.Series(order_up_to),
        daily=pl.Series(mean / days),
        **{name: pl.Series(values) for name, values in quantiles.items()},
    )
    frame = _orders(frame, data.business.day_of(as_of))
    # Risk: of the counted stock; what would be lost is also said of the level that is recommended.
    counted = frame["inventory_position"].is_not_null().to_numpy()
    stock = np.where(counted, frame["inventory_position"].fill_null(0.0).to_numpy(), order_up_to)
    frame = frame.with_columns(
        expected_lost_units=pl.Series(expected_excess(mean, variance, stock)),
        stockout_prob=pl.when(pl.Series(counted)).then(
            pl.Series(probability_above(mean, variance, stock))
        ),
    )
    frame = _without_discontinued(frame, data, as_of).join(
        _backtest_numbers(champion.report),
        on=["source", "segment"],
        how="left",
        maintain_order="left",
    )
    stamped = {"as_of", "model_version", "run_id", "created_at"}
    return frame.select(
        pl.col(name).cast(dtype)
        for name, dtype in INVENTORY_PREDICTIONS.polars_schema().items()
        if name not in stamped
    )


def _predicted(serving: pl.DataFrame, champion: Champion) -> tuple[pl.Series, Array]:
    """Who predicts each row, and the predictions [n, 2 + quantiles]."""
    name = champion.model.name
    plain = without_plan(champion.report) if name == BOOSTED_PLAN else name
    planned = serving["promo_known"].to_numpy()
    source = np.where(planned, name, plain).astype(object)
    predicted = champion.model.predict(serving)
    if plain in BASELINES and name not in BASELINES and not planned.all():
        predicted[~planned] = BASELINES[plain].predict(serving.filter(pl.Series(~planned)))
    levels = serving["level"].to_numpy()
    for level in LEVELS[1:]:
        for model in dict.fromkeys((name, plain)):
            at = (levels == level) & (source == model)
            better = better_baseline(champion.report, model, level)
            if better is not None and at.any():
                predicted[at] = BASELINES[better].predict(serving.filter(pl.Series(at)))
                source[at] = better
    return pl.Series(source, dtype=pl.String), predicted


def without_plan(report: dict[str, Any]) -> str:
    """Name who predicts rows without a promotion plan where the plan's trees are published.

    The trees that read none, if they beat the baseline beyond chance over all windows and are not
    worse beyond chance in the newest; else the best baseline.
    """
    candidates = report.get("candidates", [])
    trees: dict[str, Any] = next((c for c in candidates if c["name"] == BOOSTED), {})
    newest = trees.get("gain") or {}
    whole = trees.get("pooled_gain") or newest
    wins = (whole.get("low") or 0) > 0 and not (newest.get("high") or 0) < 0
    return BOOSTED if wins or not candidates else str(report["best_baseline"])


def better_baseline(report: dict[str, Any], model: str, level: str) -> str | None:
    """Name the baseline that predicts a level better than a model, if there is one.

    Chosen on validation, like everything; without a report of the level nothing is known.
    """
    losses = {
        candidate["name"]: candidate["validation"].get(f"wql_{level}")
        for candidate in report.get("candidates", [])
    }
    judged = {n: v for n, v in losses.items() if v is not None and n in (*BASELINES, model)}
    if model not in judged or model in BASELINES:
        return None
    best = min(judged, key=lambda candidate: judged[candidate])
    return None if best == model else best


def _moments(
    serving: Serving, champion: Champion, days: Array, horizon: int
) -> tuple[pl.Series, pl.Series, Array, Array]:
    """Who predicts each row, whether by the plan, the moments over its days, and its predictions.

    Moments are [n, 2]. The mean is that of the row's own whole weeks, by its share of them. The
    variance is that of the judged horizon, times the mean, and grows as `horizons` says. Where the
    days are those of the horizon both are as predicted.
    """
    examples, weeks = serving.examples, days / 7
    source, predicted = _predicted(examples, champion)
    known = examples["promo_known"]
    mean, whole = predicted[:, MEAN].copy(), np.full(len(weeks), float(horizon))
    own: OwnHorizons | None = serving.read
    if own is not None and own.examples.height:
        row = pl.int_range(pl.len())
        key = ["item_id", "store_id"]
        at = own.examples.select(key).join(
            examples.select(*key, row=row), on=key, how="left", maintain_order="left"
        )["row"]
        of_own, predicted_own = _predicted(own.examples, champion)
        mean[at], whole[at] = predicted_own[:, MEAN], own.examples["horizon_weeks"]
        source, known = source.scatter(at, of_own), known.scatter(at, own.examples["promo_known"])
    rests_on = MEMORY_WEEKS if own is None else own.level_weeks
    mean = mean * weeks / whole
    spread = np.ones(len(mean))  # variance over mean
    positive = predicted[:, MEAN] > 0
    np.divide(predicted[:, VARIANCE], predicted[:, MEAN], out=spread, where=positive)
    variance = mean * spread * (1 + weeks / rests_on) / (1 + horizon / rests_on)
    judged = weeks == horizon
    mean, variance = (
        np.where(judged, predicted[:, of], other)
        for of, other in ((MEAN, mean), (VARIANCE, variance))
    )
    return source, known, np.column_stack([mean, variance]), predicted


def _quantiles(
    mean: Array, variance: Array, service: Array, predicted: Array, judged: NDArray[np.bool_]
) -> dict[str, Array]:
    """Quantile columns and `order_up_to`, never falling from one to the next.

    service: level of each row. judged: rows whose moments, and so quantiles, are as predicted.
    """
    fixed = list(QUANTILE_COLUMN)
    levels = np.column_stack([np.tile(fixed, (len(mean), 1)), service])
    values = negative_binomial(mean, variance, levels)
    for place, q in enumerate(fixed):
        values[judged, place] = predicted[judged, QUANTILE_COLUMN[q]]
        same = judged & (service == q)
        values[same, -1] = values[same, place]
    order = np.argsort(levels, axis=1, kind="stable")
    rising = np.maximum.accumulate(np.take_along_axis(values, order, axis=1), axis=1)
    np.put_along_axis(values, order, rising, axis=1)
    named = {f"demand_p{round(100 * q)}": values[:, place] for place, q in enumerate(fixed)}
    return {**named, "order_up_to": values[:, -1]}


def _orders(frame: pl.DataFrame, today: date) -> pl.DataFrame:
    """Add what follows from the inventory position; null where it is unknown.

    Days are null too where no demand is expected: the stock lasts for ever.
    """
    position = pl.col("on_hand") + pl.col("on_order")
    lacking = pl.col("order_up_to") - position
    pack = pl.col("pack_size").fill_null(1.0).replace(0.0, 1.0)
    # Counting errors of 1e-9 packs do not order another one, nor the least that can be ordered.
    least = pl.max_horizontal(lacking, "min_order_qty")
    units = pl.when(lacking > 1e-9 * pack).then(least).otherwise(lacking)
    packs = (units / pack - 1e-9).ceil().clip(lower_bound=0).abs()  # of −0
    daily = pl.when(pl.col("daily") > 0).then("daily")
    days_left = ((position - pl.col("reorder_point")) / daily).clip(0, 3650).floor()
    return frame.with_columns(
        inventory_position=position,
        recommended_order_qty=packs * pack,
        days_of_cover=pl.col("on_hand") / daily,
        order_by_date=pl.lit(today) + pl.duration(days=days_left),
    )


def _without_discontinued(frame: pl.DataFrame, data: TaskData, as_of: datetime) -> pl.DataFrame:
    """Add `discontinued`, why an item left the range; of those that did nothing is ordered.

    What is only sold out is not among them: an empty shelf is what an order is for.
    """
    gone = discontinued(read_sales(data, as_of), data, as_of)
    gone = gone.filter(pl.col("why") != "sold_out").rename({"why": "discontinued"})
    ended = pl.col("discontinued").is_not_null()
    return frame.join(gone, on="item_id", how="left", maintain_order="left").with_columns(
        *(pl.when(ended).then(0.0).otherwise(name).alias(name) for name in ORDERING),
        order_by_date=pl.when(~ended).then("order_by_date"),
    )


def _backtest_numbers(report: dict[str, Any]) -> pl.DataFrame:
    """Test metrics of each candidate and segment from a report; no rows when it has none."""
    columns = {"backtest_wape": "wape", "backtest_bias": "bias", "backtest_cov90": "coverage_90"}
    rows = [
        {
            "source": candidate["name"],
            "segment": segment,
            **{
                column: candidate["test"].get(f"{metric}_{segment}", {}).get("value")
                for column, metric in columns.items()
            },
        }
        for candidate in report.get("candidates", [])
        for segment in SEGMENTS
    ]
    numbers = dict.fromkeys(columns, pl.Float64)
    return pl.DataFrame(rows, schema={"source": pl.String, "segment": pl.String, **numbers})


def realised_demand(data: TaskData, predictions: pl.DataFrame, until: datetime) -> pl.DataFrame:
    """Units sold over the window of each row whose window closed by `until`; see `Task.outcomes`.

    The window begins with `as_of` and lasts lead time + review period. targets: JUDGED.
    """
    rows = predictions.with_columns(
        days=(pl.col("lead_time_days") + pl.col("review_period_days")).cast(pl.Int64)
    )
    text = dict.fromkeys(("item_id", "store_id", "target"), pl.String)
    number = dict.fromkeys(("predicted", "realised"), pl.Float64)
    parts = [pl.DataFrame(schema={**text, **number, "window_end": pl.Datetime("us", "UTC")})]
    for (as_of, days), part in rows.group_by("as_of", "days", maintain_order=True):
        today = data.business.day_of(as_of)
        begin = data.business.midnight(today)
        end = data.business.midnight(today + timedelta(days=int(days)))
        if end > until:
            continue
        sold = _sold(data, begin, end, as_of)
        joined = part.join(sold, on=["item_id", "store_id"], how="left", maintain_order="left")
        parts += [
            joined.select(
                "item_id",
                "store_id",
                target=pl.lit(target),
                predicted=pl.col(target).cast(pl.Float64),
                realised=pl.col("realised").fill_null(0.0),
                window_end=pl.lit(end, dtype=pl.Datetime("us", "UTC")),
            )
            for target in JUDGED
        ]
    return pl.concat(parts)


def _sold(data: TaskData, begin: datetime, end: datetime, as_of: datetime) -> pl.DataFrame:
    """Units sold in [begin, end) of every item, item in a store, and category (known at as_of)."""
    catalogue = data.items_known(as_of).select("item_id", "category").lazy()
    counted = (
        merchandise(data.events_between(begin, end), data, as_of)
        .join(catalogue, on="item_id", how="left")
        .group_by("item_id", "store_id", "category")
        .agg(realised=pl.col("quantity").fill_null(1.0).sum())
        .collect()
    )
    names = counted.select("realised", item_id=pl.lit(CATEGORY) + pl.col("category"))
    whole = pl.concat([counted.select("realised", "item_id"), names.drop_nulls()])
    summed = whole.group_by("item_id").agg(pl.col("realised").sum())
    stores = counted.drop_nulls("store_id").select("item_id", "store_id", "realised")
    return pl.concat(
        [summed.select("item_id", pl.lit(ALL_STORES).alias("store_id"), "realised"), stores]
    )
