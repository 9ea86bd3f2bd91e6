"""A generated shop click log: any number of events, with the defects of real logs, and the truth.

    python -m benchmarks.click_log --events 1_000_000 FOLDER

The columns are those of the REES46 logs (view, cart, purchase) plus an `event_id`. There are 50
events to a user and 200 to an item; popularity and activity have a long tail, visits follow the
hours of the day and the days of the week. One drop per day, several files when the day is large:

    days/2025-01-01/part-000.parquet   what happened on that day, and late rows of 1–3 days before
    days/2025-01-01/resent.parquet     rows that were sent a second time, of that day or the last
    items/items.parquet                the catalogue

Days are made one after the other, so memory follows the size of a day. The same arguments give the
same bytes. `generate` returns how many rows of each kind there are, so that a test can ask a
pipeline to find exactly those.
"""

from __future__ import annotations

import argparse
import io
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    Write = Callable[[str, bytes], None]

SOURCE = "clicks"
MAPPING = (Path(__file__).parent / "click_log.yaml").read_text()

FIRST_DAY = date(2025, 1, 1)
DUPLICATE_SHARE, BAD_SHARE, LATE_SHARE, BOT_SHARE = 0.03, 0.01, 0.005, 0.005
EVENTS_PER_USER, EVENTS_PER_ITEM, EVENTS_PER_VISIT = 50, 200, 6
BURST = 240
"""Views of one bot within one minute: twice what the rules take for a person."""
LONGEST_DELAY = 3
ROWS_PER_FILE = 500_000
DAY_MS = 86_400_000
SECONDS_BETWEEN_CLICKS = 35
TYPES = ("view", "cart", "purchase")
TYPE_SHARES = (0.93, 0.045, 0.025)
BY_HOUR = (3, 2, 1.5, 1, 1, 2, 4, 6, 8, 9, 9, 9, 9, 9, 9, 9, 10, 11, 12, 13, 13, 11, 8, 5)
BY_WEEKDAY = (1.0, 0.97, 0.97, 1.0, 1.05, 1.2, 1.15)
BAD_KINDS = ("unknown type", "negative price", "no user", "time of 1970", "time of 2099")
BROKEN_CLOCKS = (np.datetime64("1970-01-01T00:00:00"), np.datetime64("2099-12-31T23:59:59"))
SCHEMA = {
    "event_id": pl.Int64,
    "event_time": pl.Datetime("ms", "UTC"),
    "event_type": pl.String,
    "product_id": pl.Int64,
    "category_code": pl.String,
    "brand": pl.String,
    "price": pl.Float64,
    "user_id": pl.Int64,
    "user_session": pl.String,
}


@dataclass
class Truth:
    """What a pipeline must find in the log."""

    rows: int = 0
    files: int = 0
    kept_per_day: dict[date, int] = field(default_factory=dict)
    """Sound, human and counted once, by the UTC day of the event."""
    duplicates: int = 0
    bots: int = 0
    bad: dict[str, int] = field(default_factory=dict)
    late: int = 0
    """Of the kept: those that arrive in the drop of a later day."""

    @property
    def kept(self) -> int:
        """Rows to be published."""
        return sum(self.kept_per_day.values())

    @property
    def quarantined(self) -> int:
        """Rows to be set aside."""
        return self.bots + sum(self.bad.values())


