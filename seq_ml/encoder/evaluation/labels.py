"""What is asked of users at an origin: the label sets that the gate judges vectors by.

After the RecSys Challenge 2025 (github.com/Synerise/recsys2025), over a span of `SPAN`, less where
there is less. What counts are conversions; in a log without any, whatever shows interest.

| set | asked of | label |
|---|---|---|
| churn | who converted in the window before | no conversion in the span |
| conversion | the other users | a conversion in the span |
| category, item, price_band | everybody | each of the most common ones: converted on it |
| new_item | who never converted on that item | the same items |

Labels are chosen and price bands cut on the window before the first origin. A label needs `FEWEST`
users on either side, at both origins; a set without such a label does not come: no items, no
prices, no conversions.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from seq_ml.periods import RECENT_DAYS, WINDOW_DAYS

if TYPE_CHECKING:
    from collections.abc import Collection
    from datetime import datetime

    from numpy.typing import NDArray

SPAN, WINDOW = timedelta(days=RECENT_DAYS), timedelta(days=WINDOW_DAYS)
MOST_LABELS = 100
PRICE_BANDS = 10
FEWEST = 20
"""Users with and without a label that it takes to ask for it."""


@dataclass(frozen=True)
class Moment:
    """An origin, and users who were active in the `WINDOW` before it, sorted; asked of the span."""

    origin: datetime
    users: list[str]
    span: timedelta = SPAN


@dataclass(frozen=True)
class LabelSet:
    """Questions of one kind. fit, judge: f32 [users, labels] of two moments, NaN: not asked."""

    name: str
    fit: NDArray[np.float32]
    judge: NDArray[np.float32]


def label_sets(
    events: pl.DataFrame,
    items: pl.DataFrame,
    fit: Moment,
    judge: Moment,
    *,
    conversions: Collection[str],
    interest: Collection[str],
) -> list[LabelSet]:
    """Return the sets that have support.

    events: schema EVENTS, of the users of both moments, up to a span after the later one.  items:
    schema ITEMS.  conversions, interest: behaviours.
    """
    done = _done(events, items, fit.origin, conversions)
    if done.is_empty():
        done = _done(events, items, fit.origin, interest)
    labels = {name: _common(done, name, fit.origin) for name in ("category", "item", "price_band")}
    both = [_asked(done, moment, labels) for moment in (fit, judge)]
    sets = (LabelSet(name, *_supported(both[0][name], both[1][name])) for name in both[0])
    return [each for each in sets if each.fit.shape[1]]


def known_items(items: pl.DataFrame, before: datetime) -> pl.DataFrame:
    """Return item_id and category as known before an instant."""
    known = items.filter(pl.col("valid_from") < before).sort("item_id", "valid_from")
    return known.select("item_id", "category").unique("item_id", keep="last", maintain_order=True)


def _done(
    events: pl.DataFrame, items: pl.DataFrame, origin: datetime, behaviours: Collection[str]
) -> pl.DataFrame:
    """Return user_id, event_time, item, category, price_band of the events that count."""
    done = events.filter(pl.col("event_type").is_in(list(behaviours)))
    before = done.filter(pl.col("event_time").is_between(origin - WINDOW, origin, closed="left"))
    prices = before["unit_price"].drop_nulls().to_numpy()
    cuts = np.arange(1, PRICE_BANDS) / PRICE_BANDS
    edges = np.unique(np.quantile(prices, cuts)) if len(prices) else np.empty(0)
    band = pl.Series(np.searchsorted(edges, done["unit_price"].fill_null(0.0).to_numpy()))
    priced = pl.when(pl.col("unit_price").is_not_null()).then(band.cast(pl.String))
    return (
        done.with_columns(price_band=priced)
        .join(known_items(items, origin), on="item_id", how="left")
        .select("user_id", "event_time", "category", "price_band", item="item_id")
    )


def _common(done: pl.DataFrame, column: str, origin: datetime) -> list[str]:
    """Return what most users converted on in the window before the origin."""
    before = done.filter(pl.col("event_time").is_between(origin - WINDOW, origin, closed="left"))
    counted = before.drop_nulls(column).group_by(column).agg(pl.col("user_id").n_unique())
    ranked = counted.sort("user_id", column, descending=[True, False])
    return ranked[column].head(MOST_LABELS).to_list()


def _asked(
    done: pl.DataFrame, moment: Moment, labels: dict[str, list[str]]
) -> dict[str, NDArray[np.float32]]:
    """Return the labels f32 [users, labels] of each set at a moment."""
    time, origin = pl.col("event_time"), moment.origin
    after = done.filter(time.is_between(origin, origin + moment.span, closed="left"))
    before = done.filter(time < origin)
    lately = _any(before.filter(time >= origin - WINDOW), moment)
    again = _any(after, moment)
    found = {
        "churn": np.where(lately, 1.0 - again, np.nan),
        "conversion": np.where(lately, np.nan, again),
    }
    found |= {name: _pairs(after, moment, name, each) for name, each in labels.items()}
    had = _pairs(before, moment, "item", labels["item"])
    found["new_item"] = np.where(had > 0, np.nan, found["item"])
    return {name: values.astype(np.float32) for name, values in found.items()}


def _any(done: pl.DataFrame, moment: Moment) -> NDArray[np.float64]:
    users = pl.Series(moment.users, dtype=pl.String)
    return users.is_in(done["user_id"].implode()).to_numpy().astype(np.float64)[:, None]


def _pairs(
    done: pl.DataFrame, moment: Moment, column: str, labels: list[str]
) -> NDArray[np.float64]:
    """Return 1 [users, labels] where a user has an event of the label, else 0."""
    values = np.zeros((len(moment.users), len(labels)))
    rows, places = (
        pl.DataFrame({name: known}, schema={name: pl.String}).with_row_index(f"place {name}")
        for name, known in (("user_id", moment.users), ("label", labels))
    )
    found = done.select("user_id", label=column).join(places, on="label").join(rows, on="user_id")
    values[found["place user_id"].to_numpy(), found["place label"].to_numpy()] = 1.0
    return values


def _supported(
    fit: NDArray[np.float32], judge: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    kept = np.ones(fit.shape[1], dtype=np.bool_)
    for values in (fit, judge):
        kept &= np.minimum((values == 1).sum(axis=0), (values == 0).sum(axis=0)) >= FEWEST
    return fit[:, kept], judge[:, kept]
