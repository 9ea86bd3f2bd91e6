"""The vocabulary: which ids stand for items, behaviour types, price, quantity and time bands.

Everything in it is fitted on events before one cut-off. It is append-only: `extend` gives new ids
to new items and categories and never moves an old one, so that a trained encoder stays valid.
Items that few people touched share the token of their category (the long tail), and without a
category the token UNKNOWN.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, fields, replace
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from seq_ml.roles import MOST_BEHAVIOURS, STANDARD

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

PAD, MASK, UNKNOWN, NO_ITEM, TICK = range(5)
"""Special item tokens; NO_ITEM stands for an event without item (a mailing, a contact), TICK for an
instant at which nothing happened."""
SPECIAL = 5

HOUR, DAY = 3_600, 86_400
GAP_DAYS = (1, 2, 3, 4, 5, 6, 7, 9, 11, 14, 18, 23, 30, 45, 60, 90, 180, 365)
GAP_EDGES = (1, 60, 600, HOUR, 6 * HOUR, 12 * HOUR, *(days * DAY for days in GAP_DAYS))
"""Lower edges of the time-gap buckets, seconds."""
DISTINCT_VALUES = 1_000_000
"""Most distinct prices or quantities that are counted one by one."""


@dataclass(frozen=True)
class Tokens:
    """Token arrays of some users, without padding (CSR: values and offsets).

    user: ids as bytes u8 [users, 16].  offset: i64 [users + 1] into the values.  Values, one per
    event: item i32, behaviour, gap, price, quantity u8, hour u8 (of the business's week, from
    Monday midnight on), amount f32 (quantity × price, NaN where unknown), time i64 (seconds since
    1970, UTC).
    """

    user: NDArray[np.uint8]
    offset: NDArray[np.int64]
    item: NDArray[np.int32]
    behaviour: NDArray[np.uint8]
    gap: NDArray[np.uint8]
    price: NDArray[np.uint8]
    quantity: NDArray[np.uint8]
    hour: NDArray[np.uint8]
    amount: NDArray[np.float32]
    time: NDArray[np.int64]

    @classmethod
    def concat(cls, parts: Sequence[Tokens]) -> Tokens:
        """Put the users of several parts one after another; at least one part."""
        before = np.cumsum([0, *(len(part.item) for part in parts)])
        moved = [part.offset[1:] + start for part, start in zip(parts, before[:-1], strict=True)]
        joined = {
            field.name: np.concatenate([getattr(part, field.name) for part in parts])
            for field in fields(cls)
        }
        return cls(**joined | {"offset": np.concatenate([[0], *moved])})

    @property
    def user_ids(self) -> list[str]:
        """Pseudonyms in order."""
        return [row.tobytes().hex() for row in self.user]

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Events per user, i64 [users]."""
        return np.diff(self.offset)


EVENT_FIELDS = tuple(field.name for field in fields(Tokens) if field.name not in ("user", "offset"))
"""Fields of `Tokens` with a value for each event."""


