"""Demand and stock: the product's own features and models beside the strongest simple methods.

    python -m benchmarks.tables.inventory        (about a minute and a half of CPU)

Protocol: retail weeks 2–52 of Complete Journey, merchandise only. P: the 1,000 products that sold
most units in weeks 2–36; S: of the 100 largest products in the 20 largest stores those pairs that
sold ten units or more in these weeks. Forecasts of single weeks at the ends of weeks 36, 40, 44, 48
(1–4 weeks ahead) and of 36, 40, 44 (1–8, P only); replenishment of P with weekly review and a lead
time of one week, decisions at the ends of weeks 38–51, measured on 41–52, models fitted anew every
four weeks. Settings were chosen on origins up to week 33 only. Intervals: 95 % bootstrap over
series; differences paired.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from benchmarks.tables.common import SEED, task_data, write_section
from seq_ml.metrics.forecasts import pinball
from seq_ml.tasks.inventory.baselines import BASELINES, SEASONAL
from seq_ml.tasks.inventory.distribution import MEAN, QUANTILE_COLUMN, VARIANCE, negative_binomial
from seq_ml.tasks.inventory.features import BASE_FEATURES, PLAN_FEATURES, demand_features
from seq_ml.tasks.inventory.models import OWN_VARIANCE, BoostedCount
from seq_ml.tasks.inventory.panel import MIN_WEEKS, build_panel, weekly_purchases
from seq_ml.tasks.inventory.report import draws_of_items, estimate
from seq_ml.tasks.inventory.shelves import SERVICES, at_service, simulate
from tests.data import raw

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from seq_ml.metrics.estimate import Estimate
    from seq_ml.tasks.candidate import Model
    from seq_ml.tasks.data import TaskData
    from seq_ml.tasks.inventory.panel import Panel
    from seq_ml.tasks.inventory.shelves import Shelves

    Array = NDArray[np.float64]

AFTER_WEEK_52 = datetime(2017, 12, 25, 5, tzinfo=UTC)
PRODUCTS = 1000
PRODUCTS_IN_STORES, STORES, UNITS_IN_STORE = 100, 20, 10
CHOSEN_ON = 35
"""Weeks 2–36, of which the series are chosen and the scale of RMSSE is taken."""
FOUR, EIGHT = (4, (35, 39, 43, 47)), (8, (35, 39, 43))
"""Horizon, and the number of known weeks at each origin."""
DECISIONS = range(37, 51)
"""Known weeks at each decision: the ends of weeks 38–51."""
REFIT = 4
TARGETS = (0.4, 0.55, 0.65, 0.72, 0.78, 0.83, 0.87, 0.9, 0.925, 0.95, 0.965, 0.98, 0.99, 0.995)
SIMPLE: dict[str, Model] = {
    name: model
    for name, model in BASELINES.items()
    if name != SEASONAL  # one year: no season
}
PLAIN, PLAN = "trees, no plan", "trees + promotion plan"
FOUR_REFERENCES = (
    ("LightGBM, others' measurement", 0.502, 0.701, 0.323, 0.897),
    ("LightGBM + plan, others' measurement", 0.413, 0.631, 0.237, 0.889),
)
EIGHT_REFERENCES = (
    ("LightGBM, others' measurement", 0.523, 0.758, 0.351, None),
    ("LightGBM + plan, others' measurement", 0.433, 0.677, 0.255, None),
)
STORE_REFERENCES = (("TSB + negative binomial, others' measurement", 1.154, 0.581, 0.755, None),)
STOCK_REFERENCES = (
    ("LightGBM two-week quantile, others' measurement", 32.6, 53.6, 31.8),
    ("the same + plan, others' measurement", 23.1, 34.7, 27.0),
)


def load() -> tuple[TaskData, Panel, Panel]:
    """All data, and the weekly demand of the 1,000 products and of products in stores."""
    monday = pl.lit(date(2016, 12, 26))  # week 1 is the week of 1 January 2017
    promotions = raw("promotions").select(
        item_id=pl.col("product_id").cast(str),
        store_id=pl.col("store_id").cast(str),
        week_start=monday.dt.offset_by(pl.format("{}w", pl.col("week") - 1)),
        display=pl.col("display_location").replace("0", None),
        mailer=pl.col("mailer_location").replace("0", None),
    )
    data = replace(task_data(), promotions=promotions)
    everything = build_panel(data, AFTER_WEEK_52, 1)
    units = everything.units[:, :CHOSEN_ON].sum(axis=1)
    order = np.argsort(-units, kind="stable")
    largest = np.zeros(len(units), dtype=bool)
    largest[order[:PRODUCTS]] = True
    products = everything.keys.select("item_id")[np.sort(order[:PRODUCTS_IN_STORES])]
    in_stores = build_panel(data, AFTER_WEEK_52, 1, pairs=products.join(_stores(data), how="cross"))
    enough = in_stores.units[:, :CHOSEN_ON].sum(axis=1) >= UNITS_IN_STORE
    return data, everything.only(largest), in_stores.only(enough)


def _stores(data: TaskData) -> pl.DataFrame:
    """Return store_id of the stores that sold most units in weeks 2–36."""
    purchases, _, _ = weekly_purchases(data, AFTER_WEEK_52)
    sold = purchases.filter(pl.col("week") < CHOSEN_ON).drop_nulls("store_id")
    units = sold.group_by("store_id").agg(pl.col("units").sum())
    largest = units.sort("units", "store_id", descending=[True, False]).head(STORES)
    return largest.select("store_id").collect()


def examples(
    data: TaskData, series: Panel, targets: Sequence[tuple[int, int]], length: int
) -> pl.DataFrame:
    """Features and labels of targets (known weeks, gap): the sum over `length` weeks after the gap.

    series: number of the series. Those that sold nothing for 26 weeks have no row.
    """
    parts = []
    for week, gap in targets:
        sold = series.units[:, week + gap : week + gap + length].sum(axis=1, dtype=np.float64)
        label = series.keys.with_row_index("series").with_columns(label=pl.Series(sold))
        parts.append(
            demand_features(series, week, length, gap=gap)
            .join(label, on=["item_id", "store_id"], maintain_order="left")
            .with_columns(
                # Fitted alone, the series of stores are the only level.
                level=pl.lit("item"),
                gap=pl.lit(float(gap)),
                week=pl.lit(week),
                origin=pl.lit(data.business.midnight(series.weeks[week])),
                label_end=pl.lit(
                    data.business.midnight(series.weeks[week] + timedelta(weeks=gap + length))
                ),
            )
        )
    return pl.concat(parts)


def _models() -> dict[str, Model]:
    """The simple methods, and the product's model without and with the promotion plan."""
    return {
        **SIMPLE,
        PLAIN: BoostedCount(PLAIN, (*BASE_FEATURES, "gap"), own_variance=OWN_VARIANCE),
        PLAN: BoostedCount(PLAN, (*BASE_FEATURES, *PLAN_FEATURES, "gap"), own_variance=0.0),
    }


