"""What tasks read: events, reference tables and the encoder, cut at any instant.

Events are read many times, at many origins: they are copied into local files, and Polars scans
these (`seq_ml.clean.local_copy`).
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Protocol

import polars as pl

from seq_ml import schema
from seq_ml.clean.currencies import if_own, in_own_currency
from seq_ml.clean.local_copy import local_events
from seq_ml.periods import GROCER, Periods, choose_periods
from seq_ml.sequences import cutoffs
from seq_ml.storage.portions import shard_of, shards_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from seq_ml.business import Business
    from seq_ml.storage.tables import TableStore

USERS_A_SHARD = 10_000
"""Users whose candidates and features are held at a time: bounds memory, however many there are."""
SMALL = ("behaviour", "prices", "orders", "shards")
"""What is kept of data that the next step reads again: small, and nearly every task asks for it."""
READ = (*schema.INPUT_TABLES.values(), schema.AD_PREDICTIONS, schema.USER_PROFILES,
        schema.USER_EMBEDDINGS, schema.SEQUENCE_PREDICTIONS)  # fmt: skip
"""The tables that `TaskData` holds."""
AD_DECISION_COLUMNS = ("user_id", "campaign_id", "as_of", "decision", "propensity")


def load_task_data(
    tables: TableStore,
    business: Business,
    work: Path,
    *,
    encoder: SequenceModel | None,
    seed: int,
) -> TaskData:
    """Collect what every task may read; reference tables that nobody dropped are empty."""
    try:
        periods = cutoffs.recorded(tables).periods(business)
    except KeyError:  # no run chose its cut-offs yet
        periods = choose_periods(business)
    local = local_events(tables, work)
    rates = tables.scan_or_empty(schema.EXCHANGE_RATES).collect()
    events = in_own_currency(local.everything, rates, business.currency)
    files = local.shards
    if events is not local.everything:  # somebody paid in another currency
        files = tuple(in_own_currency(shard, rates, business.currency) for shard in files)
    return TaskData(
        events=events,
        files=files if len(files) > 1 else (),
        items=tables.scan_or_empty(schema.ITEMS).collect(),
        campaigns=tables.scan_or_empty(schema.CAMPAIGNS).collect(),
        campaign_items=tables.scan_or_empty(schema.CAMPAIGN_ITEMS).collect(),
        promotions=tables.scan_or_empty(schema.PROMOTIONS),
        business=business,
        periods=periods,
        stock=tables.scan_or_empty(schema.STOCK).collect(),
        encoder=encoder,
        seed=seed,
        ad_decisions=open_ad_decisions(tables),
        profiles=tables.scan_or_empty(schema.USER_PROFILES),
        embeddings=tables.scan_or_empty(schema.USER_EMBEDDINGS),
        predictions=tables.scan_or_empty(schema.SEQUENCE_PREDICTIONS),
        subscriptions=tables.scan_or_empty(schema.SUBSCRIPTIONS)
        .with_columns(price=if_own("price", business.currency))
        .collect(),
    )


def open_ad_decisions(tables: TableStore) -> pl.LazyFrame:
    """Scan the published decisions of all snapshots where there was something to decide.

    That is where a contact had a chance: neither before the campaign nor after a contact. Columns:
    AD_DECISION_COLUMNS.
    """
    decided = tables.scan_or_empty(schema.AD_PREDICTIONS).select(AD_DECISION_COLUMNS)
    return decided.filter(pl.col("propensity") > 0)


class Loaded:
    """What the steps of a run read, one after the other: once for each state of the tables."""

    def __init__(self) -> None:
        self._data: dict[str | None, tuple[Any, TaskData]] = {}

    def load(
        self,
        tables: TableStore,
        business: Business,
        work: Path,
        *,
        encoder: SequenceModel | None,
        seed: int,
    ) -> TaskData:
        """Return what `load_task_data` does, or what it did where no table has changed since."""
        version, state = None if encoder is None else encoder.version, _state(tables)
        self._data = {key: data for key, data in self._data.items() if data[0] == state}
        for _, data in self._data.values():
            for name in [name for name in data.kept if name[0] not in SMALL]:
                del data.kept[name]  # it may be large: that of one step at a time
        if version not in self._data:
            data = load_task_data(tables, business, work, encoder=encoder, seed=seed)
            self._data[version] = state, data
        return self._data[version][1]


def _state(tables: TableStore) -> list[Any]:
    """Return what `load_task_data` reads: the cut-offs, and the version of each table."""
    state: list[Any] = []
    with suppress(KeyError):  # no run chose its cut-offs yet
        state.append(cutoffs.recorded(tables))
    for table in READ:
        with suppress(KeyError):
            state.append((table.name, tables.version(table.name)))
    return state


class SequenceModel(Protocol):
    """What tasks need of the encoder; it never sees an event at or after the given `as_of`."""

    version: str
    fitted_before: datetime

    def user_embeddings(
        self, events: pl.LazyFrame, as_of: datetime
    ) -> tuple[list[str], NDArray[np.float32]]:
        """Return user ids and their vectors [users, dim] from events strictly before `as_of`."""
        ...

    def item_scores(
        self, events: pl.LazyFrame, as_of: datetime, user_ids: Sequence[str]
    ) -> tuple[list[str], NDArray[np.float32]]:
        """Return the vocabulary's item ids and logits [users, items], higher is likelier."""
        ...