@dataclass(frozen=True)
class ClickLog:
    """Size and seed of a log."""

    events: int
    """Rows of all files together, duplicates, bad rows and bots included."""
    days: int = 90
    seed: int = 7

    def __post_init__(self) -> None:
        if self.events < 1_000 or not 1 <= self.days <= 365:
            raise ValueError("a click log has at least 1,000 events, on 1 to 365 days")

    @property
    def users(self) -> int:
        return max(10, self.events // EVENTS_PER_USER)

    @property
    def items(self) -> int:
        return max(10, self.events // EVENTS_PER_ITEM)

    @property
    def end(self) -> date:
        """The first day after the log."""
        return FIRST_DAY + timedelta(days=self.days)


def generate(log: ClickLog, write: Write) -> Truth:
    """Write the catalogue and every day's files with `write(path, content)`; return the truth."""
    truth = Truth()
    catalogue = _catalogue(log)
    write("items/items.parquet", _parquet(catalogue))
    write("items/_SUCCESS", b"")
    for day, parts, resent in _drops(log, catalogue, truth):
        folder = f"days/{day}"
        for number in range(0, parts.height, ROWS_PER_FILE):
            part = parts.slice(number, ROWS_PER_FILE)
            write(f"{folder}/part-{number // ROWS_PER_FILE:03d}.parquet", _parquet(part))
            truth.files += 1
        if resent.height:
            write(f"{folder}/resent.parquet", _parquet(resent))
            truth.files += 1
        truth.rows += parts.height + resent.height
        write(f"{folder}/_SUCCESS", b"")
    return truth


def _drops(
    log: ClickLog, catalogue: pl.DataFrame, truth: Truth
) -> Iterator[tuple[date, pl.DataFrame, pl.DataFrame]]:
    """Yield (day, rows, rows sent again) of each day's drop."""
    rng = np.random.default_rng(log.seed)
    user_ids = 500_000_000 + rng.permutation(log.users)
    by_popularity = rng.permutation(log.items)
    weekdays = np.array([(FIRST_DAY + timedelta(days=d)).weekday() for d in range(log.days)])
    share = np.array(BY_WEEKDAY)[weekdays] * rng.uniform(0.95, 1.05, log.days)
    bursts = max(1, round(log.events * BOT_SHARE / BURST))
    burst_days = rng.integers(0, log.days, bursts)
    duplicates = _spread(round(log.events * DUPLICATE_SHARE), share)
    bad = _spread(round(log.events * BAD_SHARE), share)
    good = _spread(log.events - duplicates.sum() - bad.sum() - bursts * BURST, share)
    made = 0
    waiting: list[tuple[int, bool, pl.DataFrame]] = []  # day of arrival, sent again, rows
    for number in range(log.days):
        day = FIRST_DAY + timedelta(days=number)
        rng = np.random.default_rng((log.seed, number))
        rows = _visits(rng, int(good[number] + bad[number]), user_ids, by_popularity)
        broken = rng.choice(len(rows["ms"]), int(bad[number]), replace=False)
        bots = _bursts(rng, int((burst_days == number).sum()), log)
        rows = {name: np.concatenate([rows[name], bots[name]]) for name in rows}
        frame = _frame(rows, day, made, catalogue)
        made += frame.height

        people = frame.height - len(bots["ms"])
        sound = np.setdiff1d(np.arange(people), broken)
        delay = np.zeros(frame.height, np.int64)
        slow = sound[rng.random(len(sound)) < LATE_SHARE]
        delay[slow] = rng.integers(1, LONGEST_DELAY + 1, len(slow))
        arrival = np.minimum(number + delay, log.days - 1)  # the log ends with its last drop
        again = rng.choice(sound, int(duplicates[number]), replace=False)
        again_at = np.minimum(arrival[again] + rng.integers(0, 2, len(again)), log.days - 1)

        truth.kept_per_day[day] = len(sound)
        truth.duplicates += len(again)
        truth.bots += len(bots["ms"])
        truth.late += int((arrival > number).sum())
        frame = _damage(frame, broken, number, truth)
        for then in range(number, min(number + LONGEST_DELAY + 2, log.days)):
            waiting.append((then, False, frame[np.flatnonzero(arrival == then)]))
            waiting.append((then, True, frame[again[again_at == then]]))
        parts = [
            pl.concat([r for then, resent, r in waiting if then == number and resent is which])
            for which in (False, True)
        ]
        waiting = [one for one in waiting if one[0] > number]
        yield day, parts[0].sort("event_time", "event_id"), parts[1].sort("event_id")


def _visits(
    rng: np.random.Generator, count: int, user_ids: NDArray[np.int64], items: NDArray[np.int64]
) -> dict[str, NDArray[np.int64]]:
    """Make `count` clicks of visits within one day: ms, user, item, kind, visit."""
    lengths = rng.geometric(1 / EVENTS_PER_VISIT, count)
    ends = np.cumsum(lengths)
    visits = int(np.searchsorted(ends, count)) + 1 if count else 0
    visit = np.repeat(np.arange(visits), lengths[:visits])[:count]
    first = np.r_[True, visit[1:] != visit[:-1]][:count]
    starts = np.flatnonzero(first)

    gaps = 1 + (rng.exponential(SECONDS_BETWEEN_CLICKS * 1000, count)).astype(np.int64)
    gaps[first] = 0
    since = np.cumsum(gaps)
    since -= since[starts][visit]
    hours = np.cumsum(np.r_[0, BY_HOUR]) / sum(BY_HOUR)
    begin = np.interp(rng.random(visits), hours, np.arange(25) / 24 * DAY_MS).astype(np.int64)
    lasts = np.r_[starts[1:], count][:visits] - 1
    begin = np.minimum(begin, DAY_MS - 1 - since[lasts])  # a visit does not cross midnight

    kind = np.searchsorted(np.cumsum(TYPE_SHARES)[:-1], rng.random(count), side="right")
    kind[first] = 0
    seen = items[_long_tail(rng, count, len(items), head=len(items) // 2000)]
    looked = np.maximum.accumulate(np.where(kind == 0, np.arange(count), 0))
    return {
        "ms": begin[visit] + since,
        "user": user_ids[_long_tail(rng, visits, len(user_ids), head=len(user_ids) // 1000)][visit],
        "item": seen[looked],  # what is put into the cart or bought was looked at before
        "kind": kind,
        "visit": visit,
    }


def _bursts(rng: np.random.Generator, count: int, log: ClickLog) -> dict[str, NDArray[np.int64]]:
    """Make scrapers that walk the catalogue, each burst within one minute."""
    bots = 1 + log.events // 5_000_000
    minute = rng.integers(0, DAY_MS // 60_000, count)
    step = np.arange(BURST)
    return {
        "ms": (minute[:, None] * 60_000 + step * 249).ravel(),
        "user": np.repeat(900_000_000 + rng.integers(0, bots, count), BURST),
        "item": ((rng.integers(0, log.items, count)[:, None] + step) % log.items).ravel(),
        "kind": np.zeros(count * BURST, np.int64),
        "visit": -1 - np.repeat(np.arange(count), BURST),
    }


def _frame(
    rows: dict[str, NDArray[np.int64]],
    day: date,
    made: int,
    catalogue: pl.DataFrame,
) -> pl.DataFrame:
    """Dress the numbers as the shop's own columns (SCHEMA)."""
    count = len(rows["ms"])
    # an odd factor maps different numbers to different numbers modulo 2^62
    ids = np.arange(made, made + count, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    ids &= np.uint64(2**62 - 1)
    item = pl.Series(rows["item"])
    return pl.DataFrame(
        {
            "event_id": ids.astype(np.int64),
            "event_time": rows["ms"] + int(np.datetime64(day, "ms").astype(np.int64)),
            "event_type": pl.Series(TYPES)[rows["kind"]],
            "product_id": catalogue["product_id"].gather(item),
            "category_code": catalogue["category_code"].gather(item),
            "brand": catalogue["brand"].gather(item),
            "price": catalogue["price"].gather(item),
            "user_id": rows["user"],
            "user_session": pl.Series(rows["visit"] + (day.toordinal() << 32)).cast(pl.String),
        }
    ).cast(SCHEMA)


def _damage(frame: pl.DataFrame, broken: NDArray[np.int64], day: int, truth: Truth) -> pl.DataFrame:
    """Spoil one thing in each row of `broken`, all kinds equally often."""
    kind = np.full(frame.height, -1)
    kind[broken] = (day + np.arange(len(broken))) % len(BAD_KINDS)
    for number, name in enumerate(BAD_KINDS):
        truth.bad[name] = truth.bad.get(name, 0) + int((kind == number).sum())
    clocks = [pl.lit(t.item()).dt.replace_time_zone("UTC") for t in BROKEN_CLOCKS]
    is_kind = [pl.lit(pl.Series(kind == number)) for number in range(len(BAD_KINDS))]
    return frame.with_columns(
        event_type=pl.when(is_kind[0]).then(pl.lit("hover")).otherwise("event_type"),
        price=pl.when(is_kind[1]).then(-pl.col("price")).otherwise("price"),
        user_id=pl.when(is_kind[2]).then(None).otherwise("user_id"),
        event_time=pl.when(is_kind[3])
        .then(clocks[0])
        .when(is_kind[4])
        .then(clocks[1])
        .otherwise("event_time"),
    ).cast(SCHEMA)


def _catalogue(log: ClickLog) -> pl.DataFrame:
    """Make the items: product_id, title, category_code (one in ten has none), brand, price."""
    rng = np.random.default_rng((log.seed, 2**31))
    categories = pl.Series(
        [f"{d}.{c}" for d in ("electronics", "home", "apparel", "sport") for c in range(75)]
        + [None]
    )
    brands = pl.Series([f"brand {n}" for n in range(2_000)])
    chosen = np.where(
        rng.random(log.items) < 0.1,
        len(categories) - 1,
        _long_tail(rng, log.items, len(categories) - 1, head=5),
    )
    brand = brands[_long_tail(rng, log.items, len(brands), head=10)]
    return pl.DataFrame(
        {
            "product_id": 1_000_000 + np.arange(log.items),
            "title": brand + pl.Series(np.arange(log.items)).cast(pl.String).str.pad_start(8),
            "category_code": categories[chosen],
            "brand": brand,
            "price": np.round(np.exp(rng.normal(3.5, 1.2, log.items)) + 0.5, 2),
        }
    )


def _long_tail(rng: np.random.Generator, count: int, size: int, *, head: int) -> NDArray[np.int64]:
    """Draw `count` ranks in [0, size), each with weight 1 / (rank + head): Zipf–Mandelbrot."""
    offset = max(10, head)
    ranks = offset * ((size + offset) / offset) ** rng.random(count) - offset
    return np.minimum(ranks.astype(np.int64), size - 1)


def _spread(total: int, share: NDArray[np.float64]) -> NDArray[np.int64]:
    """Cut a number into whole parts in the given proportions; the parts add up to it."""
    return np.diff(np.round(np.cumsum(np.r_[0, share]) / share.sum() * total)).astype(np.int64)


def _parquet(frame: pl.DataFrame) -> bytes:
    buffer = io.BytesIO()
    frame.write_parquet(buffer, compression="zstd", compression_level=1)
    return buffer.getvalue()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--days", type=int, default=90)
    parser.add_argument("--seed", type=int, default=7)
    given = parser.parse_args()

    def write(path: str, content: bytes) -> None:
        target = given.folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)

    truth = generate(ClickLog(given.events, given.days, given.seed), write)
    print(
        f"{truth.rows:,} rows in {truth.files} files: {truth.kept:,} to keep ({truth.late:,} of "
        f"them late), {truth.duplicates:,} duplicates, {truth.bots:,} of bots, bad: {truth.bad}"
    )


if __name__ == "__main__":
    main()