@dataclass(frozen=True)
class Vocabulary:
    """Ids of everything that an event can show.

    Item tokens: PAD, MASK, UNKNOWN, NO_ITEM, TICK, then `tokens` in order, each (kind, name) with
    kind "category" or "item"; `users` counts the distinct users behind each before `fitted_before`.
    Categories: 0 = none, then `categories` in order.  Behaviour: 0 = padding, and one that the
    vocabulary does not know, then `behaviours`: the standard ones, then the business's own in the
    order in which they were first seen.  Bands: 0 = unknown, then one per interval between the
    edges.  timezone: the business's, in which hours are told.

    >>> day = datetime(2024, 5, 1)
    >>> seen = {"user_id": [*"uv"], "item_id": ["tea", "tea"], "event_time": [day, day]}
    >>> events = pl.LazyFrame(seen).with_columns(
    ...     unit_price=2.0, quantity=1.0, event_type=pl.lit("play")
    ... )
    >>> kinds = {"item_id": ["tea", "rusk"], "category": ["drinks", "bakery"]}
    >>> items = pl.DataFrame(kinds).with_columns(valid_from=day)
    >>> words = Vocabulary.fit([events], items, before=datetime(2024, 6, 1), min_users=2)
    >>> words.tokens
    (('category', 'bakery'), ('category', 'drinks'), ('item', 'tea'))
    >>> words.behaviours[:2], words.behaviours[-1]
    (('view', 'search'), 'play')
    """

    fitted_before: datetime
    min_users: int
    tokens: tuple[tuple[str, str], ...]
    users: tuple[int, ...]
    categories: tuple[str, ...]
    category_of: dict[str, int]
    price_edges: tuple[float, ...]
    quantity_edges: tuple[float, ...]
    gap_edges: tuple[int, ...] = GAP_EDGES
    behaviours: tuple[str, ...] = tuple(STANDARD)
    timezone: str = "UTC"

    @classmethod
    def fit(
        cls,
        parts: Iterable[pl.LazyFrame],
        items: pl.DataFrame,
        *,
        before: datetime,
        min_users: int,
        timezone: str = "UTC",
    ) -> Vocabulary:
        """Fit on events and catalogue rows (schema ITEMS) strictly before `before`.

        parts: the events (columns user_id, item_id, event_type, event_time, unit_price, quantity),
        all events of a user in the same part; one part is in memory at a time.  An item gets its
        own token when at least `min_users` distinct users had an event with it.

        Raises ValueError for more than MOST_BEHAVIOURS behaviours.
        """
        seen = _look(parts, before, amounts=True)
        empty = cls(
            fitted_before=before,
            min_users=min_users,
            tokens=(),
            users=(),
            categories=(),
            category_of={},
            price_edges=_edges(seen.prices, np.linspace(0, 1, 17)[1:-1]),
            quantity_edges=_edges(seen.quantities, np.array([0.5, 0.8, 0.9, 0.95, 0.98, 0.99])),
            timezone=timezone,
        )
        return empty._extended(seen, items, before)

    def extend(
        self, parts: Iterable[pl.LazyFrame], items: pl.DataFrame, *, before: datetime
    ) -> Vocabulary:
        """Add items, categories and behaviours seen until `before`; all that is old stays.

        parts, items: as in `fit`, from the first event on.
        """
        return self._extended(_look(parts, before, amounts=False), items, before)

    def can_extend(self, *, before: datetime, min_users: int, timezone: str = "UTC") -> bool:
        """Tell whether `extend` is allowed: same settings, and nothing seen from `before` on."""
        same = (min_users, GAP_EDGES, timezone)
        return (
            self.fitted_before <= before and (self.min_users, self.gap_edges, self.timezone) == same
        )

    def _extended(self, seen: _Seen, items: pl.DataFrame, before: datetime) -> Vocabulary:
        """Add what is new in the catalogue and in `seen`."""
        behaviours = (*self.behaviours, *sorted(seen.behaviours - {*self.behaviours}))
        if len(behaviours) > MOST_BEHAVIOURS:
            raise ValueError(
                f"The events have {len(behaviours)} names of behaviours, and the encoder reads at "
                f"most {MOST_BEHAVIOURS}: translate similar ones to one name with `values` in the "
                f"mapping; the newest are {', '.join(behaviours[-3:])}."
            )
        # The newest category of an item counts, but one that has a number keeps it: ids never move.
        catalogue = (
            items.filter(pl.col("valid_from") < before, pl.col("category").is_not_null())
            .sort("valid_from", "item_id")
            .unique("item_id", keep="last", maintain_order=True)
        )
        new_names = sorted(set(catalogue["category"]) - set(self.categories))
        categories = (*self.categories, *new_names)
        number = {name: index + 1 for index, name in enumerate(categories)}
        pairs = sorted(zip(catalogue["item_id"], catalogue["category"], strict=True))
        category_of = {item: number[name] for item, name in pairs} | self.category_of

        common = seen.users.filter(pl.col("users") >= self.min_users).sort(
            "users", "item_id", descending=[True, False]
        )
        old = {name for kind, name in self.tokens if kind == "item"}
        tokens = (
            *self.tokens,
            *(("category", name) for name in new_names),
            *(("item", item) for item in common["item_id"] if item not in old),
        )
        item_users = dict(seen.users.iter_rows())
        # A category's token stands for all its items, rare ones too: their users are added up.
        category_users = dict.fromkeys(categories, 0)
        for item, users in item_users.items():
            if item in category_of:
                category_users[categories[category_of[item] - 1]] += users
        behind = {"item": item_users, "category": category_users}
        return replace(
            self,
            fitted_before=before,
            tokens=tokens,
            users=tuple(behind[kind].get(name, 0) for kind, name in tokens),
            categories=categories,
            category_of=category_of,
            behaviours=behaviours,
        )

    def __len__(self) -> int:
        """Return the number of item tokens, special ones included."""
        return SPECIAL + len(self.tokens)

    @cached_property
    def item_tokens(self) -> dict[str, int]:
        """Token of each item that has its own."""
        return self._tokens_of("item")

    def _tokens_of(self, kind: str) -> dict[str, int]:
        return {name: SPECIAL + i for i, (of, name) in enumerate(self.tokens) if of == kind}

    @cached_property
    def _token_of(self) -> tuple[pl.Series, pl.Series]:
        """Items and the token of each: its own, or that of its category."""
        fallback = self._tokens_of("category")
        token = {item: fallback[self.categories[n - 1]] for item, n in self.category_of.items()}
        token |= self.item_tokens
        return (
            pl.Series(list(token), dtype=pl.String),
            pl.Series(list(token.values()), dtype=pl.Int32),
        )

    @cached_property
    def token_categories(self) -> NDArray[np.int64]:
        """Category of each item token, i64 [len(self)]."""
        number = {name: index + 1 for index, name in enumerate(self.categories)}
        named = [
            number[name] if kind == "category" else self.category_of.get(name, 0)
            for kind, name in self.tokens
        ]
        return np.array([0] * SPECIAL + named, dtype=np.int64)

    @cached_property
    def version(self) -> str:
        """Hash of the whole content."""
        return hashlib.sha256(self.to_bytes()).hexdigest()[:16]

    def to_bytes(self) -> bytes:
        """Serialise as JSON; equal vocabularies give equal bytes."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        values["fitted_before"] = self.fitted_before.isoformat()
        return json.dumps(values, sort_keys=True, separators=(",", ":")).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Vocabulary:
        """Read what `to_bytes` wrote."""
        values: dict[str, Any] = json.loads(data)
        values["fitted_before"] = datetime.fromisoformat(values["fitted_before"])
        values["tokens"] = tuple((kind, name) for kind, name in values["tokens"])
        for name in ("users", "categories", "price_edges", "quantity_edges", "gap_edges"):
            values[name] = tuple(values[name])
        values["behaviours"] = tuple(values["behaviours"])
        return cls(**values)

    def encode(self, sequences: pl.DataFrame) -> Tokens:
        """Turn sequences (schema USER_SEQUENCES) into token arrays, users in the given order."""
        offset = np.zeros(sequences.height + 1, dtype=np.int64)
        np.cumsum(sequences["length"].to_numpy(), out=offset[1:])
        columns = ("item_ids", "event_types", "event_times", "quantities", "unit_prices")
        values = sequences.select(*columns).explode(*columns)
        item = values["item_ids"]
        known, tokens = self._token_of
        token = item.replace_strict(known, tokens, default=UNKNOWN, return_dtype=pl.Int32)
        behaviour = values["event_types"].replace_strict(
            list(self.behaviours),
            list(range(1, len(self.behaviours) + 1)),
            default=0,
            return_dtype=pl.UInt8,
        )
        time = values["event_times"].dt.epoch("s").to_numpy().astype(np.int64)
        local = values["event_times"].dt.convert_time_zone(self.timezone)
        hour = (local.dt.weekday() - 1).cast(pl.UInt8) * 24 + local.dt.hour().cast(pl.UInt8)
        amount = values["quantities"].cast(pl.Float64) * values["unit_prices"].cast(pl.Float64)
        return Tokens(
            user=np.frombuffer(
                bytes.fromhex("".join(sequences["user_id"])), dtype=np.uint8
            ).reshape(-1, 16),
            offset=offset,
            item=np.where(item.is_null().to_numpy(), NO_ITEM, token.to_numpy()).astype(np.int32),
            behaviour=behaviour.to_numpy(),
            gap=self.gap_bucket(_gaps(time, offset)),
            price=_band(values["unit_prices"], self.price_edges),
            quantity=_band(values["quantities"], self.quantity_edges),
            hour=hour.to_numpy(),
            amount=amount.cast(pl.Float32).fill_null(float("nan")).to_numpy(),
            time=time,
        )

    def gap_bucket(self, seconds: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Bucket of each time gap; negative seconds mean unknown (bucket 0)."""
        bucket = 1 + np.searchsorted(np.array(self.gap_edges), seconds, side="right")
        return np.where(seconds < 0, 0, bucket).astype(np.uint8)


