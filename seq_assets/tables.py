"""Stage tables: what the champions predict, as the tables that people read."""

from typing import TYPE_CHECKING, Any

import dagster as dg

from seq_assets.metadata import OWNERS, bar_chart, column_schema, sample
from seq_assets.resources import Storage
from seq_assets.tasks import INPUTS, task_data
from seq_ml import schema
from seq_ml.tables.tasks import filled_by, task_tables

if TYPE_CHECKING:
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


def _table_asset(table: schema.Table) -> dg.AssetsDefinition:
    name = table.name
    plot = filled_by(name)[0].plot

    @dg.asset(
        name=name,
        group_name="tables",
        owners=OWNERS,
        kinds={"delta"},
        deps=["champion", *INPUTS],
        description=table.description,
        metadata=column_schema(table),
        check_specs=contract_checks(name),
    )
    def published(context: dg.AssetExecutionContext, storage: Storage) -> dg.MaterializeResult:
        from seq_ml.registry.rounds import champion_encoder
        from seq_ml.sequences import cutoffs
        from seq_ml.tables.publish import lacking, predict_table

        as_of = cutoffs.recorded(storage.tables).as_of
        rows, missing = predict_table(
            storage.objects,
            name,
            lambda task: task_data(storage, champion_encoder(storage.objects, task)),
            as_of,
            run_id=context.run_id,
        )
        for task, reason in missing.items():
            context.log.warning("%s fills no rows: %s", task, reason)
        lacks = lacking(rows, table, task_data(storage, None), as_of)
        return publish(storage, table, rows, as_of, plot=plot, lacks=lacks, missing=missing)

    return published


@dg.asset(
    group_name="tables",
    owners=OWNERS,
    kinds={"delta"},
    deps=["user_embeddings", "champion", *INPUTS],
    description=schema.USER_PROFILES.description,
    metadata=column_schema(schema.USER_PROFILES),
    check_specs=contract_checks("user_profiles"),
)
def user_profiles(context: dg.AssetExecutionContext, storage: Storage) -> dg.MaterializeResult:
    """Describe each user: RFM, segment, tags with evidence, vector, anomaly."""
    from seq_ml.sequences import cutoffs
    from seq_ml.tables import coverage
    from seq_ml.tables.publish import previous_profiles, stamp
    from seq_ml.tasks import profiles

    as_of = cutoffs.recorded(storage.tables).as_of
    data = task_data(storage)
    rows = profiles.user_profiles(
        data,
        as_of,
        previous_profiles(storage.tables, as_of),
        storage.tables.scan("user_embeddings").filter(as_of=as_of).collect(),
    )
    encoder = data.encoder.version if data.encoder else "none"
    rows = stamp(rows, as_of, version=encoder, source="rules", run_id=context.run_id)
    lacks = coverage.users(rows, data, as_of)
    return publish(storage, schema.USER_PROFILES, rows, as_of, plot="spend_91d", lacks=lacks)


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
    name. missing: why a task filled no rows, by task. Goes with `contract_checks`.
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
