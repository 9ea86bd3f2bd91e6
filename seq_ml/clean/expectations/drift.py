"""Compare a day with the four weeks before it: volume, missing values, new values, mix, prices.

Fixed limits cannot know what is usual for a shop; its own trailing days can. A measure is judged
against the median of the same weekday, within a range of robust standard deviations (median
absolute deviation around the weekdays' medians), never narrower than a floor that a person would
shrug at, nor than chance allows for so few rows. What is found is a warning: unusual is not wrong.
"""

from __future__ import annotations

from collections import defaultdict
from datetime import timedelta
from math import log
from typing import TYPE_CHECKING

import polars as pl

from seq_ml.periods import RECENT_DAYS
from seq_ml.schema.stages import DRIFT

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import date


MIN_DAYS = 7
"""Days before the judged one that must be known."""

MIN_ALIKE = 3
"""Days of the same weekday that make a median of their own."""

WIDTH = 5.0
"""Half the usual range, in robust standard deviations."""

STEADY = 0.8
"""A type of event is judged when it occurs on this share of the days before."""

FLOORS = {"volume": log(1.6), "type_share": log(2), "null_share": 0.05, "mean_price": log(1.25)}
"""Least half-widths: factor of the rows, of the odds, share of the rows, factor of the price."""

LEAST_SHARE = 0.02
"""A share that moves by less is nothing to warn of, whatever its odds do."""

NEW_ROWS = 20
"""A new value counts from so many rows and LEAST_SHARE of them; a type of event from NEW_TYPE."""

NEW_TYPE = 0.005

VANISHED_ROWS = 50
"""A value that had so many rows, and LEAST_SHARE of them, on every day before is missed."""

DAYS_AT_ONCE = 60


def judge_days(profiles: pl.DataFrame, days: Sequence[date]) -> pl.DataFrame:
    """Measure each day and what is usual for it; return schema DRIFT, sorted by its key.

    profiles: schema DAY_PROFILES, of the judged days and of the RECENT_DAYS before them, as far
    as they are known. A day with fewer than MIN_DAYS known days before it has no row. Rows with
    `found` outside usual_low … usual_high are the unusual ones, see `unusual`.
    """
    profiled = set(profiles["event_date"])
    measures = [pl.DataFrame(schema=DRIFT.polars_schema())]
    for start in range(0, len(days), DAYS_AT_ONCE):  # each day is set beside 28 others
        windows = _windows(profiled, sorted(days)[start : start + DAYS_AT_ONCE])
        if windows.height:
            rows = profiles.join(windows, on="event_date")
            measures += [_measured(rows, windows), _listed(rows)]
    return pl.concat(measures).sort(DRIFT.key)


def unusual(drift: pl.DataFrame) -> pl.DataFrame:
    """Return the rows outside their usual range."""
    return drift.filter(~pl.col("found").is_between("usual_low", "usual_high"))


def drift_sentences(drift: pl.DataFrame) -> defaultdict[date, list[str]]:
    """Say in words what is unusual about each day; drift: schema DRIFT."""
    sentences: defaultdict[date, list[str]] = defaultdict(list)
    for row in unusual(drift).iter_rows(named=True):
        day, column, value = row["event_date"], row["column"], row["value"]
        now, low, high = row["found"], row["usual_low"], row["usual_high"]
        usual = f"{low:.1%} to {high:.1%} are usual"
        texts = {
            "volume": (
                f"{now:,.0f} events of the usual types; {low:,.0f} to {high:,.0f} are usual on a "
                f"{day:%A}"
            ),
            "type_share": f"{now:.1%} of the events are '{value}'; {usual}",
            "null_share": f"{column} is missing in {now:.1%} of the events '{value}'; {usual}",
            "mean_price": (
                f"the mean price (geometric) of the events '{value}' is {now:,.2f}; "
                f"{low:,.2f} to {high:,.2f} is usual"
            ),
            "new": f"{column} '{value}' is new, with {now:,.0f} events; no day before had it",
            "vanished": (
                f"{column} '{value}' is missing; every day before had it, usually in "
                f"{row['usual']:,.0f} events"
            ),
        }
        sentences[day].append(f"{day}: {texts[row['metric']]}.")
    return sentences


def _windows(profiled: set[date], days: list[date]) -> pl.DataFrame:
    """Pair each judged `day` with itself and the known days before it, as `event_date`."""
    pairs = []
    for day in days:
        before = [day - timedelta(days=back) for back in range(1, RECENT_DAYS + 1)]
        before = [one for one in before if one in profiled]
        if len(before) >= MIN_DAYS:
            pairs += [(day, one, len(before)) for one in (day, *before)]
    schema = {"day": pl.Date, "event_date": pl.Date, "known": pl.Int64}
    return pl.DataFrame(pairs, schema=schema, orient="row")


