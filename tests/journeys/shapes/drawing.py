"""How people live: when they come, what they like, what they choose; and how it is written."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import polars as pl

if TYPE_CHECKING:
    from datetime import datetime

    from numpy.typing import NDArray

SEED = 20


def visits(
    rng: np.random.Generator,
    users: int,
    start: datetime,
    days: int,
    *,
    rhythm: float,
    spread: float = 0.6,
    regularity: float = 3.0,
    lifetime: float | None = None,
    joined: float = 0.5,
    weekdays: tuple[int, ...] = tuple(range(7)),
) -> pl.DataFrame:
    """Return (user, at, nth) of everybody's visits from `start` on, in the order of time.

    rhythm: median days between visits, of one user's own exp(spread × normal) times that.
    regularity: shape of the gamma that draws a gap (1: by chance alone). lifetime: mean days until
    a user stays away for good; None: nobody does. joined: share of users who join on the way.
    weekdays: those on which the business is open (0 = Monday), which come later otherwise; a day
    of the log costs the tests more than a hundred rows.
    """
    own = rhythm * np.exp(spread * rng.normal(size=users))
    late = rng.random(users) < joined
    first = np.where(late, rng.uniform(0, 0.8 * days, users), rng.uniform(0, 1, users) * own)
    left = np.full(users, np.inf) if lifetime is None else rng.exponential(lifetime, users)
    count = int(2 * days / own.min()) + 8
    gaps = rng.gamma(regularity, 1 / regularity, (users, min(count, 2000))) * own[:, None]
    at = first[:, None] + np.concatenate([np.zeros((users, 1)), np.cumsum(gaps, axis=1)], axis=1)
    wait = np.array(
        [min((day - start.weekday() - n) % 7 for day in weekdays) for n in range(7)]
    )  # by the weekday of a day after `start`: until it is open
    at = np.floor(at)
    at += wait[at.astype(np.int64) % 7]
    user, nth = np.nonzero((at < days) & (at <= (first + left)[:, None]))
    # the hour of the day is that of people: noon to evening
    day = at[user, nth]
    hour = np.clip(rng.normal(16, 3, len(user)), 7, 22.9)
    seconds = ((day * 24 + hour) * 3600).astype(np.int64)
    return (
        pl.DataFrame(
            {"user": user, "nth": nth, "at": pl.Series(seconds).cast(pl.Duration("ms")) * 1000}
        )
        .with_columns(at=pl.lit(start) + pl.col("at"))
        .sort("at", "user")
    )


def tastes(
    rng: np.random.Generator, users: int, items: int, *, kinds: int = 6, sharp: float = 2.0
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return how much each user likes each item (log-odds), and the kind of each item.

    Users like one or two kinds; within a kind their likings share two more dimensions. A few items
    are popular with everybody.
    """
    kind = rng.integers(0, kinds, items)
    liking = rng.normal(size=(users, kinds)) @ np.eye(kinds)[kind].T
    finer = rng.normal(size=(users, 2)) @ rng.normal(size=(2, items))
    return sharp * (0.7 * liking + 0.5 * finer) + rng.normal(size=items), kind


def chosen(
    rng: np.random.Generator, odds: NDArray[np.float64], counts: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Draw `counts[r]` different items for each row of `odds` [rows, items]; (row, item) pairs."""
    most = max(int(counts.max()), 1)
    row_of, item_of = [], []
    for first in range(0, len(odds), 4096):
        part = odds[first : first + 4096]
        drawn = np.argsort(-(part + rng.gumbel(size=part.shape)), axis=1)[:, :most]
        row, place = np.nonzero(np.arange(most) < counts[first : first + 4096, None])
        row_of.append(row + first)
        item_of.append(drawn[row, place])
    return np.concatenate(row_of), np.concatenate(item_of)


def baskets(
    rng: np.random.Generator, visits: pl.DataFrame, odds: NDArray[np.float64], mean: float
) -> pl.DataFrame:
    """Return the visits with an item a row, by the users' liking [users, items]: 1 + Poisson."""
    counts = 1 + rng.poisson(mean - 1, visits.height)
    row, item = chosen(rng, odds[visits["user"].to_numpy()], counts)
    return visits[row].with_columns(visit=pl.Series(row), item=pl.Series(item))


def apart(rows: pl.DataFrame, seconds: int) -> pl.DataFrame:
    """Return the rows with those of a visit so many seconds apart, not all at its first."""
    place = pl.int_range(pl.len()).over("visit")
    return rows.with_columns(pl.col("at") + pl.duration(seconds=seconds * place))


def steps(
    rng: np.random.Generator, visits: pl.DataFrame, kinds: dict[str, float], mean: float
) -> pl.DataFrame:
    """Return the visits with 1 + Poisson steps each, some seconds apart, of the `kinds` by odds."""
    counts = 1 + rng.poisson(mean - 1, visits.height)
    rows = visits.with_row_index("visit")[np.repeat(np.arange(visits.height), counts)]
    shares = np.array(list(kinds.values()))
    drawn = rng.choice(list(kinds), size=rows.height, p=shares / shares.sum())
    pause = pl.Series(rng.exponential(40, rows.height)).cum_sum()
    return rows.with_columns(action=pl.Series(drawn), pause=pause).with_columns(
        at=pl.col("at")
        + pl.duration(seconds=(pl.col("pause") - pl.col("pause").first()).over("visit"))
    )


def ids(prefix: str, column: str) -> pl.Expr:
    """Return the business's own ids of a column of numbers."""
    number = pl.col(column).cast(pl.String).str.zfill(5)
    return pl.format("{}{}", pl.lit(prefix), number).alias(column)


def stamp(form: str, column: str = "at") -> pl.Expr:
    """Return the times of a column as the team's system writes them."""
    return pl.col(column).dt.strftime(form)


def prices(rng: np.random.Generator, items: int, middle: float) -> NDArray[np.float64]:
    """Draw a list price for each item."""
    return np.round(middle * np.exp(0.6 * rng.normal(size=items)), 2)
