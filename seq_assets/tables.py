"""Stage tables: what the champions predict, as the tables that people read."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import dagster as dg

from seq_assets import partitions
from seq_assets.checks import refuse
from seq_assets.metadata import OWNERS, bar_chart, column_schema, sample
from seq_assets.resources import INPUTS, Storage, task_data
from seq_ml import schema
from seq_ml.tasks.registered import filled_by, task_tables

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path

    import polars as pl

    from seq_ml.tables.states import State

MADE_OF = {schema.NEXT_BASKETS.name: schema.RECOMMENDATIONS.name}
"""Tables whose step truly needs another table of the same run."""


@dataclass(frozen=True)
class Snapshot:
    """The rows of a table as of an instant, and what is to be said of them.

    parts: the rows as `seq_ml.tables.publish.checked` returns them; no two parts share a key.
    plot: column whose distribution is drawn. lacks: what the rows should speak of and do not, by
    name. missing: why a task predicted nothing, by task; failed: the error of one that should have.
    needs: what the logs must hold for any row. caveats: of which tasks a baseline speaks,
    as no model could be fitted, and whose probabilities are scores.
    """

    parts: "list[pl.LazyFrame]"
    plot: str
    needs: str
    lacks: dict[str, int] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    failed: dict[str, Exception] = field(default_factory=dict)
    caveats: list[str] = field(default_factory=list)


Make = Callable[[dg.AssetExecutionContext, Storage, "datetime"], Snapshot]


@dataclass(frozen=True)
class Made:
    """What a table's step materializes.

    rows: how many. without: what they are without ("": nothing). failed: the errors of tasks that
    should have filled it. caveats: as in `Snapshot`.
    """

    result: dg.MaterializeResult
    rows: int
    without: str
    failed: dict[str, Exception] = field(default_factory=dict)
    caveats: list[str] = field(default_factory=list)


def contract_checks(name: str) -> list[dg.AssetCheckSpec]:
    """Return the checks of a published table."""
    return [
        dg.AssetCheckSpec(
            "contract",
            asset=name,
            blocking=True,
            description="Columns, types, allowed values and the key fit the contract; rows that "
            "do not are never written.",
        ),
        dg.AssetCheckSpec(
            "coverage", asset=name, description="Every user, item or campaign that should be there."
        ),
    ]


def _asset_of(table: schema.Table, *deps: str) -> Callable[[Make], dg.AssetsDefinition]:
    """Return the decorator of what makes a table's snapshot: it is checked, published and told."""

    def decorate(make: Make) -> dg.AssetsDefinition:
        @dg.asset(
            name=table.name,
            group_name="tables",
            owners=OWNERS,
            kinds={"delta"},
            deps=[*deps, *INPUTS],
            op_tags=partitions.THEN_TABLES if deps else partitions.COUNTED_FIRST,
            output_required=False,
            description=table.description,
            metadata=column_schema(table),
            check_specs=contract_checks(table.name),
        )
        def published(
            context: dg.AssetExecutionContext, storage: Storage
        ) -> Iterator[dg.MaterializeResult | dg.AssetCheckResult]:
            def snapshot(as_of: "datetime") -> Made:
                try:
                    made = make(context, storage, as_of)
                    result, rows = _publish(storage, table, made, as_of)
                    return Made(result, rows, _smaller(made, table), made.failed, made.caveats)
                finally:  # rows of people: they stay in the bucket alone
                    shutil.rmtree(_folder(storage, table), ignore_errors=True)

            yield from told(context, storage, table, snapshot)

        return published

    return decorate


def _folder(storage: Storage, table: schema.Table) -> "Path":
    """Return where the rows of a table lie until they are published."""
    return storage.work / "predicted" / table.name