# --- measures that vary from day to day -----------------------------------------------------------


def _measured(rows: pl.DataFrame, windows: pl.DataFrame) -> pl.DataFrame:
    """Measure volume, mix, missing values and prices of the types of events that occur steadily.

    Types that come and go (a mailing, a campaign) would move every share on their days.
    """
    types = rows.filter(metric="rows", column="event_type")
    before = types.filter(pl.col("event_date") < pl.col("day"))
    steady = (
        before.group_by("day", "value")
        .agg(seen=pl.len(), known=pl.col("known").first())
        .filter(pl.col("seen") >= STEADY * pl.col("known"))
        .select("day", "value")
    )
    # A steady type without a row on a day has none: zero, not unknown.
    counts = (
        windows.select("day", "event_date")
        .join(steady, on="day")
        .join(
            types.select("day", "event_date", "value", n="number"),
            on=["day", "event_date", "value"],
            how="left",
        )
        .with_columns(pl.col("n").fill_null(0))
        .with_columns(all=pl.col("n").sum().over("day", "event_date"))
    )
    keys = ["day", "event_date", "value"]
    others = rows.filter(pl.col("metric") != "rows").join(counts, on=keys)
    prices = others.filter(pl.col("metric") == "priced").select(*keys, priced="number")
    volume = (
        counts.group_by("day", "event_date")
        .agg(pl.col("n").sum())
        .with_columns(
            metric=pl.lit("volume"),
            column=pl.lit("event_date"),
            value=pl.lit(None, pl.String),
            y=(pl.col("n") + 1).log(),
        )
    )
    odds = (pl.col("n") + 0.5) / (pl.col("all") - pl.col("n") + 0.5)
    shares = counts.with_columns(
        metric=pl.lit("type_share"), column=pl.lit("event_type"), y=odds.log(), n=pl.col("all")
    )
    nulls = others.filter(pl.col("metric") == "nulls", pl.col("n") > 0).with_columns(
        metric=pl.lit("null_share"), y=pl.col("number") / pl.col("n")
    )
    means = (
        others.filter(pl.col("metric") == "log_price")
        .join(prices, on=keys)
        .filter(pl.col("priced") > 0)
        .with_columns(
            metric=pl.lit("mean_price"),
            column=pl.lit("unit_price"),
            y=pl.col("number") / pl.col("priced"),
            n=pl.col("priced"),
        )
    )
    order = ["day", "event_date", "metric", "column", "value", "y", "n"]
    return _ranges(pl.concat([part.select(order) for part in (volume, shares, nulls, means)]))


def _ranges(measures: pl.DataFrame) -> pl.DataFrame:
    """Set each judged number beside its usual range; y and n: see `_noise`."""
    key = ["day", "metric", "column", "value"]
    weekday = pl.col("event_date").dt.weekday()
    before = measures.filter(pl.col("event_date") < pl.col("day")).with_columns(weekday=weekday)
    same = [*key, "weekday"]
    # Two days of the same weekday are no median: then all days count, and their whole range.
    centre = (
        pl.when(pl.len().over(same) >= MIN_ALIKE)
        .then(pl.col("y").median().over(same))
        .otherwise(pl.col("y").median().over(key))
    )
    before = before.with_columns(off=(pl.col("y") - centre).abs())
    everyday = before.group_by(key).agg(
        days=pl.len(),
        spread=1.4826 * pl.col("off").median(),
        middle=pl.col("y").median(),
        least=pl.col("y").min(),
        most=pl.col("y").max(),
    )
    weekdays = before.group_by(same).agg(alike=pl.len(), centre=pl.col("y").median())
    judged = (
        measures.filter(pl.col("event_date") == pl.col("day"))
        .with_columns(weekday=weekday)
        .join(everyday, on=key, nulls_equal=True)
        .join(weekdays, on=same, how="left", nulls_equal=True)
        .filter(pl.col("days") >= MIN_DAYS)
    )
    enough = pl.col("alike").fill_null(0) >= MIN_ALIKE
    judged = judged.with_columns(
        usual=pl.when(enough).then("centre").otherwise("middle"),
        floor=pl.col("metric").replace_strict(FLOORS, return_dtype=pl.Float64),
    ).with_columns(
        half=pl.max_horizontal("floor", WIDTH * pl.col("spread"), WIDTH * _noise()),
    )
    low, high = pl.col("usual") - pl.col("half"), pl.col("usual") + pl.col("half")
    lowest = pl.min_horizontal(low, pl.col("least") - pl.col("floor"))
    highest = pl.max_horizontal(high, pl.col("most") + pl.col("floor"))
    judged = judged.with_columns(
        low=pl.when(enough).then(low).otherwise(lowest),
        high=pl.when(enough).then(high).otherwise(highest),
    )
    usual = _natural("usual")
    shrug = pl.when(pl.col("metric") == "type_share").then(LEAST_SHARE).otherwise(0.0)
    return judged.select(
        pl.col("day").alias("event_date"),
        "metric",
        "column",
        "value",
        found=_natural("y"),
        usual_low=pl.min_horizontal(_natural("low"), usual - shrug).clip(0),
        usual_high=pl.max_horizontal(_natural("high"), usual + shrug),
        usual=usual,
        rows=pl.col("n").cast(pl.Float64),
    )


