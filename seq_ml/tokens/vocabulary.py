"""The vocabulary: which ids stand for items, behaviour types, price, quantity and time bands.

Everything in it is fitted on events before one cut-off. It is append-only: `extend` gives new ids
to new items and categories and never moves an old one, so that a trained encoder stays valid.
Items that few people touched share the token of their category (the long tail), and without a
category the token UNKNOWN.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from seq_ml.schema import EVENT_TYPES

if TYPE_CHECKING:
    from numpy.typing import NDArray

PAD, MASK, UNKNOWN, NO_ITEM = range(4)
"""Special item tokens; NO_ITEM stands for an event without item (a mailing, a contact)."""
SPECIAL = 4

HOUR, DAY = 3_600, 86_400
GAP_DAYS = (1, 2, 3, 4, 5, 6, 7, 9, 11, 14, 18, 23, 30, 45, 60, 90, 180, 365)
GAP_EDGES = (1, 60, 600, HOUR, 6 * HOUR, 12 * HOUR, *(days * DAY for days in GAP_DAYS))
"""Lower edges of the time-gap buckets, seconds."""


@dataclass(frozen=True)
class Tokens:
    """Token arrays of some users, without padding (CSR: values and offsets).

    user: ids as bytes u8 [users, 16].  offset: i64 [users + 1] into the values.  Values, one per
    event: item i32, behaviour, gap, price, quantity u8, time i64 (seconds since 1970, UTC).
    """

    user: NDArray[np.uint8]
    offset: NDArray[np.int64]
    item: NDArray[np.int32]
    behaviour: NDArray[np.uint8]
    gap: NDArray[np.uint8]
    price: NDArray[np.uint8]
    quantity: NDArray[np.uint8]
    time: NDArray[np.int64]

    @property
    def user_ids(self) -> list[str]:
        """Pseudonyms in order."""
        return [row.tobytes().hex() for row in self.user]

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Events per user, i64 [users]."""
        return np.diff(self.offset)


@dataclass(frozen=True)
class Vocabulary:
    """Ids of everything that an event can show.

    Item tokens: PAD, MASK, UNKNOWN, NO_ITEM, then `tokens` in order, each (kind, name) with kind
    "category" or "item"; `users` counts the distinct users behind each when it was added.
    Categories: 0 = none, then `categories` in order.  Behaviour: 0 = padding, then `behaviours`.
    Bands: 0 = unknown, then one per interval between the edges.
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
    behaviours: tuple[str, ...] = EVENT_TYPES

    @classmethod
    def fit(
        cls, events: pl.LazyFrame, items: pl.DataFrame, *, before: datetime, min_users: int
    ) -> Vocabulary:
        """Fit on events (schema EVENTS) and catalogue rows (schema ITEMS) strictly before `before`.

        An item gets its own token when at least `min_users` distinct users had an event with it.
        """
        known = events.filter(pl.col("event_time") < before)
        values = known.select("unit_price", "quantity").collect()
        empty = cls(
            fitted_before=before,
            min_users=min_users,
            tokens=(),
            users=(),
            categories=(),
            category_of={},
            price_edges=_edges(values["unit_price"], np.linspace(0, 1, 17)[1:-1]),
            quantity_edges=_edges(values["quantity"], np.array([0.5, 0.8, 0.9, 0.95, 0.98, 0.99])),
        )
        return empty.extend(events, items, before=before)

    def extend(self, events: pl.LazyFrame, items: pl.DataFrame, *, before: datetime) -> Vocabulary:
        """Add items and categories seen until `before`; ids, bands and edges of old ones stay."""
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

        seen = (
            events.filter(pl.col("event_time") < before, pl.col("item_id").is_not_null())
            .select("user_id", "item_id")
            .unique()
            .group_by("item_id")
            .len("users")
            .collect()
        )
        per_category = (
            seen.with_columns(category=_lookup(seen["item_id"], category_of, 0))
            .group_by("category")
            .agg(pl.col("users").sum())
        )
        category_users = dict(per_category.iter_rows())
        old = {name for kind, name in self.tokens if kind == "item"}
        common = seen.filter(pl.col("users") >= self.min_users).sort(
            "users", "item_id", descending=[True, False]
        )
        new = [(item, count) for item, count in common.iter_rows() if item not in old]
        return replace(
            self,
            fitted_before=before,
            tokens=(
                *self.tokens,
                *(("category", name) for name in new_names),
                *(("item", item) for item, _ in new),
            ),
            users=(
                *self.users,
                *(int(category_users.get(number[name], 0)) for name in new_names),
                *(int(count) for _, count in new),
            ),
            categories=categories,
            category_of=category_of,
        )

    def __len__(self) -> int:
        """Return the number of item tokens, special ones included."""
        return SPECIAL + len(self.tokens)

    @cached_property
    def item_tokens(self) -> dict[str, int]:
        """Token of each item that has its own."""
        return {
            name: SPECIAL + index
            for index, (kind, name) in enumerate(self.tokens)
            if kind == "item"
        }

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
        values = asdict(self) | {"fitted_before": self.fitted_before.isoformat()}
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
        fallback = {name: SPECIAL + i for i, (kind, name) in enumerate(self.tokens)
                    if kind == "category"}  # fmt: skip
        category_token = {
            known: fallback[self.categories[number - 1]]
            for known, number in self.category_of.items()
        }
        token = _lookup(item, category_token | self.item_tokens, UNKNOWN)
        behaviour = {name: index + 1 for index, name in enumerate(self.behaviours)}
        time = values["event_times"].dt.epoch("s").to_numpy().astype(np.int64)
        return Tokens(
            user=np.frombuffer(
                bytes.fromhex("".join(sequences["user_id"])), dtype=np.uint8
            ).reshape(-1, 16),
            offset=offset,
            item=np.where(item.is_null().to_numpy(), NO_ITEM, token.to_numpy()).astype(np.int32),
            behaviour=_lookup(values["event_types"], behaviour, 0).to_numpy().astype(np.uint8),
            gap=self.gap_bucket(_gaps(time, offset)),
            price=_band(values["unit_prices"], self.price_edges),
            quantity=_band(values["quantities"], self.quantity_edges),
            time=time,
        )

    def gap_bucket(self, seconds: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Bucket of each time gap; negative seconds mean unknown (bucket 0)."""
        bucket = 1 + np.searchsorted(np.array(self.gap_edges), seconds, side="right")
        return np.where(seconds < 0, 0, bucket).astype(np.uint8)


def _lookup(values: pl.Series, table: dict[str, int], default: int) -> pl.Series:
    if not table:
        return pl.Series(values.name, [default] * len(values), dtype=pl.Int32)
    return values.replace_strict(
        list(table), list(table.values()), default=default, return_dtype=pl.Int32
    )


def _edges(values: pl.Series, quantiles: NDArray[np.float64]) -> tuple[float, ...]:
    """Distinct quantiles of the positive values: most goods cost or count the same."""
    positive = values.filter(values > 0).to_numpy()
    if not len(positive):
        return ()
    found = np.unique(np.quantile(positive, quantiles, method="inverted_cdf"))
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