def told(
    context: dg.AssetExecutionContext,
    storage: Storage,
    table: schema.Table,
    make: "Callable[[datetime], Made]",
) -> Iterator[dg.MaterializeResult | dg.AssetCheckResult]:
    """Do what makes a table as of an instant, and record what became of it."""
    from seq_ml.sequences import cutoffs
    from seq_ml.storage.contracts import SchemaError
    from seq_ml.tasks.task import NotEnoughHistoryError

    as_of: datetime | None = None
    try:
        as_of = cutoffs.recorded(storage.tables).as_of
        made = make(as_of)
    except NotEnoughHistoryError as reason:
        _tell(context, storage, table, as_of, "refused", str(reason))
        yield from refuse(context, str(reason), unmet=["coverage"])
        return
    except Exception as error:  # told, and raised again
        _tell(context, storage, table, as_of, "failed", f"{type(error).__name__}: {error}")
        if isinstance(error, SchemaError):
            yield dg.AssetCheckResult(
                check_name="contract", passed=False, metadata={"problem": str(error)}
            )
        raise
    state: State = "smaller" if made.without else "published"
    why = "; ".join(filter(None, [made.without, *made.caveats]))
    _tell(context, storage, table, as_of, state, why, made.rows)
    yield made.result
    _raise_failed(made.failed)


def _tell(
    context: dg.AssetExecutionContext,
    storage: Storage,
    table: schema.Table,
    as_of: "datetime | None",
    state: "State",
    why: str,
    rows: int = 0,
) -> None:
    """Record what became of a table, and of those that cannot be made without it."""
    from seq_ml.tables.states import TableState, record

    why = why.removeprefix(f"{table.name}: ")
    now = TableState(table.name, as_of, state, context.run_id, why, rows)
    if rows:
        context.log.info("%s: %s", table.name, now)
    record(storage.objects, now)
    if not rows:
        for name in (name for name, of in MADE_OF.items() if of == table.name):
            reason = f"it is made of {table.name}, which was {state}: {why}"
            record(storage.objects, TableState(name, as_of, "refused", context.run_id, reason))


def _raise_failed(failed: dict[str, Exception]) -> None:
    """Raise what stopped tasks of the table, if any: the step failed, whatever it published."""
    from seq_ml.tables.predict import TasksFailedError

    if failed:
        raise TasksFailedError(failed) from next(iter(failed.values()))


def _smaller(made: Snapshot, table: schema.Table) -> str:
    """Say what a snapshot is without; an empty text where nothing is missing."""
    import polars as pl

    from seq_ml.tables.predict import TasksFailedError
    from seq_ml.tables.publish import empty_columns

    said = [f"failed: {TasksFailedError(made.failed)}"] if made.failed else []
    said += [reason.removesuffix(".") for reason in made.missing.values()]
    if empty := empty_columns(pl.concat(made.parts), table):
        said.append(f"no row has a value in {empty}")
    return "; ".join(said)


def _publish(
    storage: Storage, table: schema.Table, made: Snapshot, as_of: "datetime"
) -> tuple[dg.MaterializeResult, int]:
    """Write the snapshot; report, and count its rows.

    Where it has no row it raises the errors of its tasks, else NotEnoughHistoryError.
    """
    import polars as pl

    from seq_ml.tables.publish import publish_snapshot
    from seq_ml.tasks.task import NotEnoughHistoryError

    rows = pl.concat(made.parts) if made.parts else pl.LazyFrame(schema=table.polars_schema())
    counted = rows.group_by("source").agg(count=pl.len()).sort("count", descending=True)
    sources = counted.collect(engine="streaming")
    if sources.is_empty():
        _raise_failed(made.failed)
        raise NotEnoughHistoryError(
            "; ".join(made.missing.values())
            or f"nothing to say as of {as_of:%Y-%m-%d}: there are no {made.needs}"
        )
    version = publish_snapshot(storage.tables, table, made.parts, as_of)
    values = rows.select(pl.col(made.plot).drop_nulls().cast(pl.Float64)).collect().to_series()
    bars = values.hist(bin_count=40) if values.len() else None
    count = int(sources["count"].sum())
    metadata: dict[str, Any] = {
        "dagster/row_count": count,
        "as_of": as_of.isoformat(),
        "delta_version": version,
        "uri": storage.tables.uri(table.name),
        "bytes": storage.tables.size(table.name),
        "sources": sample(sources, rows=10),
        "sample": sample(made.parts[0].head(5).collect()),
        **{f"without_{task}": reason for task, reason in made.missing.items()},
    }
    if bars is not None:
        metadata["distribution"] = bar_chart(
            bars["count"].to_list(),
            [f"{edge:.3g}" for edge in bars["breakpoint"]],
            f"Rows by {made.plot}",
        )
    result: dg.MaterializeResult = dg.MaterializeResult(
        metadata=metadata,
        check_results=[
            dg.AssetCheckResult(check_name="contract", passed=True),
            dg.AssetCheckResult(
                check_name="coverage",
                passed=not any(made.lacks.values()),
                severity=dg.AssetCheckSeverity.WARN,
                metadata={f"missing_{what}": count for what, count in made.lacks.items()},
            ),
        ],
    )
    return result, count