# --- single weeks ---------------------------------------------------------------------------------


def forecasts(
    data: TaskData, series: Panel, horizon: int, origins: Sequence[int]
) -> tuple[pl.DataFrame, dict[str, Array]]:
    """Test rows of all origins and weeks ahead, and predictions [rows, 2 + quantiles] by name."""
    targets = [
        (week, gap)
        for week in range(MIN_WEEKS, max(origins) + 1)
        for gap in range(horizon)
        if week + gap < max(origins) or week in origins
    ]
    rows = examples(data, series, targets, 1)
    tests = pl.concat([everything(series, origin, horizon) for origin in origins])
    found: dict[str, Array] = {}
    for origin in origins:
        fit = rows.filter(pl.col("week") + pl.col("gap") < origin)
        test = rows.filter(pl.col("week") == origin)
        place = ["week", "gap", "series"]
        at = test.select(place).join(tests.with_row_index("row"), on=place, maintain_order="left")
        for name, model in _models().items():
            model.fit(fit)
            predicted = model.predict(test)
            # what sold nothing for 26 weeks is forecast as 0
            whole = found.setdefault(name, np.zeros((tests.height, predicted.shape[1])))
            whole[at["row"].to_numpy()] = predicted
    return tests, found


def everything(series: Panel, origin: int, horizon: int) -> pl.DataFrame:
    """Week, gap, series and label of all series, also of those without features."""
    count = series.keys.height
    numbers = pl.int_range(count, dtype=pl.UInt32, eager=True)
    return pl.concat(
        pl.DataFrame(
            {
                "week": pl.repeat(origin, count, dtype=pl.Int32, eager=True),
                "gap": pl.repeat(float(gap), count, dtype=pl.Float64, eager=True),
                "series": numbers,
                "label": series.units[:, origin + gap].astype(np.float64),
            }
        )
        for gap in range(horizon)
    )


