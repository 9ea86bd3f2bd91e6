"""Prove that nothing from the future reached a task's examples or its fitted model.

Each check is a pure function that returns one sentence about what it found, or an empty text:

* `feature_time`: features at an origin are the same when everything from the origin on is missing;
* `label_window`: label windows lie in [origin, as_of], and those of the splits never overlap;
* `duplicates`: no example is in two splits, nor twice in one;
* `prediction_time`: what said anything of an example had been trained before its origin;
* `fitted_statistics`: the published model stays the same, bit for bit, whatever the test rows hold;
  of many examples the same candidate, fitted twice to some of them.

They look for the leaks that make a backtest lie (Kaufman et al. 2012, "Leakage in data mining":
features from after the decision, overlap of the samples, statistics fitted on all data).
"""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from seq_ml.evaluation.backtest import halves, refit
from seq_ml.ingest.mapping.values import ALWAYS_KNOWN
from seq_ml.tasks.task import NotEnoughHistoryError, check_examples

if TYPE_CHECKING:
    from seq_ml.tasks.data import TaskData
    from seq_ml.tasks.judged import Backtest
    from seq_ml.tasks.task import Task

COMPARED_ROWS = 2000
COMPARED_UNITS = 200
"""Examples of so many units, drawn with the seed, are compared at an origin; of more where these
have fewer examples than `COMPARED_ROWS`."""
REFITTED_ROWS, REFITTED_UNITS = 40_000, 10
"""Of more than twice as many examples about so many, of units drawn with the seed (so many at
least), tell whether a fit depends on the test rows: all cost as much as a candidate does."""
RELATIVE, ABSOLUTE = 1e-4, 1e-6
"""Sums of the same numbers in another order differ by less (32-bit features); leaks by more."""
RANK = "_rank"
"""How a rank by a score ends: two whose scores are equal but for rounding may change places."""
NOT_FEATURES = ("split", "label", "label_end", "origin")


def known_before(data: TaskData, instant: datetime, as_of: datetime) -> TaskData:
    """Return the data as they were: events, catalogue, stock and terms strictly before `instant`.

    Campaigns, their items and promotions stay: they are plans that are known in advance. Which
    items are merchandise stays as known at `as_of`: it says what is asked, not what happened.
    """
    newest = data.items_known(as_of).select("item_id", now="is_merchandise")
    before = data.items.filter(pl.col("valid_from") < instant)
    other = newest.filter(~pl.col("now")).join(before, on="item_id", how="anti")
    stubs = other.select("item_id", is_merchandise="now", valid_from=pl.lit(ALWAYS_KNOWN))
    items = (
        before.join(newest, on="item_id", how="left", maintain_order="left")
        .with_columns(is_merchandise=pl.coalesce("now", "is_merchandise"))
        .drop("now")
    )
    return replace(
        data.where(pl.col("event_time") < instant),
        items=pl.concat(
            [items, stubs.cast({"valid_from": items["valid_from"].dtype})], how="diagonal"
        ),
        stock=data.stock.filter(pl.col("counted_at") < instant),
        predictions=data.predictions.filter(pl.col("rung_cut") <= instant),
        # Not by `TaskData.terms_known`: what is checked may not say what is right.
        subscriptions=data.subscriptions.filter(
            pl.col("started_at") < instant, (pl.col("known_at") < instant).fill_null(value=True)
        ).with_columns(cancelled_at=pl.when(pl.col("cancelled_at") < instant).then("cancelled_at")),
    )


def feature_time(task: Task, data: TaskData, examples: pl.DataFrame, as_of: datetime) -> str:
    """Compare features with those served at the same origin from data that end before it.

    Looked at: the first test origin, at which a leak would flatter what is published. Examples that
    serving leaves out (an advertisement may have reached people whom serving would not ask about)
    are skipped.
    """
    origin = examples.filter(pl.col("split") == "test")["origin"].min()
    if not isinstance(origin, datetime):
        return ""
    rows = examples.filter(pl.col("origin") == origin)
    return _differs(task, known_before(data, origin, as_of), rows, origin)