def _table_asset(table: schema.Table) -> dg.AssetsDefinition:
    entries = filled_by(table.name)
    champions = [f"{entry.name}_champion" for entry in entries]
    read = [asset for entry in entries for asset in entry.reads]

    @_asset_of(table, "current_encoder", "foreseen", *champions, *read)
    def predicted(
        context: dg.AssetExecutionContext, storage: Storage, as_of: "datetime"
    ) -> Snapshot:
        import polars as pl

        from seq_ml.tables.predict import caveats, predict_table
        from seq_ml.tables.publish import lacking

        data_for = partial(task_data, storage)
        made = predict_table(
            storage.objects, table, data_for, as_of, context.run_id, _folder(storage, table)
        )
        lacks = {}
        if made.parts:
            lacks = lacking(pl.concat(made.parts), table, data_for(None), as_of)
        entry, said = entries[0], caveats(storage.objects, table.name)
        return Snapshot(made.parts, entry.plot, entry.needs, lacks, made.missing, made.failed, said)

    return predicted


TABLES = [_table_asset(table) for table in task_tables().values()]


@_asset_of(schema.ITEM_TO_ITEM)
def item_to_item(
    context: dg.AssetExecutionContext, storage: Storage, as_of: "datetime"
) -> Snapshot:
    """Count the company of every item; its check is in the report of the recommendations."""
    from seq_ml.tables.publish import checked, stamp
    from seq_ml.tasks.behaviour.assortment import read_assortment, read_sales, shelves
    from seq_ml.tasks.behaviour.visits import merchandise_bought
    from seq_ml.tasks.item_to_item import rows as company
    from seq_ml.tasks.task import check_conversions

    data = task_data(storage, None)
    check_conversions(data, as_of, schema.ITEM_TO_ITEM.name, items=True)
    bought = (merchandise_bought(shard, as_of) for shard in data.shards())
    sales = read_sales(data, as_of)
    range_ = read_assortment(sales, data, as_of)
    rows = company.lists_beside(bought, sales.items, range_, shelves(data, as_of)).with_columns(
        rests_on=company.rests_on(data.periods)
    )
    rows = stamp(rows, as_of, "counted", "co-purchases", context.run_id)
    needs = f"items in {company.MIN_BASKETS} baskets, of the catalogue, with others beside them"
    return Snapshot([checked(rows, schema.ITEM_TO_ITEM).lazy()], "score", needs)


@_asset_of(schema.NEXT_BASKETS, MADE_OF[schema.NEXT_BASKETS.name])
def next_baskets(
    context: dg.AssetExecutionContext, storage: Storage, as_of: "datetime"
) -> Snapshot:
    """Name the first items of the recommendations as the next basket, its size and its day."""
    import polars as pl

    from seq_ml.tables import coverage
    from seq_ml.tables.baskets import predict_baskets

    data = task_data(storage, None)
    folder = _folder(storage, schema.NEXT_BASKETS)
    parts = predict_baskets(storage.tables, data, as_of, context.run_id, folder)
    lacks = coverage.users(pl.concat(parts), data, as_of) if parts else {}
    return Snapshot(parts, "score", "recommendations", lacks)
