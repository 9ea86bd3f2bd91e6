"""Stage clean: staged rows become validated days; what cannot be used is set aside."""

from collections.abc import Iterator
from datetime import date
from typing import Any

import dagster as dg

from seq_assets import partitions
from seq_assets.checks import quarantine_check, quarantine_spec
from seq_assets.ingest import drop_ledger
from seq_assets.metadata import OWNERS, bar_chart, column_schema, sample
from seq_assets.partitions import DAYS
from seq_assets.resources import Storage
from seq_ml import schema
from seq_ml.storage.layout import DOCS_PREFIX

CLEAN_EVENTS = dg.AssetKey("clean_events")


def _spec(table: schema.Table, *deps: Any) -> dg.AssetSpec:
    return dg.AssetSpec(
        table.name,
        deps=deps,
        description=table.description,
        group_name="clean",
        owners=OWNERS,
        kinds={"delta", "polars"},
        metadata=column_schema(table),
    )


@dg.multi_asset(
    name="clean_and_validate",
    specs=[_spec(schema.EVENTS, drop_ledger)],
    partitions_def=DAYS,
    backfill_policy=dg.BackfillPolicy.single_run(),
    pool=partitions.INGEST,
    check_specs=[
        dg.AssetCheckSpec(
            "expectations",
            asset=CLEAN_EVENTS,
            blocking=True,
            description="Great Expectations hold on every day; a day that fails is not published.",
        ),
        dg.AssetCheckSpec(
            "nothing_lost",
            asset=CLEAN_EVENTS,
            blocking=True,
            description="rows read = kept + duplicates + quarantined, for every day.",
        ),
        quarantine_spec("clean_events"),
        dg.AssetCheckSpec(
            "drift",
            asset=CLEAN_EVENTS,
            blocking=False,
            description="Volume, mix, missing values and prices are as in the four weeks before.",
        ),
    ],
)
def clean_days(
    context: dg.AssetExecutionContext, storage: Storage
) -> Iterator[dg.MaterializeResult]:
    """Clean, validate and publish the days of this run: one day, or a range in one pass."""
    import polars as pl

    from seq_ml.clean.publish import publish_days
    from seq_ml.clean.quarantine import undeclared_behaviours
    from seq_ml.ingest.ledger import Ledger
    from seq_ml.roles import undeclared
    from seq_ml.settings import home

    days = [date.fromisoformat(key) for key in context.partition_keys]
    docs = home() / DOCS_PREFIX / context.run_id
    since = Ledger(storage.tables).clock()
    published = publish_days(
        storage.tables,
        storage.settings,
        days,
        docs,
        business=storage.business,
        on_progress=context.log.info,
    )
    for name, rows in undeclared_behaviours(storage.tables, days):
        said = undeclared(name, storage.business.roles)
        context.log.warning("%s rows are set aside: %s", f"{rows:,}", said)
    docs_url = dg.MetadataValue.url(
        f"{storage.settings.site_url}/data_docs/{context.run_id}/001/index.html"
    )
    counts = published.counts
    for row in counts.to_dicts():
        context.add_asset_metadata(
            {
                "dagster/partition_row_count": row["rows_kept"],
                "rows_read": row["rows_read"],
                "rows_quarantined": row["rows_quarantined"],
            },
            asset_key="clean_events",
            partition_key=row["event_date"].isoformat(),
        )
    lost = counts.filter(
        pl.col("rows_read")
        != pl.col("rows_kept") + pl.col("rows_duplicate") + pl.col("rows_quarantined")
    )
    failures = [one for day in published.failed for one in published.verdicts[day].failed]
    drift = [one for _, result in sorted(published.verdicts.items()) for one in result.drift]
    rejected = (
        storage.tables.scan("quarantined_events")
        .filter(pl.col("event_date").is_in(days))
        .group_by("table", "rule", "column")
        .len("rows")
        .sort("rows", descending=True)
        .collect()
    )
    context.log_event(
        dg.AssetMaterialization(
            "quarantined_events",
            metadata={
                "rows_quarantined": int(counts["rows_quarantined"].sum()),
                "by_rule": sample(rejected, rows=20),
            },
        )
    )
    labels = [str(day) for day in counts["event_date"]]
    yield dg.MaterializeResult(
        asset_key="clean_events",
        metadata={
            "days": counts.height,
            **{
                name: int(counts[name].sum())
                for name in ("rows_read", "rows_kept", "rows_duplicate")
            },
            "bytes": storage.tables.size("clean_events"),
            "data_docs": docs_url,
            "by_rule": sample(published.by_rule, rows=50),
            **{f"rule/{rule}": rows for rule, rows in _per_rule(published.by_rule).items()},
        },
        check_results=[
            dg.AssetCheckResult(
                check_name="expectations",
                passed=not failures,
                metadata={
                    "days_failed": len(published.failed),
                    "failures": "\n".join(failures[:20]) or "none",
                    "data_docs": docs_url,
                },
            ),
            dg.AssetCheckResult(
                check_name="nothing_lost",
                passed=lost.is_empty(),
                metadata={"days_with_a_difference": lost.height},
            ),
            quarantine_check(context, storage, "clean_events", "events", since),
            dg.AssetCheckResult(
                check_name="drift",
                passed=not drift,
                severity=dg.AssetCheckSeverity.WARN,
                metadata={
                    "findings": len(drift),
                    "unusual": "\n".join(drift[:20]) or "none",
                    "data_docs": docs_url,
                    # here it is stored once, and with the days as many times as there are days
                    "events_per_day": bar_chart(
                        counts["rows_kept"].to_list(), labels, "Events kept per day"
                    ),
                },
            ),
        ],
    )


QUARANTINED_EVENTS = _spec(schema.QUARANTINED, CLEAN_EVENTS)
"""Written with the clean events; a record for each of its days would cost as much as the days."""


def _per_rule(by_rule: Any) -> dict[str, int]:
    """Return one number per rule, also for those that found nothing, for the UI to plot."""
    from seq_ml.clean.rules.catalogue import CATALOGUE

    totals = {named.name: 0 for named in CATALOGUE}
    for rule, rows in by_rule.select("rule", "rows").rows():
        name = rule.split(":")[0]
        totals[name] = totals.get(name, 0) + rows
    return totals