def accuracy(series: Panel, rows: pl.DataFrame, predicted: Array, counts: Array) -> list[Array]:
    """WAPE, RMSSE, bias, wQL90, coverage of q90: each [draws], all series first."""
    count, item = series.keys.height, rows["series"].to_numpy()
    label = rows["label"].to_numpy()
    mean, q90 = predicted[:, MEAN], predicted[:, QUANTILE_COLUMN[0.9]]

    def by_item(values: Array) -> Array:
        return counts @ np.bincount(item, weights=values, minlength=count)

    total, number = by_item(label), by_item(np.ones(len(label)))
    before = series.units[:, :CHOSEN_ON].astype(np.float64)
    scale = np.sqrt((np.diff(before, axis=1) ** 2).mean(axis=1))
    scaled = []
    for week in rows["week"].unique().sort():
        at = (rows["week"] == week).to_numpy()
        squared = np.bincount(item[at], weights=(mean - label)[at] ** 2, minlength=count)
        scaled.append(np.sqrt(squared / rows.filter(pl.Series(at))["gap"].n_unique()) / scale)
    return [
        by_item(np.abs(mean - label)) / total,
        counts @ np.mean(scaled, axis=0) / counts.sum(axis=1),
        by_item(mean - label) / total,
        2 * by_item(pinball(label, q90, 0.9)) / total,
        by_item((label <= q90).astype(np.float64)) / number,
    ]


def accuracy_table(
    data: TaskData,
    series: Panel,
    horizon: int,
    origins: Sequence[int],
    references: Sequence[tuple[str, float, float, float, float | None]],
) -> list[str]:
    """Every method, and the paired differences to the best simple one."""
    rows, predicted = forecasts(data, series, horizon, origins)
    counts = draws_of_items(series.keys.height, SEED)
    found = {name: accuracy(series, rows, p, counts) for name, p in predicted.items()}
    lines = [
        f"| {horizon} weeks | WAPE | RMSSE | bias | wQL90 | coverage of q90 |",
        "|---|---|---|---|---|---|",
    ]
    for name, values in found.items():
        lines.append(f"| {name} | " + " | ".join(_cell(estimate(v)) for v in values) + " |")
    for name, wape, rmsse, wql, coverage in references:
        covered = "–" if coverage is None else f"{coverage:.3f}"
        lines.append(f"| {name} | {wape:.3f} | {rmsse:.3f} | – | {wql:.3f} | {covered} |")
    best = min(SIMPLE, key=lambda name: found[name][3][0])
    lines += ["", f"Paired difference to `{best}`, the best simple method by wQL90:", ""]
    lines += ["| | WAPE | RMSSE | wQL90 |", "|---|---|---|---|"]
    for name in (PLAIN, PLAN):
        gaps = [_signed(estimate(found[name][i] - found[best][i])) for i in (0, 1, 3)]
        lines.append(f"| {name} | " + " | ".join(gaps) + " |")
    return lines


# --- replenishment --------------------------------------------------------------------------------


def levels(data: TaskData, series: Panel) -> dict[str, Array]:
    """Order-up-to levels [targets, items, decisions] of every method."""
    from scipy.stats import norm

    weeks = range(MIN_WEEKS, max(DECISIONS) + 1)
    everything = examples(data, series, [(week, 0) for week in weeks], 2)
    rows = {week: everything.filter(pl.col("week") == week) for week in weeks}
    found: dict[str, list[Array]] = {}
    models: dict[str, Model] = {}
    for number, week in enumerate(DECISIONS):
        if number % REFIT == 0:
            fit = pl.concat([rows[earlier] for earlier in rows if earlier + 2 <= week])
            models = _models()
            for model in models.values():
                model.fit(fit)
        for name, model in models.items():
            predicted = model.predict(rows[week])
            mean, variance = predicted[:, MEAN], predicted[:, VARIANCE]
            if name == "past_sums":
                past = rows[week]["history"].to_numpy().astype(np.float64)
                sums = past[:, 1:] + past[:, :-1]
                quantiles = np.quantile(sums, TARGETS, axis=1)
            elif name == "ma13_normal":
                quantiles = (mean + np.sqrt(variance) * norm.ppf(TARGETS)[:, None]).clip(0)
            else:
                quantiles = negative_binomial(mean, variance, TARGETS).T
            everyone = np.zeros((len(TARGETS), PRODUCTS))
            everyone[:, rows[week]["series"].to_numpy()] = quantiles
            found.setdefault(name, []).append(everyone)
    return {name: np.stack(parts, axis=2) for name, parts in found.items()}