@dataclass(frozen=True)
class _Seen:
    """What was counted: users (item_id, users) and how often each positive number occurred.

    Numbers are counted where bands are made of them: those of a vocabulary that grows stay.
    """

    behaviours: set[str]
    users: pl.DataFrame
    prices: pl.DataFrame
    quantities: pl.DataFrame


def _look(parts: Iterable[pl.LazyFrame], before: datetime, *, amounts: bool) -> _Seen:
    """Count part by part; only counts are kept, and sums do not depend on the parts."""
    behaviours: set[str] = set()
    users = pl.DataFrame(schema={"item_id": pl.String, "users": pl.UInt32})
    prices = quantities = pl.DataFrame(schema={"value": pl.Float64, "count": pl.UInt32})
    for part in parts:
        rows = part.filter(pl.col("event_time") < before)
        rows = rows.select("user_id", "item_id", "event_type", "unit_price", "quantity")
        rows = rows.collect(engine="streaming").lazy()
        behaviours |= {*rows.select(pl.col("event_type").unique()).collect()["event_type"]}
        behind = rows.select("user_id", "item_id").drop_nulls().unique().group_by("item_id")
        users = _added(users, behind.len("users"))
        if amounts:
            prices = _thinned(_added(prices, _occurrences(rows, "unit_price")))
            quantities = _thinned(_added(quantities, _occurrences(rows, "quantity")))
    return _Seen(behaviours, users, prices, quantities)