@dataclass(frozen=True)
class TaskData:
    """What every task may read. Frames have the schemas of `seq_ml.schema`."""

    events: pl.LazyFrame
    """Amounts are in the currency of the business, null where they have no rate to it."""
    items: pl.DataFrame
    campaigns: pl.DataFrame
    campaign_items: pl.DataFrame
    promotions: pl.LazyFrame
    business: Business
    periods: Periods = GROCER
    """Windows and horizons; what the business sets holds even where none are given."""
    stock: pl.DataFrame = field(default_factory=lambda: _empty(schema.STOCK).collect())
    encoder: SequenceModel | None = None
    seed: int = 7
    ad_decisions: pl.LazyFrame = field(
        default_factory=lambda: _empty(schema.AD_PREDICTIONS).select(AD_DECISION_COLUMNS)
    )
    """Published decisions about campaigns, of all snapshots where a contact had a chance."""
    profiles: pl.LazyFrame = field(default_factory=lambda: _empty(schema.USER_PROFILES))
    """Published profiles, of all snapshots."""
    embeddings: pl.LazyFrame = field(default_factory=lambda: _empty(schema.USER_EMBEDDINGS))
    """The current encoder's vector of each user, at the cut-off that they were made for."""
    predictions: pl.LazyFrame = field(default_factory=lambda: _empty(schema.SEQUENCE_PREDICTIONS))
    """What the sequence model foresaw at the origins that tasks ask about (`foretold`)."""
    subscriptions: pl.DataFrame = field(
        default_factory=lambda: _empty(schema.SUBSCRIPTIONS).collect()
    )
    """Prices are null where they are in another currency than the business's."""
    files: tuple[pl.LazyFrame, ...] = ()
    """`events` by user, file n of N those of `shard_of(N) == n`; none where they lie together."""
    cut: int = 0
    """Into how many shards the users are cut; 0: into as many as there are users for."""
    whole: TaskData | None = None
    """The data of everybody, where these are of some users."""
    plans: dict[str, tuple[pl.LazyFrame, pl.DataFrame]] = field(
        default_factory=dict, repr=False, compare=False
    )
    """What was read of `promotions`; `replace` hands it on, as a plan is the same at any instant.
    """
    kept: dict[Any, Any] = field(default_factory=dict, init=False, repr=False, compare=False)
    """What a task read of these data and another one would read again; other data begin anew."""

    def __post_init__(self) -> None:
        """Let a business that sets windows have them where nobody chose `periods`."""
        if self.periods == GROCER:
            object.__setattr__(self, "periods", choose_periods(self.business))

    def where(self, rows: pl.Expr) -> TaskData:
        """Return the data with these rows of the events alone; users stay in their shards."""
        files = tuple(events.filter(rows) for events in self.files)
        return replace(self, events=self.events.filter(rows), files=files, cut=self.shard_count)

    def of(self, users: pl.Series) -> TaskData:
        """Return the data of these users alone; they know the `whole`, as a shard does."""
        ours, events = pl.col("user_id").is_in(users.implode()), self.events
        if self.files and len(users):  # the files of others are not read
            shards = users.to_frame("user_id").select(shard_of(len(self.files)).unique().sort())
            events = pl.concat([self.files[place] for place in shards.to_series()])
        return replace(self, events=events.filter(ours), **self._theirs(ours))

    def held(self) -> TaskData:
        """Return the same data with the events in memory, where they are read many times."""
        return replace(self, events=self.events.collect().lazy(), files=())

    def shards(self) -> Iterator[TaskData]:
        """Yield the data of USERS_A_SHARD users or less at a time, of everybody once.

        A shard knows the `whole`: statistics of everybody are taken from there, `once`.
        """
        count = self.shard_count
        for number in range(count):
            yield self._of(count, range(number, number + 1))

    def some(self, users: int) -> TaskData:
        """Return the data of about so many of all users, the same ones every time; of all if fewer.

        Pseudonyms are keyed hashes: what is drawn by them is drawn at random.
        """
        whole = self.whole or self
        wanted = range(min(-(-users // USERS_A_SHARD), whole.shard_count))
        some: TaskData = whole.keep(
            ("some", wanted), lambda data: data._of(data.shard_count, wanted)
        )
        return some

    def others(self, users: int) -> TaskData:
        """Return the data of about so many of all users, others than those of `some` if enough."""
        whole, wanted = self.whole or self, -(-users // USERS_A_SHARD)
        count = whole.shard_count
        return whole._of(count, range(max(count - wanted, 0), count))

    def keep(self, key: tuple[Any, ...], make: Callable[[TaskData], Any]) -> Any:
        """Return what `make` reads of these data, made once. key: begins with its name."""
        if key not in self.kept:
            self.kept[key] = make(self)
        return self.kept[key]

    def once(self, key: tuple[Any, ...], make: Callable[[TaskData], Any]) -> Any:
        """Return what `make` reads of everybody's data: small, and made once for all shards."""
        return (self.whole or self).keep(key, make)

    def plan(self, key: str, make: Callable[[pl.LazyFrame], pl.DataFrame]) -> pl.DataFrame:
        """Return what `make` reads of these promotions, made once."""
        if key not in self.plans or self.plans[key][0] is not self.promotions:
            self.plans[key] = self.promotions, make(self.promotions)
        return self.plans[key][1]

    @property
    def shard_count(self) -> int:
        """Into how many shards the users are cut."""
        return self.cut or int(self.keep(("shards",), TaskData._counted))

    def _counted(self) -> int:
        first, files = (self.files or (self.events,))[0], max(len(self.files), 1)
        users = first.select(pl.col("user_id").n_unique()).collect(engine="streaming").item()
        return max(shards_of(files * users, USERS_A_SHARD), files)

    def _of(self, count: int, numbers: range) -> TaskData:
        """Return the data of these of `count` shards."""
        if len(numbers) == count:
            return self
        files = self.files or (self.events,)
        chosen = [files[place] for place in sorted({n % len(files) for n in numbers})]
        events = pl.concat(chosen) if len(chosen) > 1 else chosen[0]
        ours = shard_of(count).is_between(numbers[0], numbers[-1])
        if count > len(files):
            events = events.filter(ours)
        return replace(self, events=events, **self._theirs(ours))

    def _theirs(self, ours: pl.Expr) -> dict[str, Any]:
        """Return the fields, beside the events, that differ in the data of some users."""
        return {
            "files": (),
            "whole": self.whole or self,
            "ad_decisions": self.ad_decisions.filter(ours),
            "predictions": self.predictions.filter(ours),
            "subscriptions": self.subscriptions.filter(ours),
        }

    def stock_known(self, as_of: datetime) -> pl.DataFrame:
        """Return the newest count before `as_of` of each item and store; no rows when unknown."""
        return (
            self.stock.filter(pl.col("counted_at") < as_of)
            .sort("counted_at")
            .unique(["item_id", "store_id"], keep="last", maintain_order=True)
        )

    def terms_known(self, as_of: datetime) -> pl.DataFrame:
        """Return the terms that began before `as_of`, each by its newest row known then.

        A later cancellation is not known yet.
        """
        known_at, notice = pl.coalesce("known_at", "started_at"), pl.col("cancelled_at")
        return (
            self.subscriptions.filter(pl.max_horizontal(known_at, "started_at") < as_of)
            .sort(known_at)
            .unique(["user_id", "subscription_id", "started_at"], keep="last", maintain_order=True)
            .with_columns(cancelled_at=pl.when(notice < as_of).then(notice))
        )

    def events_before(self, as_of: datetime, *, days: float | None = None) -> pl.LazyFrame:
        """Events strictly before `as_of`, on request only the last `days` days."""
        events = self.events.filter(pl.col("event_time") < as_of)
        if days is not None:
            events = events.filter(pl.col("event_time") >= as_of - timedelta(days=days))
        return events

    def events_between(self, start: datetime, end: datetime) -> pl.LazyFrame:
        """Events in [start, end): the label side of an example."""
        return self.events.filter((pl.col("event_time") >= start) & (pl.col("event_time") < end))

    def items_known(self, as_of: datetime) -> pl.DataFrame:
        """Return the catalogue as it was known before `as_of`: the newest row of each item."""
        return (
            self.items.filter(pl.col("valid_from") < as_of)
            .sort("valid_from")
            .unique("item_id", keep="last", maintain_order=True)
        )


def _empty(table: schema.Table) -> pl.LazyFrame:
    return pl.LazyFrame(schema=table.polars_schema())
