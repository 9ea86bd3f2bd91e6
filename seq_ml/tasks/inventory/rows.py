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
from seq_ml.tasks.behaviour.assortment import discontinued
from seq_ml.tasks.behaviour.visits import merchandise, merchandise_bought
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
from seq_ml.tasks.inventory.panel import ALL_STORES

if TYPE_CHECKING:
    from datetime import date, datetime

    from numpy.typing import NDArray

    from seq_ml.tasks.candidate import Champion
    from seq_ml.tasks.data import TaskData

    Array = NDArray[np.float64]

ORDERING = (
    "safety_stock",
    "reorder_point",
    "order_up_to",
    "recommended_order_qty",
    "expected_lost_units",
)
"""What is 0 of an item that is not ordered any more."""
STOCK_COLUMNS = ("on_hand", "on_order", "counted_lead_time", "pack_size", "is_censored")


def inventory_rows(
    data: TaskData, as_of: datetime, serving: pl.DataFrame, champion: Champion, horizon: int
) -> pl.DataFrame:
    """Return the rows of INVENTORY_PREDICTIONS without their stamp, but with `source`.

    A level (stores, categories) at which the champion is behind a baseline in its report comes from
    that baseline. Moments of `horizon` whole weeks are scaled to the days that the row speaks of:
    review period plus the lead time of the item's own stock count, or of the business.
    """
    terms = data.business.inventory
    source, predicted = _predicted(serving, champion)
    frame = serving.select("item_id", "store_id", "level", "segment", "demand_class").with_columns(
        source=source,
        promo_known=serving["promo_known"] & (source == BOOSTED_PLAN),
    )
    frame = frame.join(
        _stock(data, as_of), on=["item_id", "store_id"], how="left", maintain_order="left"
    )
    # The moments are of whole weeks; an order has to last for the row's own days. Days are taken
    # as independent of each other: the variance grows with time as the mean does.
    lead = frame["counted_lead_time"].fill_null(float(terms.lead_time_days)).ceil()
    days = (lead + terms.review_period_days).to_numpy()
    scaled = days / (7 * horizon)
    mean, variance = predicted[:, MEAN] * scaled, predicted[:, VARIANCE] * scaled
    quantiles = _quantiles(predicted, scaled, terms.service_level)
    order_up_to = quantiles.pop("order_up_to")
    # What is held beyond the expected demand, and the position at which that much is left to last
    # the lead time.
    safety = np.maximum(order_up_to - mean, 0)
    reorder_point = mean * lead.to_numpy() / days + safety
    frame = frame.with_columns(
        lead_time_days=lead,
        review_period_days=pl.lit(terms.review_period_days),
        service_level=pl.lit(terms.service_level),
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

    The trees that read none, if they beat the best baseline beyond chance on the same test window;
    else that baseline.
    """
    candidates = report.get("candidates", [])
    gain = next((c.get("gain") for c in candidates if c["name"] == BOOSTED), None) or {}
    wins = (gain.get("low") or 0) > 0
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


def _quantiles(predicted: Array, scaled: Array, level: float) -> dict[str, Array]:
    """Quantile columns and `order_up_to`, never falling from one to the next."""
    levels = sorted({*QUANTILE_COLUMN, level})
    mean, variance = predicted[:, MEAN] * scaled, predicted[:, VARIANCE] * scaled
    values = negative_binomial(mean, variance, levels)
    whole = scaled == 1
    for q, column in QUANTILE_COLUMN.items():
        values[whole, levels.index(q)] = predicted[whole, column]
    values = np.maximum.accumulate(values, axis=1)
    named = {f"demand_p{round(100 * q)}": values[:, levels.index(q)] for q in QUANTILE_COLUMN}
    return {**named, "order_up_to": values[:, levels.index(level)]}


def _orders(frame: pl.DataFrame, today: date) -> pl.DataFrame:
    """Add what follows from the inventory position; null where it is unknown.

    Days are null too where no demand is expected: the stock lasts for ever.
    """
    position = pl.col("on_hand") + pl.col("on_order")
    lacking = (pl.col("order_up_to") - position).clip(lower_bound=0)
    pack = pl.col("pack_size").fill_null(1.0).replace(0.0, 1.0)
    # Counting errors of 1e-9 packs do not order another one.
    packs = (lacking / pack - 1e-9).ceil().clip(lower_bound=0).abs()  # of −0
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
    gone = discontinued(merchandise_bought(data, as_of), data, as_of)
    gone = gone.filter(pl.col("why") != "sold_out").rename({"why": "discontinued"})
    ended = pl.col("discontinued").is_not_null()
    return frame.join(gone, on="item_id", how="left", maintain_order="left").with_columns(
        *(pl.when(ended).then(0.0).otherwise(name).alias(name) for name in ORDERING),
        order_by_date=pl.when(~ended).then("order_by_date"),
    )


def _stock(data: TaskData, as_of: datetime) -> pl.DataFrame:
    """item_id, store_id and `STOCK_COLUMNS` as known before `as_of`.

    Store "ALL": the count of the whole business; of an item without one, the sum over its counted
    stores, the longest lead time and the largest pack. is_censored: a count of the memory found
    nothing on hand.
    """
    newest = data.stock_known(as_of)
    since = as_of - timedelta(weeks=MEMORY_WEEKS)
    counts = data.stock.filter(pl.col("counted_at") < as_of, pl.col("counted_at") >= since)
    empty = counts.group_by("item_id", "store_id").agg(empty=(pl.col("on_hand") <= 0).any())
    newest = newest.join(empty, on=["item_id", "store_id"], how="left").select(
        "item_id",
        "store_id",
        "on_hand",
        "on_order",
        "pack_size",
        counted_lead_time="lead_time_days",
        is_censored=pl.col("empty"),
    )
    stores = newest.filter(pl.col("store_id") != ALL_STORES)
    whole = newest.filter(pl.col("store_id") == ALL_STORES)
    summed = (
        stores.join(whole, on="item_id", how="anti")
        .group_by("item_id")
        .agg(
            pl.col("on_hand", "on_order").sum(),
            pl.col("counted_lead_time", "pack_size").max(),
            pl.col("is_censored").any(),
        )
        .with_columns(store_id=pl.lit(ALL_STORES))
    )
    return pl.concat([newest, summed], how="diagonal").select("item_id", "store_id", *STOCK_COLUMNS)


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

    The window begins with `as_of` and lasts lead time + review period. targets: demand_mean,
    demand_p90.
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
            for target in ("demand_mean", "demand_p90")
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
