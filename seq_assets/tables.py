"""Stage tables: what the champions predict, as the tables that people read."""

from functools import partial
from typing import TYPE_CHECKING, Any

import dagster as dg

from seq_assets import partitions
from seq_assets.metadata import OWNERS, bar_chart, column_schema, sample
from seq_assets.resources import INPUTS, Storage, task_data
from seq_ml import schema
from seq_ml.tasks.registered import filled_by, task_tables

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    import polars as pl


def contract_checks(name: str) -> list[dg.AssetCheckSpec]:
    """Return the checks of a published table, whose results `publish` gives."""
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


def _asset_of(
    table: schema.Table, *deps: str
) -> "Callable[[Callable[..., dg.MaterializeResult]], dg.AssetsDefinition]":
    """Return the decorator of the function that publishes a table."""
    return dg.asset(
        name=table.name,
        group_name="tables",
        owners=OWNERS,
        kinds={"delta"},
        deps=[*deps, *INPUTS],
        op_tags=partitions.THEN_TABLES,
        description=table.description,
        metadata=column_schema(table),
        check_specs=contract_checks(table.name),
    )


def _table_asset(table: schema.Table) -> dg.AssetsDefinition:
    entries = filled_by(table.name)

    champions = [f"{entry.name}_champion" for entry in entries]
    read = [asset for entry in entries for asset in entry.reads]

    @_asset_of(table, "current_encoder", *champions, *read)
    def published(context: dg.AssetExecutionContext, storage: Storage) -> dg.MaterializeResult:
        from seq_ml.sequences import cutoffs
        from seq_ml.tables.publish import lacking, predict_table

        as_of = cutoffs.recorded(storage.tables).as_of
        rows, missing = predict_table(
            storage.objects,
            table.name,
            partial(task_data, storage),
            as_of,
            run_id=context.run_id,
        )
        for task, reason in missing.items():
            context.log.warning("%s predicts nothing: %s", task, reason)
        lacks = lacking(rows, table, task_data(storage, None), as_of)
        plot = entries[0].plot
        return publish(storage, table, rows, as_of, plot=plot, lacks=lacks, missing=missing)

    return published


def publish(
    storage: Storage,
    table: schema.Table,
    rows: "pl.DataFrame",
    as_of: "datetime",
    *,
    plot: str,
    lacks: dict[str, int],
    missing: dict[str, str] | None = None,
) -> dg.MaterializeResult:
    """Check the rows of a snapshot, write them only if they fit, and report.

    plot: column whose distribution is drawn. lacks: what the rows should speak of and do not, by
    name. missing: why a task predicted nothing, by task. Goes with `contract_checks`.
    """
    import polars as pl

    from seq_ml.tables.publish import contract_problem, publish_snapshot

    if problem := contract_problem(rows, table):
        return dg.MaterializeResult(
            metadata={"not_published": problem},
            check_results=[
                dg.AssetCheckResult(
                    check_name="contract", passed=False, metadata={"problem": problem}
                ),
                dg.AssetCheckResult(check_name="coverage", passed=False),
            ],
        )
    version = publish_snapshot(storage.tables, table, rows, as_of)
    values = rows[plot].drop_nulls().cast(pl.Float64)
    bars = values.hist(bin_count=40) if values.len() else None
    metadata: dict[str, Any] = {
        "dagster/row_count": rows.height,
        "as_of": as_of.isoformat(),
        "delta_version": version,
        "uri": storage.tables.uri(table.name),
        "bytes": storage.tables.size(table.name),
        "sources": sample(rows["source"].value_counts(sort=True), rows=10),
        "sample": sample(rows),
        **{f"without_{task}": reason for task, reason in (missing or {}).items()},
    }
    if bars is not None:
        metadata["distribution"] = bar_chart(
            bars["count"].to_list(),
            [f"{edge:.3g}" for edge in bars["breakpoint"]],
            f"Rows by {plot}",
        )
    return dg.MaterializeResult(
        metadata=metadata,
        check_results=[
            dg.AssetCheckResult(check_name="contract", passed=True),
            dg.AssetCheckResult(
                check_name="coverage",
                passed=not any(lacks.values()),
                severity=dg.AssetCheckSeverity.WARN,
                metadata={f"missing_{what}": count for what, count in lacks.items()},
            ),
        ],
    )


TABLES = [_table_asset(table) for table in task_tables().values()]


@_asset_of(schema.ITEM_TO_ITEM)
def item_to_item(context: dg.AssetExecutionContext, storage: Storage) -> dg.MaterializeResult:
    """Count the company of every item; its check is in the report of the recommendations."""
    from seq_ml.sequences import cutoffs
    from seq_ml.tables.publish import stamp
    from seq_ml.tasks.behaviour.assortment import read_assortment, shelves
    from seq_ml.tasks.behaviour.visits import merchandise_bought
    from seq_ml.tasks.item_to_item import rows as company

    as_of = cutoffs.recorded(storage.tables).as_of
    data = task_data(storage, None)
    bought = merchandise_bought(data, as_of)
    range_ = read_assortment(bought, data, as_of)
    rows = company.lists_beside(bought, range_, shelves(data, as_of))
    rows = stamp(rows, as_of, version="counted", source="co-purchases", run_id=context.run_id)
    return publish(storage, schema.ITEM_TO_ITEM, rows, as_of, plot="score", lacks={})


@_asset_of(schema.NEXT_BASKETS, "recommendations")
def next_baskets(context: dg.AssetExecutionContext, storage: Storage) -> dg.MaterializeResult:
    """Name the first items of the recommendations as the next basket, its size and its day."""
    import polars as pl

    from seq_ml.sequences import cutoffs
    from seq_ml.tables import coverage
    from seq_ml.tables.publish import stamp
    from seq_ml.tasks.behaviour.visits import merchandise_bought
    from seq_ml.tasks.next_baskets import rows as baskets

    as_of = cutoffs.recorded(storage.tables).as_of
    data = task_data(storage, None)
    published = storage.tables.scan_or_empty(schema.RECOMMENDATIONS)
    recommended = published.filter(pl.col("as_of") == as_of).collect()
    bought = merchandise_bought(data, as_of)
    rows = baskets.next_baskets(recommended, bought, as_of, data.business, data.periods)
    versions = recommended["model_version"].unique().sort()
    version = versions[0] if len(versions) else "none"
    rows = stamp(rows, as_of, version=version, source="", run_id=context.run_id)
    # users are lacking only where the recommendations, which have a check of their own, lack them
    lacks = coverage.users(rows, data, as_of) if rows.height else {}
    return publish(storage, schema.NEXT_BASKETS, rows, as_of, plot="score", lacks=lacks)