def _noise() -> pl.Expr:
    """Return the standard error of y by chance alone.

    volume: y = ln(rows + 1), a count. type_share: y = ln(odds) of a share of n rows. null_share:
    y = share of n rows. mean_price: y = mean of n logarithms, whose standard deviation is about 1.
    """
    share = pl.col("usual").clip(0, 1)
    odds = pl.col("usual").exp()
    p = odds / (1 + odds)
    rows = pl.col("n").clip(1)
    return (
        pl.when(pl.col("metric") == "volume")
        .then((-pl.col("usual") / 2).exp())
        .when(pl.col("metric") == "type_share")
        .then(1 / (rows * p * (1 - p)).sqrt())
        .when(pl.col("metric") == "null_share")
        .then(((share * (1 - share) + 1 / rows) / rows).sqrt())
        .otherwise(1 / rows.sqrt())
    )


def _natural(name: str) -> pl.Expr:
    """Turn a number on the scale of y back into rows, a share or a price."""
    y = pl.col(name)
    return (
        pl.when(pl.col("metric") == "volume")
        .then(y.exp() - 1)
        .when(pl.col("metric") == "type_share")
        .then(1 / (1 + (-y).exp()))
        .when(pl.col("metric") == "null_share")
        .then(y)
        .otherwise(y.exp())
    )


# --- values that come and go ----------------------------------------------------------------------


def _listed(rows: pl.DataFrame) -> pl.DataFrame:
    """Find values that no day before had, and values that every day before had."""
    counts = rows.filter(pl.col("metric") == "rows").with_columns(
        today=pl.col("event_date") == pl.col("day"),
        all=pl.col("number").sum().over("day", "event_date", "column"),
    )
    # A column's values are compared only where they were counted: on that day and on enough others.
    counted = counts.group_by("day", "column").agg(
        counted=pl.col("event_date").filter(~pl.col("today")).n_unique(),
        total=pl.col("all").filter("today").first(),
    )
    seen = counts.group_by("day", "column", "value").agg(
        found=pl.col("number").filter("today").sum(),
        before=(~pl.col("today")).sum(),
        least=pl.col("number").filter(~pl.col("today")).min(),
        smallest=(pl.col("number") / pl.col("all")).filter(~pl.col("today")).min(),
        middle=pl.col("number").filter(~pl.col("today")).median(),
    )
    seen = seen.join(counted, on=["day", "column"]).filter(
        pl.col("counted") >= MIN_DAYS, pl.col("total").is_not_null()
    )
    least = pl.when(pl.col("column") == "event_type").then(NEW_TYPE).otherwise(LEAST_SHARE)
    threshold = pl.max_horizontal(pl.lit(NEW_ROWS), (least * pl.col("total")).ceil())
    new = seen.filter(pl.col("before") == 0).with_columns(
        metric=pl.lit("new"),
        usual_low=pl.lit(0.0),
        usual_high=threshold - 1.0,
        usual=pl.lit(0.0),
    )
    gone = seen.filter(
        pl.col("before") == pl.col("counted"),
        pl.col("least") >= VANISHED_ROWS,
        pl.col("smallest") >= LEAST_SHARE,
    ).with_columns(
        metric=pl.lit("vanished"),
        usual_low=pl.lit(1.0),
        usual_high=pl.lit(float("inf")),
        usual=pl.col("middle"),
    )
    renamed = pl.concat([new, gone]).rename({"day": "event_date", "total": "rows"})
    return renamed.select(pl.col(n).cast(kind) for n, kind in DRIFT.polars_schema().items())