def stock_table(data: TaskData, series: Panel) -> list[str]:
    """Stock at equal service of every method, and the paired differences to the best simple one."""
    demand = series.units[:, DECISIONS[0] : DECISIONS[-1] + 1].astype(np.float64)
    counts = draws_of_items(PRODUCTS, SEED)
    shelves: dict[str, Shelves] = {
        name: simulate(up_to, demand, lead=1, review=1)
        for name, up_to in levels(data, series).items()
    }
    found = {name: at_service(one, counts) for name, one in shelves.items()}
    head: tuple[str, ...] = ("two-week order-up-to level", "on hand at 95 % fill", "at 98 % fill")
    head += ("at 5 % stock-outs", "target 0.95: stock-outs at on hand")
    lines = [f"| {' | '.join(head)} |", "|---|---|---|---|---|"]
    for name, one in found.items():
        stock, _, empty = (c[0, TARGETS.index(0.95)] for c in shelves[name].curves(counts[:1]))
        cells = [_units(estimate(v)) for v in one.values()]
        lines.append(f"| {name} | " + " | ".join(cells) + f" | {empty:.1%} at {stock:.1f} |")
    foresight = series.units[:, DECISIONS[0] :].astype(np.float64)
    both = foresight + np.pad(foresight, ((0, 0), (0, 1)))[:, 1:]
    perfect = simulate(both[None, :, : len(DECISIONS)], demand, lead=1, review=1)
    on_hand, _, empty = (c[0, 0] for c in perfect.curves(counts[:1]))
    limit = " | ".join([f"{on_hand:.1f}"] * 3)
    lines.append(f"| perfect foresight (limit) | {limit} | {empty:.1%} |")
    for name, fill_95, fill_98, stockouts in STOCK_REFERENCES:
        lines.append(f"| {name} | {fill_95} | {fill_98} | {stockouts} | |")
    best = min(SIMPLE, key=lambda name: np.nan_to_num(found[name][SERVICES[0]][0], nan=np.inf))
    lines += ["", f"Paired difference to `{best}`, the best simple method, units on hand:", ""]
    lines += ["| | at 95 % fill | at 98 % fill | at 5 % stock-outs |", "|---|---|---|---|"]
    for name in (PLAIN, PLAN):
        ours, theirs = found[name], found[best]
        gaps = (ours[service] - theirs[service] for service in SERVICES)
        lines.append(f"| {name} | " + " | ".join(_units(estimate(gap)) for gap in gaps) + " |")
    return lines


def _size(series: Panel) -> str:
    units = series.units[:, :CHOSEN_ON]
    return (
        f"{len(units):,} series, {units.mean():.1f} units a week, {(units == 0).mean():.0%} zeros"
    )


def _cell(found: Estimate) -> str:
    return f"{found.value:.3f} [{found.low:.3f}, {found.high:.3f}]"


def _signed(found: Estimate) -> str:
    return f"{found.value:+.3f} [{found.low:+.3f}, {found.high:+.3f}]"


def _units(found: Estimate) -> str:
    if np.isnan(found.value):
        return "not reached"
    return f"{found.value:.1f} [{found.low:.1f}, {found.high:.1f}]"


def main() -> None:
    """Print the section and write it into docs/benchmarks-tables.md."""
    data, products, in_stores = load()
    four, eight = FOUR_REFERENCES, EIGHT_REFERENCES
    lines = [
        f"P: {_size(products)}. The promotion plan is what the data says",
        "of the target weeks; it does not say when it was decided, so both rows are shown.",
        "Others' measurements follow the same protocol with features of their own.",
        "Simple methods read 26 weeks, as in the product; TSB smooths with 0.1, or with 0.2, which",
        "was better for P, not for S, on origins up to week 33.",
        "",
        *accuracy_table(data, products, *FOUR, four),
        "",
        *accuracy_table(data, products, *EIGHT, eight),
        "",
        *stock_table(data, products),
        "",
        f"S: {_size(in_stores)}.",
        "",
        *accuracy_table(data, in_stores, *FOUR, STORE_REFERENCES),
    ]
    section = "\n".join(lines)
    write_section("inventory", section)


if __name__ == "__main__":
    main()