def _occurrences(rows: pl.LazyFrame, column: str) -> pl.LazyFrame:
    return rows.filter(pl.col(column) > 0).group_by(value=column).len("count")


def _added(counts: pl.DataFrame, more: pl.LazyFrame) -> pl.DataFrame:
    """Add counts of the same keys; sorted by key."""
    key, count = counts.columns
    both = pl.concat([counts.lazy(), more.cast(counts.schema)])
    return both.group_by(key).agg(pl.col(count).sum()).sort(key).collect()


def _thinned(counts: pl.DataFrame) -> pl.DataFrame:
    """Merge neighbouring values when they are too many; a quantile moves by no more than 1e-6."""
    if counts.height <= DISTINCT_VALUES:
        return counts
    below = pl.col("count").cast(pl.Float64).cum_sum()
    merged = counts.group_by((below * DISTINCT_VALUES / below.last()).floor().alias("slot"))
    return merged.agg(pl.col("value").max(), pl.col("count").sum()).drop("slot").sort("value")


def _edges(counts: pl.DataFrame, quantiles: NDArray[np.float64]) -> tuple[float, ...]:
    """Distinct quantiles (inverted CDF) of the positive values: most goods cost the same."""
    if counts.is_empty():
        return ()
    reached = np.cumsum(counts["count"].to_numpy().astype(np.int64))
    place = np.ceil(reached[-1] * quantiles - 1)
    found = np.unique(counts["value"].to_numpy()[np.searchsorted(reached, place, side="right")])
    return tuple(float(edge) for edge in found)


def _band(values: pl.Series, edges: tuple[float, ...]) -> NDArray[np.uint8]:
    numbers = values.cast(pl.Float64).to_numpy()
    band = 1 + np.searchsorted(np.array(edges), np.nan_to_num(numbers), side="right")
    return np.where(np.isnan(numbers), 0, band).astype(np.uint8)


def _gaps(time: NDArray[np.int64], offset: NDArray[np.int64]) -> NDArray[np.int64]:
    """Seconds since the user's previous distinct event time; -1 in the first basket.

    All events of one basket carry the same gap: their order inside it is arbitrary.
    """
    if not len(time):
        return time
    starts = np.zeros(len(time), dtype=bool)
    starts[offset[:-1][np.diff(offset) > 0]] = True
    change = starts | (np.diff(time, prepend=time[0] - 1) != 0)
    gap = np.diff(time, prepend=time[0])
    gap[starts] = -1
    basket = np.cumsum(change) - 1
    return np.asarray(gap[change][basket], dtype=np.int64)
