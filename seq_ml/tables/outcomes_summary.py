"""What outcomes say together: mean promise beside mean outcome, by task, target and snapshot."""

from __future__ import annotations

import polars as pl

GROUP = ("task", "target", "label_def", "as_of", "model_version", "source")
"""What outcomes are summed up by."""
ROWS_AT_ONCE = 5_000_000
"""Of more outcomes each snapshot is summed up by itself."""


def summary(outcomes: pl.LazyFrame) -> pl.DataFrame:
    """Return mean promise and mean outcome of each snapshot: calibration in the large.

    outcomes: schema PREDICTION_OUTCOMES. One row per task, target, label_def, as_of, model_version
    and source: rows, units (users, else items), predicted and realised (means), difference
    (realised − predicted), low and high (its 95 % interval, normal approximation over units, whose
    rows stay together; null for a single unit), held (whether 0 lies in the interval), error (root
    mean squared), saved with saved_low and saved_high (the share of the squared error that one
    number for everybody, the mean promise, makes and the predictions do not: 0 = as good as that
    number; null where nothing varies). Sorted.

    A quantile (target "…_p90") promises that at least its share of the outcomes is at or below it:
    predicted is that share, realised the share that was; held unless it is less beyond chance. An
    interval ("…_interval") promises that its share of the outcomes is inside. Both have no error.
    """
    of = ["task", "as_of"]
    snapshots = outcomes.group_by(of).len("rows").sort(of).collect(engine="streaming").rows()
    if sum(rows for _, _, rows in snapshots) <= ROWS_AT_ONCE:
        return _summary(outcomes)
    parts = [_summary(outcomes.filter(task=task, as_of=at)) for task, at, _ in snapshots]
    return pl.concat(parts).sort(GROUP, nulls_last=True)


def _summary(outcomes: pl.LazyFrame) -> pl.DataFrame:
    level = quantile_level(pl.col("target"))
    below = (pl.col("realised") <= pl.col("predicted") + 1e-9).cast(pl.Float64)
    group = list(GROUP)
    mean = pl.when(is_mean(pl.col("target")))
    unit = pl.coalesce("user_id", "item_id", "campaign_id")
    rows = pl.col("rows").sum()
    gap = pl.col("realised") - pl.col("predicted")
    # the ratio mean of a cluster sample, linearised (Cochran 1977, section 6.3)
    many = pl.when(pl.len() > 1).then(pl.len() / (pl.len() - 1))
    half = 1.96 * (many * (gap - pl.col("rows") * gap.sum() / rows).pow(2).sum()).sqrt() / rows
    squared, plain = pl.col("squared"), pl.col("plain")
    left = squared.sum() / pl.when(plain.sum() > 0).then(plain.sum())
    half_left = 1.96 * (many * (squared - plain * left).pow(2).sum()).sqrt() / plain.sum()
    return (
        outcomes.with_columns(
            predicted=pl.coalesce(level, "predicted"),
            realised=pl.when(level.is_null()).then("realised").otherwise(below),
        )
        .with_columns(
            squared=gap.pow(2),
            plain=(pl.col("realised") - pl.col("predicted").mean().over(group)).pow(2),
        )
        .group_by(*group, unit=unit)
        .agg(pl.col("predicted", "realised", "squared", "plain").sum(), rows=pl.len())
        .group_by(group)
        .agg(
            (pl.col("predicted", "realised").sum() / rows),
            units=pl.len(),
            total=rows,
            difference=gap.sum() / rows,
            half=half,
            error=(squared.sum() / rows).sqrt(),
            saved=1 - left,
            half_saved=half_left,
        )
        .select(
            *group,
            "units",
            "predicted",
            "realised",
            "difference",
            rows="total",
            low=pl.col("difference") - pl.col("half"),
            high=pl.col("difference") + pl.col("half"),
            error=mean.then("error"),
            saved=mean.then("saved"),
            saved_low=mean.then(pl.col("saved") - pl.col("half_saved")),
            saved_high=mean.then(pl.col("saved") + pl.col("half_saved")),
        )
        .with_columns(
            held=pl.when(level.is_null())
            .then(pl.lit(0.0).is_between("low", "high"))
            .otherwise(pl.col("high") >= 0)
        )
        .sort(group, nulls_last=True)
        .collect()
    )


def quantile_level(target: pl.Expr) -> pl.Expr:
    """Return the level that the name of a quantile ends in (0.9 of "demand_p90"), else null."""
    return target.str.extract(r"_p(\d\d)$", 1).cast(pl.Float64) / 100


def is_mean(target: pl.Expr) -> pl.Expr:
    """Tell whether a target is an expected value, not the end of an interval nor an interval."""
    return quantile_level(target).is_null() & ~target.str.ends_with("_interval")