def _differs(task: Task, data: TaskData, rows: pl.DataFrame, origin: datetime) -> str:
    key = list(task.key)
    every = rows[task.unit].unique().sort()
    enough = max(COMPARED_UNITS, COMPARED_ROWS * len(every) // rows.height)
    units = every.sample(min(len(every), enough), seed=data.seed)
    try:
        of_units = data.of(units) if task.by_user else data
        served = task.serving(of_units, origin, units).examples
    except NotEnoughHistoryError as reason:
        return (
            f"{task.name}: there are examples at {origin}, but with the data known by then there "
            f"could be none: {reason}"
        )
    rows = rows.filter(pl.col(task.unit).is_in(units.implode()))
    ignored = {*key, *NOT_FEATURES, *task.slices}
    columns = [c for c in served.columns if c in rows.columns and c not in ignored]
    pairs = rows.select(*key, *columns).join(
        served.select(*key, *columns), on=key, how="inner", suffix=":served"
    )
    for column in columns:
        as_example, as_served = pairs[column], pairs[f"{column}:served"]
        unequal = _unequal(as_example, as_served)
        if unequal.any():
            example = int(unequal.arg_max() or 0)
            return (
                f"{task.name}: the feature '{column}' at {origin} differs in {unequal.sum()} of "
                f"{pairs.height} examples from what is served from the data before that instant, "
                f"e.g. {_shown(as_example[example])} instead of {_shown(as_served[example])}: it "
                "reads what happened at or after the origin, or examples and serving compute it "
                "differently."
            )
    return ""


def _unequal(one: pl.Series, other: pl.Series) -> pl.Series:
    """Return whether values differ [rows]; null only equals null.

    Numbers differ beyond rounding, ranks by more than one place.
    """
    if one.dtype.is_nested():
        left, right = (s.cast(pl.List(pl.Float64)).to_list() for s in (one, other))
        same = [
            a is b or (a is not None and b is not None and np.allclose(a, b, RELATIVE, ABSOLUTE))
            for a, b in zip(left, right, strict=True)
        ]
        return ~pl.Series(same, dtype=pl.Boolean)
    if one.name.endswith(RANK):
        return ((one.cast(pl.Int64) - other.cast(pl.Int64)).abs() > 1).fill_null(
            one.is_null() != other.is_null()
        )
    if one.dtype.is_float():
        a, b = (s.cast(pl.Float64).fill_nan(None) for s in (one, other))
        far = (a - b).abs() > ABSOLUTE + RELATIVE * b.abs()
        return far.fill_null(value=False) | (a.is_null() != b.is_null())
    return one.ne_missing(other)


def _shown(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def label_window(task: Task, examples: pl.DataFrame, as_of: datetime) -> str:
    """Say which label window is open at as_of or reaches into a later split."""
    try:
        check_examples(examples, task, as_of)
    except ValueError as error:
        return str(error)
    return ""


def duplicates(task: Task, examples: pl.DataFrame) -> str:
    """Say which example is there twice: the same key and window, or the same content.

    Content (key, features and label, whatever the origin) may repeat where a user or item simply
    does the same again; then it also repeats within a split. Rows whose content is in two splits,
    but never twice in one, were copied.
    """
    key = list(task.key)
    doubles = examples.height - examples.select("origin", *key).n_unique()
    if doubles:
        return f"{task.name}: {doubles} examples repeat ({', '.join(('origin', *key))})."
    content = [c for c in examples.columns if c not in ("split", "origin", "label_end")]
    hashed = examples.select("split", row=examples.select(content).hash_rows(seed=0))
    contents = hashed.group_by("row").agg(rows=pl.len(), splits=pl.col("split").n_unique())
    copied = contents.filter(pl.col("splits") > 1).height
    if copied and not contents.filter(pl.col("rows") > pl.col("splits")).height:
        return (
            f"{task.name}: {copied} examples are in two splits with the same key, features "
            "and label: rows of one were copied into the other."
        )
    return ""


def prediction_time(task: Task, examples: pl.DataFrame, data: TaskData) -> str:
    """Say what was trained on events from the origin on of an example that it speaks of.

    Predictions of the sequence model, in every split; the encoder, at the first test origin.
    """
    origins = examples["origin"].unique().implode()
    late = data.predictions.filter(pl.col("origin").is_in(origins))
    late = late.filter(pl.col("rung_cut") > pl.col("origin")).select("origin", "rung", "rung_cut")
    for origin, rung, cut in late.head(1).collect().rows():
        return (
            f"{task.name}: predictions at {origin} are of the encoder {rung}, which was trained on "
            f"events up to {cut}."
        )
    first_test = examples.filter(pl.col("split") == "test")["origin"].min()
    encoder = data.encoder
    if encoder is None or not isinstance(first_test, datetime):
        return ""
    if encoder.fitted_before > first_test:
        return (
            f"{task.name}: the encoder was fitted on events up to {encoder.fitted_before}, "
            f"after the first test origin {first_test}."
        )
    return ""


def fitted_statistics(
    task: Task, examples: pl.DataFrame, result: Backtest, *, seed: int, most: int = REFITTED_ROWS
) -> str:
    """Fit the published candidate again beside a spoilt test set; it must stay what it was.

    Labels of the test rows are shuffled and their numbers scaled, but for one unit, whose
    predictions must not change either. Candidates are fitted and asked in the backtest's own way.
    Of more than twice `most` examples so many are fitted twice, beside their test rows as they are
    and beside spoilt ones; where these are too few to fit to, all are.
    """
    name, test = result.published.name, result.test
    model, predicted = result.published, result.predictions[name]
    if examples.height > 2 * most:
        examples, every = _of_some_units(task, examples, most, seed), examples
        before, test = halves(task, examples)
        try:
            fitted, predictions = refit(task, before, test, [name])
        except NotEnoughHistoryError:
            return fitted_statistics(task, every, result, seed=seed, most=every.height)
        model, predicted = fitted[name], predictions[name]
    kept = test[task.unit].unique().sort().head(1)
    fitted, predictions = refit(task, *halves(task, _spoilt(task, examples, kept, seed)), [name])
    if _state(fitted[name]) != _state(model):
        return (
            f"{task.name}: the state of '{name}' changes when the test rows change: something in "
            "it was fitted on the rows that it is judged on."
        )
    unspoilt = test[task.unit].is_in(kept.implode()).to_numpy()
    if not np.allclose(predictions[name][unspoilt], predicted[unspoilt], RELATIVE, ABSOLUTE):
        return (
            f"{task.name}: a prediction of '{name}' changes when other test rows change: it uses "
            "statistics of the rows that it is asked about."
        )
    return ""


def _of_some_units(task: Task, examples: pl.DataFrame, most: int, seed: int) -> pl.DataFrame:
    """Return about `most` of the examples: those of units drawn at random of the tested ones."""
    units = examples.filter(pl.col("split") == "test")[task.unit].unique().sort()
    number = max(REFITTED_UNITS, most * len(units) // examples.height)
    units = units.sample(min(len(units), number), seed=seed)
    return examples.filter(pl.col(task.unit).is_in(units.implode()))


def _spoilt(task: Task, examples: pl.DataFrame, kept: pl.Series, seed: int) -> pl.DataFrame:
    spoil = (pl.col("split") == "test") & ~pl.col(task.unit).is_in(kept.implode())
    ours = {*task.key, task.unit, *NOT_FEATURES}
    numbers = [c for c, kind in examples.schema.items() if kind.is_float() and c not in ours]
    return pl.concat(
        [
            examples.filter(~spoil),
            examples.filter(spoil).with_columns(
                pl.col("label").shuffle(seed=seed), *(pl.col(c) * 3 + 1 for c in numbers)
            ),
        ]
    )


def _state(model: Any) -> str:
    return json.dumps(model.state(), sort_keys=True)
